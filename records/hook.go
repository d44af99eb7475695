package records

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// hook leaves it to a program, called as the exec provider of lego calls one:
//
//	PROG [ARG…] present|cleanup NAME VALUE
//
// NAME is absolute, with the dot at its end. An exit status of 0 is success. It
// gets PATH, HOME and LANG and nothing else of this process's environment.
type hook struct{ command []string }

// maxOutput is how much of a program's output is kept: its end, where programs
// say why they failed.
const maxOutput = 2 << 10

// afterKill is how long the pipes of a program that was killed are waited for.
const afterKill = 2 * time.Second

func newHook(c Config) *hook { return &hook{c.Command} }

func (h *hook) add(ctx context.Context, set set) error {
	for _, value := range set.values {
		if err := h.call(ctx, "present", set, value); err != nil {
			return err
		}
	}
	return nil
}

// remove cannot know what was there: what the program removed without an error
// was.
func (h *hook) remove(ctx context.Context, set set) (removed []string, err error) {
	for _, value := range set.values {
		if err := h.call(ctx, "cleanup", set, value); err != nil {
			return removed, err
		}
		removed = append(removed, value)
	}
	return removed, nil
}

func (h *hook) call(ctx context.Context, verb string, set set, value string) error {
	if set.kind != "TXT" {
		return errors.New("a hook is for TXT records alone")
	}
	args := append(append([]string{}, h.command[1:]...), verb, set.name+".", value)
	program := exec.CommandContext(ctx, h.command[0], args...)
	program.Env = environment()
	// What the program started must end with it.
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.Cancel = func() error { return syscall.Kill(-program.Process.Pid, syscall.SIGKILL) }
	program.WaitDelay = afterKill
	var output tail
	program.Stdout, program.Stderr = &output, &output
	err := program.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("run %s %s: killed: %w%s", h.command[0], verb, context.Cause(ctx), output.said())
	default:
		return fmt.Errorf("run %s %s: %w%s", h.command[0], verb, err, output.said())
	}
}

// environment is what a program gets: the service's own may hold secrets.
func environment() []string {
	env := []string{"LANG=C.UTF-8"}
	for _, name := range []string{"PATH", "HOME"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// tail keeps the end of what is written. Only one goroutine of exec writes:
// standard output and standard error are the same writer.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxOutput; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// said is the output in one line, for an error.
func (t *tail) said() string {
	text := strings.TrimSpace(string(t.kept))
	if text == "" {
		return ", and it said nothing"
	}
	return fmt.Sprintf(", and it said %q", text)
}
