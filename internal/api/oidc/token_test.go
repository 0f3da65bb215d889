package oidc_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

func TestClaims(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	notes, billing := w.service(tenant.Platform, "notes"), w.service(tenant.Platform, "billing")
	w.grant(tenant.Platform, "notes", "billing", true, "read", "write")
	w.install(w.acme.Tenant, "notes")
	w.install(w.acme.Tenant, "billing")
	w.journal.take()

	a := w.token(w.as(notes.ID, "grant_type", "client_credentials", "audience", "billing", "tenant", "acme", "scope", "read"))
	if a.text("token_type") != "Bearer" || a.body["expires_in"] != 300.0 || a.text("scope") != "read" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("answer %s %v", a.raw, a.header)
	}
	got := w.read(a.text("access_token"))
	now := float64(w.clock.now().Unix())
	want := map[string]any{
		"iss": w.issuer, "sub": "service:" + notes.ID, "aud": "urn:bulwark:test:svc:" + billing.ID, "client_id": notes.ID,
		"tenant": w.acme.Tenant.String(), "scope": "read", "iat": now, "exp": now + 300,
		"jti": got["jti"], "root_jti": got["jti"],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	events := w.journal.take()
	if len(events) != 1 {
		t.Fatalf("events %+v", events)
	}
	if ev := events[0]; ev.Class != ledger.KeyUse || ev.Action != "token.issue" || ev.Decision != "allow" || ev.Tenant != w.acme.Tenant ||
		ev.Subject != "service:"+notes.ID || ev.ClientID != notes.ID || ev.Resource != "token:"+got["jti"].(string) || ev.RequestID == "" ||
		ev.Detail["grant"] != "client_credentials" || ev.Detail["audience"] != want["aud"] {
		t.Errorf("event %+v", ev)
	}
}

// The tenant may be named by URN, id or alias, the audience likewise.
func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	notes, billing := w.service(tenant.Platform, "notes"), w.service(tenant.Platform, "billing")
	w.grant(tenant.Platform, "notes", "billing", true)
	w.install(w.acme.Tenant, "notes")
	w.install(w.acme.Tenant, "billing")
	id := w.acme.Tenant.String()
	for _, c := range [][2]string{
		{"acme", "billing"}, {id, billing.ID}, {"urn:bulwark:test:tenant:" + id, "urn:bulwark:test:svc:" + billing.ID},
	} {
		a := w.token(w.as(notes.ID, "grant_type", "client_credentials", "tenant", c[0], "audience", c[1]))
		if got := w.read(a.text("access_token")); got["tenant"] != id || got["aud"] != "urn:bulwark:test:svc:"+billing.ID {
			t.Errorf("%v: %v", c, got)
		}
	}
}

func TestClientCredentialsRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	notes := w.service(tenant.Platform, "notes")
	w.service(tenant.Platform, "billing")
	w.service(tenant.Platform, "mail")
	w.service(tenant.Platform, "search")
	crm := w.service(w.acme.Tenant, "crm")
	w.service(w.acme.Tenant, "erp")
	w.service(w.globex.Tenant, "vault")
	w.grant(tenant.Platform, "notes", "billing", true, "read", "write")
	w.grant(tenant.Platform, "notes", "mail", false, "send")
	w.grant(tenant.Platform, "notes", "search", true)
	w.grant(w.acme.Tenant, "crm", "erp", true, "read")
	w.install(w.acme.Tenant, "notes", "read", "send")
	w.install(w.acme.Tenant, "billing")
	w.install(w.acme.Tenant, "mail")
	_, err := w.dir.Install(context.Background(), ledger.Event{Subject: "system"}, w.globex.Tenant, "notes", nil, w.clock.now().Add(-time.Second))
	must(t, err)

	const deny = ledger.Deny
	for name, c := range map[string]struct {
		client       string
		params       []string
		code, reason string
	}{
		"no tenant":                    {notes.ID, []string{"audience", "billing"}, "invalid_request", "tenant_missing"},
		"installation expired":         {notes.ID, []string{"audience", "billing", "tenant", "globex"}, "unauthorized_client", "not_installed"},
		"unknown tenant reads alike":   {notes.ID, []string{"audience", "billing", "tenant", "nobody"}, "unauthorized_client", "not_installed"},
		"the platform as tenant":       {notes.ID, []string{"audience", "billing", "tenant", "platform"}, "unauthorized_client", "not_installed"},
		"no audience":                  {notes.ID, []string{"tenant", "acme"}, "invalid_request", "audience_missing"},
		"two audiences":                {notes.ID, []string{"tenant", "acme", "audience", "billing", "audience", "gateway"}, "invalid_target", "audience_several"},
		"two equal audiences":          {notes.ID, []string{"tenant", "acme", "audience", "billing", "audience", "billing"}, "invalid_target", "audience_several"},
		"audience not granted":         {notes.ID, []string{"tenant", "acme", "audience", "gateway"}, "invalid_target", "audience_not_granted"},
		"audience unknown":             {notes.ID, []string{"tenant", "acme", "audience", "nothing"}, "invalid_target", "audience_unknown"},
		"audience of a foreign tenant": {crm.ID, []string{"audience", "vault"}, "invalid_target", "audience_unknown"},
		"audience of another env":      {notes.ID, []string{"tenant", "acme", "audience", "urn:bulwark:prod:gateway"}, "invalid_target", "audience_unknown"},
		"granted for exchange only":    {notes.ID, []string{"tenant", "acme", "audience", "mail"}, "invalid_target", "audience_exchange_only"},
		"target not installed":         {notes.ID, []string{"tenant", "acme", "audience", "search"}, "invalid_target", "audience_not_installed"},
		"scope beyond the grant":       {notes.ID, []string{"tenant", "acme", "audience", "billing", "scope", "read admin"}, "invalid_scope", "scope_exceeds"},
		"scope beyond installation":    {notes.ID, []string{"tenant", "acme", "audience", "billing", "scope", "write"}, "invalid_scope", "scope_exceeds"},
		"scope malformed":              {notes.ID, []string{"tenant", "acme", "audience", "billing", "scope", "read  read"}, "invalid_scope", "scope_exceeds"},
		"tenant's service elsewhere":   {crm.ID, []string{"tenant", "globex", "audience", "erp"}, "unauthorized_client", "tenant_foreign"},
		"tenant's service, platform":   {crm.ID, []string{"tenant", "platform", "audience", "erp"}, "unauthorized_client", "tenant_foreign"},
	} {
		t.Run(name, func(t *testing.T) { // not parallel: the subtests share one journal
			v := w.as(c.client, append([]string{"grant_type", "client_credentials"}, c.params...)...)
			w.refused(t, oidc.PathToken, v, http.StatusBadRequest, c.code, deny, c.reason)
		})
	}
	// The tenant's own service gets its own tenant, named or not.
	for _, more := range [][]string{{}, {"tenant", "acme"}} {
		a := w.token(w.as(crm.ID, append([]string{"grant_type", "client_credentials", "audience", "erp"}, more...)...))
		if got := w.read(a.text("access_token")); got["tenant"] != w.acme.Tenant.String() || got["scope"] != "read" {
			t.Errorf("claims %v", got)
		}
	}
	// Without a scope all that grant and installation allow is given.
	a := w.token(w.as(notes.ID, "grant_type", "client_credentials", "tenant", "acme", "audience", "billing"))
	if a.text("scope") != "read" {
		t.Errorf("scope %q", a.text("scope"))
	}
	// What ends an installation ends it at once.
	must(t, w.dir.Uninstall(context.Background(), ledger.Event{Subject: "system"}, w.acme.Tenant, "notes"))
	w.refused(t, oidc.PathToken, w.as(notes.ID, "grant_type", "client_credentials", "tenant", "acme", "audience", "billing"),
		http.StatusBadRequest, "unauthorized_client", deny, "not_installed")
}

// A tenant's administrator cannot take the place of a part of Bulwark.
func TestServiceNamedLikeASurface(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.store.Counters().Mutations
	for _, name := range []string{"gateway", "authz", "kms", "admin", "audit", "pep", "Gateway", "urn:bulwark:test:gateway"} {
		if s, err := w.dir.CreateService(context.Background(), ledger.Event{}, w.acme.Tenant, name); err == nil {
			t.Errorf("service %q was made: %+v", name, s)
		}
	}
	if got := w.store.Counters().Mutations; got != before {
		t.Errorf("%d changes", got-before)
	}
	crm := w.service(w.acme.Tenant, "crm")
	for _, audience := range []string{"gateway", "urn:bulwark:test:gateway", "pep", "admin"} {
		w.refused(t, oidc.PathToken, w.as(crm.ID, "grant_type", "client_credentials", "audience", audience),
			http.StatusBadRequest, "invalid_target", ledger.Deny, "audience_not_granted")
	}
}

func TestSuspensions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, ev := context.Background(), ledger.Event{Subject: "system"}
	crm := w.service(w.acme.Tenant, "crm")
	w.service(w.acme.Tenant, "erp")
	w.grant(w.acme.Tenant, "crm", "erp", true)
	ask := []string{"grant_type", "client_credentials", "audience", "erp"}
	w.token(w.as(crm.ID, ask...))

	must(t, w.dir.SetTenantState(ctx, ev, w.acme.Tenant, directory.Suspended))
	w.refused(t, oidc.PathToken, w.as(crm.ID, ask...), http.StatusUnauthorized, "invalid_client", ledger.Reject, "client_suspended")
	must(t, w.dir.SetTenantState(ctx, ev, w.acme.Tenant, directory.Active))
	must(t, w.dir.SetServiceState(ctx, ev, w.acme.Tenant, crm.ID, directory.Suspended))
	w.refused(t, oidc.PathToken, w.as(crm.ID, ask...), http.StatusUnauthorized, "invalid_client", ledger.Reject, "client_suspended")
	must(t, w.dir.SetServiceState(ctx, ev, w.acme.Tenant, crm.ID, directory.Active))
	w.token(w.as(crm.ID, ask...))
}

