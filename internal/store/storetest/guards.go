package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
)

// guarded are tuples with all that a guard can be.
func guarded() []relation.Tuple {
	list := []relation.Tuple{tuple("a"), tuple("b"), tuple("c"), tuple("d"), tuple("e")}
	list[1].Condition = "office_hours"
	list[2].Condition, list[2].Context = "in_region", `{"regions":["eu","\u001e\u001f\u0000"],"text":"a#b@c | ü \u2028"}`
	list[3].Expires = at.UnixNano() + 1
	list[4].Condition, list[4].Context, list[4].Expires = "in_region", `{}`, 1<<63-1
	return list
}

// testTupleGuards: condition, context and end go every way that the tuple goes.
func testTupleGuards(t *testing.T, open Open) {
	w := newWorld(t, open)
	var seen []store.Batch
	w.Subscribe(func(b store.Batch) { seen = append(seen, b) })
	list := guarded()
	rev, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: list})
	w.ok(err)
	check := func(rev relation.Revision, want store.Batch, all ...relation.Tuple) {
		t.Helper()
		want.Store, want.Rev = w.docs, rev.Rev
		logged, err := w.Changes(w.ctx, w.docs, rev.Rev-1, 1)
		w.ok(err)
		if diff := cmp.Diff([]store.Batch{want}, logged); diff != "" {
			t.Errorf("logged otherwise (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, seen[len(seen)-1]); diff != "" {
			t.Errorf("delivered otherwise (-want +got):\n%s", diff)
		}
		loaded, _, err := w.load(w.ctx, w.docs)
		w.ok(err)
		if diff := cmp.Diff(all, loaded); diff != "" {
			t.Errorf("loaded otherwise (-want +got):\n%s", diff)
		}
	}
	check(rev, store.Batch{Writes: list}, list...)
	// A guard is no part of the key.
	other := list[1]
	other.Condition = "another"
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{other}})
	w.kind("a second tuple of a key", err, fault.Conflict)
	rev, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{other}, Deletes: []relation.Tuple{other.Key(), list[2].Key()}})
	w.ok(err)
	check(rev, store.Batch{Writes: []relation.Tuple{other}, Deletes: []relation.Tuple{other.Key(), list[2].Key()}}, list[0], other, list[3], list[4])
	// To delete and to write the same is to do nothing.
	rev, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{list[4]}, Deletes: []relation.Tuple{list[4].Key()}})
	w.ok(err)
	check(rev, store.Batch{}, list[0], other, list[3], list[4])
	bad := func(what string, kind fault.Kind, change func(*relation.Tuple)) {
		t.Helper()
		x := tuple("x")
		change(&x)
		_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{x}})
		w.kind(what, err, kind)
	}
	bad("a context without a condition", fault.Invalid, func(t *relation.Tuple) { t.Context = `{}` })
	bad("no JSON", fault.Invalid, func(t *relation.Tuple) { t.Condition, t.Context = "c", "\x1e" })
	bad("a negative end", fault.Invalid, func(t *relation.Tuple) { t.Expires = -1 })
	bad("a huge context", fault.TooLarge, func(t *relation.Tuple) {
		t.Condition, t.Context = "c", `"`+strings.Repeat("x", relation.MaxContext)+`"`
	})
	// The directory's transactions see them as well.
	sys := w.acme.System
	w.must(sys, w.acme.Tenant, func(tx directory.Tx) error {
		if err := tx.WriteTuples(sys, list, nil); err != nil {
			return err
		}
		in, err := tx.Tuples(sys, relation.Tuple{Object: list[4].Object})
		if diff := cmp.Diff([]relation.Tuple{list[4]}, in); diff != "" {
			t.Errorf("the transaction sees (-want +got):\n%s", diff)
		}
		return err
	})
}

