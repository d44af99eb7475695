package nft

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is one rule: its text, and what the kernel gets for it. Each method adds
// one term to both; the expressions are those that nft(8) makes of that text.
type rule struct {
	text   []string
	exprs  []expr.Any
	set    *nftables.Set // the one anonymous set or map of the rule; nil for none
	values []nftables.SetElement
	lookup *expr.Lookup // asks set

	family, proto       string // see on
	hasFamily, hasProto bool   // the kernel is asked for them
}

// on begins a rule for packets of one family, "" for both, and one protocol, ""
// for all. The kernel is asked for them where the first term needs it, as
// nft(8) does; only spell says them in the text.
func on(family, proto string) *rule { return &rule{family: family, proto: proto} }

func (r *rule) needFamily() *rule {
	if r.family != "" && !r.hasFamily {
		r.hasFamily = true
		r.cmp(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, expr.CmpOpEq, []byte{families[r.family].number})
	}
	return r
}

func (r *rule) needProto() *rule {
	if r.proto != "" && !r.hasProto {
		r.hasProto = true
		r.cmp(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, expr.CmpOpEq, []byte{protocols[r.proto]})
	}
	return r
}

// spellFamily and spellProto say in the text what no term implies.
func (r *rule) spellFamily() *rule {
	if r.family != "" {
		r.say("meta nfproto %s", families[r.family].name).needFamily()
	}
	return r
}

func (r *rule) spellProto() *rule { return r.say("meta l4proto %s", r.proto).needProto() }

// families are those of addresses, by the word that nft(8) has for their
// headers, which is also the name of ours.
var families = map[string]struct {
	name    string
	number  byte
	keyType nftables.SetDatatype
}{
	"ip":  {"ipv4", unix.NFPROTO_IPV4, nftables.TypeIPAddr},
	"ip6": {"ipv6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr},
}

// familyOf gives the family of an address.
func familyOf(addr netip.Addr) string {
	if addr.Is4() {
		return "ip"
	}
	return "ip6"
}

// protocols are those that can be forwarded, by name.
var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}

func (r *rule) say(format string, args ...any) *rule {
	r.text = append(r.text, fmt.Sprintf(format, args...))
	return r
}

func (r *rule) do(exprs ...expr.Any) *rule {
	r.exprs = append(r.exprs, exprs...)
	return r
}

// cmp loads register 1 and compares it.
func (r *rule) cmp(load expr.Any, op expr.CmpOp, data []byte) *rule {
	return r.do(load, &expr.Cmp{Op: op, Register: 1, Data: data})
}

// address loads the source or destination address of the packet.
func (r *rule) address(field string) (load *expr.Payload, text string) {
	r.needFamily()
	load = &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	if r.family == "ip6" {
		load.Offset, load.Len = 8, 16
	}
	if field == "daddr" {
		load.Offset += load.Len
	}
	return load, r.family + " " + field
}

// is asks for one address.
func (r *rule) is(field string, addr netip.Addr) *rule {
	load, text := r.address(field)
	return r.say("%s %s", text, addr).cmp(load, expr.CmpOpEq, addr.AsSlice())
}

// within asks for an address in a prefix, or for one of several addresses; not,
// for any other.
func (r *rule) within(field string, not bool, prefixes []netip.Prefix) *rule {
	load, text := r.address(field)
	op, equal := "", expr.CmpOpEq
	if not {
		op, equal = "!= ", expr.CmpOpNeq
	}
	if len(prefixes) == 1 { // nft(8) makes no set of one
		first := prefixes[0].Addr().AsSlice()
		size := uint32(len(first))
		r.say("%s %s%s", text, op, prefixText(prefixes[0])).do(load)
		if !prefixes[0].IsSingleIP() {
			r.do(&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size,
				Mask: maskOf(prefixes[0]), Xor: make([]byte, size)})
		}
		return r.do(&expr.Cmp{Op: equal, Register: 1, Data: first})
	}
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, prefixText(p))
		r.values = append(r.values, nftables.SetElement{Key: p.Addr().AsSlice()})
	}
	r.set = &nftables.Set{Anonymous: true, Constant: true, KeyType: families[r.family].keyType}
	r.lookup = &expr.Lookup{SourceRegister: 1, Invert: not}
	return r.say("%s %s{ %s }", text, op, strings.Join(texts, ", ")).do(load, r.lookup)
}

