package edge

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// TicketSecrets gives the secrets from which the keys of session tickets are
// made (RFC 5077, RFC 8446 section 4.6.1). Edges that share them resume each
// other's sessions.
type TicketSecrets interface {
	// Secrets are those of a time, the newest first: it seals tickets, and all
	// open them. The slice is not changed afterwards, and epoch is another
	// whenever the secrets are. It is called for each handshake, at once from
	// any goroutine.
	Secrets(now time.Time) (epoch int64, secrets [][sha256.Size]byte)
}

const (
	// ticketEpoch is how long a secret seals. Who takes the memory of a process
	// can read the TLS 1.2 connections that were resumed with what is in it.
	ticketEpoch = 8 * time.Hour
	// ticketEpochs is how many epochs a secret opens: a visitor of yesterday at
	// this time is known yet.
	ticketEpochs = 4
)

// ownTickets are the secrets of this process: random, and nowhere else.
type ownTickets struct {
	mu      sync.Mutex // guards the rest
	epoch   int64
	made    []int64 // the epoch of each of secrets
	secrets [][sha256.Size]byte
}

// Secrets is of TicketSecrets. A clock that goes back changes nothing.
func (o *ownTickets) Secrets(now time.Time) (int64, [][sha256.Size]byte) {
	epoch := now.Unix() / int64(ticketEpoch/time.Second)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.secrets != nil && epoch <= o.epoch {
		return o.epoch, o.secrets
	}
	var fresh [sha256.Size]byte
	_, _ = rand.Read(fresh[:]) // it never fails
	keep := 0
	for keep < len(o.made) && o.made[keep] > epoch-ticketEpochs {
		keep++
	}
	o.epoch = epoch
	o.made = append([]int64{epoch}, o.made[:keep]...)
	o.secrets = append([][sha256.Size]byte{fresh}, slices.Clone(o.secrets[:keep])...)
	return o.epoch, o.secrets
}

// ticketKeys are the keys of the tickets of one door: no other door opens them.
func ticketKeys(secrets [][sha256.Size]byte, door string) [][32]byte {
	keys := make([][32]byte, len(secrets))
	for i := range secrets {
		mac := hmac.New(sha256.New, secrets[i][:])
		mac.Write([]byte("causeway session tickets\x00" + door))
		mac.Sum(keys[i][:0])
	}
	return keys
}
