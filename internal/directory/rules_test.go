package directory_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for _, name := range []string{"", "Acme", "a b", "-a", ".a", "a/b", "a:b", "ä", "a\x00", strings.Repeat("a", 64), "../a", strings.ToLower(tenant.RandomID())} {
		_, err := w.CreateTenant(w.ctx, event(), name)
		wantKind(t, "tenant "+name, err, fault.Invalid)
		_, err = w.CreateUser(w.ctx, event(), w.acme.Tenant, name, "", "")
		wantKind(t, "user "+name, err, fault.Invalid)
		_, err = w.CreateService(w.ctx, event(), w.acme.Tenant, name)
		wantKind(t, "service "+name, err, fault.Invalid)
	}
	_, err := w.CreateTenant(w.ctx, event(), "acme")
	wantKind(t, "a tenant's name twice", err, fault.Conflict)
	_, err = w.CreateTenant(w.ctx, event(), "platform")
	wantKind(t, "the platform's name", err, fault.Invalid)
	_, err = w.CreatePlatform(w.ctx, event())
	wantKind(t, "a second platform", err, fault.Conflict)

	// The same alias in two tenants is two users.
	a, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "", "")
	must(t, err)
	b, err := w.CreateUser(w.ctx, event(), w.globex.Tenant, "alice", "", "")
	must(t, err)
	_, err = w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "", "")
	wantKind(t, "a user's name twice in a tenant", err, fault.Conflict)
	if got, err := w.ResolveUser(w.ctx, w.acme.Tenant, "alice"); err != nil || got.ID != a.ID {
		t.Errorf("alice@acme is %v, %v", got, err)
	}
	_, err = w.ResolveUser(w.ctx, w.acme.Tenant, b.ID)
	wantKind(t, "a user of another tenant by id", err, fault.NotFound)
}

// A tenant's administrator who wants to be taken for a part of Bulwark.
func TestReservedServiceNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	for _, name := range []string{"gateway", "authz", "kms", "admin", "audit", "pep", "sts", "console", "svc", "platform", "bulwark"} {
		_, err := w.CreateService(w.ctx, event(), w.acme.Tenant, name)
		wantKind(t, name, err, fault.Invalid)
	}
	if list := w.Services(w.acme.Tenant); len(list) != 0 {
		t.Errorf("refused services exist: %v", list)
	}
	urn, err := w.ResolveAudience(w.acme.Tenant, "gateway")
	if err != nil || urn != "urn:bulwark:test:gateway" {
		t.Errorf("the audience gateway is %q, %v", urn, err)
	}
}

