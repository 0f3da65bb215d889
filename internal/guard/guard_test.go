package guard_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// The file is six numbered paragraphs, in order, and nothing between them.
func TestSixParagraphs(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("guard.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(src), "func (g *Guard) Check(")
	body, _, _ = strings.Cut(body, "\n}\n")
	_, body, _ = strings.Cut(body, "{\n")
	paragraphs := strings.Split(body, "\n\n")
	if len(paragraphs) != 6 {
		t.Errorf("Check has %d paragraphs", len(paragraphs))
	}
	for i, p := range paragraphs {
		if want := "// " + string(rune('1'+i)) + ". "; !strings.HasPrefix(strings.TrimSpace(p), want) {
			t.Errorf("paragraph %d begins with %.40q", i+1, strings.TrimSpace(p))
		}
	}
}

// request is one at a door for the audience gateway, with a new request id.
func request(w *guardtest.World, token, object, rel string) *guard.Request {
	return &guard.Request{
		Action: "request", Route: "read", Method: "GET", Path: "/documents/x", RequestID: tenant.RandomID(),
		Authorization: []string{"Bearer " + token}, Source: netip.MustParseAddr("192.0.2.77"),
		Audience: w.Directory.Audience("gateway"),
		Require:  &guard.Requirement{Application: "docs", Object: object, Relation: rel, Visible: "viewer"},
	}
}

func tuple(object, rel, subject string) relation.Tuple {
	return relation.Tuple{Object: object, Relation: rel, Subject: subject}
}

// logged returns what the log holds of the request at this moment, without waiting.
func logged(w *guardtest.World, req *guard.Request) []ledger.Event {
	w.T.Helper()
	var found []ledger.Event
	w.Must(audit.Query(context.Background(), w.AuditDir, audit.QueryOptions{Filter: audit.Filter{RequestID: req.RequestID}}, func(ev ledger.Stored) bool {
		found = append(found, ev.Event)
		return true
	}))
	return found
}

func TestAllow(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	me := w.Subject("nobody@acme")
	w.Write(tuple("document:plan", "parent", "folder:all"), tuple("folder:all", "viewer", me))
	rev := w.Write(tuple("folder:other", "viewer", me))
	notes, err := w.Directory.CreateService(t.Context(), ledger.Event{Subject: "system"}, tenant.Platform, "notes")
	w.Must(err)
	req := request(w, w.Token("nobody@acme", "gateway"), "document:plan", "viewer")
	req.Upstream = notes.ID
	v, rec := w.Guard.Check(t.Context(), req)
	if !v.Allowed || !v.Enforced || v.Status() != 0 || v.Revision != rev || v.Trace != nil {
		t.Fatalf("%+v", v)
	}
	if n := len(logged(w, req)); n != 0 {
		t.Errorf("%d events before the outcome is known", n)
	}
	rec.Event.Status = 200
	w.Must(rec.Close(t.Context()))
	model, _ := w.Authz.ActiveModel("docs")
	want := ledger.Event{
		ID: v.DecisionID, DecisionID: v.DecisionID, Class: ledger.Allow, Action: "request", Tenant: w.Acme.Tenant, Subject: me,
		Resource: "document:plan", Relation: "viewer", Decision: "allow", Reason: "relation", Route: "read",
		RequestID: req.RequestID, Model: model.ID(), Revision: rev, Source: "192.0.2.0/24", Status: 200,
	}
	got := w.One(req.RequestID)
	if got.ClientID == "" || got.Time.IsZero() {
		t.Errorf("client %q, time %v", got.ClientID, got.Time)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(ledger.Event{}, "Time", "ClientID"), cmp.Comparer(func(a, b tenant.ID) bool { return a == b })); diff != "" {
		t.Error(diff)
	}

	// What the upstream is told is what was decided, and nothing else.
	id := v.Identity
	if id.Tenant != w.Acme.Tenant.String() || id.Subject != me || id.Actor != "" {
		t.Errorf("%+v", id)
	}
	said := claims(t, id.Assertion)
	for name, want := range map[string]string{
		"aud": w.Directory.ServiceAudience(notes.ID), "sub": me, "tenant": id.Tenant, "htm": "GET", "path": "/documents/x",
		"route": "read", "relation": "viewer", "object": "document:plan", "rid": req.RequestID, "iss": guardtest.Issuer,
	} {
		if said[name] != want {
			t.Errorf("the assertion says %s = %v, want %v", name, said[name], want)
		}
	}

	// A route that asks for no relation still asks for a principal.
	req = request(w, w.Token("nobody@acme", "gateway"), "", "")
	req.Require = nil
	if v, _ := w.Guard.Check(t.Context(), req); !v.Allowed || v.Reason != "authenticated" || v.Identity.Assertion != "" {
		t.Errorf("%+v", v)
	}
}

// claims reads a token without verifying it: package gateway's tests verify.
func claims(t *testing.T, token string) map[string]any {
	t.Helper()
	var c map[string]any
	part := strings.Split(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(part[min(1, len(part)-1)])
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, token)
	}
	return c
}

// Every refusal of a verified principal is on disk when Check returns, and
// what must not be seen is refused exactly as what is not there.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	w.Write(
		tuple("document:plan", "viewer", w.Subject("nobody@acme")),
		tuple("document:plan", "viewer", w.Subject("nobody@globex")), // in acme's store: it must never help
	)
	for name, c := range map[string]struct {
		who, object, rel string
		kind             fault.Kind
		status           int
		reason           string
		change           func(*guard.Request)
	}{
		"may see, may not edit": {"nobody@acme", "document:plan", "editor", fault.Denied, 403, "no_relation", nil},
		"may not see":           {"auditor@acme", "document:plan", "viewer", fault.NotFound, 404, "not_visible", nil},
		"may not see or edit":   {"auditor@acme", "document:plan", "editor", fault.NotFound, 404, "not_visible", nil},
		"absent":                {"nobody@acme", "document:none", "viewer", fault.NotFound, 404, "not_visible", nil},
		"no form":               {"nobody@acme", "document:a b", "viewer", fault.NotFound, 404, "decision_failed", nil},
		"no such type":          {"nobody@acme", "planet:x", "viewer", fault.NotFound, 404, "decision_failed", nil},
		"no such relation":      {"nobody@acme", "document:plan", "boss", fault.NotFound, 404, "decision_failed", nil},
		"another tenant":        {"nobody@globex", "document:plan", "viewer", fault.NotFound, 404, "not_visible", nil},
		"the platform":          {"nobody@platform", "document:plan", "viewer", fault.NotFound, 404, "not_visible", nil},
		"no visible relation": {"nobody@acme", "document:plan", "editor", fault.NotFound, 404, "not_visible",
			func(r *guard.Request) { r.Require.Visible = "" }},
		"an application that is none": {"nobody@acme", "document:plan", "viewer", fault.NotFound, 404, "tenant_unbound",
			func(r *guard.Request) { r.Require.Application = "mail" }},
		"no admin role": {"nobody@acme", "", "can_manage_users", fault.Denied, 403, "no_relation",
			func(r *guard.Request) { r.Require.System = true }},
		"another admin role": {"auditor@acme", "", "can_manage_users", fault.Denied, 403, "no_relation",
			func(r *guard.Request) { r.Require.System = true }},
	} {
		req := request(w, w.Token(c.who, "gateway"), c.object, c.rel)
		if c.change != nil {
			c.change(req)
		}
		v, _ := w.Guard.Check(t.Context(), req)
		if v.Allowed || !v.Enforced || v.Kind != c.kind || v.Status() != c.status || v.Reason != c.reason || v.Identity != (guard.Identity{}) {
			t.Errorf("%s: %+v", name, v)
		}
		events := logged(w, req)
		if len(events) != 1 {
			t.Errorf("%s: %d events are durable when the verdict is there", name, len(events))
			continue
		}
		e := events[0]
		if e.Class != ledger.Deny || e.Decision != "deny" || e.Reason != c.reason || e.Status != c.status || e.Subject != w.Subject(c.who) || e.ID != v.DecisionID || e.Unenforced {
			t.Errorf("%s: %+v", name, e)
		}
	}
	req := request(w, w.Token("administrator@acme", "gateway"), "", "can_manage_users")
	req.Require.System = true
	if v, rec := w.Guard.Check(t.Context(), req); !v.Allowed || rec.Event.Resource != directory.SystemObject(w.Acme.Tenant) {
		t.Errorf("%+v", v)
	}
}

