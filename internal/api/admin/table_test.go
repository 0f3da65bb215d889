package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// holders says who in each tenant has a relation.
var holders = map[string]string{
	"": "nobody", "can_create_tenant": "operator", "can_invite": "administrator", "can_manage_users": "administrator", "can_read_users": "access_manager",
	"can_manage_services": "administrator", "can_manage_connections": "administrator", "can_install": "administrator",
	"can_write_tuples": "access_manager", "can_read_tuples": "access_manager", "can_propose_release": "policy_author",
	"can_approve_release": "approver", "can_refuse_release": "approver", "can_activate_release": "policy_author", "can_roll_back_release": "policy_author",
	"can_rehearse_release": "policy_author", "can_read_release": "policy_author",
	"can_define_roles": "administrator", "can_read_roles": "auditor", "can_publish_own_policies": "access_manager",
	"can_read_audit": "auditor", "can_read_model": "policy_author", "can_explain": "auditor", "can_suspend": "administrator",
}

// holder names the person who may use the route, at home in the tenant or, for
// the platform's routes, on the platform.
func holder(rt admin.Row, home string) string {
	name := holders[rt.Relation]
	if rt.Platform {
		home = "platform"
		if rt.Relation == "can_suspend" {
			name = "operator"
		}
	}
	return name + "@" + home
}

// props are things of one tenant that routes can name.
type props struct{ user, service, kid, role, connection, model, tenant, event, audience, store string }

// stock makes one of each in a tenant.
func (w *world) stock(t *directory.Tenant) props {
	w.T.Helper()
	ctx := context.Background()
	boss := w.as("administrator@" + t.Name)
	user := got[admin.User](w.T)(boss.CreateUser(ctx, admin.NewUser{Name: "prop"}))
	must(w.T, boss.AssignRole(ctx, "prop", admin.Role{Role: "approver"}))
	service := got[admin.Service](w.T)(boss.CreateService(ctx, admin.NewService{Name: "prop"}))
	kid, jwk := publicKey(w.T)
	got[admin.Key](w.T)(boss.AddKey(ctx, "prop", admin.NewKey{Key: jwk}))
	got[admin.Grant](w.T)(boss.GrantAudience(ctx, "prop", admin.Grant{Audience: "gateway"}))
	connection := got[admin.Connection](w.T)(boss.CreateConnection(ctx, admin.NewConnection{
		Name: "prop", Issuer: "https://" + t.Name + ".test", Audience: "x", Kind: "okta",
	}))
	m, _ := w.Authz.ActiveModel("docs")
	event := w.Events(audit.Filter{Tenant: t.Tenant.String(), Action: "connection.create"}, func(all []ledger.Event) bool { return len(all) > 0 })[0]
	store := got[relation.StoreID](w.T)(w.Directory.DefaultGraph(t.Tenant, "docs"))
	return props{user.ID, service.ID, kid, "approver", connection.ID, m.ID(), t.Tenant.String(), event.ID, "gateway", string(store)}
}

// path fills the pattern's variables.
func (p props) path(rt admin.Row) string {
	return admin.Base + strings.NewReplacer("{user}", p.user, "{service}", p.service, "{kid}", p.kid, "{role}", p.role,
		"{connection}", p.connection, "{model}", p.model, "{tenant}", p.tenant, "{event}", p.event, "{audience}", p.audience, "{store}", p.store, "{application}", "docs", "{type}", "document", "{release}", "0123456789abcdef").Replace(rt.Pattern)
}

// bodies has a good body for every route that takes one.
func (w *world) bodies() map[string]string {
	_, jwk := publicKey(w.T)
	return map[string]string{
		"tenant.create":       `{"name":"fresh"}`,
		"invite.create":       `{"role":"auditor"}`,
		"enrolment.use":       fmt.Sprintf(`{"code":"none","name":"x","key":%s}`, jwk),
		"user.create":         `{"name":"fresh"}`,
		"role.assign":         `{"role":"approver"}`,
		"service.create":      `{"name":"fresh"}`,
		"service_key.add":     fmt.Sprintf(`{"key":%s}`, jwk),
		"audience.grant":      `{"audience":"authz"}`,
		"installation.create": `{"service":"notes"}`,
		"connection.create":   `{"name":"fresh","issuer":"https://fresh.test","audience":"x","kind":"okta"}`,
		"release.propose":     `{"policies":[{"name":"a.cedar","text":"forbid (principal, action, resource);"}]}`,
		"release.rehearse":    `{"release":"0123456789abcdef"}`,
		"release.activate":    `{"tenants":["acme"]}`,
		"own_policy.publish":  `{"files":[]}`,
		"object_role.define":  `{"relations":["viewer"]}`,
		"assignment.create":   `{"role":"reader","object":"document:x","user":"user:@nobody"}`,
		"assignment.revoke":   `{"role":"reader","object":"document:x","user":"user:@nobody"}`,
		"tuple.write":         `{"writes":[{"user":"user:@nobody","relation":"viewer","object":"folder:x"}]}`,
		"store.restore":       `no archive`,
		"decision.explain":    `{"subject":"user:@nobody","relation":"viewer","object":"folder:x"}`,
		"credential.revoke":   `{"kind":"token","value":"x"}`,
	}
}

