package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// pages reads all pages of a listing.
func (w *world) pages(id relation.StoreID, f authz.Filter, limit int) (all []authz.StoredTuple) {
	w.t.Helper()
	var after relation.Tuple
	for {
		page, rev, err := w.Archive().ReadTuples(w.ctx, id, f, after, limit)
		w.ok(err)
		if rev.Store != id || rev.Epoch != anInstance().Epoch {
			w.t.Errorf("read at %+v", rev)
		}
		if len(page) == 0 {
			return all
		}
		if len(page) > limit {
			w.t.Fatalf("%d tuples on a page of %d", len(page), limit)
		}
		all = append(all, page...)
		after = page[len(page)-1].Tuple
	}
}

// matches is what a filter means.
func matches(filter, value string) bool {
	if strings.IndexByte(filter, ':') == len(filter)-1 && filter != "" {
		return strings.HasPrefix(value, filter)
	}
	return filter == "" || filter == value
}

// testReadTuples: every filter, in pages of every size, gives what a naive
// reader picks.
func testReadTuples(t *testing.T, open Open) {
	w := newWorld(t, open)
	beside := w.free(w.acme, "beside")
	_, err := w.write(beside.ID, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("elsewhere")}})
	w.ok(err)
	objects := []string{"doc:a", "doc:b", "doc:b:", "doc;:a", "docs:a", "do:a", "doc:ä", "doc:A"}
	subjects := []string{"user:x", "user:*", "user:y", "users:x", "team:x#member", "team:x", "team:x#owner"}
	var all []authz.StoredTuple
	for i, o := range objects {
		for j, s := range subjects {
			for k, r := range []string{"viewer", "owner"} {
				if (i+j+k)%3 == 0 {
					continue
				}
				x := relation.Tuple{Object: o, Relation: r, Subject: s}
				if i == j {
					x.Condition, x.Context, x.Expires = "c", `{"a":1}`, 5
				}
				ev := event(w.acme.Tenant, "")
				ev.Time = at.Add(time.Duration(i))
				_, err := w.Tuples().WriteTuples(w.ctx, ledger.Change{Store: w.docs, Event: ev}, authz.Write{Writes: []relation.Tuple{x}})
				w.ok(err)
				all = append(all, authz.StoredTuple{Tuple: x, Written: ev.Time})
			}
		}
	}
	slices.SortFunc(all, func(a, b authz.StoredTuple) int {
		return slices.Compare([]string{a.Object, a.Relation, a.Subject}, []string{b.Object, b.Relation, b.Subject})
	})
	cases := 0
	for _, o := range append([]string{"", "doc:", "doc", "none:", "none:x"}, objects...) {
		for _, r := range []string{"", "viewer", "none"} {
			for _, s := range append([]string{"", "user:", "team:", "none:", "user:none"}, subjects...) {
				f := authz.Filter{Object: o, Relation: r, Subject: s}
				var want []authz.StoredTuple
				for _, x := range all {
					if matches(o, x.Object) && matches(s, x.Subject) && (r == "" || r == x.Relation) {
						want = append(want, x)
					}
				}
				cases += len(want)
				for _, limit := range []int{1, 3, 1000} {
					if diff := cmp.Diff(want, w.pages(w.docs, f, limit)); diff != "" {
						t.Fatalf("%+v in pages of %d (-want +got):\n%s", f, limit, diff)
					}
				}
				// A place that is no tuple's, or another filter's.
				for _, after := range []relation.Tuple{{Object: "doc:b"}, {Object: "doc:b", Relation: "viewer", Subject: "team:x"}, {Object: "doc:a", Relation: "p"}} {
					rest := slices.Clone(want)
					rest = slices.DeleteFunc(rest, func(x authz.StoredTuple) bool {
						return slices.Compare([]string{x.Object, x.Relation, x.Subject}, []string{after.Object, after.Relation, after.Subject}) <= 0
					})
					got, _, err := w.Archive().ReadTuples(w.ctx, w.docs, f, after, 1000)
					w.ok(err)
					if !slices.Equal(rest, got) {
						t.Fatalf("%+v after %v (-want +got):\n%s", f, after, cmp.Diff(rest, got))
					}
				}
			}
		}
	}
	if cases < 100 {
		t.Fatalf("only %d matches were expected of all filters", cases)
	}
	_, _, err = w.Archive().ReadTuples(w.ctx, newStore(), authz.Filter{}, relation.Tuple{}, 1)
	w.kind("an unknown store", err, fault.NotFound)
	for _, limit := range []int{0, -1} {
		if got, _, err := w.Archive().ReadTuples(w.ctx, w.docs, authz.Filter{}, relation.Tuple{}, limit); err != nil || len(got) != 0 {
			t.Errorf("a page of %d has %d tuples: %v", limit, len(got), err)
		}
	}
}

