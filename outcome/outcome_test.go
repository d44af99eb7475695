package outcome

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Every Kind that is declared has a row in the table, and a status that an
// HTTP server may send.
func TestTableIsComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "outcome.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || fmt.Sprint(spec.Type) != "Kind" || len(spec.Values) != 1 {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		kinds++
		entry, ok := Table[Kind(text)]
		if !ok || entry.Status < 200 || entry.Status > 599 || (entry.Say == "" && text != "" && Kind(text) != ClientGone) {
			t.Errorf("kind %q: row %+v", text, entry)
		}
		return true
	})
	if kinds != len(Table) || kinds < 10 {
		t.Errorf("%d kinds, %d rows", kinds, len(Table))
	}
}

func TestKindOf(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{nil, OK},
		{cause, Internal},
		{context.Canceled, ClientGone},
		{fmt.Errorf("read: %w", context.Canceled), ClientGone},
		{Errorf(OriginDial, "dial: %w", cause), OriginDial},
		{fmt.Errorf("fetch: %w", Errorf(OriginSlow, "wait: %w", context.Canceled)), OriginSlow},
		{Errorf(LinkCut, "send: %w", Errorf(OriginDial, "dial")), LinkCut},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
	if entry := EntryOf("from a newer node"); entry.Status != 500 {
		t.Errorf("an unknown kind: %+v", entry)
	}
}

func TestAbortKeepsWhatWasSent(t *testing.T) {
	rec := Record{Status: 200}
	rec.Abort(Errorf(OriginCut, "read"))
	if rec.Status != 200 || rec.Kind != OriginCut {
		t.Errorf("got %d %s", rec.Status, rec.Kind)
	}
	rec.Abort(Errorf(ClientGone, "write"))
	if rec.Status != StatusClientGone {
		t.Errorf("a client that left: %d", rec.Status)
	}
}

// A line is one JSON object whatever the client sent, and holds no query.
func TestAccessLog(t *testing.T) {
	var out bytes.Buffer
	log := NewAccessLog(&out)
	log.Emit(&Record{
		Start: time.Now(), Node: "edge-1", Role: "edge", Site: "shop", RequestID: "1", Client: "::1",
		Method: "GET\n\"", Host: "exa\x00mple", Path: "/\xff\"\n{}", Status: 502, Kind: OriginDial,
		Err: errors.New("dial\nfailed"), Origin: 1500 * time.Microsecond,
	})
	if strings.Count(out.String(), "\n") != 1 {
		t.Fatalf("not one line: %q", out.String())
	}
	var line struct {
		Level, Kind, Err, Node string
		Status                 int
		MS                     map[string]float64
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "ERROR" || line.Kind != "origin_dial" || line.Status != 502 || line.MS["origin"] != 1.5 || line.Node != "edge-1" {
		t.Errorf("got %+v", line)
	}
}

// What clients send makes no new labels.
func TestMetricsAreBounded(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(registry)
	for i := range 100 {
		m.Emit(&Record{Role: "edge", Site: "shop", Method: fmt.Sprint("M", i), Host: fmt.Sprint(i), Path: fmt.Sprint(i), Status: 200, BytesOut: 10, Kind: Kind(fmt.Sprint("k", i))})
	}
	if n, err := testutil.GatherAndCount(registry, "causeway_request_failures_total"); err != nil || n != 1 {
		t.Errorf("%d series of failures, %v", n, err)
	}
	if n, err := testutil.GatherAndCount(registry, "causeway_requests_total"); err != nil || n != 1 {
		t.Errorf("%d series, %v", n, err)
	}
	if got := testutil.ToFloat64(m.out.WithLabelValues("edge", "shop")); got != 1000 {
		t.Errorf("counted %v bytes", got)
	}
}

// The page names the id and nothing of the inside.
func TestPage(t *testing.T) {
	for kind := range Table {
		if kind == OK || kind == ClientGone {
			continue
		}
		w := httptest.NewRecorder()
		WritePage(w, "GET", kind, "4711")
		body := w.Body.String()
		if w.Code != Table[kind].Status || !strings.Contains(body, "4711") || (strings.Contains(string(kind), "_") && strings.Contains(body, string(kind))) || strings.Contains(body, "%!") {
			t.Errorf("%s: %d %s", kind, w.Code, body)
		}
	}
	w := httptest.NewRecorder()
	WritePage(w, "HEAD", OriginDial, "1")
	if w.Body.Len() != 0 {
		t.Error("a HEAD got a body")
	}
}

// The bytes of hits are told apart by where they were.
func TestCacheBytesByTier(t *testing.T) {
	m := NewMetrics(prometheus.NewPedanticRegistry())
	for tier, n := range map[string]int64{"memory": 10, "disk": 20} {
		m.Emit(&Record{Role: "edge", Site: "shop", Method: "GET", Status: 200, BytesOut: n, Cache: "hit", CacheTier: tier})
		if got := testutil.ToFloat64(m.cachedBytes.WithLabelValues("shop", "hit", tier)); got != float64(n) {
			t.Errorf("%s: counted %v bytes", tier, got)
		}
	}
}

// What was counted of forwards can be asked for; sites that pass through, and the
// connections that came to no forward, are apart.
func TestForwarded(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	for _, rec := range []Connection{
		{Forward: "app", End: EndDone}, {Forward: "app", End: EndDone}, {Forward: "app", End: EndDialFailed},
		{End: EndUnknownName}, {Passed: true, Site: "app", End: EndDone},
	} {
		m.EmitConnection(&rec)
	}
	m.Moving(&Connection{Forward: "app"})(12, 345)
	m.Moving(&Connection{Forward: "games"})(1, 0)
	m.Moving(&Connection{Passed: true, Site: "app"})(7, 7)
	want := map[string]Forwarded{
		"app":   {Ends: map[End]uint64{EndDone: 2, EndDialFailed: 1}, In: 12, Out: 345},
		"games": {In: 1},
		"":      {Ends: map[End]uint64{EndUnknownName: 1}},
	}
	if got := m.Forwarded(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
