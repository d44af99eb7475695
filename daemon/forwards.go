package daemon

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/admin"
	"causeway/config"
	"causeway/forward"
	"causeway/outcome"
)

// What the forwards say of themselves goes two ways, as what the links say does:
// to whoever asks the admin address (Forwards), and to Prometheus
// (forwardCollector).

// Forwards is the state of the node's forwards and of their targets.
func (d *Daemon) Forwards() admin.Forwards {
	counted := d.counts.Forwarded()
	said := admin.Forwards{Node: d.options.Node, Time: time.Now(), Forwards: []admin.Forward{}, Ends: sayEnds(counted[""].Ends)}
	for _, f := range d.forwards.State() {
		said.Forwards = append(said.Forwards, sayForward(f, counted[f.Forward]))
	}
	return said
}

// sayForward is what is said of one, of which so much was counted.
func sayForward(f forward.State, counted outcome.Forwarded) admin.Forward {
	inKernel := f.File.Entry == config.ForwardKernel
	said := admin.Forward{
		Name: f.Forward, Listen: f.File.Listen, Entry: string(f.File.Entry), Protocols: f.File.Protocols, SNI: f.File.SNI, Balance: string(f.File.Balance),
		InBytes: counted.In, OutBytes: counted.Out, Ends: sayEnds(counted.Ends), Targets: []admin.Target{},
	}
	switch k := f.Kernel; {
	case k != nil:
		said.Connections, said.RefusedPackets, said.InBytes, said.OutBytes = k.Connections, k.Refused, k.BytesIn, k.BytesOut
	case inKernel:
		said.Why = "the kernel has no rules for it, as the log says"
	default:
		said.Open, said.Connections = &f.Open, uint64(f.Open)
		for _, n := range counted.Ends {
			said.Connections += n
		}
	}
	for i, of := range f.Totals {
		target := admin.Target{
			Target: of.Target, Weight: f.File.Targets[i].Weight, Dials: of.Dials, DialErrors: of.DialErrors,
			Checks: of.Checks, ChecksFailed: of.Failed, Ejections: of.Ejections, Addresses: []admin.TargetAddress{},
		}
		for _, at := range f.Targets {
			if at.Target == of.Target {
				target.Addresses = append(target.Addresses, sayAddress(at, inKernel))
			}
		}
		said.Targets = append(said.Targets, target)
	}
	return said
}

func sayAddress(at forward.TargetState, inKernel bool) admin.TargetAddress {
	said := admin.TargetAddress{Address: at.Address, State: string(at.State), Since: at.Since, Why: within(at.Why), Share: at.Share}
	if !inKernel {
		said.Open = &at.Open
	}
	if k := at.Kernel; k != nil {
		said.Connections, said.InBytes, said.OutBytes = &k.Connections, &k.BytesIn, &k.BytesOut
	}
	if !at.Checked.IsZero() {
		said.Check = &admin.TargetCheck{Time: at.Checked, Err: within(at.Result)}
	}
	return said
}

// sayEnds are the words of the access log; nil when there is none.
func sayEnds(ends map[outcome.End]uint64) map[string]uint64 {
	if len(ends) == 0 {
		return nil
	}
	said := make(map[string]uint64)
	for end, n := range ends {
		said[string(end)] = n
	}
	return said
}

// mostWhy is how much of an error is said: a target may have written of it what
// it wanted.
const mostWhy = 500

func within(why string) string {
	if len(why) > mostWhy {
		why = why[:mostWhy] + "…"
	}
	return strings.ToValidUTF8(why, "")
}

// forwardCollector gives the metrics of forwards when asked. Labels come from
// the file, but for address: what the DNS says of a target, of which so many are
// taken (forward.mostAddresses).
type forwardCollector struct {
	state func() []forward.State
}

func forwardDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("causeway_forward_"+name, help, append([]string{"forward"}, labels...), nil)
}

var (
	forwardOpen        = forwardDesc("connections", "Forwarded connections that are open.")
	forwardTargetOpen  = forwardDesc("target_connections", "Open connections of an address of a target.", "target", "address")
	forwardTargetState = forwardDesc("target_state", "1 for the state that an address of a target is in, 0 for the others.", "target", "address", "state")
	forwardDials       = forwardDesc("dials_total", "Connections to a target that were tried.", "target")
	forwardDialErrors  = forwardDesc("dial_errors_total", "Connections to a target that were tried and did not come about.", "target")
	forwardChecks      = forwardDesc("checks_total", "Checks of a target.", "target")
	forwardFailed      = forwardDesc("checks_failed_total", "Checks of a target that failed.", "target")
	kernelConnections  = forwardDesc("kernel_connections_total", "New connections that the kernel passed on; of UDP, flows.")
	kernelRefused      = forwardDesc("kernel_refused_total", "Packets of new connections that the kernel refused: allow does not name the client, or there is no target.")
	kernelBytes        = forwardDesc("kernel_bytes_total", "Bytes of IP packets that the kernel passed on, in from clients and out to them.", "direction")
	forwardEjections   = forwardDesc("ejections_total", "Times that failed connections left an address of a target out.", "target")
)

// Describe sends the descriptions.
func (c *forwardCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{forwardOpen, forwardTargetOpen, forwardTargetState, forwardDials, forwardDialErrors, forwardChecks, forwardFailed, forwardEjections, kernelConnections, kernelRefused, kernelBytes} {
		ch <- desc
	}
}

// Collect sends what is so now.
func (c *forwardCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, f := range c.state() {
		gauge(forwardOpen, float64(f.Open), f.Forward)
		for _, at := range f.Targets {
			gauge(forwardTargetOpen, float64(at.Open), f.Forward, at.Target, at.Address)
			for _, word := range forward.TargetWords {
				is := 0.0
				if word == at.State {
					is = 1
				}
				gauge(forwardTargetState, is, f.Forward, at.Target, at.Address, string(word))
			}
		}
		if k := f.Kernel; k != nil {
			counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
				ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
			}
			counter(kernelConnections, k.Connections, f.Forward)
			counter(kernelRefused, k.Refused, f.Forward)
			counter(kernelBytes, k.BytesIn, f.Forward, "in")
			counter(kernelBytes, k.BytesOut, f.Forward, "out")
		}
		for _, of := range f.Totals {
			for _, counter := range []struct {
				desc  *prometheus.Desc
				value int64
			}{{forwardDials, of.Dials}, {forwardDialErrors, of.DialErrors}, {forwardChecks, of.Checks}, {forwardFailed, of.Failed}, {forwardEjections, of.Ejections}} {
				ch <- prometheus.MustNewConstMetric(counter.desc, prometheus.CounterValue, float64(counter.value), f.Forward, of.Target)
			}
		}
	}
}
