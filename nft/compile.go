package nft

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
)

// ruleset is all of the table, in the order that the kernel gets it.
type ruleset struct {
	counters []string
	declared map[string]bool // the counters
	sets     []*prefixSet
	chains   []*chain
}

// prefixSet is a set of prefixes of one family. Its name has a digest of what is
// in it: a set never changes, so that no packet meets half of one.
type prefixSet struct {
	name, family string
	prefixes     []netip.Prefix
}

// chain is a list of rules; one with a hook is where packets come in.
type chain struct {
	name  string
	hook  *hook
	rules []*rule
}

// hook is where the kernel hands packets to a chain.
type hook struct {
	kind, at, priority string // as nft(8) says them
	hooknum            *nftables.ChainHook
	order              *nftables.ChainPriority
}

// The chains that do not belong to one forward. masquerading is known to
// program, which changes it in two steps.
const (
	listen       = "listen"
	refuse       = "refuse"
	traffic      = "traffic"
	masquerading = "masquerading"
)

var hooks = map[string]*hook{
	"prerouting":  {"nat", "prerouting", "dstnat", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest},
	"output":      {"nat", "output", "-100", nftables.ChainHookOutput, nftables.ChainPriorityNATDest},
	"postrouting": {"nat", "postrouting", "srcnat", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource},
	"through":     {"filter", "forward", "filter", nftables.ChainHookForward, nftables.ChainPriorityFilter},
}

// compile makes the table for forwards, or says all that is wrong with them.
func compile(fs []Forward) (*ruleset, error) {
	fs = normal(fs)
	if err := validate(fs); err != nil {
		return nil, err
	}
	set := &ruleset{declared: map[string]bool{}}
	for i := range fs {
		set.forward(&fs[i])
	}
	set.refusal()
	set.listen(fs)
	set.masquerade(fs)
	set.traffic(fs)
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	set.chain("prerouting", on("", "").jump(listen))
	set.chain("output",
		on("ip", "").within("daddr", false, []netip.Prefix{loopback}).goBack(),
		on("ip6", "").is("daddr", netip.IPv6Loopback()).goBack(),
		on("", "").jump(listen))
	set.chain("postrouting", on("", "").dnatted().jump(masquerading))
	set.chain("through", on("", "").dnatted().jump(traffic))
	return set, nil
}

func (s *ruleset) chain(name string, rules ...*rule) {
	s.chains = append(s.chains, &chain{name, hooks[name], rules})
}

// counter declares a counter of a forward, or of one of its targets, and gives
// its name.
func (s *ruleset) counter(of, what string) string {
	name := of + "/" + what
	if !s.declared[name] {
		s.declared[name] = true
		s.counters = append(s.counters, name)
	}
	return name
}

// forward makes the chains that a new connection to f goes through.
func (s *ruleset) forward(f *Forward) {
	var rules []*rule
	refused := s.counter(f.chain(), "refused")
	for _, family := range []string{"ip", "ip6"} {
		rules = append(rules, s.admit(f, family, refused)...)
		rules = append(rules, f.balance(family)...)
	}
	rules = append(rules, on("", "").count(refused).goTo(refuse))
	for _, t := range f.Targets {
		if t.Weight > 0 {
			s.chain(f.target(t), s.toTarget(f, t)...)
		} else {
			s.counter(f.target(t), "connections") // no rule counts now, and what was counted stays
		}
	}
	s.chain(f.chain(), rules...)
}

// admit refuses the clients of a family that f does not allow.
func (s *ruleset) admit(f *Forward, family, refused string) []*rule {
	if len(f.Allow) == 0 {
		return nil
	}
	var allowed []netip.Prefix
	for _, p := range f.Allow {
		if familyOf(p.Addr()) == family {
			allowed = append(allowed, p)
		}
	}
	switch {
	case len(allowed) == 0:
		return []*rule{on(family, "").spellFamily().count(refused).goTo(refuse)}
	case allowed[0].Bits() == 0:
		return nil
	}
	if len(allowed) == 1 {
		return []*rule{on(family, "").within("saddr", true, allowed).count(refused).goTo(refuse)}
	}
	h := fnv.New64a()
	fmt.Fprint(h, allowed)
	set := &prefixSet{fmt.Sprintf("%s/allow-%s-%016x", f.chain(), family, h.Sum64()), family, allowed}
	s.sets = append(s.sets, set)
	return []*rule{on(family, "").outside(set.name).count(refused).goTo(refuse)}
}

