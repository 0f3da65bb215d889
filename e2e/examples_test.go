package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bulwark.example/sdk"
)

// town is an installation whose gateway leads to the example services notes and
// billing: real processes with the sdk, keys of their own, and a tenant that
// has installed both. What the gateway sends to notes, and notes to billing,
// passes a tap, where an attacker sits who owns the upstream's network or logs.
type town struct {
	*installation
	serving *process
	http    *httpClient
	wires   string // folder of certificates
	bundle  string // CA file for everybody: Bulwark's, the services' and the logins'

	notes, billing     *example
	toNotes, toBilling *tap
	other              *login // of the tenant globex, which has installed nothing
}

// example is one of the example services.
type example struct {
	ID, Audience string
	key, url     string
}

// tap forwards what it is sent and keeps the headers.
type tap struct {
	url string

	mu   sync.Mutex
	seen []http.Header
}

func (t *tap) last(tb testing.TB) http.Header {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) == 0 {
		tb.Fatal("nothing came by")
	}
	return t.seen[len(t.seen)-1]
}

func (t *tap) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.seen)
}

func (w *town) file(name string) string { return filepath.Join(w.wires, name) }

// newTap serves TLS in front of the target.
func (w *town) newTap(target string) *tap {
	w.t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(w.file("cert.pem"), w.file("key.pem"))
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	tap := &tap{url: "https://" + l.Addr().String()}
	onward := &httputil.ReverseProxy{
		Transport: clientFor(w.t, w.bundle).Transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = "" },
	}
	srv := &http.Server{
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			tap.mu.Lock()
			tap.seen = append(tap.seen, r.Header.Clone())
			tap.mu.Unlock()
			onward.ServeHTTP(rw, r)
		}),
	}
	go func() { _ = srv.ServeTLS(l, "", "") }() // ends with Close
	w.t.Cleanup(func() { _ = srv.Close() })
	return tap
}

// routes replace those that init wrote.
const routes = `upstreams:
  notes: {url: NOTES, service: notes, ca: WIRES/ca.pem}
  billing: {url: BILLING, service: billing, ca: WIRES/ca.pem}
routes:
  - {id: read, methods: [GET], path: "/documents/{id}", upstream: notes, require: {relation: can_view, object: "document:{id}", visible: can_view}}
  - {id: write, methods: [PUT], path: "/documents/{id}", upstream: notes, require: {relation: can_edit, object: "document:{id}", visible: can_view}}
  - {id: invoice, methods: [GET], path: "/documents/{id}/invoice", upstream: notes, require: {relation: can_view, object: "document:{id}", visible: can_view}}
  - {id: may, methods: [GET], path: "/may/{relation}/{id}", upstream: notes}
  - {id: whoami, methods: [GET], path: /whoami, upstream: notes}
  - {id: invoices, methods: [GET], path: "/invoices/{id}", upstream: billing}
`

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{installation: newInstallation(t, nil), wires: t.TempDir(), other: newLogin(t)}
	makeCertificate(t, w.file("ca.pem"), w.file("cert.pem"), w.file("key.pem"))
	w.bundle = w.file("bundle.pem")
	var all []byte
	for _, ca := range []string{w.CA, w.file("ca.pem"), w.login.ca, w.other.ca} {
		b, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if err := os.WriteFile(w.bundle, all, 0o600); err != nil {
		t.Fatal(err)
	}
	w.populate()
	w.billing.url = w.startExample("billing", w.billing)
	w.toBilling = w.newTap(w.billing.url)
	w.notes.url = w.startExample("notes", w.notes, "-billing", w.toBilling.url)
	w.toNotes = w.newTap(w.notes.url)

	b, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(b), "upstreams:")
	if !ok {
		t.Fatalf("the configuration has no upstreams:\n%s", b)
	}
	text := strings.NewReplacer("NOTES", w.toNotes.url, "BILLING", w.billing.url, "WIRES", w.wires).Replace(routes)
	config := filepath.Join(w.dir, "examples.yaml")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(head, w.login.ca, w.bundle)+text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.serving = w.serve(config)
	w.http = newHTTP(t, w.bundle)
	return w
}

