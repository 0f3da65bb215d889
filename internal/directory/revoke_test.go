package directory_test

import (
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	alice := principal.Subject{Kind: principal.User, ID: tenant.RandomID()}
	notes, err := w.CreateService(w.ctx, event(), tenant.Platform, "notes")
	must(t, err)
	_, err = w.Install(w.ctx, event(), w.acme.Tenant, "notes", nil, time.Time{})
	must(t, err)
	service := principal.Subject{Kind: principal.Service, ID: notes.ID}

	root := w.token(w.acme.Tenant, alice)
	derived := w.token(w.acme.Tenant, alice, principal.Actor{Subject: service, JTI: root.Credential.JTI})
	derived.Credential.RootJTI = root.Credential.JTI
	deep := w.token(w.acme.Tenant, alice, principal.Actor{Subject: service, JTI: derived.Credential.JTI}, derived.Actors[0])
	deep.Credential.RootJTI = root.Credential.JTI
	other := w.token(w.acme.Tenant, alice)
	other.Credential.SID = "another"

	for _, c := range []struct {
		name  string
		kind  directory.RevocationKind
		value string
		dead  []*principal.Principal
		alive []*principal.Principal
	}{
		{"a branch", directory.RevokeToken, derived.Credential.JTI, []*principal.Principal{derived, deep}, []*principal.Principal{root, other}},
		{"the first token", directory.RevokeToken, root.Credential.JTI, []*principal.Principal{root, derived, deep}, []*principal.Principal{other}},
		{"the session", directory.RevokeSession, "another", []*principal.Principal{other}, nil},
	} {
		before := w.Generation()
		must(t, w.Revoke(w.ctx, event(), w.acme.Tenant, c.kind, c.value))
		if w.Generation() == before {
			t.Errorf("%s: the generation stands still, so caches do not look again", c.name)
		}
		for _, p := range c.dead {
			if !w.Revoked(p) {
				t.Errorf("%s: a dead token lives", c.name)
			}
		}
		for _, p := range c.alive {
			if w.Revoked(p) {
				t.Errorf("%s: a living token is dead", c.name)
			}
		}
	}
	wantKind(t, "a kind that is none", w.Revoke(w.ctx, event(), w.acme.Tenant, "user", "x"), fault.Invalid)
	wantKind(t, "nothing", w.Revoke(w.ctx, event(), w.acme.Tenant, directory.RevokeToken, ""), fault.Invalid)
}

// Epochs end what was issued until now; what is issued later lives.
func TestEpochs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	u, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "", "")
	must(t, err)
	alice := principal.Subject{Kind: principal.User, ID: u.ID}
	for kind, value := range map[directory.RevocationKind]string{
		directory.RevokeSubject: alice.String(), directory.RevokeClient: "client", directory.RevokeTenant: w.acme.Tenant.String(),
	} {
		old := w.token(w.acme.Tenant, alice)
		elsewhere := w.token(w.globex.Tenant, alice)
		must(t, w.Revoke(w.ctx, event(), w.acme.Tenant, kind, value))
		w.advance(2 * time.Second)
		fresh := w.token(w.acme.Tenant, alice)
		if !w.Revoked(old) || w.Revoked(fresh) || w.Revoked(elsewhere) {
			t.Errorf("%s: old %v, fresh %v, in another tenant %v", kind, w.Revoked(old), w.Revoked(fresh), w.Revoked(elsewhere))
		}
		must(t, w.Revoke(w.ctx, event(), w.acme.Tenant, kind, value)) // again moves the epoch
		if !w.Revoked(fresh) {
			t.Errorf("%s: the second revocation did nothing", kind)
		}
		w.advance(2 * time.Second)
	}
}

// Who has not seen the commit may still issue: a token dated a moment after the
// epoch's transaction ends with the others.
func TestEpochsCoverTheirOwnCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	u, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "", "")
	must(t, err)
	must(t, w.SetUserState(w.ctx, event(), w.acme.Tenant, u.ID, directory.Suspended))
	w.advance(900 * time.Millisecond)
	if !w.Revoked(w.token(w.acme.Tenant, principal.Subject{Kind: principal.User, ID: u.ID})) {
		t.Error("a token that was issued while the suspension was committed lives")
	}
}

