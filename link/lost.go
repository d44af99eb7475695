package link

import (
	"context"
	"errors"
	"fmt"
	"io"

	"causeway/outcome"
)

// A connection may break when the header of an answer is there and its body is
// not. The group has handed the answer on by then, so it can't send the request
// again by itself:
//
//  1. lost gives the failure of such a body a name; a stream that the relay reset,
//     as it does when the origin fails, does not get it,
//  2. who has passed nothing on yet, not even the header, looks for ErrLost, and may send
//     a request that is Repeatable once more,
//  3. with a context of Again, so that the group's budget is kept.

// ErrLost is in the chain of an error, of reading an answer's body, when the
// link's connection broke: the relay has said nothing of the request itself.
var ErrLost = errors.New("the connection broke under the answer")

// lost gives the failure to read a body that came over w its name.
func (w *warm) lost(err error) error {
	if err == nil || err == io.EOF || w.Err() == nil {
		return err
	}
	return &outcome.Error{Kind: outcome.LinkCut, Err: fmt.Errorf("%w: %w", ErrLost, err)}
}

// againKey is the context key of Again.
type againKey struct{}

// Again marks the round trips made with the context: the request was sent
// before, and its answer lost. They fail at once when too many requests are sent
// again already.
func Again(ctx context.Context) context.Context { return context.WithValue(ctx, againKey{}, true) }

// isAgain reports whether ctx is of Again.
func isAgain(ctx context.Context) bool { return ctx.Value(againKey{}) != nil }
