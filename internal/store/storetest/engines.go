package storetest

import (
	"cmp"
	"encoding/json"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

func testKeys(t *testing.T, open Open) {
	w := newWorld(t, open)
	var seen []store.Batch
	w.Subscribe(func(b store.Batch) { seen = append(seen, b) })
	keys := w.Keys()
	a := w.acme.Tenant
	want := kms.TenantKeys{
		KEKs: []kms.KEK{
			{Tenant: a, ID: "kek", Version: 1, Wrapped: []byte("old"), Store: w.acme.System, Created: at, State: kms.StateDestroyed},
			{Tenant: a, ID: "kek", Version: 2, Wrapped: []byte("new"), Store: w.acme.System, Created: at, State: kms.StateEnabled},
		},
		Versions: []kms.Version{
			{Tenant: a, Key: "field", Version: 1, Wrapped: []byte("wrapped-1"), Created: at, State: kms.StateEnabled},
			{Tenant: a, Key: "field", Version: 1<<32 - 1, Wrapped: []byte("wrapped-2"), Created: at, State: kms.StateEnabled},
		},
	}
	change := ledger.Change{Store: w.acme.System, Event: event(a, "")}
	_, err := keys.Mutate(w.ctx, change, func(tx kms.Tx) error {
		for _, k := range want.KEKs {
			if err := tx.PutKEK(k); err != nil {
				return err
			}
		}
		for _, v := range want.Versions {
			if err := tx.PutVersion(v); err != nil {
				return err
			}
		}
		return nil
	})
	w.ok(err)
	got, err := keys.LoadTenantKeys(w.ctx, a)
	w.ok(err)
	slices.SortFunc(got.KEKs, func(x, y kms.KEK) int { return cmp.Compare(x.Version, y.Version) })
	slices.SortFunc(got.Versions, func(x, y kms.Version) int { return cmp.Compare(x.Version, y.Version) })
	if diff := gocmp.Diff(want, got, exact); diff != "" {
		t.Errorf("the keys changed on the way (-want +got):\n%s", diff)
	}
	_, err = keys.Mutate(w.ctx, change, func(tx kms.Tx) error { return tx.PutKEK(want.KEKs[0]) })
	w.kind("a KEK's version again", err, fault.Conflict)
	_, err = keys.Mutate(w.ctx, change, func(tx kms.Tx) error { return tx.PutVersion(want.Versions[0]) })
	w.kind("a key's version again", err, fault.Conflict)
	// A destroyed row must be the last copy.
	for _, e := range seen[0].Entries {
		if e.Payload != nil {
			t.Errorf("the changelog holds a copy of the wrapped key %s", e.Key)
		}
	}
	if len(seen) != 1 || len(seen[0].Entries) != 4 {
		t.Errorf("delivered %+v", seen)
	}
}

func testSigningKeys(t *testing.T, open Open) {
	w := newWorld(t, open)
	tokens := w.Tokens()
	change := ledger.Change{Store: w.platform.System, Event: event(tenant.Platform, "")}
	k := sts.SigningKey{KID: "b", Purpose: sts.PurposeToken, Public: []byte(`{"kty":"EC"}`), Wrapped: []byte{1, 2}, PublishAt: at, ActiveAt: at.Add(1), RetireAt: at.Add(2), RemoveAt: at.Add(3)}
	other := sts.SigningKey{KID: "a", Purpose: sts.PurposeAssertion, Public: []byte(`{}`), PublishAt: at, ActiveAt: at}
	step := func(want []sts.SigningKey, fn func(sts.Tx) error) relation.Revision {
		t.Helper()
		rev, err := tokens.Mutate(w.ctx, change, fn)
		w.ok(err)
		got, err := tokens.LoadSigningKeys(w.ctx)
		w.ok(err)
		slices.SortFunc(got, func(x, y sts.SigningKey) int { return cmp.Compare(x.KID, y.KID) })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("the signing keys changed on the way (-want +got):\n%s", diff)
		}
		return rev
	}
	step([]sts.SigningKey{other, k}, func(tx sts.Tx) error {
		if err := tx.PutSigningKey(k); err != nil {
			return err
		}
		if err := tx.PutSigningKey(other); err != nil {
			return err
		}
		in, err := tx.SigningKeys()
		if len(in) != 2 {
			t.Errorf("the transaction sees %d of its 2 keys", len(in))
		}
		return err
	})
	k.RetireAt, k.RemoveAt = time.Time{}, time.Time{}
	rev := step([]sts.SigningKey{other, k}, func(tx sts.Tx) error { return tx.PutSigningKey(k) })
	payload, err := sts.EncodeSigningKey(k)
	w.ok(err)
	logged, err := w.Changes(w.ctx, w.platform.System, rev.Rev-1, 1)
	w.ok(err)
	if diff := gocmp.Diff([]store.Entry{{Kind: sts.KindSigningKey, Op: store.Put, Key: "b", Payload: payload}}, logged[0].Entries); diff != "" {
		t.Errorf("the change was logged otherwise (-want +got):\n%s", diff)
	}
	rev = step([]sts.SigningKey{other}, func(tx sts.Tx) error { return tx.DeleteSigningKey("b") })
	logged, err = w.Changes(w.ctx, w.platform.System, rev.Rev-1, 1)
	w.ok(err)
	if diff := gocmp.Diff([]store.Entry{{Kind: sts.KindSigningKey, Op: store.Delete, Key: "b"}}, logged[0].Entries); diff != "" {
		t.Errorf("the deletion was logged otherwise (-want +got):\n%s", diff)
	}
	step([]sts.SigningKey{other}, func(tx sts.Tx) error { return tx.DeleteSigningKey("b") }) // gone already
}

