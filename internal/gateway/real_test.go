package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authn"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/route"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

const (
	testIssuer = "https://bulwark.test"
	testModel  = `model
  schema 1.1
type user
type document
  relations
    define viewer: [user]
    define editor: [user]
    define can_view: viewer or editor
    define can_edit: editor
`
)

// published are the token-signing keys of our issuer.
type published struct{ keys sync.Map }

func (p *published) PublicKey(kid string) (jose.PublicKey, bool) {
	k, ok := p.keys.Load(kid)
	if !ok {
		return jose.PublicKey{}, false
	}
	return k.(jose.PublicKey), true
}

// world is a gateway whose guard is the real one, over the real engines.
type world struct {
	*house
	ahead     atomic.Int64 // how far the clock is ahead
	store     *sqlite.Store
	directory *directory.Directory
	authz     *authz.Engine
	audit     *audit.Log
	auditDir  string
	signer    *sts.AssertionSigner
	keys      published
	key       jose.PrivateKey
	tenants   map[string]*directory.Tenant
	users     map[string]string // "alice@acme" to the id
	service   string
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// must ends the test on an error.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{tenants: map[string]*directory.Tenant{}, users: map[string]string{}}
	ctx, dir := context.Background(), t.TempDir()
	w.store = must[*sqlite.Store](t)(sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(dir, "test.db"), Now: w.now}))
	t.Cleanup(func() { _ = w.store.Close() })
	if err := w.store.CreateInstance(ctx, store.Instance{
		ID: tenant.RandomID(), Env: "test", Issuer: testIssuer, Epoch: 1, RootFingerprint: "none", Dev: true, Created: w.now(),
	}); err != nil {
		t.Fatal(err)
	}
	w.directory = must[*directory.Directory](t)(directory.New(ctx, directory.Config{
		Store: w.store.Directory(), Env: "test", Dev: true, Applications: []string{"docs"}, MaxToken: 5 * time.Minute, Now: w.now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.Random(32), nil },
	}))
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := w.directory.Apply(e.Kind, e.Key, e.Payload); err != nil {
				t.Error(err)
			}
		}
		if w.authz != nil {
			w.authz.Apply(b.Store, b.Rev, b.Writes, b.Deletes)
		}
	})
	by := ledger.Event{Subject: "system"}
	must[*directory.Tenant](t)(w.directory.CreatePlatform(ctx, by))
	w.authz = must[*authz.Engine](t)(authz.New(ctx, authz.Config{
		Store: w.store.Tuples(), Archive: w.store.Archive(), MAC: secret.Random(32), Epoch: 1, Now: w.now,
		Application: func(id relation.StoreID) (string, bool) {
			g, err := w.directory.GraphByID(id)
			switch {
			case err != nil:
				return "", false
			case g.Kind == directory.SystemGraph:
				return authz.System, true
			}
			return g.Application, true
		},
	}))
	skey, vkey, err := note.GenerateKey(rand.Reader, "test/log")
	if err != nil {
		t.Fatal(err)
	}
	w.auditDir = filepath.Join(dir, "audit")
	w.audit = must[*audit.Log](t)(audit.Open(ctx, audit.Config{
		Dir: w.auditDir, Now: w.now, Signer: must[note.Signer](t)(note.NewSigner(skey)), Verifier: must[note.Verifier](t)(note.NewVerifier(vkey)),
	}))
	t.Cleanup(func() { _ = w.audit.Close(ctx) })
	w.people(t)
	platform := must[relation.StoreID](t)(w.directory.SystemGraph(tenant.Platform))
	w.signer = must[*sts.AssertionSigner](t)(sts.NewAssertionSigner(ctx, sts.AssertionConfig{Issuer: testIssuer, Store: w.store.Tokens(), Platform: platform, Now: w.now}))
	w.key = must[jose.PrivateKey](t)(jose.GenerateES256())
	w.keys.keys.Store(w.key.KID(), w.key.Public())
	g := guard.New(guard.Config{
		Audit: w.audit, Authz: w.authz, Directory: w.directory, Assertions: w.signer, Now: w.now,
		Authn: authn.New(authn.Config{Env: "test", Issuer: testIssuer, Keys: &w.keys, Directory: w.directory, Now: w.now,
			Fetch: func(context.Context, string, int64) ([]byte, error) { return nil, io.EOF }}),
	})
	w.house = build(t, nil, func(c *Config) {
		c.Guard, c.Recorder, c.Audience, c.Now = g, w.audit, w.directory.Audience("gateway"), w.now
		c.Logger = slog.New(slog.DiscardHandler)
	})
	need := func(r string) *route.Requirement {
		return &route.Requirement{Application: "docs", Relation: r, Object: "document:{id}", Visible: "can_view"}
	}
	if err := w.gateway.Load(ctx, []route.Route{
		{ID: "read", Path: "/documents/{id}", Methods: []string{"GET"}, Upstream: "notes", Require: need("can_view")},
		{ID: "write", Path: "/documents/{id}", Methods: []string{"PUT"}, Upstream: "notes", Require: need("can_edit")},
		{ID: "explained", Path: "/explained/{id}", Methods: []string{"GET"}, Upstream: "notes", Require: need("can_view"), Explain: true},
		{ID: "whoami", Path: "/whoami", Methods: []string{"GET"}, Upstream: "notes"},
	}, []Upstream{{Name: "notes", URL: w.upstream.URL, Service: w.service}}); err != nil {
		t.Fatal(err)
	}
	return w
}