// populate makes everybody, each by the one who may.
func (w *town) populate() {
	w.t.Helper()
	p := w.serve(w.Config)
	w.staff()
	w.invite("operator", "platform", "--role", "administrator")
	w.notes, w.billing = w.service("notes"), w.service("billing")
	w.cli("platform", "service", "grant", "notes", "billing", "--scope", "read")
	w.cli("platform", "service", "grant", "notes", "authz", "--direct")
	w.cli("platform", "service", "grant", "billing", "notes", "--direct")
	w.cli("admin", "service", "install", "notes", "--scope", "read write")
	w.cli("admin", "service", "install", "billing", "--scope", "read write")
	for _, name := range []string{"alice", "bob", "carol"} {
		w.cli("admin", "user", "create", name, "--connection", "login", "--external", name+"-1")
	}
	w.cli("access", "tuple", "write", "document:roadmap", "viewer", "user:@alice")
	w.cli("access", "tuple", "write", "document:roadmap", "editor", "user:@bob")

	w.cli("operator", "tenant", "create", "globex")
	w.invite("operator", "gwen", "--tenant", "globex", "--role", "administrator")
	w.invite("gwen", "greg", "--role", "access_manager")
	w.cli("gwen", "idp", "create", "login", "--issuer", w.other.url, "--audience", "api://docs", "--algs", "ES256")
	w.cli("gwen", "user", "create", "mallory", "--connection", "login", "--external", "mallory-1")
	w.cli("greg", "tuple", "write", "document:roadmap", "viewer", "user:@mallory")
	p.stop()
}

// service makes a platform service with a key.
func (w *town) service(name string) *example {
	w.t.Helper()
	e := &example{key: w.file(name + ".jwk")}
	if err := json.Unmarshal([]byte(w.cli("platform", "service", "create", name, "--json")), e); err != nil {
		w.t.Fatal(err)
	}
	w.cli("platform", "service", "key", name, "--out", e.key)
	return e
}

// startExample runs the service until the test ends and returns its URL.
func (w *town) startExample(name string, e *example, more ...string) string {
	w.t.Helper()
	p := start(w.t, filepath.Join(binaries, name), append([]string{
		"-cert", w.file("cert.pem"), "-cert-key", w.file("key.pem"), "-issuer", w.API, "-ca", w.bundle, "-audience", e.Audience, "-client-id", e.ID, "-key", e.key,
	}, more...)...)
	p.await("address of "+name, func() bool { return strings.HasSuffix(p.out.String(), "\n") })
	return strings.TrimSpace(p.out.String())
}

// user returns the subject of a user of acme's.
func (w *town) user(name string) string {
	w.t.Helper()
	var u struct{ ID string }
	if err := json.Unmarshal([]byte(w.cli("admin", "user", "show", name, "--json")), &u); err != nil {
		w.t.Fatal(err)
	}
	return "user:" + u.ID
}

// token is a person's token of the tenant's own login.
func (w *town) token(name string) string {
	l := w.login
	if name == "mallory" {
		l = w.other
	}
	return l.sign(w.t, "k1", "at+jwt", map[string]any{"sub": name + "-1", "scope": "read write"})
}

// ask sends a request of a person through the gateway.
func (w *town) ask(name, method, path, body string, header ...string) reply {
	w.t.Helper()
	return w.http.do(w.t, method, w.Gateway+path, body, append(bearer(w.token(name)), header...)...)
}

// client is the sdk's, as the service.
func (w *town) client(e *example) *sdk.Client {
	w.t.Helper()
	key, err := os.ReadFile(e.key)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := sdk.NewClient(sdk.ClientConfig{Issuer: w.API, ClientID: e.ID, Key: key, HTTP: w.http.Client})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// principal is what the service's own sdk makes of a request with the header.
func (w *town) principal(e *example, method, path, name, value string) (*sdk.Principal, error) {
	w.t.Helper()
	v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: w.API, Audience: e.Audience, HTTP: w.http.Client})
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := http.NewRequest(method, "https://service.example"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set(name, value)
	return v.Verify(r)
}

