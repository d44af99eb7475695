package records

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/libdns/libdns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a provider with somebody behind it who serves example.test and
// sub.example.test, and no other zone.
type world struct {
	Provider
	// values are what is there, sorted, for an absolute name without its dot.
	values func(t *testing.T, name string) []string
	// zoneless is for a provider that knows nothing of zones.
	zoneless bool
}

// TestProviders holds every provider to the same.
func TestProviders(t *testing.T) {
	for name, newWorld := range map[string]func(*testing.T) world{
		"alidns":  func(t *testing.T) world { w, _ := alidnsWorld(t); return w },
		"route53": func(t *testing.T) world { w, _ := route53World(t); return w },
		"rfc2136": func(t *testing.T) world { return namedWorld(t, "hmac-sha256") },
		"sha512":  func(t *testing.T) world { return namedWorld(t, "hmac-sha512") },
		"hook":    hookWorld,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testProvider(t, newWorld)
		})
	}
}

func testProvider(t *testing.T, newWorld func(*testing.T) world) {
	const name, zone = "_acme-challenge.example.test", "example.test."
	one, two := txt("_acme-challenge", "one"), txt("_acme-challenge", "two")
	ctx := t.Context()

	t.Run("two challenges for one name live side by side", func(t *testing.T) {
		w := newWorld(t)
		for _, record := range []libdns.Record{one, two} {
			got, err := w.AppendRecords(ctx, zone, []libdns.Record{record})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 1 || got[0].RR().Data != record.RR().Data || got[0].RR().Name != "_acme-challenge" {
				t.Errorf("says it set %v", got)
			}
		}
		w.has(t, name, "one", "two")
		got, err := w.DeleteRecords(ctx, zone, []libdns.Record{one})
		if err != nil || len(got) != 1 || got[0].RR().Data != "one" {
			t.Errorf("removed %v, %v", got, err)
		}
		w.has(t, name, "two")
		if _, err := w.DeleteRecords(ctx, zone, []libdns.Record{two}); err != nil {
			t.Error(err)
		}
		w.has(t, name)
	})

	t.Run("both at once, and removed at once", func(t *testing.T) {
		w := newWorld(t)
		all := func(do func(context.Context, string, []libdns.Record) ([]libdns.Record, error)) {
			var both sync.WaitGroup
			for i := range 4 {
				both.Go(func() {
					if _, err := do(ctx, zone, []libdns.Record{txt("_acme-challenge", fmt.Sprint("v", i))}); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
		}
		all(w.AppendRecords)
		w.has(t, name, "v0", "v1", "v2", "v3")
		all(w.DeleteRecords)
		w.has(t, name)
	})

	t.Run("several in one call", func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.AppendRecords(ctx, zone, []libdns.Record{one, txt("_acme-challenge.www", "www"), two}); err != nil {
			t.Fatal(err)
		}
		w.has(t, name, "one", "two")
		w.has(t, "_acme-challenge.www.example.test", "www")
		if _, err := w.DeleteRecords(ctx, zone, []libdns.Record{one, two}); err != nil {
			t.Fatal(err)
		}
		w.has(t, name)
		w.has(t, "_acme-challenge.www.example.test", "www")
	})

	t.Run("what is there is no error, nor what is not", func(t *testing.T) {
		w := newWorld(t)
		for range 2 {
			if _, err := w.AppendRecords(ctx, zone, []libdns.Record{one}); err != nil {
				t.Fatal(err)
			}
		}
		w.has(t, name, "one")
		for range 2 {
			if _, err := w.DeleteRecords(ctx, zone, []libdns.Record{one}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := w.DeleteRecords(ctx, zone, []libdns.Record{two})
		if err != nil || len(got) > 0 && !w.zoneless {
			t.Errorf("removed %v, %v", got, err)
		}
		w.has(t, name)
	})

	t.Run("the longest zone, whatever the caller says", func(t *testing.T) {
		w := newWorld(t)
		for _, said := range []struct{ zone, name string }{
			{"example.test.", "_acme-challenge.a.sub"},
			{"test", "_acme-challenge.b.sub.example"},
			{"", "_acme-challenge.c.SUB.example.test."},
			{"sub.example.test.", "_acme-challenge.d"},
			{"sub.example.test.", "@"},
		} {
			if _, err := w.AppendRecords(ctx, said.zone, []libdns.Record{txt(said.name, "deep")}); err != nil {
				t.Error(err)
			}
		}
		for _, is := range []string{"_acme-challenge.a.", "_acme-challenge.b.", "_acme-challenge.c.", "_acme-challenge.d.", ""} {
			w.has(t, is+"sub.example.test", "deep")
		}
	})

	t.Run("a name in no zone", func(t *testing.T) {
		w := newWorld(t)
		if w.zoneless {
			t.Skip("a hook knows of no zones")
		}
		_, err := w.AppendRecords(ctx, "elsewhere.test.", []libdns.Record{one})
		if err == nil || !strings.Contains(err.Error(), "_acme-challenge.elsewhere.test") {
			t.Errorf("%v", err)
		}
		_, err = w.AppendRecords(ctx, "notexample.test.", []libdns.Record{one})
		if err == nil {
			t.Error("took a name that only ends in the same letters")
		}
	})

	t.Run("what is no record", func(t *testing.T) {
		w := newWorld(t)
		for _, record := range []libdns.Record{
			txt("a b", "x"), txt("_acme-challenge", ""), txt("_acme-challenge", "a\nb"),
			libdns.RR{Name: "_acme-challenge", Type: "NS", Data: "ns.example."},
			txt(strings.Repeat("a", 64), "x"),
		} {
			if got, err := w.AppendRecords(ctx, zone, []libdns.Record{record}); err == nil || len(got) > 0 {
				t.Errorf("took %v: %v", record, got)
			}
			if got, err := w.DeleteRecords(ctx, zone, []libdns.Record{record}); err == nil || len(got) > 0 {
				t.Errorf("removed %v: %v", record, got)
			}
		}
	})

	t.Run("who has gone", func(t *testing.T) {
		w := newWorld(t)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := w.AppendRecords(gone, zone, []libdns.Record{one}); err == nil {
			t.Error("set a record for nobody")
		}
		w.has(t, name)
	})
}

func txt(name, text string) libdns.Record { return libdns.TXT{Name: name, Text: text} }

func (w world) has(t *testing.T, name string, want ...string) {
	t.Helper()
	if got := w.values(t, name); !slices.Equal(got, want) {
		t.Errorf("%s has %q, want %q", name, got, want)
	}
}

// mustNew is New, with the secrets of the configuration in files.
func mustNew(t *testing.T, c Config) Provider {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// secretFile is a file with a secret in it.
func secretFile(t *testing.T, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// refuses holds that setting a record fails with a message that has each of want
// in it, is one line, and does not have the secret.
func refuses(t *testing.T, p Provider, want ...string) {
	t.Helper()
	_, err := p.AppendRecords(t.Context(), "example.test.", []libdns.Record{txt("_acme-challenge", "x")})
	if err == nil {
		t.Fatal("it was set")
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("no %q in: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), testSecret) {
		t.Errorf("%q", err)
	}
}

const testSecret = "c2VjcmV0LXRoYXQtbm9ib2R5LXNlZXM="
