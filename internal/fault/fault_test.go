package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestKindAndPublicText(t *testing.T) {
	t.Parallel()
	driver := errors.New("UNIQUE constraint failed: users.mail alice@example.com")
	for _, c := range []struct {
		name   string
		err    error
		kind   Kind
		public string
	}{
		{"own", New(Denied, "no"), Denied, "no"},
		{"wrapped by fmt", fmt.Errorf("more: %w", New(Conflict, "taken")), Conflict, "taken"},
		{"foreign", driver, Internal, "internal error; the request id names the log entry"},
		{"private cause", Wrap(Conflict, "the name is taken; choose another", driver), Conflict, "the name is taken; choose another"},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), Unavailable, "the request was not finished in time; try again"},
	} {
		if got := KindOf(c.err); got != c.kind {
			t.Errorf("%s: kind %v, want %v", c.name, got, c.kind)
		}
		if got := Public(c.err); got != c.public {
			t.Errorf("%s: public %q, want %q", c.name, got, c.public)
		}
		if strings.Contains(Public(c.err), "alice@example.com") {
			t.Errorf("%s: the cause leaks into the public text", c.name)
		}
	}
	if !errors.Is(Wrap(Internal, "x", driver), driver) {
		t.Error("Wrap hides the cause from errors.Is")
	}
}

func TestKindNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for k := Internal; k <= Unsupported; k++ {
		if n := k.String(); n == "" || seen[n] {
			t.Errorf("kind %d has the name %q", k, n)
		} else {
			seen[n] = true
		}
	}
	if Kind(200).String() != "internal" {
		t.Error("an unknown kind must read as internal")
	}
}
