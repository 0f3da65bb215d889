package authz

import (
	"context"
	"fmt"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// What a restore leaves out is bounded like what it takes: an archive of a billion
// tuples that the model does not know must not fill the memory.
func TestRestoreWholeIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	n := 0
	_, err := w.RestoreWhole(context.Background(), nil, ledger.Change{Store: w.store}, Whole{Next: func() (relation.Tuple, error) {
		if n++; n > MaxRestoreWhole+1 {
			return relation.Tuple{}, fault.New(fault.Internal, "more was read")
		}
		return relation.Tuple{Object: fmt.Sprintf("absent:%d", n), Relation: "r", Subject: "user:a"}, nil
	}})
	if fault.KindOf(err) != fault.TooLarge {
		t.Errorf("unknown tuples: %v", err)
	}
	_, err = w.RestoreWhole(context.Background(), nil, ledger.Change{Store: w.store}, Whole{Roles: make([]Role, MaxRoles+1)})
	if fault.KindOf(err) != fault.Exhausted {
		t.Errorf("roles: %v", err)
	}
}

// Thousands of models compile for minutes: whoever does not wait for it any more
// ends it.
func TestCheckEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	source := "model\n  schema 1.1\ntype user\n"
	r := Restored{Models: []ModelRecord{{ID: schema.ID(source), Source: source, Active: true}}}
	ctx, cancel := context.WithCancel(context.Background())
	if err := r.Check(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := r.Check(ctx); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("after its end: %v", err)
	}
}

// A restore names ten who could hold exclusive roles, each once, and says that
// there may be more.
func TestOverlapsAreBounded(t *testing.T) {
	t.Parallel()
	w := apartWorld(t)
	var all []relation.Tuple
	for n := range 12 {
		found, unclear, err := w.overlaps(context.Background(), w.store, all)
		if err != nil || len(found) != min(n, maxOverlaps) || unclear != (n > maxOverlaps) {
			t.Errorf("of %d: %v, %v, %v", n, found, unclear, err)
		}
		all = append(all, tuples(fmt.Sprintf("change:%d#requester@user:a", n), fmt.Sprintf("change:%d#approver@user:a", n))...)
	}
}
