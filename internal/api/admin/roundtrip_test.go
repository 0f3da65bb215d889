package admin_test

import (
	"bufio"
	"bytes"
	order "cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// got unwraps a call that must succeed.
func got[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func publicKey(t testing.TB) (kid string, jwk json.RawMessage) {
	t.Helper()
	key, err := jose.GenerateES256()
	must(t, err)
	raw, err := json.Marshal(key.Public())
	must(t, err)
	return key.KID(), raw
}

func wantKind(t testing.TB, err error, kind fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("got %v, want %s", err, kind)
	}
}

// all follows the cursors of a list.
func all[T any](t testing.TB, limit int, list func(admin.Paging) (admin.Page[T], error)) []T {
	t.Helper()
	var out []T
	p := admin.Paging{Limit: limit}
	for {
		page, err := list(p)
		must(t, err)
		if len(page.Items) > limit {
			t.Fatalf("a page of %d with %d items", limit, len(page.Items))
		}
		out = append(out, page.Items...)
		if p.Cursor = page.Next; p.Cursor == "" {
			return out
		}
	}
}

// TestEveryCall makes every call of the client against the server, and looks
// for the event of every route of the table.
func TestEveryCall(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	t.Run("tenants", func(t *testing.T) { tenants(ctx, t, w) })
	t.Run("people", func(t *testing.T) { people(ctx, t, w) })
	t.Run("services", func(t *testing.T) { services(ctx, t, w) })
	t.Run("connections", func(t *testing.T) { connections(ctx, t, w) })
	t.Run("decisions", func(t *testing.T) { decisions(ctx, t, w) })
	t.Run("transfers", func(t *testing.T) { transfers(ctx, t, w) })
	t.Run("policies", func(t *testing.T) { policies(ctx, t, w) })
	t.Run("releases", func(t *testing.T) { releases(ctx, t, w) })
	t.Run("roles", func(t *testing.T) { roles(ctx, t, w) })
	t.Run("revocations", func(t *testing.T) { revocations(ctx, t, w) })
	t.Run("audit", func(t *testing.T) { auditing(ctx, t, w) })

	seen := map[string]ledger.Class{}
	w.Events(audit.Filter{}, func(all []ledger.Event) bool {
		for _, ev := range all {
			if ev.Route != "" && ev.Class != ledger.Deny && ev.Class != ledger.Reject {
				seen[ev.Route] = ev.Class
			}
		}
		return seen["credential.revoke"] != 0 && seen["audit.checkpoint"] != 0 // the last change and the last read
	})
	for _, rt := range admin.Table() {
		want := ledger.Mutation
		if rt.Effect == "reads" {
			want = ledger.AdminRead
		}
		if seen[rt.Action] != want {
			t.Errorf("%s is recorded as %s, want %s", rt.Action, seen[rt.Action], want)
		}
	}
}

func tenants(ctx context.Context, t *testing.T, w *world) {
	olga, author := w.as("operator@platform"), w.as("policy_author@platform")
	self := got[admin.Self](t)(olga.Self(ctx))
	if self.Subject != "user:"+w.ID("operator@platform") || self.Tenant.ID != tenant.Platform.String() {
		t.Errorf("self is %+v", self)
	}
	made := got[admin.Tenant](t)(olga.CreateTenant(ctx, admin.NewTenant{Name: "initech"}))
	if made.Name != "initech" || made.State != "active" || len(made.Stores) != 1 || made.Stores[0].Application != "docs" {
		t.Errorf("made %+v", made)
	}
	if diff := cmp.Diff(made, got[admin.Tenant](t)(olga.Tenant(ctx, "initech"))); diff != "" {
		t.Error(diff)
	}
	_, err := olga.CreateTenant(ctx, admin.NewTenant{Name: "initech"})
	wantKind(t, err, fault.Conflict)
	if web.DecisionID(err) == "" {
		t.Error("a refusal names no decision")
	}
	var names []string
	for _, v := range all(t, 2, func(p admin.Paging) (admin.Page[admin.Tenant], error) { return olga.Tenants(ctx, p) }) {
		names = append(names, v.Name)
	}
	if diff := cmp.Diff([]string{"acme", "globex", "initech", "platform"}, names); diff != "" {
		t.Error(diff)
	}
	must(t, olga.SuspendTenant(ctx, made.ID))
	if s := got[admin.Tenant](t)(olga.Tenant(ctx, made.ID)).State; s != "suspended" {
		t.Errorf("the tenant is %s", s)
	}
	must(t, olga.ResumeTenant(ctx, "initech"))

	// The operator invites the first administrator, who enrols with a key.
	invite := got[admin.Invite](t)(olga.Invite(ctx, admin.NewInvite{Tenant: "initech", Role: "administrator"}))
	kid, jwk := publicKey(t)
	open := admin.NewClient(admin.ClientConfig{URL: w.URL, HTTP: w.Client()})
	_, err = open.Enrol(ctx, admin.Enrol{Code: strings.Repeat("a", 32), Name: "bill", Key: jwk})
	wantKind(t, err, fault.Denied)
	bill := got[admin.Enrolled](t)(open.Enrol(ctx, admin.Enrol{Code: invite.Code, Name: "bill", Key: jwk}))
	if bill.Tenant != made.ID || bill.KID != kid || bill.Name != "bill" {
		t.Errorf("enrolled %+v", bill)
	}
	_, err = open.Enrol(ctx, admin.Enrol{Code: invite.Code, Name: "bill2", Key: jwk})
	wantKind(t, err, fault.Denied)
	// From now on the tenant's own people decide.
	_, err = olga.Invite(ctx, admin.NewInvite{Tenant: "initech", Role: "administrator"})
	wantKind(t, err, fault.Denied)
	_, err = author.Invite(ctx, admin.NewInvite{Role: "auditor"})
	wantKind(t, err, fault.Denied)
}

func people(ctx context.Context, t *testing.T, w *world) {
	boss := w.as("administrator@acme")
	alice := got[admin.User](t)(boss.CreateUser(ctx, admin.NewUser{Name: "alice"}))
	if alice.Name != "alice" || !tenant.ValidID(alice.ID) {
		t.Errorf("made %+v", alice)
	}
	must(t, boss.AssignRole(ctx, "alice", admin.Role{Role: "approver"}))
	wantKind(t, boss.AssignRole(ctx, "alice", admin.Role{Role: "auditor"}), fault.Denied)
	wantKind(t, boss.AssignRole(ctx, "alice", admin.Role{Role: "operator"}), fault.Invalid)
	if roles := got[admin.User](t)(boss.User(ctx, "alice")).Roles; !cmp.Equal(roles, []string{"approver"}) {
		t.Errorf("roles %v", roles)
	}
	must(t, boss.RevokeRole(ctx, alice.ID, "approver"))
	must(t, boss.SuspendUser(ctx, "alice"))
	if s := got[admin.User](t)(boss.User(ctx, alice.ID)).State; s != "suspended" {
		t.Errorf("the user is %s", s)
	}
	must(t, boss.ResumeUser(ctx, "alice"))
	ids := map[string]bool{}
	for _, u := range all(t, 2, func(p admin.Paging) (admin.Page[admin.User], error) { return boss.Users(ctx, p) }) {
		ids[u.ID] = true
	}
	if len(ids) != 7 || !ids[alice.ID] || ids[w.ID("nobody@globex")] {
		t.Errorf("listed %v", ids)
	}
}

func services(ctx context.Context, t *testing.T, w *world) {
	boss := w.as("administrator@acme")
	shop := got[admin.Service](t)(boss.CreateService(ctx, admin.NewService{Name: "shop"}))
	for _, name := range []string{"gateway", "admin", "pep", "Shop", ""} {
		_, err := boss.CreateService(ctx, admin.NewService{Name: name})
		wantKind(t, err, fault.Invalid)
	}
	if diff := cmp.Diff(shop, got[admin.Service](t)(boss.Service(ctx, "shop"))); diff != "" {
		t.Error(diff)
	}
	kid, jwk := publicKey(t)
	lying := json.RawMessage(strings.Replace(string(jwk), kid, "somebody-elses-kid", 1))
	key := got[admin.Key](t)(boss.AddKey(ctx, "shop", admin.NewKey{Key: lying, Expires: time.Now().Add(time.Hour)}))
	if key.KID != kid || strings.Contains(string(key.Key), "somebody") {
		t.Errorf("the key is %+v, want the thumbprint %s as its kid", key, kid)
	}
	_, err := boss.AddKey(ctx, "shop", admin.NewKey{Key: jwk, Expires: time.Now().Add(-time.Hour)})
	wantKind(t, err, fault.Invalid)
	if keys := all(t, 1, func(p admin.Paging) (admin.Page[admin.Key], error) { return boss.Keys(ctx, shop.ID, p) }); len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
	must(t, boss.RevokeKey(ctx, "shop", kid))
	wantKind(t, boss.RevokeKey(ctx, "shop", kid), fault.NotFound)

	grant := got[admin.Grant](t)(boss.GrantAudience(ctx, "shop", admin.Grant{Audience: "authz", Scopes: []string{"a", "b"}, Direct: true}))
	if grant.Audience != "urn:bulwark:test:authz" {
		t.Errorf("granted %+v", grant)
	}
	_, err = boss.GrantAudience(ctx, "shop", admin.Grant{Audience: "pep"})
	wantKind(t, err, fault.Denied)
	_, err = boss.GrantAudience(ctx, "shop", admin.Grant{Audience: "authz", Scopes: []string{"a b"}})
	wantKind(t, err, fault.Invalid)
	if list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Grant], error) { return boss.Audiences(ctx, "shop", p) }); !cmp.Equal(list, []admin.Grant{grant}) {
		t.Errorf("grants %v", list)
	}
	must(t, boss.RevokeAudience(ctx, "shop", grant.Audience))
	wantKind(t, boss.RevokeAudience(ctx, "shop", "authz"), fault.NotFound)
	if list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Grant], error) { return boss.Audiences(ctx, "shop", p) }); len(list) != 0 {
		t.Errorf("grants after the last one was taken back: %v", list)
	}
	must(t, boss.SuspendService(ctx, "shop"))
	must(t, boss.ResumeService(ctx, shop.ID))
	if list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Service], error) { return boss.Services(ctx, p) }); len(list) != 2 {
		t.Errorf("services beside caller: %v", list)
	}

	notes := got[admin.Service](t)(w.as("administrator@platform").CreateService(ctx, admin.NewService{Name: "notes"}))
	in := got[admin.Installation](t)(boss.Install(ctx, admin.NewInstallation{Service: "notes", Scopes: []string{"read"}}))
	if in.Service != notes.ID {
		t.Errorf("installed %+v", in)
	}
	_, err = boss.Install(ctx, admin.NewInstallation{Service: "shop"})
	wantKind(t, err, fault.NotFound)
	if list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Installation], error) { return boss.Installations(ctx, p) }); !cmp.Equal(list, []admin.Installation{in}) {
		t.Errorf("installations %v", list)
	}
	must(t, boss.Uninstall(ctx, notes.ID))
	wantKind(t, boss.Uninstall(ctx, "notes"), fault.NotFound)
}

