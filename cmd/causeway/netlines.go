package main

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// netLines takes what libraries say by the package log, as net/http's client does
// of a server that answers what nobody asked: a warning a minute, since a server
// that does may do so all the time, and the rest for those who look for it.
type netLines struct {
	logger *slog.Logger

	mu   sync.Mutex // guards last
	last time.Time
}

// netEvery is how often such a line is a warning.
const netEvery = time.Minute

// routeLog gives the lines of the package log to logger.
func routeLog(logger *slog.Logger) {
	log.SetFlags(0)
	log.SetOutput(&netLines{logger: logger})
}

// Write takes a line. What a server sent is left out of it: it may be somebody's
// page.
func (n *netLines) Write(line []byte) (int, error) {
	event, _, _ := strings.Cut(strings.TrimSpace(string(line)), " starting with ")
	if len(event) > 200 {
		event = event[:200]
	}
	n.mu.Lock()
	now := time.Now()
	level := slog.LevelDebug
	if now.Sub(n.last) >= netEvery {
		n.last, level = now, slog.LevelWarn
	}
	n.mu.Unlock()
	n.logger.Log(context.Background(), level, "connection", "event", event)
	return len(line), nil
}