// testTupleIgnores: what is asked to be ignored is, and the change is made with
// its revision and its event, even if nothing is left of it.
func testTupleIgnores(t *testing.T, open Open) {
	w := newWorld(t, open)
	list := guarded()
	_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: list})
	w.ok(err)
	before := len(w.events())
	rev, err := w.write(w.docs, w.acme.Tenant, authz.Write{
		Writes: list, IgnoreDuplicate: true, Deletes: []relation.Tuple{tuple("gone")}, IgnoreMissing: true,
	})
	w.ok(err)
	logged, err := w.Changes(w.ctx, w.docs, 1, 9)
	w.ok(err)
	if diff := cmp.Diff([]store.Batch{{Store: w.docs, Rev: 2}}, logged); diff != "" || rev.Rev != 2 {
		t.Errorf("at revision %d (-want +got):\n%s", rev.Rev, diff)
	}
	if events := w.events(); len(events) != before+1 || events[before].Event.Revision != rev {
		t.Errorf("%d events, want one more than %d", len(events), before)
	}
	rev, err = w.write(w.docs, w.acme.Tenant, authz.Write{
		Writes: []relation.Tuple{tuple("new"), list[1], tuple("new")}, IgnoreDuplicate: true,
		Deletes: []relation.Tuple{tuple("gone"), list[0]}, IgnoreMissing: true,
	})
	w.ok(err)
	logged, err = w.Changes(w.ctx, w.docs, 2, 9)
	w.ok(err)
	if diff := cmp.Diff([]store.Batch{{Store: w.docs, Rev: rev.Rev, Writes: []relation.Tuple{tuple("new")}, Deletes: []relation.Tuple{tuple("a")}}}, logged); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Each flag ignores its own, and only what is the same.
	for what, change := range map[string]authz.Write{
		"a duplicate":                  {Writes: []relation.Tuple{tuple("new")}, IgnoreMissing: true},
		"a missing one":                {Deletes: []relation.Tuple{tuple("gone")}, IgnoreDuplicate: true},
		"a duplicate without its end":  {Writes: []relation.Tuple{list[3].Key()}, IgnoreDuplicate: true},
		"one that has a guard now":     {Writes: []relation.Tuple{{Object: "document:new", Relation: "viewer", Subject: "user:new", Expires: 9}}, IgnoreDuplicate: true},
		"another condition":            {Writes: []relation.Tuple{with(list[2], func(t *relation.Tuple) { t.Condition = "other" })}, IgnoreDuplicate: true},
		"another context":              {Writes: []relation.Tuple{with(list[2], func(t *relation.Tuple) { t.Context = `{}` })}, IgnoreDuplicate: true},
		"a good one beside a conflict": {Writes: []relation.Tuple{tuple("z"), list[3].Key()}, IgnoreDuplicate: true},
	} {
		_, err := w.write(w.docs, w.acme.Tenant, change)
		w.kind(what, err, fault.Conflict)
	}
	if n := w.head(w.docs); n != rev.Rev {
		t.Errorf("refused changes used revisions up to %d", n)
	}
	got, _, err := w.load(w.ctx, w.docs)
	w.ok(err)
	if diff := cmp.Diff([]relation.Tuple{list[1], list[2], list[3], list[4], tuple("new")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func with(t relation.Tuple, change func(*relation.Tuple)) relation.Tuple {
	change(&t)
	return t
}

// testPreconditions: they hold in the change's own transaction, before its
// deletes, in its own store.
func testPreconditions(t *testing.T, open Open) {
	w := newWorld(t, open)
	other := w.free(w.acme, "other")
	_, err := w.write(other.ID, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("elsewhere")}})
	w.ok(err)
	group := relation.Tuple{Object: "team:x", Relation: "member", Subject: "team:y#member"}
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("a"), group}})
	w.ok(err)
	for n, c := range []struct {
		filter authz.Filter
		found  bool
	}{
		{authz.Filter{}, true},
		{authz.Filter{Object: "document:a"}, true},
		{authz.Filter{Object: "document:"}, true},
		{authz.Filter{Object: "document"}, false},
		{authz.Filter{Object: "documen:"}, false},
		{authz.Filter{Relation: "member"}, true},
		{authz.Filter{Relation: "owner"}, false},
		{authz.Filter{Subject: "team:"}, true},
		{authz.Filter{Subject: "team:y"}, false},
		{authz.Filter{Subject: "team:y#member", Object: "team:"}, true},
		{authz.Filter{Subject: "team:y#member", Object: "document:"}, false},
		{authz.Filter{Object: "document:elsewhere"}, false},
		{authz.Filter{Object: "document:a", Relation: "viewer", Subject: "user:a"}, true},
	} {
		for _, absent := range []bool{false, true} {
			name := tuple(fmt.Sprintf("%d-%v", n, absent))
			_, err := w.write(w.docs, w.acme.Tenant, authz.Write{
				Writes: []relation.Tuple{name}, Must: []authz.Precondition{{Filter: c.filter, Absent: absent}},
			})
			if absent == c.found {
				w.kind(fmt.Sprintf("%+v, absent %v", c.filter, absent), err, fault.Conflict)
				continue
			}
			w.ok(err)
			_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{name}})
			w.ok(err)
		}
	}
	there := authz.Precondition{Filter: authz.Filter{Object: "document:a"}}
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{tuple("a")}, Must: []authz.Precondition{there}})
	w.ok(err) // it held before the delete
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("a")}, Must: []authz.Precondition{there}})
	w.kind("what the change itself would bring", err, fault.Conflict)
	// Many want to be the only owner; each sees that there is none.
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() {
			_, err := w.write(w.docs, w.acme.Tenant, authz.Write{
				Writes: []relation.Tuple{{Object: "document:z", Relation: "owner", Subject: fmt.Sprint("user:", i)}},
				Must:   []authz.Precondition{{Filter: authz.Filter{Object: "document:z", Relation: "owner"}, Absent: true}},
			})
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		if err := <-results; err == nil {
			won++
		} else {
			w.kind("a second owner", err, fault.Conflict)
		}
	}
	if won != 1 {
		t.Errorf("%d became the only owner", won)
	}
}