func connections(ctx context.Context, t *testing.T, w *world) {
	boss := w.as("administrator@acme")
	made := got[admin.Connection](t)(boss.CreateConnection(ctx, admin.NewConnection{Name: "okta", Issuer: "https://acme.okta.test", Audience: "api://acme", Kind: "okta"}))
	if made.State != "active" || !cmp.Equal(made.Algs, []string{"RS256"}) {
		t.Errorf("made %+v", made)
	}
	// Nobody else can claim the same issuer and audience.
	_, err := w.as("administrator@globex").CreateConnection(ctx, admin.NewConnection{Name: "okta", Issuer: "https://acme.okta.test", Audience: "api://acme", Kind: "okta"})
	wantKind(t, err, fault.Conflict)
	must(t, boss.SuspendConnection(ctx, "okta"))
	if list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Connection], error) { return boss.Connections(ctx, p) }); len(list) != 1 || list[0].State != "suspended" {
		t.Errorf("connections %v", list)
	}
	must(t, boss.ResumeConnection(ctx, made.ID))
	linked := got[admin.User](t)(boss.CreateUser(ctx, admin.NewUser{Name: "linked", Connection: "okta", External: "00u1"}))
	if linked.Connection != made.ID {
		t.Errorf("linked %+v", linked)
	}
	_, err = boss.CreateUser(ctx, admin.NewUser{Name: "half", Connection: "okta"})
	wantKind(t, err, fault.Invalid)
}

