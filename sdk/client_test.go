package sdk_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"bulwark.example/sdk"
)

const notes = "01JDN3W8Z6N0TES00000000000"

// call is a request as the API got it.
type call struct {
	method, path, authorization, contentType, body string
}

// api answers as it is told. What the real one answers is for e2e.
type api struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by path
	calls   []call
}

func newAPI(t testing.TB) *api {
	t.Helper()
	a := &api{answers: map[string]http.HandlerFunc{}}
	a.Server = tlsServer(t, a)
	a.on("/oauth2/token", 200, `{"access_token":"token-1","token_type":"Bearer","expires_in":300}`)
	a.on("/stores", 200, `{"stores":[{"id":"s1","name":"app"}],"continuation_token":""}`)
	a.on("/stores/s1/check", 200, `{"allowed":true,"resolution":""}`)
	return a
}

// ServeHTTP implements [http.Handler].
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a client that is gone sent what it sent
	a.mu.Lock()
	a.calls = append(a.calls, call{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(body)})
	answer := a.answers[r.URL.Path]
	a.mu.Unlock()
	answer(w, r)
}

// on sets the answer for a path.
func (a *api) on(path string, status int, body string) {
	a.handle(path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the asker may be gone
	})
}

func (a *api) handle(path string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[path] = h
}

// got returns the calls for a path, and forgets them.
func (a *api) got(path string) []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out, rest []call
	for _, c := range a.calls {
		if c.path == path {
			out = append(out, c)
		} else {
			rest = append(rest, c)
		}
	}
	a.calls = rest
	return out
}

func privateJWK(t testing.TB, key any, kid string) []byte {
	t.Helper()
	b, err := jose.JSONWebKey{Key: key, KeyID: kid}.MarshalJSON()
	must(t, err)
	return b
}

func newClient(t testing.TB, a *api, c *clock) (*sdk.Client, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	client, err := sdk.NewClient(sdk.ClientConfig{Issuer: a.URL, ClientID: notes, Key: privateJWK(t, key, "k1"), HTTP: a.Client(), Now: c.now})
	must(t, err)
	return client, key
}

// principal is what the middleware makes of an assertion, or of a token.
func principal(t testing.TB, credential func(*issuer) (name, value string)) (*sdk.Principal, string) {
	t.Helper()
	i := newIssuer(t)
	v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: i.URL, Audience: audience, HTTP: i.Client()})
	must(t, err)
	r := httptest.NewRequest("GET", "/documents/roadmap", nil)
	name, value := credential(i)
	r.Header.Set(name, value)
	p, err := v.Verify(r)
	must(t, err)
	return p, strings.TrimPrefix(value, "Bearer ")
}

func byAssertion(i *issuer) (string, string) { return sdk.AssertionHeader, i.assertion(nil) }
func byToken(i *issuer) (string, string)     { return "Authorization", "Bearer " + i.token(nil) }

