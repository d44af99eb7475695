package outcome

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// slogLine is the line that log/slog makes of a record.
func slogLine(rec *Record) string {
	var out bytes.Buffer
	line := slog.NewRecord(rec.Start, rec.level(), "request", 0)
	add := func(name, value string) { line.AddAttrs(slog.String(name, value)) }
	if rec.Node != "" {
		add("node", rec.Node)
	}
	add("role", rec.Role)
	add("site", rec.Site)
	add("id", rec.RequestID)
	add("client", rec.Client)
	add("method", rec.Method)
	add("scheme", rec.Scheme)
	add("host", rec.Host)
	add("path", rec.Path)
	add("proto", rec.Proto)
	line.AddAttrs(slog.Int("status", rec.Status), slog.Int64("in", rec.BytesIn), slog.Int64("out", rec.BytesOut))
	add("cache", rec.Cache)
	if rec.Relay != "" {
		add("relay", rec.Relay)
		if rec.Via != "" {
			add("via", rec.Via)
		}
		line.AddAttrs(slog.Group("link", slog.Int64("in", rec.LinkIn), slog.Int64("out", rec.LinkOut)))
	}
	ms := func(name string, d time.Duration) any { return slog.Float64(name, float64(d.Microseconds())/1000) }
	line.AddAttrs(slog.Group("ms", ms("connect", rec.Connect), ms("origin", rec.Origin), ms("answered", rec.Answered), ms("total", rec.Total)))
	if rec.Unmapped != "" {
		add("unmapped", rec.Unmapped)
	}
	if rec.Kind != OK {
		add("kind", string(rec.Kind))
	}
	if rec.Err != nil {
		add("err", rec.Err.Error())
	}
	_ = slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}).Handle(context.Background(), line)
	return out.String()
}

// tokens are what a line says, in its order.
func tokens(t *testing.T, line string) (all []any) {
	t.Helper()
	if !strings.HasSuffix(line, "}\n") || strings.Count(line, "\n") != 1 || !utf8.ValidString(line) {
		t.Fatalf("not one line: %q", line)
	}
	decoder := json.NewDecoder(strings.NewReader(line))
	for {
		token, err := decoder.Token()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, token)
	}
}

// The lines say what log/slog would.
func TestLinesAreSlogs(t *testing.T) {
	every := new(strings.Builder)
	for r := rune(0); r < 0x3000; r++ {
		every.WriteRune(r)
	}
	texts := []string{"", "/a?b&<c>", "\x00\x1f\x7f\b\f\n\r\t\"\\/", "\xff\xc3", "商店\u2028\u2029\u2030", "\U0001f375", "\ufffd", every.String(), strings.Repeat("x", 3*8<<10)}
	durations := []time.Duration{0, 1, time.Microsecond, 1500 * time.Microsecond, 999999 * time.Microsecond, 61 * time.Second, 1000 * time.Hour, -3 * time.Microsecond}
	zones := []*time.Location{time.UTC, time.FixedZone("", 8*3600), time.FixedZone("", -5400)}
	kind := make([]Kind, 0, len(Table))
	for k := range Table {
		kind = append(kind, k)
	}
	for i := range 120 {
		text := func(n int) string { return texts[(i*7+n*3)%len(texts)] }
		took := func(n int) time.Duration { return durations[(i*5+n)%len(durations)] }
		rec := &Record{
			Start: time.Unix(int64(i)*1e6, int64(i%4)*123456789/7).In(zones[i%len(zones)]), Node: text(0), Role: text(1), Site: text(2),
			RequestID: text(3), Client: text(4), Method: text(5), Scheme: text(6), Host: text(7), Path: text(8), Proto: text(9),
			Status: i, BytesIn: int64(i) << 40, BytesOut: -int64(i), Cache: text(10), Relay: text(11), Via: text(11), LinkIn: int64(i) << 30, LinkOut: int64(i), Unmapped: text(12), Kind: kind[i%len(kind)],
			Connect: took(0), Origin: took(1), Answered: took(2), Total: took(3),
		}
		if i%2 == 0 {
			rec.Err = errors.New(text(12))
		}
		var out bytes.Buffer
		NewAccessLog(&out).Emit(rec)
		if want := slogLine(rec); !slices.Equal(tokens(t, out.String()), tokens(t, want)) {
			t.Fatalf("record %d\n got %.2000s\nwant %.2000s", i, out.String(), want)
		}
	}
}

