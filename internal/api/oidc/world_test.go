package oidc_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// clock is the time of a world.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// journal keeps the events that sts states. It can be full, like a disk.
type journal struct {
	mu     sync.Mutex
	full   bool
	events []ledger.Event
}

// Append implements sts.Audit.
func (j *journal) Append(_ context.Context, ev ledger.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.full {
		return fault.New(fault.Unavailable, "the disk is full")
	}
	j.events = append(j.events, ev)
	return nil
}

// Reject implements sts.Audit.
func (j *journal) Reject(ev ledger.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, ev)
}

// take returns the events since the last take.
func (j *journal) take() []ledger.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer func() { j.events = nil }()
	return j.events
}

func (j *journal) fill(full bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.full = full
}

// world is a whole installation of the token service, with real parts: SQLite,
// the keyring under a sealed root key, the directory, TLS.
type world struct {
	t       testing.TB
	clock   *clock
	store   *sqlite.Store
	dir     *directory.Directory
	keys    *sts.Keys
	sts     *sts.Issuer
	journal *journal
	gateway *sts.AssertionSigner
	server  *httptest.Server
	proto   *oidc.Server
	issuer  string
	acme    *directory.Tenant
	globex  *directory.Tenant
	tokens  sts.Store
	system  *directory.Tenant
	seal    *kms.Keyring

	mu   sync.Mutex
	priv map[string]jose.PrivateKey // by client id or "user:<id>"
}

const env = "test"

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, clock: &clock{at: time.Now().UTC().Truncate(time.Second)}, journal: &journal{}, priv: map[string]jose.PrivateKey{}}
	dir := t.TempDir()
	root, err := local.Create(filepath.Join(dir, "root"), secret.New([]byte("passphrase")), local.Config{Env: env, Dev: true, WorkFactor: 1})
	must(t, err)
	w.store, err = sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(dir, "bulwark.db"), Now: w.clock.now})
	must(t, err)
	t.Cleanup(func() { _ = w.store.Close() })

	// The server's address is the issuer, so it comes first; it is answered by
	// whatever proto is by then.
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.proto.ServeHTTP(rw, r) }))
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.issuer = w.server.URL
	must(t, w.store.CreateInstance(ctx, store.Instance{ID: tenant.RandomID(), Env: env, Issuer: w.issuer, Epoch: 1, RootFingerprint: root.Fingerprint(), Dev: true, Created: w.clock.now()}))

	mac := secret.Random(32)
	w.dir, err = directory.New(ctx, directory.Config{
		Store: w.store.Directory(), Env: env, Applications: []string{"docs"}, MaxToken: sts.MaxTokenLife, Now: w.clock.now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return mac, nil },
	})
	must(t, err)
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := w.dir.Apply(e.Kind, e.Key, e.Payload); err != nil {
				t.Errorf("directory: %v", err)
			}
		}
	})
	platform, err := w.dir.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	must(t, err)
	w.system = platform
	w.seal, err = kms.Open(ctx, kms.Config{Root: root, Store: w.store.Keys(), Env: env, Fingerprint: root.Fingerprint(), Dev: true, Now: w.clock.now})
	must(t, err)
	must(t, w.seal.CreateKEK(ctx, tenant.Platform, platform.System))

	w.tokens = w.store.Tokens()
	w.keys, err = sts.OpenKeys(ctx, sts.KeysConfig{Store: w.tokens, Sealer: w.seal, Platform: platform.System, Now: w.clock.now})
	must(t, err)
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := w.keys.Apply(e.Kind, e.Key, e.Payload); err != nil {
				t.Errorf("keys: %v", err)
			}
		}
	})
	w.start()
	w.gateway, err = sts.NewAssertionSigner(ctx, sts.AssertionConfig{Issuer: w.issuer, Store: w.tokens, Platform: platform.System, Now: w.clock.now})
	must(t, err)
	w.acme, err = w.dir.CreateTenant(ctx, ledger.Event{Subject: "system"}, "acme")
	must(t, err)
	w.globex, err = w.dir.CreateTenant(ctx, ledger.Event{Subject: "system"}, "globex")
	must(t, err)
	return w
}

