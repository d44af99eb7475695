package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"causeway/config"
	"causeway/conn"
	"causeway/outcome"
	"causeway/resolve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds waits for what must happen.
const patience = 10 * time.Second

// running is a Server under test.
type running struct {
	*Server
	t *testing.T

	taking  sync.Mutex // guards records
	records []outcome.Connection
}

func (r *running) EmitConnection(rec *outcome.Connection) {
	r.taking.Lock()
	defer r.taking.Unlock()
	r.records = append(r.records, *rec)
}

// serve runs the forwards of a file until the test ends.
func serve(t *testing.T, names *resolve.Resolver, forwards string) *running {
	t.Helper()
	r := &running{t: t}
	r.Server = New(Options{Node: "n", Sink: r, Log: slog.New(slog.DiscardHandler), Failed: func(err error) { t.Error(err) }, Resolver: names})
	r.change(forwards)
	t.Cleanup(func() { r.stop(0) })
	return r
}

// change serves other forwards.
func (r *running) change(forwards string) {
	r.t.Helper()
	c, err := config.Parse("causeway.yaml", []byte("forwards: "+forwards))
	if err != nil {
		r.t.Fatal(err)
	}
	change, err := r.Prepare(c.ForwardsOf(c.Nodes[0]))
	if err != nil {
		r.t.Fatal(err)
	}
	change.Apply()
}

func (r *running) stop(after time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), after)
	defer cancel()
	r.Stop(ctx)
}

// ended waits for the n-th record.
func (r *running) ended(n int) outcome.Connection {
	r.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		r.taking.Lock()
		if len(r.records) >= n {
			defer r.taking.Unlock()
			return r.records[n-1]
		}
		r.taking.Unlock()
	}
	r.t.Fatalf("there is no record %d", n)
	return outcome.Connection{}
}

// until waits for something.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}

// target serves connections until the test ends.
func target(t *testing.T, address string, handle func(net.Conn)) string {
	t.Helper()
	socket, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { defer c.Close(); handle(c) })
		}
	})
	t.Cleanup(func() { socket.Close(); tasks.Wait() })
	return socket.Addr().String()
}

// named answers every line with its name and the line, and ends when the client
// has.
func named(name string) func(net.Conn) {
	return func(c net.Conn) {
		lines := bufio.NewReader(c)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				fmt.Fprint(c, name, " ", line)
			}
			if err != nil {
				return
			}
		}
	}
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	return socket.Addr().String()
}

// ask makes a connection, says a line, and gives the answer to its end.
func ask(t *testing.T, address string) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, wrote := fmt.Fprintln(c, "hello") // a reset is told once, to the first that asks
	_ = c.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	return strings.TrimSpace(string(answer)), errors.Join(wrote, err)
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// A connection to a dead target goes to another; soon none is sent there.
func TestDeadTarget(t *testing.T) {
	at, dead := free(t), free(t)
	a, b := target(t, "127.0.0.1:0", named("a")), target(t, "127.0.0.1:0", named("b"))
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q, %q, %q], health: {check: off}}]`, at, a, dead, b))
	retried, last := 0, 0
	for i := range 30 {
		if answer, err := ask(t, at); err != nil || answer != "a hello" && answer != "b hello" {
			t.Fatalf("connection %d: %q, %v", i, answer, err)
		}
		if rec := s.ended(i + 1); rec.End != outcome.EndDone || rec.Tries == 2 {
			retried, last = retried+1, i
		} else if rec.In != 6 || rec.Out != 8 || rec.Forward != "app" || rec.Dial == 0 || rec.Total < rec.Dial || rec.Node != "n" {
			t.Fatalf("record %+v", rec)
		}
	}
	if retried != ejectAfter || last > 10 {
		t.Errorf("%d connections were retried, the last is %d", retried, last)
	}
	states := s.State()[0]
	if states.Targets[1].State != StateEjected || !strings.Contains(states.Targets[1].Why, "refused") || states.Totals[1].DialErrors != ejectAfter || states.Totals[1].Ejections != 1 {
		t.Errorf("state %+v", states)
	}
}

// When no target answers the connection is reset, and the record says why.
func TestNoTarget(t *testing.T) {
	at := free(t)
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q, %q]}]`, at, free(t), free(t)))
	if answer, err := ask(t, at); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %q, %v", answer, err)
	}
	if rec := s.ended(1); rec.End != outcome.EndDialFailed || rec.Tries != 2 || strings.Count(rec.Err.Error(), "connection refused") != 2 {
		t.Errorf("record %+v", rec)
	}
}

