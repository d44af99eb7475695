package audit

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestTargets: only the forwards of the node are asked for, a target without
// weight serves nobody, and what there was no time for is said.
func TestTargets(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	cfg := file(t, fmt.Sprintf(`
pki: pki
nodes:
  - {name: a, role: edge, region: cn, listen: {https: ":443"}}
  - {name: b, role: edge, region: cn, listen: {https: ":443"}}
  - {name: r, role: relay, region: us, listen: {link: ":7443"}, address: "203.0.113.7:7443"}
forwards:
  - {name: ours, nodes: [a], listen: ":8443", targets: [{to: %[1]q, weight: 0}, %[2]q]}
  - {name: theirs, nodes: [b], listen: ":8443", targets: [%[2]q]}
sites: [{name: s, entry: passthrough, hosts: {example.cn: "https://example.com"}, tls: {cert: c, key: k}}]
`, socket.Addr(), gone.Addr()))
	for _, c := range []struct {
		node    string
		timeout time.Duration
		asked   int
		want    string
	}{
		{"a", time.Minute, 2, fmt.Sprintf("forward ours: target %[1]v: error: target: check %[1]v: ", gone.Addr())},
		{"b", time.Minute, 1, fmt.Sprintf("forward theirs: target %[1]v: error: target: check %[1]v: ", gone.Addr())},
		{"r", time.Minute, 0, ""},
		{"b", -1, 0, fmt.Sprintf("forward theirs: target %v: error: not_asked: not asked: the time was over before its turn; give more with --timeout", gone.Addr())},
	} {
		node, err := cfg.Node(c.node)
		if err != nil {
			t.Fatal(err)
		}
		report, err := Targets(t.Context(), cfg, node, Options{Timeout: c.timeout})
		if err != nil || report.Asked != c.asked || (len(report.Findings) > 0) != (c.want != "") {
			t.Errorf("node %s: %+v, %v", c.node, report, err)
			continue
		}
		for _, finding := range report.Findings {
			if !strings.HasPrefix(finding.String(), c.want) {
				t.Errorf("node %s: %s", c.node, finding)
			}
		}
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	node, _ := cfg.Node("a")
	if report, err := Targets(cut, cfg, node, Options{Timeout: time.Minute}); err == nil || report.Asked != 0 || len(report.Findings) != 0 {
		t.Errorf("cut: %+v, %v", report, err)
	}
}