// Without a verified principal nothing that was claimed is recorded, and the
// record is the platform's.
func TestRejects(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	good := w.Token("nobody@acme", "gateway")
	for reason, authorization := range map[string][]string{
		"missing":              nil,
		"multiple_credentials": {"Bearer " + good, "Bearer " + good},
		"audience":             {"Bearer " + w.Token("nobody@acme", "authz")},
		"signature":            {"Bearer " + good[:len(good)-4] + "AAAA"},
	} {
		req := request(w, "", "document:plan", "viewer")
		req.Authorization, req.Route = authorization, "route-"+reason
		v, _ := w.Guard.Check(t.Context(), req)
		if v.Allowed || !v.Enforced || v.Kind != fault.Unauthenticated || v.Status() != 401 || v.Principal != nil || v.Reason != reason {
			t.Errorf("%s: %+v", reason, v)
		}
		e := w.Events(audit.Filter{Reason: reason}, func(all []ledger.Event) bool { return len(all) == 1 })[0]
		if e.Class != ledger.Reject || e.Tenant != tenant.Platform || e.Subject != "" || e.ClientID != "" || e.Resource != "" || e.Route != "route-"+reason || e.Status != 401 {
			t.Errorf("%s: %+v", reason, e)
		}
	}
}

// A suspended tenant is bound no more, whatever its graph says.
func TestSuspendedTenant(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	w.Write(tuple("document:plan", "viewer", w.Subject("nobody@acme")))
	token := w.Token("nobody@acme", "gateway")
	if v, _ := w.Guard.Check(t.Context(), request(w, token, "document:plan", "viewer")); !v.Allowed {
		t.Fatalf("%+v", v)
	}
	w.Must(w.Directory.SetTenantState(t.Context(), ledger.Event{Subject: "system"}, w.Acme.Tenant, directory.Suspended))
	if v, _ := w.Guard.Check(t.Context(), request(w, token, "document:plan", "viewer")); v.Allowed {
		t.Errorf("%+v", v)
	}
}

