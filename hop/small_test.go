package hop_test

import (
	"testing"

	"causeway/hop"
)

// TestSmallBuffers runs the tests of answers with the little buffers that each has
// when very many are under way.
func TestSmallBuffers(t *testing.T) {
	defer hop.NoLargeBuffers()()
	for name, test := range map[string]func(*testing.T){
		"header, body, trailers": TestAnswerPassesHeaderBodyTrailers, "a cut": TestAnswerNeverHidesACut, "as it comes": TestAnswerFlushesAsItComes,
		"upgrade": TestAnswerUpgrade, "held": TestAnswerHoldsTheHeader, "short": TestShortBodyBreaks, "encoded": TestAnswerEncodes,
	} {
		t.Run(name, test)
	}
}
