package authz

import (
	"context"
	"errors"
	"strings"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// A batch is answered at one revision: of two tuples of which a writer always
// leaves exactly one, it sees exactly one.
func TestBatchIsOneMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, "folder:plans#viewer@user:left")
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		here, there := tuple("folder:plans#viewer@user:left"), tuple("folder:plans#viewer@user:right")
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			_, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: []relation.Tuple{there}, Deletes: []relation.Tuple{here}})
			if err != nil {
				ended <- err
				return
			}
			here, there = there, here
		}
	}()
	var last uint64
	for moved := 0; moved < 200; {
		questions := []Query{
			{Object: "folder:plans", Relation: "viewer", Subject: "user:left"}, {Object: "folder:plans", Relation: "viewer", Subject: "user:right"},
		}
		var allowed []bool
		rev, model, err := w.CheckBatch(context.Background(), w.store, "", questions, func(_ int, d Decision, err error) {
			if err != nil {
				t.Error(err)
			}
			allowed = append(allowed, d.Allowed)
		})
		if err != nil || model == "" || rev.Store != w.store || rev.Rev < last {
			t.Fatalf("%+v %q %v", rev, model, err)
		}
		if len(allowed) != 2 || allowed[0] == allowed[1] {
			t.Fatalf("at %d: %v", rev.Rev, allowed)
		}
		if rev.Rev > last {
			moved++
		}
		last = rev.Rev
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// What one question lacks is its own error; what the batch lacks is everybody's.
func TestBatchErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, "folder:plans#viewer@user:anne")
	var got []string
	questions := []Query{
		{Store: "another", Object: "folder:plans", Relation: "viewer", Subject: "user:anne"},
		{Object: "folder:plans", Relation: "unknown", Subject: "user:anne"},
		{Object: "folder:plans", Relation: "viewer", Subject: "user:bob", Asked: Asked{Contextual: []relation.Tuple{tuple("folder:plans#viewer@user:bob")}}},
		{Object: "folder:plans", Relation: "viewer", Subject: "user:bob", Asked: Asked{Contextual: []relation.Tuple{tuple("folder:plans#viewer@folder:x")}}},
		{Object: "folder:plans", Relation: "viewer", Subject: "user:bob", Explain: true},
	}
	_, _, err := w.CheckBatch(t.Context(), w.store, "", questions, func(i int, d Decision, err error) {
		switch {
		case i != len(got):
			t.Errorf("the answer %d came after %d", i, len(got))
		case errors.Is(err, ErrNoRelation):
			got = append(got, "no relation")
		case errors.Is(err, ErrTuple):
			got = append(got, "tuple")
		case err == nil && d.Allowed:
			got = append(got, "yes")
		case err == nil && (d.Trace != nil) == (i == 4):
			got = append(got, "no")
		default:
			t.Errorf("%d: %+v, %v", i, d, err)
		}
	})
	if want := "yes|no relation|yes|tuple|no"; err != nil || strings.Join(got, "|") != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
	none := func(int, Decision, error) { t.Error("a question of no batch was answered") }
	if _, _, err := w.CheckBatch(t.Context(), w.store, tenant.RandomID(), questions, none); !errors.Is(err, ErrNoModel) {
		t.Error(err)
	}
	if _, _, err := w.CheckBatch(t.Context(), relation.StoreID(tenant.RandomID()), "", questions, none); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
}
