package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Order is an order for certificates that a verb makes.
type Order struct {
	Site string `json:"site"` // "" is every site whose certificates are ordered by the node
	// Test orders at CA, and keeps nothing of it. Without, the certificates that
	// are shown are renewed.
	Test bool   `json:"test"`
	CA   string `json:"ca,omitempty"` // the directory for a test; "" is the staging one of the site's CA
}

// Ordered is what became of the order for one name.
type Ordered struct {
	Site     string    `json:"site"`
	Name     string    `json:"name"`
	CA       string    `json:"ca"`
	Issuer   string    `json:"issuer,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	Err      string    `json:"error,omitempty"`
}

// ErrNoOrders is for a site of which the node orders no certificates.
var ErrNoOrders = errors.New("no certificates are ordered")

// orderTime is the longest that the orders of one verb may take.
const orderTime = 20 * time.Minute

// takeOrder answers POST /certificates/order: JSON, one Ordered for each name.
func takeOrder(node Node) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var order Order
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&order); err != nil {
			http.Error(w, "read the order: "+err.Error(), http.StatusBadRequest)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(orderTime + time.Minute)) // else it ends sooner
		ctx, cancel := context.WithTimeout(r.Context(), orderTime)
		defer cancel()
		done, err := node.OrderCertificates(ctx, order)
		switch {
		case errors.Is(err, ErrNoOrders):
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(done) // who asked has gone
	}
}