// balance picks a target for the clients of a family.
func (f *Forward) balance(family string) []*rule {
	var targets []Target
	for _, t := range f.Targets {
		if familyOf(t.Addr.Addr()) == family && t.Weight > 0 {
			targets = append(targets, t)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	last := on(family, "").spellFamily().goTo(f.target(targets[len(targets)-1]))
	if len(targets) == 1 {
		return []*rule{last}
	}
	var seed uint32
	shares := byWeight(targets)
	if f.Balance == Hash {
		seed, shares = seedOf(f.Name), byRendezvous(targets)
	}
	var branches []branch
	slot := uint32(0)
	for _, share := range shares {
		branches = append(branches, branch{slot, slot + share.slots - 1, f.target(targets[share.target])})
		slot += share.slots
	}
	// In the moment of a change the rules may still be the old ones and the
	// elements of their map gone: the last rule catches who falls through.
	return []*rule{on(family, "").spread(slot, seed, branches), last}
}

// share is a run of slots for one target.
type share struct {
	target int
	slots  uint32
}

// byWeight gives each target as many slots as it weighs, in lowest terms.
func byWeight(targets []Target) []share {
	divisor := targets[0].Weight
	for _, t := range targets[1:] {
		divisor = commonDivisor(divisor, t.Weight)
	}
	var shares []share
	for i, t := range targets {
		shares = append(shares, share{i, uint32(t.Weight / divisor)})
	}
	return shares
}

func commonDivisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// hashSlots is into how many parts the clients' addresses are hashed. With three
// equal targets their shares differ by some 6 % from a third; twice as many
// slots make it 4 %, and a map of twice the size.
const hashSlots = 512

// byRendezvous gives each slot to the target that scores highest for it (highest
// random weight): a target that goes takes along nobody's clients but its own,
// and gets them back when it returns.
func byRendezvous(targets []Target) []share {
	var shares []share
	for slot := range hashSlots {
		best, most := 0, -1.0
		for i, t := range targets {
			if score := float64(t.Weight) / -math.Log(chance(t.Addr, slot)); score > most {
				best, most = i, score
			}
		}
		if n := len(shares); n > 0 && shares[n-1].target == best {
			shares[n-1].slots++
		} else {
			shares = append(shares, share{best, 1})
		}
	}
	return shares
}

// chance is a number between 0 and 1 that is always the same for a target and a
// slot, on every node.
func chance(target netip.AddrPort, slot int) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, target, slot)
	x := h.Sum64() // FNV alone does not mix enough: the finalizer of splitmix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return (float64(x>>11) + 0.5) / (1 << 53)
}

// seedOf is the seed of a forward's hash: not 0, which is none, and the same for
// ever, or every change would send the clients elsewhere.
func seedOf(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return max(h.Sum32(), 1)
}

// toTarget counts a connection and changes its destination.
func (s *ruleset) toTarget(f *Forward, t Target) []*rule {
	rules := []*rule{on("", "").
		count(s.counter(f.chain(), "connections")).
		count(s.counter(f.target(t), "connections"))}
	if t.Addr.Port() == 0 {
		return append(rules, on("", "").dnat(t.Addr))
	}
	for _, proto := range f.Protocols {
		rules = append(rules, on("", proto).spellProto().dnat(t.Addr))
	}
	return rules
}

// refusal answers as a closed port does.
func (s *ruleset) refusal() {
	s.chain(refuse, on("", "tcp").spellProto().resetTCP(), on("", "").unreachable())
}

// listen finds the forward of a new connection: first those that listen on its
// very address. It is a list, as a map misses in the moment of a change; only
// first packets pay for it, the last of 500 forwards 30 µs (BenchmarkConnect).
func (s *ruleset) listen(fs []Forward) {
	var exact, local []*rule
	for i := range fs {
		f := &fs[i]
		for _, r := range f.Listen {
			for _, proto := range f.Protocols {
				switch {
				case !r.Addr.IsValid():
					local = append(local, on("", proto).dport(r.From, r.To).goTo(f.chain()))
				case r.Addr.IsUnspecified():
					local = append(local, on(familyOf(r.Addr), proto).spellFamily().dport(r.From, r.To).goTo(f.chain()))
				default:
					exact = append(exact, on(familyOf(r.Addr), proto).is("daddr", r.Addr).dport(r.From, r.To).goTo(f.chain()))
				}
			}
		}
	}
	rules := append(exact, on("", "").foreign().goBack())
	s.chain(listen, append(rules, local...)...)
}