// who is what the examples tell about the one who asks.
type who struct {
	Tenant, Subject         string
	Actors, Scopes          []string
	Route, Relation, Object string
}

// answered holds an answer to a status, and lets it show no credential.
func answered(t testing.TB, name string, r reply, status int, secrets ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("%s: %d %s, want %d", name, r.status, r.body, status)
	}
	for _, s := range secrets {
		if strings.Contains(r.body, s) {
			t.Errorf("%s: the answer shows a credential", name)
		}
	}
}

// The example services behind the gateway. One town serves all parts, in order.
func TestExamples(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	served(t, w)
	globex(t, w)
	opensNothingElse(t, w)
	dieWithTheirRoot(t, w)
	meetsTheAPI(t, w)
	shadows(t, w)
	ends(t, w)
	cannotAsk(t, w)
}

// A request of a person goes through the gateway to notes, which exchanges the
// assertion that it received and asks billing, which sees tenant, subject and
// actor. Notes finds the tenant's store and asks for decisions there.
func served(t *testing.T, w *town) {
	t.Helper()
	alice, notes := w.user("alice"), "service:"+w.notes.ID

	var p who
	w.ask("alice", "GET", "/whoami", "", "Bulwark-Tenant", "globex", "Bulwark-Subject", "user:mallory", "Bulwark-Assertion", "x.y.z").read(t, &p)
	if p.Tenant != w.Tenant || p.Subject != alice || len(p.Actors) != 0 || p.Route != "whoami" || p.Relation != "" || !slices.Equal(p.Scopes, []string{"read", "write"}) {
		t.Errorf("notes was told %+v", p)
	}
	if h := w.toNotes.last(t); h.Get("Authorization") != "" || len(h["Bulwark-Assertion"]) != 1 || h.Get("Bulwark-Tenant") != w.Tenant {
		t.Errorf("notes was sent %v", h)
	}
	if r := w.ask("bob", "PUT", "/documents/roadmap", "the plan"); r.status != 204 {
		t.Errorf("bob writes: %d %s", r.status, r.body)
	}
	var doc struct {
		Text      string
		Principal who
	}
	w.ask("alice", "GET", "/documents/roadmap", "").read(t, &doc)
	if doc.Text != "the plan" || doc.Principal.Relation != "can_view" || doc.Principal.Object != "document:roadmap" || doc.Principal.Route != "read" {
		t.Errorf("alice reads %+v", doc)
	}
	answered(t, "alice writes", w.ask("alice", "PUT", "/documents/roadmap", "mine"), 403)
	answered(t, "carol reads", w.ask("carol", "GET", "/documents/roadmap", ""), 404)

	var bill struct {
		who
		Invoice string
	}
	w.ask("alice", "GET", "/documents/roadmap/invoice", "").read(t, &bill)
	if bill.Tenant != w.Tenant || bill.Subject != alice || !slices.Equal(bill.Actors, []string{notes}) || !slices.Equal(bill.Scopes, []string{"read"}) || bill.Invoice != "roadmap" {
		t.Errorf("billing was told %+v", bill)
	}
	exchanged := strings.TrimPrefix(w.toBilling.last(t).Get("Authorization"), "Bearer ")
	c := claimsOf(t, exchanged)
	received := claimsOf(t, w.toNotes.last(t).Get("Bulwark-Assertion"))
	act, _ := c["act"].(map[string]any)
	if c["aud"] != w.billing.Audience || c["client_id"] != w.notes.ID || act["sub"] != notes || act["jti"] != received["token_jti"] || c["root_jti"] != received["root_jti"] || c["exp"].(float64) > received["exp"].(float64) {
		t.Errorf("from %v\nto %v", received, c)
	}
	for relation, want := range map[string]string{"can_view": `{"allowed":true}`, "can_edit": `{"allowed":false}`} {
		if r := w.ask("alice", "GET", "/may/"+relation+"/roadmap", ""); r.status != 200 || strings.TrimSpace(r.body) != want {
			t.Errorf("may alice %s: %d %s", relation, r.status, r.body)
		}
	}
	// An event in acme's chain for each: the exchange, the search for the store, the decision.
	for _, filter := range [][]string{
		{"--action", "token.issue", "--class", "key-use", "--subject", alice}, {"--action", "store.list", "--subject", notes},
		{"--action", "decision.check", "--subject", notes, "--decision", "deny", "--resource", "document:roadmap"},
	} {
		w.serving.await("an event with "+strings.Join(filter, " "), func() bool {
			return strings.Contains(w.cli("auditor", append([]string{"audit", "query", "--json"}, filter...)...), `"id"`)
		})
	}
}

