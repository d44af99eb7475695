package main

import (
	"strings"
	"testing"
	"time"

	"causeway/admin"
)

func TestForwardsTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	check := func(err string) *admin.TargetCheck { return &admin.TargetCheck{Time: ago(time.Second), Err: err} }
	const refused = "check 192.0.2.10:444: dial tcp 192.0.2.10:444:\nconnection refused"
	for _, c := range []struct {
		what string
		now  admin.Forwards
		want string
	}{
		{"nothing", admin.Forwards{Forwards: []admin.Forward{}}, `
this node has no forwards
`},
		{"an entry of each kind", admin.Forwards{Time: now, Ends: map[string]uint64{"name_unknown": 3}, Forwards: []admin.Forward{
			{
				Name: "app", Listen: []string{":8443", ":8444", ":8445"}, Entry: "passthrough", Open: new(int64(3)), Connections: 1204, InBytes: 1 << 20, OutBytes: 3 << 30,
				Ends: map[string]uint64{"done": 1190, "dial_failed": 2, "name_missing": 7, "malformed": 2},
				Targets: []admin.Target{
					{Target: "app.example.com:443", Weight: 2, Dials: 1195, DialErrors: 5, Addresses: []admin.TargetAddress{
						{Address: "192.0.2.10", State: "up", Since: ago(5 * time.Hour), Share: 1, Open: new(int64(3)), Check: check("")},
						{Address: "192.0.2.11", State: "ejected", Since: ago(5 * time.Second), Why: "dial target: \x1b[31mrefused", Open: new(int64), Check: check("")},
					}},
					{Target: "192.0.2.10:444", Weight: 1, Dials: 4, DialErrors: 4, Addresses: []admin.TargetAddress{
						{Address: "192.0.2.10", State: "down", Since: ago(time.Minute), Why: refused, Open: new(int64), Check: check(refused)},
					}},
					{Target: "gone.example.com:443", Weight: 1, Addresses: []admin.TargetAddress{{State: "unresolved", Open: new(int64)}}},
				},
			},
			{
				Name: "games", Listen: []string{":20000-20999"}, Entry: "kernel", Connections: 77, InBytes: 1000, OutBytes: 2048, RefusedPackets: 12,
				Targets: []admin.Target{{Target: "203.0.113.10", Weight: 1, Addresses: []admin.TargetAddress{
					{Address: "203.0.113.10", State: "up", Since: ago(72 * time.Hour), Share: 1, Connections: new(uint64(77)), Check: check("once")},
				}}},
			},
			{
				Name: "lost", Listen: []string{":9000", ":9001"}, Entry: "kernel", Why: "the kernel has no rules for it, as the log says",
				Targets: []admin.Target{{Target: "203.0.113.10", Weight: 1, Addresses: []admin.TargetAddress{{Address: "203.0.113.10", State: "up", Since: now, Share: 1}}}},
			},
		}}, `
FORWARD  LISTEN            ENTRY        OPEN  CAME  IN       OUT
app      :8443 and 2 more  passthrough  3     1204  1.0 MiB  3.0 GiB
games    :20000-20999      kernel       -     77    1000 B   2.0 KiB
lost     :9000 :9001       kernel       -     0     0 B      0 B

FORWARD  TARGET                             STATE       WEIGHT  SHARE  OPEN  DIALS  FAILED  CHECK
app      app.example.com:443 at 192.0.2.10  up 5h       2       100 %  3     1195   5       well
app      app.example.com:443 at 192.0.2.11  ejected 5s  2       0 %    0                    well
app      192.0.2.10:444                     down 60s    1       0 %    0     4      4       failed
app      gone.example.com:443               unresolved  1       0 %    0     0      0       -
games    203.0.113.10                       up 3d       1       100 %  -     77     -       failed
lost     203.0.113.10                       up 0s       1       100 %  -     -      -       -

app: app.example.com:443 at 192.0.2.11: ejected: dial target:  [31mrefused
app: 192.0.2.10:444: down: check 192.0.2.10:444: dial tcp 192.0.2.10:444: | connection refused
app: ended by name_missing 7, dial_failed 2, malformed 2
games: 203.0.113.10: its last check: once
games: the kernel refused 12 packets of new connections
lost: the kernel has no rules for it, as the log says
came to no forward: name_unknown 3
`},
	} {
		got := "\n" + forwardsTable(c.now)
		if got != c.want {
			t.Errorf("%s: got%s", c.what, got)
		}
		for line := range strings.Lines(got) {
			if len(line) > 100 {
				t.Errorf("%s: a line of %d columns: %s", c.what, len(line), line)
			}
		}
	}
}