func TestAudiences(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	own, err := w.CreateService(w.ctx, event(), w.acme.Tenant, "search")
	must(t, err)
	foreign, err := w.CreateService(w.ctx, event(), w.globex.Tenant, "secret")
	must(t, err)
	shared, err := w.CreateService(w.ctx, event(), tenant.Platform, "billing")
	must(t, err)
	for _, c := range []struct{ name, want string }{
		{"search", w.ServiceAudience(own.ID)},
		{own.ID, w.ServiceAudience(own.ID)},
		{w.ServiceAudience(own.ID), w.ServiceAudience(own.ID)},
		{"billing", w.ServiceAudience(shared.ID)},
		{"urn:bulwark:test:authz", "urn:bulwark:test:authz"},
	} {
		if got, err := w.ResolveAudience(w.acme.Tenant, c.name); err != nil || got != c.want {
			t.Errorf("ResolveAudience(%q) = %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	for _, name := range []string{"", "secret", foreign.ID, w.ServiceAudience(foreign.ID), "urn:bulwark:prod:gateway", "urn:bulwark:test:gateway:x", "urn:bulwark:test:svc:" + tenant.RandomID()} {
		_, err := w.ResolveAudience(w.acme.Tenant, name)
		wantKind(t, "audience "+name, err, fault.NotFound)
	}
	// A name that the tenant took later must not redirect tokens.
	_, err = w.CreateService(w.ctx, event(), w.acme.Tenant, "billing")
	must(t, err)
	_, err = w.ResolveAudience(w.acme.Tenant, "billing")
	wantKind(t, "a name that two services have", err, fault.Invalid)
	if got, err := w.ResolveAudience(tenant.Platform, "billing"); err != nil || got != w.ServiceAudience(shared.ID) {
		t.Errorf("for the platform billing is %q, %v", got, err)
	}
}

// A tenant that registers another tenant's issuer, with or without keys of its own.
func TestConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	good := directory.Connection{Tenant: w.acme.Tenant, Name: "okta", Issuer: "https://acme.okta.example/oauth2/default", Audience: "api://docs", Kind: directory.Okta}
	c, err := w.CreateConnection(w.ctx, event(), good)
	must(t, err)
	if !slices.Equal(c.Algs, []string{"RS256"}) || c.State != directory.Active {
		t.Errorf("defaults: %+v", c)
	}
	theft := good
	theft.Tenant, theft.Name = w.globex.Tenant, "mine"
	_, err = w.CreateConnection(w.ctx, event(), theft)
	wantKind(t, "another tenant's issuer and audience", err, fault.Conflict)
	theft.JWKSURI = "https://evil.example/jwks"
	_, err = w.CreateConnection(w.ctx, event(), theft)
	wantKind(t, "with keys of its own", err, fault.Denied)
	theft.Audience = "api://other"
	_, err = w.CreateConnection(w.ctx, event(), theft)
	wantKind(t, "with keys of its own, another audience", err, fault.Denied)
	if _, ok := w.Connection(good.Issuer, []string{"api://other"}); ok || len(w.Connections(w.globex.Tenant)) != 0 {
		t.Error("a refused connection exists")
	}
	for name, change := range map[string]func(*directory.Connection){
		"plain http":    func(c *directory.Connection) { c.Issuer = "http://i.example" },
		"user in URL":   func(c *directory.Connection) { c.Issuer = "https://u@i.example" },
		"query":         func(c *directory.Connection) { c.Issuer = "https://i.example?x" },
		"no audience":   func(c *directory.Connection) { c.Audience = "" },
		"our audience":  func(c *directory.Connection) { c.Audience = "urn:bulwark:test:gateway" },
		"kind":          func(c *directory.Connection) { c.Kind = "saml" },
		"none":          func(c *directory.Connection) { c.Algs = []string{"none"} },
		"shared secret": func(c *directory.Connection) { c.Algs = []string{"RS256", "HS256"} },
	} {
		bad := good
		bad.Name, bad.Audience = "other", "api://other"
		change(&bad)
		_, err := w.CreateConnection(w.ctx, event(), bad)
		wantKind(t, name, err, fault.Invalid)
	}
	for _, aud := range [][]string{nil, {"api://docs", "x"}, {"api://docs", "api://docs"}, {"API://docs"}} {
		if _, ok := w.Connection(good.Issuer, aud); ok {
			t.Errorf("the audience %q finds the connection", aud)
		}
	}
	if _, ok := w.Connection(good.Issuer+"/", []string{"api://docs"}); ok {
		t.Error("another spelling of the issuer finds the connection")
	}
	must(t, w.SetConnectionState(w.ctx, event(), w.acme.Tenant, "okta", directory.Suspended))
	if _, ok := w.Connection(good.Issuer, []string{"api://docs"}); ok {
		t.Error("a suspended connection is found as active")
	}
}

func TestLinkedUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	c, err := w.CreateConnection(w.ctx, event(), directory.Connection{Tenant: w.acme.Tenant, Name: "okta", Issuer: "https://i.example", Audience: "a", Kind: directory.Okta})
	must(t, err)
	_, err = w.CreateUser(w.ctx, event(), w.globex.Tenant, "alice", "okta", "00u1")
	wantKind(t, "a user linked to another tenant's connection", err, fault.NotFound)
	_, err = w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "okta", "")
	wantKind(t, "a connection without a subject", err, fault.Invalid)
	u, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice", "okta", "00u1")
	must(t, err)
	_, err = w.CreateUser(w.ctx, event(), w.acme.Tenant, "alice2", "okta", "00u1")
	wantKind(t, "one subject linked twice", err, fault.Conflict)
	if at, who, err := w.ExternalUser(w.ctx, c.ID, "00u1"); err != nil || at != w.acme.Tenant || who.ID != u.ID {
		t.Errorf("ExternalUser = %v, %v, %v", at, who, err)
	}
	_, _, err = w.ExternalUser(w.ctx, c.ID, "00U1")
	wantKind(t, "another spelling of the subject", err, fault.NotFound)
	must(t, w.SetUserState(w.ctx, event(), w.acme.Tenant, u.ID, directory.Suspended))
	_, _, err = w.ExternalUser(w.ctx, c.ID, "00u1")
	wantKind(t, "a suspended user", err, fault.Denied)
}

