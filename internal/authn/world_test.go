package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

const (
	issuer   = "https://bulwark.test"
	gateway  = "urn:bulwark:test:gateway"
	external = "https://idp.test/oauth2/default"
)

// clock is set by hand.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()).UTC() }
func (c *clock) forward(d time.Duration) { c.nanos.Add(int64(d)) }

// ring is the set of published keys of our issuer.
type ring struct{ keys sync.Map }

func (r *ring) PublicKey(kid string) (jose.PublicKey, bool) {
	k, ok := r.keys.Load(kid)
	if !ok {
		return jose.PublicKey{}, false
	}
	return *k.(*jose.PublicKey), true
}

func (r *ring) publish(k jose.PublicKey) { r.keys.Store(k.KID, &k) }

// rows is the part of a store that the real directory asks here: records at
// the start, people later.
type rows struct {
	records []directory.Record
	mu      sync.Mutex
	users   map[string]*directory.User // by connection and subject
	down    bool
	asked   int
}

func (s *rows) LoadDirectory(context.Context) ([]directory.Record, error) { return s.records, nil }

func (s *rows) UserByExternal(_ context.Context, connection, subject string) (*directory.User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.down {
		return nil, fault.New(fault.Unavailable, "the store is down")
	}
	if u := s.users[connection+" "+subject]; u != nil {
		return u, nil
	}
	return nil, fault.New(fault.NotFound, "no such user")
}

var errUnused = errors.New("not used by authn")

func (s *rows) User(context.Context, tenant.ID, string) (*directory.User, error) {
	return nil, errUnused
}
func (s *rows) UserByName(context.Context, tenant.ID, string) (*directory.User, error) {
	return nil, errUnused
}
func (s *rows) Users(context.Context, tenant.ID, string, int) ([]*directory.User, error) {
	return nil, errUnused
}
func (s *rows) Mutate(context.Context, ledger.Change, func(directory.Tx) error) (relation.Revision, error) {
	return relation.Revision{}, errUnused
}

// web is what can be fetched. It counts, and keeps every URL that was asked for.
type web struct {
	mu    sync.Mutex
	docs  map[string][]byte
	asked map[string]int
	down  bool
	gate  chan struct{} // when set, a fetch waits for it
	begun chan struct{} // when set, gets a value for each fetch that starts
}

func (w *web) fetch(ctx context.Context, url string, max int64) ([]byte, error) {
	w.mu.Lock()
	w.asked[url]++
	gate, begun, down, doc := w.gate, w.begun, w.down, w.docs[url]
	w.mu.Unlock()
	if begun != nil {
		begun <- struct{}{}
	}
	if gate != nil {
		<-gate
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case down || doc == nil:
		return nil, fault.New(fault.Unavailable, "no answer")
	case int64(len(doc)) > max:
		return nil, fault.New(fault.TooLarge, "too large")
	}
	return doc, nil
}

