package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
)

// received is what the origin got of a body.
type received struct {
	Body    string
	Length  int64 // -1: none was said
	Fields  map[string]string
	Trailer http.Header
}

// receive answers with what it got, as bytes that nobody rewrites. A form is
// read as Go's own server does it.
func receive(w http.ResponseWriter, r *http.Request) {
	got := received{Length: r.ContentLength, Fields: map[string]string{}}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for name, values := range r.MultipartForm.Value {
			got.Fields[name] = values[0]
		}
		for name, files := range r.MultipartForm.File {
			got.Fields[name] = fmt.Sprint(files[0].Filename, " ", files[0].Size)
		}
	} else {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		got.Body = string(body)
	}
	got.Trailer = r.Trailer
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = json.NewEncoder(w).Encode(got)
}

func (a answer) received(t *testing.T) (got received) {
	t.Helper()
	if err := json.Unmarshal(a.body, &got); err != nil {
		t.Fatalf("%s: %v in %q", a.Status, err, a.body)
	}
	return got
}

// TestRequestBodies: what a client sends says the origin's names to the origin,
// with the right length, with and without an expectation; a long upload keeps its
// length, other long bodies lose theirs.
func TestRequestBodies(t *testing.T) {
	origin := serve(map[string]http.HandlerFunc{
		"/":        receive,
		"/refuses": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusExpectationFailed) },
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		post := func(kind, body string, fields ...string) answer {
			t.Helper()
			return do(t, w.client, newRequest(t, http.MethodPost, w.url("/"), strings.NewReader(body), append(fields, "Content-Type: "+kind)...))
		}
		names := strings.NewReplacer(w.public, w.origin)
		form := "back=https%3A%2F%2F" + w.public + "%2F&x=1"
		if got := post("application/x-www-form-urlencoded", form).received(t); got.Body != names.Replace(form) || got.Length != int64(len(got.Body)) {
			t.Errorf("a form came as %+v", got)
		}
		for _, size := range []int{100, 500 << 10, 3 << 20} {
			text := fmt.Sprintf(`{"at":"https:\/\/%s\/","more":%q}`, w.public, strings.Repeat("x", size))
			got := post("application/json", text).received(t)
			if got.Body != names.Replace(text) || got.Length != int64(len(got.Body)) && size < 1<<20 {
				t.Errorf("JSON of %d bytes came as %d, length %d", len(text), len(got.Body), got.Length)
			}
			upload := "--b\r\nContent-Disposition: form-data; name=\"at\"\r\n\r\nhttps://" + w.public + "/\r\n" +
				"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"https://" + w.public + "/a\"\r\n\r\n" + text + "\r\n--b--\r\n"
			got = post("multipart/form-data; boundary=b", upload).received(t)
			if got.Fields["at"] != "https://"+w.origin+"/" || got.Fields["file"] != fmt.Sprintf("a %d", len(text)) || got.Length != int64(len(upload)+len(w.origin)-len(w.public)) {
				t.Errorf("an upload of %d bytes came as %v, length %d", len(upload), got.Fields, got.Length)
			}
			continued := false
			req := newRequest(t, http.MethodPost, w.url("/"), strings.NewReader(text), "Content-Type: text/plain", "Expect: 100-continue")
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }}))
			if got := do(t, w.client, req).received(t); got.Body != names.Replace(text) || !continued {
				t.Errorf("after an expectation %d bytes came as %d, continued %v", len(text), len(got.Body), continued)
			}
		}
		if a := do(t, w.client, newRequest(t, http.MethodPost, w.url("/refuses"), strings.NewReader(form), "Content-Type: text/plain", "Expect: 100-continue")); a.StatusCode != http.StatusExpectationFailed {
			t.Errorf("a refusal came as %s", a.Status)
		}
		req := newRequest(t, http.MethodPost, w.url("/"), struct{ io.Reader }{strings.NewReader("https://" + w.public + "/")}, "Content-Type: text/plain")
		req.Trailer = http.Header{"X-Sum": {"def"}}
		if got := do(t, w.client, req).received(t); got.Body != "https://"+w.origin+"/" || got.Trailer.Get("X-Sum") != "def" {
			t.Errorf("a body with a trailer came as %+v", got)
		}
	})
}