// The same document in globex is another document, and in globex notes is not
// installed: it can neither ask for decisions there nor call billing.
func globex(t *testing.T, w *town) {
	t.Helper()
	var p who
	w.ask("mallory", "GET", "/whoami", "").read(t, &p)
	if p.Tenant == w.Tenant || !strings.HasPrefix(p.Subject, "user:") || p.Subject == w.user("alice") {
		t.Errorf("mallory is %+v", p)
	}
	var doc struct {
		Text      string
		Principal who
	}
	w.ask("mallory", "GET", "/documents/roadmap", "").read(t, &doc)
	if doc.Text != "" || doc.Principal.Tenant != p.Tenant {
		t.Errorf("mallory reads %+v", doc)
	}
	before := w.toBilling.count()
	answered(t, "mallory's invoice", w.ask("mallory", "GET", "/documents/roadmap/invoice", ""), 403)
	answered(t, "a decision in globex", w.ask("mallory", "GET", "/may/can_view/roadmap", ""), 502)
	if n := w.toBilling.count() - before; n != 0 {
		t.Errorf("billing was asked %d times", n)
	}
}

// When the installation ends, so does everything of notes in acme.
func ends(t *testing.T, w *town) {
	t.Helper()
	before := w.toBilling.count()
	answered(t, "alice's invoice", w.ask("alice", "GET", "/documents/roadmap/invoice", ""), 200)
	w.cli("admin", "service", "uninstall", "notes")
	answered(t, "alice's invoice without the installation", w.ask("alice", "GET", "/documents/roadmap/invoice", ""), 403)
	if n := w.toBilling.count() - before; n != 1 {
		t.Errorf("billing was asked %d times", n)
	}
}

// While Bulwark is away nobody knows whether a token was revoked: the caller is
// told to come again, not that the token is bad.
func cannotAsk(t *testing.T, w *town) {
	t.Helper()
	w.cli("admin", "service", "install", "notes", "--scope", "read write")
	var tokens [2]string
	for i := range tokens {
		token, err := w.client(w.billing).Token(t.Context(), "acme", "notes")
		if err != nil {
			t.Fatal(err)
		}
		tokens[i] = token
	}
	get := func(token string) reply { return w.http.do(t, "GET", w.notes.url+"/whoami", "", bearer(token)...) }
	answered(t, "while Bulwark is there", get(tokens[0]), 200)
	w.serving.stop()
	if r := get(tokens[1]); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("while it is away: %d %v %s", r.status, r.header, r.body)
	}
}