// Checks find out that a target is dead, and that it is back.
func TestChecks(t *testing.T) {
	at, later := free(t), free(t)
	a := target(t, "127.0.0.1:0", named("a"))
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q, %q], health: {every: 100ms}}]`, at, a, later))
	state := func() TargetWord { return s.State()[0].Targets[1].State }
	until(t, "the dead target is down", func() bool { return state() == StateDown })
	for i := range 6 {
		if answer, err := ask(t, at); err != nil || answer != "a hello" {
			t.Fatalf("%q, %v", answer, err)
		}
		if rec := s.ended(i + 1); rec.Tries != 1 {
			t.Errorf("a target that is down was tried: %+v", rec)
		}
	}
	target(t, later, named("b"))
	until(t, "it is back", func() bool { return state() == StateUp })
	seen := map[string]bool{}
	for range 2 {
		answer, _ := ask(t, at)
		seen[answer] = true
	}
	if len(seen) != 2 {
		t.Errorf("answers %v", seen)
	}
}

// A dial that is under way when the checks find its target dead is given up, and
// another target tried.
func TestDialOfTheDying(t *testing.T) {
	p, at := poolOf(t, `{name: app, listen: ":1", targets: ["192.0.2.1:1"], health: {fall: 1}}`)
	alive := p.alive(at[0])
	p.heard(at[0], 1, errors.New("dead"))
	if alive.Err() == nil {
		t.Error("the dial goes on")
	}
	if p.alive(at[0]).Err() != nil {
		t.Error("it can't be dialled when no other is left")
	}
}

// The answers of the targets are by their weights.
func TestWeights(t *testing.T) {
	at := free(t)
	a, b := target(t, "127.0.0.1:0", named("a")), target(t, "127.0.0.1:0", named("b"))
	none := target(t, "127.0.0.1:0", named("none"))
	serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [{to: %q, weight: 3}, %q, {to: %q, weight: 0}]}]`, at, a, b, none))
	got := map[string]int{}
	for range 40 {
		answer, err := ask(t, at)
		if err != nil {
			t.Fatal(err)
		}
		got[answer]++
	}
	if got["a hello"] != 30 || got["b hello"] != 10 {
		t.Errorf("%v", got)
	}
}

