package oidc_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// chain is a world in which a request can travel: alice of acme calls the
// gateway, which calls notes, which calls billing, and so on.
type chain struct {
	*world
	alice                             principal.Subject
	notes, billing, mail, search, crm *directory.Service
}

func newChain(t testing.TB) *chain {
	w := newWorld(t)
	c := &chain{
		world: w, alice: w.user(w.acme.Tenant, "alice"),
		notes: w.service(tenant.Platform, "notes"), billing: w.service(tenant.Platform, "billing"),
		mail: w.service(tenant.Platform, "mail"), search: w.service(tenant.Platform, "search"),
		crm: w.service(w.acme.Tenant, "crm"),
	}
	for _, name := range []string{"notes", "billing", "mail"} {
		w.install(w.acme.Tenant, name)
	}
	w.grant(tenant.Platform, "notes", "billing", false, "read", "write")
	w.grant(tenant.Platform, "notes", "search", false)
	w.grant(tenant.Platform, "billing", "mail", false, "read")
	w.grant(tenant.Platform, "mail", "notes", false, "read")
	w.grant(tenant.Platform, "billing", "notes", false, "read")
	return c
}

// mint makes a token for alice, as if a login had.
func (c *chain) mint(audience string, life time.Duration, scopes ...string) string {
	c.t.Helper()
	tok, err := c.sts.Mint(context.Background(), sts.MintRequest{
		Tenant: c.acme.Tenant, Subject: c.alice, Audience: audience, Scopes: scopes, Life: life,
		Assurance: principal.Assurance{ACR: "phr", AMR: []string{"hwk"}, AuthTime: c.clock.now().Add(-time.Hour)},
	})
	must(c.t, err)
	return tok.Value
}

// principalOf reads a token as authn would.
func (c *chain) principalOf(token string) *principal.Principal {
	c.t.Helper()
	m := c.read(token)
	text := func(name string) string { s, _ := m[name].(string); return s }
	s, err := principal.ParseSubject(text("sub"))
	must(c.t, err)
	p := &principal.Principal{
		Tenant: c.acme.Tenant, Subject: s, ClientID: text("client_id"),
		Assurance: principal.Assurance{ACR: text("acr"), AMR: []string{"hwk"}, AuthTime: c.clock.now().Add(-time.Hour)},
		Credential: principal.Credential{
			Issuer: text("iss"), Audience: text("aud"), JTI: text("jti"), RootJTI: text("root_jti"),
			IssuedAt: time.Unix(int64(m["iat"].(float64)), 0), Expires: time.Unix(int64(m["exp"].(float64)), 0),
		},
	}
	if scope := text("scope"); scope != "" {
		p.Scopes = []string{scope}
	}
	return p
}

// assert makes the gateway's assertion for an upstream.
func (c *chain) assert(p *principal.Principal, upstream string) string {
	c.t.Helper()
	s, err := c.gateway.Sign(context.Background(), sts.AssertionClaims{
		Audience: c.dir.ServiceAudience(upstream), Principal: p, Method: "GET", Path: "/documents/roadmap",
		Route: "documents", Relation: "can_view", Object: "document:roadmap", RequestID: tenant.RandomID(),
	})
	must(c.t, err)
	return s
}

func (c *chain) exchange(client *directory.Service, subject, typ, audience string, more ...string) url.Values {
	more = append([]string{
		"grant_type", "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token", subject,
		"subject_token_type", typ, "audience", audience,
	}, more...)
	return c.as(client.ID, more...)
}

