package authz

import (
	"context"
	"fmt"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// What a restore leaves out is bounded like what it takes: an archive of a billion
// tuples that the model does not know must not fill the memory.
func TestRestoreWholeIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	n := 0
	_, _, _, err := w.RestoreWhole(context.Background(), nil, ledger.Change{Store: w.store}, Whole{Next: func() (relation.Tuple, error) {
		if n++; n > MaxRestoreWhole+1 {
			return relation.Tuple{}, fault.New(fault.Internal, "more was read")
		}
		return relation.Tuple{Object: fmt.Sprintf("absent:%d", n), Relation: "r", Subject: "user:a"}, nil
	}})
	if fault.KindOf(err) != fault.TooLarge {
		t.Errorf("unknown tuples: %v", err)
	}
	_, _, _, err = w.RestoreWhole(context.Background(), nil, ledger.Change{Store: w.store}, Whole{Roles: make([]Role, MaxRoles+1)})
	if fault.KindOf(err) != fault.Exhausted {
		t.Errorf("roles: %v", err)
	}
}
