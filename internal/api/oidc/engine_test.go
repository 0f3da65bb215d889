package oidc

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/sts"
)

func bareEngine(t *testing.T) *engine {
	t.Helper()
	e, err := newEngine("https://id.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func knock(e *engine, ctx context.Context, method, path string, v url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	e.handler.ServeHTTP(w, r)
	return w
}

func TestEngineHasNoKey(t *testing.T) {
	t.Parallel()
	if w := knock(bareEngine(t), t.Context(), http.MethodGet, "/jwks", nil); w.Code != http.StatusInternalServerError {
		t.Errorf("the engine publishes keys: %d %s", w.Code, w.Body)
	}
}

// Whoever reached the engine past our own handlers would get nothing from it.
func TestEngineAloneGivesNothing(t *testing.T) {
	t.Parallel()
	e := bareEngine(t)
	const header = "eyJhbGciOiJFUzI1NiJ9." // {"alg":"ES256"}
	assertion := header + "eyJpc3MiOiJ4In0.AAAA"
	exchange := url.Values{"subject_token": {"x"}, "subject_token_type": {sts.TypeAccessToken}, "audience": {"a"}}
	with := func(grant string, v url.Values, more ...string) url.Values {
		out := url.Values{"grant_type": {grant}}
		for k, list := range v {
			out[k] = list
		}
		for i := 0; i+1 < len(more); i += 2 {
			out.Set(more[i], more[i+1])
		}
		return out
	}
	empty := context.WithValue(t.Context(), callKey{}, &call{grant: grantClient})
	for name, x := range map[string]struct {
		ctx    context.Context
		path   string
		v      url.Values
		status int
	}{
		"client by id":             {t.Context(), PathToken, with(grantClient, nil, "client_id", "x"), 401},
		"client by assertion":      {t.Context(), PathToken, with(grantClient, nil, "client_assertion", assertion, "client_assertion_type", sts.ClientAssertionType), 401},
		"client by secret":         {t.Context(), PathToken, with(grantClient, nil, "client_id", "x", "client_secret", "x"), 401},
		"client of no call":        {empty, PathToken, with(grantClient, nil, "client_id", "x"), 401},
		"exchange without client":  {t.Context(), PathToken, with(grantExchange, exchange), 401},
		"exchange by id":           {t.Context(), PathToken, with(grantExchange, exchange, "client_id", "x"), 401},
		"person":                   {t.Context(), PathToken, with(grantPerson, nil, "assertion", assertion), 403},
		"person in another's call": {empty, PathToken, with(grantPerson, nil, "assertion", assertion), 403},
		"code":                     {t.Context(), PathToken, with("authorization_code", nil, "code", "x"), 400},
		"refresh":                  {t.Context(), PathToken, with("refresh_token", nil, "refresh_token", "x"), 400},
		"introspection":            {t.Context(), "/introspect", url.Values{"token": {"x"}}, 404},
		"revocation":               {t.Context(), "/revoke", url.Values{"token": {"x"}}, 404},
	} {
		w := knock(e, x.ctx, http.MethodPost, x.path, x.v)
		if w.Code != x.status || strings.Contains(w.Body.String(), `"access_token"`) {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, x.status)
		}
	}
	r := httptest.NewRequest(http.MethodPost, "/register", strings.NewReader(`{"redirect_uris":["https://a.example"]}`))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	e.handler.ServeHTTP(w, r)
	if w.Code < 400 || strings.Contains(w.Body.String(), "client_id") {
		t.Errorf("a client was registered: %d %s", w.Code, w.Body)
	}
}

func TestEngineKeepsNothing(t *testing.T) {
	t.Parallel()
	s, ctx := newEmptyStorage(), t.Context()
	// The engine asks exactly this before it takes a storage of its own.
	if reflect.ValueOf(goidc.GrantManager(s)).IsZero() {
		t.Fatal("the engine would keep grants in memory")
	}
	if err := s.SaveGrant(ctx, &goidc.Grant{ID: "g"}); err != nil {
		t.Error(err)
	}
	if err := s.SaveToken(ctx, &goidc.Token{ID: "t"}); err != nil {
		t.Error(err)
	}
	if g, err := s.Grant(ctx, "g"); g != nil || err != goidc.ErrNotFound {
		t.Errorf("grant %v, %v", g, err)
	}
	if k, err := s.Token(ctx, "t"); k != nil || err != goidc.ErrNotFound {
		t.Errorf("token %v, %v", k, err)
	}
	if c, err := s.Client(ctx, ""); c != nil || err != goidc.ErrNotFound {
		t.Errorf("client %v, %v", c, err)
	}
	if s.SaveClient(ctx, &goidc.Client{ID: "c"}) == nil || s.DeleteClient(ctx, "c") == nil {
		t.Error("the engine may change clients")
	}
}