// masquerade gives the flows of the forwards that want it this host's address.
// They are known by what the client asked for and by where it goes, so that
// nobody else's translation on this host is met.
func (s *ruleset) masquerade(fs []Forward) {
	var rules []*rule
	for i := range fs {
		f := &fs[i]
		if !f.Masquerade {
			continue
		}
		for _, proto := range f.Protocols {
			for _, r := range f.asked() {
				for _, family := range []string{"ip", "ip6"} {
					if to := f.hosts(family); len(to) > 0 {
						rules = append(rules, on(family, proto).asked(r.From, r.To).within("daddr", false, to).masquerade())
					}
				}
			}
		}
	}
	s.chain(masquerading, rules...)
}

// asked gives the ports that clients ask f for, each range once.
func (f *Forward) asked() []Range {
	var ranges []Range
	for _, r := range f.Listen {
		r.Addr = netip.Addr{}
		if !slices.Contains(ranges, r) {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// hosts gives the addresses of the targets of a family.
func (f *Forward) hosts(family string) []netip.Prefix {
	var hosts []netip.Prefix
	for _, t := range f.Targets {
		if addr := t.Addr.Addr(); familyOf(addr) == family {
			hosts = append(hosts, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return sortedPrefixes(hosts)
}

// traffic counts packets on their way through: by the target's address, then by
// what the client asked for. Both are maps: this is paid for each packet.
func (s *ruleset) traffic(fs []Forward) {
	type spot struct {
		addr  netip.Addr
		proto string
	}
	asked := map[spot][]branch{}
	places := map[string]map[netip.Addr]string{"ip": {}, "ip6": {}}
	for i := range fs {
		f := &fs[i]
		for _, addr := range f.addresses() {
			to := s.countAt(f, addr)
			places[familyOf(addr)][addr] = traffic + "/" + spell(addr)
			for _, proto := range f.Protocols {
				for _, r := range f.Listen {
					at := spot{addr, proto}
					asked[at] = append(asked[at], branch{uint32(r.From), uint32(r.To), to})
				}
			}
		}
	}
	var rules []*rule
	for _, family := range []string{"ip", "ip6"} {
		for _, addr := range sortedAddrs(places[family]) {
			var byPort []*rule
			for _, proto := range []string{"tcp", "udp"} {
				if branches := asked[spot{addr, proto}]; len(branches) > 0 {
					byPort = append(byPort, on("", proto).byAsked(disjoint(branches)))
				}
			}
			s.chain(places[family][addr], byPort...)
		}
		if len(places[family]) > 0 {
			rules = append(rules,
				on(family, "").direction(original).byAddress("daddr", places[family]),
				on(family, "").direction(reply).byAddress("saddr", places[family]))
		}
	}
	s.chain(traffic, rules...)
}

// addresses gives the addresses of f's targets, each once.
func (f *Forward) addresses() []netip.Addr {
	var addrs []netip.Addr
	for _, t := range f.Targets {
		if !slices.Contains(addrs, t.Addr.Addr()) {
			addrs = append(addrs, t.Addr.Addr())
		}
	}
	return addrs
}

// countAt makes the chains that count what goes to f's targets on one address,
// and gives the name of the first.
func (s *ruleset) countAt(f *Forward, addr netip.Addr) string {
	var here []Target
	for _, t := range f.Targets {
		if t.Addr.Addr() == addr {
			here = append(here, t)
		}
	}
	name := func(t Target) string { return traffic + strings.TrimPrefix(f.target(t), "forward") }
	for _, t := range here {
		s.chain(name(t),
			on("", "").direction(original).count(s.counter(f.chain(), "in")).count(s.counter(f.target(t), "in")).goBack(),
			on("", "").count(s.counter(f.chain(), "out")).count(s.counter(f.target(t), "out")))
	}
	if len(here) == 1 {
		return name(here[0])
	}
	var rules []*rule
	for _, t := range here {
		for _, proto := range f.Protocols {
			rules = append(rules,
				on("", proto).direction(original).dport(t.Addr.Port(), t.Addr.Port()).goTo(name(t)),
				on("", proto).direction(reply).sport(t.Addr.Port()).goTo(name(t)))
		}
	}
	several := traffic + "/" + f.Name + "/" + spell(addr)
	s.chain(several, rules...)
	return several
}

// disjoint sorts branches and takes from each what an earlier one of the list
// has: forwards that differ only in the address they listen on cannot be told
// apart here, and the first one counts.
func disjoint(branches []branch) []branch {
	var taken []branch
	for _, b := range branches {
		rest := []branch{b}
		for _, t := range taken {
			var left []branch
			for _, r := range rest {
				if r.to < t.from || r.from > t.to {
					left = append(left, r)
					continue
				}
				if r.from < t.from {
					left = append(left, branch{r.from, t.from - 1, r.chain})
				}
				if r.to > t.to {
					left = append(left, branch{t.to + 1, r.to, r.chain})
				}
			}
			rest = left
		}
		taken = append(taken, rest...)
	}
	slices.SortFunc(taken, func(a, b branch) int { return cmp.Compare(a.from, b.from) })
	return taken
}

// chain and target are the names of chains, and how those of counters begin.
// nft(8) reads letters, digits and "/-_." as one word.
func (f *Forward) chain() string { return "forward/" + f.Name }

func (f *Forward) target(t Target) string {
	return fmt.Sprintf("%s/%s/%d", f.chain(), spell(t.Addr.Addr()), t.Addr.Port())
}

func spell(addr netip.Addr) string { return strings.ReplaceAll(addr.String(), ":", "-") }

// counterName is what the name of a counter says.
type counterName struct {
	forward string
	target  netip.AddrPort // the zero value: of the whole forward
	what    string
}

func parseCounter(name string) (counterName, error) {
	parts := strings.Split(name, "/")
	if parts[0] != "forward" || (len(parts) != 3 && len(parts) != 5) {
		return counterName{}, fmt.Errorf("counter %q is none of ours", name)
	}
	parsed := counterName{forward: parts[1], what: parts[len(parts)-1]}
	if len(parts) == 5 {
		addr, err := netip.ParseAddr(strings.ReplaceAll(parts[2], "-", ":"))
		if err != nil {
			return counterName{}, fmt.Errorf("counter %q: %w", name, err)
		}
		number, err := strconv.ParseUint(parts[3], 10, 16)
		if err != nil {
			return counterName{}, fmt.Errorf("counter %q: %w", name, err)
		}
		parsed.target = netip.AddrPortFrom(addr, uint16(number))
	}
	return parsed, nil
}

// String is the table in the syntax of nft(8).
func (s *ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", tableName)
	for _, name := range s.counters {
		fmt.Fprintf(&b, "\tcounter %s {\n\t}\n\n", name)
	}
	for _, set := range s.sets {
		var texts []string
		for _, p := range set.prefixes {
			texts = append(texts, prefixText(p))
		}
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s_addr\n\t\tflags interval\n\t\telements = { %s }\n\t}\n\n",
			set.name, families[set.family].name, strings.Join(texts, ", "))
	}
	for i, c := range s.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if h := c.hook; h != nil {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy accept;\n", h.kind, h.at, h.priority)
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", strings.Join(r.text, " "))
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// normal gives forwards with what may be said in two ways said in one. It
// changes nothing of the caller's.
func normal(fs []Forward) []Forward {
	fs = slices.Clone(fs)
	for i := range fs {
		f := &fs[i]
		f.Listen = slices.Clone(f.Listen)
		for j := range f.Listen {
			r := &f.Listen[j]
			r.Addr = r.Addr.Unmap()
			if r.To == 0 {
				r.To = r.From
			}
		}
		f.Targets = slices.Clone(f.Targets)
		for j := range f.Targets {
			addr := f.Targets[j].Addr
			f.Targets[j].Addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		}
		f.Allow = sortedPrefixes(f.Allow)
		if f.Balance == "" {
			f.Balance = Weighted
		}
	}
	return fs
}

// sortedPrefixes gives prefixes masked, in order, without those that lie in
// others.
func sortedPrefixes(prefixes []netip.Prefix) []netip.Prefix {
	var sorted []netip.Prefix
	for _, p := range prefixes {
		if addr := p.Addr(); addr.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(addr.Unmap(), p.Bits()-96)
		}
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	kept := sorted[:0]
	for _, p := range sorted {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

func sortedAddrs(of map[netip.Addr]string) []netip.Addr {
	return slices.SortedFunc(maps.Keys(of), netip.Addr.Compare)
}

// nameForm is what a forward may be called: it becomes a word of nft(8), and
// with a target behind it stays below the kernel's 255 bytes.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// maxWeight keeps a sum of weights within the 32 bits of numgen.
const maxWeight = 1 << 20

// validate says all that is wrong with forwards, each with its mend.
func validate(fs []Forward) error {
	var errs []error
	names := map[string]bool{}
	for i := range fs {
		f := &fs[i]
		wrong := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("forward %s: %s", f.Name, fmt.Sprintf(format, args...)))
		}
		if !nameForm.MatchString(f.Name) {
			wrong("%q is no name for a forward: begin with a letter or a digit, then letters, digits, '.', '_' or '-', at most 63", f.Name)
		}
		if names[f.Name] {
			wrong("two forwards have this name: give each its own")
		}
		names[f.Name] = true
		f.check(wrong)
		for j := range fs[:i] {
			f.compare(&fs[j], wrong)
		}
	}
	return errors.Join(errs...)
}

// check says what is wrong with one forward.
func (f *Forward) check(wrong func(string, ...any)) {
	if len(f.Listen) == 0 {
		wrong("it listens nowhere: name a port")
	}
	for _, r := range f.Listen {
		switch {
		case r.From == 0 || r.To < r.From:
			wrong("ports %d-%d are no range: from 1 to 65535, the lower one first", r.From, r.To)
		case r.Addr.Zone() != "":
			wrong("cannot listen on %s: give an address without a zone", r.Addr)
		}
	}
	if len(f.Protocols) == 0 {
		wrong("it has no protocol: name tcp, udp or both")
	}
	for i, proto := range f.Protocols {
		if _, known := protocols[proto]; !known {
			wrong("protocol %q cannot be forwarded by the kernel: tcp or udp", proto)
		}
		if slices.Contains(f.Protocols[:i], proto) {
			wrong("protocol %s is named twice: once is enough", proto)
		}
	}
	for _, p := range f.Allow {
		if !p.IsValid() {
			wrong("an allowed prefix is none: give it as 192.0.2.0/24 or 2001:db8::/32")
		}
	}
	if f.Balance != Weighted && f.Balance != Hash {
		wrong("balance %q cannot be done by the kernel: %s or %s", f.Balance, Weighted, Hash)
	}
	seen := map[netip.AddrPort]bool{}
	ports := map[netip.Addr]map[bool]bool{} // by address: with a port, without one
	for _, t := range f.Targets {
		addr := t.Addr.Addr()
		switch {
		case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "":
			wrong("target %s is no address to forward to: give that of a host, without a zone", t.Addr)
		case addr.IsLoopback():
			wrong("target %s: the kernel forwards nothing from outside to loopback: give an address of another interface", t.Addr)
		case t.Weight < 0 || t.Weight > maxWeight:
			wrong("target %s: weight %d is not between 0 (no new connections) and %d", t.Addr, t.Weight, maxWeight)
		case seen[t.Addr]:
			wrong("target %s is named twice: add its weights", t.Addr)
		}
		seen[t.Addr] = true
		if ports[addr] == nil {
			ports[addr] = map[bool]bool{}
		}
		ports[addr][t.Addr.Port() == 0] = true
		if len(ports[addr]) == 2 {
			wrong("target %s is named with a port and without one: give each a port, or none", addr)
		}
	}
}

// compare says how two forwards stand in each other's way.
func (f *Forward) compare(other *Forward, wrong func(string, ...any)) {
	for _, proto := range f.Protocols {
		if !slices.Contains(other.Protocols, proto) {
			continue
		}
		for _, a := range f.Listen {
			for _, b := range other.Listen {
				if a.From > b.To || b.From > a.To {
					continue
				}
				if same(a.Addr, b.Addr) {
					wrong("forward %s listens on %s %s too: give one of them another address or port", other.Name, proto, b)
				}
				if f.Masquerade != other.Masquerade && f.shares(other) {
					wrong("forward %s goes from the same port to the same target and differs in masquerade: make it the same", other.Name)
				}
			}
		}
	}
}

// same says whether two listeners' addresses are of one kind and meet.
func same(a, b netip.Addr) bool {
	return a == b || (isAny(a) && isAny(b) && (!a.IsValid() || !b.IsValid()))
}

// isAny reports whether addr stands for every address of the host.
func isAny(addr netip.Addr) bool { return !addr.IsValid() || addr.IsUnspecified() }

// shares says whether two forwards have an address of a target in common.
func (f *Forward) shares(other *Forward) bool {
	return slices.ContainsFunc(f.addresses(), func(addr netip.Addr) bool {
		return slices.Contains(other.addresses(), addr)
	})
}

// String is the range as people write it.
func (r Range) String() string {
	host := "*"
	if r.Addr.IsValid() {
		host = r.Addr.String()
	}
	if r.Addr.Is6() {
		host = "[" + host + "]"
	}
	if r.To == r.From || r.To == 0 {
		return fmt.Sprintf("%s:%d", host, r.From)
	}
	return fmt.Sprintf("%s:%d-%d", host, r.From, r.To)
}