// people makes the cast of DESIGN section 5, as far as these tests need it.
func (w *world) people(t testing.TB) {
	ctx, by := context.Background(), ledger.Event{Subject: "system"}
	for _, name := range []string{"acme", "globex"} {
		w.tenants[name] = must[*directory.Tenant](t)(w.directory.CreateTenant(ctx, by, name))
	}
	for _, who := range []string{"alice@acme", "carol@acme", "dave@acme", "mallory@globex"} {
		name, of, _ := strings.Cut(who, "@")
		w.users[who] = must[*directory.User](t)(w.directory.CreateUser(ctx, by, w.tenants[of].Tenant, name, "", "")).ID
	}
	w.service = must[*directory.Service](t)(w.directory.CreateService(ctx, by, tenant.Platform, "notes")).ID
	platform := must[relation.StoreID](t)(w.directory.SystemGraph(tenant.Platform))
	graph := must[relation.StoreID](t)(w.directory.DefaultGraph(w.tenants["acme"].Tenant, "docs"))
	change := func(s relation.StoreID, action string, of tenant.ID) ledger.Change {
		return ledger.Change{Store: s, Event: ledger.Event{ID: tenant.RandomID(), Time: w.now(), Class: ledger.Mutation, Action: action, Tenant: of, Subject: "system"}}
	}
	if _, err := w.authz.Enforce(ctx, change(platform, "release.activate", tenant.Platform), "docs", authz.Draft{Model: testModel}); err != nil {
		t.Fatal(err)
	}
	must[relation.Revision](t)(w.authz.Write(ctx, change(graph, "tuple.write", w.tenants["acme"].Tenant), "", authz.Write{Writes: []relation.Tuple{
		{Object: "document:roadmap", Relation: "editor", Subject: "user:" + w.users["alice@acme"]},
		{Object: "document:roadmap", Relation: "viewer", Subject: "user:" + w.users["carol@acme"]},
	}}))
}

// token is a good access token for the gateway, with changes.
func (w *world) token(who string, change map[string]any) string {
	w.t.Helper()
	_, of, _ := strings.Cut(who, "@")
	id := tenant.RandomID()
	c := map[string]any{
		"iss": testIssuer, "sub": "user:" + w.users[who], "aud": w.directory.Audience("gateway"), "tenant": w.tenants[of].Tenant.String(),
		"client_id": w.users[who], "scope": "read", "jti": id, "root_jti": id, "iat": w.now().Unix(), "exp": w.now().Add(5 * time.Minute).Unix(),
	}
	for k, v := range change {
		c[k] = v
	}
	return must[string](w.t)(jose.Sign(w.key, "at+jwt", c))
}

// ask makes one request with the tokens and returns the only answer.
func (w *world) call(method, target string, tokens ...string) answer {
	w.t.Helper()
	w.directory.Confirm()
	lines := method + " " + target + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n"
	for _, token := range tokens {
		lines += "Authorization: Bearer " + token + "\r\n"
	}
	out := w.send(lines + "\r\n")
	if len(out) != 1 {
		w.t.Fatalf("%s %s: %+v", method, target, out)
	}
	for _, token := range tokens {
		if strings.Contains(out[0].Body, token) {
			w.t.Errorf("%s %s shows the token", method, target)
		}
	}
	return out[0]
}

