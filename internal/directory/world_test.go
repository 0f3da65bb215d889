package directory_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/tenant"
)

// world is a directory on a real store, with a clock that the test owns.
type world struct {
	t     *testing.T
	ctx   context.Context
	store *sqlite.Store
	*directory.Directory

	mu  sync.Mutex
	now time.Time

	acme, globex *directory.Tenant
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t *testing.T, dev bool) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	var err error
	if w.store, err = sqlite.Open(w.ctx, sqlite.Config{Path: filepath.Join(t.TempDir(), "db"), Now: w.clock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	must(t, w.store.CreateInstance(w.ctx, store.Instance{ID: tenant.RandomID(), Env: "test", Issuer: "https://i", Epoch: 1, RootFingerprint: "f", Created: w.now}))
	w.Directory = w.open(dev)
	_, err = w.CreatePlatform(w.ctx, event())
	must(t, err)
	w.acme, err = w.CreateTenant(w.ctx, event(), "acme")
	must(t, err)
	w.globex, err = w.CreateTenant(w.ctx, event(), "globex")
	must(t, err)
	return w
}

// open makes another view of the same store, as a restart would.
func (w *world) open(dev bool) *directory.Directory {
	w.t.Helper()
	d, err := directory.New(w.ctx, directory.Config{
		Store: w.store.Directory(), Env: "test", Dev: dev, Applications: []string{"docs"},
		CodeMAC: func(context.Context) (secret.Bytes, error) {
			return secret.New([]byte("a key that this test alone uses")), nil
		},
		MaxToken: 5 * time.Minute, FreeGraphs: 4, Now: w.clock,
	})
	must(w.t, err)
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := d.Apply(e.Kind, e.Key, e.Payload); err != nil {
				w.t.Errorf("Apply(%s %s): %v", e.Kind, e.Key, err)
			}
		}
	})
	return d
}

// inviter makes a person of the tenant with the role.
func (w *world) inviter(t tenant.ID, name, role string) directory.Inviter {
	w.t.Helper()
	u, err := w.CreateUser(w.ctx, event(), t, name, "", "")
	must(w.t, err)
	must(w.t, w.AssignRole(w.ctx, event(), t, u.ID, role))
	return directory.Inviter{Tenant: t, Subject: principal.Subject{Kind: principal.User, ID: u.ID}}
}

func event() ledger.Event { return ledger.Event{Subject: "user:test"} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("%s: %v, want kind %v", what, err, kind)
	}
}

// token is a principal as authn would make it, issued now.
func (w *world) token(t tenant.ID, s principal.Subject, actors ...principal.Actor) *principal.Principal {
	jti := tenant.RandomID()
	return &principal.Principal{
		Tenant: t, Subject: s, Actors: actors, ClientID: "client",
		Credential: principal.Credential{JTI: jti, RootJTI: jti, SID: "session", IssuedAt: w.clock(), Expires: w.clock().Add(5 * time.Minute)},
	}
}
