package admin_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// A restore into a default store names who could hold two exclusive roles by it,
// in its answer and in the log; decisions deny them. Assertions come back.
func TestRestoreNamesExclusiveRoles(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	model := strings.Replace(guardtest.Docs, "type document\n  relations\n", "type document\n  relations\n    define asker: [user]\n    define judge: [user]\n", 1)
	r := w.inForce(t, admin.NewRelease{Model: &model, Tests: holds})
	manager := w.as("access_manager@acme")
	both := []admin.Tuple{
		{Object: "document:old", Relation: "asker", Subject: "user:@nobody"}, {Object: "document:old", Relation: "judge", Subject: "user:@nobody"},
		{Object: "document:other", Relation: "judge", Subject: "user:@nobody"},
	}
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Writes: both}))
	store := got[relation.StoreID](t)(w.Directory.DefaultGraph(w.Acme.Tenant, "docs"))
	_, err := w.Store.Archive().PutAssertions(ctx, w.changeOf(store), r.Model, []byte("1{}"))
	must(t, err)
	raw := download(t, manager, store)
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Deletes: both}))
	_, err = w.Store.Archive().PutAssertions(ctx, w.changeOf(store), r.Model, nil)
	must(t, err)
	apart := authz.Roles{Exclusive: []authz.Exclusive{{Name: "four-eyes", Type: "document", Relations: []string{"asker", "judge"}}}}
	w.inForce(t, admin.NewRelease{Roles: &apart, Tests: holds})

	out := got[admin.Restored](t)(manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{Application: "docs"}))
	who := "user:" + w.ID("nobody@acme")
	want := []string{who + " would hold both asker and judge of document:old, which exclude each other (four-eyes)"}
	if diff := cmp.Diff(want, out.Exclusive); diff != "" || out.ExclusiveUnclear || out.Tuples != 3 || out.Assertions != 1 || out.AssertionsLeftOut != 0 {
		t.Errorf("restored %+v\n%s", out, diff)
	}
	for object, reason := range map[string]string{"document:old": "exclusive_roles", "document:other": "relation"} {
		if e := got[admin.Explained](t)(manager.Explain(ctx, admin.Question{Subject: who, Relation: "judge", Object: object})); e.Reason != reason {
			t.Errorf("%s: %s\n%s", object, e.Reason, e.Drawing)
		}
	}
	said, err := w.Store.Archive().Assertions(ctx, store, r.Model)
	if err != nil || string(said) != "1{}" {
		t.Errorf("assertions %q, %v", said, err)
	}
	ev := w.Events(audit.Filter{Action: "store.restore", Class: ledger.Mutation}, func(all []ledger.Event) bool { return len(all) == 1 })[0]
	for name, value := range map[string]string{"overlaps": "1", "set": "four-eyes", "object": "document:old", "user": who, "relations": "asker judge", "assertions": "1"} {
		if ev.Detail[name] != value {
			t.Errorf("the event says %s=%q, want %q", name, ev.Detail[name], value)
		}
	}
}

// What no other door has looked at is held to what the doors hold it to.
func TestRestoreWholeChecks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	w.inForce(t, admin.NewRelease{Roles: &papers, Tests: holds})
	store := got[relation.StoreID](t)(w.Directory.DefaultGraph(w.Acme.Tenant, "docs"))
	none := func() (relation.Tuple, error) { return relation.Tuple{}, io.EOF }
	fill := func(whole authz.Whole) (authz.Filled, error) {
		whole.Next = none
		return w.Authz.RestoreWhole(ctx, w.Store.Copies(), w.changeOf(store), whole)
	}
	role := authz.Role{Name: "reader", Type: "document", Relations: []string{"viewer"}}
	before := w.Changes()
	for _, description := range []string{"reads\nand\x1b[2J", "reads\u2028more", "reads\u0085more"} {
		bad := role
		bad.Description = description
		_, err := fill(authz.Whole{Roles: []authz.Role{bad}})
		wantKind(t, err, fault.Invalid)
	}
	_, err := fill(authz.Whole{Assertions: map[string][]byte{"m": make([]byte, 1<<20+1)}})
	wantKind(t, err, fault.Invalid)
	if n := w.Changes() - before; n != 0 {
		t.Errorf("%d changes", n)
	}
	role.Description = "reads — und zwar alles"
	out, err := fill(authz.Whole{Roles: []authz.Role{role}, Assertions: map[string][]byte{"01ARZ3NDEKTSV4RRFFQ69G5FAV": []byte("1{}")}})
	if err != nil || out.Assertions != 0 || !cmp.Equal(out.Unknown, []string{"01ARZ3NDEKTSV4RRFFQ69G5FAV"}) {
		t.Errorf("%+v, %v", out, err)
	}
	if said, err := w.Store.Archive().Assertions(ctx, store, "01ARZ3NDEKTSV4RRFFQ69G5FAV"); err != nil || said != nil {
		t.Errorf("assertions of an unknown model: %q, %v", said, err)
	}
}
