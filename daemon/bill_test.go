package daemon

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"causeway/config"
	"causeway/link"
)

// A path with a price has what a month costs, by its rate and by its bytes; one
// without has its rate alone.
func TestBills(t *testing.T) {
	d := new(Daemon)
	d.prices.Store(&[]*config.Link{{To: "virginia-1", Via: "a:1", Price: &config.Price{PerMbpsMonth: 120, PerGB: 1, Currency: "CNY"}}, {To: "virginia-1", Via: "b:1"}})
	states := []link.PathState{{Relay: "virginia-1", Via: "a:1"}, {Relay: "virginia-1", Via: "b:1"}}
	start := time.Now().Truncate(link.MeterWindow).Add(-time.Hour)
	d.bills(start, states)
	for i := range states {
		states[i].Totals = link.Totals{Sent: 75_000_000, Received: 3_750_000_000} // 100 Mbit/s
	}
	bills := d.bills(start.Add(time.Minute), states)
	if b := bills[0]; b.ByRate != 12000 || b.ByBytes < 3.82*60*24*30 || b.ByBytes > 3.83*60*24*30 || b.Currency != "CNY" {
		t.Errorf("with a price: %+v", b)
	}
	if b := bills[1]; b.ByRate != 0 || b.Currency != "" || b.PeakBitsPerSecond != 1e8 || b.ReceivedBytes != 3_750_000_000 {
		t.Errorf("without: %+v", b)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&billCollector{paths: func() []link.PathState { return states }, bills: d.bills})
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`causeway_link_path_peak_bits_per_second{peer="virginia-1",via="b:1"} 1e+08`,
		`causeway_link_path_month_cost{by="rate",currency="CNY",peer="virginia-1",via="a:1"} 12000`,
		`causeway_link_path_month_cost{by="bytes",currency="CNY",peer="virginia-1",via="a:1"}`,
	} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("there is no %s in\n%s", line, w.Body)
		}
	}
}
