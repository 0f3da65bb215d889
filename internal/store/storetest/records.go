package storetest

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

var exact = cmp.AllowUnexported(tenant.ID{})

// place returns a directory that is the test's own, with the mode that a store asks for.
func place(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func testInstance(t *testing.T, open Open) {
	w := &world{t: t, ctx: t.Context(), place: place(t)}
	w.Store = open(t, w.place)
	_, err := w.Instance(w.ctx)
	w.kind("no instance yet", err, fault.NotFound)
	_, err = w.mutate(newStore(), tenant.Platform, func(directory.Tx) error { return nil })
	w.kind("a change without an instance", err, fault.Internal)
	w.kind("an empty instance", w.CreateInstance(w.ctx, store.Instance{}), fault.Invalid)
	want := anInstance()
	w.ok(w.CreateInstance(w.ctx, want))
	w.kind("a second instance", w.CreateInstance(w.ctx, anInstance()), fault.Conflict)
	for range 2 {
		got, err := w.Instance(w.ctx)
		w.ok(err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the instance changed (-want +got):\n%s", diff)
		}
		w.ok(w.Close())
		w.Store = open(t, w.place)
	}
	// The epoch is part of every revision, also after a restart.
	w.platform = w.tenant(tenant.Platform, "platform")
	rev := w.must(w.platform.System, tenant.Platform, func(directory.Tx) error { return nil })
	if want := (relation.Revision{Epoch: want.Epoch, Store: w.platform.System, Rev: 2}); rev != want {
		t.Errorf("revision %+v, want %+v", rev, want)
	}
	w.ok(w.Close())
}

// samples returns one record of each kind in the tenant's shard, parents first.
func samples(w *world) (platform, acme []directory.Record) {
	shared, own := service(w.platform, "notes"), service(w.acme, "jobs")
	linked, plain := connection(w.acme, "okta", "https://okta.example"), user(w.acme, "alice")
	person := user(w.acme, "bob")
	person.Connection, person.External = linked.ID, "00u1"
	a := w.acme.Tenant
	key := func(kind principal.Kind, id string) *directory.ClientKey {
		return &directory.ClientKey{Tenant: a, Subject: principal.Subject{Kind: kind, ID: id}, KID: "k", Public: []byte(`{"kty":"EC"}`), Created: at, Expires: at.Add(time.Hour)}
	}
	return []directory.Record{shared}, []directory.Record{
		own, linked, plain, person, key(principal.Service, own.ID), key(principal.User, plain.ID),
		&directory.AudienceGrant{Tenant: a, Service: own.ID, Audience: "urn:x", Scopes: []string{"a", "b"}, Direct: true},
		&directory.AudienceGrant{Tenant: a, Service: own.ID, Audience: "urn:y"},
		&directory.Installation{Tenant: a, Service: shared.ID, Scopes: []string{"read"}, Expires: at, Created: at},
		&directory.Enrolment{Tenant: a, ID: tenant.RandomID(), CodeMAC: []byte{0, 1, 2}, Role: "administrator", Name: "zoe", InvitedBy: "user:" + plain.ID, Outside: true, Expires: at},
		&directory.Revocation{Tenant: a, Kind: directory.RevokeRoot, Value: "jti", Before: at, Expires: at.Add(time.Hour)},
		&directory.Revocation{Tenant: a, Kind: directory.RevokeToken, Value: "jti", Expires: at},
		&directory.Graph{Tenant: a, ID: newStore(), Kind: directory.DefaultGraph, Application: "other"},
		&directory.Graph{Tenant: a, ID: newStore(), Kind: directory.FreeGraph, Name: "my store", Created: at},
	}
}

// changed returns the record with another value in a field that may change.
func changed(r directory.Record) directory.Record {
	switch r := r.(type) {
	case *directory.Service:
		c := *r
		c.State, c.Name = directory.Suspended, c.Name+"2"
		return &c
	case *directory.Connection:
		c := *r
		c.State, c.Audience, c.Algs, c.JWKSURI = directory.Suspended, "other", []string{"EdDSA"}, "https://k.example"
		return &c
	case *directory.User:
		c := *r
		c.State, c.Connection, c.External = directory.Suspended, "", ""
		return &c
	case *directory.ClientKey:
		c := *r
		c.Expires = time.Time{}
		return &c
	case *directory.AudienceGrant:
		c := *r
		c.Scopes, c.Direct = nil, !c.Direct
		return &c
	case *directory.Installation:
		c := *r
		c.Scopes, c.Expires = []string{"x"}, time.Time{}
		return &c
	case *directory.Enrolment:
		c := *r
		c.UsedBy = "user:" + tenant.RandomID()
		return &c
	case *directory.Revocation:
		c := *r
		c.Before, c.Expires = at.Add(1), at.Add(2)
		return &c
	}
	return nil
}

// stored reads a record back by kind and key.
func (w *world) stored(r directory.Record) directory.Record {
	w.t.Helper()
	if u, ok := r.(*directory.User); ok {
		got, err := w.Directory().User(w.ctx, u.Tenant, u.ID)
		if fault.KindOf(err) == fault.NotFound && err != nil {
			return nil
		}
		w.ok(err)
		return got
	}
	all, err := w.Directory().LoadDirectory(w.ctx)
	w.ok(err)
	for _, got := range all {
		if got.RecordKind() == r.RecordKind() && got.RecordKey() == r.RecordKey() {
			return got
		}
	}
	return nil
}

// testRoundTrips puts every kind through insert, update and delete, and
// compares the row, the changelog and the subscriber's view.
func testRoundTrips(t *testing.T, open Open) {
	w := newWorld(t, open)
	var seen []store.Batch
	w.Subscribe(func(b store.Batch) { seen = append(seen, b) })
	shared, own := samples(w)
	w.ok(w.insert(w.platform, shared...))
	check := func(op string, want directory.Record, fn func(directory.Tx) error) {
		t.Helper()
		rev, err := w.mutate(w.acme.System, w.acme.Tenant, fn)
		if err != nil {
			t.Errorf("%s %s: %v", op, want.RecordKind(), err)
			return
		}
		var payload []byte
		wantOp := store.Delete
		got := w.stored(want)
		if op == "delete" {
			if got != nil {
				t.Errorf("a deleted %s is still there", want.RecordKind())
			}
		} else {
			wantOp = store.Put
			if diff := cmp.Diff(want, got, exact); diff != "" {
				t.Errorf("%s %s changed on the way (-want +got):\n%s", op, want.RecordKind(), diff)
			}
			payload, err = directory.Encode(want)
			w.ok(err)
		}
		batch := store.Batch{Store: w.acme.System, Rev: rev.Rev, Entries: []store.Entry{
			{Kind: want.RecordKind(), Op: wantOp, Key: want.RecordKey(), Payload: payload}}}
		if diff := cmp.Diff(batch, seen[len(seen)-1]); diff != "" {
			t.Errorf("%s %s was delivered otherwise (-want +got):\n%s", op, want.RecordKind(), diff)
		}
		logged, err := w.Changes(w.ctx, w.acme.System, rev.Rev-1, 1)
		w.ok(err)
		if diff := cmp.Diff([]store.Batch{batch}, logged); diff != "" {
			t.Errorf("%s %s was logged otherwise (-want +got):\n%s", op, want.RecordKind(), diff)
		}
	}
	for _, r := range own {
		check("insert", r, func(tx directory.Tx) error { return tx.Insert(r) })
	}
	for _, r := range own {
		c := changed(r)
		if c == nil {
			_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Update(r) })
			w.kind("update of a "+r.RecordKind(), err, fault.Unsupported)
			continue
		}
		check("update", c, func(tx directory.Tx) error { return tx.Update(c) })
	}
	suspended := w.acme
	suspended.State, suspended.Name = directory.Suspended, "acme-2"
	w.must(w.platform.System, tenant.Platform, func(tx directory.Tx) error { return tx.Update(&suspended) })
	if diff := cmp.Diff(directory.Record(&suspended), w.stored(&suspended), exact); diff != "" {
		t.Errorf("the tenant changed on the way (-want +got):\n%s", diff)
	}
	slices.Reverse(own)
	for _, r := range own {
		check("delete", r, func(tx directory.Tx) error { return tx.Delete(r) })
		_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Delete(r) })
		w.kind("a second delete of a "+r.RecordKind(), err, fault.NotFound)
		if c := changed(r); c != nil {
			_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Update(c) })
			w.kind("update of an absent "+r.RecordKind(), err, fault.NotFound)
		}
	}
	// Ids are never reused, not even by their owner: a store's revisions go on.
	_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Insert(own[0]) })
	w.kind("a deleted store's id", err, fault.Conflict)
}

