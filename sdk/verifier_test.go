package sdk_test

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bulwark.example/sdk"
)

// An assertion and a token for this service give the same principal, but for
// what only the gateway can say.
func TestSamePrincipal(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	claims := i.asserted()
	want := &sdk.Principal{
		Tenant: acme, Subject: alice, Actors: []string{billing}, ClientID: "01JDN3W8Z6B1NGS00000000000", Scopes: []string{"read", "write"},
		ACR: "phr", AMR: []string{"hwk", "user"}, AuthTime: time.Unix(claims["auth_time"].(int64), 0),
		Route: "documents", Relation: "can_view", Object: "document:roadmap", ID: "j1", Expires: time.Unix(claims["exp"].(int64), 0),
	}
	ignore := cmpopts.IgnoreUnexported(sdk.Principal{})
	byAssertion := s.saw(s.get(i.sign("bulwark-assertion+jwt", "a1", claims)))
	if diff := cmp.Diff(want, byAssertion.Principal, ignore); diff != "" {
		t.Error("by assertion:", diff)
	}
	// The claims of an assertion in an access token are not the gateway's word.
	want.Route, want.Relation, want.Object = "", "", ""
	byToken := s.saw(s.send("POST", "/anywhere", bearer(i.sign("at+jwt", "t1", claims))...))
	if diff := cmp.Diff(want, byToken.Principal, ignore); diff != "" {
		t.Error("by token:", diff)
	}
	for _, p := range []*sdk.Principal{byAssertion.Principal, byToken.Principal} {
		if !p.HasScope("read") || p.HasScope("rea") || p.HasScope("read write") {
			t.Error("scopes")
		}
	}
	if p := byAssertion.Principal; !p.Decided("can_view", "document:roadmap") || p.Decided("can_edit", "document:roadmap") || p.Decided("can_view", "document:x") {
		t.Error("decided")
	}
	if byToken.Principal.Decided("", "") || (*sdk.Principal)(nil).Decided("", "") {
		t.Error("nothing is decided by nothing")
	}

	// What may be absent, and both ways to write the type (RFC 7515 section 4.1.9).
	few := map[string]any{"client_id": nil, "scope": nil, "act": nil, "acr": nil, "amr": nil, "auth_time": nil, "relation": nil, "object": nil}
	p := s.saw(s.get(i.sign("application/Bulwark-Assertion+JWT", "a1", with(i.asserted(), few)))).Principal
	if p.Tenant != acme || p.Subject != alice || len(p.Actors)+len(p.Scopes) != 0 || !p.AuthTime.IsZero() {
		t.Errorf("%+v", p)
	}
	if sdk.FromContext(t.Context()) != nil {
		t.Error("a principal without middleware")
	}
}

