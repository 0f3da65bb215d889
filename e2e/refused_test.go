package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// protected is an installation with a login, one linked user, an upstream that
// counts what reaches it, and a platform auditor.
type protected struct {
	*installation
	process *process
	http    *httpClient
	reached *upstream
}

func newProtected(t *testing.T) *protected {
	t.Helper()
	up := newUpstream(t)
	in := newInstallation(t, nil, "--upstream", up.url, "--upstream-ca", up.ca)
	p := &protected{installation: in, process: in.serve(in.Config), http: newHTTP(t, in.CA), reached: up}
	in.staff()
	in.invite("operator", "watcher", "--role", "auditor")
	in.cli("admin", "user", "create", "alice", "--connection", "login", "--external", "alice-1")
	in.cli("access", "tuple", "write", "document:roadmap", "viewer", "user:@alice")
	return p
}

// rejects counts the platform's reject events by reason.
func (p *protected) rejects(t testing.TB) map[string]int {
	t.Helper()
	var events []struct {
		Reason string
		Count  int
		Class  string
	}
	out := p.cli("watcher", "audit", "query", "--class", "reject", "--limit", "1000", "--json")
	if err := json.Unmarshal([]byte(out), &events); err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, e := range events {
		n[e.Reason] += max(e.Count, 1)
	}
	return n
}

// TestRefusedCredentials sends what must not pass to a real gateway: each is
// 401 with the same body, reaches no upstream, and is counted under its reason.
func TestRefusedCredentials(t *testing.T) {
	t.Parallel()
	p := newProtected(t)
	l := p.login
	good := func() string { return l.sign(t, "k1", "at+jwt", map[string]any{"sub": "alice-1"}) }
	with := func(claims map[string]any) string {
		if claims["sub"] == nil {
			claims["sub"] = "alice-1"
		}
		return l.sign(t, "k1", "at+jwt", claims)
	}
	if r := p.http.do(t, "GET", p.Gateway+"/documents/roadmap", "", bearer(good())...); r.status != 200 {
		t.Fatalf("a good token: %d %s", r.status, r.body)
	}
	evil, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	claims := map[string]any{"iss": l.url, "aud": "api://docs", "sub": "alice-1", "client_id": "app", "jti": "x", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	withHeader := func(header map[string]any) string { return rawToken(t, evil, header, claims) }
	public, err := x509.MarshalPKIXPublicKey(&l.keys["k1"].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: &evil.PublicKey, KeyID: "evil", Algorithm: "ES256"}
	base, expected := p.reached.count(), map[string]bool{}

	for _, c := range []struct {
		name, reason string
		authorize    []string
	}{
		{"no token", "missing", nil},
		{"an empty one", "malformed", []string{"Bearer "}},
		{"another scheme", "malformed", []string{"Basic YWxpY2U6cGFzcw=="}},
		{"expired", "expired", []string{"Bearer " + with(map[string]any{"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(-2 * time.Minute).Unix()})}},
		{"not yet valid", "not_yet_valid", []string{"Bearer " + with(map[string]any{"nbf": now.Add(2 * time.Minute).Unix()})}},
		{"no exp", "no_expiry", []string{"Bearer " + with(map[string]any{"exp": nil})}},
		{"wrong issuer", "issuer", []string{"Bearer " + with(map[string]any{"iss": "https://evil.example"})}},
		{"issuer with a slash", "issuer", []string{"Bearer " + with(map[string]any{"iss": l.url + "/"})}},
		{"wrong audience", "issuer", []string{"Bearer " + with(map[string]any{"aud": "api://other"})}},
		{"several audiences", "issuer", []string{"Bearer " + with(map[string]any{"aud": []string{"api://docs", "api://other"}})}},
		{"alg none", "alg", []string{"Bearer " + unsigned(t, "none", claims, "")}},
		{"alg None", "alg", []string{"Bearer " + unsigned(t, "None", claims, "")}},
		{"HS256 with the public key", "alg", []string{"Bearer " + hmacToken(t, public, claims)}},
		{"unknown kid", "unknown_key", []string{"Bearer " + withHeader(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "k2"})}},
		{"a path as kid", "unknown_key", []string{"Bearer " + withHeader(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "../../dev/null"})}},
		{"another key under our kid", "signature", []string{"Bearer " + withHeader(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "k1"})}},
		{"jwk", "malformed", []string{"Bearer " + withHeader(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "evil", "jwk": jwk})}},
		{"jku", "malformed", []string{"Bearer " + withHeader(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "evil", "jku": p.reached.url + "/jwks"})}},
		{"x5u", "malformed", []string{"Bearer " + withHeader(map[string]any{"alg": "ES256", "typ": "at+jwt", "kid": "evil", "x5u": p.reached.url + "/x5u"})}},
		{"an ID token", "token_type", []string{"Bearer " + l.sign(t, "k1", "JWT", map[string]any{"sub": "alice-1", "nonce": "n", "at_hash": "h"})}},
		{"somebody unknown", "unknown_subject", []string{"Bearer " + with(map[string]any{"sub": "mallory"})}},
		{"thousands of dots", "", []string{"Bearer " + strings.Repeat(".", 9000)}},
		{"two Authorization headers", "", []string{"Bearer " + good(), "Bearer " + good()}},
		{"a good and a bad one", "", []string{"Bearer " + good(), "Bearer x"}},
	} {
		var header []string
		for _, v := range c.authorize {
			header = append(header, "Authorization", v)
		}
		r := p.http.do(t, "GET", p.Gateway+"/documents/roadmap", "", header...)
		if r.status != 401 && !(c.reason == "" && r.status == 400) {
			t.Errorf("%s: %d %s", c.name, r.status, r.body)
		}
		for _, v := range c.authorize {
			if len(v) > 20 && strings.Contains(r.body, v[7:]) {
				t.Errorf("%s: the answer shows the token", c.name)
			}
		}
		if c.reason == "" {
			continue
		}
		expected[c.reason] = true
	}
	// Rejects are counted and written each second.
	var seen map[string]int
	defer func() {
		if t.Failed() {
			t.Logf("rejects by reason: %v", seen)
		}
	}()
	for reason := range expected {
		p.process.await("rejects for "+reason, func() bool {
			seen = p.rejects(t)
			return seen[reason] > 0
		})
	}
	// A megabyte does not fit into a header at all: net/http answers with an error
	// and closes the connection. HTTP/1.1, where such an end has its event.
	one := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.http.Transport.(*http.Transport).TLSClientConfig.RootCAs}}
	if r, err := send(&http.Client{Transport: one}, "GET", p.Gateway+"/documents/roadmap", "", bearer(strings.Repeat("a", 1<<20))...); err == nil && r.status < 400 {
		t.Errorf("a token of 1 MB: %d", r.status)
	}
	p.process.await("the reject of a head that is too large", func() bool { return p.rejects(t)["unreadable_request"] > 0 })
	if n := p.reached.count(); n != base {
		t.Errorf("%d refused requests reached the upstream", n-base)
	}
	if r := p.http.do(t, "GET", p.Gateway+"/documents/roadmap", "", bearer(good())...); r.status != 200 {
		t.Errorf("a good token after all of this: %d %s", r.status, r.body)
	}
}

