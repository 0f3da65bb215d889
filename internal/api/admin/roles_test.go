package admin_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/web"
)

// papers are roles on documents: an application's template, and what tenants may make roles of.
var papers = authz.Roles{
	Roles:  []authz.Role{{Name: "author", Type: "document", Relations: []string{"editor"}, Description: "writes"}},
	Custom: map[string][]string{"document": {"viewer"}},
}

// roles makes the calls of roles on objects and of a tenant's own policies, and
// looks at what they do.
func roles(ctx context.Context, t *testing.T, w *world) {
	manager, boss := w.as("access_manager@acme"), w.as("administrator@acme")
	w.inForce(t, admin.NewRelease{Roles: &papers, Claims: &authz.Claims{Delegate: []string{"document#viewer"}}, Tests: holds})
	sheet := got[admin.ObjectRoles](t)(boss.ObjectRoles(ctx, ""))
	want := admin.ObjectRoles{
		Roles:     []admin.ObjectRole{{Name: "author", Type: "document", Relations: []string{"editor"}, Description: "writes"}},
		Exclusive: []authz.Exclusive{}, Custom: papers.Custom,
	}
	if diff := cmp.Diff(want, sheet); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	own := got[admin.ObjectRole](t)(boss.DefineObjectRole(ctx, "document", "reader", admin.NewObjectRole{Relations: []string{"viewer"}, Description: "reads"}))
	want.Roles = append(want.Roles, own)
	if diff := cmp.Diff(want, got[admin.ObjectRoles](t)(manager.ObjectRoles(ctx, "docs"))); diff != "" || !own.Own {
		t.Errorf("with an own one (-want +got):\n%s", diff)
	}
	if theirs := got[admin.ObjectRoles](t)(w.as("access_manager@globex").ObjectRoles(ctx, "")); len(theirs.Roles) != 1 {
		t.Errorf("another tenant has %+v", theirs.Roles)
	}
	_, err := boss.DefineObjectRole(ctx, "document", "boss", admin.NewObjectRole{Relations: []string{"editor"}})
	wantKind(t, err, fault.Denied)

	end := w.Now().Add(time.Hour).Truncate(time.Second)
	a := admin.Assignment{Role: "reader", Object: "document:paper", Subject: "user:@nobody", Expires: end}
	made := got[admin.Assignment](t)(manager.Assign(ctx, a))
	if a.Subject = "user:" + w.ID("nobody@acme"); made != a {
		t.Errorf("assigned %+v, want %+v", made, a)
	}
	got[admin.Assignment](t)(manager.Assign(ctx, admin.Assignment{Role: "author", Object: "document:paper", Subject: a.Subject}))
	listed := all(t, 1, func(p admin.Paging) (admin.Page[admin.Assignment], error) {
		return manager.Assignments(ctx, "", "document:paper", "", p)
	})
	if diff := cmp.Diff([]admin.Assignment{{Role: "author", Object: "document:paper", Subject: a.Subject}, a}, listed); diff != "" {
		t.Errorf("assignments (-want +got):\n%s", diff)
	}
	if one := got[admin.Page[admin.Assignment]](t)(manager.Assignments(ctx, "docs", "document:paper", "reader", admin.Paging{})); len(one.Items) != 1 || one.Items[0] != a {
		t.Errorf("of one role: %+v", one)
	}
	got[admin.Assignment](t)(manager.Unassign(ctx, admin.Assignment{Role: "author", Object: "document:paper", Subject: a.Subject}))
	_, err = manager.Unassign(ctx, admin.Assignment{Role: "author", Object: "document:paper", Subject: a.Subject})
	wantKind(t, err, fault.NotFound)
	_, err = manager.Assign(ctx, admin.Assignment{Role: "reader", Object: "document:paper", Subject: a.Subject, Expires: time.Unix(1, 0)})
	wantKind(t, err, fault.Invalid)
	must(t, boss.DeleteObjectRole(ctx, "docs", "document", "reader"))
	wantKind(t, boss.DeleteObjectRole(ctx, "", "document", "reader"), fault.NotFound)

	ownPolicies(ctx, t, w)
	w.inForce(t, admin.NewRelease{Roles: &authz.Roles{}, Claims: &authz.Claims{}, Tests: holds})
}