// What a token may not say. Each is refused as assertion and as bearer, and
// the good token beside it is taken.
func TestClaims(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	now := s.clock.now()
	deep := map[string]any{"sub": "service:4"}
	for _, sub := range []string{"service:3", "service:2", "service:1"} {
		deep = map[string]any{"sub": sub, "act": deep}
	}
	for name, change := range map[string]map[string]any{
		"another service's":          {"aud": other},
		"the gateway's":              {"aud": "urn:bulwark:test:gateway"},
		"no audience":                {"aud": nil},
		"a list":                     {"aud": []string{audience}},
		"a list with another":        {"aud": []string{audience, other}},
		"longer audience":            {"aud": audience + "0"},
		"another issuer":             {"iss": "https://evil.example"},
		"issuer with a slash":        {"iss": i.URL + "/"},
		"no issuer":                  {"iss": nil},
		"expired":                    {"iat": now.Add(-2 * time.Minute).Unix(), "exp": now.Add(-time.Second).Unix()},
		"no exp":                     {"exp": nil},
		"exp as text":                {"exp": fmt.Sprint(now.Add(time.Minute).Unix())},
		"exp as a fraction":          {"exp": float64(now.Add(time.Minute).Unix()) + 0.5},
		"negative exp":               {"exp": -1},
		"not yet":                    {"nbf": now.Add(time.Minute).Unix()},
		"nbf as text":                {"nbf": "0"},
		"made in the future":         {"iat": now.Add(time.Minute).Unix(), "exp": now.Add(2 * time.Minute).Unix()},
		"no iat":                     {"iat": nil},
		"no tenant":                  {"tenant": nil},
		"empty tenant":               {"tenant": ""},
		"tenant as a list":           {"tenant": []string{acme}},
		"no subject":                 {"sub": nil},
		"no jti":                     {"jti": nil},
		"four actors":                {"act": deep},
		"actor as text":              {"act": "service:1"},
		"bound to a key":             {"cnf": map[string]string{"jkt": "x"}},
		"bound to nothing":           {"cnf": raw("null")},
		"scope as a list":            {"scope": []string{"read"}},
		"amr as text":                {"amr": "hwk"},
		"time that is far too large": {"exp": raw("1e400")},
	} {
		for k, v := range change {
			if r, ok := v.(raw); ok {
				change[k] = jsonRaw(r)
			}
		}
		s.refused(name+", as an assertion", s.get(i.assertion(change)))
		s.refused(name+", as a bearer", s.send("GET", "/documents/roadmap", bearer(i.token(change))...))
	}
	for name, claims := range map[string]any{
		"no object": raw(`"x"`), "null": raw("null"), "an array": raw("[]"), "not JSON": raw("{"), "nothing": raw(""), "more behind it": raw("{}{}"),
		"a claim twice":       raw(`{"aud":"` + other + `",` + marshal(t, i.asserted())[1:]),
		"a claim in capitals": raw(strings.Replace(marshal(t, i.asserted()), `"tenant"`, `"Tenant"`, 1)),
	} {
		s.refused(name, s.get(i.sign("bulwark-assertion+jwt", "a1", claims)))
	}
	if n := s.calls.Load(); n != 0 {
		t.Errorf("%d refused requests reached the handler", n)
	}
	// Clocks that differ by less than half a minute do not matter at the begin.
	for name, change := range map[string]map[string]any{
		"good": nil, "just made": {"iat": now.Add(20 * time.Second).Unix()}, "past nbf": {"nbf": now.Unix()}, "three actors": {"act": deep["act"]},
	} {
		if r := s.get(i.assertion(change)); r.status != 200 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
		if r := s.send("GET", "/", bearer(i.token(change))...); r.status != 200 {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	s.clock.forward(time.Minute)
	s.refused("the good one a minute later", s.get(i.assertion(map[string]any{"exp": now.Add(time.Minute).Unix()})))
}

// A token that is no token, or that wants to bring its own key.
func TestHeaders(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	if r := s.get(i.assertion(nil)); r.status != 200 {
		t.Fatal(r)
	}
	evil := newIssuer(t)
	jwk := jose.JSONWebKey{Key: &evil.key("a1").PublicKey, KeyID: "a1", Algorithm: "ES256"}
	public, err := x509.MarshalPKIXPublicKey(&i.key("a1").PublicKey)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	const typ = "bulwark-assertion+jwt"
	good := i.assertion(nil)
	parts := strings.Split(good, ".")
	head := func(h map[string]any) string {
		return sign(t, i.key("a1"), with(map[string]any{"alg": "ES256", "typ": typ, "kid": "a1"}, h), i.asserted())
	}
	before := evil.fetches(assertions)
	for name, token := range map[string]string{
		"empty": "", "a dot": ".", "two dots": "..", "thousands of dots": strings.Repeat(".", 9000), "four parts": good + ".x",
		"no signature": parts[0] + "." + parts[1] + ".", "no claims": parts[0] + ".." + parts[2], "other claims": parts[0] + "." + encode(t, with(i.asserted(), map[string]any{"tenant": "x"})) + "." + parts[2],
		"padded": parts[0] + "=." + parts[1] + "." + parts[2], "a space inside": parts[0] + ". " + parts[1] + "." + parts[2],
		"too long":          i.assertion(map[string]any{"x": strings.Repeat("a", 16<<10)}),
		"a long header":     head(map[string]any{"x": strings.Repeat("a", 3<<10)}),
		"alg none":          encode(t, map[string]any{"alg": "none", "typ": typ, "kid": "a1"}) + "." + parts[1] + ".",
		"alg None":          encode(t, map[string]any{"alg": "None", "typ": typ, "kid": "a1"}) + "." + parts[1] + "." + parts[2],
		"HS256, public key": macToken(t, public, "a1", i.asserted()),
		"HS256, kid as key": macToken(t, []byte("a1"), "a1", i.asserted()),
		"RS256":             rsaToken(t, rsaKey, "a1", i.asserted()),
		"alg says RS256":    head(map[string]any{"alg": "RS256"}),
		"no alg":            head(map[string]any{"alg": nil}),
		"unknown kid":       evil.sign(typ, "a2", i.asserted()),
		"a path as kid":     evil.sign(typ, "../../dev/null", i.asserted()),
		"no kid":            head(map[string]any{"kid": nil}),
		"kid as a number":   head(map[string]any{"kid": 1}),
		"another key":       evil.sign(typ, "a1", i.asserted()),
		"the token's key":   i.sign(typ, "t1", i.asserted()),
		"no typ":            head(map[string]any{"typ": nil}),
		"typ JWT":           head(map[string]any{"typ": "JWT"}),
		"an access token":   i.token(nil),
		"typ at+jwt":        head(map[string]any{"typ": "at+jwt"}),
		"jwk":               sign(t, evil.key("a1"), map[string]any{"alg": "ES256", "typ": typ, "kid": "a1", "jwk": jwk}, i.asserted()),
		"jwk without kid":   sign(t, evil.key("a1"), map[string]any{"alg": "ES256", "typ": typ, "jwk": jwk}, i.asserted()),
		"jku":               sign(t, evil.key("a9"), map[string]any{"alg": "ES256", "typ": typ, "kid": "a9", "jku": evil.URL + assertions}, i.asserted()),
		"x5u":               sign(t, evil.key("a9"), map[string]any{"alg": "ES256", "typ": typ, "kid": "a9", "x5u": evil.URL + assertions}, i.asserted()),
		// Signed by us: what cannot be is refused all the same.
		"our jwk": head(map[string]any{"jwk": jose.JSONWebKey{Key: &i.key("a1").PublicKey}}), "our jku": head(map[string]any{"jku": i.URL}),
		"our x5u": head(map[string]any{"x5u": i.URL}), "our x5c": head(map[string]any{"x5c": []string{}}), "zip": head(map[string]any{"zip": "DEF"}),
		"crit": head(map[string]any{"crit": []string{"exp"}}), "b64": head(map[string]any{"b64": false}), "b64 and crit": head(map[string]any{"b64": false, "crit": []string{"b64"}}),
		"a member twice": sign(t, i.key("a1"), raw(`{"alg":"none","alg":"ES256","typ":"`+typ+`","kid":"a1"}`), i.asserted()),
		"in capitals":    sign(t, i.key("a1"), raw(`{"ALG":"ES256","typ":"`+typ+`","kid":"a1"}`), i.asserted()),
		"DER signature":  derToken(t, i.key("a1"), parts[0]+"."+parts[1]),
	} {
		s.refused(name, s.get(token))
	}
	for name, token := range map[string]string{
		"an assertion": good, "an assertion's key": i.sign("at+jwt", "a1", i.asserted()), "typ JWT": i.sign("JWT", "t1", i.common()), "an ID token": i.sign("", "t1", i.common()),
	} {
		s.refused(name+" as a bearer", s.send("GET", "/documents/roadmap", bearer(token)...))
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("%d requests reached the handler", n)
	}
	if evil.fetches(assertions) != before {
		t.Error("a token made us fetch its own keys")
	}
}

// An assertion is good for one path, one method, one route, one upstream.
func TestReplay(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, func(c *sdk.VerifierConfig) { c.Routes = []string{"documents", "search"} })
	elsewhere := newService(t, i, func(c *sdk.VerifierConfig) { c.Audience = other })
	a := i.assertion(nil)
	for name, r := range map[string]reply{
		"another path":      s.send("GET", "/documents/plan", sdk.AssertionHeader, a),
		"a path below":      s.send("GET", "/documents/roadmap/invoice", sdk.AssertionHeader, a),
		"a trailing slash":  s.send("GET", "/documents/roadmap/", sdk.AssertionHeader, a),
		"another case":      s.send("GET", "/documents/Roadmap", sdk.AssertionHeader, a),
		"an escaped letter": s.send("GET", "/documents/%72oadmap", sdk.AssertionHeader, a),
		"a parameter":       s.send("GET", "/documents/roadmap;x", sdk.AssertionHeader, a),
		"PUT":               s.send("PUT", "/documents/roadmap", sdk.AssertionHeader, a),
		"HEAD":              {status: s.send("HEAD", "/documents/roadmap", sdk.AssertionHeader, a).status, header: http.Header{"Www-Authenticate": {"Bearer"}}, body: "not authenticated\n"},
		"get":               s.send("get", "/documents/roadmap", sdk.AssertionHeader, a),
		"overridden method": s.send("POST", "/documents/roadmap", sdk.AssertionHeader, a, "X-Http-Method-Override", "GET"),
		"another upstream":  elsewhere.send("GET", "/documents/roadmap", sdk.AssertionHeader, a),
		"another route":     s.get(i.assertion(map[string]any{"route": "admin"})),
		"no route":          s.get(i.assertion(map[string]any{"route": nil})),
		"no method":         s.get(i.assertion(map[string]any{"htm": nil})),
		"no path":           s.get(i.assertion(map[string]any{"path": nil})),
		"as a bearer":       s.send("GET", "/documents/roadmap", bearer(a)...),
		"in a cookie":       s.send("GET", "/documents/roadmap", "Cookie", "Bulwark-Assertion="+a),
		"in the query":      s.send("GET", "/documents/roadmap?Bulwark-Assertion="+a),
		"in an alias":       s.send("GET", "/documents/roadmap", "Bulwark_Assertion", a),
	} {
		s.refused(name, r)
	}
	if s.calls.Load()+elsewhere.calls.Load() != 0 {
		t.Error("a replay reached a handler")
	}
	// The query is not stated; escapes are, as they are sent.
	for path, send := range map[string]string{
		"/documents/roadmap": "/documents/roadmap?a=b", "/documents/a%20b": "/documents/a%20b", "/documents/caf%C3%A9": "/documents/caf%C3%A9",
		"/documents/(x)!": "/documents/(x)!", "/documents/a%3Bb": "/documents/a%3Bb", "/cut/documents/roadmap": "/cut/documents/roadmap",
	} {
		s.saw(s.send("GET", send, sdk.AssertionHeader, i.assertion(map[string]any{"path": path})))
	}
	s.saw(s.get(i.assertion(map[string]any{"route": "search"})))
	// A caller with a token for this service has no route.
	s.saw(s.send("DELETE", "/anything", bearer(i.token(nil))...))
	// Without a list any route will do.
	newService(t, i, nil).saw(newService(t, i, nil).get(i.assertion(map[string]any{"route": "admin"})))
}

// One credential, once.
func TestCredentials(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	a, b := i.assertion(nil), i.token(nil)
	for name, header := range map[string][]string{
		"none": nil, "two assertions": {sdk.AssertionHeader, a, sdk.AssertionHeader, a}, "a good and an empty one": {sdk.AssertionHeader, a, sdk.AssertionHeader, ""},
		"joined by a comma": {sdk.AssertionHeader, a + ", " + a}, "two bearers": append(bearer(b), bearer(b)...),
		"assertion and bearer": append(bearer(b), sdk.AssertionHeader, a), "assertion and empty bearer": {sdk.AssertionHeader, a, "Authorization", ""},
		"assertion and Basic": {sdk.AssertionHeader, a, "Authorization", "Basic YTpi"}, "Basic": {"Authorization", "Basic YTpi"},
		"DPoP": {"Authorization", "DPoP " + b}, "no scheme": {"Authorization", b}, "empty": {"Authorization", ""}, "scheme alone": {"Authorization", "Bearer"},
		"another header": {"Proxy-Authorization", "Bearer " + b}, "two spaces": {"Authorization", "Bearer  " + b},
	} {
		s.refused(name, s.send("GET", "/documents/roadmap", header...))
	}
	if s.calls.Load() != 0 {
		t.Error("a refused request reached the handler")
	}
	s.saw(s.send("GET", "/x", "authorization", "bearer "+b)) // RFC 9110: schemes have no case
}

// Plain headers prove nothing: alone they are refused, and beside a good
// credential the handler reads what was verified.
func TestPlainHeaders(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := newService(t, i, nil)
	lies := []string{
		"Bulwark-Tenant", "globex", "Bulwark-Subject", "user:mallory", "Bulwark-Actor", "service:gateway", "Bulwark-Scope", "everything",
		"bulwark-tenant", "globex", "Bulwark_Tenant", "globex", "BULWARK-ROLE", "administrator", "Bulwark-Request-Id", "r9", "X-Other", "stays",
	}
	s.refused("plain headers alone", s.send("GET", "/documents/roadmap", lies...))
	for name, credential := range map[string][]string{"assertion": {sdk.AssertionHeader, i.assertion(nil)}, "bearer": bearer(i.token(nil))} {
		got := s.saw(s.send("GET", "/documents/roadmap", append(credential, lies...)...))
		if got.Principal.Tenant != acme || got.Principal.Subject != alice {
			t.Errorf("%s: %+v", name, got.Principal)
		}
		own := http.Header{}
		for k, v := range got.Header {
			if strings.HasPrefix(strings.ToLower(k), "bulwark") && k != sdk.AssertionHeader || k == "X-Other" {
				own[k] = v
			}
		}
		want := http.Header{
			"Bulwark-Tenant": {acme}, "Bulwark-Subject": {alice}, "Bulwark-Actor": {billing}, "Bulwark-Scope": {"read write"},
			"Bulwark-Request-Id": {"r9"}, "X-Other": {"stays"},
		}
		if diff := cmp.Diff(want, own); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	few := s.saw(s.send("GET", "/documents/roadmap", append(lies, sdk.AssertionHeader, i.assertion(map[string]any{"act": nil, "scope": nil}))...))
	if few.Header.Get("Bulwark-Actor")+few.Header.Get("Bulwark-Scope") != "" {
		t.Errorf("headers about nothing: %v", few.Header)
	}
}

// What a principal came with is not printed with it, and errors hold no token.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: i.URL, Audience: audience, HTTP: i.Client()})
	must(t, err)
	r := httptest.NewRequest("GET", "/documents/roadmap", nil)
	a := i.assertion(nil)
	r.Header.Set(sdk.AssertionHeader, a)
	p, err := v.Verify(r)
	must(t, err)
	if out := fmt.Sprintf("%v %+v %#v %+v", p, p, p, *p) + marshal(t, p); strings.Contains(out, a[:20]) {
		t.Errorf("a token is printed: %s", out)
	}
	if r.Header.Get("Bulwark-Tenant") != "" {
		t.Error("Verify changes the request")
	}
	r.Header.Set(sdk.AssertionHeader, i.assertion(map[string]any{"aud": "urn:secret"}))
	_, err = v.Verify(r)
	if !errors.Is(err, sdk.ErrUnauthenticated) || strings.Contains(err.Error(), "urn:secret") {
		t.Error(err)
	}
	// A request that no server made states its path in its URL alone.
	r.RequestURI = ""
	r.Header.Set(sdk.AssertionHeader, a)
	if _, err := v.Verify(r); err != nil {
		t.Error(err)
	}
	r.URL.Path = "/documents/plan"
	if _, err := v.Verify(r); !errors.Is(err, sdk.ErrUnauthenticated) {
		t.Error(err)
	}
}

func TestVerifierConfig(t *testing.T) {
	t.Parallel()
	good := sdk.VerifierConfig{Issuer: "https://auth.example.com", Audience: audience}
	if _, err := sdk.NewVerifier(good); err != nil {
		t.Error(err)
	}
	for _, issuer := range []string{"", "http://auth.example.com", "auth.example.com", "https://", "https://u:p@auth.example.com", "https://auth.example.com?x", "https://auth.example.com#x", "https://auth.example.com:x"} {
		c := good
		if c.Issuer = issuer; refusedConfig(c) {
			continue
		}
		t.Errorf("issuer %q is taken", issuer)
	}
	for _, a := range []string{"", "notes", "urn:bulwark:test:gateway", "urn:bulwark:test:svc:", "urn:bulwark::svc:x", "urn:bulwark:test:svc:x:y", "urn:other:test:svc:x", "URN:bulwark:test:svc:x"} {
		c := good
		if c.Audience = a; refusedConfig(c) {
			continue
		}
		t.Errorf("audience %q is taken", a)
	}
}

func refusedConfig(c sdk.VerifierConfig) bool {
	v, err := sdk.NewVerifier(c)
	return v == nil && err != nil
}

func macToken(t testing.TB, key []byte, kid string, claims any) string {
	input := encode(t, map[string]any{"alg": "HS256", "typ": "bulwark-assertion+jwt", "kid": kid}) + "." + encode(t, claims)
	h := hmac.New(sha256.New, key)
	h.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func rsaToken(t testing.TB, key *rsa.PrivateKey, kid string, claims any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("bulwark-assertion+jwt"))
	must(t, err)
	jws, err := signer.Sign([]byte(marshal(t, claims)))
	must(t, err)
	token, err := jws.CompactSerialize()
	must(t, err)
	return token
}

// derToken signs with the form of signature that X.509 has.
func derToken(t testing.TB, key *ecdsa.PrivateKey, input string) string {
	sum := sha256.Sum256([]byte(input))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	must(t, err)
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// Whatever is sent as a credential is refused, and nothing panics.
func FuzzCredentials(f *testing.F) {
	i := newIssuer(f)
	v, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: i.URL, Audience: audience, HTTP: i.Client()})
	must(f, err)
	good := i.sign("bulwark-assertion+jwt", "a1", with(i.asserted(), map[string]any{"exp": int64(1 << 40)}))
	for _, seed := range []string{"", ".", "..", "a.b.c", "Bearer a.b.c", good[:strings.LastIndex(good, ".")+1], strings.Repeat(".", 100), "e30.e30.", "eyJhbGciOiJFUzI1NiJ9.e30.AA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, header := range []string{sdk.AssertionHeader, "Authorization"} {
			r := httptest.NewRequest("GET", "/documents/roadmap", nil)
			r.Header[header] = []string{s}
			if p, err := v.Verify(r); p != nil || !errors.Is(err, sdk.ErrUnauthenticated) {
				t.Errorf("%q is taken: %v", s, err)
			}
		}
	})
}