// What one service was sent opens no other door, and this door for no other
// request.
func opensNothingElse(t *testing.T, w *town) {
	t.Helper()
	if r := w.ask("alice", "GET", "/documents/roadmap/invoice", ""); r.status != 200 {
		t.Fatalf("alice's invoice: %d %s", r.status, r.body)
	}
	exchanged := strings.TrimPrefix(w.toBilling.last(t).Get("Authorization"), "Bearer ")
	captured := w.toNotes.last(t).Get("Bulwark-Assertion") // GET /documents/roadmap/invoice, for notes
	person := w.token("alice")
	assertion := func(value string) []string { return []string{"Bulwark-Assertion", value} }
	json := func(header []string) []string { return append(header, "Content-Type", "application/json") }
	plain := []string{"Bulwark-Tenant", w.Tenant, "Bulwark-Subject", w.user("alice"), "Bulwark-Scope", "read write"}
	check := `{"tuple_key":{"user":"user:x","relation":"can_view","object":"document:roadmap"}}`
	const invoice = "/documents/roadmap/invoice"

	for _, c := range []struct {
		name, method, url, body string
		header                  []string
		status                  int
	}{
		{"the token for billing, at billing", "GET", w.billing.url + "/invoices/1", "", bearer(exchanged), 200},
		{"at notes", "GET", w.notes.url + "/whoami", "", bearer(exchanged), 401},
		{"at the gateway", "GET", w.Gateway + "/whoami", "", bearer(exchanged), 401},
		{"at the gateway, to billing", "GET", w.Gateway + "/invoices/1", "", bearer(exchanged), 401},
		{"at the admin API", "GET", w.API + "/admin/v1/self", "", bearer(exchanged), 401},
		{"at the check API", "GET", w.API + "/stores", "", bearer(exchanged), 401},
		{"at the check API, asking", "POST", w.API + "/stores/x/check", check, json(bearer(exchanged)), 401},
		{"as an assertion at billing", "GET", w.billing.url + "/invoices/1", "", assertion(exchanged), 401},
		{"beside an assertion at notes", "GET", w.notes.url + invoice, "", append(bearer(exchanged), assertion(captured)...), 401},

		{"the assertion, again as it was", "GET", w.notes.url + invoice, "", assertion(captured), 200},
		{"at another path", "GET", w.notes.url + "/documents/roadmap", "", assertion(captured), 401},
		{"about another document", "GET", w.notes.url + "/documents/other/invoice", "", assertion(captured), 401},
		{"at a path that cleans to it", "GET", w.notes.url + "/documents//roadmap/invoice", "", assertion(captured), 401},
		{"with another method", "PUT", w.notes.url + invoice, "x", assertion(captured), 401},
		{"with HEAD", "HEAD", w.notes.url + invoice, "", assertion(captured), 401},
		{"at the other upstream", "GET", w.billing.url + invoice, "", assertion(captured), 401},
		{"at the other upstream's path", "GET", w.billing.url + "/invoices/1", "", assertion(captured), 401},
		{"twice", "GET", w.notes.url + invoice, "", append(assertion(captured), assertion(captured)...), 401},
		{"as a bearer at notes", "GET", w.notes.url + invoice, "", bearer(captured), 401},
		{"as a bearer at the gateway", "GET", w.Gateway + invoice, "", bearer(captured), 401},
		{"as an assertion at the gateway", "GET", w.Gateway + invoice, "", assertion(captured), 401},
		{"as a bearer at the admin API", "GET", w.API + "/admin/v1/self", "", bearer(captured), 401},
		{"as a bearer at the check API", "POST", w.API + "/stores/x/check", check, json(bearer(captured)), 401},

		{"notes without the gateway", "GET", w.notes.url + "/whoami", "", nil, 401},
		{"with the person's own token", "GET", w.notes.url + "/whoami", "", bearer(person), 401},
		{"with plain headers", "GET", w.notes.url + "/whoami", "", plain, 401},
		{"with plain headers and the person's token", "GET", w.notes.url + "/whoami", "", append(bearer(person), plain...), 401},
		{"billing without the gateway", "GET", w.billing.url + "/invoices/1", "", plain, 401},
	} {
		answered(t, c.name, w.http.do(t, c.method, c.url, c.body, c.header...), c.status, captured, exchanged)
	}
	// Beside a good assertion plain headers change nothing.
	var doc struct{ Tenant, Subject string }
	w.http.do(t, "GET", w.notes.url+invoice, "", append(assertion(captured), "Bulwark-Tenant", "globex", "Bulwark-Subject", "user:mallory")...).read(t, &doc)
	if doc.Tenant != w.Tenant || doc.Subject != w.user("alice") {
		t.Errorf("%+v", doc)
	}
}

