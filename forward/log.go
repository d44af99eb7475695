package forward

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// A log may be a pipe that nobody reads. So that it holds up no loop, and nobody who
// has the mutex of a pool, lines are written by a goroutine.
//
//  1. lines.Handle takes a line, and never waits: with linesMost before it, it is
//     counted and gone,
//  2. lineWriter.run writes them, one after the other, and says how many are gone.

// linesMost wait to be written.
const linesMost = 256

// lines is a slog.Handler that has another's lines written later.
type lines struct {
	slog.Handler
	writer *lineWriter
}

// lineWriter writes them.
type lineWriter struct {
	once   sync.Once // starts it
	ended  sync.Once
	waits  chan func()
	over   chan struct{}
	done   chan struct{}
	lost   atomic.Int64
	origin *slog.Logger
}

func newLineWriter(to *slog.Logger) *lineWriter {
	return &lineWriter{waits: make(chan func(), linesMost), over: make(chan struct{}), done: make(chan struct{}), origin: to}
}

// logger is the log, without the waiting.
func (w *lineWriter) logger() *slog.Logger { return slog.New(lines{w.origin.Handler(), w}) }

// Handle is of slog.Handler.
func (l lines) Handle(_ context.Context, record slog.Record) error {
	w := l.writer
	w.once.Do(func() { go w.run() })
	record = record.Clone()
	select {
	case w.waits <- func() { _ = l.Handler.Handle(context.Background(), record) }:
	default:
		w.lost.Add(1)
	}
	return nil
}

// WithAttrs is of slog.Handler.
func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lines{l.Handler.WithAttrs(attrs), l.writer}
}

// WithGroup is of slog.Handler.
func (l lines) WithGroup(name string) slog.Handler { return lines{l.Handler.WithGroup(name), l.writer} }

func (w *lineWriter) run() {
	defer close(w.done)
	for {
		select {
		case write := <-w.waits:
			write()
		case <-w.over:
			for len(w.waits) > 0 {
				(<-w.waits)()
			}
			return
		}
		if lost := w.lost.Swap(0); lost > 0 {
			w.origin.Warn("lines of forwards are lost, as the log was not read", "lines", lost)
		}
	}
}

// close has what waits written, but waits not for ever for a log that takes nothing.
func (w *lineWriter) close() {
	w.once.Do(func() { close(w.done) })
	w.ended.Do(func() { close(w.over) })
	select {
	case <-w.done:
	case <-time.After(recordsWait):
	}
}