// What a client says in its hello, and what it is answered.
func TestNames(t *testing.T) {
	at := free(t)
	app, rest, other := target(t, "127.0.0.1:0", alerts("app")), target(t, "127.0.0.1:0", alerts("rest")), target(t, "127.0.0.1:0", alerts("other"))
	s := serve(t, nil, fmt.Sprintf(`
- {name: app, listen: %[1]q, targets: [%[2]q], sni: [app.mydomain.com], health: {check: off}}
- {name: rest, listen: %[1]q, targets: [%[3]q], sni: ["*.mydomain.com"], health: {check: off}}
- {name: other, listen: %[1]q, targets: [%[4]q], sni: ["*.other.mydomain.com"], limits: {hello_timeout: 300ms}, health: {check: off}}
`, at, app, rest, other))
	n := 0
	for _, c := range []struct{ name, forward, end string }{
		{"app.mydomain.com", "app", "reset_target"},
		{"APP.MyDomain.com", "app", "reset_target"},
		{"b.mydomain.com", "rest", "reset_target"},
		{"a.b.mydomain.com", "rest", "reset_target"},
		{"a.app.mydomain.com", "rest", "reset_target"},
		{"a.other.mydomain.com", "other", "reset_target"},
		{"other.mydomain.com", "rest", "reset_target"},
		{"mydomain.com", "", "name_unknown"},
		{"evilmydomain.com", "", "name_unknown"},
		{"app.mydomain.com.evil.test", "", "name_unknown"},
		{"mydomain.com.", "", "name_unknown"}, // crypto/tls takes the dot off
		{"192.0.2.1", "", "name_missing"},     // crypto/tls asks for no name then
	} {
		n++
		raw := dial(t, at)
		client := tls.Client(raw, &tls.Config{ServerName: c.name, InsecureSkipVerify: true})
		err := client.Handshake()
		raw.Close()
		rec := s.ended(n)
		if rec.Forward != c.forward || string(rec.End) != c.end && !(c.forward != "" && rec.End == outcome.EndDone) {
			t.Errorf("%s: %s %s, %v", c.name, rec.Forward, rec.End, rec.Err)
		}
		if c.forward == "" && (err == nil || !strings.Contains(err.Error(), "unrecognized name")) {
			t.Errorf("%s: the client was told %v", c.name, err)
		}
	}
	for text, end := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n": "not_tls", "": "nothing", "\x16\x03\x01": "cut", "\x16\x03\x01\x00\x04\x01\x00\x00\x00": "malformed",
		"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n": "proxy_stranger",
	} {
		n++
		raw := dial(t, at)
		fmt.Fprint(raw, text)
		_ = raw.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(raw)
		raw.Close()
		if rec := s.ended(n); string(rec.End) != end || rec.Forward != "" {
			t.Errorf("%q: %q %s, %v", text, rec.Forward, rec.End, rec.Err)
		}
	}
	for raw, end := range map[string]string{"odd name!": "name_bytes", "192.0.2.1": "name_ip", "a_b.mydomain.com": "name_not_ldh"} {
		n++
		c := dial(t, at)
		fmt.Fprint(c, helloFor(raw))
		answer, _ := io.ReadAll(c)
		c.Close()
		if rec := s.ended(n); string(rec.End) != end || string(answer) != "\x15\x03\x03\x00\x02\x02\x70" && string(answer) != "\x15\x03\x01\x00\x02\x02\x70" {
			t.Errorf("%q: %s, %v; told %x", raw, rec.End, rec.Err, answer)
		}
	}
}

// helloFor is a TLS 1.2 hello that asks for a name, of whatever bytes.
func helloFor(name string) string {
	list := "\x00" + string([]byte{0, byte(len(name))}) + name
	sni := "\x00\x00" + string([]byte{0, byte(len(list) + 2), 0, byte(len(list))}) + list
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00" + string([]byte{0, byte(len(sni))}) + sni
	message := "\x01\x00" + string([]byte{0, byte(len(body))}) + body
	return "\x16\x03\x01" + string([]byte{0, byte(len(message))}) + message
}

// alerts reads something, answers with an alert as a TLS server does that wants
// no handshake, and closes.
func alerts(string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = c.Write([]byte("\x15\x03\x03\x00\x02\x02\x28"))
	}
}