// last returns what the upstream got last, and what its assertion states,
// verified with the keys that are published.
func (w *world) last() (got, map[string]any) {
	w.t.Helper()
	reqs := w.upstream.requests()
	r := reqs[len(reqs)-1]
	token := r.Header.Get("Bulwark-Assertion")
	u := must[jose.Unverified](w.t)(jose.Peek(token))
	for _, row := range must[[]sts.SigningKey](w.t)(w.store.Tokens().LoadSigningKeys(context.Background())) {
		if row.KID != u.Header.KID || row.Purpose != sts.PurposeAssertion {
			continue
		}
		key := must[jose.PublicKey](w.t)(jose.ParsePublicKey(row.Public))
		c := must[jose.Claims](w.t)(jose.Verify(token, key, []jose.Alg{jose.ES256}))
		claims := map[string]any{}
		if err := json.Unmarshal(c.Raw(), &claims); err != nil {
			w.t.Fatal(err)
		}
		claims["kid"] = u.Header.KID
		return r, claims
	}
	w.t.Fatalf("no published key verifies %s", token)
	return r, nil
}

// The whole way with the real guard: who may, who may not, and who may not know.
func TestRealGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if a := w.call("GET", "/documents/roadmap", w.token("alice@acme", nil)); a.Status != 200 {
		t.Fatalf("%+v", a)
	}
	r, c := w.last()
	for name, want := range map[string]any{
		"iss": testIssuer, "aud": w.directory.ServiceAudience(w.service), "sub": "user:" + w.users["alice@acme"], "tenant": w.tenants["acme"].Tenant.String(),
		"htm": "GET", "path": "/documents/roadmap", "route": "read", "relation": "can_view", "object": "document:roadmap",
		"rid": r.Header.Get("Bulwark-Request-Id"), "scope": "read",
	} {
		if c[name] != want {
			t.Errorf("the assertion's %s is %v, want %v", name, c[name], want)
		}
	}
	if r.Header.Get("Bulwark-Tenant") != c["tenant"] || r.Header.Get("Bulwark-Subject") != c["sub"] || r.Header["Bulwark-Actor"] != nil || r.Header["Authorization"] != nil {
		t.Errorf("the upstream got %v", r.Header)
	}
	assertion := r.Header.Get("Bulwark-Assertion")
	n := len(w.upstream.requests())
	for _, c := range []struct {
		what, method, target string
		status               int
		tokens               []string
	}{
		{"carol may read only", "PUT", "/documents/roadmap", 403, []string{w.token("carol@acme", nil)}},
		{"dave", "GET", "/documents/roadmap", 404, []string{w.token("dave@acme", nil)}},
		{"mallory", "GET", "/documents/roadmap", 404, []string{w.token("mallory@globex", nil)}},
		{"absent", "GET", "/documents/none", 404, []string{w.token("alice@acme", nil)}},
		{"no object", "GET", "/documents/a%20b", 404, []string{w.token("alice@acme", nil)}},
		{"no token", "GET", "/documents/roadmap", 401, nil},
		{"two tokens", "GET", "/documents/roadmap", 401, []string{w.token("alice@acme", nil), w.token("alice@acme", nil)}},
		{"another audience", "GET", "/documents/roadmap", 401, []string{w.token("alice@acme", map[string]any{"aud": "urn:bulwark:test:admin"})}},
		{"expired", "GET", "/documents/roadmap", 401, []string{w.token("alice@acme", map[string]any{"exp": w.now().Add(-2 * time.Minute).Unix()})}},
		{"the upstream's assertion", "GET", "/documents/roadmap", 401, []string{assertion}},
	} {
		a := w.call(c.method, c.target, c.tokens...)
		if a.Status != c.status || (a.Status == 403) != strings.Contains(a.Body, "decision_id") {
			t.Errorf("%s: %+v", c.what, a)
		}
	}
	if got := len(w.upstream.requests()); got != n {
		t.Errorf("%d refused requests reached the upstream", got-n)
	}
	if a := w.call("GET", "/open/../x"); a.Status != 400 {
		t.Errorf("%+v", a)
	}
	// What cannot be recorded does not happen.
	if err := w.audit.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if a := w.call("GET", "/documents/roadmap", w.token("alice@acme", nil)); a.Status != 503 || len(w.upstream.requests()) != n {
		t.Errorf("without an audit log: %+v", a)
	}
	w.recorded()
}

