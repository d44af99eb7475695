package rewrite

import "testing"

// TestSmallWorks runs the other tests of bodies with the little memory that each has
// when many are under way.
func TestSmallWorks(t *testing.T) {
	underWay.Add(manyWorks)
	defer underWay.Add(-manyWorks)
	for name, test := range map[string]func(*testing.T){
		"TestCodingOnCoding": TestCodingOnCoding, "TestBrokenBody": TestBrokenBody, "TestRatio": TestRatio, "TestEvents": TestEvents, "TestUntypedInPieces": TestUntypedInPieces, "TestReadsOfAnySize": TestReadsOfAnySize, "TestHTMLTables": TestHTMLTables, "TestPageWithoutType": TestPageWithoutType, "TestUTF16": TestUTF16, "TestUTF16Lies": TestUTF16Lies, "TestMisnamed": TestMisnamed, "TestCharsets": TestCharsets, "TestBombGivesNothing": TestBombGivesNothing, "TestSuspiciousIsWaitedFor": TestSuspiciousIsWaitedFor, "TestSuspiciousGoesOn": TestSuspiciousGoesOn, "TestNothingHeld": TestNothingHeld, "TestPageThatStreams": TestPageThatStreams, "TestPageThatStreamsItsPolicy": TestPageThatStreamsItsPolicy, "TestUnicodeInChunks": TestUnicodeInChunks, "TestUnicodeAnswer": TestUnicodeAnswer,
	} {
		t.Run(name, test)
	}
}