// What cannot be recorded does not happen: no verdict but "unavailable" leaves
// the guard when the log is closed, or when the caller does not wait for it.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	w.Write(tuple("document:plan", "viewer", w.Subject("nobody@acme")))
	token := w.Token("nobody@acme", "gateway")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if v, _ := w.Guard.Check(gone, request(w, token, "document:plan", "editor")); v.Allowed || v.Kind != fault.Unavailable || v.Status() != 503 || v.Reason != "audit_unavailable" {
		t.Errorf("a deny that is not durable: %+v", v)
	}
	w.Must(w.Audit.Close(t.Context()))
	for _, rel := range []string{"viewer", "editor"} {
		if v, rec := w.Guard.Check(t.Context(), request(w, token, "document:plan", rel)); v.Allowed || v.Status() != 503 || rec != nil {
			t.Errorf("%s with the log closed: %+v", rel, v)
		}
	}
	if v := (guard.Verdict{}); v.Allowed || v.Status() != 503 {
		t.Errorf("the zero verdict answers %d", v.Status())
	}
}

// A service that acts for somebody does on our own surfaces what the somebody
// may do and its scope names; on an application's routes the relation decides.
func TestActorsNeedScope(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	w.Write(tuple("document:plan", "viewer", w.Subject("access_manager@acme")))
	ctx, by := t.Context(), ledger.Event{Subject: "system"}
	notes, err := w.Directory.CreateService(ctx, by, tenant.Platform, "notes")
	w.Must(err)
	scopes := []string{"tuple.read", "tuple.write"}
	_, err = w.Directory.Install(ctx, by, w.Acme.Tenant, notes.ID, scopes, time.Time{})
	w.Must(err)
	w.Must(w.Directory.GrantAudience(ctx, by, tenant.Platform, notes.ID, "gateway", scopes, false))
	key, err := jose.GenerateES256()
	w.Must(err)
	public, err := key.Public().MarshalJSON()
	w.Must(err)
	w.Must(w.Directory.AddClientKey(ctx, by, tenant.Platform, principal.Subject{Kind: principal.Service, ID: notes.ID}, key.KID(), public, time.Time{}))
	w.Advance(2 * time.Second) // assertions of the second of the start are refused
	w.Directory.Confirm()
	derived := func(had ...string) string {
		t.Helper()
		now := w.Now().Unix()
		assertion, err := jose.Sign(key, "JWT", map[string]any{"iss": notes.ID, "sub": notes.ID, "aud": guardtest.Issuer, "iat": now, "exp": now + 60, "jti": tenant.RandomID()})
		w.Must(err)
		c, err := w.Issuer.AuthenticateClient(ctx, sts.ClientAuth{AssertionType: sts.ClientAssertionType, Assertion: assertion})
		w.Must(err)
		subject, err := w.Issuer.Mint(ctx, sts.MintRequest{
			Tenant: w.Acme.Tenant, Subject: w.Person("access_manager@acme"), Audience: w.Directory.ServiceAudience(notes.ID), Scopes: had,
		})
		w.Must(err)
		token, err := w.Issuer.Exchange(ctx, c, sts.ExchangeRequest{SubjectToken: subject.Value, SubjectTokenType: sts.TypeAccessToken, Audience: []string{"gateway"}})
		w.Must(err)
		return token.Value
	}
	ask := func(token string, system bool, action, rel string) guard.Verdict {
		t.Helper()
		req := request(w, token, "document:plan", rel)
		req.Action, req.Require.System = action, system
		v, _ := w.Guard.Check(ctx, req)
		return v
	}
	none, some := derived(), derived("tuple.read")
	for name, c := range map[string]struct {
		verdict guard.Verdict
		reason  string
	}{
		"in her own name":            {ask(w.Token("access_manager@acme", "gateway"), true, "tuple.write", "can_write_tuples"), "relation"},
		"no scope":                   {ask(none, true, "tuple.write", "can_write_tuples"), "no_scope"},
		"another scope":              {ask(some, true, "tuple.write", "can_write_tuples"), "no_scope"},
		"the action's scope":         {ask(some, true, "tuple.read", "can_read_tuples"), "relation"},
		"a scope without the right":  {ask(some, true, "tuple.read", "can_manage_users"), "no_relation"},
		"an application's own route": {ask(none, false, "request", "viewer"), "relation"},
	} {
		if c.verdict.Reason != c.reason || c.verdict.Allowed != (c.reason == "relation") {
			t.Errorf("%s: %+v", name, c.verdict)
		}
	}
}

