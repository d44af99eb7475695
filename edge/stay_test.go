package edge_test

import (
	"testing"
)

// An edge that is not where a route must stay refuses it; it never crosses.
func TestStayElsewhere(t *testing.T) {
	address, recs, _ := newEdge(t, scriptFile, echo{"over"}, nil)
	exchange{
		what:   "a route that stays, at an edge elsewhere",
		sent:   "POST /api/entries/7 HTTP/1.1\r\nHost: example.cn\r\nContent-Length: 1\r\n\r\nx",
		expect: []string{"< 403", "= kind stays", "<|! way:"},
	}.run(t, address, recs)
}
