package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// testCopies: a copy is all of one revision, whatever is written meanwhile.
func testCopies(t *testing.T, open Open) {
	w := newWorld(t, open)
	g, theirs := w.free(w.acme, "mine"), w.free(w.globex, "theirs")
	model := authz.ModelRecord{Application: authz.FreeApplication(g.ID), ID: "m", Source: "text", Active: true, Created: at}
	_, err := w.Tuples().PutModel(w.ctx, ledger.Change{Store: g.ID, Event: event(w.acme.Tenant, "")}, model)
	w.ok(err)
	put := func(id relation.StoreID, payload string) {
		t.Helper()
		_, err := w.Archive().PutAssertions(w.ctx, ledger.Change{Store: id, Event: event(w.acme.Tenant, "")}, "m", []byte(payload))
		w.ok(err)
	}
	put(g.ID, "one\x00\xff")
	put(theirs.ID, "theirs")
	late := time.Unix(0, 1<<60)
	want := []relation.Tuple{tuple("a"), tuple("b"), with(tuple("c"), func(t *relation.Tuple) {
		t.Condition, t.Context, t.Expires = "when", `{"a":"\u001e"}`, late.UnixNano()
	})}
	_, err = w.write(g.ID, w.acme.Tenant, authz.Write{Writes: want})
	w.ok(err)
	_, err = w.write(theirs.ID, w.globex.Tenant, authz.Write{Writes: []relation.Tuple{tuple("x")}})
	w.ok(err)

	var got []relation.Tuple
	var in authz.Contents
	begin := func(c authz.Contents) error {
		in = c
		// Changes while the copy is made are of later revisions.
		if _, err := w.write(g.ID, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("late")}, Deletes: []relation.Tuple{tuple("b")}}); err != nil {
			return err
		}
		put(g.ID, "two")
		return nil
	}
	role := authz.Role{Name: "r", Type: "doc", Relations: []string{"viewer"}}
	own := authz.OwnPolicies{Store: g.ID, ID: "p", Files: []authz.PolicyFile{{Name: "a", Text: "b"}}, Created: at}
	_, err = w.Archive().PutOwnRole(w.ctx, ledger.Change{Store: g.ID, Event: event(w.acme.Tenant, "")}, role)
	w.ok(err)
	rev, err := w.Tuples().PutOwnPolicies(w.ctx, ledger.Change{Store: g.ID, Event: event(w.acme.Tenant, "")}, own)
	w.ok(err)
	each := func(t relation.Tuple) error { got = append(got, t); return nil }
	w.ok(w.Copies().CopyGraph(w.ctx, g.ID, begin, each))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the copy has other tuples: %s", d)
	}
	if d := cmp.Diff(authz.Contents{
		Revision: rev, Models: []authz.ModelRecord{model}, Assertions: map[string][]byte{"m": []byte("one\x00\xff")},
		Roles: []authz.Role{role}, Own: &own, Tuples: len(want),
	}, in); d != "" {
		t.Errorf("the copy has other contents: %s", d)
	}

	nothing := func(authz.Contents) error { return nil }
	w.kind("of an unknown store", w.Copies().CopyGraph(w.ctx, newStore(), nothing, each), fault.NotFound)
	mine := errors.New("enough")
	if err := w.Copies().CopyGraph(w.ctx, g.ID, func(authz.Contents) error { return mine }, each); !errors.Is(err, mine) {
		t.Errorf("an error at the beginning gives %v", err)
	}
	if err := w.Copies().CopyGraph(w.ctx, g.ID, nothing, func(relation.Tuple) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("an error in between gives %v", err)
	}
}

// testFills: an empty store gets roles, policies and tuples together, and one that
// is not empty nothing.
func testFills(t *testing.T, open Open) {
	w := newWorld(t, open)
	role := authz.Role{Name: "r", Type: "doc", Relations: []string{"viewer"}}
	own := authz.OwnPolicies{Store: w.docs, ID: "p", Files: []authz.PolicyFile{{Name: "a", Text: "b"}}, Created: at}
	change := ledger.Change{Store: w.docs, Event: event(w.acme.Tenant, "")}
	fill := func(own *authz.OwnPolicies, tuples ...relation.Tuple) (relation.Revision, error) {
		return w.Copies().FillGraph(w.ctx, change, authz.Contents{Roles: []authz.Role{role}, Own: own, Assertions: map[string][]byte{"m": []byte("said")}}, tuples)
	}
	nothing := func(what string) {
		t.Helper()
		if got, loaded, err := w.load(w.ctx, w.docs); err != nil || len(got) != 0 || loaded.Own != nil && len(loaded.Own.Files) != 0 {
			t.Errorf("%s left %v, %+v (%v)", what, got, loaded, err)
		}
	}
	stranger := own
	stranger.Store = newStore()
	_, err := fill(&stranger, tuple("a"))
	w.kind("another store's policies", err, fault.Internal)
	_, err = fill(&own, tuple("a"), tuple("a"))
	w.kind("a tuple twice", err, fault.Conflict)
	nothing("a tuple twice")
	_, err = w.Copies().FillGraph(w.ctx, ledger.Change{Store: newStore(), Event: event(w.acme.Tenant, "")}, authz.Contents{}, nil)
	w.kind("an unknown store", err, fault.NotFound)

	// What was removed is not there.
	empty := own
	empty.Files = []authz.PolicyFile{}
	_, err = w.Tuples().PutOwnPolicies(w.ctx, change, empty)
	w.ok(err)
	rev, err := fill(&own, tuple("a"), tuple("b"))
	w.ok(err)
	got, loaded, err := w.load(w.ctx, w.docs)
	w.ok(err)
	if d := cmp.Diff([]relation.Tuple{tuple("a"), tuple("b")}, got) + cmp.Diff(&own, loaded.Own) + cmp.Diff(rev, loaded.Revision); d != "" {
		t.Errorf("filled otherwise: %s", d)
	}
	roles, err := w.Archive().OwnRoles(w.ctx, w.docs)
	w.ok(err)
	if d := cmp.Diff([]authz.Role{role}, roles); d != "" {
		t.Errorf("filled with other roles: %s", d)
	}
	batches, err := w.Changes(w.ctx, w.docs, rev.Rev-1, 1)
	w.ok(err)
	said, err := w.Archive().Assertions(w.ctx, w.docs, "m")
	w.ok(err)
	if string(said) != "said" {
		t.Errorf("filled with other assertions: %q", said)
	}
	if b := batches[0]; len(b.Entries) != 3 || len(b.Writes) != 2 {
		t.Errorf("the revision is %+v", b)
	}
	_, err = fill(&own, tuple("c"))
	w.kind("a store with tuples", err, fault.Conflict)
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{tuple("a"), tuple("b")}})
	w.ok(err)
	_, err = fill(&own, tuple("c"))
	w.kind("a store with roles", err, fault.Conflict)
	_, err = w.Archive().DeleteOwnRole(w.ctx, change, role.Type, role.Name)
	w.ok(err)
	_, err = fill(&own, tuple("c"))
	w.kind("a store with policies", err, fault.Conflict)
}