// problem reads a refusal and holds it to its form.
func problem(t *testing.T, r guardtest.Reply, status int, kind string) (decision string) {
	t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		RequestID           string `json:"request_id"`
		DecisionID          string `json:"decision_id"`
	}
	if r.Status != status || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("answered %d %s, want %d: %s", r.Status, r.Header.Get("Content-Type"), status, r.Body)
		return ""
	}
	if err := json.Unmarshal([]byte(r.Body), &p); err != nil || p.Type != "urn:bulwark:problem:"+kind || p.Status != status ||
		p.Detail == "" || p.RequestID != r.Header.Get(web.RequestIDHeader) {
		t.Errorf("the problem is %s", r.Body)
	}
	return p.DecisionID
}

// TestEveryRouteRefuses sends to every route of the table what must not pass.
func TestEveryRouteRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ours, theirs := w.stock(w.Acme), w.stock(w.Globex)
	bodies := w.bodies()
	used := map[string]bool{}
	for _, rt := range admin.Table() {
		body := bodies[rt.Action]
		used[rt.Action] = true
		path := ours.path(rt)
		// refused asks and demands that nothing changes.
		refused := func(name string, header http.Header, path string, status int, kind string) (event ledger.Event) {
			t.Helper()
			before := w.Changes()
			r := w.Send(rt.Method, path, body, header)
			decision := problem(t, r, status, kind)
			if now := w.Changes(); now != before {
				t.Errorf("%s, %s: %d changes", rt.Action, name, now-before)
			}
			if status == http.StatusUnauthorized || t.Failed() {
				return ledger.Event{}
			}
			event = w.One(r.Header.Get(web.RequestIDHeader))
			if rt.Effect != "opens" && (event.ID != decision || event.Class != ledger.Deny || event.Decision != "deny" || event.Action != rt.Action) {
				t.Errorf("%s, %s: decision %q is recorded as %+v", rt.Action, name, decision, event)
			}
			return event
		}
		if rt.Effect == "opens" {
			ev := refused("no code", nil, path, http.StatusForbidden, "denied")
			if ev.Class != ledger.Reject || ev.Tenant != w.Platform.Tenant || ev.Source != "127.0.0.0/24" || ev.Subject != "" {
				t.Errorf("a bad code is recorded as %+v", ev)
			}
			continue
		}
		refused("no token", nil, path, http.StatusUnauthorized, "unauthenticated")
		who := holder(rt, "acme")
		refused("another audience", guardtest.Bearer(w.Token(who, "authz")), path, http.StatusUnauthorized, "unauthenticated")
		good := "Bearer " + w.Token(who, "admin")
		refused("two credentials", http.Header{"Authorization": {good, good}}, path, http.StatusUnauthorized, "unauthenticated")
		if rt.Relation == "" {
			continue
		}
		for _, other := range []string{"nobody@acme", "nobody@platform"} {
			ev := refused(other, guardtest.Bearer(w.Token(other, "admin")), path, http.StatusForbidden, "denied")
			if ev.Subject != "user:"+w.ID(other) || ev.Tenant != w.TenantOf(other) || ev.Relation != rt.Relation || ev.Reason != "no_relation" {
				t.Errorf("%s by %s is recorded as %+v", rt.Action, other, ev)
			}
		}
		if rt.Platform {
			// Nobody of a tenant gets in, whatever role they have there.
			for _, role := range []string{"administrator", "policy_author", "access_manager", "auditor"} {
				refused(role, guardtest.Bearer(w.Token(role+"@acme", "admin")), path, http.StatusForbidden, "denied")
			}
		}
		if foreign := theirs.path(rt); foreign != path && rt.Action != "model.get" && !rt.Platform {
			ev := refused("another tenant's ids", guardtest.Bearer(w.Token(who, "admin")), foreign, http.StatusNotFound, "not_found")
			if ev.Reason != "not_found" || ev.Tenant != w.Acme.Tenant {
				t.Errorf("%s with foreign ids is recorded as %+v", rt.Action, ev)
			}
		}
	}
	for action := range bodies {
		if !used[action] {
			t.Errorf("%s has a body and no route", action)
		}
	}
}