func TestExchangeOfAssertion(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	root := c.mint("gateway", 0, "read")
	jti := c.read(root)["jti"]
	assertion := c.assert(c.principalOf(root), c.notes.ID)
	c.journal.take()
	c.clock.add(20 * time.Second)
	a := c.token(c.exchange(c.notes, assertion, sts.TypeJWT, "billing"))
	if a.text("issued_token_type") != sts.TypeAccessToken || a.body["expires_in"] != 40.0 {
		t.Errorf("answer %s", a.raw)
	}
	got, now := c.read(a.text("access_token")), float64(c.clock.now().Unix())
	want := map[string]any{
		"iss": c.issuer, "sub": c.alice.String(), "aud": c.dir.ServiceAudience(c.billing.ID), "client_id": c.notes.ID,
		"tenant": c.acme.Tenant.String(), "scope": "read",
		"act": map[string]any{"sub": "service:" + c.notes.ID, "jti": jti},
		"acr": "phr", "amr": []any{"hwk"}, "auth_time": now - 3620, "iat": now, "exp": now + 40,
		"jti": got["jti"], "root_jti": jti,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	events := c.journal.take()
	if len(events) != 1 || events[0].Subject != c.alice.String() || !cmp.Equal(events[0].Actors, []string{"service:" + c.notes.ID}) ||
		events[0].Tenant != c.acme.Tenant || events[0].Class != ledger.KeyUse {
		t.Errorf("events %+v", events)
	}

	// billing goes on with the token that it received: the chain grows, each
	// link with the token that it exchanged.
	b := c.token(c.exchange(c.billing, a.text("access_token"), sts.TypeAccessToken, "mail"))
	chain := c.read(b.text("access_token"))["act"]
	wantChain := map[string]any{"sub": "service:" + c.billing.ID, "jti": got["jti"], "act": want["act"]}
	if diff := cmp.Diff(any(wantChain), chain); diff != "" {
		t.Errorf("chain (-want +got):\n%s", diff)
	}
	d := c.token(c.exchange(c.mail, b.text("access_token"), sts.TypeAccessToken, "notes"))
	if c.read(d.text("access_token"))["root_jti"] != jti {
		t.Error("the root changed on the way")
	}
	// A fourth link is one too many.
	c.refused(t, oidc.PathToken, c.exchange(c.notes, d.text("access_token"), sts.TypeAccessToken, "billing"),
		400, "invalid_request", ledger.Deny, "chain_too_long")
}

func TestExchangeRefusals(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	forBilling, forGateway := c.mint(c.billing.ID, 0, "read", "write"), c.mint("gateway", 0, "read")
	forNotes, forCRM := c.mint(c.notes.ID, 0, "read"), c.mint(c.crm.ID, 0)
	assertion := c.assert(c.principalOf(forGateway), c.notes.ID)
	access, jwt := sts.TypeAccessToken, sts.TypeJWT
	other := func(typ, issuer string, life int64) string {
		key, err := jose.GenerateES256()
		must(t, err)
		s, err := jose.Sign(key, typ, map[string]any{"iss": issuer, "exp": c.clock.now().Unix() + life})
		must(t, err)
		return s
	}
	broken := forBilling[:len(forBilling)-8] + "AAAAAAAA"
	const exchange = "urn:ietf:params:oauth:token-type:"
	for name, x := range map[string]struct {
		v            url.Values
		code, reason string
	}{
		"addressed to the gateway":    {c.exchange(c.billing, forGateway, access, "mail"), "invalid_request", "subject_audience"},
		"addressed to another":        {c.exchange(c.billing, forNotes, access, "mail"), "invalid_request", "subject_audience"},
		"assertion for another":       {c.exchange(c.billing, assertion, jwt, "mail"), "invalid_request", "subject_audience"},
		"audience not granted":        {c.exchange(c.billing, forBilling, access, "search"), "invalid_target", "audience_not_granted"},
		"a surface":                   {c.exchange(c.billing, forBilling, access, "gateway"), "invalid_target", "audience_not_granted"},
		"two audiences":               {c.exchange(c.billing, forBilling, access, "mail", "audience", "gateway"), "invalid_target", "audience_several"},
		"target not installed":        {c.exchange(c.notes, forNotes, access, "search"), "invalid_target", "audience_not_installed"},
		"scope beyond the subject":    {c.exchange(c.notes, forNotes, access, "billing", "scope", "write"), "invalid_scope", "scope_exceeds"},
		"scope beyond the grant":      {c.exchange(c.billing, forBilling, access, "mail", "scope", "write"), "invalid_scope", "scope_exceeds"},
		"another tenant":              {c.exchange(c.billing, forBilling, access, "mail", "tenant", "globex"), "invalid_request", "tenant_foreign"},
		"tenant by header of nobody":  {c.exchange(c.billing, forBilling, access, "mail", "tenant", "nobody"), "invalid_request", "tenant_foreign"},
		"an assertion asked for":      {c.exchange(c.billing, forBilling, access, "mail", "requested_token_type", "urn:bulwark:token-type:assertion"), "invalid_request", "grant_form"},
		"an assertion asked as jwt":   {c.exchange(c.billing, forBilling, access, "mail", "requested_token_type", jwt), "invalid_request", "grant_form"},
		"a refresh token asked for":   {c.exchange(c.billing, forBilling, access, "mail", "requested_token_type", exchange+"refresh_token"), "invalid_request", "requested_type"},
		"an ID token asked for":       {c.exchange(c.billing, forBilling, access, "mail", "requested_token_type", exchange+"id_token"), "invalid_request", "requested_type"},
		"an actor token":              {c.exchange(c.billing, forBilling, access, "mail", "actor_token", forNotes, "actor_token_type", access), "invalid_request", "actor_token"},
		"an actor token without type": {c.exchange(c.billing, forBilling, access, "mail", "actor_token", forNotes), "invalid_request", "grant_form"},
		"a resource":                  {c.exchange(c.billing, forBilling, access, "mail", "resource", "https://mail.example"), "invalid_target", "resource"},
		"subject as ID token":         {c.exchange(c.billing, forBilling, exchange+"id_token", "mail"), "invalid_request", "subject_type"},
		"access token as assertion":   {c.exchange(c.billing, forBilling, jwt, "mail"), "invalid_request", "token_type"},
		"assertion as access token":   {c.exchange(c.notes, assertion, access, "billing"), "invalid_request", "token_type"},
		"unknown key, our issuer":     {c.exchange(c.billing, other(sts.TypAccess, c.issuer, 60), access, "mail"), "invalid_request", "token_unknown_key"},
		"an ID token":                 {c.exchange(c.billing, other("JWT", c.issuer, 60), access, "mail"), "invalid_request", "token_type"},
		"broken signature":            {c.exchange(c.billing, broken, access, "mail"), "invalid_request", "token_signature"},
		"alg none":                    {c.exchange(c.billing, "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.e30.", access, "mail"), "invalid_request", "token_malformed"},
		"garbage":                     {c.exchange(c.billing, "garbage", access, "mail"), "invalid_request", "token_malformed"},
		"no subject":                  {c.exchange(c.billing, "", access, "mail"), "invalid_request", "grant_form"},
		"no subject type":             {c.exchange(c.billing, forBilling, "", "mail"), "invalid_request", "grant_form"},
		"tenant's service, no grant":  {c.exchange(c.crm, forCRM, access, "billing"), "invalid_target", "audience_not_granted"},
	} {
		t.Run(name, func(t *testing.T) { // not parallel: the subtests share one journal
			c.refused(t, oidc.PathToken, x.v, 400, x.code, ledger.Deny, x.reason)
		})
	}
	// The same tokens are good where they belong.
	c.token(c.exchange(c.billing, forBilling, access, "mail"))
	c.token(c.exchange(c.notes, assertion, jwt, "billing"))
	c.token(c.exchange(c.notes, forNotes, access, "billing", "tenant", "acme", "requested_token_type", access))

	// Without a client nothing is exchanged.
	v := c.exchange(c.billing, forBilling, access, "mail")
	v.Del("client_assertion")
	v.Del("client_assertion_type")
	c.refused(t, oidc.PathToken, v, 401, "invalid_client", ledger.Reject, "client_missing")
	v.Set("client_id", c.billing.ID)
	c.refused(t, oidc.PathToken, v, 401, "invalid_client", ledger.Reject, "client_missing")

	// Time ends a token, an end of the installation ends the exchange.
	must(t, c.dir.Uninstall(context.Background(), ledger.Event{Subject: "system"}, c.acme.Tenant, "billing"))
	c.refused(t, oidc.PathToken, c.exchange(c.billing, forBilling, access, "mail"), 400, "unauthorized_client", ledger.Deny, "not_installed")
	c.clock.add(time.Minute)
	c.dir.Confirm()
	c.refused(t, oidc.PathToken, c.exchange(c.notes, assertion, jwt, "billing"), 400, "invalid_request", ledger.Deny, "token_expired")
	c.clock.add(4 * time.Minute)
	c.dir.Confirm()
	c.refused(t, oidc.PathToken, c.exchange(c.notes, forNotes, access, "billing"), 400, "invalid_request", ledger.Deny, "token_expired")
}

// A derived token never lives longer than what it was derived from.
func TestExchangeShrinksLife(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	short := c.mint(c.billing.ID, 90*time.Second, "read", "write")
	c.clock.add(30 * time.Second)
	c.dir.Confirm()
	a := c.token(c.exchange(c.billing, short, sts.TypeAccessToken, "mail"))
	if got := c.read(a.text("access_token")); got["exp"] != c.read(short)["exp"] || a.body["expires_in"] != 60.0 || got["scope"] != "read" {
		t.Errorf("claims %v", got)
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	// "openid" in a grant is no scope: the engine would make an ID token of it.
	c.grant(tenant.Platform, "notes", "billing", true, "openid", "read", "a b", "")
	for _, v := range []url.Values{
		c.as(c.notes.ID, "grant_type", "client_credentials", "tenant", "acme", "audience", "billing"),
		c.exchange(c.notes, c.mint(c.notes.ID, 0, "read"), sts.TypeAccessToken, "billing"),
	} {
		if a := c.token(v); a.text("scope") != "read" || a.body["id_token"] != nil || a.body["refresh_token"] != nil {
			t.Errorf("answer %s", a.raw)
		}
	}
	for _, scope := range []string{"openid", "read openid", "read\nwrite", "\"", "read ", "ü"} {
		c.refused(t, oidc.PathToken, c.as(c.notes.ID, "grant_type", "client_credentials", "tenant", "acme", "audience", "billing", "scope", scope),
			400, "invalid_scope", ledger.Deny, "scope_exceeds")
	}
}

// Revocation of any ancestor ends what was derived from it, at once.
func TestDerivedTokensDieWithAncestors(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"root", "first exchange", "session of the installation", "subject", "client"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			c := newChain(t)
			root := c.mint("gateway", 0, "read")
			first := c.token(c.exchange(c.notes, c.assert(c.principalOf(root), c.notes.ID), sts.TypeJWT, "billing")).text("access_token")
			second := c.token(c.exchange(c.billing, first, sts.TypeAccessToken, "mail")).text("access_token")
			ask := func() answer { return c.post(oidc.PathIntrospect, c.as(c.mail.ID, "token", second)) }
			if a := ask(); a.body["active"] != true {
				t.Fatalf("before: %s", a.raw)
			}
			ctx, ev := context.Background(), ledger.Event{Subject: "system"}
			switch which {
			case "root":
				must(t, c.dir.Revoke(ctx, ev, c.acme.Tenant, directory.RevokeRoot, c.read(root)["jti"].(string)))
			case "first exchange":
				if a := c.post(oidc.PathRevoke, c.as(c.notes.ID, "token", first)); a.status != 200 || a.raw != "" {
					t.Fatalf("revoke: %d %s", a.status, a.raw)
				}
			case "session of the installation":
				must(t, c.dir.Uninstall(ctx, ev, c.acme.Tenant, "notes"))
			case "subject":
				must(t, c.dir.SetUserState(ctx, ev, c.acme.Tenant, c.alice.ID, directory.Suspended))
			case "client": // notes got the first one; the second was issued to billing
				must(t, c.dir.Revoke(ctx, ev, c.acme.Tenant, directory.RevokeClient, c.notes.ID))
			}
			if a := ask(); a.status != 200 || a.raw != "{\"active\":false}\n" {
				t.Errorf("after: %d %s", a.status, a.raw)
			}
			c.refused(t, oidc.PathToken, c.exchange(c.mail, second, sts.TypeAccessToken, "notes"), 400, "invalid_request", ledger.Deny, "subject_revoked")
		})
	}
}