func testModels(t *testing.T, open Open) {
	w := newWorld(t, open)
	change := ledger.Change{Store: w.platform.System, Event: event(tenant.Platform, "")}
	put := func(m authz.ModelRecord) relation.Revision {
		t.Helper()
		rev, err := w.Tuples().PutModel(w.ctx, change, m)
		w.ok(err)
		return rev
	}
	check := func(want ...authz.ModelRecord) {
		t.Helper()
		got, err := w.Tuples().LoadModels(w.ctx)
		w.ok(err)
		slices.SortFunc(got, func(x, y authz.ModelRecord) int {
			return cmp.Or(cmp.Compare(x.Application, y.Application), cmp.Compare(x.ID, y.ID))
		})
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("the models changed on the way (-want +got):\n%s", diff)
		}
	}
	a := authz.ModelRecord{Application: "docs", ID: "a", Source: "model a", Active: true, Created: at}
	b := authz.ModelRecord{Application: "docs", ID: "b", Source: "model b", Active: true, Created: at}
	other := authz.ModelRecord{Application: "mail", ID: "a", Source: "model m", Active: true, Created: at}
	put(a)
	put(other)
	check(a, other)
	rev := put(b)
	a.Active = false
	check(a, b, other)
	logged, err := w.Changes(w.ctx, w.platform.System, rev.Rev-1, 1)
	w.ok(err)
	if len(logged[0].Entries) != 1 || logged[0].Entries[0].Kind != "model" || logged[0].Entries[0].Key != "docs/b" {
		t.Fatalf("the change was logged as %+v", logged)
	}
	var sent authz.ModelRecord
	w.ok(json.Unmarshal(logged[0].Entries[0].Payload, &sent))
	if diff := gocmp.Diff(b, sent); diff != "" {
		t.Errorf("the model was logged otherwise (-want +got):\n%s", diff)
	}
	a.Active, b.Active = true, false
	put(a)
	check(a, b, other)
	b.Active, a.Active = false, false
	put(a)
	check(a, b, other)
}

func testPolicies(t *testing.T, open Open) {
	w := newWorld(t, open)
	var seen []store.Batch
	w.Subscribe(func(b store.Batch) { seen = append(seen, b) })
	change := ledger.Change{Store: w.platform.System, Event: event(tenant.Platform, "")}
	put := func(p authz.PolicyRecord) relation.Revision {
		t.Helper()
		rev, err := w.Tuples().PutPolicies(w.ctx, change, p)
		w.ok(err)
		return rev
	}
	check := func(want ...authz.PolicyRecord) {
		t.Helper()
		got, err := w.Tuples().LoadPolicies(w.ctx)
		w.ok(err)
		slices.SortFunc(got, func(x, y authz.PolicyRecord) int {
			return cmp.Or(cmp.Compare(x.Application, y.Application), cmp.Compare(x.ID, y.ID))
		})
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("the policies changed on the way (-want +got):\n%s", diff)
		}
	}
	a := authz.PolicyRecord{Application: "docs", ID: "a", Files: []authz.PolicyFile{{Name: "a.cedar", Text: "forbid\n<&> \u2028"}}, Active: true, Created: at}
	b := authz.PolicyRecord{
		Application: "docs", ID: "b", Active: true, Created: at,
		Files: []authz.PolicyFile{{Name: "b.cedar", Text: "b"}, {Name: "a.cedar", Text: "a"}}, // their order counts
		Claims: authz.Claims{
			Context: map[string]string{"device": "string"}, Types: map[string]map[string]string{"user": {"age": "long"}},
			Principals: []string{"user"}, Zone: "Europe/Berlin",
		},
	}
	none := authz.PolicyRecord{Application: "docs", ID: "none", Files: []authz.PolicyFile{}, Active: true, Created: at}
	other := authz.PolicyRecord{Application: "mail", ID: "a", Files: []authz.PolicyFile{{Name: "m.cedar", Text: "m"}}, Active: true, Created: at}
	put(a)
	put(other)
	check(a, other)
	rev := put(b)
	a.Active = false
	check(a, b, other)
	payload, err := json.Marshal(b)
	w.ok(err)
	want := []store.Batch{{Store: w.platform.System, Rev: rev.Rev, Entries: []store.Entry{{Kind: authz.KindPolicies, Op: store.Put, Key: "docs/b", Payload: payload}}}}
	logged, err := w.Changes(w.ctx, w.platform.System, rev.Rev-1, 1)
	w.ok(err)
	if diff := gocmp.Diff(want, logged); diff != "" {
		t.Errorf("the change was logged otherwise (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(want, seen[2:]); diff != "" || len(seen) != 3 {
		t.Errorf("the change was delivered otherwise (-want +got):\n%s", diff)
	}
	put(none) // an application without policies is a version like any other
	b.Active = false
	check(a, b, none, other)
	a.Active, none.Active = true, false
	put(a)
	check(a, b, none, other)
	a.Active = false
	put(a)
	check(a, b, none, other)

	for what, p := range map[string]authz.PolicyRecord{"no application": {ID: "x", Active: true}, "no id": {Application: "docs", Active: true}} {
		before := w.head(w.platform.System)
		_, err := w.Tuples().PutPolicies(w.ctx, change, p)
		w.kind(what, err, fault.Invalid)
		if w.head(w.platform.System) != before {
			t.Errorf("%s: the revision went on", what)
		}
	}
	check(a, b, none, other)
}

func tuple(n string) relation.Tuple {
	return relation.Tuple{Object: "document:" + n, Relation: "viewer", Subject: "user:" + n}
}

func testTupleWrites(t *testing.T, open Open) {
	w := newWorld(t, open)
	change := ledger.Change{Store: w.docs, Event: event(w.acme.Tenant, "")}
	write := func(writes, deletes []relation.Tuple) (relation.Revision, error) {
		return w.Tuples().WriteTuples(w.ctx, change, authz.Write{Writes: writes, Deletes: deletes})
	}
	odd := relation.Tuple{Object: "document:a:b@c", Relation: "viewer", Subject: "team:x@y#member"}
	everyone := relation.Tuple{Object: "document:b", Relation: "viewer", Subject: "user:*"}
	rev, err := write([]relation.Tuple{tuple("b"), tuple("a"), odd, everyone}, nil)
	w.ok(err)
	check := func(rev uint64, want ...relation.Tuple) {
		t.Helper()
		got, loaded, err := w.load(w.ctx, w.docs)
		w.ok(err)
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("the tuples changed on the way (-want +got):\n%s", diff)
		}
		want2 := authz.Loaded{Revision: relation.Revision{Epoch: anInstance().Epoch, Store: w.docs, Rev: rev}}
		if diff := gocmp.Diff(want2, loaded); diff != "" {
			t.Errorf("loaded otherwise (-want +got):\n%s", diff)
		}
	}
	all := []relation.Tuple{tuple("a"), odd, everyone, tuple("b")}
	check(1, all...)
	logged, err := w.Changes(w.ctx, w.docs, 0, 10)
	w.ok(err)
	want := []store.Batch{{Store: w.docs, Rev: rev.Rev, Writes: []relation.Tuple{tuple("b"), tuple("a"), odd, everyone}}}
	if diff := gocmp.Diff(want, logged); diff != "" {
		t.Errorf("the change was logged otherwise (-want +got):\n%s", diff)
	}
	_, err = write([]relation.Tuple{tuple("c"), tuple("a")}, nil)
	w.kind("a duplicate", err, fault.Conflict)
	_, err = write([]relation.Tuple{tuple("c"), tuple("c")}, nil)
	w.kind("the same twice", err, fault.Conflict)
	_, err = write([]relation.Tuple{tuple("c")}, []relation.Tuple{tuple("d")})
	w.kind("a missing one to delete", err, fault.Conflict)
	_, err = write([]relation.Tuple{{Object: "document", Relation: "viewer", Subject: "user:a"}}, nil)
	w.kind("no tuple", err, fault.Invalid)
	check(1, all...)
	_, err = write([]relation.Tuple{tuple("a"), tuple("c")}, []relation.Tuple{tuple("a"), odd})
	w.ok(err)
	check(2, tuple("a"), everyone, tuple("b"), tuple("c"))
	_, err = w.write(newStore(), w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("a")}})
	w.kind("an unknown store", err, fault.NotFound)
	g := &directory.Graph{Tenant: w.acme.Tenant, ID: w.docs, Kind: directory.DefaultGraph, Application: "docs"}
	_, err = w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Delete(g) })
	w.kind("delete of a store with tuples", err, fault.Conflict)
}