func TestInstallations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	notes, err := w.CreateService(w.ctx, event(), tenant.Platform, "notes")
	must(t, err)
	private, err := w.CreateService(w.ctx, event(), w.globex.Tenant, "private")
	must(t, err)
	for _, name := range []string{"private", private.ID, "nothing"} {
		_, err := w.Install(w.ctx, event(), w.acme.Tenant, name, nil, time.Time{})
		wantKind(t, "installing "+name, err, fault.NotFound)
	}
	_, err = w.Install(w.ctx, event(), tenant.Platform, "notes", nil, time.Time{})
	wantKind(t, "installing in the platform", err, fault.NotFound)
	_, err = w.Installed(w.acme.Tenant, notes.ID)
	wantKind(t, "before", err, fault.Denied)
	_, err = w.Install(w.ctx, event(), w.acme.Tenant, "notes", []string{"read"}, w.clock().Add(time.Hour))
	must(t, err)
	if _, err := w.Installed(w.acme.Tenant, notes.ID); err != nil {
		t.Errorf("installed: %v", err)
	}
	_, err = w.Installed(w.globex.Tenant, notes.ID)
	wantKind(t, "in the other tenant", err, fault.Denied)
	w.advance(time.Hour)
	_, err = w.Installed(w.acme.Tenant, notes.ID)
	wantKind(t, "after its end", err, fault.Denied)
}

func TestEnrolment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	code, e, err := w.Invite(w.ctx, event(), directory.Inviter{Tenant: tenant.Platform}, tenant.Platform, "operator", "olga")
	must(t, err)
	key := []byte(`{"kty":"EC"}`)
	for _, bad := range []string{"", "x", code[:len(code)-1], code + "a", e.ID} {
		_, err := w.Enrol(w.ctx, event(), bad, "eve", "kid", key)
		wantKind(t, "the code "+bad, err, fault.Denied)
	}
	u, err := w.Enrol(w.ctx, event(), " "+strings.ToUpper(code)+"\n", "eve", "kid-1", key)
	must(t, err)
	if u.Name != "olga" || u.Tenant != tenant.Platform {
		t.Errorf("enrolled %+v: the code's name and tenant count", u)
	}
	if _, err := w.ClientKey(principal.Subject{Kind: principal.User, ID: u.ID}, "kid-1"); err != nil {
		t.Errorf("the key: %v", err)
	}
	_, err = w.Enrol(w.ctx, event(), code, "eve", "kid-2", key)
	wantKind(t, "the code again", err, fault.Denied)

	olga := directory.Inviter{Tenant: tenant.Platform, Subject: principal.Subject{Kind: principal.User, ID: u.ID}}
	late, _, err := w.Invite(w.ctx, event(), olga, tenant.Platform, "auditor", "")
	must(t, err)
	w.advance(directory.EnrolmentLife)
	_, err = w.Enrol(w.ctx, event(), late, "eve", "kid-3", key)
	wantKind(t, "a code of 15 minutes ago", err, fault.Denied)
	if list, err := w.Users(w.ctx, tenant.Platform, "", 10); err != nil || len(list) != 1 {
		t.Errorf("users of the platform: %v, %v; refused codes made some", list, err)
	}
}