// recorded compares the log with what was answered in TestRealGuard.
func (w *world) recorded() {
	w.t.Helper()
	count := map[string]int{}
	err := audit.Query(context.Background(), w.auditDir, audit.QueryOptions{Filter: audit.Filter{Action: "request"}}, func(s ledger.Stored) bool {
		e := s.Event
		if (e.Class == ledger.Reject) != (e.Subject == "") || e.Class != ledger.Reject && e.RequestID == "" {
			w.t.Errorf("%+v", e)
		}
		count[fmt.Sprintf("%d %s %s %d", e.Class, e.Decision, e.Reason, e.Status)] += int(max(e.Count, 1))
		return true
	})
	want := map[string]int{
		"6 allow relation 200": 1, "4 deny no_relation 403": 1, "4 deny not_visible 404": 3, "4 deny decision_failed 404": 1,
		"7 deny missing 401": 1, "7 deny multiple_credentials 401": 1, "7 deny audience 401": 1, "7 deny expired 401": 1, "7 deny unknown_key 401": 1,
		"7 deny bad_path 400": 1,
	}
	if diff := cmp.Diff(want, count); diff != "" || err != nil {
		w.t.Error(err, diff)
	}
}

// Item 31: a credential, a verification or an assertion that is remembered
// from one route says nothing about another.
func TestRealCachesAcrossRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	token := w.token("carol@acme", nil)
	seen := map[string]bool{}
	for range 2 { // the second time from the caches
		for _, c := range []struct {
			method, target, route string
			status                int
		}{
			{"GET", "/documents/roadmap", "read", 200}, {"PUT", "/documents/roadmap", "write", 403},
			{"GET", "/documents/other", "read", 404}, {"GET", "/whoami", "whoami", 200},
		} {
			if a := w.call(c.method, c.target, token); a.Status != c.status {
				t.Errorf("%s %s: %+v", c.method, c.target, a)
			}
			if c.status != 200 {
				continue
			}
			r, claims := w.last()
			if claims["route"] != c.route || claims["path"] != c.target || claims["htm"] != c.method {
				t.Errorf("%s %s is asserted as %v", c.method, c.target, claims)
			}
			seen[r.Header.Get("Bulwark-Assertion")] = true
		}
	}
	if len(seen) != 2 {
		t.Errorf("%d assertions for two equal pairs of requests", len(seen))
	}
	// Another person on the same route, another credential of the same person.
	for _, again := range []string{w.token("alice@acme", nil), w.token("carol@acme", nil)} {
		w.call("GET", "/documents/roadmap", again)
		r, _ := w.last()
		if a := r.Header.Get("Bulwark-Assertion"); seen[a] {
			t.Error("an assertion was used for another credential")
		} else {
			seen[a] = true
		}
	}
	// The end of the token ends what is remembered of it.
	root := tenant.RandomID()
	derived := w.token("carol@acme", map[string]any{"root_jti": root})
	if a := w.call("GET", "/whoami", derived); a.Status != 200 {
		t.Fatalf("%+v", a)
	}
	if err := w.directory.Revoke(context.Background(), ledger.Event{Subject: "system"}, w.tenants["acme"].Tenant, directory.RevokeRoot, root); err != nil {
		t.Fatal(err)
	}
	if a := w.call("GET", "/whoami", derived); a.Status != 401 {
		t.Errorf("after its root was revoked: %+v", a)
	}
}

// Item 32: no remembered assertion survives the rotation of the key, and no
// remembered verification the withdrawal of the key that verified it.
func TestRealRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kid := func() any {
		if a := w.call("GET", "/whoami", w.token("alice@acme", nil)); a.Status != 200 {
			t.Fatalf("%+v", a)
		}
		_, c := w.last()
		return c["kid"]
	}
	same := w.token("alice@acme", map[string]any{"exp": w.now().Add(5 * time.Minute).Unix()})
	first := kid()
	for _, ahead := range []time.Duration{24*time.Hour - 5*time.Minute, 24*time.Hour + 10*time.Minute} {
		w.ahead.Store(int64(ahead))
		if err := w.signer.Rotate(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if second := kid(); second == first {
		t.Errorf("the key %v still signs", second)
	}
	if a := w.call("GET", "/whoami", same); a.Status != 401 {
		t.Errorf("a token of yesterday: %+v", a)
	}
	token := w.token("alice@acme", nil)
	if a := w.call("GET", "/whoami", token); a.Status != 200 {
		t.Fatalf("%+v", a)
	}
	w.keys.keys.Delete(w.key.KID())
	if a := w.call("GET", "/whoami", token); a.Status != 401 {
		t.Errorf("after its key was withdrawn: %+v", a)
	}
}
