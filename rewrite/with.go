package rewrite

import "slices"

// With is m for answers that come from one more origin: its URLs too become those of
// extra.Public, which m may have already. What clients say is mapped as by m. The error is a
// *PairError: a base out of form, or an origin that m has.
func (m *Map) With(extra Pair) (*Map, error) {
	extra = Pair{extra.Public.normal(), extra.Origin.normal()}
	pairs := append(slices.Clone(m.pairs), extra)
	last := len(m.pairs)
	if reason := extra.fault(); reason != "" {
		return nil, &PairError{last, last, reason}
	}
	for i, p := range m.pairs {
		if p.Origin.Authority() == extra.Origin.Authority() {
			return nil, &PairError{last, i, "origin host " + extra.Origin.Authority() + " is in the map"}
		}
	}
	wider := &Map{pairs: pairs, toPublic: newReplacer(pairs), toOrigin: m.toOrigin, rules: m.rules, version: hashMap(pairs, m.rules), memory: m.memory, runtime: m.runtime}
	wider.toPublic.setBack(m.toOrigin)
	return wider, nil
}
