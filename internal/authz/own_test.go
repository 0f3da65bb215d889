package authz

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

func (s *mapStore) PutOwnPolicies(_ context.Context, c ledger.Change, rec OwnPolicies) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own == nil {
		s.own = map[relation.StoreID]*OwnPolicies{}
	}
	s.own[rec.Store] = &rec
	s.revs[c.Store]++
	payload, err := json.Marshal(rec)
	if err == nil && s.engine != nil {
		err = s.engine.ApplyEntry(KindOwnPolicies, string(rec.Store), payload)
		s.engine.Apply(c.Store, s.revs[c.Store], nil, nil)
	}
	return relation.Revision{Epoch: 1, Store: c.Store, Rev: s.revs[c.Store]}, err
}

func (s mapArchive) OwnRoles(_ context.Context, id relation.StoreID) ([]Role, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.roles[id]), func(a, b Role) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name)) }), nil
}

func (s mapArchive) PutOwnRole(_ context.Context, c ledger.Change, r Role) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.roles == nil {
		s.mapStore.roles = map[relation.StoreID]map[string]Role{}
	}
	if s.roles[c.Store] == nil {
		s.roles[c.Store] = map[string]Role{}
	}
	s.roles[c.Store][r.Type+"/"+r.Name] = r
	return relation.Revision{}, nil
}

func (s mapArchive) DeleteOwnRole(_ context.Context, c ledger.Change, typ, name string) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.roles[c.Store][typ+"/"+name]; !ok {
		return relation.Revision{}, fault.New(fault.NotFound, "there is no such role")
	}
	delete(s.roles[c.Store], typ+"/"+name)
	return relation.Revision{}, nil
}