func TestEngineSeesCheckedFormOnly(t *testing.T) {
	t.Parallel()
	c := &call{grant: grantExchange, form: form{
		"grant_type": {grantExchange}, "subject_token": {"s"}, "subject_token_type": {"t"}, "scope": {"openid"}, "audience": {"a"},
		"resource": {"r"}, "client_assertion": {"x"}, "client_assertion_type": {"y"}, "client_id": {"z"}, "client_secret": {"s"},
		"tenant": {"acme"}, "authorization_details": {"[]"}, "code_verifier": {"v"},
	}}
	r := request(t.Context(), c)
	want := url.Values{"grant_type": {grantExchange}, "subject_token": {"s"}, "subject_token_type": {"t"}}
	if !reflect.DeepEqual(r.PostForm, want) || len(r.Header) != 1 || r.URL.String() != PathToken {
		t.Errorf("the engine sees %v, %v, %s", r.PostForm, r.Header, r.URL)
	}
}

func TestAnswerIsOurs(t *testing.T) {
	t.Parallel()
	tok := sts.Token{Value: "v", Life: 5 * time.Minute, Scopes: []string{"a", "b"}}
	const good = `{"access_token":"v","token_type":"Bearer","expires_in":300,"scope":"a b"}`
	if err := ours([]byte(good), tok); err != nil {
		t.Error(err)
	}
	for _, body := range []string{
		``, `{}`, strings.Replace(good, `"v"`, `"w"`, 1), strings.Replace(good, "Bearer", "DPoP", 1), strings.Replace(good, "300", "3000", 1),
		strings.Replace(good, "a b", "a b c", 1), strings.Replace(good, "{", `{"refresh_token":"r",`, 1), strings.Replace(good, "{", `{"id_token":"i",`, 1),
	} {
		if err := ours([]byte(body), tok); fault.KindOf(err) != fault.Internal {
			t.Errorf("%s passed", body)
		}
	}
	if ours([]byte(`{"access_token":""}`), sts.Token{}) == nil {
		t.Error("no token passed for one")
	}
}

// The comparison stands between the engine and the caller.
func TestEngineCannotAnswerForItself(t *testing.T) {
	t.Parallel()
	e := bareEngine(t)
	for _, c := range []*call{{}, {token: sts.Token{Value: "v", Life: time.Minute}}} {
		e.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write([]byte(`{"access_token":"forged","token_type":"Bearer","expires_in":60}`))
		})
		if body, err := e.run(t.Context(), c); body != nil || fault.KindOf(err) != fault.Internal {
			t.Errorf("%s, %v", body, err)
		}
	}
	// No answer at all is no success, and a reason it may not have is ours.
	for _, text := range []string{"", `{"error":"access_denied"}`, `{"error":"invalid_client"}`} {
		e.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
		if body, err := e.run(t.Context(), &call{}); body != nil || fault.KindOf(err) != fault.Internal {
			t.Errorf("%s, %v", body, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, issuer := range []string{"", "http://id.example", "https://", "https://id.example/", "https://id.example/x", "https://u@id.example", "https://id.example?x=1", "id.example"} {
		if _, err := New(Config{Issuer: issuer}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", issuer, err)
		}
	}
}

func FuzzReadForm(f *testing.F) {
	f.Add("grant_type=client_credentials&audience=a&audience=b", "application/x-www-form-urlencoded")
	f.Add("a=%ff;b=%zz&&==&a=", "application/x-www-form-urlencoded; charset=UTF-8")
	f.Add("client_secret=x&client_assertion=y", "text/plain")
	f.Fuzz(func(t *testing.T, body, contentType string) {
		r := httptest.NewRequest(http.MethodPost, PathToken, strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		got, err := readForm(r)
		if err != nil {
			return
		}
		for name, list := range got {
			if len(list) > 1 && name != "audience" && name != "resource" {
				t.Fatalf("%q is repeated: %q", name, list)
			}
		}
		if got.get("client_secret") != "" {
			t.Fatal("a secret passed")
		}
	})
}