func (w *web) set(url string, doc any) {
	raw, ok := doc.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(doc); err != nil {
			panic(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.docs[url] = raw
}

func (w *web) count(url string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[url]
}

func (w *web) total() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.asked {
		n += k
	}
	return n
}

const (
	discovery = external + "/.well-known/openid-configuration"
	jwks      = "https://keys.idp.test/v1/keys"
)

// world is an Authenticator among real parts: the real directory over rows,
// real keys, a clock set by hand and a web of a few documents.
type world struct {
	t     testing.TB
	clock clock
	ring  ring
	rows  rows
	web   web
	dir   *directory.Directory
	authn *Authenticator
	key   jose.PrivateKey // our issuer's

	acme, globex   tenant.ID
	alice          principal.Subject
	notes, billing principal.Subject // platform services installed in acme
	conn           *directory.Connection
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, acme: tenant.New(), globex: tenant.New()}
	w.clock.nanos.Store(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano())
	w.alice = principal.Subject{Kind: principal.User, ID: tenant.RandomID()}
	w.notes = principal.Subject{Kind: principal.Service, ID: tenant.RandomID()}
	w.billing = principal.Subject{Kind: principal.Service, ID: tenant.RandomID()}
	w.conn = &directory.Connection{
		Tenant: w.acme, ID: tenant.RandomID(), Name: "idp", Issuer: external, Audience: "api://acme",
		Kind: directory.RFC9068, Algs: []string{"RS256", "ES256"}, State: directory.Active,
	}
	w.rows.users = map[string]*directory.User{}
	w.rows.records = []directory.Record{
		&directory.Tenant{Tenant: tenant.Platform, Name: "platform", State: directory.Active, System: "p"},
		&directory.Tenant{Tenant: w.acme, Name: "acme", State: directory.Active, System: "a"},
		&directory.Tenant{Tenant: w.globex, Name: "globex", State: directory.Active, System: "g"},
		&directory.Service{Tenant: tenant.Platform, ID: w.notes.ID, Name: "notes", State: directory.Active},
		&directory.Service{Tenant: tenant.Platform, ID: w.billing.ID, Name: "billing", State: directory.Active},
		&directory.Installation{Tenant: w.acme, Service: w.notes.ID},
		&directory.Installation{Tenant: w.acme, Service: w.billing.ID},
		w.conn,
	}
	w.web.docs, w.web.asked = map[string][]byte{}, map[string]int{}
	dir, err := directory.New(context.Background(), directory.Config{
		Store: &w.rows, Env: "test", CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.Random(32), nil }, MaxToken: 5 * time.Minute, Now: w.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.dir = dir
	if w.key, err = jose.GenerateES256(); err != nil {
		t.Fatal(err)
	}
	w.ring.publish(w.key.Public())
	w.authn = New(Config{Env: "test", Issuer: issuer, Keys: &w.ring, Directory: dir, Fetch: w.web.fetch, Now: w.clock.now, CacheSize: 1024})
	return w
}

// put commits a changed record, as the store's subscription would.
func (w *world) put(r directory.Record) {
	w.t.Helper()
	payload, err := directory.Encode(r)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.dir.Apply(r.RecordKind(), r.RecordKey(), payload); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(r directory.Record) {
	w.t.Helper()
	if err := w.dir.Apply(r.RecordKind(), r.RecordKey(), nil); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) connect(change func(*directory.Connection)) {
	w.t.Helper()
	c := *w.conn
	change(&c)
	w.conn = &c
	w.put(&c)
}

// link makes a user of acme whom the connection's subject is linked to.
func (w *world) link(subject string) *directory.User {
	u := &directory.User{Tenant: w.acme, ID: tenant.RandomID(), Name: "u", State: directory.Active, Connection: w.conn.ID, External: subject}
	w.setUser(u)
	return u
}

func (w *world) setUser(u *directory.User) {
	w.rows.mu.Lock()
	w.rows.users[u.Connection+" "+u.External] = u
	w.rows.mu.Unlock()
	w.put(u)
}

// claims are a set of claims; nil as a value removes one.
type claims map[string]any

func (c claims) with(change claims) claims {
	out := maps.Clone(c)
	for k, v := range change {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

func (w *world) in(d time.Duration) int64 { return w.clock.now().Add(d).Unix() }

// own are the claims of a good access token of ours for alice at the gateway.
func (w *world) own() claims {
	id := tenant.RandomID()
	return claims{
		"iss": issuer, "sub": w.alice.String(), "aud": gateway, "tenant": w.acme.String(), "client_id": w.alice.ID,
		"scope": "read write", "jti": id, "root_jti": id, "sid": "session-1", "acr": "1", "amr": []string{"pwd", "otp"},
		"auth_time": w.in(-time.Hour), "iat": w.in(0), "exp": w.in(5 * time.Minute),
	}
}

func (w *world) sign(c claims) string { return w.signTyp("at+jwt", c) }

func (w *world) signTyp(typ string, c claims) string {
	w.t.Helper()
	token, err := jose.Sign(w.key, typ, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// ask authenticates at the gateway.
func (w *world) ask(token string) (*principal.Principal, error) {
	return w.askAt(gateway, "Bearer "+token)
}

func (w *world) askAt(audience string, headers ...string) (*principal.Principal, error) {
	w.dir.Confirm()
	return w.authn.Authenticate(context.Background(), Input{Authorization: headers, Audience: audience})
}

// mustPass and mustRefuse say what is expected.
func (w *world) mustPass(name, token string) *principal.Principal {
	w.t.Helper()
	p, err := w.ask(token)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	return p
}

func (w *world) mustRefuse(name, token string, want Reason) {
	w.t.Helper()
	p, err := w.ask(token)
	checkRefusal(w.t, name, p, err, want)
}

func checkRefusal(t testing.TB, name string, p *principal.Principal, err error, want Reason) {
	t.Helper()
	var r *Refusal
	if p != nil || !errors.As(err, &r) {
		t.Errorf("%s: %v, %v; want a refusal", name, p, err)
		return
	}
	if r.Reason != want {
		t.Errorf("%s: reason %v (%v), want %v", name, r.Reason, err, want)
	}
	if got := fault.KindOf(err); got != want.Kind() {
		t.Errorf("%s: kind %v", name, got)
	}
	if got := fault.Public(err); got != publicText {
		t.Errorf("%s: the public text is %q", name, got)
	}
}

// idpKey is a key of the external issuer: RS256 as the large ones use.
type idpKey struct {
	kid string
	rsa *rsa.PrivateKey
}

// Making RSA keys is slow; they are shared by all tests and never changed.
var rsaKeys = func() [2]func() *rsa.PrivateKey {
	make1 := func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, jose.MinRSA)
		if err != nil {
			panic(err)
		}
		return k
	}
	return [2]func() *rsa.PrivateKey{sync.OnceValue(make1), sync.OnceValue(make1)}
}()

func (k idpKey) public() jose.PublicKey {
	return jose.PublicKey{KID: k.kid, Alg: jose.RS256, Key: &k.rsa.PublicKey}
}

// sign makes a token with any header and claims.
func (k idpKey) sign(header map[string]any, c claims) string {
	h := map[string]any{"alg": "RS256", "kid": k.kid}
	maps.Copy(h, header)
	input := segment(h) + "." + segment(c)
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(nil, k.rsa, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// segmentText is v as JSON, or as it is when it is text already.
func segmentText(v any) string {
	if raw, ok := v.(string); ok {
		return raw
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func segment(v any) string {
	raw := segmentText(v)
	return base64.RawURLEncoding.EncodeToString([]byte(raw))
}

// rawES256 signs any header and payload text with an ES256 key.
func rawES256(key *ecdsa.PrivateKey, header, payload string) string {
	input := segment(header) + "." + segment(payload)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func newECDSA(t testing.TB) (*ecdsa.PrivateKey, jose.PublicKey) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub := jose.PublicKey{Alg: jose.ES256, Key: &k.PublicKey}
	if pub.KID, err = pub.Thumbprint(); err != nil {
		t.Fatal(err)
	}
	return k, pub
}

// publish lets the external issuer publish keys.
func (w *world) publish(keys ...jose.PublicKey) {
	w.t.Helper()
	set, err := jose.NewSet(keys...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.web.set(discovery, map[string]any{"issuer": external, "jwks_uri": jwks})
	w.web.set(jwks, set)
}

// rfc9068 are the claims of a good external token for the subject.
func (w *world) rfc9068(subject string) claims {
	return claims{
		"iss": external, "aud": "api://acme", "sub": subject, "client_id": "spa", "jti": fmt.Sprint("j-", tenant.RandomID()),
		"scope": "docs.read", "iat": w.in(0), "exp": w.in(time.Hour),
	}
}

var at = map[string]any{"typ": "at+jwt"}