// Where only people need the relation, a service needs no more than its token,
// and the tenant is bound all the same.
func TestPeopleAlone(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	ask := func(who string, people bool) guard.Verdict {
		t.Helper()
		req := request(w, w.Token(who, "gateway"), "", "can_check")
		req.Require = &guard.Requirement{System: true, Relation: "can_check", People: people}
		v, _ := w.Guard.Check(t.Context(), req)
		return v
	}
	for _, c := range []struct {
		who    string
		people bool
		reason string
	}{
		{"caller@acme", true, "authenticated"}, {"caller@acme", false, "no_relation"}, {"auditor@acme", true, "relation"},
		{"nobody@acme", true, "no_relation"}, {"nobody@acme", false, "no_relation"},
	} {
		if v := ask(c.who, c.people); v.Reason != c.reason || v.Allowed != (c.reason != "no_relation") || v.Principal.Tenant != w.Acme.Tenant {
			t.Errorf("%s, people %v: %+v", c.who, c.people, v)
		}
	}
	token := w.Token("caller@acme", "gateway")
	w.Must(w.Directory.SetTenantState(t.Context(), ledger.Event{Subject: "system"}, w.Acme.Tenant, directory.Suspended))
	req := request(w, token, "", "can_check")
	req.Require = &guard.Requirement{System: true, Relation: "can_check", People: true}
	if v, _ := w.Guard.Check(t.Context(), req); v.Allowed {
		t.Errorf("of a suspended tenant: %+v", v)
	}
}

