// Command causeway publishes a web service that lives on the other side of a
// border. It is the verbs and their flags; the work is done by the packages.
//
//  1. main builds the command tree (verbs.go), which is also the man page and
//     the shell completions,
//  2. a verb reads its flags, calls a package, prints for people or as JSON,
//  3. the error decides the exit status: 0 fine, 1 failed, 2 bad usage or file.
package main

import (
	"errors"
	"fmt"
	"os"

	"causeway/config"
)

func main() { os.Exit(run(os.Args[1:])) }

// run is the whole program but for the exit.
func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSaid) {
		fmt.Fprintln(os.Stderr, err)
	}
	var usage *usageError
	var file config.Errors
	if errors.As(err, &usage) || errors.As(err, &file) || errors.Is(err, errSaid) {
		return 2
	}
	return 1
}

// errSaid is a bad file whose errors are already printed, as JSON.
var errSaid = errors.New("already said")

// usageError is a wrong call: unknown flag, missing argument.
type usageError struct{ error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }
