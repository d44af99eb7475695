package forward

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"causeway/config"
	"causeway/resolve"
)

// poolOf is the pool of a forward, which does not run.
func poolOf(t *testing.T, forward string) (*pool, []*endpoint) {
	t.Helper()
	c, err := config.Parse("causeway.yaml", []byte("forwards: ["+forward+"]"))
	if err != nil {
		t.Fatal(err)
	}
	check, err := newCheck(c.Forwards[0])
	if err != nil {
		t.Fatal(err)
	}
	names := resolve.New()
	t.Cleanup(names.Close)
	p := newPool(c.Forwards[0], names, check, newTally(), slog.New(slog.DiscardHandler))
	t.Cleanup(p.stop)
	return p, p.all
}

// clientsOf chooses for many clients.
func clientsOf(p *pool) map[netip.Addr]*endpoint {
	chosen := map[netip.Addr]*endpoint{}
	for i := range 4000 {
		client := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		at, _ := p.choose(client, nil)
		p.leave(at)
		chosen[client] = at
	}
	return chosen
}

// The hash shares clients out by weight, in every process alike, and moves only
// those whose target is gone.
func TestHash(t *testing.T) {
	const forward = `{name: app, listen: ":1", balance: hash, targets: ["192.0.2.1:1", "192.0.2.2:1", {to: "192.0.2.3:1", weight: 2}]}`
	p, at := poolOf(t, forward)
	before := clientsOf(p)
	counts := map[*endpoint]int{}
	for _, chosen := range before {
		counts[chosen]++
	}
	for i, want := range []int{1000, 1000, 2000} {
		if n := counts[at[i]]; n < want*85/100 || n > want*115/100 {
			t.Errorf("target %d has %d clients, want about %d", i, n, want)
		}
	}
	elsewhere, _ := poolOf(t, forward)
	for client, chosen := range clientsOf(elsewhere) {
		if chosen.name != before[client].name {
			t.Fatalf("another edge sends %s to %s, this one to %s", client, chosen.name, before[client].name)
		}
	}
	for n := range 2 {
		p.heard(at[0], n+1, errors.New("dead"))
	}
	for client, chosen := range clientsOf(p) {
		if before[client] != at[0] && chosen != before[client] || chosen == at[0] {
			t.Fatalf("%s moved from %s to %s", client, before[client].name, chosen.name)
		}
	}
	six := netip.MustParseAddr("2001:db8:1:2::1")
	one, _ := p.choose(clientKey(six), nil)
	other, _ := p.choose(clientKey(netip.MustParseAddr("2001:db8:1:2:ffff::9")), nil)
	if one != other {
		t.Error("one /64 goes to two targets")
	}
}

// The fewest connections for its weight.
func TestLeast(t *testing.T) {
	p, at := poolOf(t, `{name: app, listen: ":1", balance: least, targets: ["192.0.2.1:1", {to: "192.0.2.2:1", weight: 3}]}`)
	for range 40 {
		p.choose(netip.Addr{}, nil)
	}
	if at[0].open.Load() != 10 || at[1].open.Load() != 30 {
		t.Errorf("%d and %d connections", at[0].open.Load(), at[1].open.Load())
	}
	for range 20 {
		p.leave(at[1])
	}
	for range 12 {
		p.choose(netip.Addr{}, nil)
	}
	if at[0].open.Load() != 10 || at[1].open.Load() != 22 {
		t.Errorf("%d and %d connections", at[0].open.Load(), at[1].open.Load())
	}
}

// Tried ones are not chosen again; those that are not well only when nobody is.
func TestTried(t *testing.T) {
	p, at := poolOf(t, `{name: app, listen: ":1", targets: ["192.0.2.1:1", "192.0.2.2:1", {to: "192.0.2.3:1", weight: 0}]}`)
	for n := range 2 {
		p.heard(at[0], n+1, errors.New("dead"))
	}
	first, left := p.choose(netip.Addr{}, nil)
	if first != at[1] || left != 1 {
		t.Fatalf("chosen %v, %d left", first.name, left)
	}
	second, left := p.choose(netip.Addr{}, []*endpoint{first})
	if second != at[0] || left != 0 {
		t.Fatalf("chosen %v, %d left", second.name, left)
	}
	if third, _ := p.choose(netip.Addr{}, []*endpoint{first, second}); third != nil {
		t.Fatalf("chosen %s", third.name)
	}
}

