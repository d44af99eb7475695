package daemon

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"causeway/edge"
)

// metrics are the node's own.
type metrics struct {
	reloadOK   prometheus.Gauge
	reloadTime prometheus.Gauge
}

func newMetrics(registry *prometheus.Registry, links *linkCollector) metrics {
	m := metrics{
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_config_last_reload_successful", Help: "1 when the file was last read without an error; on 0 the node serves the file before."}),
		reloadTime: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "causeway_config_last_reload_success_timestamp_seconds", Help: "When the file that is served was read, Unix time."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "causeway_build_info", Help: "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": Version(), "go": runtime.Version()}})
	build.Set(1)
	registry.MustRegister(m.reloadOK, m.reloadTime, build, links,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// passingCollector gives the metric of connections that pass through when asked.
// Labels come from the file. At a relay there are none.
type passingCollector struct{ edge *atomic.Pointer[edge.Server] }

var passingOpen = prometheus.NewDesc("causeway_passed_connections", "Connections of sites that pass through that are open.", []string{"site"}, nil)

// Describe sends the description.
func (c passingCollector) Describe(descs chan<- *prometheus.Desc) { descs <- passingOpen }

// Collect sends what is so now.
func (c passingCollector) Collect(out chan<- prometheus.Metric) {
	server := c.edge.Load()
	if server == nil {
		return
	}
	for site, open := range server.Passing() {
		out <- prometheus.MustNewConstMetric(passingOpen, prometheus.GaugeValue, float64(open), site)
	}
}

// reloaded notes how reading the file went.
func (m metrics) reloaded(err error) {
	if err != nil {
		m.reloadOK.Set(0)
		return
	}
	m.reloadOK.Set(1)
	m.reloadTime.Set(float64(time.Now().Unix()))
}
