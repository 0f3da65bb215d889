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
	"bulwark.example/internal/release"
	"bulwark.example/internal/store"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/trial"
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
	a := authz.ModelRecord{Application: "docs", ID: "a", Source: "model a", Created: at}
	b := authz.ModelRecord{Application: "docs", ID: "b", Source: "model b", Created: at}
	other := authz.ModelRecord{Application: "mail", ID: "a", Source: "model m", Created: at}
	put(a)
	put(other)
	check(a, other)
	rev := put(b)
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
	put(a)
	b.Active = true
	_, err = w.Tuples().PutModel(w.ctx, change, b)
	w.kind("a model in force without a rollout", err, fault.Invalid)
	b.Active = false
	check(a, b, other)
}

// testRollouts: content and rollout commit together, in the order in which an
// engine can take them.
func testRollouts(t *testing.T, open Open) {
	w := newWorld(t, open)
	var seen []store.Batch
	w.Subscribe(func(b store.Batch) { seen = append(seen, b) })
	change := ledger.Change{Store: w.platform.System, Event: event(tenant.Platform, "")}
	check := func(rollouts []authz.Rollout, policies ...authz.PolicyRecord) {
		t.Helper()
		got, err := w.Tuples().LoadPolicies(w.ctx)
		w.ok(err)
		slices.SortFunc(got, func(x, y authz.PolicyRecord) int {
			return cmp.Or(cmp.Compare(x.Application, y.Application), cmp.Compare(x.ID, y.ID))
		})
		if diff := gocmp.Diff(policies, got); diff != "" {
			t.Errorf("the policies changed on the way (-want +got):\n%s", diff)
		}
		now, err := w.Tuples().LoadRollouts(w.ctx)
		w.ok(err)
		slices.SortFunc(now, func(x, y authz.Rollout) int { return cmp.Compare(x.Application, y.Application) })
		if diff := gocmp.Diff(rollouts, now); diff != "" {
			t.Errorf("the rollouts changed on the way (-want +got):\n%s", diff)
		}
	}
	a := authz.PolicyRecord{Application: "docs", ID: "a", Files: []authz.PolicyFile{{Name: "a.cedar", Text: "forbid\n<&> \u2028"}}, Created: at}
	b := authz.PolicyRecord{
		Application: "docs", ID: "b", Created: at,
		Files: []authz.PolicyFile{{Name: "b.cedar", Text: "b"}, {Name: "a.cedar", Text: "a"}}, // their order counts
		Claims: authz.Claims{
			Context: map[string]string{"device": "string"}, Types: map[string]map[string]string{"user": {"age": "long"}},
			Principals: []string{"user"}, Zone: "Europe/Berlin",
		},
	}
	model := authz.ModelRecord{Application: "docs", ID: "m", Source: "model", Created: at}
	first := authz.Rollout{Application: "docs", Serial: 1, Current: authz.Version{Model: "m", Policies: "a"}}
	wave := authz.Rollout{
		Application: "docs", Serial: 2, Current: first.Current, Previous: &authz.Version{Model: "l"},
		Next: &authz.Version{Release: "r", Model: "m", Policies: "b"}, Stores: []relation.StoreID{w.docs},
	}
	other := authz.Rollout{Application: "mail", Serial: 1, Current: authz.Version{Model: "x"}}
	put := func(r authz.Rollout, c authz.Content) relation.Revision {
		t.Helper()
		rev, err := w.Tuples().PutRollout(w.ctx, change, r, c)
		w.ok(err)
		return rev
	}
	rev := put(first, authz.Content{Models: []authz.ModelRecord{model}, Policies: []authz.PolicyRecord{a}})
	check([]authz.Rollout{first}, a)
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		w.ok(err)
		return raw
	}
	want := []store.Batch{{Store: w.platform.System, Rev: rev.Rev, Entries: []store.Entry{
		{Kind: authz.KindModel, Op: store.Put, Key: "docs/m", Payload: encode(model)},
		{Kind: authz.KindPolicies, Op: store.Put, Key: "docs/a", Payload: encode(a)},
		{Kind: authz.KindRollout, Op: store.Put, Key: "docs", Payload: encode(first)},
	}}}
	logged, err := w.Changes(w.ctx, w.platform.System, rev.Rev-1, 1)
	w.ok(err)
	if diff := gocmp.Diff(want, logged); diff != "" {
		t.Errorf("the change was logged otherwise (-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(want, seen); diff != "" {
		t.Errorf("the change was delivered otherwise (-want +got):\n%s", diff)
	}
	put(other, authz.Content{})
	put(wave, authz.Content{Policies: []authz.PolicyRecord{b, a}})
	check([]authz.Rollout{wave, other}, a, b)

	for what, c := range map[string]struct {
		r    authz.Rollout
		c    authz.Content
		kind fault.Kind
	}{
		"a serial that was":    {wave, authz.Content{}, fault.Conflict},
		"a serial too far":     {authz.Rollout{Application: "docs", Serial: 4}, authz.Content{}, fault.Conflict},
		"no application":       {authz.Rollout{Serial: 1}, authz.Content{}, fault.Invalid},
		"policies without id":  {authz.Rollout{Application: "docs", Serial: 3}, authz.Content{Policies: []authz.PolicyRecord{{Application: "docs"}}}, fault.Invalid},
		"the content, refused": {authz.Rollout{Application: "docs", Serial: 9}, authz.Content{Policies: []authz.PolicyRecord{{Application: "docs", ID: "new"}}}, fault.Conflict},
	} {
		before := w.head(w.platform.System)
		_, err := w.Tuples().PutRollout(w.ctx, change, c.r, c.c)
		w.kind(what, err, c.kind)
		if w.head(w.platform.System) != before {
			t.Errorf("%s: the revision went on", what)
		}
	}
	check([]authz.Rollout{wave, other}, a, b)
}