func testUsers(t *testing.T, open Open) {
	w := newWorld(t, open)
	c := connection(w.acme, "okta", "https://okta.example")
	a, b := user(w.acme, "alice"), user(w.acme, "bob")
	b.Connection, b.External = c.ID, "00u1"
	w.ok(w.insert(w.acme, c, a, b))
	d := w.Directory()
	for what, find := range map[string]func() (*directory.User, error){
		"id":       func() (*directory.User, error) { return d.User(w.ctx, w.acme.Tenant, b.ID) },
		"name":     func() (*directory.User, error) { return d.UserByName(w.ctx, w.acme.Tenant, "bob") },
		"external": func() (*directory.User, error) { return d.UserByExternal(w.ctx, c.ID, "00u1") },
	} {
		got, err := find()
		w.ok(err)
		if diff := cmp.Diff(b, got, exact); diff != "" {
			t.Errorf("by %s (-want +got):\n%s", what, diff)
		}
	}
	_, err := d.UserByExternal(w.ctx, c.ID, "nobody")
	w.kind("an unlinked subject", err, fault.NotFound)
	_, err = d.UserByExternal(w.ctx, "", "")
	w.kind("no connection", err, fault.NotFound)
	_, err = d.UserByName(w.ctx, w.acme.Tenant, "")
	w.kind("no name", err, fault.NotFound)

	var all []directory.Record
	ids := []string{a.ID, b.ID}
	for range 5 {
		u := user(w.acme, tenant.RandomID())
		all, ids = append(all, u), append(ids, u.ID)
	}
	w.ok(w.insert(w.acme, all...))
	w.ok(w.insert(w.globex, user(w.globex, "eve")))
	slices.Sort(ids)
	var got []string
	for after, more := "", true; more; {
		page, err := d.Users(w.ctx, w.acme.Tenant, after, 3)
		w.ok(err)
		for _, u := range page {
			got, after = append(got, u.ID), u.ID
		}
		more = len(page) == 3
	}
	if !slices.Equal(ids, got) {
		t.Errorf("paging gave %v, want %v", got, ids)
	}
}