// An external issuer's clock may be ahead of ours: a token that it issued before
// the revocation may say that it was issued afterwards, and lives on for longer.
func TestEpochsOfExternalTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	u, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "", "")
	must(t, err)
	alice := principal.Subject{Kind: principal.User, ID: u.ID}
	revoked := w.clock()
	external := func(ahead time.Duration) *principal.Principal {
		p := w.token(w.acme.Tenant, alice)
		p.Credential.Kind, p.Credential.IssuedAt = principal.ExternalToken, revoked.Add(ahead)
		return p
	}
	must(t, w.SetUserState(w.ctx, event(), w.acme.Tenant, u.ID, directory.Suspended))
	must(t, w.SetUserState(w.ctx, event(), w.acme.Tenant, u.ID, directory.Active))
	must(t, w.Revoke(w.ctx, event(), w.acme.Tenant, directory.RevokeClient, "client"))
	if !w.Revoked(external(0)) || !w.Revoked(external(directory.Skew)) || w.Revoked(external(directory.Skew+2*time.Second)) {
		t.Error("an external token is dead when its issuer's clock may have been ahead, and only then")
	}
	// Our own clock has no skew to itself.
	w.advance(2 * time.Second)
	if w.Revoked(w.token(w.acme.Tenant, alice)) {
		t.Error("a token of ours that was issued afterwards is dead")
	}
	// The last moment at which a verifier takes the longest token of these.
	last := revoked.Add(directory.Skew + 5*time.Minute + directory.Skew)
	w.advance(last.Sub(w.clock()))
	must(t, w.Collect(w.ctx))
	if !w.Revoked(external(directory.Skew)) {
		t.Error("the revocation was collected before the token's end")
	}
	w.advance(time.Second)
	must(t, w.Collect(w.ctx))
	if w.Revoked(external(directory.Skew)) {
		t.Error("the revocation stays")
	}
}

// The epoch of a client ends what was derived from what it got, wherever the
// chain still names it: as an actor, or as the service that began the chain.
func TestClientEpochReachesDerivedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	service := func(name string) principal.Subject {
		s, err := w.CreateService(w.ctx, event(), w.acme.Tenant, name)
		must(t, err)
		return principal.Subject{Kind: principal.Service, ID: s.ID}
	}
	notes, billing, mail := service("notes"), service("billing"), service("mail")
	alice := principal.Subject{Kind: principal.User, ID: tenant.RandomID()}
	link := func(s principal.Subject) principal.Actor { return principal.Actor{Subject: s, JTI: tenant.RandomID()} }
	issue := func() map[string]*principal.Principal {
		return map[string]*principal.Principal{
			"an actor's":       w.token(w.acme.Tenant, alice, link(billing), link(notes)),
			"a subject's":      w.token(w.acme.Tenant, notes, link(billing)),
			"of other clients": w.token(w.acme.Tenant, alice, link(billing), link(mail)),
		}
	}
	old := issue()
	must(t, w.Revoke(w.ctx, event(), w.acme.Tenant, directory.RevokeClient, notes.ID))
	w.advance(2 * time.Second)
	for name, p := range old {
		if got, want := w.Revoked(p), name != "of other clients"; got != want {
			t.Errorf("%s: revoked %v, want %v", name, got, want)
		}
	}
	for name, p := range issue() {
		if w.Revoked(p) {
			t.Errorf("%s: dead, though it was issued afterwards", name)
		}
	}
}

func TestServicesEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	notes, err := w.CreateService(w.ctx, event(), tenant.Platform, "notes")
	must(t, err)
	own, err := w.CreateService(w.ctx, event(), w.acme.Tenant, "search")
	must(t, err)
	private, err := w.CreateService(w.ctx, event(), w.globex.Tenant, "private")
	must(t, err)
	of := func(id string) *principal.Principal {
		return w.token(w.acme.Tenant, principal.Subject{Kind: principal.Service, ID: id})
	}
	if !w.Revoked(of(notes.ID)) || !w.Revoked(of(private.ID)) || !w.Revoked(of(tenant.RandomID())) || w.Revoked(of(own.ID)) {
		t.Error("only the tenant's own service may act without an installation")
	}
	_, err = w.Install(w.ctx, event(), w.acme.Tenant, "notes", nil, time.Time{})
	must(t, err)
	asActor := w.token(w.acme.Tenant, principal.Subject{Kind: principal.User, ID: tenant.RandomID()}, principal.Actor{Subject: principal.Subject{Kind: principal.Service, ID: notes.ID}, JTI: "j"})
	if w.Revoked(of(notes.ID)) || w.Revoked(asActor) {
		t.Error("an installed service is dead")
	}
	must(t, w.SetServiceState(w.ctx, event(), tenant.Platform, notes.ID, directory.Suspended))
	if !w.Revoked(of(notes.ID)) || !w.Revoked(asActor) {
		t.Error("a suspended service acts")
	}
	must(t, w.SetServiceState(w.ctx, event(), tenant.Platform, notes.ID, directory.Active))
	must(t, w.Uninstall(w.ctx, event(), w.acme.Tenant, "notes"))
	if !w.Revoked(of(notes.ID)) || !w.Revoked(asActor) {
		t.Error("an uninstalled service acts")
	}
	wantKind(t, "suspending another's service", w.SetServiceState(w.ctx, event(), w.acme.Tenant, notes.ID, directory.Suspended), fault.NotFound)
}

