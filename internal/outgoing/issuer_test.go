package outgoing_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/authn"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// store is what the real directory is loaded from; people are asked for one by
// one. What the embedded nil Store would answer is not asked for here.
type store struct {
	directory.Store
	records []directory.Record
	users   map[string]*directory.User
}

func (s store) LoadDirectory(context.Context) ([]directory.Record, error) { return s.records, nil }

func (s store) UserByExternal(_ context.Context, connection, subject string) (*directory.User, error) {
	if u := s.users[connection+" "+subject]; u != nil {
		return u, nil
	}
	return nil, fault.New(fault.NotFound, "no such user")
}

// noKeys is our own issuer's key set, which these tests do not need.
type noKeys struct{}

func (noKeys) PublicKey(string) (jose.PublicKey, bool) { return jose.PublicKey{}, false }

const tid = "72f988bf-86f1-41af-91ab-2d7cd011db47"

// TestTokensOfRealIssuers: issuers on real TLS, in the shapes of Okta, Entra and
// Google, read through the tenant client by the authenticator. Nothing in
// between is replaced.
func TestTokensOfRealIssuers(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, jose.MinRSA)
	if err != nil {
		t.Fatal(err)
	}
	set, err := jose.NewSet(jose.PublicKey{KID: "k1", Alg: jose.RS256, Key: &key.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var internal atomic.Int64
	secretHost := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { internal.Add(1) }))
	t.Cleanup(secretHost.Close)

	var base string
	mux := http.NewServeMux()
	// An issuer is any path before the well-known name; its kind of misbehaviour is its first part.
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		issuer, found := strings.CutSuffix(r.URL.Path, "/.well-known/openid-configuration")
		behaviour := strings.Split(r.URL.Path, "/")[1]
		switch {
		case found && behaviour == "http":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": base + issuer, "jwks_uri": secretHost.URL})
		case found && behaviour == "liar":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": base + "/good", "jwks_uri": base + "/good/keys"})
		case found:
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": base + issuer, "jwks_uri": base + issuer + "/keys"})
		case behaviour == "redirect":
			http.Redirect(w, r, secretHost.URL, http.StatusFound)
		case behaviour == "big":
			_, _ = w.Write(append(keys, make([]byte, 5<<20)...))
		case behaviour == "slow":
			<-r.Context().Done()
		case behaviour == "wrong":
			http.Error(w, "no", http.StatusInternalServerError)
		default:
			_, _ = w.Write(keys)
		}
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	base = server.URL
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())

	now := time.Now()
	acme, alice := tenant.New(), tenant.RandomID()
	type claims map[string]any
	times := func(c claims) claims {
		c["iat"], c["exp"] = now.Unix(), now.Add(time.Hour).Unix()
		return c
	}
	okta := func(issuer string) claims {
		return times(claims{"iss": issuer, "aud": "api://acme", "cid": "0oa1", "uid": "alice", "sub": "alice@acme.test", "scp": []string{"read"}, "jti": "AT.1", "ver": 1})
	}
	cases := []struct {
		name, path string
		kind       directory.ConnectionKind
		token      func(issuer string) claims
		want       authn.Reason // empty: a principal
	}{
		{"okta", "/oauth2/default", directory.Okta, okta, ""},
		{"okta's ID token", "/oauth2/id", directory.Okta, func(i string) claims {
			return times(claims{"iss": i, "aud": "api://acme", "sub": "00u1", "nonce": "n", "at_hash": "x", "jti": "ID.1", "ver": 1, "email": "alice@acme.test"})
		}, authn.TokenType},
		{"entra", "/" + tid + "/v2.0", directory.Entra, func(i string) claims {
			return times(claims{"iss": i, "aud": "api://acme", "azp": "c", "azpacr": "1", "oid": "alice", "tid": tid, "scp": "access", "ver": "2.0", "sub": "pairwise"})
		}, ""},
		{"entra of another directory", "/00000000-0000-0000-0000-000000000000/v2.0", directory.Entra, func(i string) claims {
			return times(claims{"iss": i, "aud": "api://acme", "azp": "c", "azpacr": "1", "oid": "alice", "tid": tid, "scp": "access", "ver": "2.0", "sub": "pairwise"})
		}, authn.Issuer},
		{"google", "", directory.Google, func(i string) claims {
			return times(claims{"iss": i, "aud": "api://acme", "azp": "alice", "sub": "alice", "email": "bot@acme.iam.gserviceaccount.com", "email_verified": true})
		}, ""},
		{"keys redirected to an internal host", "/redirect", directory.Okta, okta, authn.KeysUnavailable},
		{"keys of 5 MB", "/big", directory.Okta, okta, authn.KeysUnavailable},
		{"slow keys", "/slow", directory.Okta, okta, authn.KeysUnavailable},
		{"keys over http", "/http", directory.Okta, okta, authn.KeysUnavailable},
		{"failing keys", "/wrong", directory.Okta, okta, authn.KeysUnavailable},
		{"discovery of another issuer", "/liar", directory.Okta, okta, authn.KeysUnavailable},
	}
	s := store{users: map[string]*directory.User{}, records: []directory.Record{
		&directory.Tenant{Tenant: acme, Name: "acme", State: directory.Active, System: "s"},
	}}
	for _, c := range cases {
		conn := &directory.Connection{
			Tenant: acme, ID: tenant.RandomID(), Name: "c", Issuer: base + c.path, Audience: "api://acme",
			Kind: c.kind, Algs: []string{"RS256"}, State: directory.Active,
		}
		s.records = append(s.records, conn)
		s.users[conn.ID+" alice"] = &directory.User{Tenant: acme, ID: alice, State: directory.Active}
	}
	dir, err := directory.New(t.Context(), directory.Config{
		Store: s, Env: "test", MaxToken: time.Minute, Now: time.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.Random(32), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	with := func(cfg outgoing.Config) *authn.Authenticator {
		cfg.RootCAs = pool
		return authn.New(authn.Config{
			Env: "test", Issuer: "https://bulwark.test", Keys: noKeys{}, Directory: dir, Fetch: outgoing.Tenant(cfg).Get, Now: time.Now,
		})
	}
	dev, serve := with(outgoing.Config{AllowLoopback: true}), with(outgoing.Config{})
	hasty := with(outgoing.Config{AllowLoopback: true, Timeout: 300 * time.Millisecond})
	for _, c := range cases {
		input := encode(t, map[string]any{"alg": "RS256", "kid": "k1"}) + "." + encode(t, c.token(base+c.path))
		sum := sha256.Sum256([]byte(input))
		sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		in := authn.Input{
			Authorization: []string{"Bearer " + input + "." + base64.RawURLEncoding.EncodeToString(sig)},
			Audience:      "urn:bulwark:test:gateway",
		}
		dir.Confirm()
		asked := dev
		if c.path == "/slow" {
			asked = hasty
		}
		p, err := asked.Authenticate(t.Context(), in)
		var refusal *authn.Refusal
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "" && (p.Tenant != acme || p.Subject != principal.Subject{Kind: principal.User, ID: alice}):
			t.Errorf("%s: %+v", c.name, p)
		case c.want != "" && (!errors.As(err, &refusal) || refusal.Reason != c.want):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		// Outside dev the same issuer is an internal address and is not asked.
		if _, err := serve.Authenticate(t.Context(), in); !errors.As(err, &refusal) || refusal.Reason != authn.KeysUnavailable {
			t.Errorf("%s, loopback not allowed: %v", c.name, err)
		}
	}
	if n := internal.Load(); n != 0 {
		t.Errorf("the internal host was reached %d times", n)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}