// testReadWhileWrites: a tuple that stands during the whole listing is on
// exactly one page, whatever comes and goes meanwhile.
func testReadWhileWrites(t *testing.T, open Open) {
	w := newWorld(t, open)
	var standing []relation.Tuple
	for i := range 60 {
		standing = append(standing, relation.Tuple{Object: fmt.Sprintf("document:%02d", i/4), Relation: "viewer", Subject: fmt.Sprintf("user:%d", i%4)})
	}
	_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: standing})
	w.ok(err)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(stop)
	round := make(chan struct{}, 1)
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			x := relation.Tuple{Object: fmt.Sprintf("document:%02d", i%15), Relation: "viewer", Subject: "user:1passing"}
			_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{x}})
			if err == nil {
				_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{x}})
			}
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case round <- struct{}{}:
			default:
			}
		}
	})
	for _, f := range []authz.Filter{{}, {Object: "document:"}, {Object: "document:03"}, {Subject: "user:2"}} {
		for range 5 {
			select {
			case <-round:
			case <-time.After(30 * time.Second):
				t.Fatal("the writer does not go on")
			}
			var want, got []relation.Tuple
			for _, x := range standing {
				if matches(f.Object, x.Object) && matches(f.Subject, x.Subject) {
					want = append(want, x)
				}
			}
			for _, x := range w.pages(w.docs, f, 2) {
				if x.Subject != "user:1passing" {
					got = append(got, x.Tuple)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%+v (-want +got):\n%s", f, diff)
			}
		}
	}
}

// testReadChanges: the history can be resumed at every position, and is the same
// in pages of every size.
func testReadChanges(t *testing.T, open Open) {
	w := newWorld(t, open)
	g := w.free(w.acme, "free")
	beside := w.free(w.acme, "beside")
	_, err := w.write(beside.ID, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("elsewhere")}})
	w.ok(err)
	change := func(minutes int) ledger.Change {
		ev := event(w.acme.Tenant, "")
		ev.Time = at.Add(time.Duration(minutes) * time.Minute)
		return ledger.Change{Store: g.ID, Event: ev}
	}
	list := guarded()
	team := relation.Tuple{Object: "documents:x", Relation: "viewer", Subject: "user:x"}
	for i, c := range []authz.Write{
		{Writes: list[:3]},
		{},
		{Writes: []relation.Tuple{team, list[3]}, Deletes: []relation.Tuple{list[0], list[2].Key()}},
		{Writes: []relation.Tuple{with(list[1], func(t *relation.Tuple) { t.Expires = 7 })}, Deletes: []relation.Tuple{list[1].Key()}},
	} {
		_, err := w.Tuples().WriteTuples(w.ctx, change(i), c)
		w.ok(err)
	}
	_, err = w.Tuples().PutModel(w.ctx, change(4), authz.ModelRecord{Application: authz.FreeApplication(g.ID), ID: "m", Source: "s", Active: true})
	w.ok(err)
	_, err = w.Tuples().WriteTuples(w.ctx, change(5), authz.Write{Deletes: []relation.Tuple{team}})
	w.ok(err)
	var want []authz.TupleChange
	add := func(rev uint64, ordinal int, gone bool, x relation.Tuple) {
		want = append(want, authz.TupleChange{Position: authz.Position{Rev: rev, Ordinal: ordinal}, Tuple: x, Delete: gone, Time: at.Add(time.Duration(rev-1) * time.Minute)})
	}
	for i, x := range list[:3] {
		add(1, i, false, x)
	}
	add(3, 0, true, list[0])
	add(3, 1, true, list[2].Key())
	add(3, 2, false, team)
	add(3, 3, false, list[3])
	add(4, 0, true, list[1].Key())
	add(4, 1, false, with(list[1], func(t *relation.Tuple) { t.Expires = 7 }))
	add(6, 0, true, team)
	head := relation.Revision{Epoch: anInstance().Epoch, Store: g.ID, Rev: 6}
	read := func(typ string, since time.Time, after authz.Position, limit int) []authz.TupleChange {
		t.Helper()
		got, rev, err := w.Archive().ReadChanges(w.ctx, g.ID, typ, since, after, limit)
		w.ok(err)
		if rev != head {
			t.Errorf("read at %+v, want %+v", rev, head)
		}
		return got
	}
	for i := range len(want) + 1 {
		var after authz.Position
		if i > 0 {
			after = want[i-1].Position
		}
		for _, limit := range []int{0, 1, 2, 100} {
			end := min(len(want), i+limit)
			if diff := cmp.Diff(append([]authz.TupleChange(nil), want[i:end]...), read("", time.Time{}, after, limit)); diff != "" {
				t.Errorf("%d after %+v (-want +got):\n%s", limit, after, diff)
			}
		}
	}
	pick := func(keep func(authz.TupleChange) bool) (out []authz.TupleChange) {
		for _, c := range want {
			if keep(c) {
				out = append(out, c)
			}
		}
		return out
	}
	for _, typ := range []string{"document", "documents", "doc"} {
		some := pick(func(c authz.TupleChange) bool { return strings.HasPrefix(c.Tuple.Object, typ+":") })
		if diff := cmp.Diff(some, read(typ, time.Time{}, authz.Position{}, 100)); diff != "" {
			t.Errorf("of type %s (-want +got):\n%s", typ, diff)
		}
	}
	since := at.Add(3 * time.Minute)
	if diff := cmp.Diff(pick(func(c authz.TupleChange) bool { return !c.Time.Before(since) }), read("", since, authz.Position{}, 100)); diff != "" {
		t.Errorf("since a time (-want +got):\n%s", diff)
	}
	if got := read("", time.Time{}, authz.Position{Rev: 99}, 100); len(got) != 0 {
		t.Errorf("after the future: %+v", got)
	}
	_, _, err = w.Archive().ReadChanges(w.ctx, g.ID, "", time.Time{}, authz.Position{Rev: 1 << 63}, 1)
	w.kind("a revision that does not fit", err, fault.Invalid)
	_, _, err = w.Archive().ReadChanges(w.ctx, newStore(), "", time.Time{}, authz.Position{}, 1)
	w.kind("an unknown store", err, fault.NotFound)
}