// A result that comes late changes nothing, and one failure is none.
func TestHeard(t *testing.T) {
	p, at := poolOf(t, `{name: app, listen: ":1", targets: ["192.0.2.1:1"]}`)
	dead := errors.New("dead")
	for i, step := range []struct {
		number int
		err    error
		down   bool
	}{
		{1, dead, false}, {2, nil, false}, {3, dead, false}, {2, nil, false}, {4, dead, true},
		{5, nil, true}, {6, dead, true}, {7, nil, true}, {6, dead, true}, {8, nil, false},
	} {
		p.heard(at[0], step.number, step.err)
		if at[0].down != step.down {
			t.Fatalf("step %d: down is %v", i, at[0].down)
		}
	}
}

// What the checks have seen die and come back is not left out any more for what
// connections met meanwhile.
func TestBackFromTheDead(t *testing.T) {
	p, at := poolOf(t, `{name: app, listen: ":1", targets: ["192.0.2.1:1", "192.0.2.2:1"]}`)
	dead := errors.New("dead")
	for range ejectAfter {
		p.missed(at[0], netip.Addr{}, dead)
	}
	for n, err := range []error{dead, dead, nil, nil} {
		if got := p.state()[0].State; got == StateUp {
			t.Errorf("check %d: it is %s", n, got)
		}
		p.heard(at[0], n+1, err)
	}
	if got := p.state()[0]; got.State != StateUp {
		t.Errorf("it is %+v", got)
	}
}

// A target that comes back grows into its weight.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, at := poolOf(t, `{name: app, listen: ":1", slow_start: 10s, targets: ["192.0.2.1:1", "192.0.2.2:1"]}`)
		share := func() (n int) {
			for range 1100 {
				chosen, _ := p.choose(netip.Addr{}, nil)
				if p.leave(chosen); chosen == at[0] {
					n++
				}
			}
			return n
		}
		if n := share(); n != 550 {
			t.Errorf("at first: %d", n)
		}
		for n := range 4 {
			var err error
			if n < 2 {
				err = errors.New("dead")
			}
			p.heard(at[0], n+1, err)
		}
		if n := share(); n < 98 || n > 102 || p.state()[0].State != StateWarming { // a tenth to one
			t.Errorf("just back: %d, %+v", n, p.state()[0])
		}
		time.Sleep(5 * time.Second)
		if n := share(); n < 365 || n > 368 { // a half to one
			t.Errorf("half way: %d", n)
		}
		time.Sleep(5 * time.Second)
		if n := share(); n < 549 || n > 551 || p.state()[0].State != StateUp {
			t.Errorf("at the end: %d", n)
		}
	})
}

// Failures in a row leave an address out, for longer each time, but never more
// than half of them; resets of one client do not.
func TestEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, at := poolOf(t, `{name: app, listen: ":1", targets: ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"]}`)
		word := func(i int) TargetWord { return p.state()[i].State }
		failed := errors.New("refused")
		client := netip.MustParseAddr("198.51.100.7")
		for range 10 {
			p.missed(at[0], client, failed)
		}
		if word(0) != StateUp {
			t.Error("one client's resets left it out")
		}
		p.answered(at[0])
		for i := range ejectAfter {
			p.missed(at[0], netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), failed)
		}
		if word(0) != StateEjected {
			t.Error("it is not left out")
		}
		for range ejectAfter {
			p.missed(at[1], netip.Addr{}, failed)
		}
		if word(1) != StateUp {
			t.Error("two of three are left out")
		}
		time.Sleep(ejectFirst)
		if word(0) != StateUp {
			t.Error("it is still left out")
		}
		p.missed(at[0], netip.Addr{}, failed)
		time.Sleep(ejectFirst)
		if word(0) != StateEjected {
			t.Error("the second time is no longer")
		}
		time.Sleep(ejectFirst)
		p.answered(at[0])
		p.missed(at[0], netip.Addr{}, failed)
		if word(0) != StateUp {
			t.Error("one failure after an answer left it out")
		}
	})
}

