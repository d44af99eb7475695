package admin

import (
	"encoding/json"
	"net/http"
	"time"
)

// Forwards is what GET /forwards answers: the forwards of a node as they are now.
// Its length is bounded by the file, and by the addresses that are taken of a name.
type Forwards struct {
	Node     string    `json:"node"`
	Time     time.Time `json:"time"` // of the look
	Forwards []Forward `json:"forwards"`

	// Ends are the connections that came to no forward, as several share their
	// listener: by why.
	Ends map[string]uint64 `json:"ends,omitempty"`
}

// Forward is one of them. Counts are since the node began; those of the kernel
// since the forward was first programmed.
type Forward struct {
	Name      string   `json:"forward"`
	Listen    []string `json:"listen"`
	Entry     string   `json:"entry"` // passthrough or kernel
	Protocols []string `json:"protocols,omitempty"`
	SNI       []string `json:"sni,omitempty"`
	Balance   string   `json:"balance"`
	Why       string   `json:"why,omitempty"` // why there are no counts

	Open        *int64 `json:"open,omitempty"` // connections; left out where the kernel has them
	Connections uint64 `json:"connections"`    // that came: open, ended and refused ones; of the kernel, new ones that it passed on
	InBytes     uint64 `json:"in_bytes"`       // from clients, as they move; of the kernel, of IP packets
	OutBytes    uint64 `json:"out_bytes"`      // to clients

	Ends           map[string]uint64 `json:"ends,omitempty"`            // connections that ended or were refused, by how
	RefusedPackets uint64            `json:"refused_packets,omitempty"` // of new connections, by the kernel

	Targets []Target `json:"targets"`
}

// Target is one of the file. The counts are of all its addresses together.
type Target struct {
	Target       string          `json:"target"`
	Weight       int             `json:"weight"`
	Dials        int64           `json:"dials"` // connections to it that were tried
	DialErrors   int64           `json:"dial_errors"`
	Checks       int64           `json:"checks"`
	ChecksFailed int64           `json:"checks_failed"`
	Ejections    int64           `json:"ejections"` // times that failed connections left an address out
	Addresses    []TargetAddress `json:"addresses"`
}

// TargetAddress is how one address of a target does. A name without any has one
// entry, which says so.
type TargetAddress struct {
	Address string       `json:"address,omitempty"`
	State   string       `json:"state"` // up, warming, down, ejected or unresolved
	Since   time.Time    `json:"since,omitzero"`
	Why     string       `json:"why,omitempty"`   // of a state that is not up
	Share   float64      `json:"share"`           // of new connections, by the weights, as things are: 1 is all
	Open    *int64       `json:"open,omitempty"`  // connections; left out where the kernel has them
	Check   *TargetCheck `json:"check,omitempty"` // the last; nil before there is one

	Connections *uint64 `json:"connections,omitempty"` // that the kernel sent there, as are the next two
	InBytes     *uint64 `json:"in_bytes,omitempty"`
	OutBytes    *uint64 `json:"out_bytes,omitempty"`
}

// TargetCheck is what a check came to.
type TargetCheck struct {
	Time time.Time `json:"time"`
	Err  string    `json:"error,omitempty"` // "" when the address was well
}

// sayForwards answers GET /forwards.
func sayForwards(w http.ResponseWriter, forwards Forwards) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(forwards) // who asked has gone
}
