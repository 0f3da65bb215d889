// Package guardtest is a node's engines over a real store, for tests of the doors that ask the guard.
//
// It wires what cmd wires: SQLite, the audit log with its drain, the directory,
// the decision engine, the key hierarchy, the token service, the guard. A
// [World] has two tenants, acme and globex, beside the platform, and in each of
// the three one person for every admin role, one without any ("nobody") and a
// service ("caller").
package guardtest

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authn"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// Env and Issuer are those of every world; Docs is the model of its one
// application, "docs".
const (
	Env    = "test"
	Issuer = "https://issuer.test"
	Docs   = `model
  schema 1.1
type user
type service
type folder
  relations
    define viewer: [user, service]
type document
  relations
    define parent: [folder]
    define viewer: [user, user:*, service] or viewer from parent
    define editor: [user]
`
)

// World is one node. Its clock never shows the same time twice, so that what
// comes later is later. All ends with the test.
type World struct {
	T         testing.TB
	Dir       string
	AuditDir  string
	Store     *sqlite.Store
	Keyring   *kms.Keyring
	Audit     *audit.Log
	LogKey    note.Verifier
	Directory *directory.Directory
	Authz     *authz.Engine
	Releases  *release.Registry
	Issuer    *sts.Issuer
	Signer    *sts.AssertionSigner
	Authn     *authn.Authenticator
	Guard     *guard.Guard

	Platform, Acme, Globex *directory.Tenant

	people map[string]person // "administrator@acme", "nobody@acme"
	signer *sts.Keys

	mu  sync.Mutex // guards now
	now time.Time
}

type person struct {
	tenant tenant.ID
	who    principal.Subject
}

// New opens a world.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{T: t, Dir: t.TempDir(), people: map[string]person{}, now: time.Now().UTC()}
	w.AuditDir = filepath.Join(w.Dir, "audit")
	ctx := context.Background() // what ends the engines is the clean-up, which must not be cut short
	w.openStore(ctx)
	w.openAudit(ctx)
	w.openEngines(ctx)
	w.populate(ctx)
	return w
}

// Now is the clock of all engines of the world. It is safe for concurrent use.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(time.Microsecond)
	return w.now
}

// Advance moves the clock. Nothing else happens: a node's heartbeat is
// [directory.Directory.Confirm].
func (w *World) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Must ends the test on an error.
func (w *World) Must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

func (w *World) openStore(ctx context.Context) {
	w.T.Helper()
	root, err := local.Create(filepath.Join(w.Dir, "root"), secret.New([]byte("passphrase")), local.Config{Env: Env, Dev: true, WorkFactor: 1})
	w.Must(err)
	w.Store, err = sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(w.Dir, "bulwark.db"), Now: w.Now})
	w.Must(err)
	w.T.Cleanup(func() { _ = w.Store.Close() })
	w.Must(w.Store.CreateInstance(ctx, store.Instance{
		ID: tenant.RandomID(), Env: Env, Issuer: Issuer, Epoch: 1, RootFingerprint: root.Fingerprint(), Dev: true, Created: w.Now(),
	}))
	w.Keyring, err = kms.Open(ctx, kms.Config{Root: root, Store: w.Store.Keys(), Env: Env, Fingerprint: root.Fingerprint(), Dev: true, Now: w.Now})
	w.Must(err)
}

func (w *World) openAudit(ctx context.Context) {
	w.T.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "audit.test/node")
	w.Must(err)
	signer, err := note.NewSigner(skey)
	w.Must(err)
	w.LogKey, err = note.NewVerifier(vkey)
	w.Must(err)
	w.Audit, err = audit.Open(ctx, audit.Config{Dir: w.AuditDir, Now: w.Now, Signer: signer, Verifier: w.LogKey})
	w.Must(err)
	ctx, stop := context.WithCancel(ctx)
	drained := make(chan struct{})
	go func() { defer close(drained); _ = w.Audit.Drain(ctx, w.Store.Outbox()) }() // ends with its context
	w.T.Cleanup(func() {
		stop()
		<-drained
		_ = w.Audit.Close(context.WithoutCancel(ctx))
	})
}

