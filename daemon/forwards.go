package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"causeway/forward"
)

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
