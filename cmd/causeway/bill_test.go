package main

import (
	"testing"
	"time"

	"causeway/admin"
)

func TestBillLines(t *testing.T) {
	since := time.Date(2026, 11, 1, 10, 0, 0, 0, time.Local)
	links := admin.Links{Paths: []admin.Path{
		{Relay: "virginia-1", Via: "a:1", Bill: &admin.Bill{Since: since, SentBytes: 2_500_000, ReceivedBytes: 71_200_000_000, PeakBitsPerSecond: 8_400_000, Currency: "CNY", ByRate: 1008, ByBytes: 56.962}},
		{Relay: "virginia-1", Via: "b:1", Bill: &admin.Bill{Since: since, Currency: "USD", ByBytes: .004}},
		{Relay: "virginia-1", Via: "c:1", Bill: &admin.Bill{Since: since, Currency: "USD"}},
		{Relay: "virginia-1", Via: "d:1", Bill: &admin.Bill{Since: since, SentBytes: 5}},
		{Edge: "shanghai-1"},
	}}
	want := `virginia-1 via a:1: since 2026-11-01 10:00:00 sent 2.5 MB, received 71.2 GB, at most 8.4 Mbit/s in five minutes; a month like that costs 1008.00 CNY by its rate, 56.96 CNY by its bytes
virginia-1 via b:1: since 2026-11-01 10:00:00 sent 0.0 MB, received 0.0 MB, at most 0 bit/s in five minutes; a month like that costs 0.00 USD by its bytes
virginia-1 via c:1: since 2026-11-01 10:00:00 sent 0.0 MB, received 0.0 MB, at most 0 bit/s in five minutes; a month like that costs nothing
`
	if got := billLines(links); got != want {
		t.Errorf("got\n%s", got)
	}
}