func (w *World) openEngines(ctx context.Context) {
	w.T.Helper()
	mac := secret.Random(32)
	var err error
	w.Directory, err = directory.New(ctx, directory.Config{
		Store: w.Store.Directory(), Env: Env, Applications: []string{"docs"}, MaxToken: sts.MaxTokenLife, Now: w.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return mac, nil },
	})
	w.Must(err)
	w.Authz, err = authz.New(ctx, authz.Config{
		Store: w.Store.Tuples(), Archive: w.Store.Archive(), MAC: secret.Random(32), Epoch: 1, Now: w.Now,
		Application: func(id relation.StoreID) (string, bool) {
			g, err := w.Directory.GraphByID(id)
			if err != nil {
				return "", false
			}
			if g.Kind == directory.FreeGraph {
				return authz.FreeApplication(id), true
			}
			return g.Application, true // a system store's is authz.System
		},
	})
	w.Must(err)
	w.Releases, err = release.Open(ctx, release.Config{Store: w.Store.Releases(), Engine: w.Authz, Now: w.Now})
	w.Must(err)
	w.Store.Subscribe(w.apply)
	w.Platform, err = w.Directory.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	w.Must(err)
	w.Must(w.Keyring.CreateKEK(ctx, tenant.Platform, w.Platform.System))
	w.signer, err = sts.OpenKeys(ctx, sts.KeysConfig{Store: w.Store.Tokens(), Sealer: w.Keyring, Platform: w.Platform.System, Now: w.Now})
	w.Must(err)
	w.Issuer, err = sts.New(ctx, sts.Config{Issuer: Issuer, Dev: true, Directory: w.Directory, Keys: w.signer, Audit: w.Audit, Now: w.Now})
	w.Must(err)
	w.Signer, err = sts.NewAssertionSigner(ctx, sts.AssertionConfig{Issuer: Issuer, Store: w.Store.Tokens(), Platform: w.Platform.System, Now: w.Now})
	w.Must(err)
	w.Authn = authn.New(authn.Config{
		Env: Env, Issuer: Issuer, Keys: w.signer, Directory: w.Directory, Now: w.Now,
		Fetch: func(context.Context, string, int64) ([]byte, error) { return nil, io.EOF }, // no foreign login is known
	})
	w.Guard = guard.New(guard.Config{Audit: w.Audit, Authn: w.Authn, Authz: w.Authz, Directory: w.Directory, Assertions: w.Signer, Now: w.Now})
}

// apply hands a change to the engines, as a node does.
func (w *World) apply(b store.Batch) {
	for _, e := range b.Entries {
		err := errors.Join(w.Directory.Apply(e.Kind, e.Key, e.Payload), w.Authz.ApplyEntry(e.Kind, e.Key, e.Payload), w.Releases.Apply(e.Kind, e.Key, e.Payload), w.Keyring.Apply(e.Kind, e.Key))
		if w.signer != nil {
			err = errors.Join(err, w.signer.Apply(e.Kind, e.Key, e.Payload))
		}
		if err != nil {
			w.T.Errorf("a change cannot be taken over: %v", err)
		}
	}
	w.Authz.Apply(b.Store, b.Rev, b.Writes, b.Deletes)
	w.Audit.Wake()
}

func (w *World) populate(ctx context.Context) {
	w.T.Helper()
	by := ledger.Event{Subject: "system"}
	var err error
	w.Acme, err = w.Directory.CreateTenant(ctx, by, "acme")
	w.Must(err)
	w.Globex, err = w.Directory.CreateTenant(ctx, by, "globex")
	w.Must(err)
	_, err = w.Authz.Enforce(ctx, w.change(w.Platform.System, "release.activate", tenant.Platform), "docs", authz.Draft{Model: Docs})
	w.Must(err)
	for _, t := range []*directory.Tenant{w.Platform, w.Acme, w.Globex} {
		for _, role := range []string{"operator", "administrator", "access_manager", "policy_author", "approver", "auditor", "nobody"} {
			if role == "operator" && t != w.Platform {
				continue
			}
			u, err := w.Directory.CreateUser(ctx, by, t.Tenant, role, "", "")
			w.Must(err)
			if role != "nobody" {
				w.Must(w.Directory.AssignRole(ctx, by, t.Tenant, u.ID, role))
			}
			w.people[role+"@"+t.Name] = person{t.Tenant, principal.Subject{Kind: principal.User, ID: u.ID}}
		}
		s, err := w.Directory.CreateService(ctx, by, t.Tenant, "caller")
		w.Must(err)
		w.people["caller@"+t.Name] = person{t.Tenant, principal.Subject{Kind: principal.Service, ID: s.ID}}
	}
}

func (w *World) change(s relation.StoreID, action string, of tenant.ID) ledger.Change {
	return ledger.Change{Store: s, Event: ledger.Event{
		ID: tenant.RandomID(), Time: w.Now(), Class: ledger.Mutation, Action: action, Subject: "system", Tenant: of,
	}}
}