// A role is assigned and revoked as a whole, by the application's template or by
// the tenant's own.
func TestRolesAreAssigned(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := apartWorld(t)
	change := ledger.Change{Store: w.store}
	own := Role{Name: "reader", Type: "change", Relations: []string{"viewer"}}
	if err := w.DefineRole(ctx, change, own); err != nil {
		t.Fatal(err)
	}
	if err := w.DefineRole(ctx, change, Role{Name: "x", Type: "change", Relations: []string{"banned"}}); fault.KindOf(err) != fault.Denied {
		t.Errorf("what the operator does not offer: %v", err)
	}
	of, list, err := w.Roles(ctx, w.store)
	if err != nil || !of.same(fourEyes) || !gocmp.Equal(list, []Role{own}) {
		t.Errorf("%+v, %+v, %v", of, list, err)
	}
	end := w.cfg.Now().Add(time.Hour).UnixNano()
	for _, a := range []Assignment{{"writer", "change:1", "user:a", end}, {"writer", "change:1", "user:a", end}, {"reader", "change:1", "team:x#member", 0}, {"judge", "folder:f", "user:b", 0}} {
		if _, err := w.Assign(ctx, change, a); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
	ev := w.db.events[0]
	if ev.Detail["role"] != "writer" || ev.Detail["writes"] != "change:1#requester@user:a change:1#viewer@user:a" {
		t.Errorf("the event says %v", ev.Detail)
	}
	for _, c := range []struct {
		a    Assignment
		kind fault.Kind
	}{
		{Assignment{"judge", "change:1", "user:a", 0}, fault.Denied},
		{Assignment{"reader", "folder:f", "user:a", 0}, fault.NotFound},
		{Assignment{"writer", "change:1", "user:a", 0}, fault.Conflict}, // with another end
		{Assignment{"writer", "change", "user:a", 0}, fault.Invalid},
		{Assignment{"writer", "change:1", "a", 0}, fault.Invalid},
	} {
		if _, err := w.Assign(ctx, change, c.a); fault.KindOf(err) != c.kind || err == nil {
			t.Errorf("%+v: %v, want %v", c.a, err, c.kind)
		}
	}
	got, err := w.Assignments(ctx, w.store, "change:1")
	want := []Assignment{{"reader", "change:1", "team:x#member", 0}, {"reader", "change:1", "user:a", end}, {"writer", "change:1", "user:a", end}}
	if diff := gocmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := w.Revoke(ctx, change, Assignment{Role: "writer", Object: "change:1", Subject: "user:a"}); err != nil {
		t.Error(err)
	}
	if _, err := w.Revoke(ctx, change, Assignment{Role: "writer", Object: "change:1", Subject: "user:a"}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := w.Assign(ctx, change, Assignment{"judge", "change:1", "user:a", 0}); err != nil {
		t.Errorf("the other role, now: %v", err)
	}
	// The operator offers less: the tenant's role is assigned no more, and can be revoked.
	less := fourEyes
	less.Custom = nil
	if _, err := w.enforce(Draft{Model: changes, Roles: less}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Assign(ctx, change, Assignment{"reader", "change:2", "user:a", 0}); fault.KindOf(err) != fault.Denied {
		t.Errorf("what the operator does not offer any more: %v", err)
	}
	if _, err := w.Revoke(ctx, change, Assignment{Role: "reader", Object: "change:1", Subject: "team:x#member"}); err != nil {
		t.Error(err)
	}
	if err := w.DeleteRole(ctx, change, "change", "reader"); err != nil {
		t.Error(err)
	}
	if err := w.DeleteRole(ctx, change, "change", "reader"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
	if _, _, err := w.Roles(ctx, w.system); fault.KindOf(err) != fault.Denied {
		t.Errorf("a system store: %v", err)
	}
	if _, _, err := w.Roles(ctx, relation.StoreID(tenant.RandomID())); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an unknown store: %v", err)
	}
}

const operators = `
@id("no-news")
forbid (principal, action == Action::"can_edit", resource == document::"news");
@id("no-secret")
forbid (principal, action == Action::"can_view", resource == document::"secret");
`

const tenants = `
@id("no-news")
permit (principal == user::"dave", action == Action::"can_view", resource is document);
@id("not-bob")
forbid (principal == user::"bob", action, resource);
@id("by-relation")
forbid (principal, action == Action::"can_edit", resource) when { context.verified.relations.contains("owner") };
`

// ownWorld has two stores of one application, whose operator delegates can_view.
func ownWorld(t *testing.T) (w *world, other relation.StoreID) {
	t.Helper()
	w = newWorld(t, "", append(demo, "document:news#owner@user:alice")...)
	other = relation.StoreID(tenant.RandomID())
	known := w.cfg.Application
	w.cfg.Application = func(id relation.StoreID) (string, bool) {
		if id == other {
			return "docs", true
		}
		return known(id)
	}
	w.db.seed(other, append(demo, "document:news#owner@user:alice")...)
	w.delegate(t, "document#can_view")
	return w, other
}

func (w *world) delegate(t *testing.T, relations ...string) {
	t.Helper()
	_, err := w.enforce(Draft{Model: docs, Policies: []PolicyFile{{"o.cedar", operators}}, Claims: Claims{Delegate: relations}})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) publishOwn(store relation.StoreID, text string) error {
	files := []PolicyFile{{"t.cedar", text}}
	if text == "" {
		files = nil
	}
	_, err := w.PublishOwnPolicies(context.Background(), ledger.Change{Store: store}, files)
	return err
}

// A tenant's own policies forbid, and permit what is delegated, in its own store
// alone; what the operator forbids stays forbidden.
func TestOwnPolicies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, other := ownWorld(t)
	reasons := func(e *Engine, store relation.StoreID) map[string]string {
		t.Helper()
		out := map[string]string{}
		for _, s := range []string{
			"document:roadmap#can_view@user:dave", "document:roadmap#can_view@user:bob", "document:roadmap#can_edit@user:alice",
			"document:news#can_edit@user:alice", "document:roadmap#can_edit@user:dave", "document:roadmap#can_view@user:alice",
			"document:secret#can_view@user:dave", // permitted by the tenant, forbidden by the operator
		} {
			q := tuple(s)
			d, err := e.Check(ctx, Query{Store: store, Object: q.Object, Relation: q.Relation, Subject: q.Subject, Explain: true})
			if err != nil {
				t.Fatal(err)
			}
			out[s] = d.Reason
			for _, p := range d.Trace.Policies {
				out[s] += " " + p.Policy
				if p.Tenant {
					out[s] += " (tenant)"
				}
			}
		}
		return out
	}
	before := reasons(w.Engine, w.store)
	if err := w.publishOwn(w.store, tenants); err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(before)
	want["document:roadmap#can_view@user:dave"] = "policy no-news (tenant)"
	want["document:secret#can_view@user:dave"] = "forbidden no-secret"
	want["document:roadmap#can_view@user:bob"] = "forbidden not-bob (tenant)"
	want["document:roadmap#can_edit@user:alice"] = "forbidden by-relation (tenant)"
	want["document:news#can_edit@user:alice"] = "forbidden no-news by-relation (tenant)"
	if got := reasons(w.Engine, w.store); !maps.Equal(got, want) || maps.Equal(got, before) {
		t.Error(gocmp.Diff(want, got))
	}
	if got := reasons(w.Engine, other); !maps.Equal(got, before) {
		t.Error("another tenant's store:", gocmp.Diff(before, got))
	}
	l, err := w.ListObjects(ctx, ObjectsQuery{Store: w.store, Type: "document", Relation: "can_view", Subject: "user:dave"})
	if err != nil || len(l.Names) < 3 {
		t.Errorf("what the permit adds to a list: %v, %v", l.Names, err)
	}
	l, err = w.ListUsers(ctx, UsersQuery{Store: w.store, Object: "document:roadmap", Relation: "can_view", Type: "user"})
	if err != nil || slices.Contains(l.Names, "user:bob") || !slices.Contains(l.Names, "user:alice") {
		t.Errorf("what the forbid takes from a list: %v, %v", l.Names, err)
	}
	again, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	if got := reasons(again, w.store); !maps.Equal(got, want) {
		t.Error("another process:", gocmp.Diff(want, got))
	}
	w.write(t, tuples("document:x#viewer@user:eve"), nil) // a later revision has them still
	if got := reasons(w.Engine, w.store); !maps.Equal(got, want) {
		t.Error("after a write:", gocmp.Diff(want, got))
	}
	// What is not delegated any more permits nothing, and forbids as before.
	w.delegate(t)
	want["document:secret#can_view@user:dave"] = before["document:secret#can_view@user:dave"]
	want["document:roadmap#can_view@user:dave"] = before["document:roadmap#can_view@user:dave"]
	if got := reasons(w.Engine, w.store); !maps.Equal(got, want) {
		t.Error("no delegation:", gocmp.Diff(want, got))
	}
	if err := w.publishOwn(w.store, ""); err != nil {
		t.Fatal(err)
	}
	if got := reasons(w.Engine, w.store); !maps.Equal(got, before) {
		t.Error("removed:", gocmp.Diff(before, got))
	}
}

// Policies that a tenant may not have, or that do not fit.
func TestOwnPoliciesRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w, _ := ownWorld(t)
	for name, c := range map[string]struct {
		store relation.StoreID
		text  string
		kind  fault.Kind
	}{
		"a permit that is not delegated": {w.store, `permit (principal, action == Action::"can_edit", resource is document);`, fault.Invalid},
		"a permit of everything":         {w.store, `permit (principal, action, resource);`, fault.Invalid},
		"an unknown relation":            {w.store, `forbid (principal, action == Action::"can_fly", resource);`, fault.Invalid},
		"no Cedar":                       {w.store, `forbid everything`, fault.Invalid},
		"too much":                       {w.store, strings.Repeat("// x\n", MaxOwnText/5+1), fault.TooLarge},
		"a system store":                 {w.system, tenants, fault.Denied},
		"an unknown store":               {relation.StoreID(tenant.RandomID()), tenants, fault.NotFound},
	} {
		if err := w.publishOwn(c.store, c.text); err == nil || fault.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
	for _, s := range []string{"document", "document#can_fly", "doc#can_view"} {
		if _, err := w.enforce(Draft{Model: docs, Claims: Claims{Delegate: []string{s}}, Policies: []PolicyFile{{"o.cedar", operators}}}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s is delegated: %v", s, err)
		}
	}
	// What does not fit a new model leaves the store without answers: it may be a forbid.
	if err := w.publishOwn(w.store, `forbid (principal, action == Action::"can_edit", resource);`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.enforce(Draft{Model: strings.Replace(docs, "    define can_edit: editor\n", "", 1)}); err != nil {
		t.Fatal(err)
	}
	q := Query{Store: w.store, Object: "document:roadmap", Relation: "can_view", Subject: "user:alice"}
	if d, err := w.Check(ctx, q); fault.KindOf(err) != fault.Invalid || d.Allowed || !strings.Contains(fault.Public(err), "own policies do not fit") {
		t.Errorf("%+v, %v", d, err)
	}
	if err := w.publishOwn(w.store, ""); err != nil {
		t.Fatal(err)
	}
	if d, err := w.Check(ctx, q); err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
	if err := w.ApplyEntry(KindOwnPolicies, string(w.store), []byte("{")); fault.KindOf(err) != fault.Integrity {
		t.Errorf("an entry that cannot be read: %v", err)
	}
	if w.stores.get(w.store).snap.Load() != nil {
		t.Error("the store answers on after policies that cannot be read")
	}
}

// Policies that cannot be taken over while their store is being loaded are not
// lost: what was read before them does not answer.
func TestOwnPoliciesUnderALoad(t *testing.T) {
	t.Parallel()
	w, _ := ownWorld(t)
	var once sync.Once
	w.db.onLoad = func() {
		once.Do(func() {
			w.db.mu.Lock()
			w.db.own = map[relation.StoreID]*OwnPolicies{w.store: {
				Store: w.store, ID: "x", Files: []PolicyFile{{"t.cedar", `forbid (principal, action, resource);`}},
			}}
			w.db.revs[w.store]++
			rev := w.db.revs[w.store]
			w.db.mu.Unlock()
			if err := w.ApplyEntry(KindOwnPolicies, string(w.store), []byte("{")); fault.KindOf(err) != fault.Integrity {
				t.Errorf("an entry that cannot be read: %v", err)
			}
			w.Apply(w.store, rev, nil, nil)
		})
	}
	d, err := w.ask(t, "document:roadmap#can_view@user:alice")
	if err != nil || d.Allowed || len(d.Trace.Policies) == 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if s := w.Stats(); s.Loads != 2 || s.Resyncs != 1 {
		t.Errorf("%+v", s)
	}
}

// The changelog's forms stay readable.
func TestOwnRecordsGolden(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal([]any{
		OwnPolicies{Store: "01ARZ3NDEKTSV4RRFFQ69G5FAV", ID: "id", Files: []PolicyFile{{"a.cedar", "forbid (principal, action, resource);"}}, Created: time.Unix(1_800_000_000, 5).UTC()},
		Role{Name: "reader", Type: "change", Relations: []string{"viewer"}, Description: "reads"},
		fourEyes,
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "own_records.golden", string(b)+"\n")
}
