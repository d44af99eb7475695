package edge

import (
	"testing"
	"time"

	"causeway/config"
)

func TestHelloLimits(t *testing.T) {
	for header, want := range map[time.Duration]time.Duration{15 * time.Second: 5 * time.Second, time.Second: time.Second} {
		if got := helloLimits(&config.Limits{HeaderTimeout: header}); got.Time != want || got.Bytes != 0 {
			t.Errorf("header_timeout %v: %+v, want %v and 64 KiB", header, got, want)
		}
	}
}