// rawToken signs whatever header it is given.
func rawToken(t testing.TB, key *ecdsa.PrivateKey, header map[string]any, claims any) string {
	t.Helper()
	input := encode(t, header) + "." + encode(t, claims)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig[:])
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func unsigned(t testing.TB, alg string, claims any, sig string) string {
	return encode(t, map[string]any{"alg": alg, "typ": "at+jwt", "kid": "k1"}) + "." + encode(t, claims) + "." + sig
}

func hmacToken(t testing.TB, key []byte, claims any) string {
	input := encode(t, map[string]any{"alg": "HS256", "typ": "at+jwt", "kid": "k1"}) + "." + encode(t, claims)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// A login that rotates its keys, withdraws one, or is away.
func TestLoginRotates(t *testing.T) {
	t.Parallel()
	p := newProtected(t)
	old := p.login.sign(t, "k1", "at+jwt", map[string]any{"sub": "alice-1"})
	get := func(token string) int {
		return p.http.do(t, "GET", p.Gateway+"/documents/roadmap", "", bearer(token)...).status
	}
	if got := get(old); got != 200 {
		t.Fatalf("before: %d", got)
	}
	p.login.rotate("k2")
	fresh := p.login.sign(t, "k2", "at+jwt", map[string]any{"sub": "alice-1"})
	// Keys are fetched anew for an unknown kid, once in 30 s.
	p.process.await("a token of the new key", func() bool { return get(fresh) == 200 })
	if got := get(old); got != 401 {
		t.Errorf("a token of the withdrawn key: %d", got)
	}
	// Suspending the connection, the user, the tenant: each at once.
	p.cli("admin", "idp", "suspend", "login")
	if got := get(fresh); got != 401 {
		t.Errorf("through a suspended connection: %d", got)
	}
	p.cli("admin", "idp", "resume", "login")
	p.cli("admin", "user", "suspend", "alice")
	if got := get(fresh); got != 401 {
		t.Errorf("as a suspended user: %d", got)
	}
	p.cli("admin", "user", "resume", "alice")
	// The login's clock may be a minute ahead, so what it dates within a minute
	// of the suspension may have been issued before it.
	dated := func(ahead time.Duration) string {
		return p.login.sign(t, "k2", "at+jwt", map[string]any{"sub": "alice-1", "iat": time.Now().Add(ahead).Unix()})
	}
	if got := get(dated(time.Second)); got != 401 {
		t.Errorf("with a token that may be from before the suspension: %d", got)
	}
	var again string
	p.process.await("a new token, after the user goes on", func() bool {
		again = dated(time.Minute)
		return get(again) == 200
	})
	p.cli("operator", "tenant", "suspend", "acme")
	if got := get(again); got != 401 && got != 403 && got != 404 {
		t.Errorf("in a suspended tenant: %d", got)
	}
}