// A new file knows what the old one knew of the same addresses.
func TestLearn(t *testing.T) {
	old, at := poolOf(t, `{name: app, listen: ":1", targets: ["192.0.2.1:1", "192.0.2.2:1"]}`)
	for n := range 2 {
		old.heard(at[1], n+1, errors.New("dead"))
	}
	p, _ := poolOf(t, `{name: app, listen: ":1", balance: least, targets: ["192.0.2.2:1", "192.0.2.1:1"]}`)
	p.learn(old)
	for range 3 { // what the old one has open counts, until it ends
		old.choose(netip.Addr{}, nil)
	}
	if chosen := at[0]; p.state()[1].Open != 3 {
		t.Errorf("%d open", p.state()[1].Open)
	} else {
		for range 3 {
			old.leave(chosen)
		}
	}
	if p.state()[1].Open != 0 {
		t.Errorf("%d open after all ended", p.state()[1].Open)
	}
	if got := fmt.Sprintf("%s %s", p.state()[0].State, p.state()[1].State); got != "down up" {
		t.Errorf("%s", got)
	}
	if got, was := p.state()[0], old.state()[1]; !got.Since.Equal(was.Since) || !got.Checked.Equal(was.Checked) || got.Result != "dead" {
		t.Errorf("it was %+v, and is %+v", was, got)
	}
	unchecked, _ := poolOf(t, `{name: app, listen: ":1", health: {check: off}, targets: ["192.0.2.2:1"]}`)
	if unchecked.learn(old); unchecked.state()[0].State != StateUp {
		t.Error("nobody would find out that it is back")
	}
}

// What the node says of targets beside their state: since when it is so, the part
// of new connections, the last check; and the log says when one is left out, and
// when no longer.
func TestSaidOfTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, at := poolOf(t, `{name: app, listen: ":1", health: {check: off}, slow_start: 4s, targets: ["192.0.2.1:1", {to: "192.0.2.2:1", weight: 3}]}`)
		var log strings.Builder
		p.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		var tasks sync.WaitGroup
		p.run(&tasks)
		began := time.Now()
		says := func(i int, want string) {
			t.Helper()
			synctest.Wait()
			s := p.state()[i]
			got := fmt.Sprintf("%s since %v, %.2f", s.State, s.Since.Sub(began), s.Share)
			if !s.Checked.IsZero() {
				got += fmt.Sprintf(", checked at %v: %q", s.Checked.Sub(began), s.Result)
			}
			if got != want {
				t.Errorf("target %d after %v is %s; want %s", i, time.Since(began), got, want)
			}
		}
		says(0, "up since 0s, 0.25")
		time.Sleep(time.Second)
		for range ejectAfter {
			p.missed(at[0], netip.Addr{}, errors.New("refused"))
		}
		says(0, "ejected since 1s, 0.00")
		says(1, "up since 0s, 1.00")
		time.Sleep(ejectFirst)
		says(0, "warming since 11s, 0.03")
		time.Sleep(4 * time.Second)
		says(0, "up since 15s, 0.25")
		for n := range 2 {
			p.heard(at[0], n+1, errors.New("dead"))
		}
		says(0, `down since 15s, 0.00, checked at 15s: "dead"`)
		p.heard(at[0], 3, nil)
		says(0, `down since 15s, 0.00, checked at 15s: ""`)
		for range ejectAfter {
			p.missed(at[1], netip.Addr{}, errors.New("refused"))
		}
		time.Sleep(time.Second)
		for n := range 2 { // what is down is not said to be left out, nor that this is over
			p.heard(at[1], n+1, errors.New("dead"))
		}
		says(0, `down since 15s, 0.77, checked at 15s: ""`) // none is well: all are tried, by what they have of their weight
		time.Sleep(ejectFirst)
		p.stop()
		tasks.Wait()
		const want = `level=WARN msg="a target is left out" forward=app target=192.0.2.1:1 address=192.0.2.1 for=10s err=refused
level=INFO msg="a target is no longer left out" forward=app target=192.0.2.1:1 address=192.0.2.1
level=WARN msg="a target is down" forward=app target=192.0.2.1:1 address=192.0.2.1 err=dead
level=WARN msg="a target is left out" forward=app target=192.0.2.2:1 address=192.0.2.2 for=10s err=refused
level=WARN msg="a target is down" forward=app target=192.0.2.2:1 address=192.0.2.2 err=dead
`
		if log.String() != want {
			t.Errorf("the log says\n%s", &log)
		}
	})
}