// A node that has not heard from its store for 30 s allows nothing.
func TestStaleNode(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	w.Write(tuple("document:plan", "viewer", w.Subject("nobody@acme")))
	req := func() *guard.Request { return request(w, w.Token("nobody@acme", "gateway"), "document:plan", "viewer") }
	if v, _ := w.Guard.Check(t.Context(), req()); !v.Allowed {
		t.Fatalf("%+v", v)
	}
	last := req()
	w.Advance(31 * time.Second)
	if v, _ := w.Guard.Check(t.Context(), last); v.Allowed || v.Status() != 503 {
		t.Errorf("a node without fresh revocations answered %+v", v)
	}
	w.Directory.Confirm()
	if v, _ := w.Guard.Check(t.Context(), req()); !v.Allowed {
		t.Errorf("after the store was heard of again: %+v", v)
	}
}

// Explain says what Check decides, with the reason, and records nothing.
func TestExplain(t *testing.T) {
	t.Parallel()
	w := guardtest.New(t)
	w.Write(tuple("document:plan", "viewer", w.Subject("nobody@acme")))
	events := func() int {
		w.Must(w.Audit.Append(t.Context(), ledger.Event{Class: ledger.System, Action: "log.mark", Tenant: w.Acme.Tenant, Subject: w.Subject("nobody@acme")}))
		var n int
		w.Must(audit.Query(t.Context(), w.AuditDir, audit.QueryOptions{Filter: audit.Filter{Subject: w.Subject("nobody@acme")}}, func(ledger.Stored) bool {
			n++
			return true
		}))
		return n
	}
	began := events()
	for who, want := range map[string]bool{"nobody@acme": true, "auditor@acme": false} {
		need := &guard.Requirement{Application: "docs", Object: "document:plan", Relation: "viewer", Visible: "viewer"}
		v, err := w.Guard.Explain(t.Context(), w.Acme.Tenant, w.Subject(who), need, authz.Asked{})
		if err != nil || v.Allowed != want || v.Trace == nil || v.Trace.Allowed != want || !v.Enforced {
			t.Errorf("%s: %+v, %v", who, v, err)
		}
		if text := v.Trace.String(); !strings.Contains(text, "document:plan") {
			t.Errorf("%s: %s", who, text)
		}
	}
	need := &guard.Requirement{Application: "docs", Object: "document:plan", Relation: "viewer"}
	brought := authz.Asked{Contextual: []relation.Tuple{tuple("document:plan", "viewer", w.Subject("auditor@acme"))}}
	if v, err := w.Guard.Explain(t.Context(), w.Acme.Tenant, w.Subject("auditor@acme"), need, brought); err != nil || !v.Allowed {
		t.Errorf("with a tuple of the question: %+v, %v", v, err)
	}
	if _, err := w.Guard.Explain(t.Context(), w.Acme.Tenant, w.Subject("auditor@acme"), need, authz.Asked{Model: "none"}); !errors.Is(err, authz.ErrNoModel) {
		t.Errorf("an unknown model: %v", err)
	}
	if n := events(); n != began+1 {
		t.Errorf("explaining left %d events", n-began-1)
	}
	if _, err := w.Guard.Explain(t.Context(), tenant.New(), w.Subject("nobody@acme"), nil, authz.Asked{}); err == nil {
		t.Error("an unknown tenant was explained")
	}
}
