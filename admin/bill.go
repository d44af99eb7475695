package admin

import "time"

// Bill is what went over a path of an edge in the last thirty days, or since
// the node runs, and what a month like that costs, where the file has a price.
type Bill struct {
	Since             time.Time `json:"since"`
	SentBytes         uint64    `json:"sent_bytes"`
	ReceivedBytes     uint64    `json:"received_bytes"`
	PeakBitsPerSecond float64   `json:"peak_bits_per_second"` // of the busiest five minutes, in the busier direction
	PeakAt            time.Time `json:"peak_at,omitzero"`     // their beginning

	Currency string  `json:"currency,omitempty"`
	ByRate   float64 `json:"month_by_rate,omitempty"`  // a month of the peak
	ByBytes  float64 `json:"month_by_bytes,omitempty"` // thirty days like those since Since
}