// Lines of a moment are written together, each whole and in their order, the first of
// them at once; after a quiet while the next is too.
func TestLinesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out writes
		log := NewAccessLog(&out)
		emit := func(path string) { log.Emit(&Record{Status: 200, Path: path}) }
		for i := range 100 {
			emit(fmt.Sprint("/", i))
			time.Sleep(gatherTime / 10)
			synctest.Wait()
		}
		time.Sleep(2 * gatherTime)
		synctest.Wait()
		all := out.take()
		if len(all) < 10 || len(all) > 12 || strings.Count(all[0], "\n") != 1 {
			t.Errorf("100 lines in ten times gatherTime were written in %d pieces, the first %q", len(all), all[0])
		}
		for i, line := range strings.Split(strings.TrimSuffix(strings.Join(all, ""), "\n"), "\n") {
			if !strings.Contains(line, fmt.Sprintf(`"path":"/%d"`, i)) || !json.Valid([]byte(line)) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		emit("/one")
		if all := out.take(); len(all) != 1 {
			t.Errorf("after a while a line is not written at once: %q", all)
		}
		emit("/two")
		if all := out.take(); len(all) != 0 {
			t.Errorf("the line after it is: %q", all)
		}
		log.Close(time.Second)
		if all := out.take(); len(all) != 1 || !strings.Contains(all[0], "/two") {
			t.Errorf("Close wrote %q", all)
		}
		emit("/three")
		if all := out.take(); len(all) != 1 || !strings.Contains(all[0], "/three") {
			t.Errorf("after Close a line is not written at once: %q", all)
		}
		time.Sleep(2 * gatherTime)
		synctest.Wait()
		if all := out.take(); len(all) != 0 {
			t.Errorf("it was written again: %q", all)
		}
	})
}

// blocked takes what is written when it is let.
type blocked chan bool

func (b blocked) Write(p []byte) (int, error) {
	<-b
	return len(p), nil
}

// A writer that takes nothing holds up whoever logs, and not the end of a node.
func TestLogThatNobodyReads(t *testing.T) {
	out := make(blocked)
	log := NewAccessLog(out)
	emitted := make(chan bool)
	go func() {
		log.Emit(&Record{Status: 200})
		close(emitted)
	}()
	out <- true // it is at writing, and may go on
	<-emitted
	go log.Emit(&Record{Status: 200}) // gathered, or at writing if this was slow
	closed := make(chan bool)
	go func() {
		log.Close(50 * time.Millisecond)
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("Close waits for the writer")
	}
	close(out)
}

// No more is gathered than a pipe takes at once, however fast lines come; of a file
// more.
func TestLinesGatheredAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out writes
		log := NewAccessLog(&out)
		for range 1000 {
			log.Emit(&Record{Status: 200, Path: strings.Repeat("a", 1000)})
		}
		log.Emit(&Record{Status: 200, Path: strings.Repeat("a", 2*gatherPipe)}) // longer than all
		log.Close(time.Second)
		all := out.take()
		lines := 0
		for i, piece := range all {
			lines += strings.Count(piece, "\n")
			if len(piece) > gatherPipe && i < len(all)-1 || !strings.HasSuffix(piece, "\n") {
				t.Errorf("piece %d has %d bytes", i, len(piece))
			}
		}
		if lines != 1001 {
			t.Errorf("%d lines of 1001", lines)
		}
	})
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	if most := [2]int{NewAccessLog(file).most, NewAccessLog(write).most}; most != [2]int{gatherFile, gatherPipe} {
		t.Errorf("a file and a pipe: %d", most)
	}
}

// writes keeps each write.
type writes struct {
	mu  sync.Mutex
	all []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	return len(p), nil
}

func (w *writes) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

func BenchmarkAccessLog(b *testing.B) {
	rec := &Record{
		Start: time.Now(), Role: "edge", Site: "shop", RequestID: NewRequestID(), Client: "198.51.100.7", Method: "GET", Scheme: "https",
		Host: "example.cn", Path: "/tea/longjing", Proto: "HTTP/2.0", Status: 200, BytesOut: 40960, Cache: "none",
		Origin: 1234 * time.Microsecond, Answered: 1534 * time.Microsecond, Total: 2 * time.Millisecond,
	}
	log := NewAccessLog(io.Discard)
	b.ReportAllocs()
	for b.Loop() {
		log.Emit(rec)
	}
}