func testUnique(t *testing.T, open Open) {
	w := newWorld(t, open)
	a, g := w.acme, w.globex
	s, c := service(a, "jobs"), connection(a, "okta", "https://okta.example")
	u, linked := user(a, "alice"), user(a, "linked")
	linked.Connection, linked.External = c.ID, "x"
	e := &directory.Enrolment{Tenant: a.Tenant, ID: tenant.RandomID(), CodeMAC: []byte{1}, Role: "auditor", Expires: at}
	k := &directory.ClientKey{Tenant: a.Tenant, Subject: principal.Subject{Kind: principal.Service, ID: s.ID}, KID: "k", Public: []byte(`{}`), Created: at}
	w.ok(w.insert(a, s, c, u, linked, e, k))

	same := func(t directory.Tenant, id string) *directory.User {
		n := user(t, tenant.RandomID())
		n.ID = id
		return n
	}
	again := connection(a, "other", "https://o.example")
	again.ID = c.ID
	twin := user(a, "twin")
	twin.Connection, twin.External = c.ID, "x"
	stolen := service(g, "free")
	stolen.ID = s.ID
	for what, try := range map[string]struct {
		in directory.Tenant
		r  directory.Record
	}{
		"user's name in the tenant":                {a, user(a, "alice")},
		"user's id":                                {a, same(a, u.ID)},
		"user's id in another tenant":              {g, same(g, u.ID)},
		"user's subject at a connection":           {a, twin},
		"service's name for its owner":             {a, service(a, "jobs")},
		"service's id at another owner":            {g, stolen},
		"connection's name":                        {a, connection(a, "okta", "https://other.example")},
		"connection's issuer":                      {a, connection(a, "new", "https://okta.example")},
		"another tenant's issuer":                  {g, connection(g, "okta", "https://okta.example")},
		"connection's id":                          {a, again},
		"client key of a subject":                  {a, k},
		"enrolment":                                {a, e},
		"store for the same application":           {a, &directory.Graph{Tenant: a.Tenant, ID: newStore(), Kind: directory.DefaultGraph, Application: "docs"}},
		"second system store":                      {a, &directory.Graph{Tenant: a.Tenant, ID: newStore(), Kind: directory.SystemGraph}},
		"another tenant's store id":                {g, &directory.Graph{Tenant: g.Tenant, ID: w.docs, Kind: directory.DefaultGraph, Application: "docs"}},
		"another tenant's system store as default": {g, &directory.Graph{Tenant: g.Tenant, ID: a.System, Kind: directory.DefaultGraph, Application: "docs"}},
	} {
		before := w.head(try.in.System)
		w.kind(what, w.insert(try.in, try.r), fault.Conflict)
		if after := w.head(try.in.System); after != before {
			t.Errorf("%s: a refused change used revision %d", what, after)
		}
	}
	for what, r := range map[string]directory.Tenant{
		"tenant's name":         {Tenant: tenant.New(), Name: "acme", State: directory.Active, System: newStore(), Created: at},
		"tenant's id":           {Tenant: a.Tenant, Name: "new", State: directory.Active, System: newStore(), Created: at},
		"tenant's system store": {Tenant: tenant.New(), Name: "new", State: directory.Active, System: a.System, Created: at},
	} {
		_, err := w.mutate(w.platform.System, tenant.Platform, func(tx directory.Tx) error { return tx.Insert(&r) })
		w.kind(what, err, fault.Conflict)
	}
	// What is unique in one tenant is free in the other.
	w.ok(w.insert(g, user(g, "alice"), service(g, "jobs"), connection(g, "okta", "https://okta.globex.example"),
		&directory.Graph{Tenant: g.Tenant, ID: newStore(), Kind: directory.DefaultGraph, Application: "docs"}))
	renamed := *u
	renamed.Name = "linked"
	_, err := w.mutate(a.System, a.Tenant, func(tx directory.Tx) error { return tx.Update(&renamed) })
	w.kind("rename to a taken name", err, fault.Conflict)
}

