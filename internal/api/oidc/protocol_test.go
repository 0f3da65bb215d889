package oidc_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// Every way to spoil a client assertion, each with a fresh one.
func TestClientAssertions(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.clock.add(10 * time.Second)
	id := c.notes.ID
	now := c.clock.now().Unix()
	spoil := func(name string, value any) func(map[string]any) {
		return func(m map[string]any) {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}
	}
	both := func(f ...func(map[string]any)) func(map[string]any) {
		return func(m map[string]any) {
			for _, f := range f {
				f(m)
			}
		}
	}
	type spoilt struct {
		name   string
		signer string
		typ    string
		spoil  func(map[string]any)
		reason string
	}
	cases := []spoilt{
		{"aud is an array", id, "JWT", spoil("aud", []string{c.issuer}), "assertion_audience"},
		{"aud is two", id, "JWT", spoil("aud", []string{c.issuer, "https://evil.example"}), "assertion_audience"},
		{"aud is the token URL", id, "JWT", spoil("aud", c.issuer+oidc.PathToken), "assertion_audience"},
		{"aud with a slash", id, "JWT", spoil("aud", c.issuer+"/"), "assertion_audience"},
		{"aud of another server", id, "JWT", spoil("aud", "https://evil.example"), "assertion_audience"},
		{"no aud", id, "JWT", spoil("aud", nil), "assertion_audience"},
		{"no iat", id, "JWT", spoil("iat", nil), "assertion_times"},
		{"no exp", id, "JWT", spoil("exp", nil), "assertion_times"},
		{"no jti", id, "JWT", spoil("jti", nil), "assertion_jti"},
		{"empty jti", id, "JWT", spoil("jti", ""), "assertion_jti"},
		{"long jti", id, "JWT", spoil("jti", strings.Repeat("j", 257)), "assertion_jti"},
		{"jti is a number", id, "JWT", spoil("jti", 7), "assertion_malformed"},
		{"a day", id, "JWT", spoil("exp", now+86400), "assertion_life"},
		{"301 seconds", id, "JWT", spoil("exp", now+301), "assertion_life"},
		{"exp before iat", id, "JWT", spoil("exp", now-1), "assertion_life"},
		{"expired", id, "JWT", both(spoil("iat", now-9), spoil("exp", now)), "assertion_expired"},
		{"exp as text", id, "JWT", spoil("exp", "9999999999"), "assertion_malformed"},
		{"exp with a fraction", id, "JWT", spoil("exp", float64(now)+60.5), "assertion_malformed"},
		{"exp out of range", id, "JWT", spoil("exp", json.Number("1e400")), "assertion_malformed"},
		{"iat in the future", id, "JWT", both(spoil("iat", now+2), spoil("exp", now+120)), "assertion_not_yet"},
		{"nbf in the future", id, "JWT", spoil("nbf", now+2), "assertion_not_yet"},
		{"sub is another", id, "JWT", spoil("sub", c.billing.ID), "assertion_subject"},
		{"no sub", id, "JWT", spoil("sub", nil), "assertion_subject"},
		{"iss is another", id, "JWT", spoil("iss", c.billing.ID), "assertion_unknown"},
		{"both are another", id, "JWT", both(spoil("iss", c.billing.ID), spoil("sub", c.billing.ID)), "assertion_unknown"},
		{"iss with a prefix", id, "JWT", both(spoil("iss", "service:"+id), spoil("sub", "service:"+id)), "assertion_unknown"},
		{"no iss", id, "JWT", spoil("iss", nil), "assertion_unknown"},
		{"key of another", c.billing.ID, "JWT", func(m map[string]any) { m["iss"], m["sub"] = id, id }, "assertion_unknown"},
		{"typ of an access token", id, "at+jwt", func(map[string]any) {}, "assertion_type"},
		{"typ of our assertion", id, sts.TypAssertion, func(map[string]any) {}, "assertion_type"},
	}
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) { // not parallel: the subtests share one journal
			claims := c.claims(id)
			x.spoil(claims)
			v := url.Values{
				"grant_type": {"client_credentials"}, "client_assertion_type": {sts.ClientAssertionType},
				"client_assertion": {c.sign(x.signer, x.typ, claims)}, "audience": {"billing"}, "tenant": {"acme"},
			}
			c.refused(t, oidc.PathToken, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, x.reason)
		})
	}
	// The same at the two other doors that clients knock on.
	for _, path := range []string{oidc.PathIntrospect, oidc.PathRevoke} {
		claims := c.claims(id)
		claims["aud"] = []string{c.issuer, c.issuer}
		v := url.Values{"client_assertion_type": {sts.ClientAssertionType}, "client_assertion": {c.sign(id, "JWT", claims)}, "token": {"x"}}
		c.refused(t, path, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, "assertion_audience")
	}
	for name, token := range map[string]string{
		"alg none":  "eyJhbGciOiJub25lIn0.e30.",
		"HS256":     "eyJhbGciOiJIUzI1NiJ9.e30.AAAA",
		"garbage":   "x",
		"dots":      strings.Repeat(".", 1000),
		"too large": strings.Repeat("a", 17<<10),
	} {
		v := c.as(id, "grant_type", "client_credentials")
		v.Set("client_assertion", token)
		c.refused(t, oidc.PathToken, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, "assertion_malformed")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	v := c.as(id, "grant_type", "client_credentials")
	v.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer")
	c.refused(t, oidc.PathToken, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, "client_missing")
	c.refused(t, oidc.PathToken, c.as(id, "grant_type", "client_credentials", "client_id", c.billing.ID), http.StatusUnauthorized, "invalid_client", ledger.Reject, "client_conflict")
}

func TestReplay(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.grant(tenant.Platform, "notes", "billing", true)
	v := c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme")
	c.token(v)
	c.refused(t, oidc.PathToken, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, "assertion_replayed")
	// At another door it is the same assertion.
	v.Set("token", "x")
	c.refused(t, oidc.PathIntrospect, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, "assertion_replayed")
	// Another client may use the same jti.
	claims := c.claims(c.billing.ID)
	claims["jti"] = "same"
	w := c.as(c.billing.ID, "token", "x")
	w.Set("client_assertion", c.sign(c.billing.ID, "JWT", claims))
	if a := c.post(oidc.PathIntrospect, w); a.status != http.StatusOK {
		t.Error(a.raw)
	}
	claims["iss"], claims["sub"] = c.notes.ID, c.notes.ID
	w.Set("client_assertion", c.sign(c.notes.ID, "JWT", claims))
	if a := c.post(oidc.PathIntrospect, w); a.status != http.StatusOK {
		t.Error(a.raw)
	}
	// A new process has no memory of what an earlier one accepted, and refuses
	// what was signed before it began.
	old := c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme")
	used := c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme")
	c.token(used)
	c.clock.add(100 * time.Millisecond)
	c.start()
	for _, v := range []url.Values{old, used} {
		c.refused(t, oidc.PathToken, v, http.StatusUnauthorized, "invalid_client", ledger.Reject, "assertion_before_start")
	}
	c.clock.add(c.sts.ReadyAt().Sub(c.clock.now()))
	c.token(c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme"))
}

// What an earlier process may have taken is refused by the next one at every
// moment: also an assertion that was dated ahead, when its time has come.
func TestReplayAcrossRestart(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.grant(tenant.Platform, "notes", "billing", true)
	for _, at := range []time.Duration{0, 300 * time.Millisecond, 999 * time.Millisecond} {
		c.clock.add(time.Hour + at)
		c.dir.Confirm()
		var used []url.Values
		now := c.clock.now().Unix()
		for _, iat := range []int64{now, now + 1, now + 2, now + 5, now + int64(sts.Skew/time.Second) - 1} {
			claims := c.claims(c.notes.ID)
			claims["iat"], claims["exp"] = iat, iat+int64(sts.MaxClientLife/time.Second)
			v := c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme")
			v.Set("client_assertion", c.sign(c.notes.ID, "JWT", claims))
			if c.post(oidc.PathToken, v).status == http.StatusOK {
				used = append(used, v)
			}
		}
		if len(used) != 2 {
			t.Errorf("%d dates are taken, want this second's and, for a clock that is ahead, the next one's", len(used))
		}
		c.clock.add(time.Millisecond)
		c.start()
		ready := c.sts.ReadyAt().Sub(c.clock.now())
		if ready > 2*time.Second {
			t.Errorf("ready %v after the start", ready)
		}
		for _, later := range []time.Duration{0, ready, time.Second, time.Minute} {
			c.clock.add(later)
			for _, v := range used {
				if a := c.post(oidc.PathToken, v); a.status == http.StatusOK {
					t.Fatalf("replayed at %v, that is %v after ready", c.clock.now(), later)
				}
			}
		}
		c.dir.Confirm()
		c.token(c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme"))
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.grant(tenant.Platform, "notes", "billing", true)
	good := func() url.Values {
		return c.as(c.notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme")
	}
	const form = "application/x-www-form-urlencoded"
	basic := http.Header{"Authorization": {"Basic bm90ZXM6c2VjcmV0"}}
	for name, x := range map[string]struct {
		path, contentType, body string
		header                  http.Header
		status                  int
		code, reason            string
	}{
		"query":              {oidc.PathToken + "?audience=billing", form, good().Encode(), nil, 400, "invalid_request", "form_query"},
		"bare question mark": {oidc.PathToken + "?", form, good().Encode(), nil, 400, "invalid_request", "form_query"},
		"JSON":               {oidc.PathToken, "application/json", "{}", nil, 400, "invalid_request", "form_type"},
		"no type":            {oidc.PathToken, "", good().Encode(), nil, 400, "invalid_request", "form_type"},
		"other charset":      {oidc.PathToken, form + "; charset=utf-16", good().Encode(), nil, 400, "invalid_request", "form_type"},
		"compressed":         {oidc.PathToken, form, good().Encode(), http.Header{"Content-Encoding": {"gzip"}}, 400, "invalid_request", "form_type"},
		"semicolon":          {oidc.PathToken, form, good().Encode() + ";a=b", nil, 400, "invalid_request", "form_malformed"},
		"bad escape":         {oidc.PathToken, form, good().Encode() + "&a=%zz", nil, 400, "invalid_request", "form_malformed"},
		"not UTF-8":          {oidc.PathToken, form, good().Encode() + "&a=%ff", nil, 400, "invalid_request", "form_malformed"},
		"grant twice":        {oidc.PathToken, form, good().Encode() + "&grant_type=client_credentials", nil, 400, "invalid_request", "form_repeated"},
		"tenant twice":       {oidc.PathToken, form, good().Encode() + "&tenant=globex", nil, 400, "invalid_request", "form_repeated"},
		"unknown twice":      {oidc.PathToken, form, good().Encode() + "&x=1&x=2", nil, 400, "invalid_request", "form_repeated"},
		"token twice":        {oidc.PathIntrospect, form, good().Encode() + "&token=1&token=2", nil, 400, "invalid_request", "form_repeated"},
		"Basic and JWT":      {oidc.PathToken, form, good().Encode(), basic, 400, "invalid_request", "client_methods"},
		"secret and JWT":     {oidc.PathToken, form, good().Encode() + "&client_secret=s", nil, 400, "invalid_request", "client_methods"},
		"Basic alone":        {oidc.PathToken, form, "grant_type=client_credentials", basic, 401, "invalid_client", "client_method"},
		"secret alone":       {oidc.PathToken, form, "grant_type=client_credentials&client_id=" + c.notes.ID + "&client_secret=s", nil, 401, "invalid_client", "client_method"},
		"id alone":           {oidc.PathToken, form, "grant_type=client_credentials&client_id=" + c.notes.ID, nil, 401, "invalid_client", "client_missing"},
		"nothing":            {oidc.PathToken, form, "", nil, 401, "invalid_client", "client_missing"},
	} {
		t.Run(name, func(t *testing.T) { // not parallel: the subtests share one journal
			c.journal.take()
			before := c.store.Counters().Mutations
			c.check(t, c.send(x.path, x.contentType, x.body, x.header), before, x.status, x.code, ledger.Reject, x.reason)
		})
	}
	if a := c.send(oidc.PathToken, form, strings.Repeat("a", 65<<10), nil); a.status != http.StatusRequestEntityTooLarge || a.text("error") != "invalid_request" {
		t.Errorf("large body: %d %s", a.status, a.raw)
	}
	// What is unknown is ignored, what is empty counts as omitted (RFC 6749 3.2).
	v := good()
	v.Set("unknown", "1")
	v.Set("scope", "")
	c.token(v)
	// Headers that the engine would read do not reach it.
	h := http.Header{"Oauth-Client-Attestation": {"x.y.z"}, "Dpop": {"x.y.z"}}
	if a := c.send(oidc.PathToken, form+"; charset=UTF-8", good().Encode(), h); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestGrantsOffered(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	for _, grant := range []string{
		"authorization_code", "refresh_token", "implicit", "password", "urn:openid:params:grant-type:ciba",
		"urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:pre-authorized_code",
		"urn:ietf:params:oauth:grant-type:saml2-bearer", "CLIENT_CREDENTIALS",
	} {
		v := c.as(c.notes.ID, "grant_type", grant, "code", "x", "refresh_token", "x", "device_code", "x")
		c.refused(t, oidc.PathToken, v, 400, "unsupported_grant_type", ledger.Deny, "grant_unsupported")
	}
	c.refused(t, oidc.PathToken, c.as(c.notes.ID), 400, "invalid_request", ledger.Deny, "grant_missing")
}

func TestIntrospection(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	root := c.mint(c.notes.ID, 0, "read")
	token := c.token(c.exchange(c.notes, root, sts.TypeAccessToken, "billing")).text("access_token")
	claims := c.read(token)
	for _, id := range []string{c.billing.ID, c.notes.ID} { // whom it is addressed to, whom it was issued to
		c.journal.take()
		a := c.post(oidc.PathIntrospect, c.as(id, "token", token, "token_type_hint", "refresh_token"))
		want := map[string]any{"active": true, "token_type": "Bearer"}
		for k, v := range claims {
			want[k] = v
		}
		if diff := cmp.Diff(want, a.body); diff != "" || a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d (-want +got):\n%s", a.status, diff)
		}
		if ev := c.journal.take(); len(ev) != 1 || ev[0].Class != ledger.Check || ev[0].Decision != "allow" || ev[0].Tenant != c.acme.Tenant {
			t.Errorf("events %+v", ev)
		}
	}
	inactive := func(t *testing.T, id, token string, class ledger.Class, reason string) {
		t.Helper()
		c.journal.take()
		before := c.store.Counters().Mutations
		a := c.post(oidc.PathIntrospect, c.as(id, "token", token))
		if a.status != http.StatusOK || a.raw != "{\"active\":false}\n" || c.store.Counters().Mutations != before {
			t.Errorf("%d %s", a.status, a.raw)
		}
		if ev := c.journal.take(); len(ev) != 1 || ev[0].Class != class || ev[0].Reason != reason || ev[0].Decision != "deny" {
			t.Errorf("events %+v, want class %d, %s", ev, class, reason)
		}
	}
	// A client of no business with the token learns nothing (Keycloak CVE-2026-37979).
	inactive(t, c.mail.ID, token, ledger.Deny, "introspect_foreign")
	inactive(t, c.crm.ID, token, ledger.Deny, "introspect_foreign")
	inactive(t, c.billing.ID, "x", ledger.Check, "token_malformed")
	inactive(t, c.notes.ID, c.assert(c.principalOf(root), c.notes.ID), ledger.Check, "token_type")
	c.refused(t, oidc.PathIntrospect, c.as(c.billing.ID), 400, "invalid_request", ledger.Deny, "token_missing")
	c.refused(t, oidc.PathIntrospect, url.Values{"token": {token}}, 401, "invalid_client", ledger.Reject, "client_missing")
	c.clock.add(sts.MaxTokenLife)
	c.dir.Confirm()
	inactive(t, c.billing.ID, token, ledger.Check, "token_expired")
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	token := c.token(c.exchange(c.notes, c.mint(c.notes.ID, 0), sts.TypeAccessToken, "billing")).text("access_token")
	active := func() bool {
		return c.post(oidc.PathIntrospect, c.as(c.billing.ID, "token", token)).body["active"] == true
	}
	// Only the client that it was issued to may end it: not even its audience.
	c.refused(t, oidc.PathRevoke, c.as(c.billing.ID, "token", token), 400, "unauthorized_client", ledger.Deny, "revoke_foreign")
	c.refused(t, oidc.PathRevoke, c.as(c.notes.ID), 400, "invalid_request", ledger.Deny, "token_missing")
	for _, unknown := range []string{"x", token[:len(token)-4] + "AAAA", strings.Repeat("a", 20<<10)} {
		before := c.store.Counters().Mutations
		if a := c.post(oidc.PathRevoke, c.as(c.notes.ID, "token", unknown)); a.status != http.StatusOK || a.raw != "" || c.store.Counters().Mutations != before {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
	if !active() {
		t.Fatal("the token died too early")
	}
	before := c.store.Counters().Mutations
	for range 2 { // again is no error, and no second change
		if a := c.post(oidc.PathRevoke, c.as(c.notes.ID, "token", token, "token_type_hint", "access_token")); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
	if got := c.store.Counters().Mutations - before; got != 1 || active() {
		t.Errorf("%d changes, active %v", got, active())
	}
}

// A client can revoke as fast as it gets tokens: what it leaves behind is kept
// for as long as the token could be used, not for as long as anybody's could.
func TestRevocationEndsWithTheToken(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	subject := c.mint(c.notes.ID, time.Minute)
	token := c.token(c.exchange(c.notes, subject, sts.TypeAccessToken, "billing")).text("access_token")
	p := c.principalOf(token)
	if a := c.post(oidc.PathRevoke, c.as(c.notes.ID, "token", token)); a.status != http.StatusOK {
		t.Fatal(a.raw)
	}
	for _, step := range []struct {
		after time.Duration
		left  bool
	}{{0, true}, {time.Minute, true}, {directory.Skew, true}, {time.Second, false}} {
		c.clock.add(step.after)
		c.dir.Confirm()
		must(t, c.dir.Collect(t.Context()))
		if c.dir.Revoked(p) != step.left {
			t.Errorf("%v later the revocation is kept: %v, want %v", step.after, !step.left, step.left)
		}
	}
}

func TestDiscoveryAdvertisesWhatWorks(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	a := c.get(oidc.PathDiscovery)
	if a.status != http.StatusOK || a.text("issuer") != c.issuer {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	for name, v := range a.body {
		if strings.HasSuffix(name, "_endpoint") {
			path := strings.TrimPrefix(v.(string), c.issuer)
			if got := c.post(path, url.Values{}); got.status != http.StatusUnauthorized || got.text("error") != "invalid_client" {
				t.Errorf("%s at %s: %d %s", name, path, got.status, got.raw)
			}
		}
	}
	if set, err := jose.ParseSet([]byte(c.get(strings.TrimPrefix(a.text("jwks_uri"), c.issuer)).raw)); err != nil || set.Len() != 1 {
		t.Errorf("key set: %v, %d keys", err, set.Len())
	}
	for _, grant := range a.body["grant_types_supported"].([]any) {
		v := c.as(c.notes.ID, "grant_type", grant.(string))
		if grant == "urn:ietf:params:oauth:grant-type:jwt-bearer" {
			v = url.Values{"grant_type": {grant.(string)}}
		}
		if got := c.post(oidc.PathToken, v); got.text("error") == "unsupported_grant_type" {
			t.Errorf("%s is advertised and not offered", grant)
		}
	}
	for _, name := range []string{"authorization_endpoint", "userinfo_endpoint", "registration_endpoint", "scopes_supported", "response_modes_supported"} {
		if _, ok := a.body[name]; ok {
			t.Errorf("discovery advertises %s", name)
		}
	}
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	for _, path := range []string{
		"/authorize", "/oauth2/authorize", "/userinfo", "/register", "/token", "/jwks", "/introspect", "/revoke", "/par", "/device", "/logout",
		"/.well-known/openid-federation", "/oauth2/token/", "/oauth2//token", "/oauth2/../oauth2/token", "/",
	} {
		for _, a := range []answer{c.get(path), c.post(path, url.Values{})} {
			if a.status != http.StatusNotFound {
				t.Errorf("%s: %d %s", path, a.status, a.raw)
			}
		}
	}
	if a := c.get(oidc.PathToken); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "POST" {
		t.Errorf("GET token: %d %v", a.status, a.header)
	}
}

// The two key sets are apart: a key of one verifies nothing of the other.
func TestKeySets(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	tokens, err := jose.ParseSet([]byte(c.get(oidc.PathJWKS).raw))
	must(t, err)
	asserts, err := jose.ParseSet([]byte(c.get(oidc.PathAssertionJWKS).raw))
	must(t, err)
	if tokens.Len() != 1 || asserts.Len() != 1 {
		t.Fatalf("%d and %d keys", tokens.Len(), asserts.Len())
	}
	token := c.mint("gateway", 0)
	u, err := jose.Peek(c.assert(c.principalOf(token), c.notes.ID))
	must(t, err)
	if _, ok := asserts.Key(u.Header.KID); !ok || !u.Header.Is(sts.TypAssertion) {
		t.Errorf("assertion header %+v", u.Header)
	}
	if _, ok := tokens.Key(u.Header.KID); ok {
		t.Error("an assertion key is published for access tokens")
	}
	for _, path := range []string{oidc.PathJWKS, oidc.PathAssertionJWKS} {
		a := c.get(path)
		if strings.Contains(a.raw, `"d"`) || a.header.Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%s: %s %v", path, a.raw, a.header)
		}
	}
}