// testMixedChanges: positions of tuples are dense also where a revision changed
// more than them.
func testMixedChanges(t *testing.T, open Open) {
	w := newWorld(t, open)
	sys := w.acme.System
	rev := w.must(sys, w.acme.Tenant, func(tx directory.Tx) error {
		if err := tx.Insert(user(w.acme, "zoe")); err != nil {
			return err
		}
		return tx.WriteTuples(sys, []relation.Tuple{tuple("a"), tuple("b")}, nil)
	})
	got, _, err := w.Archive().ReadChanges(w.ctx, sys, "", time.Time{}, authz.Position{}, 100)
	w.ok(err)
	if len(got) != 2 || got[0].Position != (authz.Position{Rev: rev.Rev}) || got[1].Ordinal != 1 {
		t.Errorf("the tuples of a mixed revision stand at %+v", got)
	}
}

func testAssertions(t *testing.T, open Open) {
	w := newWorld(t, open)
	mine, theirs := w.free(w.acme, "mine"), w.free(w.globex, "theirs")
	put := func(id relation.StoreID, model, payload string) {
		t.Helper()
		rev, err := w.Archive().PutAssertions(w.ctx, ledger.Change{Store: id, Event: event(w.acme.Tenant, "")}, model, []byte(payload))
		w.ok(err)
		if rev.Store != id || rev.Rev != w.head(id) {
			t.Errorf("the assertions have the revision %+v", rev)
		}
	}
	check := func(id relation.StoreID, model, want string) {
		t.Helper()
		got, err := w.Archive().Assertions(w.ctx, id, model)
		w.ok(err)
		if string(got) != want {
			t.Errorf("the assertions of %s are %q, want %q", model, got, want)
		}
	}
	none, err := w.Archive().Assertions(w.ctx, mine.ID, "m")
	if none != nil || err != nil {
		t.Errorf("before there are any: %q, %v", none, err)
	}
	put(mine.ID, "m", "one\x00\xff")
	put(theirs.ID, "m", "theirs")
	put(w.docs, "n", "of a default store")
	put(mine.ID, "n", "")
	check(mine.ID, "m", "one\x00\xff")
	put(mine.ID, "m", "two")
	check(mine.ID, "m", "two")
	check(mine.ID, "n", "")
	check(theirs.ID, "m", "theirs")
	check(theirs.ID, "n", "")
	check(w.docs, "n", "of a default store")
	if empty, err := w.Archive().Assertions(w.ctx, mine.ID, "n"); empty == nil || err != nil {
		t.Errorf("an empty list is none: %v, %v", empty, err)
	}
	_, err = w.Archive().Assertions(w.ctx, newStore(), "m")
	w.kind("an unknown store", err, fault.NotFound)
	_, err = w.Archive().PutAssertions(w.ctx, ledger.Change{Store: newStore(), Event: event(w.acme.Tenant, "")}, "m", nil)
	w.kind("assertions for an unknown store", err, fault.NotFound)
	_, err = w.Archive().PutAssertions(w.ctx, ledger.Change{Store: mine.ID, Event: event(w.acme.Tenant, "")}, "", nil)
	w.kind("assertions for no model", err, fault.Invalid)
}