// form reads a request to the issuer and verifies the client assertion in it.
func form(t testing.TB, issuer string, c call, key *ecdsa.PrivateKey, now time.Time) (values url.Values, jti string) {
	t.Helper()
	if c.method != "POST" || c.contentType != "application/x-www-form-urlencoded" || c.authorization != "" {
		t.Errorf("%+v", c)
	}
	values, err := url.ParseQuery(c.body)
	must(t, err)
	jws, err := jose.ParseSignedCompact(values.Get("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
	must(t, err)
	payload, err := jws.Verify(&key.PublicKey)
	must(t, err)
	if h := jws.Signatures[0].Protected; h.KeyID != "k1" || h.ExtraHeaders[jose.HeaderType] != "JWT" || h.JSONWebKey != nil {
		t.Errorf("the client assertion's header is %+v", h)
	}
	var claims map[string]any
	must(t, json.Unmarshal(payload, &claims))
	jti, _ = claims["jti"].(string)
	want := map[string]any{"iss": notes, "sub": notes, "aud": issuer, "jti": jti, "iat": float64(now.Unix()), "exp": float64(now.Unix() + 60)}
	if diff := cmp.Diff(want, claims); diff != "" || len(jti) != 32 {
		t.Error("the client assertion:", diff)
	}
	if values.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		t.Error(values)
	}
	values.Del("client_assertion_type")
	values.Del("client_assertion")
	return values, jti
}

func TestExchange(t *testing.T) {
	t.Parallel()
	a, c := newAPI(t), &clock{began: time.Now()}
	client, key := newClient(t, a, c)
	ids := map[string]bool{}
	for kind, credential := range map[string]func(*issuer) (string, string){"jwt": byAssertion, "access_token": byToken} {
		p, received := principal(t, credential)
		for _, scope := range [][]string{nil, {"read", "write"}} {
			token, err := client.Exchange(t.Context(), p, "billing", scope)
			if err != nil || token != "token-1" {
				t.Fatal(token, err)
			}
			calls := a.got("/oauth2/token")
			if len(calls) != 1 {
				t.Fatalf("%d calls: a token of somebody's was kept", len(calls))
			}
			got, jti := form(t, a.URL, calls[0], key, c.now())
			ids[jti] = true
			want := url.Values{
				"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {received},
				"subject_token_type": {"urn:ietf:params:oauth:token-type:" + kind}, "audience": {"billing"},
			}
			if scope != nil {
				want.Set("scope", "read write")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
	}
	if len(ids) != 4 {
		t.Error("a client assertion's id is used twice")
	}
	// What cannot be asked is not asked.
	p, _ := principal(t, byAssertion)
	for name, ask := range map[string]func() (string, error){
		"nobody": func() (string, error) { return client.Exchange(t.Context(), nil, "billing", nil) },
		"one by hand": func() (string, error) {
			return client.Exchange(t.Context(), &sdk.Principal{Tenant: acme}, "billing", nil)
		},
		"for no scope":  func() (string, error) { return client.Exchange(t.Context(), p, "billing", []string{}) },
		"after the end": func() (string, error) { return client.Exchange(canceled(t), p, "billing", nil) },
		"from nobody": func() (string, error) {
			return client.Exchange(t.Context(), sdk.FromContext(t.Context()), "billing", nil)
		},
		"in ended client": func() (string, error) { return client.Token(canceled(t), acme, "authz") },
	} {
		if token, err := ask(); err == nil || token != "" {
			t.Errorf("%s: %q %v", name, token, err)
		}
	}
	if n := len(a.got("/oauth2/token")); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// What the token endpoint may answer beside a token.
func TestTokenErrors(t *testing.T) {
	t.Parallel()
	a, c := newAPI(t), &clock{began: time.Now()}
	client, _ := newClient(t, a, c)
	evil := newAPI(t)
	p, received := principal(t, byAssertion)
	for name, answer := range map[string]struct {
		status int
		body   string
		code   string // of an OAuthError
	}{
		"refused":              {400, `{"error":"invalid_target","error_description":"the audience cannot be reached"}`, "invalid_target"},
		"client refused":       {401, `{"error":"invalid_client"}`, "invalid_client"},
		"away":                 {503, `{"error":"temporarily_unavailable"}`, "temporarily_unavailable"},
		"error with a token":   {200, `{"error":"invalid_grant","access_token":"token-2"}`, "invalid_grant"},
		"a token with 400":     {400, `{"access_token":"token-2"}`, ""},
		"a token with 201":     {201, `{"access_token":"token-2"}`, ""},
		"no token":             {200, `{}`, ""},
		"empty token":          {200, `{"access_token":""}`, ""},
		"a page":               {502, `<html>bad gateway</html>`, ""},
		"nothing":              {200, ``, ""},
		"cut":                  {200, `{"access_token":"token-2"`, ""},
		"a token twice":        {200, `{"access_token":"token-2","access_token":"token-3"}`, ""},
		"a token in capitals":  {200, `{"Access_Token":"token-2"}`, ""},
		"not a token":          {200, `{"access_token":{}}`, ""},
		"larger than 1 MiB":    {200, strings.Repeat(" ", 1<<20) + `{"access_token":"token-2"}`, ""},
		"a redirect elsewhere": {307, ``, ""},
	} {
		if answer.status == 307 {
			a.handle("/oauth2/token", func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, evil.URL+"/oauth2/token", http.StatusTemporaryRedirect)
			})
		} else {
			a.on("/oauth2/token", answer.status, answer.body)
		}
		for call, ask := range map[string]func() (string, error){
			"exchange": func() (string, error) { return client.Exchange(t.Context(), p, "billing", nil) },
			"token":    func() (string, error) { return client.Token(t.Context(), acme, "billing") },
		} {
			token, err := ask()
			if err == nil || token != "" {
				t.Errorf("%s, %s: %q %v", name, call, token, err)
				continue
			}
			var refused *sdk.OAuthError
			if got := errors.As(err, &refused); got != (answer.code != "") || got && refused.Code != answer.code {
				t.Errorf("%s, %s: %v", name, call, err)
			}
			if strings.Contains(err.Error(), "token-2") || strings.Contains(err.Error(), received) {
				t.Errorf("%s, %s: the error shows a token: %v", name, call, err)
			}
		}
	}
	if len(evil.got("/oauth2/token")) != 0 {
		t.Error("a redirect was followed, with client assertion and token")
	}
	a.Close()
	if _, err := client.Exchange(t.Context(), p, "billing", nil); err == nil || strings.Contains(err.Error(), received) {
		t.Error(err)
	}
}

// The service's own tokens are kept until half a minute before their end, each
// for one tenant and one audience.
func TestTokensAreKept(t *testing.T) {
	t.Parallel()
	a, c := newAPI(t), &clock{began: time.Now()}
	client, key := newClient(t, a, c)
	n := 0
	a.handle("/oauth2/token", func(w http.ResponseWriter, _ *http.Request) {
		n++ // one request at a time
		_, _ = fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":300}`, n)
	})
	want := func(tenant, audience, token string, asked int) {
		t.Helper()
		got, err := client.Token(t.Context(), tenant, audience)
		calls := a.got("/oauth2/token")
		if err != nil || got != token || len(calls) != asked {
			t.Errorf("%q %v with %d calls, want %q with %d", got, err, len(calls), token, asked)
		}
		for _, call := range calls {
			v, _ := form(t, a.URL, call, key, c.now())
			w := url.Values{"grant_type": {"client_credentials"}, "audience": {audience}}
			if tenant != "" {
				w.Set("tenant", tenant)
			}
			if diff := cmp.Diff(w, v); diff != "" {
				t.Error(diff)
			}
		}
	}
	want(acme, "authz", "token-1", 1)
	want(acme, "authz", "token-1", 0)
	want("globex", "authz", "token-2", 1)
	want(acme, "billing", "token-3", 1)
	want("", "authz", "token-4", 1)
	c.forward(4 * time.Minute)
	want(acme, "authz", "token-1", 0)
	c.forward(31 * time.Second)
	want(acme, "authz", "token-5", 1)
	for k := range 1100 { // more than are kept
		if _, err := client.Token(t.Context(), fmt.Sprint("t", k), "authz"); err != nil {
			t.Fatal(err)
		}
	}
	a.got("/oauth2/token")
	want(acme, "authz", "token-1106", 1)
	if out := fmt.Sprintf("%v %+v %#v", client, client, client); strings.Contains(out, "token-") {
		t.Errorf("a token is printed: %.300s", out)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	a, c := newAPI(t), &clock{began: time.Now()}
	client, _ := newClient(t, a, c)
	ask := func() (bool, error) { return client.Check(t.Context(), acme, alice, "can_view", "document:roadmap") }
	if ok, err := ask(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	want := []call{{"POST", "/stores/s1/check", "Bearer token-1", "application/json", `{"tuple_key":{"object":"document:roadmap","relation":"can_view","user":"` + alice + `"}}`}}
	if diff := cmp.Diff(want, a.got("/stores/s1/check"), cmp.AllowUnexported(call{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]call{{"GET", "/stores", "Bearer token-1", "", ""}}, a.got("/stores"), cmp.AllowUnexported(call{})); diff != "" {
		t.Error(diff)
	}
	a.got("/oauth2/token")
	a.on("/stores/s1/check", 200, `{"allowed":false}`)
	if ok, err := ask(); err != nil || ok {
		t.Error(ok, err)
	}
	if len(a.got("/stores"))+len(a.got("/oauth2/token")) != 0 {
		t.Error("the store and the token are not kept")
	}
	// Everything that is no answer is no allow.
	a.got("/stores/s1/check")
	for name, answer := range map[string]struct {
		status, asked int
		body          string
	}{
		"an error that allows": {500, 1, `{"allowed":true}`}, "away": {503, 1, `{"code":"unavailable","message":"try again"}`}, "forbidden": {403, 1, `{"allowed":true}`},
		"not found": {404, 2, `{"code":"store_id_not_found","message":"Store ID not found"}`}, "unauthenticated": {401, 2, `{"allowed":true}`},
		"created": {201, 1, `{"allowed":true}`}, "a page": {200, 1, `<html>`}, "nothing": {200, 1, ``}, "text": {200, 1, `{"allowed":"true"}`},
		"twice": {200, 1, `{"allowed":false,"allowed":true}`}, "no object": {200, 1, `true`}, "cut": {200, 1, `{"allowed":true`},
	} {
		a.on("/stores/s1/check", answer.status, answer.body)
		ok, err := ask()
		if ok || err == nil {
			t.Errorf("%s: %v %v", name, ok, err)
		}
		if n := len(a.got("/stores/s1/check")); n != answer.asked {
			t.Errorf("%s: asked %d times", name, n)
		}
		if err != nil && strings.Contains(err.Error(), "token-1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, body := range []string{`{}`, `{"Allowed":true}`} { // no member of that name: not allowed
		a.on("/stores/s1/check", 200, body)
		if ok, err := ask(); ok || err != nil {
			t.Error(ok, err)
		}
	}
	if ok, err := client.Check(canceled(t), acme, alice, "can_view", "document:roadmap"); ok || err == nil {
		t.Error(ok, err)
	}
}

// What was kept and is refused is asked for anew, once.
func TestCheckRecovers(t *testing.T) {
	t.Parallel()
	a, c := newAPI(t), &clock{began: time.Now()}
	client, _ := newClient(t, a, c)
	ask := func() (bool, error) { return client.Check(t.Context(), acme, alice, "can_view", "document:roadmap") }
	if ok, err := ask(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	// The token is revoked, and the store is another one.
	a.on("/oauth2/token", 200, `{"access_token":"token-2","expires_in":300}`)
	a.on("/stores", 200, `{"stores":[{"id":"s/2"}]}`)
	a.on("/stores/s/2/check", 200, `{"allowed":true}`)
	a.handle("/stores/s1/check", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401); _, _ = io.WriteString(w, "{}") })
	if ok, err := ask(); err != nil || !ok {
		t.Error(ok, err)
	}
	if got := a.got("/stores/s%2F2/check"); len(got) != 1 || got[0].authorization != "Bearer token-2" {
		t.Errorf("%+v", got) // an id is one segment, whatever is in it
	}
}

// The store is found when it is the tenant's only one.
func TestStoreErrors(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"none": {200, `{"stores":[]}`}, "two": {200, `{"stores":[{"id":"s1"},{"id":"s2"}]}`}, "no id": {200, `{"stores":[{}]}`}, "nothing": {200, `{}`},
		"refused": {403, `{"stores":[{"id":"s1"}]}`}, "away": {503, `{}`}, "a page": {404, `<html>`}, "unauthenticated": {401, `{"stores":[{"id":"s1"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			client, _ := newClient(t, a, &clock{began: time.Now()})
			a.on("/stores", answer.status, answer.body)
			for range 2 {
				if ok, err := client.Check(t.Context(), acme, alice, "can_view", "document:roadmap"); ok || err == nil {
					t.Error(ok, err)
				}
			}
			if n := len(a.got("/stores/s1/check")); n != 0 {
				t.Errorf("%d checks", n)
			}
			a.on("/stores", 200, `{"stores":[{"id":"s1"}]}`)
			if ok, err := client.Check(t.Context(), acme, alice, "can_view", "document:roadmap"); !ok || err != nil {
				t.Error("a failure is kept:", err)
			}
		})
	}
}

func TestClientConfig(t *testing.T) {
	t.Parallel()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	good := sdk.ClientConfig{Issuer: "https://auth.example.com/", ClientID: notes, Key: privateJWK(t, ec, "k1")}
	if _, err := sdk.NewClient(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*sdk.ClientConfig){
		"no issuer":   func(c *sdk.ClientConfig) { c.Issuer = "" },
		"http":        func(c *sdk.ClientConfig) { c.Issuer = "http://auth.example.com" },
		"no client":   func(c *sdk.ClientConfig) { c.ClientID = "" },
		"no key":      func(c *sdk.ClientConfig) { c.Key = nil },
		"public key":  func(c *sdk.ClientConfig) { c.Key = privateJWK(t, &ec.PublicKey, "k1") },
		"no kid":      func(c *sdk.ClientConfig) { c.Key = privateJWK(t, ec, "") },
		"P-384":       func(c *sdk.ClientConfig) { c.Key = privateJWK(t, p384, "k1") },
		"RSA":         func(c *sdk.ClientConfig) { c.Key = privateJWK(t, r, "k1") },
		"Ed25519":     func(c *sdk.ClientConfig) { c.Key = privateJWK(t, ed, "k1") },
		"symmetric":   func(c *sdk.ClientConfig) { c.Key = privateJWK(t, []byte("secret secret secret"), "k1") },
		"a damaged":   func(c *sdk.ClientConfig) { c.Key = good.Key[:len(good.Key)-2] },
		"PEM":         func(c *sdk.ClientConfig) { c.Key = []byte("-----BEGIN EC") },
		"a wrong one": func(c *sdk.ClientConfig) { c.Key = []byte(strings.Replace(string(good.Key), `"x":"`, `"x":"AAAA`, 1)) },
	} {
		c := good
		change(&c)
		client, err := sdk.NewClient(c)
		if client != nil || err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		var d struct{ D, K string }
		_ = json.Unmarshal(c.Key, &d) // what is no JSON has no such member
		for _, part := range []string{d.D, d.K} {
			if part != "" && strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error holds the key: %v", name, err)
			}
		}
	}
}

// What the gateway says that the session has seen goes along with a check of the
// same tenant, and of no other; a caller that comes past the gateway cannot say it.
func TestCheckAtLeast(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		credential         func(*issuer) (string, string)
		tenant, seen, want string
	}{
		"the session's tenant": {byAssertion, acme, "token", "token"},
		"another tenant":       {byAssertion, "globex", "token", ""},
		"nothing seen":         {byAssertion, acme, "", ""},
		"past the gateway":     {byToken, acme, "token", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			sent := make(chan string, 1)
			a.handle("/stores/s1/check", func(w http.ResponseWriter, r *http.Request) {
				sent <- r.Header.Get("Bulwark-At-Least")
				_, _ = io.WriteString(w, `{"allowed":true}`) // the asker may be gone
			})
			client, _ := newClient(t, a, &clock{began: time.Now()})
			i := newIssuer(t)
			v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: i.URL, Audience: audience, HTTP: i.Client()})
			must(t, err)
			h := v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if told := r.Header.Get("Bulwark-At-Least"); told != sdk.FromContext(r.Context()).AtLeast {
					t.Errorf("the handler reads %q", told)
				}
				if _, err := client.Check(r.Context(), c.tenant, alice, "can_view", "document:roadmap"); err != nil {
					t.Error(err)
				}
			}))
			r := httptest.NewRequest("GET", "/documents/roadmap", nil)
			r.Header.Set(c.credential(i))
			if c.seen != "" {
				r.Header.Set("Bulwark-At-Least", c.seen)
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			if got := <-sent; got != c.want {
				t.Errorf("sent %q, want %q", got, c.want)
			}
		})
	}
}