func testReferences(t *testing.T, open Open) {
	w := newWorld(t, open)
	shared, own := samples(w)
	w.ok(w.insert(w.platform, shared...))
	w.ok(w.insert(w.acme, own...))
	a := w.acme.Tenant
	local := service(w.acme, "local")
	w.ok(w.insert(w.acme, local))
	absent := tenant.RandomID()
	orphan := user(w.acme, "orphan")
	orphan.Connection, orphan.External = absent, "x"
	for what, r := range map[string]directory.Record{
		"grant of no service":             &directory.AudienceGrant{Tenant: a, Service: absent, Audience: "urn:x"},
		"installation of no service":      &directory.Installation{Tenant: a, Service: absent, Created: at},
		"installation of an own service":  &directory.Installation{Tenant: a, Service: local.ID, Created: at},
		"key of no user":                  &directory.ClientKey{Tenant: a, Subject: principal.Subject{Kind: principal.User, ID: absent}, KID: "k", Public: []byte(`{}`)},
		"key of a service as of a user":   &directory.ClientKey{Tenant: a, Subject: principal.Subject{Kind: principal.User, ID: local.ID}, KID: "k", Public: []byte(`{}`)},
		"user of no connection":           orphan,
		"grant of the platform's service": &directory.AudienceGrant{Tenant: a, Service: shared[0].(*directory.Service).ID, Audience: "urn:x"},
		"key for the platform's service":  &directory.ClientKey{Tenant: a, Subject: principal.Subject{Kind: principal.Service, ID: shared[0].(*directory.Service).ID}, KID: "k", Public: []byte(`{}`)},
	} {
		w.kind(what, w.insert(w.acme, r), fault.NotFound)
	}
	for _, r := range []directory.Record{own[0], own[1], own[2]} { // service, connection, user with a key
		_, err := w.mutate(w.acme.System, a, func(tx directory.Tx) error { return tx.Delete(r) })
		w.kind("delete of a "+r.RecordKind()+" in use", err, fault.Conflict)
	}
	far := user(w.acme, "far")
	far.Created = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	w.kind("a time that does not fit", w.insert(w.acme, far), fault.Invalid)
	w.kind("an empty name", w.insert(w.acme, user(w.acme, "")), fault.Invalid)
}

