package edge

import (
	"slices"
	"testing"
	"time"
)

func TestOwnTickets(t *testing.T) {
	var own ownTickets
	start := time.Unix(0, 0).Add(1000 * ticketEpoch)
	epoch, first := own.Secrets(start)
	if len(first) != 1 {
		t.Fatalf("%d secrets at first", len(first))
	}
	if again, same := own.Secrets(start.Add(ticketEpoch - time.Second)); again != epoch || !slices.Equal(same, first) {
		t.Error("they changed within an epoch")
	}
	var all [][32]byte
	for i := range 10 {
		next, secrets := own.Secrets(start.Add(time.Duration(i) * ticketEpoch))
		if i > 0 && next == epoch {
			t.Fatal("a new epoch has the number of the one before")
		}
		if epoch = next; slices.Contains(all, secrets[0]) && i > 0 {
			t.Fatal("a secret seals for two epochs")
		}
		all = append([][32]byte{secrets[0]}, all...)
		if want := all[:min(len(all), ticketEpochs)]; !slices.Equal(secrets, want) {
			t.Fatalf("epoch %d: %d secrets, want the newest %d", i, len(secrets), len(want))
		}
	}
	if back, secrets := own.Secrets(start); back != epoch || secrets[0] != all[0] {
		t.Error("a clock that goes back brings an old secret back")
	}
	if _, secrets := own.Secrets(start.Add(100 * ticketEpoch)); len(secrets) != 1 {
		t.Error("after a long pause an old secret opens yet")
	}
}

func TestTicketKeys(t *testing.T) {
	secrets := [][32]byte{{1}, {2}}
	a, b := ticketKeys(secrets, "a"), ticketKeys(secrets, "b")
	if a[0] == b[0] || a[0] == a[1] || a[0] == secrets[0] || !slices.Equal(a, ticketKeys(secrets, "a")) {
		t.Error("each door and each secret has a key of its own, always the same")
	}
}

func TestMaxAge(t *testing.T) {
	for policy, want := range map[string]string{
		"max-age=31536000": "31536000",
		"max-age=31536000; includeSubDomains; preload": "31536000",
		` INCLUDESUBDOMAINS ;; Max-Age = "60" ; x=y`:   "60",
		"max-age=99999999999999999999":                 "99999999999999999999",
		"max-age=0":                                    "0",
		"includeSubDomains":                            "",
		"max-age=1; max-age=2":                         "",
		"max-age=-1":                                   "",
		"max-age=1, max-age=2":                         "",
		"max-age=":                                     "",
		"":                                             "",
		"max-age=1; includeSubDomains; a; a":           "",
	} {
		if got, ok := maxAge(policy); got != want && ok || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", policy, got, ok, want)
		}
	}
}