// An event that cannot be written means no token and no plain refusal: 503.
func TestFullLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crm := w.service(w.acme.Tenant, "crm")
	w.service(w.acme.Tenant, "erp")
	w.grant(w.acme.Tenant, "crm", "erp", true)
	w.journal.fill(true)
	for _, audience := range []string{"erp", "gateway"} {
		a := w.post(oidc.PathToken, w.as(crm.ID, "grant_type", "client_credentials", "audience", audience))
		if a.status != http.StatusServiceUnavailable || a.text("error") != "temporarily_unavailable" || a.text("access_token") != "" {
			t.Errorf("%s: %d %s", audience, a.status, a.raw)
		}
	}
	w.journal.fill(false)
	w.token(w.as(crm.ID, "grant_type", "client_credentials", "audience", "erp"))
}

// A node that has not heard from its store for 30 s issues nothing.
func TestStaleNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	crm := w.service(w.acme.Tenant, "crm")
	w.service(w.acme.Tenant, "erp")
	w.grant(w.acme.Tenant, "crm", "erp", true)
	w.clock.add(directory.StaleAfter)
	ask := []string{"grant_type", "client_credentials", "audience", "erp"}
	if a := w.post(oidc.PathToken, w.as(crm.ID, ask...)); a.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", a.status, a.raw)
	}
	w.dir.Confirm()
	w.token(w.as(crm.ID, ask...))
}

func TestPersonToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.user(w.acme.Tenant, "alice")
	id := alice.String()
	w.service(w.acme.Tenant, "erp")
	ask := func(claims map[string]any, more ...string) map[string][]string {
		v := map[string][]string{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {w.sign(id, "JWT", claims)}}
		for i := 0; i+1 < len(more); i += 2 {
			v[more[i]] = append(v[more[i]], more[i+1])
		}
		return v
	}
	w.clock.add(10 * time.Second)
	claims := w.claims(id)
	a := w.token(ask(claims, "audience", "admin"))
	got, now := w.read(a.text("access_token")), float64(w.clock.now().Unix())
	want := map[string]any{
		"iss": w.issuer, "sub": id, "aud": "urn:bulwark:test:admin", "client_id": id, "tenant": w.acme.Tenant.String(),
		"amr": []any{"swk"}, "auth_time": now, "iat": now, "exp": now + 300, "jti": got["jti"], "root_jti": got["jti"],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}

	const deny, reject = ledger.Deny, ledger.Reject
	w.refused(t, oidc.PathToken, ask(claims, "audience", "admin"), 400, "invalid_grant", reject, "assertion_replayed")
	fresh := func() map[string]any { return w.claims(id) }
	w.refused(t, oidc.PathToken, ask(fresh()), 400, "invalid_request", deny, "audience_missing")
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "pep"), 400, "invalid_target", deny, "audience_unknown")
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "erp"), 400, "invalid_target", deny, "audience_unknown")
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "admin", "audience", "gateway"), 400, "invalid_target", deny, "audience_several")
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "admin", "scope", "all"), 400, "invalid_scope", deny, "scope_exceeds")
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "admin", "tenant", "globex"), 400, "unauthorized_client", deny, "tenant_foreign")
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "admin", "client_id", "x"), 400, "invalid_request", reject, "client_methods")
	two := fresh()
	two["aud"] = []string{w.issuer, "https://other.example"}
	w.refused(t, oidc.PathToken, ask(two, "audience", "admin"), 400, "invalid_grant", reject, "assertion_audience")

	// A person is no client, and a service no person.
	w.refused(t, oidc.PathToken, w.as(id, "grant_type", "client_credentials", "audience", "admin"), 401, "invalid_client", reject, "assertion_unknown")
	must(t, w.dir.SetUserState(context.Background(), ledger.Event{Subject: "system"}, w.acme.Tenant, alice.ID, directory.Suspended))
	w.refused(t, oidc.PathToken, ask(fresh(), "audience", "admin"), 400, "invalid_grant", reject, "person_suspended")
}

func TestMintIsForDevAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.user(w.acme.Tenant, "alice")
	req := sts.MintRequest{Tenant: w.acme.Tenant, Subject: alice, Audience: "gateway"}
	tok, err := w.sts.Mint(context.Background(), req)
	must(t, err)
	if got := w.read(tok.Value); got["sub"] != alice.String() || got["aud"] != "urn:bulwark:test:gateway" || got["client_id"] != alice.String() {
		t.Errorf("claims %v", got)
	}
	serve, err := sts.New(context.Background(), sts.Config{Issuer: w.issuer, Directory: w.dir, Keys: w.keys, Audit: w.journal, Now: w.clock.now})
	must(t, err)
	if _, err := serve.Mint(context.Background(), req); err == nil {
		t.Error("a server that is not dev minted a token")
	}
}
