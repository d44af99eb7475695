package nft

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata again")

// everything is forwards that make every kind of rule.
func everything() []Forward {
	both := []string{"tcp", "udp"}
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	vip := netip.MustParseAddr("10.90.0.1")
	heavy := target(1, 80)
	heavy.Weight = 70
	light := target(2, 80)
	light.Weight = 30
	drained := target(3, 80)
	drained.Weight = 0
	return []Forward{
		{Name: "web", Listen: []Range{{From: 443}}, Protocols: both, Masquerade: true,
			Targets: []Target{heavy, light, drained, target6(1, 80), target6(2, 80)}},
		{Name: "sticky", Listen: []Range{{Addr: vip, From: 443}, {Addr: vip, From: 8000, To: 8010}}, Protocols: []string{"tcp"},
			Balance: Hash, Masquerade: true, Targets: []Target{target(1, 80), target(2, 80), target(3, 80), target6(3, 81)}},
		{Name: "media", Listen: []Range{{Addr: netip.IPv4Unspecified(), From: 5000, To: 5999}}, Protocols: []string{"udp"},
			Targets: []Target{target(1, 0), target(2, 0)},
			Allow:   prefixes("10.90.0.0/16", "10.90.1.0/24", "192.0.2.1/32", "198.51.100.0/23", "255.255.255.0/24", "2001:db8::/32", "2001:db8:1::/48", "fd90::/20")},
		{Name: "v4-only", Listen: []Range{{From: 25}, {From: 587}}, Protocols: []string{"tcp"},
			Targets: []Target{target(1, 25)}, Allow: prefixes("10.90.0.0/20")},
		{Name: "v6-only", Listen: []Range{{Addr: netip.IPv6Unspecified(), From: 25}, {Addr: netip.MustParseAddr(v6(0, 1)), From: 9}}, Protocols: both,
			Targets: []Target{target6(1, 25), target6(2, 25)}, Allow: prefixes("::/0"), Masquerade: true}, // meets v4-only: mended below
		{Name: "one-machine", Listen: []Range{{From: 1}}, Protocols: both,
			Targets: []Target{target(1, 8001), target(1, 8002)}, Allow: prefixes("0.0.0.0/0", "10.0.0.0/8", "fd90::2/128")},
		{Name: "nobody", Listen: []Range{{From: 7}}, Protocols: both},
	}
}

// fitting is everything without what forwards refuse of each other.
func fitting() []Forward {
	fs := everything()
	fs[3].Listen = []Range{{Addr: netip.IPv4Unspecified(), From: 25}, {From: 587}}
	return fs
}

func TestRender(t *testing.T) {
	text, err := Render(fitting())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "everything.nft")
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("Render differs from %s (-update writes it):\n%s", golden, text)
	}
	host := bare(t, "reader")
	host.sh(t, "nft -c -f "+golden)
}

// TestProgrammed lets nft(8) load what Render says and read what Apply did: it
// must see no difference, also after changes.
func TestProgrammed(t *testing.T) {
	ours, theirs := bare(t, "ours"), bare(t, "theirs")
	many := fitting()
	for i := range 300 { // more elements than one message takes
		many[2].Allow = append(many[2].Allow, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i/256), byte(i), 128}), 25))
	}
	fewer := fitting()[1:3]
	fewer[0].Targets = fewer[0].Targets[1:]
	for name, fs := range map[string][]Forward{"everything": fitting(), "many": many, "fewer": fewer, "none": nil} {
		t.Run(name, func(t *testing.T) {
			ours.apply(t, fs...)
			text, err := Render(fs)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "rendered.nft")
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			theirs.sh(t, "nft flush ruleset; nft -f "+file)
			got, want := ours.listing(t), theirs.listing(t)
			sameBlocks(t, got, want)
		})
	}
}

// TestManyForwards programs 500 forwards in one transaction, twice.
func TestManyForwards(t *testing.T) {
	host := bare(t, "many")
	var fs []Forward
	for i := range 500 {
		fs = append(fs, Forward{Name: fmt.Sprint("f", i), Listen: []Range{{From: uint16(10000 + i)}}, Protocols: []string{"tcp", "udp"},
			Targets: []Target{target(1, 80), target(2, 80), target(3, 80)}, Masquerade: true})
	}
	fs[7].Balance = Hash
	for range 2 {
		host.apply(t, fs...)
		if n := strings.Count(host.sh(t, "nft list table inet causeway"), "numgen random mod 3"); n != 499 {
			t.Errorf("%d forwards by weight, want 499", n)
		}
	}
	if n := len(host.counters(t)); n != 500 {
		t.Errorf("counters of %d forwards, want 500", n)
	}
}

// TestOnlyOurs leaves other tables as they are, also when the end is ours.
func TestOnlyOurs(t *testing.T) {
	host := bare(t, "host")
	host.sh(t, `nft 'table inet firewall { chain in { type filter hook input priority 0; tcp dport 22 accept; }; }
		table ip causeway { set s { type ipv4_addr; elements = { 192.0.2.1 } }; }'`)
	before := host.sh(t, "nft list ruleset")
	host.apply(t, fitting()...)
	host.apply(t, fitting()[:1]...)
	for range 2 { // the second time there is nothing to remove
		if err := host.do(Remove); err != nil {
			t.Fatal(err)
		}
		if after := host.sh(t, "nft list ruleset"); after != before {
			t.Errorf("after Remove:\n%swant:\n%s", after, before)
		}
	}
}

// TestAdopt takes over what another process, or another version, left.
func TestAdopt(t *testing.T) {
	host, fresh := bare(t, "host"), bare(t, "fresh")
	host.sh(t, `nft 'table inet causeway {
		counter forward/web/refused { packets 7 bytes 70; }
		counter old { }
		map ports { type inet_service : verdict; }
		chain ancient { counter name old accept; }
		chain forward/web { jump ancient; }
		chain prerouting { type nat hook prerouting priority dstnat; tcp dport 443 goto forward/web; }
	}'`)
	host.apply(t, fitting()...)
	fresh.apply(t, fitting()...)
	if n := host.counters(t)["web"].Refused; n != 7 {
		t.Errorf("web has refused %d, want the 7 of the table that was there", n)
	}
	got, want := host.listing(t), fresh.listing(t)
	if !slices.ContainsFunc(got, func(block string) bool { return strings.Contains(block, "packets 7 ") }) {
		t.Error("the counter was reset")
	}
	for i := range got {
		got[i] = strings.Replace(got[i], "packets 7 bytes 70", "packets 0 bytes 0", 1)
	}
	sameBlocks(t, got, want)
}

// sameBlocks wants two listings to be the same, in any order.
func sameBlocks(t *testing.T, got, want []string) {
	t.Helper()
	for _, block := range got {
		if !slices.Contains(want, block) {
			t.Errorf("programmed, and not wanted:\n%s", block)
		}
	}
	for _, block := range want {
		if !slices.Contains(got, block) {
			t.Errorf("wanted, and not programmed:\n%s", block)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d blocks, want %d", len(got), len(want))
	}
}
