package edge_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"causeway/link"
	"causeway/outcome"
)

// losing loses the first answers with their connection, after some bytes.
type losing struct {
	lose  int32
	after string
	err   error
	came  atomic.Int32
}

func (l *losing) RoundTrip(req *http.Request) (*http.Response, error) {
	const text = "whole and well"
	header := http.Header{"Content-Length": {fmt.Sprint(len(text))}, "X-Loops": req.Header["Cdn-Loop"]}
	res := &http.Response{StatusCode: 200, ContentLength: int64(len(text)), Header: header, Body: io.NopCloser(strings.NewReader(text))}
	if l.came.Add(1) <= l.lose {
		res.Header.Set("X-Lost", "1")
		res.Body = io.NopCloser(io.MultiReader(strings.NewReader(l.after), failing{l.err}))
	}
	return res, nil
}

// failing fails to read.
type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// An answer that is lost with its connection before the client has any of it is
// asked for once more, where the request may be repeated.
func TestLostAnswer(t *testing.T) {
	lost := outcome.Errorf(outcome.LinkCut, "%w: reset", link.ErrLost)
	for _, c := range []struct {
		name, method string
		lose         int32
		after        string
		err          error
		status       int
		came         int32
	}{
		{"its header came", "GET", 1, "", lost, 200, 2},
		{"a part came", "GET", 1, "whole", lost, 200, 2},
		{"twice", "GET", 2, "", lost, 502, 2},
		{"an order", "POST", 1, "", lost, 502, 1},
		{"the relay itself gave it up", "GET", 1, "", io.ErrUnexpectedEOF, 502, 1},
	} {
		for _, major := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, HTTP %d", c.name, major), func(t *testing.T) {
				over := &losing{lose: c.lose, after: c.after, err: c.err}
				handler, recs := newHandler(t, over)
				server := httptest.NewUnstartedServer(handler)
				server.EnableHTTP2 = major == 2
				server.StartTLS()
				defer server.Close()
				req, err := http.NewRequestWithContext(t.Context(), c.method, server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = "example.cn"
				res, err := server.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				if err != nil || res.ProtoMajor != major || res.StatusCode != c.status || over.came.Load() != c.came {
					t.Errorf("%s %s %q %v, asked %d times", res.Proto, res.Status, body, err, over.came.Load())
				}
				if res.StatusCode == 200 && (string(body) != "whole and well" || res.Header.Get("X-Lost") != "" || len(res.Header["X-Loops"]) != 1) {
					t.Errorf("%q %v", body, res.Header)
				}
				if rec := recs.last(); rec.Status != c.status || (rec.Kind == outcome.OK) != (c.status == 200) {
					t.Errorf("record: %d %v %v", rec.Status, rec.Kind, rec.Err)
				}
			})
		}
	}
}