// TestTenantsStayAmongThemselves tries the bodies that could name what is
// another tenant's.
func TestTenantsStayAmongThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	theirs := w.stock(w.Globex)
	w.stock(w.Acme)
	boss := guardtest.Bearer(w.Token("administrator@acme", "admin"))
	operator := guardtest.Bearer(w.Token("operator@platform", "admin"))
	before := w.Changes()
	for name, c := range map[string]struct {
		path, body string
		who        http.Header
		status     int
		kind       string
	}{
		"invite into another tenant by name": {"/invites", `{"tenant":"globex","role":"administrator"}`, boss, 404, "not_found"},
		"invite into another tenant by id":   {"/invites", `{"tenant":"` + theirs.tenant + `","role":"administrator"}`, boss, 404, "not_found"},
		"invite into no tenant":              {"/invites", `{"tenant":"absent","role":"administrator"}`, boss, 404, "not_found"},
		"invite an operator into a tenant":   {"/invites", `{"tenant":"globex","role":"operator"}`, operator, 400, "invalid"},
		"invite an auditor from outside":     {"/invites", `{"tenant":"globex","role":"auditor"}`, operator, 403, "denied"},
		"link a user to their connection":    {"/users", `{"name":"spy","connection":"` + theirs.connection + `","external":"x"}`, boss, 404, "not_found"},
		"install their service":              {"/installations", `{"service":"` + theirs.service + `"}`, boss, 404, "not_found"},
		"an audience of their service":       {"/services/prop/audiences", `{"audience":"urn:bulwark:test:svc:` + theirs.service + `"}`, boss, 404, "not_found"},
		"an operator makes a tenant's user":  {"/users", `{"name":"spy"}`, operator, 403, "denied"},
		"be a policy enforcement point":      {"/services/prop/audiences", `{"audience":"pep"}`, boss, 403, "denied"},
		"a service named gateway":            {"/services", `{"name":"gateway"}`, boss, 400, "invalid"},
		"an issuer with keys of one's own":   {"/connections", `{"name":"x","issuer":"https://x.test","audience":"x","kind":"okta","jwks_uri":"https://evil.test"}`, boss, 400, "invalid"},
		"another tenant's issuer":            {"/connections", `{"name":"x","issuer":"https://globex.test","audience":"x","kind":"okta"}`, boss, 409, "conflict"},
		"somebody else's role":               {"/users/" + theirs.user + "/roles", `{"role":"auditor"}`, boss, 404, "not_found"},
		"a tuple for their alias":            {"/tuples", `{"writes":[{"user":"user:@stranger","relation":"viewer","object":"folder:x"}]}`, guardtest.Bearer(w.Token("access_manager@acme", "admin")), 404, "not_found"},
		"a tuple for their service":          {"/tuples", `{"writes":[{"user":"service:@gprop","relation":"viewer","object":"folder:x"}]}`, guardtest.Bearer(w.Token("access_manager@acme", "admin")), 404, "not_found"},
		"an admin right as a tuple":          {"/tuples", `{"writes":[{"user":"user:@nobody","relation":"administrator","object":"system:` + w.Acme.Tenant.String() + `"}]}`, guardtest.Bearer(w.Token("access_manager@acme", "admin")), 400, "invalid"},
		"another application":                {"/tuples", `{"application":"system","writes":[{"user":"user:@nobody","relation":"viewer","object":"folder:x"}]}`, guardtest.Bearer(w.Token("access_manager@acme", "admin")), 404, "not_found"},
	} {
		r := w.Send("POST", admin.Base+c.path, c.body, c.who)
		t.Run(name, func(t *testing.T) {
			if decision := problem(t, r, c.status, c.kind); decision == "" {
				t.Error("no decision is named")
			}
			if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny {
				t.Errorf("recorded as %+v", ev)
			}
		})
	}
	if now := w.Changes(); now != before {
		t.Errorf("%d changes", now-before)
	}
}

// TestBadInput sends what no client of ours would.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stock(w.Acme)
	tuples := func(n int) string {
		one := `{"user":"user:@nobody","relation":"viewer","object":"folder:x"}`
		return `{"writes":[` + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + `]}`
	}
	many := `["` + strings.Repeat(`a","`, 100) + `a"]`
	_, jwk := publicKey(t)
	private := strings.Replace(string(jwk), "{", `{"d":"AAAA",`, 1)
	for name, c := range map[string]struct {
		method, path, body string
		who                string
		status             int
	}{
		"malformed":            {"POST", "/users", `{"name":`, "administrator", 400},
		"repeated member":      {"POST", "/users", `{"name":"a","name":"b"}`, "administrator", 400},
		"unknown member":       {"POST", "/users", `{"name":"a","role":"operator"}`, "administrator", 400},
		"other case":           {"POST", "/users", `{"NAME":"a"}`, "administrator", 400},
		"two megabytes":        {"POST", "/users", `{"name":"` + strings.Repeat("a", 2<<20) + `"}`, "administrator", 413},
		"invalid utf-8":        {"POST", "/users", "{\"name\":\"\xff\"}", "administrator", 400},
		"wrong type":           {"POST", "/users", `{"name":7}`, "administrator", 400},
		"null":                 {"POST", "/users", `{"name":null}`, "administrator", 400},
		"list":                 {"POST", "/users", `[]`, "administrator", 400},
		"control character":    {"POST", "/users", `{"name":"a\u0000"}`, "administrator", 400},
		"line in external":     {"POST", "/users", `{"name":"a","connection":"prop","external":"a\nb"}`, "administrator", 400},
		"name like an id":      {"POST", "/users", `{"name":"` + strings.ToLower(w.ID("nobody@acme")) + `"}`, "administrator", 400},
		"no name":              {"POST", "/users", `{}`, "administrator", 400},
		"no body":              {"POST", "/users", ``, "administrator", 400},
		"taken name":           {"POST", "/users", `{"name":"prop"}`, "administrator", 409},
		"101 tuples":           {"POST", "/tuples", tuples(101), "access_manager", 413},
		"no tuples":            {"POST", "/tuples", `{}`, "access_manager", 400},
		"same tuple twice":     {"POST", "/tuples", tuples(2), "access_manager", 400},
		"101 scopes":           {"POST", "/services/prop/audiences", `{"audience":"authz","scopes":` + many + `}`, "administrator", 413},
		"private key":          {"POST", "/services/prop/keys", `{"key":` + private + `}`, "administrator", 400},
		"symmetric key":        {"POST", "/services/prop/keys", `{"key":{"kty":"oct","k":"AAAA"}}`, "administrator", 400},
		"key as text":          {"POST", "/services/prop/keys", `{"key":"x"}`, "administrator", 400},
		"no key":               {"POST", "/services/prop/keys", `{}`, "administrator", 400},
		"unknown filter":       {"GET", "/users?role=x", ``, "administrator", 400},
		"limit 0":              {"GET", "/users?limit=0", ``, "administrator", 400},
		"limit 1001":           {"GET", "/users?limit=1001", ``, "administrator", 400},
		"limit text":           {"GET", "/users?limit=ten", ``, "administrator", 400},
		"cursor":               {"GET", "/users?cursor=%25%25", ``, "administrator", 400},
		"cursor of services":   {"GET", "/services?cursor=AA", ``, "administrator", 400},
		"cursor of tuples":     {"GET", "/tuples?cursor=AA", ``, "access_manager", 400},
		"cursor of events":     {"GET", "/audit/events?cursor=MXg", ``, "auditor", 400},
		"class":                {"GET", "/audit/events?class=all", ``, "auditor", 400},
		"time":                 {"GET", "/audit/events?since=yesterday", ``, "auditor", 400},
		"repeated filter":      {"GET", "/audit/events?class=deny&class=allow", ``, "auditor", 400},
		"export from text":     {"GET", "/audit/export?from=x", ``, "auditor", 400},
		"export from below 0":  {"GET", "/audit/export?from=-1", ``, "auditor", 400},
		"export of a class":    {"GET", "/audit/export?class=all", ``, "auditor", 400},
		"export of a tenant":   {"GET", "/audit/export?tenant=globex", ``, "auditor", 400},
		"body of a get":        {"GET", "/users", `{}`, "administrator", 400},
		"explain nothing":      {"POST", "/explain", `{}`, "access_manager", 400},
		"explain odd visible":  {"POST", "/explain", `{"subject":"user:@nobody","relation":"viewer","object":"folder:x","visible":"a b"}`, "access_manager", 400},
		"expired installation": {"POST", "/installations", `{"service":"x","expires":"2001-01-01T00:00:00Z"}`, "administrator", 400},
	} {
		before := w.Changes()
		r := w.Send(c.method, admin.Base+c.path, c.body, guardtest.Bearer(w.Token(c.who+"@acme", "admin")))
		kind := map[int]string{400: "invalid", 409: "conflict", 413: "too_large"}[c.status]
		if problem(t, r, c.status, kind); t.Failed() {
			t.Fatalf("%s: %d %s", name, r.Status, r.Body)
		}
		if w.Changes() != before {
			t.Errorf("%s changed something", name)
		}
		if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != kind {
			t.Errorf("%s is recorded as %+v", name, ev)
		}
	}
}

// TestDoorIsLimited knocks until the door answers 429, and the honest wait.
func TestDoorIsLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := w.bodies()["enrolment.use"]
	end := time.Now().Add(20 * time.Second)
	for time.Now().Before(end) {
		r := w.Send("POST", admin.Base+"/enrolments", body, nil)
		if r.Status == http.StatusTooManyRequests {
			problem(t, r, 429, "exhausted")
			if r.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return
		}
		problem(t, r, 403, "denied")
	}
	t.Error("the door never closed")
}