// Tokens derived from alice's, which billing and notes verify by themselves, are
// refused there within five seconds after her token was revoked; those from
// another token of hers are not.
func dieWithTheirRoot(t *testing.T, w *town) {
	t.Helper()
	invoices, whoami := w.billing.url+"/invoices/1", w.notes.url+"/whoami"
	// derive returns a token for billing, and one for notes that billing got for it.
	derive := func() (forBilling, forNotes string) {
		if r := w.ask("alice", "GET", "/documents/roadmap/invoice", ""); r.status != 200 {
			t.Fatalf("alice's invoice: %d %s", r.status, r.body)
		}
		credential := w.toBilling.last(t).Get("Authorization")
		p, err := w.principal(w.billing, "GET", "/invoices/1", "Authorization", credential)
		if err != nil {
			t.Fatal(err)
		}
		back, err := w.client(w.billing).Exchange(t.Context(), p, "notes", nil)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(credential, "Bearer "), back
	}
	forBilling, forNotes := derive()
	otherBilling, otherNotes := derive()
	root := claimsOf(t, forBilling)["root_jti"].(string)
	if claimsOf(t, forNotes)["root_jti"] != root || claimsOf(t, otherBilling)["root_jti"] == root {
		t.Fatal("the tokens are not of the roots that they should be of")
	}
	get := func(url, token string) reply { return w.http.do(t, "GET", url, "", bearer(token)...) }
	answered(t, "billing, before", get(invoices, forBilling), 200)
	answered(t, "notes, before", get(whoami, forNotes), 200)

	w.cli("admin", "token", "revoke", "root", root)
	revoked := time.Now()
	for url, token := range map[string]string{invoices: forBilling, whoami: forNotes} {
		w.serving.await("a refusal at "+url, func() bool {
			sent := time.Now()
			r := get(url, token)
			if late := sent.Sub(revoked); late >= 5*time.Second && r.status != 401 {
				t.Fatalf("%s: %d, %v after the root was revoked", url, r.status, late)
			}
			return r.status == 401
		})
		// Its own end is not what refused it.
		if exp := time.Unix(int64(claimsOf(t, token)["exp"].(float64)), 0); !time.Now().Before(exp) {
			t.Fatalf("%s: the token's own end came first", url)
		}
	}
	answered(t, "billing, by another root", get(invoices, otherBilling), 200)
	answered(t, "notes, by another root", get(whoami, otherNotes), 200)
}