// testTupleNet: subscribers get the net effect, however often a transaction
// changed its mind.
func testTupleNet(t *testing.T, open Open) {
	w := newWorld(t, open)
	var seen store.Batch
	w.Subscribe(func(b store.Batch) { seen = b })
	sys := w.acme.System
	w.must(sys, w.acme.Tenant, func(tx directory.Tx) error {
		return tx.WriteTuples(sys, []relation.Tuple{tuple("old"), tuple("kept")}, nil)
	})
	w.must(sys, w.acme.Tenant, func(tx directory.Tx) error {
		for _, step := range []struct{ writes, deletes []relation.Tuple }{
			{[]relation.Tuple{tuple("brief"), tuple("new")}, nil},
			{nil, []relation.Tuple{tuple("brief"), tuple("old"), tuple("kept")}},
			{[]relation.Tuple{tuple("kept")}, nil},
		} {
			if err := tx.WriteTuples(sys, step.writes, step.deletes); err != nil {
				return err
			}
		}
		in, err := tx.Tuples(sys, relation.Tuple{Relation: "viewer"})
		if len(in) != 2 {
			t.Errorf("the transaction sees %v", in)
		}
		one, err2 := tx.Tuples(sys, relation.Tuple{Object: "document:new", Subject: "user:new"})
		if len(one) != 1 || err2 != nil {
			t.Errorf("the transaction finds %v, %v", one, err2)
		}
		return err
	})
	want := store.Batch{Store: sys, Rev: seen.Rev, Writes: []relation.Tuple{tuple("new")}, Deletes: []relation.Tuple{tuple("old")}}
	if diff := gocmp.Diff(want, seen); diff != "" {
		t.Errorf("delivered otherwise (-want +got):\n%s", diff)
	}
	logged, err := w.Changes(w.ctx, sys, seen.Rev-1, 1)
	w.ok(err)
	if diff := gocmp.Diff([]store.Batch{want}, logged); diff != "" {
		t.Errorf("logged otherwise (-want +got):\n%s", diff)
	}
}

func testAuditLogs(t *testing.T, open Open) {
	w := newWorld(t, open)
	a := store.AuditLog{Node: "a", Origin: "origin-a", PublicKey: "key-a", Created: at}
	b := store.AuditLog{Node: "b", Origin: "origin-b", PublicKey: "key-b", Created: at}
	w.ok(w.AddAuditLog(w.ctx, b))
	w.ok(w.AddAuditLog(w.ctx, a))
	w.ok(w.AddAuditLog(w.ctx, a))
	other := a
	other.PublicKey = "another"
	w.kind("another key for a node", w.AddAuditLog(w.ctx, other), fault.Conflict)
	other = a
	other.Node = "c"
	w.kind("another node for an origin", w.AddAuditLog(w.ctx, other), fault.Conflict)
	w.kind("no origin", w.AddAuditLog(w.ctx, store.AuditLog{Node: "d", PublicKey: "k"}), fault.Invalid)
	w.ok(w.AddAuditHead(w.ctx, "a", 5, []byte("five")))
	w.ok(w.AddAuditHead(w.ctx, "a", 9, []byte("nine")))
	w.kind("a head that stands still", w.AddAuditHead(w.ctx, "a", 9, []byte("nein")), fault.Conflict)
	w.kind("a head that shrinks", w.AddAuditHead(w.ctx, "a", 7, []byte("seven")), fault.Conflict)
	w.kind("a head of no log", w.AddAuditHead(w.ctx, "x", 1, []byte("one")), fault.NotFound)
	a.Size, a.Head = 9, []byte("nine")
	got, err := w.AuditLogs(w.ctx)
	w.ok(err)
	if diff := gocmp.Diff([]store.AuditLog{a, b}, got); diff != "" {
		t.Errorf("the list changed on the way (-want +got):\n%s", diff)
	}
	if n := len(w.events()); n != 4 {
		t.Errorf("bookkeeping left %d events in the outbox, want the world's 4", n)
	}
}