func testReleases(t *testing.T, open Open) {
	w := newWorld(t, open)
	change := ledger.Change{Store: w.platform.System, Event: event(tenant.Platform, "")}
	check := func(want ...release.Release) {
		t.Helper()
		got, err := w.Releases().LoadReleases(w.ctx)
		w.ok(err)
		slices.SortFunc(got, func(x, y release.Release) int { return cmp.Compare(x.Application+x.ID, y.Application+y.ID) })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("the releases changed on the way (-want +got):\n%s", diff)
		}
	}
	r := release.Release{
		Application: "docs", ID: "r", Base: authz.Version{Model: "l"}, Version: authz.Version{Release: "r", Model: "m"},
		Tests: []trial.File{{Name: "t", Tests: []trial.Test{{Name: "x", Check: []trial.Check{{User: "user:a", Object: "d:1", Assertions: map[string]bool{"viewer": false}}}}}}},
		Note:  "why <&>", Proposed: release.Mark{By: "user:a", At: at},
	}
	model := authz.ModelRecord{Application: "docs", ID: "m", Source: "model", Created: at}
	w.ok(w.Releases().PutRelease(w.ctx, change, r, authz.Content{Models: []authz.ModelRecord{model}}))
	check(r)
	r.Approved = release.Mark{By: "user:b", At: at}
	w.ok(w.Releases().PutRelease(w.ctx, change, r, authz.Content{}))
	check(r)
	models, err := w.Tuples().LoadModels(w.ctx)
	w.ok(err)
	if diff := gocmp.Diff([]authz.ModelRecord{model}, models); diff != "" {
		t.Errorf("the content (-want +got):\n%s", diff)
	}
	logged, err := w.Changes(w.ctx, w.platform.System, w.head(w.platform.System)-1, 1)
	w.ok(err)
	payload, err := json.Marshal(r)
	w.ok(err)
	if diff := gocmp.Diff([]store.Entry{{Kind: release.KindRelease, Op: store.Put, Key: "docs/r", Payload: payload}}, logged[0].Entries); diff != "" {
		t.Errorf("the change was logged otherwise (-want +got):\n%s", diff)
	}
	w.kind("no id", w.Releases().PutRelease(w.ctx, change, release.Release{Application: "docs"}, authz.Content{}), fault.Invalid)
	check(r)
	second, mail := r, r
	second.ID, mail.Application = "s", "mail"
	w.ok(w.Releases().PutRelease(w.ctx, change, mail, authz.Content{}))
	w.ok(w.Releases().PutRelease(w.ctx, change, second, authz.Content{}, "r", "absent"))
	check(second, mail)
	logged, err = w.Changes(w.ctx, w.platform.System, w.head(w.platform.System)-1, 1)
	w.ok(err)
	payload, err = json.Marshal(second)
	w.ok(err)
	want := []store.Entry{{Kind: release.KindRelease, Op: store.Put, Key: "docs/s", Payload: payload}, {Kind: release.KindRelease, Op: store.Delete, Key: "docs/r"}}
	if diff := gocmp.Diff(want, logged[0].Entries); diff != "" {
		t.Errorf("what was forgotten was logged otherwise (-want +got):\n%s", diff)
	}
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