// An assertion made from a token that was itself derived keeps that token's id
// in the chain: revoking it ends what the assertion was exchanged for.
func TestAssertionOfDerivedToken(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.grant(tenant.Platform, "notes", "gateway", false, "read")
	root := c.mint(c.notes.ID, 0, "read")
	derived := c.token(c.exchange(c.notes, root, sts.TypeAccessToken, "gateway")).text("access_token")
	p := c.principalOf(derived)
	p.Actors = []principal.Actor{{Subject: principal.Subject{Kind: principal.Service, ID: c.notes.ID}, JTI: c.read(root)["jti"].(string)}}
	third := c.token(c.exchange(c.billing, c.assert(p, c.billing.ID), sts.TypeJWT, "mail")).text("access_token")
	act := c.read(third)["act"].(map[string]any)
	if act["jti"] != c.read(derived)["jti"] {
		t.Errorf("chain %v does not name the token behind the assertion", act)
	}
	c.token(c.exchange(c.mail, third, sts.TypeAccessToken, "notes"))
	// One that nobody has exchanged yet: it names that token in token_jti alone.
	unused := c.assert(p, c.billing.ID)
	if a := c.post(oidc.PathRevoke, c.as(c.notes.ID, "token", derived)); a.status != 200 {
		t.Fatal(a.raw)
	}
	c.refused(t, oidc.PathToken, c.exchange(c.billing, unused, sts.TypeJWT, "mail"), 400, "invalid_request", ledger.Deny, "subject_revoked")
	c.refused(t, oidc.PathToken, c.exchange(c.mail, third, sts.TypeAccessToken, "notes"), 400, "invalid_request", ledger.Deny, "subject_revoked")
}
