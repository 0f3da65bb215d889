package storetest

import (
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// testShards: a change that touches what another shard orders fails as a whole,
// whatever its caller checked.
func testShards(t *testing.T, open Open) {
	w := newWorld(t, open)
	a, g := w.acme, w.globex
	victim := user(g, "victim")
	w.ok(w.insert(g, victim))
	tuple := []relation.Tuple{{Object: "system:x", Relation: "administrator", Subject: "user:mallory"}}
	suspended := w.globex
	suspended.State = directory.Suspended
	type attempt = func(directory.Tx) error
	for what, fn := range map[string]attempt{
		"insert for another tenant":     func(tx directory.Tx) error { return tx.Insert(user(g, "planted")) },
		"update of another's record":    func(tx directory.Tx) error { return tx.Update(changed(victim)) },
		"delete of another's record":    func(tx directory.Tx) error { return tx.Delete(victim) },
		"tuple in another's store":      func(tx directory.Tx) error { return tx.WriteTuples(g.System, tuple, nil) },
		"tuple in another store of its": func(tx directory.Tx) error { return tx.WriteTuples(w.docs, tuple, nil) },
		"read of another's tuples":      func(tx directory.Tx) error { _, err := tx.Tuples(g.System, relation.Tuple{}); return err },
		"store for another tenant": func(tx directory.Tx) error {
			return tx.Insert(&directory.Graph{Tenant: g.Tenant, ID: newStore(), Kind: directory.DefaultGraph, Application: "docs"})
		},
		"suspending another tenant":    func(tx directory.Tx) error { return tx.Update(&suspended) },
		"suspending or not, one's own": func(tx directory.Tx) error { own := w.acme; return tx.Update(&own) },
		"a tenant by a tenant": func(tx directory.Tx) error {
			return tx.Insert(&directory.Tenant{Tenant: tenant.New(), Name: "evil", State: directory.Active, System: newStore(), Created: at})
		},
		"a platform service by a tenant": func(tx directory.Tx) error { return tx.Insert(service(w.platform, "gateway2")) },
		"no tenant":                      func(tx directory.Tx) error { return tx.Insert(&directory.User{ID: tenant.RandomID(), Name: "x"}) },
	} {
		before := w.head(a.System)
		_, err := w.mutate(a.System, a.Tenant, func(tx directory.Tx) error {
			if err := tx.Insert(user(a, "before")); err != nil {
				return err
			}
			return fn(tx)
		})
		w.kind(what, err, fault.Internal)
		if _, err := w.Directory().UserByName(w.ctx, a.Tenant, "before"); err == nil || w.head(a.System) != before {
			t.Errorf("%s: the rest of the change stands", what)
		}
	}
	keys, models := w.Keys(), w.Tuples()
	change := ledger.Change{Store: a.System, Event: event(a.Tenant, "")}
	_, err := keys.Mutate(w.ctx, change, func(tx kms.Tx) error {
		return tx.PutVersion(kms.Version{Tenant: g.Tenant, Key: "k", Version: 1, Wrapped: []byte{1}, State: kms.StateEnabled})
	})
	w.kind("a key for another tenant", err, fault.Internal)
	_, err = keys.Mutate(w.ctx, change, func(tx kms.Tx) error {
		return tx.PutKEK(kms.KEK{Tenant: a.Tenant, ID: "kek", Version: 1, Store: g.System, Wrapped: []byte{1}, State: kms.StateEnabled})
	})
	w.kind("a KEK in another's store", err, fault.Internal)
	_, err = models.PutModel(w.ctx, change, authz.ModelRecord{Application: "docs", ID: "m", Source: "s"})
	w.kind("a model by a tenant", err, fault.Internal)
	_, err = models.PutRollout(w.ctx, change, authz.Rollout{Application: "docs", Serial: 1}, authz.Content{})
	w.kind("a rollout by a tenant", err, fault.Internal)
	err = w.Releases().PutRelease(w.ctx, change, release.Release{Application: "docs", ID: "r"}, authz.Content{})
	w.kind("a release by a tenant", err, fault.Internal)
	_, err = w.Tokens().Mutate(w.ctx, change, func(tx sts.Tx) error {
		return tx.PutSigningKey(sts.SigningKey{KID: "k", Purpose: sts.PurposeToken, Public: []byte(`{}`)})
	})
	w.kind("a signing key by a tenant", err, fault.Internal)

	_, err = w.mutate(newStore(), a.Tenant, func(directory.Tx) error { return nil })
	w.kind("an unknown shard", err, fault.NotFound)
	for what, c := range map[string]ledger.Change{
		"no shard":        {Event: event(a.Tenant, "")},
		"no tenant":       {Store: a.System, Event: ledger.Event{Class: ledger.Mutation}},
		"another's class": {Store: a.System, Event: ledger.Event{Class: ledger.Allow, Tenant: a.Tenant}},
	} {
		_, err := w.Directory().Mutate(w.ctx, c, func(directory.Tx) error { return nil })
		w.kind(what, err, fault.Internal)
	}
}

// testCrossTenant uses the ids of one tenant in the name of another: every
// answer is the one for an id that does not exist.
func testCrossTenant(t *testing.T, open Open) {
	w := newWorld(t, open)
	shared, own := samples(w)
	w.ok(w.insert(w.platform, shared...))
	w.ok(w.insert(w.acme, own...))
	g := w.globex
	d := w.Directory()
	for _, r := range own {
		switch r := r.(type) {
		case *directory.User:
			_, err := d.User(w.ctx, g.Tenant, r.ID)
			w.kind("user by id", err, fault.NotFound)
			_, err = d.UserByName(w.ctx, g.Tenant, r.Name)
			w.kind("user by name", err, fault.NotFound)
		case *directory.Enrolment:
			_, err := w.mutate(g.System, g.Tenant, func(tx directory.Tx) error { _, err := tx.Enrolment(g.Tenant, r.ID); return err })
			w.kind("enrolment", err, fault.NotFound)
		}
		moved := inTenant(r, g.Tenant)
		if moved == nil {
			continue
		}
		if _, isGraph := r.(*directory.Graph); !isGraph {
			_, err := w.mutate(g.System, g.Tenant, func(tx directory.Tx) error { return tx.Update(moved) })
			w.kind("update of a "+r.RecordKind(), err, fault.NotFound)
		}
		_, err := w.mutate(g.System, g.Tenant, func(tx directory.Tx) error { return tx.Delete(moved) })
		w.kind("delete of a "+r.RecordKind(), err, fault.NotFound)
		if w.stored(r) == nil {
			t.Errorf("the %s is gone", r.RecordKind())
		}
	}
	// Children of one tenant under parents of another.
	jobs, okta := own[0].(*directory.Service), own[1].(*directory.Connection)
	linked := user(g, "linked")
	linked.Connection, linked.External = okta.ID, "00u1"
	for what, r := range map[string]directory.Record{
		"grant":        &directory.AudienceGrant{Tenant: g.Tenant, Service: jobs.ID, Audience: "urn:x"},
		"key":          &directory.ClientKey{Tenant: g.Tenant, Subject: principal.Subject{Kind: principal.Service, ID: jobs.ID}, KID: "k", Public: []byte(`{}`)},
		"linked user":  linked,
		"installation": &directory.Installation{Tenant: g.Tenant, Service: jobs.ID},
	} {
		w.kind(what+" under another's parent", w.insert(g, r), fault.NotFound)
	}
	keys, err := w.Keys().LoadTenantKeys(w.ctx, g.Tenant)
	w.ok(err)
	if len(keys.KEKs)+len(keys.Versions) > 0 {
		t.Error("another tenant's keys are seen")
	}
	users, err := d.Users(w.ctx, g.Tenant, "", 100)
	w.ok(err)
	if len(users) > 0 {
		t.Error("another tenant's users are listed")
	}
	_, err = w.Changes(w.ctx, newStore(), 0, 1)
	w.kind("changes of an unknown store", err, fault.NotFound)
	_, _, err = w.load(w.ctx, newStore())
	w.kind("tuples of an unknown store", err, fault.NotFound)
	tuples, _, err := w.load(w.ctx, g.System)
	w.ok(err)
	if len(tuples) > 0 {
		t.Error("another store's tuples are loaded")
	}
}

// inTenant returns the record with all its ids, as if the tenant owned it.
func inTenant(r directory.Record, t tenant.ID) directory.Record {
	switch r := r.(type) {
	case *directory.Graph:
		c := *r
		c.Tenant = t
		return &c
	case *directory.User:
		c := *r
		c.Tenant, c.Connection, c.External = t, "", ""
		return &c
	case *directory.Service:
		c := *r
		c.Tenant = t
		return &c
	case *directory.ClientKey:
		c := *r
		c.Tenant = t
		return &c
	case *directory.AudienceGrant:
		c := *r
		c.Tenant = t
		return &c
	case *directory.Installation:
		c := *r
		c.Tenant = t
		return &c
	case *directory.Connection:
		c := *r
		c.Tenant = t
		return &c
	case *directory.Enrolment:
		c := *r
		c.Tenant = t
		return &c
	case *directory.Revocation:
		c := *r
		c.Tenant = t
		return &c
	}
	return nil
}