// start makes an issuer and its protocol, as a process does when it begins.
func (w *world) start() {
	w.t.Helper()
	var err error
	w.sts, err = sts.New(context.Background(), sts.Config{
		Issuer: w.issuer, Dev: true, Directory: w.dir, Keys: w.keys, Audit: w.journal, Now: w.clock.now,
	})
	must(w.t, err)
	w.proto, err = oidc.New(oidc.Config{Issuer: w.issuer, STS: w.sts, Keys: w.keys, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil))})
	must(w.t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// service makes a service with a key.
func (w *world) service(owner tenant.ID, name string) *directory.Service {
	w.t.Helper()
	s, err := w.dir.CreateService(context.Background(), ledger.Event{Subject: "system"}, owner, name)
	must(w.t, err)
	w.enrol(owner, principal.Subject{Kind: principal.Service, ID: s.ID}, s.ID)
	return s
}

// user makes a person with a key.
func (w *world) user(owner tenant.ID, name string) principal.Subject {
	w.t.Helper()
	u, err := w.dir.CreateUser(context.Background(), ledger.Event{Subject: "system"}, owner, name, "", "")
	must(w.t, err)
	s := principal.Subject{Kind: principal.User, ID: u.ID}
	w.enrol(owner, s, s.String())
	return s
}

func (w *world) enrol(owner tenant.ID, s principal.Subject, id string) {
	w.t.Helper()
	key, err := jose.GenerateES256()
	must(w.t, err)
	public, err := key.Public().MarshalJSON()
	must(w.t, err)
	must(w.t, w.dir.AddClientKey(context.Background(), ledger.Event{Subject: "system"}, owner, s, key.KID(), public, time.Time{}))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.priv[id] = key
}

func (w *world) key(id string) jose.PrivateKey {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.priv[id]
}

func (w *world) grant(owner tenant.ID, service, audience string, direct bool, scopes ...string) {
	w.t.Helper()
	must(w.t, w.dir.GrantAudience(context.Background(), ledger.Event{Subject: "system"}, owner, service, audience, scopes, direct))
}

func (w *world) install(t tenant.ID, service string, scopes ...string) {
	w.t.Helper()
	_, err := w.dir.Install(context.Background(), ledger.Event{Subject: "system"}, t, service, scopes, time.Time{})
	must(w.t, err)
}

// claims of a good client assertion, to be spoilt.
func (w *world) claims(id string) map[string]any {
	now := w.clock.now().Unix()
	return map[string]any{"iss": id, "sub": id, "aud": w.issuer, "iat": now, "exp": now + 60, "jti": tenant.RandomID()}
}

func (w *world) sign(id, typ string, claims map[string]any) string {
	w.t.Helper()
	s, err := jose.Sign(w.key(id), typ, claims)
	must(w.t, err)
	return s
}

// as returns the parameters of a client that authenticates.
func (w *world) as(id string, more ...string) url.Values {
	v := url.Values{"client_assertion_type": {sts.ClientAssertionType}, "client_assertion": {w.sign(id, "JWT", w.claims(id))}}
	for i := 0; i+1 < len(more); i += 2 {
		v.Add(more[i], more[i+1])
	}
	return v
}

// answer of the protocol.
type answer struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
}

func (a answer) text(name string) string { s, _ := a.body[name].(string); return s }

func (w *world) post(path string, v url.Values) answer {
	w.t.Helper()
	return w.send(path, "application/x-www-form-urlencoded", v.Encode(), nil)
}

func (w *world) send(path, contentType, body string, header http.Header) answer {
	w.t.Helper()
	r, err := http.NewRequest(http.MethodPost, w.issuer+path, strings.NewReader(body))
	must(w.t, err)
	for name, v := range header {
		r.Header[name] = v
	}
	r.Header.Set("Content-Type", contentType)
	return w.do(r)
}

func (w *world) get(path string) answer {
	w.t.Helper()
	r, err := http.NewRequest(http.MethodGet, w.issuer+path, nil)
	must(w.t, err)
	return w.do(r)
}

func (w *world) do(r *http.Request) answer {
	w.t.Helper()
	res, err := w.server.Client().Do(r)
	must(w.t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	must(w.t, err)
	a := answer{status: res.StatusCode, header: res.Header, raw: string(raw)}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a.body); err != nil {
			w.t.Fatalf("not JSON: %q", raw)
		}
	}
	return a
}

// token asks for a token and returns it.
func (w *world) token(v url.Values) answer {
	w.t.Helper()
	a := w.post(oidc.PathToken, v)
	if a.status != http.StatusOK {
		w.t.Fatalf("no token: %d %s", a.status, a.raw)
	}
	return a
}

// read verifies a token with the published key set and returns its claims.
func (w *world) read(token string) map[string]any {
	w.t.Helper()
	set, err := jose.ParseSet([]byte(w.get(oidc.PathJWKS).raw))
	must(w.t, err)
	u, err := jose.Peek(token)
	must(w.t, err)
	key, ok := set.Key(u.Header.KID)
	if !ok || !u.Header.Is(sts.TypAccess) {
		w.t.Fatalf("the token's key is not published, or its typ is %q", u.Header.Typ)
	}
	c, err := jose.Verify(token, key, []jose.Alg{jose.ES256})
	must(w.t, err)
	var m map[string]any
	must(w.t, json.Unmarshal(c.Raw(), &m))
	return m
}

// refused checks that a request was refused as it must be: status, code, one
// event of the class with the reason, no token, nothing written.
func (w *world) refused(t *testing.T, path string, v url.Values, status int, code string, class ledger.Class, reason string) {
	t.Helper()
	w.journal.take()
	before := w.store.Counters().Mutations
	a := w.post(path, v)
	w.check(t, a, before, status, code, class, reason)
}

func (w *world) check(t *testing.T, a answer, before uint64, status int, code string, class ledger.Class, reason string) {
	t.Helper()
	if a.status != status || a.text("error") != code {
		t.Errorf("got %d %s, want %d %s", a.status, a.raw, status, code)
	}
	if _, ok := a.body["access_token"]; ok || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("a refusal with headers %v: %s", a.header, a.raw)
	}
	if got := w.store.Counters().Mutations; got != before {
		t.Errorf("the refusal wrote %d changes", got-before)
	}
	events := w.journal.take()
	if len(events) != 1 || events[0].Class != class || events[0].Reason != reason || events[0].Decision != "deny" {
		t.Errorf("events %+v, want one of class %d for %q", events, class, reason)
		return
	}
	if ev := events[0]; ev.RequestID == "" || (class == ledger.Reject && (ev.Tenant != tenant.Platform || ev.Subject != "" || ev.Source != "127.0.0.0/24")) {
		t.Errorf("event %+v", ev)
	}
}
