package admin

import (
	"encoding/json"
	"net/http"
	"time"

	"causeway/cert"
)

// Certificates is what GET /certificates answers: those that a node shows, as
// they are now.
type Certificates struct {
	Node         string       `json:"node,omitempty"`
	Time         time.Time    `json:"time"`
	Certificates []cert.State `json:"certificates"`
}

// sayCertificates answers GET /certificates.
func sayCertificates(w http.ResponseWriter, of Certificates) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(of) // who asked has gone
}
