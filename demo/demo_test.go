package demo

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The demo runs as it is, and its table says what the crossing is for: fewer
// bytes, one round trip before the first byte, no name of the origin.
func TestDemo(t *testing.T) {
	const rtt = 100 * time.Millisecond
	var out bytes.Buffer
	err := Run(t.Context(), Options{
		RTT: rtt, Rate: 50e6 / 8, Once: true,
		HTTPS: "127.0.0.1:0", HTTP: "127.0.0.1:0", Admin: "127.0.0.1:0",
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	row := func(way string) (firstByte, bytes, names int) {
		t.Helper()
		for line := range strings.Lines(out.String()) {
			if cells, ok := strings.CutPrefix(strings.TrimSpace(line), way); ok {
				var n []int
				for _, number := range regexp.MustCompile(`\d+`).FindAllString(cells, -1) {
					value, _ := strconv.Atoi(number)
					n = append(n, value)
				}
				if len(n) == 4 {
					return n[0], n[2], n[3]
				}
			}
		}
		t.Fatalf("no row %q:\n%s", way, out.String())
		return
	}
	straightFirst, straightBytes, straightNames := row("straight over the line")
	throughFirst, throughBytes, throughNames := row("through Causeway")
	if straightNames == 0 || throughNames != 0 {
		t.Errorf("names of the origin: %d straight, %d through", straightNames, throughNames)
	}
	if throughBytes >= straightBytes {
		t.Errorf("bytes: %d straight, %d through", straightBytes, throughBytes)
	}
	// Three round trips against one: no clock of this machine is so bad that
	// the order changes.
	if straightFirst < 3*int(rtt.Milliseconds()) || throughFirst < int(rtt.Milliseconds()) || throughFirst >= straightFirst {
		t.Errorf("first byte: %d ms straight, %d ms through", straightFirst, throughFirst)
	}
}

// A port that is taken is said before anything starts.
func TestDemoOnABusyPort(t *testing.T) {
	var out bytes.Buffer
	err := Run(t.Context(), Options{HTTPS: "127.0.0.1:0", HTTP: "192.0.2.1:80", Admin: "127.0.0.1:0"}, &out)
	if err == nil || out.Len() != 0 {
		t.Errorf("got %v, %q", err, out.String())
	}
}
