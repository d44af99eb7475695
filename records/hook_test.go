package records

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/libdns/libdns"
)

// program is an executable shell script.
func program(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hook.sh")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// hookWorld is a program that keeps records in files, one a value.
func hookWorld(t *testing.T) world {
	dir := t.TempDir()
	script := program(t, `case $2 in
present) echo "$4" >"$1/$3=$4" ;;
cleanup) rm -f "$1/$3=$4" ;;
*) echo "what is $2?" >&2; exit 2 ;;
esac`)
	return world{Provider: mustNew(t, Config{Provider: Hook, Command: []string{script, dir}}), zoneless: true,
		values: func(t *testing.T, name string) []string {
			files, err := filepath.Glob(filepath.Join(dir, name+".=*"))
			if err != nil {
				t.Fatal(err)
			}
			var values []string
			for _, file := range files {
				_, value, _ := strings.Cut(filepath.Base(file), "=")
				values = append(values, value)
			}
			slices.Sort(values)
			return values
		}}
}

// TestHookFails holds what is said of a program that fails, and how much.
func TestHookFails(t *testing.T) {
	for script, want := range map[string]string{
		"echo no such zone >&2; exit 3": `present: exit status 3, and it said "no such zone"`,
		"exit 1":                        "present: exit status 1, and it said nothing",
		"kill -9 $$":                    "present: signal: killed",
	} {
		refuses(t, mustNew(t, Config{Provider: Hook, Command: []string{program(t, script)}}), "hook: set TXT of _acme-challenge.example.test: run ", want)
	}
	refuses(t, mustNew(t, Config{Provider: Hook, Command: []string{"/no/such/program"}}), "/no/such/program", "no such file")

	loud := mustNew(t, Config{Provider: Hook, Command: []string{program(t, "yes out | head -c 1000000; echo the end; exit 1")}})
	_, err := loud.AppendRecords(t.Context(), "example.test.", []libdns.Record{txt("a", "x")})
	if err == nil || !strings.HasSuffix(err.Error(), `the end"`) || len(err.Error()) > 3*maxOutput {
		t.Errorf("%d bytes: %v", len(fmt.Sprint(err)), err)
	}
}

// TestHookEnds holds that a program that takes too long ends, with what it
// started.
func TestHookEnds(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	p := mustNew(t, Config{Provider: Hook, Timeout: 300 * time.Millisecond, Command: []string{program(t, `sleep 600 &
echo $! >`+pids+`
wait`)}})
	refuses(t, p, "killed: context deadline exceeded")
	data, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for syscall.Kill(pid, 0) == nil && !isZombie(pid) { // the test's timeout ends this
		time.Sleep(5 * time.Millisecond)
	}
}

func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

// TestHookEnvironment holds what a program sees: no secrets of the service.
func TestHookEnvironment(t *testing.T) {
	out := filepath.Join(t.TempDir(), "env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", testSecret)
	p := mustNew(t, Config{Provider: Hook, Command: []string{program(t, `env >`+out+`; echo "$@" >>`+out), "one"}})
	if _, err := p.AppendRecords(t.Context(), "example.test.", []libdns.Record{txt("_acme-challenge.Www", "x y")}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		name, _, is := strings.Cut(strings.TrimSpace(line), "=")
		if is && !slices.Contains([]string{"PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}, name) {
			t.Errorf("it sees %s", name)
		}
	}
	if !strings.HasSuffix(string(data), "\none present _acme-challenge.www.example.test. x y\n") {
		t.Errorf("%s", data)
	}
}

// TestNew holds what is refused at once, and what is only warned of.
func TestNew(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	alidns := func(secret string) Config {
		return Config{Provider: Alidns, AccessKeyID: "a", AccessKeySecret: secret}
	}
	for _, test := range []struct {
		c    Config
		want string
	}{
		{Config{Provider: "azure"}, `there is no DNS provider "azure": alidns, route53, rfc2136 and hook are known`},
		{Config{Provider: Hook}, "hook: there is no command"},
		{alidns(dir + "/gone"), "alidns: read the secret: open " + dir + "/gone: no such file or directory"},
		{alidns(file("empty", "\n", 0o600)), "alidns: read the secret: " + dir + "/empty is empty"},
		{alidns(file("two", "a\nb\n", 0o600)), "alidns: read the secret: " + dir + "/two has more than one line; write the secret alone"},
		{alidns(file("long", strings.Repeat("x", 5000), 0o600)), "alidns: read the secret: " + dir + "/long has more than 4096 bytes"},
	} {
		if _, err := New(test.c); err == nil || err.Error() != test.want {
			t.Errorf("%v\nwant %s", err, test.want)
		}
	}
	for mode, warned := range map[os.FileMode]bool{0o400: false, 0o600: false, 0o640: false, 0o644: true, 0o660: true} {
		var said bytes.Buffer
		c := alidns(file(mode.String(), "secret", mode))
		c.Log = slog.New(slog.NewTextHandler(&said, nil))
		if _, err := New(c); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(said.String(), "a file with a secret is open to others"); got != warned || strings.Contains(said.String(), "=secret") {
			t.Errorf("%v: %s", mode, &said)
		}
	}
}
