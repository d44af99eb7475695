package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What conntrack says over netlink (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaID         = 12
	ctaZone       = 18

	ctaTupleIP      = 1
	ctaTupleProto   = 2
	ctaIPv4Src      = 1
	ctaIPv4Dst      = 2
	ctaIPv6Src      = 3
	ctaIPv6Dst      = 4
	ctaProtoNumber  = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ipsDstNAT = 1 << 5 // of the status: the destination was changed
)

// tuple is one direction of a flow.
type tuple struct {
	src, dst netip.AddrPort
	proto    byte
}

// flow is an entry of conntrack.
type flow struct {
	original, reply tuple
	status          uint32
	key             []netlink.Attribute // names the entry to the kernel, so that no later one is meant
}

// Cut makes conntrack forget the flows that came in through f and go to the
// target, and says how many there were. Call it for a target that died, after an
// Apply that takes it new connections; the package doc says what clients see.
// Flows that others translate are not touched.
func Cut(f Forward, target netip.AddrPort) (int, error) {
	cut, err := cutFlows(normal([]Forward{f})[0], netip.AddrPortFrom(target.Addr().Unmap(), target.Port()))
	if err != nil {
		return cut, fmt.Errorf("cut flows of forward %s to %s: %w%s", f.Name, target, err, mend(err))
	}
	return cut, nil
}

func cutFlows(f Forward, target netip.AddrPort) (int, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetReadBuffer(socketBuffer); err != nil {
		return 0, err
	}
	family := byte(unix.AF_INET)
	if target.Addr().Is6() {
		family = unix.AF_INET6
	}
	header := []byte{family, unix.NFNETLINK_V0, 0, 0}
	entries, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: ctGet, Flags: netlink.Request | netlink.Dump}, Data: header})
	if err != nil {
		return 0, fmt.Errorf("read conntrack: %w", err)
	}
	cut := 0
	for _, entry := range entries {
		var fl flow
		if err := fl.decode(entry.Data); err != nil {
			return cut, fmt.Errorf("read conntrack: %w", err)
		}
		if !f.owns(&fl, target) {
			continue
		}
		key, err := netlink.MarshalAttributes(fl.key)
		if err != nil {
			return cut, err
		}
		_, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: ctDelete, Flags: netlink.Request | netlink.Acknowledge}, Data: slices.Concat(header, key)})
		switch {
		case err == nil:
			cut++
		case !errors.Is(err, unix.ENOENT): // else it ended by itself
			return cut, err
		}
	}
	return cut, nil
}

// owns says whether a flow came in through f and goes to the target.
func (f *Forward) owns(fl *flow, target netip.AddrPort) bool {
	asked, to := fl.original.dst, fl.reply.src
	if fl.status&ipsDstNAT == 0 || to.Addr() != target.Addr() || (target.Port() != 0 && to.Port() != target.Port()) {
		return false
	}
	if !slices.ContainsFunc(f.Protocols, func(proto string) bool { return protocols[proto] == fl.original.proto }) {
		return false
	}
	return slices.ContainsFunc(f.Listen, func(r Range) bool {
		local := !r.Addr.IsValid() || r.Addr.IsUnspecified() && r.Addr.Is4() == asked.Addr().Is4()
		return (local || r.Addr == asked.Addr()) && r.From <= asked.Port() && asked.Port() <= r.To
	})
}

// decode reads an entry as the kernel sends it.
func (fl *flow) decode(data []byte) error {
	if len(data) < 4 {
		return fmt.Errorf("an entry of %d bytes: want 4 and more", len(data))
	}
	attrs, err := netlink.UnmarshalAttributes(data[4:])
	if err != nil {
		return err
	}
	for _, a := range attrs {
		switch a.Type &^ (netlink.Nested | netlink.NetByteOrder) {
		case ctaTupleOrig:
			fl.key = append(fl.key, a)
			err = fl.original.decode(a.Data)
		case ctaTupleReply:
			err = fl.reply.decode(a.Data)
		case ctaStatus:
			if len(a.Data) == 4 {
				fl.status = binaryutil.BigEndian.Uint32(a.Data)
			}
		case ctaID, ctaZone:
			fl.key = append(fl.key, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tuple) decode(data []byte) error {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	ad.ByteOrder = binary.BigEndian
	var src, dst netip.Addr
	var srcPort, dstPort uint16
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					addr, _ := netip.AddrFromSlice(ip.Bytes())
					switch ip.Type() {
					case ctaIPv4Src, ctaIPv6Src:
						src = addr
					case ctaIPv4Dst, ctaIPv6Dst:
						dst = addr
					}
				}
				return nil
			})
		case ctaTupleProto:
			ad.Nested(func(proto *netlink.AttributeDecoder) error {
				for proto.Next() {
					switch proto.Type() {
					case ctaProtoNumber:
						t.proto = proto.Uint8()
					case ctaProtoSrcPort:
						srcPort = proto.Uint16()
					case ctaProtoDstPort:
						dstPort = proto.Uint16()
					}
				}
				return nil
			})
		}
	}
	t.src, t.dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort)
	return ad.Err()
}