// outside asks for a source address that is in none of the prefixes of a named
// set.
func (r *rule) outside(set string) *rule {
	load, text := r.address("saddr")
	return r.say("%s != @%s", text, set).do(load, &expr.Lookup{SourceRegister: 1, SetName: set, Invert: true})
}

// prefixElements gives the elements of an interval set of prefixes.
func prefixElements(prefixes []netip.Prefix) []nftables.SetElement {
	var values []nftables.SetElement
	for _, p := range prefixes {
		values = append(values, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := lastOf(p).Next(); end.IsValid() {
			values = append(values, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return beginInterval(values)
}

// beginInterval closes what lies before the first interval, as nft(8) does.
func beginInterval(values []nftables.SetElement) []nftables.SetElement {
	if first := values[0].Key; slices.ContainsFunc(first, func(b byte) bool { return b != 0 }) {
		return slices.Insert(values, 0, nftables.SetElement{Key: make([]byte, len(first)), IntervalEnd: true})
	}
	return values
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// maskOf gives the netmask of a prefix, lastOf its last address.
func maskOf(p netip.Prefix) []byte {
	mask := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

func lastOf(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for i, bits := range maskOf(p) {
		last[i] |= ^bits
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr
}

// dport asks for the port that the packet is sent to, sport from.
func (r *rule) dport(from, to uint16) *rule {
	return r.needProto().ports(r.proto+" dport", from, to, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

func (r *rule) sport(port uint16) *rule {
	return r.needProto().ports(r.proto+" sport", port, port, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Len: 2})
}

// asked asks for the port that the client asked for, whatever it is now.
func (r *rule) asked(from, to uint16) *rule {
	return r.spellProto().ports("ct original proto-dst", from, to, askedPort())
}

func askedPort() expr.Any {
	return &expr.Ct{Register: 1, Key: expr.CtKeyPROTODST, Direction: original}
}

func (r *rule) ports(text string, from, to uint16, load expr.Any) *rule {
	if from == to {
		return r.say("%s %d", text, from).cmp(load, expr.CmpOpEq, port(from))
	}
	return r.say("%s %d-%d", text, from, to).cmp(load, expr.CmpOpGte, port(from)).
		do(&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: port(to)})
}

func port(n uint16) []byte { return binaryutil.BigEndian.PutUint16(n) }

// The directions of a flow (enum ip_conntrack_dir).
const (
	original = 0
	reply    = 1
)

// direction asks for a packet of the client, or of the target.
func (r *rule) direction(way byte) *rule {
	return r.say("ct direction %s", [...]string{"original", "reply"}[way]).
		cmp(&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, expr.CmpOpEq, []byte{way})
}

// dnatted asks for flows whose destination was changed, by whomever.
func (r *rule) dnatted() *rule {
	return r.say("ct status dnat").do(
		&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}

// foreign asks for packets to what is no address of the host.
func (r *rule) foreign() *rule {
	return r.say("fib daddr type != local").cmp(
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		expr.CmpOpNeq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))
}

func (r *rule) count(counter string) *rule {
	return r.say("counter name %q", counter).do(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter})
}

func (r *rule) jump(chain string) *rule {
	return r.say("jump %s", chain).do(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

func (r *rule) goTo(chain string) *rule {
	return r.say("goto %s", chain).do(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

func (r *rule) goBack() *rule {
	return r.say("return").do(&expr.Verdict{Kind: expr.VerdictReturn})
}

func (r *rule) masquerade() *rule { return r.say("masquerade").do(&expr.Masq{}) }
func (r *rule) resetTCP() *rule {
	return r.say("reject with tcp reset").do(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
}
func (r *rule) unreachable() *rule {
	return r.say("reject").do(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
}

// dnat changes the destination of the flow.
func (r *rule) dnat(to netip.AddrPort) *rule {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}
	if to.Addr().Is6() {
		nat.Family = unix.NFPROTO_IPV6
	}
	r.do(&expr.Immediate{Register: 1, Data: to.Addr().AsSlice()})
	text := to.Addr().String()
	if to.Port() != 0 {
		text = to.String()
		nat.RegProtoMin, nat.Specified = 2, true
		r.do(&expr.Immediate{Register: 2, Data: port(to.Port())})
	}
	return r.say("dnat %s to %s", familyOf(to.Addr()), text).do(nat)
}

// branch is an element of a verdict map: for keys from From to To.
type branch struct {
	from, to uint32
	chain    string
}

// spread sends new connections to the branches, which cover 0 to slots-1: by
// chance or, when seed is not 0, by the client's address.
func (r *rule) spread(slots, seed uint32, branches []branch) *rule {
	if seed == 0 {
		r.spellFamily().say("numgen random mod %d", slots).
			do(&expr.Numgen{Register: 1, Type: unix.NFT_NG_RANDOM, Modulus: slots})
	} else {
		load, text := r.address("saddr")
		load.DestRegister = 2
		r.say("jhash %s mod %d seed %#x", text, slots, seed).do(load,
			&expr.Hash{SourceRegister: 2, DestRegister: 1, Length: load.Len, Modulus: slots, Seed: seed, Type: expr.HashTypeJenkins})
	}
	// An interval map compares bytes.
	r.do(&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4})
	return r.intervals(nftables.TypeInteger, branches)
}

// byAsked branches by the port that the client asked for. The branches are
// sorted and disjoint.
func (r *rule) byAsked(branches []branch) *rule {
	return r.spellProto().say("ct original proto-dst").do(askedPort()).
		intervals(nftables.TypeInetService, branches)
}

// intervals looks register 1 up in a map of intervals.
func (r *rule) intervals(keyType nftables.SetDatatype, branches []branch) *rule {
	key := func(n uint32) []byte { return binaryutil.BigEndian.PutUint32(n)[4-keyType.Bytes:] }
	limit := uint32(math.MaxUint32) >> (32 - 8*keyType.Bytes)
	var texts []string
	for i, b := range branches {
		text := fmt.Sprint(b.from)
		if b.to != b.from {
			text = fmt.Sprintf("%d-%d", b.from, b.to)
		}
		texts = append(texts, text+" : "+"goto "+b.chain)
		r.values = append(r.values, nftables.SetElement{Key: key(b.from), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: b.chain}})
		if adjoins := i+1 < len(branches) && branches[i+1].from == b.to+1; b.to < limit && !adjoins {
			r.values = append(r.values, nftables.SetElement{Key: key(b.to + 1), IntervalEnd: true})
		}
	}
	r.values = beginInterval(r.values)
	r.set = &nftables.Set{Anonymous: true, Constant: true, IsMap: true, Interval: true, KeyType: keyType, DataType: nftables.TypeVerdict}
	return r.lookUp(texts)
}

// byAddress branches by an address of the packet.
func (r *rule) byAddress(field string, chains map[netip.Addr]string) *rule {
	load, text := r.address(field)
	var texts []string
	for _, addr := range sortedAddrs(chains) {
		texts = append(texts, addr.String()+" : goto "+chains[addr])
		r.values = append(r.values, nftables.SetElement{Key: addr.AsSlice(),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chains[addr]}})
	}
	r.set = &nftables.Set{Anonymous: true, Constant: true, IsMap: true, KeyType: families[r.family].keyType, DataType: nftables.TypeVerdict}
	return r.say("%s", text).do(load).lookUp(texts)
}

// lookUp asks the verdict map of the rule for register 1.
func (r *rule) lookUp(texts []string) *rule {
	r.lookup = &expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true}
	return r.say("vmap { %s }", strings.Join(texts, ", ")).do(r.lookup)
}