func TestSuspension(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	u, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "", "")
	must(t, err)
	p := w.token(w.acme.Tenant, principal.Subject{Kind: principal.User, ID: u.ID})
	must(t, w.SetUserState(w.ctx, event(), w.acme.Tenant, u.ID, directory.Suspended))
	if !w.Revoked(p) {
		t.Error("a suspended user's token lives")
	}
	must(t, w.SetTenantState(w.ctx, event(), w.acme.Tenant, directory.Suspended))
	if w.TenantActive(w.acme.Tenant) || !w.TenantActive(w.globex.Tenant) {
		t.Error("suspending one tenant must end that one alone")
	}
	must(t, w.SetTenantState(w.ctx, event(), w.acme.Tenant, directory.Active))
	if !w.TenantActive(w.acme.Tenant) {
		t.Error("the tenant does not go on")
	}
	wantKind(t, "suspending the platform", w.SetTenantState(w.ctx, event(), tenant.Platform, directory.Suspended), fault.Invalid)
	wantKind(t, "another tenant's user", w.SetUserState(w.ctx, event(), w.globex.Tenant, u.ID, directory.Suspended), fault.NotFound)
}

func TestCollectAndRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	p := w.token(w.acme.Tenant, principal.Subject{Kind: principal.User, ID: tenant.RandomID()})
	must(t, w.Revoke(w.ctx, event(), w.acme.Tenant, directory.RevokeToken, p.Credential.JTI))
	again := w.open(false)
	if !again.Revoked(p) {
		t.Error("a restart forgets revocations")
	}
	if got, err := again.ResolveTenant("acme"); err != nil || got.Tenant != w.acme.Tenant {
		t.Errorf("a restart forgets tenants: %v, %v", got, err)
	}
	must(t, w.Collect(w.ctx))
	if !w.Revoked(p) {
		t.Error("a revocation that is still needed was collected")
	}
	w.advance(10 * time.Minute)
	must(t, w.Collect(w.ctx))
	if w.Revoked(p) || len(w.Expired()) != 0 || again.Revoked(p) {
		t.Error("an expired revocation stays")
	}
}

// However many revocations expire at once, no transaction holds the writer for long.
func TestCollectInParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	const many = 2100
	_, err := w.store.Directory().Mutate(w.ctx, ledger.Change{Store: w.acme.System, Event: ledger.Event{ID: tenant.RandomID(), Time: w.clock(), Class: ledger.Mutation, Tenant: w.acme.Tenant}}, func(tx directory.Tx) error {
		for range many {
			r := &directory.Revocation{Tenant: w.acme.Tenant, Kind: directory.RevokeToken, Value: tenant.RandomID(), Before: w.clock(), Expires: w.clock()}
			if err := tx.Insert(r); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	w.advance(time.Second)
	if n := len(w.Expired()); n != many {
		t.Fatalf("%d have expired, want %d", n, many)
	}
	most, all := 0, 0
	w.store.Subscribe(func(b store.Batch) { most, all = max(most, len(b.Entries)), all+len(b.Entries) })
	must(t, w.Collect(w.ctx))
	if left := len(w.Expired()); left != 0 || all != many || most > 1000 {
		t.Errorf("%d deleted, at most %d at once, %d left", all, most, left)
	}
}

func TestFreshness(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.advance(directory.StaleAfter - time.Nanosecond)
	if !w.Fresh() {
		t.Error("stale too early")
	}
	w.advance(time.Nanosecond)
	if w.Fresh() {
		t.Error("fresh without word from the store")
	}
	w.Confirm()
	if !w.Fresh() {
		t.Error("stale after word from the store")
	}
}