// A trusted load balancer's word on the client counts, and is passed on; a
// stranger's ends the connection.
func TestProxyHeader(t *testing.T) {
	at, strict := free(t), free(t)
	tells := target(t, "127.0.0.1:0", func(c net.Conn) {
		header, kept, err := conn.ReadProxyHeader(c, conn.Limits{})
		if err != nil {
			fmt.Fprintln(c, err)
			return
		}
		line, _ := bufio.NewReader(kept).ReadString('\n')
		fmt.Fprint(c, "v", header.Version, " ", header.Source, " ", header.Destination, " ", line)
	})
	s := serve(t, nil, fmt.Sprintf(`
- {name: app, listen: %q, targets: [%q], proxy: {send: v2, accept: [127.0.0.0/8]}, allow: [192.0.2.0/24], health: {check: off}}
- {name: strict, listen: %q, targets: [%q], proxy: {send: v1}, health: {check: off}}
`, at, tells, strict, tells))
	say := func(address, text string) string {
		c := dial(t, address)
		defer c.Close()
		fmt.Fprint(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(c)
		return strings.TrimSpace(string(answer))
	}
	if got := say(at, "PROXY TCP4 192.0.2.7 192.0.2.8 999 443\r\nhello\n"); got != "v2 192.0.2.7:999 192.0.2.8:443 hello" {
		t.Errorf("told by a balancer: %q", got)
	}
	if rec := s.ended(1); rec.Client.String() != "192.0.2.7:999" || !rec.Peer.Addr().IsLoopback() || rec.Local.String() != "192.0.2.8:443" || rec.In != 6 {
		t.Errorf("record %+v", rec)
	}
	say(at, "PROXY TCP4 203.0.113.7 192.0.2.8 999 443\r\nhello\n")
	if rec := s.ended(2); rec.End != outcome.EndDenied || rec.Client.Addr().String() != "203.0.113.7" {
		t.Errorf("a client that is not allowed: %+v", rec)
	}
	say(at, "hello, no header here\n")
	if rec := s.ended(3); rec.End != outcome.End(conn.ReasonNoProxy) {
		t.Errorf("without a header: %+v", rec)
	}
	c := dial(t, strict)
	fmt.Fprint(c, "hello\n")
	if got, _ := bufio.NewReader(c).ReadString('\n'); got != fmt.Sprintf("v1 %s %s hello\n", c.LocalAddr(), c.RemoteAddr()) {
		t.Errorf("version 1: %q", got)
	}
	c.Close()
	s.ended(4)
	say(strict, "PROXY TCP4 192.0.2.7 192.0.2.8 999 443\r\nhello\n")
	if rec := s.ended(5); rec.End != outcome.End(conn.ReasonStranger) {
		t.Errorf("a stranger: %+v", rec)
	}
}

// More connections than the limits allow are reset; an empty list lets nobody in.
func TestLimits(t *testing.T) {
	all, each, nobody := free(t), free(t), free(t)
	a := target(t, "127.0.0.1:0", named("a"))
	s := serve(t, nil, fmt.Sprintf(`
- {name: all, listen: %[1]q, targets: [%[4]q], limits: {connections: 2}, health: {check: off}}
- {name: each, listen: %[2]q, targets: [%[4]q], limits: {connections_per_client: 2}, health: {check: off}}
- {name: nobody, listen: %[3]q, targets: [%[4]q], allow: [], health: {check: off}}
`, all, each, nobody, a))
	n := 0
	for address, end := range map[string]outcome.End{all: outcome.EndLimit, each: outcome.EndLimitClient} {
		var open []net.Conn
		for range 2 {
			c := dial(t, address)
			fmt.Fprintln(c, "x")
			if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "a x\n" {
				t.Fatalf("%q, %v", line, err)
			}
			open = append(open, c)
		}
		if answer, err := ask(t, address); err == nil || answer != "" {
			t.Errorf("one too many: %q, %v", answer, err)
		}
		n++
		if rec := s.ended(n); rec.End != end {
			t.Errorf("one too many: %+v", rec)
		}
		for _, c := range open {
			c.Close()
		}
		n += 2
		s.ended(n)
		until(t, "there are places again", func() bool { answer, _ := ask(t, address); n++; return answer == "a hello" })
		s.ended(n)
	}
	if answer, err := ask(t, nobody); err == nil || answer != "" {
		t.Errorf("an empty list: %q, %v", answer, err)
	}
	if rec := s.ended(n + 1); rec.End != outcome.EndDenied {
		t.Errorf("an empty list: %+v", rec)
	}
	until(t, "no client is counted any more", func() bool {
		each := s.tallies["each"]
		each.mu.Lock()
		defer each.mu.Unlock()
		return len(each.clients) == 0
	})
}

// Connections survive changes of the file, new ones see it.
func TestChange(t *testing.T) {
	at, second := free(t), free(t)
	a, b := target(t, "127.0.0.1:0", named("a")), target(t, "127.0.0.1:0", named("b"))
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q]}]`, at, a))
	c := dial(t, at)
	defer c.Close()
	lines := bufio.NewReader(c)
	still := func(when string) {
		t.Helper()
		fmt.Fprintln(c, when)
		if line, err := lines.ReadString('\n'); err != nil || line != "a "+when+"\n" {
			t.Fatalf("%s: %q, %v", when, line, err)
		}
	}
	still("before")
	kept, socket := s.services["app"], s.listeners[at]
	s.change(fmt.Sprintf(`[{name: app, listen: %q, targets: [%q]}, {name: more, listen: %q, targets: [%q]}]`, at, a, second, b))
	if s.services["app"] != kept || s.listeners[at] != socket {
		t.Error("what did not change was made anew")
	}
	if answer, _ := ask(t, second); answer != "b hello" {
		t.Errorf("the new one: %q", answer)
	}
	s.change(fmt.Sprintf(`[{name: app, listen: %q, targets: [%q]}]`, at, b))
	still("changed")
	if answer, _ := ask(t, at); answer != "b hello" || s.listeners[at] != socket {
		t.Errorf("the changed one: %q", answer)
	}
	if _, err := net.Dial("tcp", second); err == nil {
		t.Error("a forward that is no more listens")
	}
	s.ended(2) // both that asked, which hear of the end before it is noted
	until(t, "one is open", func() bool { return s.State()[0].Open == 1 })
	s.change(fmt.Sprintf(`[{name: other, listen: %q, targets: [%q]}]`, second, b))
	still("removed")
	if _, err := s.Prepare([]*config.Forward{takenAddress(t, a)}); err == nil || !strings.Contains(err.Error(), "listen for forward app: listen tcp "+a) {
		t.Errorf("an address that is taken: %v", err)
	}
	still("refused")
	s.stop(0)
	if rec := s.ended(3); rec.End != outcome.EndStopped || rec.In != 7+8+8+8 {
		t.Errorf("record %+v", rec)
	}
}

func takenAddress(t *testing.T, at string) *config.Forward {
	t.Helper()
	c, err := config.Parse("causeway.yaml", fmt.Appendf(nil, `forwards: [{name: app, listen: %q, targets: [192.0.2.1]}]`, at))
	if err != nil {
		t.Fatal(err)
	}
	return c.Forwards[0]
}

// A node that stops lets connections end, and takes no more.
func TestStop(t *testing.T) {
	at := free(t)
	a := target(t, "127.0.0.1:0", named("a"))
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q]}]`, at, a))
	c := dial(t, at)
	defer c.Close()
	lines := bufio.NewReader(c)
	fmt.Fprintln(c, "x")
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { s.stop(patience); close(stopped) }()
	until(t, "it takes no more", func() bool {
		late, err := net.Dial("tcp", at)
		if err == nil {
			late.Close()
		}
		return err != nil
	})
	fmt.Fprintln(c, "y")
	if line, err := lines.ReadString('\n'); err != nil || line != "a y\n" {
		t.Errorf("%q, %v", line, err)
	}
	c.Close()
	<-stopped
	if rec := s.ended(1); rec.End != outcome.EndDone {
		t.Errorf("record %+v", rec)
	}
}

