package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"causeway/cert"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"causeway": main})
}

// TestScript runs testdata/script/*.txtar: what a person types and what the
// program says. UPDATE=1 in the environment rewrites what it says.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir) // where publish keeps its authority
			env.Setenv("XDG_CONFIG_HOME", "")
			return nil
		},
		Condition: func(condition string) (bool, error) {
			if condition != "root" { // may read everything
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":     exits,
			"until":     until,
			"issue":     issue,
			"mode":      mode,
			"address":   address,
			"busy":      busy,
			"origin":    origin,
			"silent":    silent,
			"asked":     asked,
			"ready":     ready,
			"unread":    unread,
			"interrupt": interrupt,
			"fetch":     fetch,
			"expand":    expand,
			"different": different,
		},
	})
}

// exits STATUS ARGS… runs causeway and wants that exit status; then stdout,
// stderr and cmp see what it said.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits STATUS ARG…")
	}
	err := ts.Exec("causeway", args[1:]...)
	status := "0"
	if err != nil {
		status = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if status != args[0] {
		ts.Fatalf("causeway %s: exit status %s, want %s", strings.Join(args[1:], " "), status, args[0])
	}
}

// until TEXT ARGS… runs causeway again and again until it says TEXT.
func until(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ts.Exec("causeway", args[1:]...) == nil && strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
	}
	ts.Fatalf("causeway %s never says %s", strings.Join(args[1:], " "), args[0])
}

// issue DIR NAME HOST… makes DIR/NAME.pem and DIR/NAME.key for hosts, signed by
// DIR/ca.pem.
func issue(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	authority, err := cert.OpenAuthority(dir, "script")
	ts.Check(err)
	ts.Check(authority.Issue(dir, args[1], args[2:]))
}

// mode FILE OCTAL wants the permissions of a file.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// address NAME… sets each variable to a loopback address that is free.
func address(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		defer ln.Close() // after the last, so that no two are the same
		ts.Setenv(name, ln.Addr().String())
	}
}

// busy NAME sets the variable to a loopback address on which somebody listens.
func busy(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { ln.Close() })
	ts.Setenv(args[0], ln.Addr().String())
}

// origin NAME FIELD… sets the variable to the base URL of a site that names
// itself, and says the fields, `Name: value`, in its header; what begins with
// /missing is not there. NAMEADDRESS is set to where it listens.
func origin(ts *testscript.TestScript, _ bool, args []string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		for _, field := range args[1:] {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		if strings.HasPrefix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, `<a href="http://%s/next">%s</a>`, r.Host, r.URL.Path)
	}))
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
	ts.Setenv(args[0]+"ADDRESS", server.Listener.Addr().String())
}

// visits has a channel for each silent origin, closed when it is asked.
var visits sync.Map

// silent NAME sets the variable to the base URL of a site that does not answer.
func silent(ts *testscript.TestScript, _ bool, args []string) {
	came := make(chan struct{})
	first := sync.OnceFunc(func() { close(came) })
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		first()
		<-r.Context().Done()
	}))
	ts.Defer(server.Close)
	visits.Store(server.URL, came)
	ts.Setenv(args[0], server.URL)
}

// asked URL waits until a silent origin is asked.
func asked(ts *testscript.TestScript, _ bool, args []string) {
	came, _ := visits.Load(args[0])
	select {
	case <-came.(chan struct{}):
	case <-time.After(patience):
		ts.Fatalf("nobody asks %s", args[0])
	}
}

// unread ARG… runs causeway, to the end of the script, with a standard output
// that nobody reads any more.
func unread(ts *testscript.TestScript, _ bool, args []string) {
	program, err := exec.LookPath(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "causeway"))
	ts.Check(err)
	read, write, err := os.Pipe()
	ts.Check(err)
	defer write.Close()
	read.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout = ts.MkAbs("."), write
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
}

// interrupt ORIGIN TEXT ARG… runs causeway with a standard input that says a line of
// TEXT and does not end, interrupts it when the silent origin is asked, and wants it to
// end with status 1.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	program, err := exec.LookPath(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "causeway"))
	ts.Check(err)
	cmd := exec.Command(program, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	input, err := cmd.StdinPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_, err = io.WriteString(input, args[1]+"\n")
	ts.Check(err)
	asked(ts, false, args[:1])
	ts.Check(cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 1" {
		ts.Fatalf("causeway %s: %v", strings.Join(args[2:], " "), err)
	}
}

// patience bounds a wait for what must happen.
const patience = 20 * time.Second

// ready ADDRESS waits until somebody listens there.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", args[0]); err == nil {
			conn.Close()
			return
		}
	}
	ts.Fatalf("nobody listens on %s", args[0])
}

// fetch CA URL TEXT wants TEXT in what URL answers to one who trusts CA, "-" for
// plain HTTP. Names under localhost and everything else are dialled on loopback.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	}}
	defer transport.CloseIdleConnections()
	if args[0] != "-" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[0])))
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	client := &http.Client{Transport: transport, Timeout: patience}
	res, err := client.Get(args[1])
	ts.Check(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	ts.Check(err)
	if strings.Contains(string(body), args[2]) == neg {
		ts.Fatalf("%s answered %s: %s", args[1], res.Status, body)
	}
}

// expand FILE… puts the script's variables into files.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// different A B wants two files that differ.
func different(ts *testscript.TestScript, _ bool, args []string) {
	if ts.ReadFile(args[0]) == ts.ReadFile(args[1]) {
		ts.Fatalf("%s and %s are the same", args[0], args[1])
	}
}
