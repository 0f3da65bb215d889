package sdk_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"bulwark.example/sdk"
)

const (
	audience   = "urn:bulwark:test:svc:01JDN3W8Z6N0TES00000000000"
	other      = "urn:bulwark:test:svc:01JDN3W8Z6B1NGS00000000000"
	acme       = "01JDN3W8Z6Q5T4R3E2W1Q0P9M8"
	alice      = "user:01JDN3W8Z6AMYCE00000000000"
	billing    = "service:01JDN3W8Z6B1NGS00000000000"
	assertions = "/.well-known/bulwark-assertion/jwks.json"
	tokens     = "/oauth2/jwks"
	introspect = "/oauth2/introspect"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock is a time that the test moves, and nothing else: a slow machine does not.
type clock struct {
	began time.Time
	ahead atomic.Int64
}

func (c *clock) now() time.Time          { return c.began.Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// tlsServer serves over TLS 1.3, and HTTP/2 where it is asked for.
func tlsServer(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// issuer publishes keys like Bulwark's API, and signs with them.
type issuer struct {
	*httptest.Server
	t testing.TB

	mu      sync.Mutex
	keys    map[string]*ecdsa.PrivateKey // by kid, of both sets
	sets    map[string][]byte            // by path: what is published
	hits    map[string]int
	answer  http.HandlerFunc // instead of the sets, where it is set
	tells   http.HandlerFunc // about tokens, to who introspects
	holding chan struct{}    // where it is set, answers wait until it is closed
	asked   chan struct{}    // one for each request that arrives
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t, keys: map[string]*ecdsa.PrivateKey{}, sets: map[string][]byte{}, hits: map[string]int{}, asked: make(chan struct{}, 1024)}
	i.Server = tlsServer(t, i)
	i.publish(assertions, "a1")
	i.publish(tokens, "t1")
	return i
}

// ServeHTTP implements [http.Handler].
func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.hits[r.URL.Path]++
	set, answer, holding := i.sets[r.URL.Path], i.answer, i.holding
	if r.URL.Path == introspect {
		answer = i.tells
	}
	i.mu.Unlock()
	select {
	case i.asked <- struct{}{}:
	default: // nobody counts so many
	}
	if holding != nil {
		<-holding
	}
	if answer != nil {
		answer(w, r)
		return
	}
	if set == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	_, _ = w.Write(set) // the asker may be gone
}

// set changes something while no request looks.
func (i *issuer) set(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

// fetches counts the requests for a set.
func (i *issuer) fetches(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hits[path]
}

// key returns the key with the kid, which is made on first use.
func (i *issuer) key(kid string) *ecdsa.PrivateKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keys[kid] == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(i.t, err)
		i.keys[kid] = k
	}
	return i.keys[kid]
}

// publish makes these keys the whole set.
func (i *issuer) publish(path string, kids ...string) {
	i.t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, kid := range kids {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &i.key(kid).PublicKey, KeyID: kid, Algorithm: "ES256", Use: "sig"})
	}
	b, err := json.Marshal(set)
	must(i.t, err)
	i.set(func() { i.sets[path] = b })
}

