package rewrite

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What Rules.Runtime adds to a site: URLs that scripts put together in the browser never pass the
// Stream, and are mapped there.
//
//  1. Own answers the requests for two files on every public host: the script (runtime.js), and the
//     service worker that it registers (runtime_worker.js). The map stands in both (runtime_map.js).
//  2. Response puts one script element into each page (runtime_page.go), and lets the page's
//     Content-Security-Policy admit the files where it does not (runtime_policy.go).
//  3. When the rule is turned off, Own answers browsers that look for a newer worker with one that
//     takes itself out (runtime_gone.js).
var (
	//go:embed runtime_map.js
	runtimeMap string
	//go:embed runtime.js
	runtimeScript string
	//go:embed runtime_worker.js
	runtimeWorker string
	//go:embed runtime_gone.js
	runtimeGone string
)

// runtimeSources tells the versions of these files apart.
var runtimeSources = func() string {
	sum := sha256.Sum256([]byte(runtimeMap + runtimeScript + runtimeWorker))
	return base64.RawStdEncoding.EncodeToString(sum[:6])
}()

// runtimeFolder is where the files stand on each public host. Every other path below it is the
// origin's.
const runtimeFolder = "/.causeway/"

// runtimeFiles are the two files for a host map, and the version in their names: the same on every node,
// whatever the other rules of the site and its routes are.
type runtimeFiles struct {
	version        string
	script, worker []byte
	integrity      string // the script's hash, as a script element and a policy have it
}

// newRuntime writes the pairs into the files.
func newRuntime(pairs []Pair) *runtimeFiles {
	type side struct {
		Host   string `json:"host"`
		Port   string `json:"port"`
		Secure bool   `json:"secure"`
	}
	sideOf := func(b Base) side { return side{b.literal(), b.Port, b.Scheme == "https"} }
	list := make([][2]side, len(pairs))
	for i, p := range pairs {
		list[i] = [2]side{sideOf(p.Origin), sideOf(p.Public)}
	}
	slices.SortFunc(list, func(a, b [2]side) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	data, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings and booleans alone
	}
	data = bytes.ReplaceAll(data, []byte("],["), []byte("],\n  ["))
	sum := sha256.Sum256([]byte(runtimeSources + string(data)))
	r := &runtimeFiles{version: strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))}
	r.script, r.worker = r.file(data, runtimeScript), r.file(data, runtimeWorker)
	hash := sha256.Sum256(r.script)
	r.integrity = "sha256-" + base64.StdEncoding.EncodeToString(hash[:])
	return r
}

// file puts a file together.
func (r *runtimeFiles) file(pairs []byte, program string) []byte {
	return fmt.Appendf(nil, `// Causeway maps URLs in the browser because the site has "rewrite: {runtime: true}". This file names
// the origin's hosts: whoever must not read them there turns that off.
(() => {
"use strict";
const version = %q;
const pairs = %s; // [what the origin is called, what it is called here]

%s
%s})();
`, r.version, pairs, runtimeMap, program)
}

func (r *runtimeFiles) scriptPath() string { return runtimeFolder + "runtime-" + r.version + ".js" }

func (r *runtimeFiles) workerPath() string { return runtimeFolder + "worker-" + r.version + ".js" }

// runtimeName takes a file of whatever version: a node may have an older map than the page was made
// with.
var runtimeName = regexp.MustCompile(`^` + regexp.QuoteMeta(runtimeFolder) + `(runtime|worker)-[a-z2-7]{8}\.js$`)

// Own answers r, a request to a public host, when it is for a file of the rule Runtime; it is nil
// when the origin is to answer. on says whether the site, or one of its routes, has the rule; the
// files are the same for all of them.
func (m *Map) Own(r *http.Request, on bool) *http.Response {
	if !strings.HasPrefix(r.URL.Path, runtimeFolder) || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil
	}
	name := runtimeName.FindStringSubmatch(r.URL.Path)
	// A browser says when it looks for a worker (Service Workers section 3.3.1).
	forWorker := name != nil && name[1] == "worker" && r.Header.Get("Service-Worker") == "script"
	switch {
	case name == nil || !on && !forWorker:
		return nil
	case !on:
		return ownAnswer(r, []byte(runtimeGone), "no-cache", true)
	}
	files := m.runtime()
	body, cache := files.script, "public, max-age=60"
	if name[1] == "worker" {
		body = files.worker
	}
	switch r.URL.Path {
	case files.scriptPath():
		cache = "public, max-age=31536000, immutable"
	case files.workerPath(): // a browser asks anew whether there is one yet
		cache = "public, max-age=31536000"
	}
	return ownAnswer(r, body, cache, name[1] == "worker")
}

// ownAnswer is an answer that no origin gave.
func ownAnswer(r *http.Request, body []byte, cache string, worker bool) *http.Response {
	const kind = "text/javascript"
	h := http.Header{
		"Content-Type":           {kind + "; charset=utf-8"},
		"Cache-Control":          {cache},
		"Vary":                   {"Accept-Encoding"},
		"X-Content-Type-Options": {"nosniff"},
	}
	if worker {
		h["Service-Worker-Allowed"] = []string{"/"}
	}
	if coding := chooseCoding(strings.Join(r.Header["Accept-Encoding"], ","), nil, kind, int64(len(body))); coding != "" {
		body = encoded(coding, body)
		h["Content-Encoding"] = []string{coding}
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	res := &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, ContentLength: int64(len(body)), Body: http.NoBody, Request: r,
	}
	if r.Method == http.MethodGet {
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	return res
}

// encoded closes a whole text in a coding. Writing to memory does not fail.
func encoded(coding string, text []byte) []byte {
	var out bytes.Buffer
	e := newEncoder(coding, &out)
	_, _ = e.Write(text)
	_ = e.Close()
	freeEncoder(coding, e)
	return out.Bytes()
}