// The sdk against the real API: who comes past the gateway with a token for
// notes is the same kind of principal, and every refusal of the token endpoint
// and of the check API is an error.
func meetsTheAPI(t *testing.T, w *town) {
	t.Helper()
	ctx := t.Context()
	notes, billing := w.client(w.notes), w.client(w.billing)
	token, err := billing.Token(ctx, "acme", "notes")
	if err != nil {
		t.Fatal(err)
	}
	var p who
	w.http.do(t, "GET", w.notes.url+"/whoami", "", bearer(token)...).read(t, &p)
	if p.Tenant != w.Tenant || p.Subject != "service:"+w.billing.ID || p.Route != "" || len(p.Actors) != 0 {
		t.Errorf("notes takes %+v", p)
	}
	// Nothing was decided for it, so notes asks.
	read := func() reply { return w.http.do(t, "GET", w.notes.url+"/documents/roadmap", "", bearer(token)...) }
	answered(t, "billing reads", read(), 404)
	w.cli("access", "tuple", "write", "document:roadmap", "viewer", "service:"+w.billing.ID)
	answered(t, "billing reads after the grant", read(), 200)

	if r := w.ask("alice", "GET", "/whoami", ""); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	captured := w.toNotes.last(t).Get("Bulwark-Assertion")
	asAlice, err := w.principal(w.notes, "GET", "/whoami", "Bulwark-Assertion", captured)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.principal(w.billing, "GET", "/whoami", "Bulwark-Assertion", captured); !errors.Is(err, sdk.ErrUnauthenticated) {
		t.Errorf("billing takes notes' assertion: %v", err)
	}
	first, err := notes.Exchange(ctx, asAlice, "billing", []string{"read"})
	if err != nil {
		t.Fatal(err)
	}
	asNotes, err := w.principal(w.billing, "GET", "/x", "Authorization", "Bearer "+first)
	if err != nil || asNotes.Subject != asAlice.Subject || asNotes.Tenant != asAlice.Tenant || !slices.Equal(asNotes.Actors, []string{"service:" + w.notes.ID}) {
		t.Fatalf("%+v %v", asNotes, err)
	}
	// A chain: billing goes back to notes for alice.
	second, err := billing.Exchange(ctx, asNotes, "notes", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.http.do(t, "GET", w.notes.url+"/whoami", "", bearer(second)...).read(t, &p)
	if p.Subject != asAlice.Subject || !slices.Equal(p.Actors, []string{"service:" + w.billing.ID, "service:" + w.notes.ID}) {
		t.Errorf("notes takes %+v", p)
	}

	for name, c := range map[string]struct {
		code string
		ask  func() (string, error)
	}{
		"another's assertion":        {"invalid_request", func() (string, error) { return billing.Exchange(ctx, asAlice, "notes", nil) }},
		"another's token":            {"invalid_request", func() (string, error) { return notes.Exchange(ctx, asNotes, "billing", nil) }},
		"an audience not granted":    {"invalid_target", func() (string, error) { return notes.Exchange(ctx, asAlice, "gateway", nil) }},
		"an audience that is not":    {"invalid_target", func() (string, error) { return notes.Exchange(ctx, asAlice, "nowhere", nil) }},
		"a wider scope":              {"invalid_scope", func() (string, error) { return notes.Exchange(ctx, asAlice, "billing", []string{"write"}) }},
		"a grant that is not direct": {"invalid_target", func() (string, error) { return notes.Token(ctx, "acme", "billing") }},
		"another tenant":             {"unauthorized_client", func() (string, error) { return notes.Token(ctx, "globex", "authz") }},
		"no such tenant":             {"unauthorized_client", func() (string, error) { return notes.Token(ctx, "nowhere", "authz") }},
		"no tenant":                  {"invalid_request", func() (string, error) { return notes.Token(ctx, "", "authz") }},
	} {
		got, err := c.ask()
		var refused *sdk.OAuthError
		if got != "" || !errors.As(err, &refused) || refused.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	checks(t, w, ctx, notes, asAlice.Subject)
}

// checks holds Check to its answers.
func checks(t *testing.T, w *town, ctx context.Context, notes *sdk.Client, alice string) {
	t.Helper()
	for _, c := range []struct {
		name, tenant, relation, object string
		want, wrong                    bool
	}{
		{"may view", "acme", "can_view", "document:roadmap", true, false},
		{"by the tenant's id", w.Tenant, "can_view", "document:roadmap", true, false},
		{"may not edit", "acme", "can_edit", "document:roadmap", false, false},
		{"what is not there", "acme", "can_view", "document:nothing", false, false},
		{"no such relation", "acme", "can_fly", "document:roadmap", false, true},
		{"no such type", "acme", "can_view", "galaxy:roadmap", false, true},
		{"the tenant itself", "acme", "administrator", "system:" + w.Tenant, false, true},
		{"another tenant", "globex", "can_view", "document:roadmap", false, true},
	} {
		got, err := notes.Check(ctx, c.tenant, alice, c.relation, c.object)
		if got != c.want || (err != nil) != c.wrong {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
	}
	// After its key's end a service gets nothing, and what it keeps ends with it.
	w.cli("platform", "service", "suspend", "notes")
	if got, err := notes.Check(ctx, "acme", alice, "can_view", "document:roadmap"); got || err == nil {
		t.Errorf("a suspended service: %v %v", got, err)
	}
	w.cli("platform", "service", "resume", "notes")
	if got, err := w.client(w.notes).Check(ctx, "acme", alice, "can_view", "document:roadmap"); !got || err != nil {
		t.Errorf("after it goes on: %v %v", got, err)
	}
}
