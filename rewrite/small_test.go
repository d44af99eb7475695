package rewrite

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestCountsComeBack: however a body ends, what was counted for it is given back:
// else all that come later would be taken for too many.
func TestCountsComeBack(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	works, grew, encoders := underWay.Load(), grown.Load(), inCodings.Load()
	text := strings.Repeat("<p>See https://example.com/there.</p>\n", 5000)
	for _, busy := range []int32{0, manyWorks} {
		underWay.Add(busy)
		for _, kind := range []string{"text/html", "text/event-stream", "application/json", "image/png", ""} {
			for _, coding := range []string{"", "gzip", "br", "zstd"} {
				source := []byte(text)
				if coding != "" {
					source = encoded(coding, source)
				}
				for end, body := range map[string]io.Reader{
					"whole": bytes.NewReader(source),
					"cut":   io.MultiReader(bytes.NewReader(source[:len(source)/2]), iotest.ErrReader(errors.New("cut"))),
					"none":  iotest.ErrReader(errors.New("none")),
				} {
					for _, reads := range []int64{-1, 0, 100} { // all, nothing, a little
						for _, uncoded := range []bool{false, true} {
							for _, length := range []int64{-1, int64(len(source))} {
								res := answer(body, length, "Content-Type: "+kind)
								if coding != "" {
									res.Header.Set("Content-Encoding", coding)
								}
								m.Response(res, Options{AcceptEncoding: "gzip", Uncoded: uncoded})
								if reads < 0 {
									_, _ = io.Copy(io.Discard, res.Body)
								} else {
									_, _ = io.CopyN(io.Discard, res.Body, reads)
								}
								res.Body.Close()
								if a, b, c := underWay.Load()-busy, grown.Load(), inCodings.Load(); a != works || b != grew || c != encoders {
									t.Fatalf("%s in %q, %s, %d read: %d under way, %d grown, %d encoders more", kind, coding, end, reads, a-works, b-grew, c-encoders)
								}
								if seeker, ok := body.(io.Seeker); ok {
									_, _ = seeker.Seek(0, io.SeekStart)
								}
							}
						}
					}
				}
			}
		}
		underWay.Add(-busy)
	}
}

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