func decisions(ctx context.Context, t *testing.T, w *world) {
	manager := w.as("access_manager@acme")
	source := guardtest.Docs + "type note\n"
	w.inForce(t, admin.NewRelease{Model: &source, Tests: holds})
	now := got[admin.Application](t)(manager.Application(ctx, "docs"))
	if now.Current.Model != source || now.Name != "docs" || !now.CanRollBack {
		t.Errorf("in force %+v", now)
	}
	if list := all(t, 1, func(p admin.Paging) (admin.Page[admin.Model], error) { return manager.Models(ctx, p) }); len(list) != 2 || list[0].DSL != "" {
		t.Errorf("models %v", list)
	}
	if m := got[admin.Model](t)(manager.Model(ctx, now.Current.ModelID)); !m.Active || m.DSL != source {
		t.Errorf("the model %+v", m)
	}

	nobody := "user:" + w.ID("nobody@acme")
	changed := got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Writes: []admin.Tuple{
		{Object: "folder:plans", Relation: "viewer", Subject: "user:@nobody"},
		{Object: "document:roadmap", Relation: "parent", Subject: "folder:plans"},
	}}))
	if changed.Revision == "" || changed.Writes[0].Subject != nobody {
		t.Errorf("changed %+v", changed)
	}
	yes := got[admin.Explained](t)(manager.Explain(ctx, admin.Question{Subject: "user:@nobody", Relation: "viewer", Object: "document:roadmap"}))
	if !yes.Allowed || yes.Subject != nobody || len(yes.Trace.Path) != 2 || !strings.Contains(yes.Drawing, "folder:plans") || yes.Revision != changed.Revision {
		t.Errorf("explained %+v", yes)
	}
	no := got[admin.Explained](t)(manager.Explain(ctx, admin.Question{Subject: "user:@auditor", Relation: "viewer", Object: "document:roadmap", Visible: "viewer"}))
	if no.Allowed || no.Trace.Tried == nil {
		t.Errorf("explained %+v", no)
	}
	_, err := manager.Explain(ctx, admin.Question{Subject: "user:@nobody", Relation: "owner", Object: "document:roadmap"})
	wantKind(t, err, fault.Invalid)
	for subject, kind := range map[string]fault.Kind{"user:nobody": fault.Invalid, "user:@stranger": fault.NotFound, "service:@notes2": fault.NotFound, "user:@": fault.NotFound, "": fault.Invalid} {
		_, err = manager.WriteTuples(ctx, admin.TupleChange{Writes: []admin.Tuple{{Object: "folder:plans", Relation: "viewer", Subject: subject}}})
		wantKind(t, err, kind)
	}
	found := all(t, 1, func(p admin.Paging) (admin.Page[admin.Tuple], error) {
		return manager.Tuples(ctx, admin.TupleFilter{Subject: "user:@nobody"}, p)
	})
	if !cmp.Equal(found, changed.Writes[:1]) {
		t.Errorf("found %v", found)
	}
	if n := len(all(t, 1, func(p admin.Paging) (admin.Page[admin.Tuple], error) {
		return manager.Tuples(ctx, admin.TupleFilter{}, p)
	})); n != 2 {
		t.Errorf("%d tuples", n)
	}
	_, err = manager.WriteTuples(ctx, admin.TupleChange{Writes: changed.Writes})
	wantKind(t, err, fault.Conflict)
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Deletes: changed.Writes}))
}