// An operator invites a tenant's first administrator, and nobody after that.
func TestOperatorsReachEndsAtTheFirstAdministrator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	operator, foreign := w.inviter(tenant.Platform, "olga", "operator"), w.inviter(w.globex.Tenant, "gil", "administrator")
	for _, role := range []string{"auditor", "access_manager", "operator", "owner"} {
		_, _, err := w.Invite(w.ctx, event(), operator, w.acme.Tenant, role, "")
		if err == nil {
			t.Errorf("an operator invited a tenant's %s", role)
		}
	}
	_, _, err := w.Invite(w.ctx, event(), foreign, w.acme.Tenant, "administrator", "")
	wantKind(t, "another tenant's administrator", err, fault.Denied)
	first, _, err := w.Invite(w.ctx, event(), operator, w.acme.Tenant, "administrator", "")
	must(t, err)
	second, _, err := w.Invite(w.ctx, event(), operator, w.acme.Tenant, "administrator", "")
	must(t, err)
	ann, err := w.Enrol(w.ctx, event(), first, "ann", "kid-1", []byte(`{}`))
	must(t, err)
	_, _, err = w.Invite(w.ctx, event(), operator, w.acme.Tenant, "administrator", "")
	wantKind(t, "inviting after the first", err, fault.Denied)
	// A code made before the first administrator must not plant a second one.
	_, err = w.Enrol(w.ctx, event(), second, "eve", "kid-2", []byte(`{}`))
	wantKind(t, "a code kept back", err, fault.Denied)
	administrator := directory.Inviter{Tenant: w.acme.Tenant, Subject: principal.Subject{Kind: principal.User, ID: ann.ID}}
	own, _, err := w.Invite(w.ctx, event(), administrator, w.acme.Tenant, "administrator", "")
	must(t, err)
	_, err = w.Enrol(w.ctx, event(), own, "bea", "kid-3", []byte(`{}`))
	must(t, err)
}

// A code is worth nothing once its maker is suspended or may not invite any
// more: who leaves must not come back by a code of the last quarter of an hour.
func TestInvitationDiesWithTheInviter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	state := func(by directory.Inviter, s directory.State) error {
		return w.SetUserState(w.ctx, event(), by.Tenant, by.Subject.ID, s)
	}
	demote := func(by directory.Inviter, role string) error {
		return w.UnassignRole(w.ctx, event(), by.Tenant, by.Subject.ID, role)
	}
	for what, then := range map[string]struct {
		do    func(by directory.Inviter, role string) error
		works bool
	}{
		"nothing":   {func(directory.Inviter, string) error { return nil }, true},
		"suspended": {func(by directory.Inviter, _ string) error { return state(by, directory.Suspended) }, false},
		"suspended and back": {func(by directory.Inviter, _ string) error {
			return errors.Join(state(by, directory.Suspended), state(by, directory.Active))
		}, true},
		"without a role": {demote, false},
		"with a lesser role": {func(by directory.Inviter, role string) error {
			return errors.Join(demote(by, role), w.AssignRole(w.ctx, event(), by.Tenant, by.Subject.ID, "auditor"))
		}, false},
		"another is suspended": {func(by directory.Inviter, role string) error {
			return state(w.inviter(by.Tenant, "other-"+role, role), directory.Suspended)
		}, true},
	} {
		for _, role := range []string{"administrator", "operator"} {
			name := strings.ReplaceAll(what, " ", "-") + "-" + role
			into, err := w.CreateTenant(w.ctx, event(), name)
			must(t, err)
			by := w.inviter(into.Tenant, name, "administrator")
			if role == "operator" { // invites the first administrator, from outside
				must(t, demote(by, "administrator"))
				by = w.inviter(tenant.Platform, name, role)
			}
			code, _, err := w.Invite(w.ctx, event(), by, into.Tenant, "administrator", "")
			must(t, err)
			must(t, then.do(by, role))
			_, err = w.Enrol(w.ctx, event(), code, "eve", "kid", []byte(`{}`))
			if then.works {
				must(t, err)
			} else {
				wantKind(t, "a code of the "+role+" who is "+what, err, fault.Denied)
			}
		}
	}
	_, _, err := w.Invite(w.ctx, event(), directory.Inviter{Tenant: w.acme.Tenant}, w.acme.Tenant, "administrator", "")
	wantKind(t, "an administrator invited by nobody", err, fault.Invalid)
	_, _, err = w.Invite(w.ctx, event(), directory.Inviter{Tenant: tenant.Platform}, w.acme.Tenant, "administrator", "")
	wantKind(t, "a tenant's administrator invited by nobody", err, fault.Invalid)
}

