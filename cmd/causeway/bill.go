package main

import (
	"fmt"
	"strings"
	"time"

	"causeway/admin"
)

// billLines says of each path that has a price what it carried, and what a
// month of that costs.
func billLines(now admin.Links) string {
	var text strings.Builder
	for _, path := range now.Paths {
		bill := path.Bill
		if bill == nil || bill.Currency == "" {
			continue
		}
		fmt.Fprintf(&text, "%s: since %s sent %s, received %s, at most %s in five minutes; a month like that costs", pathName(path),
			bill.Since.Local().Format(time.DateTime), gigabytes(bill.SentBytes), gigabytes(bill.ReceivedBytes), bits(bill.PeakBitsPerSecond))
		var costs []string
		if bill.ByRate > 0 {
			costs = append(costs, fmt.Sprintf(" %.2f %s by its rate", bill.ByRate, bill.Currency))
		}
		if bill.ByBytes > 0 {
			costs = append(costs, fmt.Sprintf(" %.2f %s by its bytes", bill.ByBytes, bill.Currency))
		}
		if len(costs) == 0 {
			costs = []string{" nothing"}
		}
		text.WriteString(strings.Join(costs, ",") + "\n")
	}
	return text.String()
}

// gigabytes is an amount of bytes for people.
func gigabytes(bytes uint64) string {
	if bytes < 1e9 {
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}