// with returns the claims with changes; nil takes a claim away.
func with(claims map[string]any, changes map[string]any) map[string]any {
	out := maps.Clone(claims)
	for k, v := range changes {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}

// common claims of a good token for alice through billing.
func (i *issuer) common() map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": i.URL, "sub": alice, "aud": audience, "client_id": "01JDN3W8Z6B1NGS00000000000", "tenant": acme, "scope": "read write",
		"act": map[string]any{"sub": billing, "jti": "j0"}, "jti": "j1", "root_jti": "j0", "acr": "phr", "amr": []string{"hwk", "user"},
		"auth_time": now.Add(-time.Minute).Unix(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
}

// asserted are the claims of a good assertion about GET /documents/roadmap.
func (i *issuer) asserted() map[string]any {
	return with(i.common(), map[string]any{
		"htm": "GET", "path": "/documents/roadmap", "route": "documents", "relation": "can_view", "object": "document:roadmap", "rid": "r1", "token_jti": "j0",
	})
}

func (i *issuer) assertion(changes map[string]any) string {
	return i.sign("bulwark-assertion+jwt", "a1", with(i.asserted(), changes))
}

func (i *issuer) token(changes map[string]any) string {
	return i.sign("at+jwt", "t1", with(i.common(), changes))
}

func (i *issuer) sign(typ, kid string, claims any) string {
	return sign(i.t, i.key(kid), map[string]any{"alg": "ES256", "typ": typ, "kid": kid}, claims)
}

// sign signs whatever header and claims it is given, with ES256.
func sign(t testing.TB, key *ecdsa.PrivateKey, header, claims any) string {
	t.Helper()
	input := encode(t, header) + "." + encode(t, claims)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	must(t, err)
	n := (key.Params().BitSize + 7) / 8
	sig := make([]byte, 2*n)
	r.FillBytes(sig[:n])
	s.FillBytes(sig[n:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// raw is JSON that no encoder would write.
type raw string

func jsonRaw(r raw) any { return json.RawMessage(r) }

func marshal(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return string(b)
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b := []byte(nil)
	if r, ok := v.(raw); ok {
		b = []byte(r)
	} else {
		var err error
		b, err = json.Marshal(v)
		must(t, err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// service is a service behind the middleware, over real TLS.
type service struct {
	*httptest.Server
	t      testing.TB
	issuer *issuer
	clock  *clock
	began  atomic.Int64 // requests that arrived
	calls  atomic.Int64 // that reached the handler
}

// seen is what the handler of a service saw.
type seen struct {
	Principal *sdk.Principal
	Header    http.Header
	Path      string
}

func newService(t testing.TB, i *issuer, change func(*sdk.VerifierConfig)) *service {
	t.Helper()
	s := &service{t: t, issuer: i, clock: &clock{began: time.Now()}}
	cfg := sdk.VerifierConfig{Issuer: i.URL, Audience: audience, HTTP: i.Client(), Now: s.clock.now}
	if change != nil {
		change(&cfg)
	}
	v, err := sdk.NewVerifier(cfg)
	must(t, err)
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		_ = json.NewEncoder(w).Encode(seen{sdk.FromContext(r.Context()), r.Header, r.URL.EscapedPath()}) // the client may be gone
	}))
	mux := http.NewServeMux()
	mux.Handle("/", h)
	mux.Handle("/cut/", http.StripPrefix("/cut", h))
	s.Server = tlsServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.began.Add(1)
		mux.ServeHTTP(w, r)
	}))
	return s
}

// reply is an answer as it came.
type reply struct {
	status int
	header http.Header
	body   string
}

// send makes a request; header values come in pairs. The path goes out as it is.
func (s *service) send(method, path string, header ...string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL, nil)
	must(s.t, err)
	req.URL.Opaque = path
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := s.Client().Do(req)
	must(s.t, err)
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	must(s.t, err)
	return reply{res.StatusCode, res.Header, string(body)}
}

// get sends an assertion about GET /documents/roadmap.
func (s *service) get(assertion string) reply {
	s.t.Helper()
	return s.send("GET", "/documents/roadmap", sdk.AssertionHeader, assertion)
}

// saw decodes what the handler saw.
func (s *service) saw(r reply) seen {
	s.t.Helper()
	if r.status != http.StatusOK {
		s.t.Fatalf("answered %d %s", r.status, r.body)
	}
	var out seen
	must(s.t, json.NewDecoder(bytes.NewReader([]byte(r.body))).Decode(&out))
	return out
}

// refused holds an answer to a 401 that tells nothing.
func (s *service) refused(name string, r reply) {
	s.t.Helper()
	if r.status != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") != "Bearer" || r.body != "not authenticated\n" {
		s.t.Errorf("%s: answered %d %v %q", name, r.status, r.header, r.body)
	}
}

// canceled is a context that has ended.
func canceled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }
