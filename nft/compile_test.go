package nft

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// TestRefusedForwards wants every mistake named, with its mend.
func TestRefusedForwards(t *testing.T) {
	good := Forward{Name: "web", Listen: []Range{{From: 80}}, Protocols: []string{"tcp"}, Targets: []Target{target(1, 80)}}
	if _, err := Render([]Forward{good}); err != nil {
		t.Fatal(err)
	}
	vip := netip.MustParseAddr("192.0.2.1")
	for want, change := range map[string]func(f *Forward) []Forward{
		`"a b" is no name`:                func(f *Forward) []Forward { f.Name = "a b"; return nil },
		"give each its own":               func(f *Forward) []Forward { return []Forward{{Name: "web"}} },
		"it listens nowhere":              func(f *Forward) []Forward { f.Listen = nil; return nil },
		"ports 9-8 are no range":          func(f *Forward) []Forward { f.Listen[0] = Range{From: 9, To: 8}; return nil },
		"ports 0-0 are no range":          func(f *Forward) []Forward { f.Listen[0] = Range{}; return nil },
		"cannot listen on fe80::1%eth0":   func(f *Forward) []Forward { f.Listen[0].Addr = netip.MustParseAddr("fe80::1%eth0"); return nil },
		"no protocol":                     func(f *Forward) []Forward { f.Protocols = nil; return nil },
		`protocol "sctp"`:                 func(f *Forward) []Forward { f.Protocols[0] = "sctp"; return nil },
		"tcp is named twice":              func(f *Forward) []Forward { f.Protocols = []string{"tcp", "tcp"}; return nil },
		"an allowed prefix is none":       func(f *Forward) []Forward { f.Allow = []netip.Prefix{{}}; return nil },
		`balance "least"`:                 func(f *Forward) []Forward { f.Balance = "least"; return nil },
		"target 0.0.0.0:80 is no address": func(f *Forward) []Forward { f.Targets[0].Addr = netip.MustParseAddrPort("0.0.0.0:80"); return nil },
		"forwards nothing from outside":   func(f *Forward) []Forward { f.Targets[0].Addr = netip.MustParseAddrPort("127.0.0.1:80"); return nil },
		"weight -1":                       func(f *Forward) []Forward { f.Targets[0].Weight = -1; return nil },
		"add its weights":                 func(f *Forward) []Forward { f.Targets = []Target{target(1, 80), target(1, 80)}; return nil },
		"give each a port, or none":       func(f *Forward) []Forward { f.Targets = []Target{target(1, 80), target(1, 0)}; return nil },
		"listens on tcp *:80 too": func(f *Forward) []Forward {
			other := *f
			other.Name, f.Listen = "other", []Range{{Addr: netip.IPv6Unspecified(), From: 70, To: 90}}
			other.Listen = []Range{{From: 80}}
			return []Forward{other}
		},
		"differs in masquerade": func(f *Forward) []Forward {
			other := *f
			other.Name, other.Masquerade, other.Listen = "other", true, []Range{{Addr: vip, From: 80}}
			return []Forward{other}
		},
	} {
		f := good
		f.Listen, f.Protocols, f.Targets = []Range{{From: 80}}, []string{"tcp"}, []Target{target(1, 80)}
		others := change(&f)
		text, err := Render(append(others, f))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if text != "" {
			t.Errorf("%s: rendered all the same", want)
		}
	}
}

// TestNeighbours lets forwards stand beside each other that do not meet.
func TestNeighbours(t *testing.T) {
	forward := func(name, addr, proto string, port uint16) Forward {
		f := Forward{Name: name, Listen: []Range{{From: port}}, Protocols: []string{proto}}
		if addr != "" {
			f.Listen[0].Addr = netip.MustParseAddr(addr)
		}
		return f
	}
	_, err := Render([]Forward{
		forward("a", "", "tcp", 80), forward("b", "", "udp", 80), forward("c", "", "tcp", 81), forward("d", "192.0.2.1", "tcp", 80),
		forward("e", "192.0.2.2", "tcp", 80), forward("f", "2001:db8::1", "tcp", 80), forward("g", "0.0.0.0", "tcp", 82), forward("h", "::", "tcp", 82),
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDisjoint(t *testing.T) {
	got := disjoint([]branch{{10, 20, "a"}, {5, 30, "b"}, {15, 15, "c"}, {31, 31, "d"}, {30, 40, "e"}})
	want := []branch{{5, 9, "b"}, {10, 20, "a"}, {21, 30, "b"}, {31, 31, "d"}, {32, 40, "e"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestByRendezvous wants slots in the proportion of the weights, and those of
// others untouched when a target goes.
func TestByRendezvous(t *testing.T) {
	targets := []Target{target(1, 80), target(2, 80), target(3, 80), target(4, 80)}
	targets[3].Weight = 3
	owners := func(targets []Target) (of [hashSlots]netip.AddrPort) {
		slot := 0
		for _, share := range byRendezvous(targets) {
			for range share.slots {
				of[slot] = targets[share.target].Addr
				slot++
			}
		}
		if slot != hashSlots {
			t.Fatalf("%d slots, want %d", slot, hashSlots)
		}
		return of
	}
	all, without := owners(targets), owners(targets[1:])
	count := map[netip.AddrPort]int{}
	for slot := range all {
		count[all[slot]]++
		if all[slot] != targets[0].Addr && all[slot] != without[slot] {
			t.Errorf("slot %d moved from %s to %s", slot, all[slot], without[slot])
		}
	}
	for i, bounds := range [][2]int{{60, 110}, {60, 110}, {60, 110}, {220, 290}} { // of 85 and 256
		if n := count[targets[i].Addr]; n < bounds[0] || n > bounds[1] {
			t.Errorf("target %d has %d slots, want between %d and %d", i, n, bounds[0], bounds[1])
		}
	}
}

// TestTheCallersOwn wants compile to leave alone what it is given.
func TestTheCallersOwn(t *testing.T) {
	given := func() []Forward {
		return []Forward{{Name: "web", Listen: []Range{{Addr: netip.MustParseAddr("::ffff:192.0.2.1"), From: 80}}, Protocols: []string{"tcp"},
			Targets: []Target{{netip.MustParseAddrPort("[::ffff:192.0.2.9]:80"), 1}},
			Allow:   []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("10.0.0.0/8")}}}
	}
	fs := given()
	text, err := Render(fs)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fs, given()) {
		t.Errorf("changed to %+v", fs)
	}
	for _, want := range []string{"ip daddr 192.0.2.1 tcp dport 80", "dnat ip to 192.0.2.9:80", "{ 10.0.0.0/8, 192.0.2.0/24 }"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestCounterNames(t *testing.T) {
	f := Forward{Name: "a-b.c_d"}
	for _, addr := range []string{"192.0.2.1:80", "[2001:db8::1]:443", "[::1]:0"} {
		to := Target{Addr: netip.MustParseAddrPort(addr)}
		got, err := parseCounter(f.target(to) + "/in")
		if want := (counterName{f.Name, to.Addr, "in"}); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	for _, name := range []string{"", "old", "forward/web", "forward/web/x/80/in", "forward/web/192.0.2.1/x/in", "other/web/in"} {
		if got, err := parseCounter(name); err == nil {
			t.Errorf("%q is %+v", name, got)
		}
	}
}