func ownPolicies(ctx context.Context, t *testing.T, w *world) {
	manager := w.as("access_manager@acme")
	asked := func(who, relation string) string {
		t.Helper()
		return got[admin.Explained](t)(w.as(who).Explain(ctx, admin.Question{Subject: "user:@nobody", Relation: relation, Object: "document:memo"})).Reason
	}
	if none := got[admin.OwnPolicies](t)(manager.OwnPolicies(ctx, "docs")); none.Files == nil || len(none.Files) != 0 || none.ID != "" {
		t.Errorf("before any: %+v", none)
	}
	files := []authz.PolicyFile{{Name: "own.cedar", Text: `permit (principal, action == Action::"viewer", resource is document);`}}
	made := got[admin.OwnPolicies](t)(manager.PublishOwnPolicies(ctx, "docs", files))
	if diff := cmp.Diff(made, got[admin.OwnPolicies](t)(manager.OwnPolicies(ctx, "docs"))); diff != "" || made.ID == "" || len(made.Files) != 1 {
		t.Errorf("%+v (-want +got):\n%s", made, diff)
	}
	if r := asked("access_manager@acme", "viewer"); r != "policy" {
		t.Errorf("with a delegated permit: %s", r)
	}
	if r := asked("access_manager@globex", "viewer"); r != "not_visible" {
		t.Errorf("of another tenant: %s", r)
	}
	_, err := manager.PublishOwnPolicies(ctx, "docs", []authz.PolicyFile{{Name: "own.cedar", Text: `permit (principal, action == Action::"editor", resource is document);`}})
	wantKind(t, err, fault.Invalid)
	_, err = manager.PublishOwnPolicies(ctx, "docs", nil)
	wantKind(t, err, fault.Invalid)
	_, err = w.as("policy_author@acme").PublishOwnPolicies(ctx, "docs", files)
	wantKind(t, err, fault.Denied)
	got[admin.OwnPolicies](t)(manager.PublishOwnPolicies(ctx, "docs", []authz.PolicyFile{}))
	if r := asked("access_manager@acme", "viewer"); r != "not_visible" {
		t.Errorf("after all were removed: %s", r)
	}
}

// A write that would give somebody two exclusive roles is refused by every door,
// and the event of the refusal says who, where, and which two.
func TestExclusiveRolesAreRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	model := strings.Replace(guardtest.Docs, "type document\n  relations\n", "type document\n  relations\n    define asker: [user]\n    define judge: [user]\n", 1)
	apart := authz.Roles{
		Roles:     []authz.Role{{Name: "judge", Type: "document", Relations: []string{"judge"}}},
		Exclusive: []authz.Exclusive{{Name: "four-eyes", Type: "document", Relations: []string{"asker", "judge"}}},
	}
	w.inForce(t, admin.NewRelease{Model: &model, Tests: holds})
	manager := w.as("access_manager@acme")
	both := []admin.Tuple{{Object: "document:old", Relation: "asker", Subject: "user:@nobody"}, {Object: "document:old", Relation: "judge", Subject: "user:@nobody"}}
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Writes: both}))
	w.inForce(t, admin.NewRelease{Roles: &apart, Tests: holds})
	e := got[admin.Explained](t)(manager.Explain(ctx, admin.Question{Subject: "user:@nobody", Relation: "judge", Object: "document:old"}))
	if e.Allowed || e.Reason != "exclusive_roles" || e.Trace.Overlap == nil || len(e.Trace.Overlap.Paths) != 2 || !strings.Contains(e.Drawing, "four-eyes") {
		t.Errorf("who holds both since before: %s\n%s", e.Reason, e.Drawing)
	}
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Writes: []admin.Tuple{{Object: "document:x", Relation: "asker", Subject: "user:@nobody"}}}))
	header, before := guardtest.Bearer(w.Token("access_manager@acme", "admin")), w.Changes()
	for path, body := range map[string]string{
		"/tuples":      `{"writes":[{"user":"user:@nobody","relation":"judge","object":"document:x"}]}`,
		"/assignments": `{"role":"judge","object":"document:x","user":"user:@nobody"}`,
	} {
		r := w.Send("POST", admin.Base+path, body, header)
		if problem(t, r, http.StatusForbidden, "denied"); !strings.Contains(r.Body, "would hold both judge and asker of document:x, which exclude each other (four-eyes)") {
			t.Errorf("%s: %s", path, r.Body)
		}
		ev := w.One(r.Header.Get(web.RequestIDHeader))
		detail := map[string]string{"set": "four-eyes", "object": "document:x", "user": "user:" + w.ID("nobody@acme"), "relations": "judge asker"}
		if diff := cmp.Diff(detail, ev.Detail); diff != "" || ev.Class != ledger.Deny || ev.Decision != "deny" || ev.Reason != "exclusive_roles" {
			t.Errorf("%s is recorded as %+v\n%s", path, ev, diff)
		}
	}
	if now := w.Changes(); now != before {
		t.Errorf("%d changes", now-before)
	}
	if _, err := w.as("access_manager@globex").Assign(ctx, admin.Assignment{Role: "judge", Object: "document:x", Subject: "user:@nobody"}); err != nil {
		t.Errorf("in another tenant: %v", err)
	}
	for _, ev := range w.Events(audit.Filter{Action: "assignment.create", Class: ledger.Mutation}, func(all []ledger.Event) bool { return len(all) == 1 }) {
		if ev.Detail["role"] != "judge" || ev.Detail["writes"] == "" {
			t.Errorf("recorded as %+v", ev)
		}
	}
}