// Admin roles are those of the system store, held by somebody active, as the
// transaction has them.
func testAdminRoles(t *testing.T, open Open) {
	w := newWorld(t, open)
	ann, job := user(w.acme, "ann"), service(w.acme, "job")
	olga := user(w.platform, "olga")
	w.ok(w.insert(w.acme, ann, job))
	w.ok(w.insert(w.platform, olga))
	who := map[string]principal.Subject{
		"ann": {Kind: principal.User, ID: ann.ID}, "job": {Kind: principal.Service, ID: job.ID}, "olga": {Kind: principal.User, ID: olga.ID},
		"nobody": {Kind: principal.User, ID: tenant.RandomID()}, "ann as a service": {Kind: principal.Service, ID: ann.ID},
	}
	tuple := func(t tenant.ID, role, name string) relation.Tuple {
		return relation.Tuple{Object: directory.SystemObject(t), Relation: role, Subject: who[name].String()}
	}
	w.must(w.platform.System, tenant.Platform, func(tx directory.Tx) error {
		return tx.WriteTuples(w.platform.System, []relation.Tuple{tuple(tenant.Platform, "operator", "olga")}, nil)
	})
	w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
		a := w.acme.Tenant
		elsewhere := tuple(w.globex.Tenant, "auditor", "ann") // another object in the same store
		ended, conditional := tuple(a, "manager", "ann"), tuple(a, "key_administrator", "ann")
		ended.Expires, conditional.Condition = 1, "office_hours"
		roles := func(t tenant.ID, name string, want ...string) {
			w.t.Helper()
			got, err := tx.AdminRoles(t, who[name])
			w.ok(err)
			if slices.Sort(got); !slices.Equal(got, want) {
				w.t.Errorf("%s has %v, want %v", name, got, want)
			}
		}
		w.ok(tx.WriteTuples(w.acme.System, []relation.Tuple{
			tuple(a, "administrator", "ann"), tuple(a, "auditor", "ann"), tuple(a, "administrator", "job"), tuple(a, "administrator", "olga"),
			tuple(a, "administrator", "nobody"), tuple(a, "administrator", "ann as a service"), elsewhere,
			ended, conditional,
		}, nil))
		roles(a, "ann", "administrator", "auditor")
		roles(a, "job", "administrator")
		roles(a, "nobody")
		roles(a, "ann as a service")
		roles(a, "olga") // of the platform, not of this tenant
		roles(tenant.Platform, "olga", "operator")
		roles(tenant.Platform, "ann")
		_, err := tx.AdminRoles(w.globex.Tenant, who["ann"])
		w.kind("the roles of another tenant", err, fault.Internal)
		// What the transaction changed counts at once.
		gone, off := *ann, *job
		gone.State, off.State = directory.Suspended, directory.Suspended
		w.ok(tx.Update(&gone))
		w.ok(tx.Update(&off))
		roles(a, "ann")
		roles(a, "job")
		return nil
	})
}

func testEnrolment(t *testing.T, open Open) {
	w := newWorld(t, open)
	e := &directory.Enrolment{Tenant: w.acme.Tenant, ID: tenant.RandomID(), CodeMAC: []byte{9}, Role: "auditor", Expires: at}
	w.ok(w.insert(w.acme, e))
	// Many want to use the code at once; each believes what it reads first.
	const callers = 8
	results := make(chan error, callers)
	for range callers {
		go func() {
			_, err := w.Directory().Mutate(w.ctx, ledger.Change{Store: w.acme.System, Event: event(w.acme.Tenant, "")}, func(tx directory.Tx) error {
				used := *e
				used.UsedBy = "user:" + tenant.RandomID()
				return tx.Update(&used)
			})
			results <- err
		}()
	}
	won := 0
	for range callers {
		if err := <-results; err == nil {
			won++
		} else {
			w.kind("a used code", err, fault.Conflict)
		}
	}
	if won != 1 {
		t.Errorf("%d callers used the code", won)
	}
	w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
		got, err := tx.Enrolment(w.acme.Tenant, e.ID)
		if err != nil {
			return err
		}
		if got.UsedBy == "" || got.Role != e.Role || !slices.Equal(got.CodeMAC, e.CodeMAC) {
			t.Errorf("the transaction sees %+v", got)
		}
		_, err = tx.Enrolment(w.globex.Tenant, e.ID)
		w.kind("another tenant's enrolment", err, fault.NotFound)
		return nil
	})
}
