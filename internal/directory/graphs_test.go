package directory_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

func TestFreeGraphs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	var want []relation.StoreID
	for _, name := range []string{"zoo", "zoo", "Staging /eu_1.0 ^&@-"} { // names need not be unique
		g, err := w.CreateGraph(w.ctx, event(), w.acme.Tenant, name)
		must(t, err)
		if g.Kind != directory.FreeGraph || g.Name != name || g.Application != "" || !g.Created.Equal(w.clock()) || g.Tenant != w.acme.Tenant {
			t.Errorf("made %+v", g)
		}
		want = append(want, g.ID)
		w.advance(-time.Minute) // the order is that of the times, whatever the clock does
	}
	slices.Reverse(want)
	docs, err := w.DefaultGraph(w.acme.Tenant, "docs")
	must(t, err)
	order := append([]relation.StoreID{w.acme.System, docs}, want...)
	for what, d := range map[string]*directory.Directory{"in memory": w.Directory, "after a restart": w.open(false)} {
		var got []relation.StoreID
		for _, g := range d.Graphs(w.acme.Tenant) {
			got = append(got, g.ID)
		}
		if !slices.Equal(got, order) {
			t.Errorf("%s the stores are %v, want %v", what, got, order)
		}
		if n := len(d.Graphs(w.globex.Tenant)); n != 2 {
			t.Errorf("%s another tenant sees %d stores, want its 2", what, n)
		}
		if g, err := d.Graph(w.acme.Tenant, want[0]); err != nil || g.Name != "Staging /eu_1.0 ^&@-" {
			t.Errorf("%s: %+v, %v", what, g, err)
		}
		_, err := d.Graph(w.globex.Tenant, want[0])
		wantKind(t, "another tenant's store", err, fault.NotFound)
		_, err = d.DefaultGraph(w.acme.Tenant, "")
		wantKind(t, "a free store as a default one", err, fault.NotFound)
	}
	list := w.Graphs(w.acme.Tenant)
	clear(list) // a caller's list is the caller's
	if g := w.Graphs(w.acme.Tenant)[0]; g == nil {
		t.Error("a caller can change the view")
	}
	_, err = w.CreateGraph(w.ctx, event(), tenant.New(), "abc")
	wantKind(t, "a store for no tenant", err, fault.NotFound)
}

func TestFreeGraphNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for _, name := range []string{
		"", "ab", strings.Repeat("a", 65), "a\tb", "ab\n", "a\x00b", "abc\x7f", "abc\u0085", "a\u00a0b", "äöü", "a\u202eb", "abc\xff", "a:b", "<b>", "a'b", "a;b", "a\"b",
	} {
		_, err := w.CreateGraph(w.ctx, event(), w.acme.Tenant, name)
		wantKind(t, "the name "+name, err, fault.Invalid)
	}
	if n := len(w.Graphs(w.acme.Tenant)); n != 2 {
		t.Errorf("%d stores after refusals alone", n)
	}
	for _, name := range []string{"abc", "   ", strings.Repeat("z", 64)} {
		_, err := w.CreateGraph(w.ctx, event(), w.acme.Tenant, name)
		must(t, err)
	}
}

// A tenant that makes stores in a row reaches its own bound and nobody else's.
func TestFreeGraphQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	generation := w.Generation()
	const callers = 12
	results := make(chan error, callers)
	for range callers {
		go func() {
			_, err := w.CreateGraph(w.ctx, event(), w.acme.Tenant, "abc")
			results <- err
		}()
	}
	made := 0
	for range callers {
		if err := <-results; err == nil {
			made++
		} else {
			wantKind(t, "beyond the quota", err, fault.Exhausted)
			if !strings.Contains(fault.Public(err), "4 stores") {
				t.Errorf("the text does not tell the bound: %s", fault.Public(err))
			}
		}
	}
	if made != 4 {
		t.Fatalf("%d stores were made, the quota is 4", made)
	}
	if w.Generation() != generation {
		t.Error("stores of one tenant have everybody's credentials verified anew")
	}
	_, err := w.CreateGraph(w.ctx, event(), w.globex.Tenant, "abc")
	must(t, err)
	last := w.Graphs(w.acme.Tenant)[5]
	must(t, w.DeleteGraph(w.ctx, event(), w.acme.Tenant, last.ID))
	again, err := w.CreateGraph(w.ctx, event(), w.acme.Tenant, "abc")
	must(t, err)
	if again.ID == last.ID {
		t.Error("an id was given out twice")
	}
}

func TestDeleteGraph(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	docs, err := w.DefaultGraph(w.acme.Tenant, "docs")
	must(t, err)
	g, err := w.CreateGraph(w.ctx, event(), w.acme.Tenant, "mine")
	must(t, err)
	write := func() error {
		ev := ledger.Event{Class: ledger.Mutation, Tenant: w.acme.Tenant}
		_, err := w.store.Tuples().WriteTuples(w.ctx, ledger.Change{Store: g.ID, Event: ev}, authz.Write{
			Writes: []relation.Tuple{{Object: "document:" + strings.ToLower(tenant.RandomID()), Relation: "viewer", Subject: "user:x"}},
		})
		return err
	}
	must(t, write())
	for what, c := range map[string]struct {
		by   tenant.ID
		id   relation.StoreID
		kind fault.Kind
	}{
		"the default store":            {w.acme.Tenant, docs, fault.Denied},
		"the system store":             {w.acme.Tenant, w.acme.System, fault.Denied},
		"another tenant's":             {w.globex.Tenant, g.ID, fault.NotFound},
		"another tenant's default one": {w.globex.Tenant, docs, fault.NotFound},
		"the platform, for a tenant":   {tenant.Platform, g.ID, fault.NotFound},
		"none":                         {w.acme.Tenant, relation.StoreID(tenant.RandomID()), fault.NotFound},
		"an empty id":                  {w.acme.Tenant, "", fault.NotFound},
	} {
		wantKind(t, what, w.DeleteGraph(w.ctx, event(), c.by, c.id), c.kind)
	}
	must(t, write())
	must(t, w.DeleteGraph(w.ctx, event(), w.acme.Tenant, g.ID))
	for what, d := range map[string]*directory.Directory{"in memory": w.Directory, "after a restart": w.open(false)} {
		_, err := d.Graph(w.acme.Tenant, g.ID)
		wantKind(t, what, err, fault.NotFound)
		_, err = d.GraphByID(g.ID)
		wantKind(t, what+", for engines", err, fault.NotFound)
		if n := len(d.Graphs(w.acme.Tenant)); n != 2 {
			t.Errorf("%s %d stores are listed", what, n)
		}
	}
	wantKind(t, "a write", write(), fault.NotFound)
	wantKind(t, "a second delete", w.DeleteGraph(w.ctx, event(), w.acme.Tenant, g.ID), fault.NotFound)
	events, err := w.store.Outbox().Pending(w.ctx, 100)
	must(t, err)
	var actions []string
	for _, e := range events {
		if e.Event.Resource == "store:"+string(g.ID) {
			actions = append(actions, e.Event.Action)
			if e.Event.Class != ledger.Mutation || e.Event.Tenant != w.acme.Tenant {
				t.Errorf("the event is %+v", e.Event)
			}
		}
	}
	if !slices.Equal(actions, []string{"store.create", "store.delete"}) {
		t.Errorf("the events of the store are %v", actions)
	}
}