// Who may use the route and whose codes count is the same question, asked of
// the model and in the transaction.
func TestInvitersAreThoseOfTheModel(t *testing.T) {
	t.Parallel()
	model, err := os.ReadFile("../authz/system.fga")
	must(t, err)
	_, line, ok := strings.Cut(string(model), "define can_invite: ")
	line, _, _ = strings.Cut(line, "\n")
	may := strings.Split(line, " or ")
	if !ok || len(may) < 2 {
		t.Fatalf("can_invite: %q", line)
	}
	w := newWorld(t, false)
	for _, role := range directory.Roles {
		by := w.inviter(tenant.Platform, strings.ReplaceAll(role, "_", "-"), role)
		code, _, err := w.Invite(w.ctx, event(), by, tenant.Platform, "auditor", "")
		must(t, err)
		_, err = w.Enrol(w.ctx, event(), code, "by-"+strings.ReplaceAll(role, "_", "-"), "kid", []byte(`{}`))
		if worked := err == nil; worked != slices.Contains(may, role) {
			t.Errorf("%s: the code worked: %v, the model lets %v invite", role, worked, may)
		}
	}
}

func TestRolesExclude(t *testing.T) {
	t.Parallel()
	for _, dev := range []bool{false, true} {
		w := newWorld(t, dev)
		u, err := w.CreateUser(w.ctx, event(), w.acme.Tenant, "ann", "", "")
		must(t, err)
		must(t, w.AssignRole(w.ctx, event(), w.acme.Tenant, "ann", "administrator"))
		err = w.AssignRole(w.ctx, event(), w.acme.Tenant, "ann", "auditor")
		if dev {
			must(t, err)
		} else {
			wantKind(t, "a second role", err, fault.Denied)
			must(t, w.UnassignRole(w.ctx, event(), w.acme.Tenant, u.ID, "administrator"))
			must(t, w.AssignRole(w.ctx, event(), w.acme.Tenant, "ann", "auditor"))
		}
		err = w.AssignRole(w.ctx, event(), w.acme.Tenant, "ann", "operator")
		wantKind(t, "an operator outside of the platform", err, fault.Invalid)
		err = w.AssignRole(w.ctx, event(), w.acme.Tenant, "ann", "owner")
		wantKind(t, "a role that is none", err, fault.Invalid)
		err = w.AssignRole(w.ctx, event(), w.globex.Tenant, u.ID, "auditor")
		wantKind(t, "a role for another tenant's user", err, fault.NotFound)
	}
}

func TestGraphs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	docs, err := w.DefaultGraph(w.acme.Tenant, "docs")
	must(t, err)
	_, err = w.DefaultGraph(w.acme.Tenant, "other")
	wantKind(t, "another application", err, fault.NotFound)
	_, err = w.Graph(w.globex.Tenant, docs)
	wantKind(t, "another tenant's store", err, fault.NotFound)
	_, err = w.Graph(w.acme.Tenant, relation.StoreID(tenant.RandomID()))
	wantKind(t, "no store", err, fault.NotFound)
	if g, err := w.Graph(w.acme.Tenant, w.acme.System); err != nil || g.Kind != directory.SystemGraph {
		t.Errorf("the system store: %v, %v", g, err)
	}
	must(t, w.EnsureGraphs(w.ctx))
	if n := len(w.Graphs(w.acme.Tenant)); n != 2 {
		t.Errorf("%d stores, want 2: EnsureGraphs must add what is missing alone", n)
	}
}

// What a tenant may grant to its own services ends at the operator's surfaces.
func TestTenantsCannotGrantOperatorSurfaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	own, err := w.CreateService(w.ctx, event(), w.acme.Tenant, "search")
	must(t, err)
	for _, surface := range []string{"pep", "admin", "kms", "audit"} {
		wantKind(t, surface, w.GrantAudience(w.ctx, event(), w.acme.Tenant, "search", surface, nil, true), fault.Denied)
		wantKind(t, surface+" by URN", w.GrantAudience(w.ctx, event(), w.acme.Tenant, "search", w.Audience(surface), nil, true), fault.Denied)
	}
	if list := w.Grants(own.ID); len(list) != 0 {
		t.Errorf("refused grants exist: %v", list)
	}
	for _, audience := range []string{"gateway", "authz", "search"} {
		must(t, w.GrantAudience(w.ctx, event(), w.acme.Tenant, "search", audience, nil, false))
	}
}
