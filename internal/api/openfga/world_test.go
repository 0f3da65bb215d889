package openfga_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/api/openfga"
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
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

const env = "test"

// docs is the application's model in these tests.
const docs = `model
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
`

// person is who asks, with the role that gives the right to.
type person struct {
	tenant tenant.ID
	who    principal.Subject
}

// world is the check API over real engines on a real store, behind real TLS.
type world struct {
	t      testing.TB
	dir    string
	store  *sqlite.Store
	direct *directory.Directory
	authz  *authz.Engine
	issuer *sts.Issuer
	log    *audit.Log
	server *httptest.Server

	platform, acme, globex *directory.Tenant
	people                 map[string]person // "administrator@acme", "nobody@acme"
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var clockMu sync.Mutex

// ticking returns a clock that never shows the same time twice, so that what
// comes later is later.
func ticking() func() time.Time {
	last := time.Now().UTC()
	return func() time.Time {
		clockMu.Lock()
		defer clockMu.Unlock()
		last = last.Add(time.Microsecond)
		return last
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, dir: t.TempDir(), people: map[string]person{}}
	now := ticking()
	root, err := local.Create(filepath.Join(w.dir, "root"), secret.New([]byte("passphrase")), local.Config{Env: env, Dev: true, WorkFactor: 1})
	must(t, err)
	w.store, err = sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(w.dir, "bulwark.db"), Now: now})
	must(t, err)
	const issuer = "https://issuer.test"
	must(t, w.store.CreateInstance(ctx, store.Instance{ID: tenant.RandomID(), Env: env, Issuer: issuer, Epoch: 1, RootFingerprint: root.Fingerprint(), Dev: true, Created: now()}))

	skey, vkey, err := note.GenerateKey(rand.Reader, "audit.test/node")
	must(t, err)
	signer, err := note.NewSigner(skey)
	must(t, err)
	verifier, err := note.NewVerifier(vkey)
	must(t, err)
	w.log, err = audit.Open(ctx, audit.Config{Dir: w.auditDir(), Now: now, Signer: signer, Verifier: verifier})
	must(t, err)
	drained := make(chan struct{})
	drainCtx, drain := context.WithCancel(ctx)
	go func() { defer close(drained); _ = w.log.Drain(drainCtx, w.store.Outbox()) }()
	t.Cleanup(func() {
		drain()
		<-drained
		_ = w.log.Close(ctx)
		_ = w.store.Close()
	})

	mac := secret.Random(32)
	w.direct, err = directory.New(ctx, directory.Config{
		Store: w.store.Directory(), Env: env, Applications: []string{"docs"}, MaxToken: sts.MaxTokenLife, Now: now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return mac, nil },
	})
	must(t, err)
	w.authz, err = authz.New(ctx, authz.Config{
		Store: w.store.Tuples(), MAC: secret.Random(32), Epoch: 1, Now: now,
		Application: func(id relation.StoreID) (string, bool) {
			g, err := w.direct.GraphByID(id)
			if err != nil {
				return "", false
			}
			return g.Application, true
		},
	})
	must(t, err)
	var keys *sts.Keys
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			must(t, w.direct.Apply(e.Kind, e.Key, e.Payload))
			if keys != nil {
				must(t, keys.Apply(e.Kind, e.Key, e.Payload))
			}
			if e.Kind == "model" {
				var rec authz.ModelRecord
				must(t, json.Unmarshal(e.Payload, &rec))
				must(t, w.authz.ApplyModel(rec))
			}
		}
		w.authz.Apply(b.Store, b.Rev, b.Writes, b.Deletes)
		w.log.Wake()
	})
	w.platform, err = w.direct.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	must(t, err)
	seal, err := kms.Open(ctx, kms.Config{Root: root, Store: w.store.Keys(), Env: env, Fingerprint: root.Fingerprint(), Dev: true, Now: now})
	must(t, err)
	must(t, seal.CreateKEK(ctx, tenant.Platform, w.platform.System))
	keys, err = sts.OpenKeys(ctx, sts.KeysConfig{Store: w.store.Tokens(), Sealer: seal, Platform: w.platform.System, Now: now})
	must(t, err)
	w.issuer, err = sts.New(ctx, sts.Config{Issuer: issuer, Dev: true, Directory: w.direct, Keys: keys, Audit: w.log, Now: now})
	must(t, err)
	who := authn.New(authn.Config{
		Env: env, Issuer: issuer, Keys: keys, Directory: w.direct, Now: now,
		Fetch: func(context.Context, string, int64) ([]byte, error) { return nil, io.EOF },
	})
	g := guard.New(guard.Config{Audit: w.log, Authn: who, Authz: w.authz, Directory: w.direct, Now: now})
	w.server = httptest.NewTLSServer(openfga.New(openfga.Config{
		Guard: g, Directory: w.direct, Authz: w.authz, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: now,
	}))
	t.Cleanup(w.server.Close)
	w.populate(ctx)
	return w
}

