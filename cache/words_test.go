package cache

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReasonsPage makes the list of the reasons from status.go, with what Cache-Status
// says in their place, and fails unless docs/logs-and-metrics.md has it so. UPDATE=1
// writes it there.
func TestReasonsPage(t *testing.T) {
	source, err := os.ReadFile("status.go")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	listed := map[Reason]bool{}
	lines := regexp.MustCompile(`(?m)^// (Why .*)\.$|^\twhy\w+ +Reason = "([a-z-]+)"`)
	for _, m := range lines.FindAllStringSubmatch(string(source), -1) {
		if m[1] != "" {
			fmt.Fprintf(&text, "%s:\n\n| `cache_why` | `Cache-Status` | |\n|---|---|---|\n", m[1])
			continue
		}
		reason := Reason(m[2])
		listed[reason] = true
		if explained[reason] == "" {
			t.Errorf("%s is not explained", reason)
		}
		fmt.Fprintf(&text, "| `%s` | %s | %s |\n", reason, wordsOf(reason), explained[reason])
		if next := string(source[strings.Index(string(source), m[0])+len(m[0]):]); strings.HasPrefix(next[strings.IndexByte(next, '\n')+1:], ")") {
			text.WriteByte('\n')
		}
	}
	for reason := range explained {
		if !listed[reason] {
			t.Errorf("%s is explained, and none of status.go", reason)
		}
	}
	heldPage(t, "logs-and-metrics.md", text.String())
}

// wordsOf is what Cache-Status says where a request goes on for a reason, or its answer
// is not kept.
func wordsOf(reason Reason) string {
	var s status
	s.forward(reason)
	if s.fwd == "miss" { // it is no reason to go on
		s = status{detail: reason}
	}
	words := strings.TrimPrefix(s.String(), ourName+"; ")
	if reason == whyTooLarge {
		return "`" + words + "`, or `detail=\"object_bytes\"` where the site or route has that"
	}
	return "`" + words + "`"
}