// stuck is a sink that takes nothing until it is let go.
type stuck chan struct{}

func (s stuck) EmitConnection(*outcome.Connection) { <-s }

// A log that nobody reads holds up no connection, and no stop.
func TestStuckLog(t *testing.T) {
	sink := make(stuck)
	r := &running{t: t}
	r.Server = New(Options{Sink: sink, Log: slog.New(slog.DiscardHandler), Failed: func(err error) { t.Error(err) }})
	at, a := free(t), target(t, "127.0.0.1:0", named("a"))
	r.change(fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}, limits: {connections: 5}}]`, at, a))
	for range recordsMost + 5 {
		if answer, err := ask(t, at); err != nil || answer != "a hello" {
			t.Fatalf("%q, %v", answer, err)
		}
	}
	// From now on they keep their places.
	refused := func() bool { _, err := ask(t, at); return err != nil }
	until(t, "the limit of connections holds for records too", refused)
	began := time.Now()
	r.stop(0)
	if took := time.Since(began); took > patience {
		t.Errorf("it stopped after %v", took)
	}
	close(sink)
}

// A half-close goes through, and so does a reset.
func TestHalfCloseAndReset(t *testing.T) {
	at := free(t)
	a := target(t, "127.0.0.1:0", func(c net.Conn) {
		all, _ := io.ReadAll(c)
		if string(all) == "reset" {
			_ = c.(*net.TCPConn).SetLinger(0)
			return
		}
		fmt.Fprint(c, "all of ", len(all))
	})
	s := serve(t, nil, fmt.Sprintf(`[{name: app, listen: %q, targets: [%q], health: {check: off}}]`, at, a))
	for i, text := range []string{"12345", "reset"} {
		c := dial(t, at)
		fmt.Fprint(c, text)
		_ = c.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(c)
		c.Close()
		if rec := s.ended(i + 1); text == "reset" && (!errors.Is(err, syscall.ECONNRESET) || rec.End != outcome.EndResetTarget) || text != "reset" && string(answer) != "all of 5" {
			t.Errorf("%s: %q, %v, %+v", text, answer, err, rec)
		}
	}
	c := dial(t, at)
	fmt.Fprint(c, "x")
	until(t, "it is open", func() bool { return s.State()[0].Targets[0].Open == 1 })
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
	if rec := s.ended(3); rec.End != outcome.EndResetClient {
		t.Errorf("record %+v", rec)
	}
}

// A name is followed; one that leads back to the listener is not dialled for
// ever.
func TestNamesOfTargets(t *testing.T) {
	at := free(t)
	_, port, _ := net.SplitHostPort(target(t, "127.0.0.2:0", named("two")))
	target(t, "127.0.0.3:"+port, named("three"))
	var mu sync.Mutex
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	names := resolve.With(func(context.Context, string) ([]netip.Addr, time.Duration, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(addrs) == 0 {
			return nil, 0, errors.New("no such host")
		}
		return addrs, time.Second, nil
	})
	defer names.Close()
	s := serve(t, names, fmt.Sprintf(`[{name: app, listen: %q, targets: ["app.test:%s"], health: {check: off}}]`, at, port))
	if answer, err := ask(t, at); answer != "two hello" {
		t.Fatalf("%q, %v", answer, err)
	}
	mu.Lock()
	addrs = []netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.2")}
	mu.Unlock()
	until(t, "both addresses are targets", func() bool { return len(s.State()[0].Targets) == 2 })
	got := map[string]bool{}
	for range 2 {
		answer, _ := ask(t, at)
		got[answer] = true
	}
	if !got["two hello"] || !got["three hello"] {
		t.Errorf("%v", got)
	}
}

func TestLoop(t *testing.T) {
	at := free(t)
	_, port, _ := net.SplitHostPort(at)
	names := resolve.With(func(context.Context, string) ([]netip.Addr, time.Duration, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, time.Hour, nil
	})
	defer names.Close()
	s := serve(t, names, fmt.Sprintf(`[{name: app, listen: %q, targets: ["app.test:%s"], health: {check: off}}]`, at, port))
	if answer, err := ask(t, at); err == nil || answer != "" {
		t.Errorf("%q, %v", answer, err)
	}
	s.ended(1)
	if answer, err := ask(t, at); err == nil || answer != "" {
		t.Errorf("again: %q, %v", answer, err)
	}
	s.stop(0)
	if n := len(s.all()); n > 4 || s.State()[0].Targets[0].State != StateEjected {
		t.Errorf("%d records: one connection made the next; state %v", n, s.State())
	}
	for _, rec := range s.all() {
		if rec.Tries > 0 && (rec.End != outcome.EndDialFailed || !strings.Contains(rec.Err.Error(), "leads back")) {
			t.Errorf("record %+v", rec)
		}
	}
}

// all are the records so far.
func (r *running) all() []outcome.Connection {
	r.taking.Lock()
	defer r.taking.Unlock()
	return append([]outcome.Connection(nil), r.records...)
}
