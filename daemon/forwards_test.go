package daemon

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"causeway/config"
	"causeway/forward"
	"causeway/nft"
	"causeway/outcome"
)

// What is said of a forward of each entry.
func TestSayForward(t *testing.T) {
	cfg, err := config.Parse("causeway.yaml", []byte(`forwards:
  - {name: app, listen: ":8443", sni: [example.com], targets: ["192.0.2.1:443", {to: "example.com:443", weight: 2}]}
  - {name: games, entry: kernel, listen: ":9000", protocols: [udp], targets: ["192.0.2.1:9000"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	long := strings.Repeat("ü", mostWhy)
	app := forward.State{
		Forward: "app", File: cfg.Forwards[0], Open: 3,
		Targets: []forward.TargetState{
			{Target: "192.0.2.1:443", Address: "192.0.2.1", State: forward.StateDown, Since: began, Why: "refused", Open: 1, Checked: began, Result: long},
			{Target: "example.com:443", Address: "192.0.2.2", State: forward.StateUp, Since: began, Share: 1, Open: 2, Checked: began},
			{Target: "example.com:443", Address: "192.0.2.3", State: forward.StateUp, Since: began},
		},
		Totals: []forward.TargetTotals{
			{Target: "192.0.2.1:443", Dials: 9, DialErrors: 8, Checks: 7, Failed: 6, Ejections: 5},
			{Target: "example.com:443", Dials: 4},
		},
	}
	games := forward.State{
		Forward: "games", File: cfg.Forwards[1], Kernel: &nft.Counter{Connections: 7, Refused: 2, BytesIn: 70, BytesOut: 700},
		Targets: []forward.TargetState{{
			Target: "192.0.2.1:9000", Address: "192.0.2.1", State: forward.StateUp, Since: began, Share: 1,
			Kernel: &nft.Counter{Connections: 6, BytesIn: 60, BytesOut: 600},
		}},
		Totals: []forward.TargetTotals{{Target: "192.0.2.1:9000"}},
	}
	unprogrammed := games
	unprogrammed.Kernel, unprogrammed.Targets = nil, nil
	counted := outcome.Forwarded{Ends: map[outcome.End]uint64{outcome.EndDone: 10, outcome.EndUnknownName: 2}, In: 5, Out: 50}
	for _, c := range []struct {
		state   forward.State
		counted outcome.Forwarded
		want    string
	}{
		{app, counted, `{"forward":"app","listen":[":8443"],"entry":"passthrough","protocols":["tcp"],"sni":["example.com"],"balance":"weighted",` +
			`"open":3,"connections":15,"in_bytes":5,"out_bytes":50,"ends":{"done":10,"name_unknown":2},"targets":[` +
			`{"target":"192.0.2.1:443","weight":1,"dials":9,"dial_errors":8,"checks":7,"checks_failed":6,"ejections":5,"addresses":[` +
			`{"address":"192.0.2.1","state":"down","since":"2026-11-22T10:00:00Z","why":"refused","share":0,"open":1,"check":{"time":"2026-11-22T10:00:00Z","error":"` + long[:mostWhy] + `…"}}]},` +
			`{"target":"example.com:443","weight":2,"dials":4,"dial_errors":0,"checks":0,"checks_failed":0,"ejections":0,"addresses":[` +
			`{"address":"192.0.2.2","state":"up","since":"2026-11-22T10:00:00Z","share":1,"open":2,"check":{"time":"2026-11-22T10:00:00Z"}},` +
			`{"address":"192.0.2.3","state":"up","since":"2026-11-22T10:00:00Z","share":0,"open":0}]}]}`},
		{games, outcome.Forwarded{}, `{"forward":"games","listen":[":9000"],"entry":"kernel","protocols":["udp"],"balance":"weighted",` +
			`"connections":7,"in_bytes":70,"out_bytes":700,"refused_packets":2,"targets":[` +
			`{"target":"192.0.2.1:9000","weight":1,"dials":0,"dial_errors":0,"checks":0,"checks_failed":0,"ejections":0,"addresses":[` +
			`{"address":"192.0.2.1","state":"up","since":"2026-11-22T10:00:00Z","share":1,"connections":6,"in_bytes":60,"out_bytes":600}]}]}`},
		{unprogrammed, outcome.Forwarded{}, `{"forward":"games","listen":[":9000"],"entry":"kernel","protocols":["udp"],"balance":"weighted","why":"the kernel has no rules for it, as the log says",` +
			`"connections":0,"in_bytes":0,"out_bytes":0,"targets":[` +
			`{"target":"192.0.2.1:9000","weight":1,"dials":0,"dial_errors":0,"checks":0,"checks_failed":0,"ejections":0,"addresses":[]}]}`},
	} {
		got, err := json.Marshal(sayForward(c.state, c.counted))
		if err != nil || string(got) != c.want {
			t.Errorf("%v\ngot  %s\nwant %s", err, got, c.want)
		}
	}
}
