package admin

import (
	"encoding/json"
	"net/http"
	"time"
)

// Links is what GET /links answers: the links of a node as they are now.
type Links struct {
	Node  string    `json:"node"`
	Time  time.Time `json:"time"` // of the look: two of them give rates
	Paths []Path    `json:"paths"`
}

// Path is one way from this node to a relay; at a relay, an edge that dialled
// it. Counts are since the node knows of it, and over all its connections.
type Path struct {
	Relay  string  `json:"relay,omitempty"` // at an edge
	Edge   string  `json:"edge,omitempty"`  // at a relay
	Via    string  `json:"via,omitempty"`   // the address dialled
	Prefer int     `json:"prefer,omitempty"`
	Weight float64 `json:"weight,omitempty"`
	State  string  `json:"state"`         // up, down, ejected, draining or warming
	Why    string  `json:"why,omitempty"` // of a state that is not up

	LatencyMS float64 `json:"latency_ms,omitempty"` // of a round trip to the relay and back over HTTP/2, smoothed
	InFlight  int     `json:"in_flight"`            // requests
	Requests  uint64  `json:"requests"`             // at a relay: that came; else: tries that went this way
	Failures  uint64  `json:"failures"`             // … that the path failed
	Retries   uint64  `json:"retries"`              // … that another connection or path had failed before
	Hedges    uint64  `json:"hedges"`               // … beside a slow one
	Ejections uint64  `json:"ejections"`
	Failovers uint64  `json:"failovers"` // requests that went over a path of a greater prefer in place of this one

	Opened          uint64  `json:"opened"` // connections, so far
	SentBytes       uint64  `json:"sent_bytes"`
	ReceivedBytes   uint64  `json:"received_bytes"`
	Segments        uint64  `json:"segments,omitempty"`          // of data, sent; this and what follows as far as the kernel says
	Retransmits     uint64  `json:"retransmits,omitempty"`       // segments sent again
	Lost            uint64  `json:"lost,omitempty"`              // … that the peer did not have
	WindowLimitedMS float64 `json:"window_limited_ms,omitempty"` // the peer's window held up what was to be sent
	BufferLimitedMS float64 `json:"buffer_limited_ms,omitempty"` // the socket's buffer did

	Bill *Bill `json:"bill,omitempty"` // at an edge

	Connections []Connection `json:"connections"` // those that are open
}

// Connection is one of a Path. What only the kernel knows is left out where it
// does not say: then Congestion is empty.
type Connection struct {
	Slot          int       `json:"slot"`
	Local         string    `json:"local"`
	Remote        string    `json:"remote"`
	Since         time.Time `json:"since"`
	Streams       int       `json:"streams"`
	Bulk          bool      `json:"bulk"` // carries a long body now
	SentBytes     uint64    `json:"sent_bytes"`
	ReceivedBytes uint64    `json:"received_bytes"`

	PacedBytesPerSec    uint64  `json:"paced_bytes_per_second,omitempty"` // what its sending is held to, so that it fills no queue
	Congestion          string  `json:"congestion,omitempty"`
	RTTMS               float64 `json:"rtt_ms,omitempty"`
	MinRTTMS            float64 `json:"min_rtt_ms,omitempty"`
	Segments            uint64  `json:"segments,omitempty"`
	Retransmits         uint64  `json:"retransmits,omitempty"`
	Lost                uint64  `json:"lost,omitempty"`
	WindowSegments      uint32  `json:"window_segments,omitempty"` // the congestion window
	UnansweredSegments  uint32  `json:"unanswered_segments,omitempty"`
	UnsentBytes         uint32  `json:"unsent_bytes,omitempty"`
	DeliveryBytesPerSec uint64  `json:"delivery_bytes_per_second,omitempty"` // as lately measured
	WindowLimitedMS     float64 `json:"window_limited_ms,omitempty"`
	BufferLimitedMS     float64 `json:"buffer_limited_ms,omitempty"`
}

// Milliseconds is d as the JSON has it.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// sayLinks answers GET /links.
func sayLinks(w http.ResponseWriter, links Links) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(links) // who asked has gone
}