func revocations(ctx context.Context, t *testing.T, w *world) {
	boss := w.as("administrator@acme")
	token := w.Mint("auditor@acme", "admin")
	if r := w.Send("GET", "/admin/v1/self", "", guardtest.Bearer(token.Value)); r.Status != 200 {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	must(t, boss.Revoke(ctx, admin.NewRevocation{Kind: "token", Value: token.JTI}))
	if r := w.Send("GET", "/admin/v1/self", "", guardtest.Bearer(token.Value)); r.Status != 401 {
		t.Errorf("a revoked token: %d %s", r.Status, r.Body)
	}
	for _, kind := range []string{"root", "session", "client"} {
		must(t, boss.Revoke(ctx, admin.NewRevocation{Kind: kind, Value: "some-id"}))
	}
	must(t, boss.Revoke(ctx, admin.NewRevocation{Kind: "subject", Value: "user:@nobody"}))
	wantKind(t, boss.Revoke(ctx, admin.NewRevocation{Kind: "subject", Value: "user:@nobody#member"}), fault.Invalid)
	wantKind(t, boss.Revoke(ctx, admin.NewRevocation{Kind: "tenant", Value: w.Acme.Tenant.String()}), fault.Invalid)
	wantKind(t, boss.Revoke(ctx, admin.NewRevocation{Kind: "token", Value: ""}), fault.Invalid)
}

func auditing(ctx context.Context, t *testing.T, w *world) {
	auditor := w.as("auditor@acme")
	// The log's writer is asynchronous for outbox events: wait for one.
	w.Events(audit.Filter{Action: "revoke.session"}, func(all []ledger.Event) bool { return len(all) == 1 })
	list := all(t, 7, func(p admin.Paging) (admin.Page[admin.Event], error) {
		return auditor.Events(ctx, admin.EventFilter{Class: "mutation", Until: time.Now()}, p)
	})
	seen := map[string]bool{}
	for i, ev := range list {
		if seen[ev.ID] || ev.Tenant != w.Acme.Tenant.String() || ev.Class != "mutation" || (i > 0 && ev.Block > list[i-1].Block) {
			t.Errorf("event %d is %+v", i, ev)
		}
		seen[ev.ID] = true
	}
	if len(list) < 20 {
		t.Errorf("only %d mutations", len(list))
	}
	one := list[0]
	page := got[admin.Page[admin.Event]](t)(auditor.Events(ctx, admin.EventFilter{Request: one.RequestID, Action: one.Action, Subject: one.Subject, Resource: one.Resource}, admin.Paging{}))
	if len(page.Items) != 1 || page.Items[0].ID != one.ID {
		t.Errorf("by request: %+v", page)
	}

	// The same events stream in the order of the log, as far as it is signed for.
	var streamed []admin.Event
	for end := time.Now().Add(20 * time.Second); len(streamed) < len(list) && time.Now().Before(end); {
		var lines bytes.Buffer
		must(t, auditor.Export(ctx, admin.EventFilter{Class: "mutation"}, false, &lines))
		streamed = nil
		for line := range strings.Lines(lines.String()) {
			var ev admin.Event
			must(t, json.Unmarshal([]byte(line), &ev))
			streamed = append(streamed, ev)
		}
	}
	byID := func(a, b admin.Event) int { return strings.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(streamed, func(a, b admin.Event) int { return order.Compare(a.Block, b.Block) }) {
		t.Error("the export is not in the order of blocks")
	}
	if diff := cmp.Diff(slices.SortedFunc(slices.Values(list), byID), slices.SortedFunc(slices.Values(streamed), byID)); diff != "" {
		t.Error(diff)
	}

	// One is proved with the log's public key alone.
	var proof ledger.Proof
	must(t, json.Unmarshal(got[json.RawMessage](t)(auditor.Prove(ctx, streamed[0].ID)), &proof))
	stored, _, err := proof.Verify(w.cfg.LogKey)
	must(t, err)
	if stored.Event.ID != streamed[0].ID {
		t.Errorf("proved %+v", stored.Event)
	}
	// Another tenant's event answers, to the letter, like one that is not there.
	_, err = w.as("auditor@globex").Prove(ctx, streamed[0].ID)
	wantKind(t, err, fault.NotFound)
	foreign := fault.Public(err)
	_, err = auditor.Prove(ctx, tenant.RandomID())
	wantKind(t, err, fault.NotFound)
	if fault.Public(err) != foreign {
		t.Errorf("absent %q, foreign %q", fault.Public(err), foreign)
	}
	_, err = auditor.Prove(ctx, "x")
	wantKind(t, err, fault.NotFound)
	head := got[admin.Checkpoint](t)(auditor.Checkpoint(ctx))
	if _, err := ledger.ParseCheckpoint([]byte(head.Checkpoint), w.cfg.LogKey); err != nil {
		t.Errorf("the checkpoint does not verify: %v", err)
	}
}

// TestExportFollows reads along while the log grows, until the reader has enough.
func TestExportFollows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, enough := context.WithTimeout(context.Background(), 30*time.Second)
	defer enough()
	read, write := io.Pipe()
	ended := make(chan error, 1)
	auditor := w.as("auditor@acme")
	go func() {
		ended <- auditor.Export(ctx, admin.EventFilter{Action: "service.create", Subject: w.Subject("administrator@acme")}, true, write)
	}()
	lines := bufio.NewScanner(read)
	for i := range 3 {
		made := got[admin.Service](t)(w.as("administrator@acme").CreateService(ctx, admin.NewService{Name: fmt.Sprintf("s%d", i)}))
		if !lines.Scan() || !strings.Contains(lines.Text(), made.ID) {
			t.Fatalf("line %d is %s", i, lines.Text())
		}
	}
	enough()
	must(t, <-ended)
}
