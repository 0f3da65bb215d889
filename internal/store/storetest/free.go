package storetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// testFreeStores: a tenant makes as many as it likes, in its own shard alone,
// and each has a history of its own.
func testFreeStores(t *testing.T, open Open) {
	w := newWorld(t, open)
	count := func(in directory.Tenant) (n int) {
		w.must(in.System, in.Tenant, func(tx directory.Tx) (err error) {
			n, err = tx.FreeGraphs(in.Tenant)
			return err
		})
		return n
	}
	first, second, theirs := w.free(w.acme, "store"), w.free(w.acme, "store"), w.free(w.globex, "store")
	if a, g, p := count(w.acme), count(w.globex), count(w.platform); a != 2 || g != 1 || p != 0 {
		t.Errorf("acme has %d free stores, globex %d, the platform %d", a, g, p)
	}
	_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { _, err := tx.FreeGraphs(w.globex.Tenant); return err })
	w.kind("to count another's", err, fault.Internal)
	for what, g := range map[string]*directory.Graph{
		"a free store without a name":  {Tenant: w.acme.Tenant, ID: newStore(), Kind: directory.FreeGraph},
		"one with an application":      {Tenant: w.acme.Tenant, ID: newStore(), Kind: directory.FreeGraph, Name: "abc", Application: "mail"},
		"a default store with a name":  {Tenant: w.acme.Tenant, ID: newStore(), Kind: directory.DefaultGraph, Name: "abc", Application: "mail"},
		"one without application":      {Tenant: w.acme.Tenant, ID: newStore(), Kind: directory.DefaultGraph},
		"a store of a kind not known":  {Tenant: w.acme.Tenant, ID: newStore(), Kind: "other", Name: "abc"},
		"a system store of that shape": {Tenant: w.acme.Tenant, ID: newStore(), Kind: directory.SystemGraph, Name: "abc"},
	} {
		if err := w.insert(w.acme, g); fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.Conflict || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.kind("another tenant's id", w.insert(w.acme, inTenant(theirs, w.acme.Tenant)), fault.Conflict)
	w.kind("a store as another kind", w.insert(w.acme, &directory.Graph{Tenant: w.acme.Tenant, ID: w.docs, Kind: directory.FreeGraph, Name: "abc"}), fault.Conflict)
	// The same tuple in all: none knows of the others.
	for i, g := range []*directory.Graph{first, second, theirs} {
		x := with(tuple("a"), func(t *relation.Tuple) { t.Expires = int64(i + 1) })
		rev, err := w.write(g.ID, g.Tenant, authz.Write{Writes: []relation.Tuple{x}})
		w.ok(err)
		if want := (relation.Revision{Epoch: anInstance().Epoch, Store: g.ID, Rev: 1}); rev != want {
			t.Errorf("the first change of a store has the revision %+v, want %+v", rev, want)
		}
		got, loaded, err := w.load(w.ctx, g.ID)
		w.ok(err)
		if diff := cmp.Diff([]relation.Tuple{x}, got); diff != "" || loaded.Revision != rev {
			t.Errorf("at %+v (-want +got):\n%s", loaded.Revision, diff)
		}
	}
	stored := w.stored(first)
	w.ok(w.Close())
	w.Store = open(t, w.place)
	if diff := cmp.Diff(stored, w.stored(first), exact); diff != "" || stored == nil {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// testFreeModels: a free store's models come with its graph and with nothing else.
func testFreeModels(t *testing.T, open Open) {
	w := newWorld(t, open)
	mine, theirs := w.free(w.acme, "mine"), w.free(w.globex, "theirs")
	put := func(g *directory.Graph, m authz.ModelRecord) (relation.Revision, error) {
		return w.Tuples().PutModel(w.ctx, ledger.Change{Store: g.ID, Event: event(g.Tenant, "")}, m)
	}
	check := func(g *directory.Graph, want ...authz.ModelRecord) {
		t.Helper()
		_, loaded, err := w.load(w.ctx, g.ID)
		w.ok(err)
		if diff := cmp.Diff(want, loaded.Models); diff != "" {
			t.Errorf("the models of %s (-want +got):\n%s", g.Name, diff)
		}
	}
	model := func(g *directory.Graph, id string, age time.Duration) authz.ModelRecord {
		return authz.ModelRecord{Application: authz.FreeApplication(g.ID), ID: id, Source: "model " + id, Active: true, Created: at.Add(-age)}
	}
	a, b := model(mine, "z", time.Hour), model(mine, "a", 0)
	other := model(theirs, "z", 0)
	_, err := put(mine, a)
	w.ok(err)
	_, err = put(theirs, other)
	w.ok(err)
	rev, err := put(mine, b)
	w.ok(err)
	if want := (relation.Revision{Epoch: anInstance().Epoch, Store: mine.ID, Rev: 2}); rev != want {
		t.Errorf("the model has the revision %+v, want %+v", rev, want)
	}
	a.Active = false
	check(mine, a, b)
	check(theirs, other)
	logged, err := w.Changes(w.ctx, mine.ID, 1, 9)
	w.ok(err)
	var sent authz.ModelRecord
	if len(logged) != 1 || len(logged[0].Entries) != 1 || logged[0].Entries[0].Kind != authz.KindModel || logged[0].Entries[0].Key != "store:"+string(mine.ID)+"/a" {
		t.Fatalf("the change was logged as %+v", logged)
	}
	w.ok(json.Unmarshal(logged[0].Entries[0].Payload, &sent))
	if diff := cmp.Diff(b, sent); diff != "" {
		t.Errorf("the model was logged otherwise (-want +got):\n%s", diff)
	}
	a.Active, b.Active = true, false // an old one again
	_, err = put(mine, a)
	w.ok(err)
	check(mine, a, b)
	all, err := w.Tuples().LoadModels(w.ctx)
	w.ok(err)
	if len(all) != 0 {
		t.Errorf("models of free stores are among the applications': %+v", all)
	}
	for what, c := range map[string]struct {
		in directory.Graph
		m  authz.ModelRecord
	}{
		"another's store":       {*mine, model(theirs, "m", 0)},
		"a default store":       {directory.Graph{ID: w.docs, Tenant: w.acme.Tenant}, model(&directory.Graph{ID: w.docs}, "m", 0)},
		"a system store":        {directory.Graph{ID: w.acme.System, Tenant: w.acme.Tenant}, model(&directory.Graph{ID: w.acme.System}, "m", 0)},
		"one's store, far away": {directory.Graph{ID: w.acme.System, Tenant: w.acme.Tenant}, model(mine, "m", 0)},
		"the platform, for it":  {directory.Graph{ID: w.platform.System, Tenant: tenant.Platform}, model(mine, "m", 0)},
		"an application":        {*mine, authz.ModelRecord{Application: "docs", ID: "m", Source: "s", Active: true}},
		"no store":              {*mine, authz.ModelRecord{Application: "store:", ID: "m", Source: "s", Active: true}},
	} {
		_, err := put(&c.in, c.m)
		w.kind("a model for "+what, err, fault.Internal)
	}
	gone := &directory.Graph{ID: newStore(), Tenant: w.acme.Tenant}
	_, err = put(gone, model(gone, "m", 0))
	w.kind("a model for an unknown store", err, fault.NotFound)
	check(mine, a, b)
	check(theirs, other)
	_, loaded, err := w.load(w.ctx, w.docs)
	w.ok(err)
	if loaded.Models != nil {
		t.Errorf("a default store has models of its own: %+v", loaded.Models)
	}
}

// testFreeStoreEnds: a free store goes with all that it holds, at once, and
// nothing of it can be had or changed any more, under that id never again.
func testFreeStoreEnds(t *testing.T, open Open) {
	w := newWorld(t, open)
	g, beside := w.free(w.acme, "gone"), w.free(w.acme, "beside")
	full := func(g *directory.Graph) {
		t.Helper()
		change := ledger.Change{Store: g.ID, Event: event(g.Tenant, "")}
		for i := range 3 {
			_, err := w.write(g.ID, g.Tenant, authz.Write{Writes: []relation.Tuple{with(tuple(fmt.Sprint(i)), func(t *relation.Tuple) { t.Expires = 1 })}})
			w.ok(err)
		}
		_, err := w.Tuples().PutModel(w.ctx, change, authz.ModelRecord{Application: authz.FreeApplication(g.ID), ID: "m", Source: "s", Active: true})
		w.ok(err)
		_, err = w.Archive().PutAssertions(w.ctx, change, "m", []byte("assertions"))
		w.ok(err)
	}
	full(g)
	full(beside)
	var seen []store.Batch
	w.Subscribe(func(b store.Batch) { seen = append(seen, b) })
	_, err := w.mutate(w.globex.System, w.globex.Tenant, func(tx directory.Tx) error { return tx.Delete(g) })
	w.kind("another tenant's delete", err, fault.Internal)
	_, err = w.mutate(w.globex.System, w.globex.Tenant, func(tx directory.Tx) error { return tx.Delete(inTenant(g, w.globex.Tenant)) })
	w.kind("another tenant's delete as its own", err, fault.NotFound)
	posing := &directory.Graph{Tenant: w.acme.Tenant, ID: w.docs, Kind: directory.FreeGraph, Name: "docs"}
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("kept")}})
	w.ok(err)
	_, err = w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Delete(posing) })
	w.kind("a default store as a free one", err, fault.Conflict)
	_, err = w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
		if err := tx.Delete(g); err != nil {
			return err
		}
		return errOwn
	})
	w.kind("a change that fails in the end", err, fault.Denied)
	if list, loaded, err := w.load(w.ctx, g.ID); len(list) != 3 || len(loaded.Models) != 1 || err != nil {
		t.Errorf("a failed delete left %d tuples and %d models: %v", len(list), len(loaded.Models), err)
	}
	seen = nil
	rev := w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Delete(g) })
	want := []store.Batch{{Store: w.acme.System, Rev: rev.Rev, Entries: []store.Entry{{Kind: "graph", Op: store.Delete, Key: string(g.ID)}}}}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("delivered otherwise (-want +got):\n%s", diff)
	}
	change := ledger.Change{Store: g.ID, Event: event(g.Tenant, "")}
	for what, try := range map[string]func() error{
		"load": func() error { _, _, err := w.load(w.ctx, g.ID); return err },
		"read": func() error {
			_, _, err := w.Archive().ReadTuples(w.ctx, g.ID, authz.Filter{}, relation.Tuple{}, 1)
			return err
		},
		"read of changes": func() error {
			_, _, err := w.Archive().ReadChanges(w.ctx, g.ID, "", time.Time{}, authz.Position{}, 1)
			return err
		},
		"assertions":     func() error { _, err := w.Archive().Assertions(w.ctx, g.ID, "m"); return err },
		"new assertions": func() error { _, err := w.Archive().PutAssertions(w.ctx, change, "m", nil); return err },
		"write": func() error {
			_, err := w.write(g.ID, g.Tenant, authz.Write{Writes: []relation.Tuple{tuple("x")}})
			return err
		},
		"empty write": func() error { _, err := w.write(g.ID, g.Tenant, authz.Write{}); return err },
		"new model": func() error {
			_, err := w.Tuples().PutModel(w.ctx, change, authz.ModelRecord{Application: authz.FreeApplication(g.ID), ID: "m", Source: "s"})
			return err
		},
		"second delete": func() error {
			_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Delete(g) })
			return err
		},
	} {
		w.kind(what+" of a deleted store", try(), fault.NotFound)
	}
	w.kind("the id again", w.insert(w.acme, g), fault.Conflict)
	w.kind("the id for another tenant", w.insert(w.globex, inTenant(g, w.globex.Tenant)), fault.Conflict)
	left, err := w.Expired(w.ctx, at, 100)
	w.ok(err)
	for _, l := range left {
		if l.Store != beside.ID {
			t.Errorf("a tuple of the deleted store is left: %+v", l)
		}
	}
	if list, loaded, err := w.load(w.ctx, beside.ID); len(list) != 3 || len(loaded.Models) != 1 || len(left) != 3 || err != nil {
		t.Errorf("the store beside has %d tuples and %d models: %v", len(list), len(loaded.Models), err)
	}
}