func (w *world) auditDir() string { return filepath.Join(w.dir, "audit") }

// populate makes two tenants with one person for each admin role, and the
// platform with an operator and a policy author.
func (w *world) populate(ctx context.Context) {
	w.t.Helper()
	by := ledger.Event{Subject: "system"}
	var err error
	w.acme, err = w.direct.CreateTenant(ctx, by, "acme")
	must(w.t, err)
	w.globex, err = w.direct.CreateTenant(ctx, by, "globex")
	must(w.t, err)
	_, _, err = w.authz.PublishModel(ctx, ledger.Change{Store: w.platform.System, Event: ledger.Event{
		ID: tenant.RandomID(), Class: ledger.Mutation, Action: "model.publish", Subject: "system", Tenant: tenant.Platform,
	}}, "docs", docs)
	must(w.t, err)
	for _, t := range []*directory.Tenant{w.platform, w.acme, w.globex} {
		for _, role := range []string{"operator", "administrator", "access_manager", "auditor", ""} {
			if role == "operator" && t != w.platform {
				continue
			}
			name := role
			if role == "" {
				name = "nobody"
			}
			u, err := w.direct.CreateUser(ctx, by, t.Tenant, name, "", "")
			must(w.t, err)
			if role != "" {
				must(w.t, w.direct.AssignRole(ctx, by, t.Tenant, u.ID, role))
			}
			w.people[name+"@"+t.Name] = person{t.Tenant, principal.Subject{Kind: principal.User, ID: u.ID}}
		}
		s, err := w.direct.CreateService(ctx, by, t.Tenant, "shop")
		must(w.t, err)
		w.people["shop@"+t.Name] = person{t.Tenant, principal.Subject{Kind: principal.Service, ID: s.ID}}
	}
}

// token returns a token of the person for the audience.
func (w *world) token(who, audience string) string {
	w.t.Helper()
	p, ok := w.people[who]
	if !ok {
		w.t.Fatalf("nobody is called %s", who)
	}
	t, err := w.issuer.Mint(context.Background(), sts.MintRequest{Tenant: p.tenant, Subject: p.who, Audience: audience})
	must(w.t, err)
	return t.Value
}

// id returns the person's subject.
func (w *world) id(who string) string { return w.people[who].who.String() }

// changes counts the revisions of all stores: zero difference is no change.
func (w *world) changes() uint64 { return w.store.Counters().Mutations }

// events waits until the log holds an event that fits, and returns all that do.
func (w *world) events(f audit.Filter, enough func([]ledger.Event) bool) []ledger.Event {
	w.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		var found []ledger.Event
		err := audit.Query(context.Background(), w.auditDir(), audit.QueryOptions{Filter: f}, func(ev ledger.Stored) bool {
			found = append(found, ev.Event)
			return true
		})
		must(w.t, err)
		if enough(found) {
			return found
		}
		if time.Now().After(end) {
			w.t.Fatalf("the log never held what was waited for; %d events fit %+v", len(found), f)
		}
	}
}

// one waits for the single event of a request.
func (w *world) one(request string) ledger.Event {
	w.t.Helper()
	return w.events(audit.Filter{RequestID: request}, func(all []ledger.Event) bool { return len(all) == 1 })[0]
}

// reply is an answer as it came.
type reply struct {
	status int
	header http.Header
	body   string
}

// send makes a raw request.
func (w *world) send(method, path, body string, header http.Header) reply {
	w.t.Helper()
	r, err := http.NewRequest(method, w.server.URL+path, nil)
	must(w.t, err)
	if body != "" {
		r.Body = io.NopCloser(strings.NewReader(body))
		r.ContentLength = int64(len(body))
		r.Header.Set("Content-Type", "application/json")
	}
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := w.server.Client().Do(r)
	must(w.t, err)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	must(w.t, err)
	return reply{resp.StatusCode, resp.Header, string(raw)}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