// testExpired: what has ended is found in all stores, and to take it away
// spares what was granted anew.
func testExpired(t *testing.T, open Open) {
	w := newWorld(t, open)
	ends := func(n string, end time.Time) relation.Tuple {
		return with(tuple(n), func(t *relation.Tuple) { t.Expires = end.UnixNano() })
	}
	old, due, later := ends("old", at.Add(-time.Hour)), ends("due", at), ends("later", at.Add(1))
	due.Condition, due.Context = "c", `{"a":1}`
	_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{later, due, tuple("never")}})
	w.ok(err)
	free := w.free(w.globex, "free")
	_, err = w.write(free.ID, w.globex.Tenant, authz.Write{Writes: []relation.Tuple{old}})
	w.ok(err)
	check := func(now time.Time, limit int, want ...relation.Located) {
		t.Helper()
		got, err := w.Expired(w.ctx, now, limit)
		w.ok(err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("expired at %v (-want +got):\n%s", now, diff)
		}
	}
	first, second := relation.Located{Store: free.ID, Tuple: old}, relation.Located{Store: w.docs, Tuple: due}
	check(at, 10, first, second)
	check(at, 1, first)
	check(at, 0)
	check(at.Add(-1), 10, first)
	check(at.Add(-2*time.Hour), 10)
	check(at.Add(1), 10, first, second, relation.Located{Store: w.docs, Tuple: later})
	_, err = w.Expired(w.ctx, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), 1)
	w.kind("a time that does not fit", err, fault.Invalid)

	renewed := ends("due", at.Add(time.Hour))
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{renewed}, Deletes: []relation.Tuple{due.Key()}})
	w.ok(err)
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{due}})
	w.kind("a delete of what was granted anew", err, fault.Conflict)
	rev, err := w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{due, later}, IgnoreMissing: true})
	w.ok(err)
	logged, err := w.Changes(w.ctx, w.docs, rev.Rev-1, 1)
	w.ok(err)
	if diff := cmp.Diff([]store.Batch{{Store: w.docs, Rev: rev.Rev, Deletes: []relation.Tuple{later.Key()}}}, logged); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	check(at.Add(time.Minute), 10, first)
}

// testLoads: large stores come whole and in order, however they are cut into
// pieces, and a reader that has enough ends the reading.
func testLoads(t *testing.T, open Open) {
	w := newWorld(t, open)
	var want []relation.Tuple
	for i := range 2500 {
		x := relation.Tuple{Object: fmt.Sprintf("document:%04d", i/3), Relation: "viewer", Subject: fmt.Sprintf("user:%d", i%3)}
		if i%7 == 0 {
			b, err := json.Marshal(map[string]any{"n": i, "s": "\n\x1e"})
			w.ok(err)
			x.Condition, x.Context, x.Expires = "c", string(b), int64(i)
		}
		want = append(want, x)
		if len(want)%100 == 0 {
			_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: want[len(want)-100:]})
			w.ok(err)
		}
		if n := len(want); n == 500 || n == 2500 {
			got, _, err := w.load(w.ctx, w.docs)
			w.ok(err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%d tuples came otherwise (-want +got):\n%s", n, diff)
			}
		}
	}
	enough, n := errors.New("enough"), 0
	_, err := w.Tuples().LoadGraph(w.ctx, w.docs, func(relation.Tuple) error {
		if n++; n == 700 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 700 {
		t.Errorf("after %d tuples: %v", n, err)
	}
}
