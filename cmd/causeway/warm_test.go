package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"causeway/audit"
)

// TestWarmBar shows that the bar is as long as what is known to be asked for, also
// when that grows after all before was asked for, and that it is gone at the end.
func TestWarmBar(t *testing.T) { synctest.Test(t, testWarmBar) }

func testWarmBar(t *testing.T) {
	var to bytes.Buffer
	progress, clear := warmBar(&to)
	drawn := func(done, known int, all bool) string {
		to.Reset()
		progress(done, known, all)
		return to.String()
	}
	if text := drawn(0, 4, false); !strings.Contains(text, "so far") {
		t.Errorf("%q", text)
	}
	drawn(4, 4, false)
	drawn(4, 9, true)
	time.Sleep(150 * time.Millisecond) // it is drawn ten times a second
	if text := drawn(8, 9, true); !strings.Contains(text, "88%") || strings.Contains(text, "so far") || !strings.Contains(text, "(8/9") || !strings.Contains(text, "█") {
		t.Errorf("%q", text)
	}
	drawn(9, 9, true)
	clear()
	if text := to.String(); !strings.HasSuffix(text, "\r") || strings.Contains(text[strings.LastIndexByte(strings.TrimRight(text, "\r"), '\r'):], "asked") {
		t.Errorf("left behind: %q", text)
	}
}

// TestUntilDone shows that a pipe is read until the context is done, though its other
// end stays open, and to its end.
func TestUntilDone(t *testing.T) {
	for _, ends := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		u, err := newUntilDone(ctx, read)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = write.WriteString("tea")
		b := make([]byte, 10)
		if n, err := u.Read(b); string(b[:n]) != "tea" || err != nil {
			t.Errorf("%q, %v", b[:n], err)
		}
		want := context.Canceled
		if ends {
			write.Close()
			want = io.EOF
		} else {
			time.AfterFunc(time.Millisecond, cancel)
		}
		if n, err := u.Read(b); n != 0 || err != want {
			t.Errorf("%d bytes, %v; want %v", n, err, want)
		}
		cancel()
		u.close()
		write.Close()
		read.Close()
	}
}

// TestEdgePlace shows that --edge takes what a user of curl would write.
func TestEdgePlace(t *testing.T) {
	for edge, want := range map[string]place{
		"::1": {"::1", ""}, "[::1]": {"::1", ""}, "[::1]:8443": {"::1", "8443"}, "2001:DB8::1": {"2001:db8::1", ""},
		"1.2.3.4": {"1.2.3.4", ""}, "1.2.3.4:443": {"1.2.3.4", "443"},
		"edge.example": {"edge.example", ""}, "edge.example:443": {"edge.example", "443"}, "localhost:80": {"localhost", "80"}, "": {},
	} {
		if got, err := edgePlace(edge); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", edge, got, err, want)
		}
	}
	for _, edge := range []string{"https://edge.example", "edge.example/tea", "edge.example:", "edge.example:0", "edge.example:65536", "edge.example:https", ":443",
		"[::1", "::1]", "[::1]8443", "[::1]:", "[1.2.3.4]", "[edge.example]:443", "1.2.3.4.5", "1.2.3", "*.example.cn", "edge example", "me@edge.example", ":::1"} {
		if got, err := edgePlace(edge); err == nil || !strings.Contains(err.Error(), strconv.Quote(edge)) {
			t.Errorf("%q: %+v, %v", edge, got, err)
		}
	}
}

func TestWarmText(t *testing.T) {
	got := warmText(audit.Warming{
		URLs: 40, Kept: 3, Were: 2, NotKept: map[string]int{"private": 9, "no-store": 1}, Bytes: 2048, Took: 1_200_000_000,
		Unkept: []audit.Missed{{URL: "https://example.cn/me", Status: 200, Why: "private"}}, Unnamed: 9,
		Plain: []string{"https://example.cn/long"}, Plainer: 4, Others: []string{"https://example.com/"},
		Failed: []audit.Missed{{URL: "https://example.cn/old", Status: 404, Why: "not kept: status"}, {URL: "https://example.cn/cut", Why: "unexpected EOF"}}, More: 23,
	})
	want := `40 URLs in 1.2s, 2.0 KiB: 3 kept now, 2 were kept before
1 not kept: no-store
9 not kept: private
not kept: https://example.cn/me: 200 OK: private
and 9 more not kept
5 kept, but not yet in every coding
kept, but not yet in every coding: https://example.cn/long
and 4 more
1 left out, as of another host than the sitemap
left out, as of another host than the sitemap: https://example.com/
failed: https://example.cn/old: 404 Not Found: not kept: status
failed: https://example.cn/cut: unexpected EOF
and 23 more failed
`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
