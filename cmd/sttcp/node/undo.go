package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// undoer collects how what was done is undone, while it is being done. What
// fails in the middle of a start, and a clean stop, are then one and the same
// way back. The zero value is ready; one goroutine owns it.
type undoer struct {
	steps []undoStep
}

type undoStep struct {
	what string
	do   func(context.Context) error
}

func (u *undoer) add(what string, do func(context.Context) error) {
	u.steps = append(u.steps, undoStep{what, do})
}

// undo takes all steps back, the last one first, and goes on after an error:
// what can be cleaned up is. Every step gets ctx, which says how long the
// connections may take; only the proxy looks at it. A second call does nothing.
func (u *undoer) undo(ctx context.Context) error {
	var errs []error
	for _, s := range slices.Backward(u.steps) {
		if err := s.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	u.steps = nil
	return errors.Join(errs...)
}
