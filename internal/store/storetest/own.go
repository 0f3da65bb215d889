package storetest

import (
	"encoding/json"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
)

// testOwn: what a tenant adds in its own store is there alone, is logged there,
// and comes with the store.
func testOwn(t *testing.T, open Open) {
	w := newWorld(t, open)
	change := ledger.Change{Store: w.docs, Event: event(w.acme.Tenant, "")}
	other := relation.StoreID(w.globex.System)
	logged := func(want store.Entry) {
		t.Helper()
		got, err := w.Changes(w.ctx, w.docs, w.head(w.docs)-1, 1)
		w.ok(err)
		if diff := gocmp.Diff([]store.Entry{want}, got[0].Entries); diff != "" {
			t.Errorf("the change was logged otherwise (-want +got):\n%s", diff)
		}
	}
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		w.ok(err)
		return raw
	}
	roles := func(id relation.StoreID, want ...authz.Role) {
		t.Helper()
		got, err := w.Archive().OwnRoles(w.ctx, id)
		w.ok(err)
		if diff := gocmp.Diff(append([]authz.Role{}, want...), got); diff != "" {
			t.Errorf("the roles (-want +got):\n%s", diff)
		}
	}
	roles(w.docs)
	a := authz.Role{Name: "b", Type: "document", Relations: []string{"viewer", "editor"}, Description: "<&>\u2028"}
	b := authz.Role{Name: "a", Type: "folder", Relations: []string{"viewer"}}
	for _, r := range []authz.Role{b, {Name: "b", Type: "document", Relations: []string{"x"}}, a} {
		_, err := w.Archive().PutOwnRole(w.ctx, change, r)
		w.ok(err)
	}
	logged(store.Entry{Kind: authz.KindOwnRole, Op: store.Put, Key: "document/b", Payload: encode(a)})
	roles(w.docs, a, b)
	roles(other)
	before := w.head(w.docs)
	_, err := w.Archive().DeleteOwnRole(w.ctx, change, "folder", "b")
	w.kind("a role that is not there", err, fault.NotFound)
	_, err = w.Archive().PutOwnRole(w.ctx, change, authz.Role{Type: "folder"})
	w.kind("a role without a name", err, fault.Invalid)
	if w.head(w.docs) != before {
		t.Error("the revision went on")
	}
	_, err = w.Archive().DeleteOwnRole(w.ctx, change, "folder", "a")
	w.ok(err)
	logged(store.Entry{Kind: authz.KindOwnRole, Op: store.Delete, Key: "folder/a"})
	roles(w.docs, a)

	policies := func(id relation.StoreID, want *authz.OwnPolicies) {
		t.Helper()
		got, err := w.Tuples().LoadGraph(w.ctx, id, func(relation.Tuple) error { return nil })
		w.ok(err)
		if diff := gocmp.Diff(want, got.Own); diff != "" {
			t.Errorf("the tenant's policies (-want +got):\n%s", diff)
		}
	}
	policies(w.docs, nil)
	p := authz.OwnPolicies{Store: w.docs, ID: "1", Files: []authz.PolicyFile{{Name: "b", Text: "b<&>\u2028"}, {Name: "a", Text: "a"}}, Created: at}
	for _, next := range []authz.OwnPolicies{{Store: w.docs, Files: []authz.PolicyFile{}, Created: at}, p} {
		_, err = w.Tuples().PutOwnPolicies(w.ctx, change, next)
		w.ok(err)
		policies(w.docs, &next)
	}
	logged(store.Entry{Kind: authz.KindOwnPolicies, Op: store.Put, Key: string(w.docs), Payload: encode(p)})
	policies(other, nil)
	p.Store = other
	_, err = w.Tuples().PutOwnPolicies(w.ctx, change, p)
	w.kind("policies for a store that is not the change's", err, fault.Internal)
	policies(other, nil)
}
