package daemon

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/admin"
	"causeway/config"
	"causeway/link"
)

// What the paths of an edge carry is metered, and priced as the file says:
//
//  1. meterLinks looks once in a link.MeterWindow, so that each is counted,
//  2. bills is what has been counted up to now, for Links and for the metrics.

// meterLinks looks at the links at the end of each window until ctx ends.
func (d *Daemon) meterLinks(ctx context.Context) {
	for {
		now := time.Now()
		timer := time.NewTimer(now.Truncate(link.MeterWindow).Add(link.MeterWindow).Sub(now))
		select {
		case <-timer.C:
			d.meter.Look(time.Now(), d.group.Load().State())
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// bills are those of states, in their order.
func (d *Daemon) bills(now time.Time, states []link.PathState) []admin.Bill {
	bills := make([]admin.Bill, 0, len(states))
	for _, u := range d.meter.Look(now, states) {
		bill := admin.Bill{
			Since: u.Since, SentBytes: u.Sent, ReceivedBytes: u.Received,
			PeakBitsPerSecond: u.Peak, PeakAt: u.PeakAt,
		}
		if price := d.price(u.Relay, u.Via); price.Known() {
			bill.Currency, bill.ByRate, bill.ByBytes = price.Currency, price.ByRate(u.Peak), price.ByBytes(u.Month(now))
		}
		bills = append(bills, bill)
	}
	return bills
}

// price is that of a path of this node, nil without one.
func (d *Daemon) price(relay, via string) *config.Price {
	for _, l := range *d.prices.Load() {
		if l.To == relay && l.Via == via {
			return l.Price
		}
	}
	return nil
}

// billCollector gives the bills as metrics.
type billCollector struct {
	paths func() []link.PathState
	bills func(time.Time, []link.PathState) []admin.Bill
}

var (
	billPeak = linkDesc("path_peak_bits_per_second", "Bits a second of the busiest five minutes of the last thirty days, in the busier direction.")
	billCost = linkDesc("path_month_cost", "What a month like the last thirty days costs, by the price in the file.", "by", "currency")
)

// Describe sends the descriptions.
func (c *billCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- billPeak
	descs <- billCost
}

// Collect counts up to now.
func (c *billCollector) Collect(out chan<- prometheus.Metric) {
	states := c.paths()
	for i, bill := range c.bills(time.Now(), states) {
		p := pathMetrics{out, []string{states[i].Relay, states[i].Via}}
		p.gauge(billPeak, bill.PeakBitsPerSecond)
		if bill.Currency != "" {
			p.gauge(billCost, bill.ByRate, "rate", bill.Currency)
			p.gauge(billCost, bill.ByBytes, "bytes", bill.Currency)
		}
	}
}
