package daemon

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
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

// reloaded notes how reading the file went.
func (m metrics) reloaded(err error) {
	if err != nil {
		m.reloadOK.Set(0)
		return
	}
	m.reloadOK.Set(1)
	m.reloadTime.Set(float64(time.Now().Unix()))
}
