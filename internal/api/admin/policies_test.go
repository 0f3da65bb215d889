package admin_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
)

// guards has one file that is no policy at all until it is looked at closely.
func guards() admin.NewRelease {
	return admin.NewRelease{
		Policies: &[]authz.PolicyFile{
			{Name: "step-up.cedar", Text: "@id(\"step-up\")\nforbid (principal, action == Action::\"viewer\", resource is document)\nunless { context.verified.amr.contains(\"mfa\") };\n"},
			{Name: "support.cedar", Text: "permit (principal, action == Action::\"editor\", resource is document)\nwhen { context.claimed.ticket like \"SUP-*\" };\n"},
		},
		Claims: &authz.Claims{Context: map[string]string{"ticket": "string", "amr": "strings"}, Zone: "UTC"},
		Tests:  holds,
	}
}

// policies makes the calls of guard policies, and looks at what they do.
func policies(ctx context.Context, t *testing.T, w *world) {
	manager := w.as("access_manager@acme")
	none := admin.Policies{Application: "docs", Files: []authz.PolicyFile{}}
	if diff := cmp.Diff(none, got[admin.Policies](t)(manager.Policies(ctx, "docs"))); diff != "" {
		t.Errorf("before any (-want +got):\n%s", diff)
	}
	granted := []admin.Tuple{{Object: "document:guarded", Relation: "viewer", Subject: "user:@nobody"}}
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Writes: granted}))
	decided := func(want bool) admin.Explained {
		t.Helper()
		e := got[admin.Explained](t)(manager.Explain(ctx, admin.Question{Subject: "user:@nobody", Relation: "viewer", Object: "document:guarded"}))
		if e.Allowed != want {
			t.Errorf("allowed: %v\n%s", e.Allowed, e.Drawing)
		}
		return e
	}
	decided(true)

	in := guards()
	w.inForce(t, in)
	made := got[admin.Policies](t)(manager.Policies(ctx, "docs"))
	want := admin.Policies{ID: made.ID, Application: "docs", Files: *in.Policies, Claims: *in.Claims, Created: made.Created}
	if diff := cmp.Diff(want, made); diff != "" || made.ID == "" || made.Created.IsZero() {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	e := decided(false)
	if e.Reason != "forbidden" || len(e.Trace.Policies) != 1 || e.Trace.Policies[0].Policy != "step-up" || e.Trace.Policies[0].Effect != "forbid" || !strings.Contains(e.Drawing, "step-up") {
		t.Errorf("explained as %s, %+v\n%s", e.Reason, e.Trace.Policies, e.Drawing)
	}
	// What the asker claims is not what we verified.
	forged := got[admin.Explained](t)(manager.Explain(ctx, admin.Question{
		Subject: "user:@nobody", Relation: "viewer", Object: "document:guarded", Context: map[string]any{"amr": []any{"mfa"}, "verified": map[string]any{"amr": []any{"mfa"}}},
	}))
	if forged.Allowed || forged.Reason != "forbidden" {
		t.Errorf("a forged context: %v, %s", forged.Allowed, forged.Reason)
	}

	_, err := manager.Policies(ctx, "other")
	wantKind(t, err, fault.NotFound)
	// A model that they do not fit leaves them and itself as they were.
	other := "model\n  schema 1.1\ntype user\n"
	_, err = w.as("policy_author@platform").ProposeRelease(ctx, "docs", admin.NewRelease{Model: &other})
	wantKind(t, err, fault.Invalid)
	decided(false)

	w.inForce(t, admin.NewRelease{Policies: &[]authz.PolicyFile{}})
	if diff := cmp.Diff(none, got[admin.Policies](t)(manager.Policies(ctx, "docs"))); diff != "" {
		t.Errorf("after all were removed (-want +got):\n%s", diff)
	}
	decided(true)
	got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Deletes: granted}))

	for _, ev := range w.Events(audit.Filter{Action: "policy.read", Class: ledger.AdminRead}, func(all []ledger.Event) bool { return len(all) >= 3 }) {
		if ev.Tenant != w.Acme.Tenant || ev.Resource != "application:docs" {
			t.Errorf("recorded as %+v", ev)
		}
	}
}

// TestBadPolicies sends policies that do not fit: whoever wrote them learns file,
// line and reason, and those in force stay.
func TestBadPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	author := w.as("policy_author@platform")
	w.inForce(t, guards())
	made := got[admin.Policies](t)(author.Policies(ctx, "docs"))
	header := guardtest.Bearer(w.Token("policy_author@platform", "admin"))
	file := func(text string) string { return `{"policies":[{"name":"a.cedar","text":"` + text + `"}]}` }
	const one = `permit (principal, action == Action::\"viewer\", resource is document);`
	for name, c := range map[string]struct {
		body   string
		status int
		says   string
	}{
		"nothing new":        {`{}`, 409, "in force already"},
		"files null":         {`{"policies":null}`, 400, "null is not a value here"},
		"another member":     {`{"policies":[{"name":"x.cedar","text":""}],"tenant":"acme"}`, 400, "there is no member"},
		"no Cedar":           {file(`\n\nforbid everything;`), 400, "a.cedar:3: "},
		"an unknown action":  {file(`// a\nforbid (principal, action == Action::\"can_fly\", resource);`), 400, "a.cedar:2: "},
		"an unknown claim":   {file(one + `\nforbid (principal, action, resource) when { context.claimed.mood == \"bad\" };`), 400, "a.cedar:2: "},
		"a verified claim":   {`{"policies":[{"name":"x.cedar","text":""}],"claims":{"context":{"amr":"set"}}}`, 400, "unknown kind set"},
		"an unknown type":    {`{"policies":[{"name":"x.cedar","text":""}],"claims":{"types":{"planet":{"x":"bool"}}}}`, 400, "no type planet"},
		"an unknown zone":    {`{"policies":[{"name":"x.cedar","text":""}],"claims":{"zone":"Mars/Olympus"}}`, 400, "no time zone Mars/Olympus"},
		"the machine's zone": {`{"policies":[{"name":"x.cedar","text":""}],"claims":{"zone":"Local"}}`, 400, "no time zone Local"},
		"an unknown asker":   {`{"policies":[{"name":"x.cedar","text":""}],"claims":{"principals":["planet"]}}`, 400, "planet"},
		"one name twice":     {`{"policies":[{"name":"a","text":""},{"name":"a","text":""}]}`, 400, "is taken"},
		"no name":            {`{"policies":[{"name":"","text":""}]}`, 400, "1 to 128 printable characters"},
		"a large file":       {file(strings.Repeat(" ", 64<<10+1)), 413, "a.cedar: "},
		"a large body":       {file(strings.Repeat(" ", 8<<20)), 413, "over the limit"},
	} {
		before := w.Changes()
		r := w.Send("POST", admin.Base+"/applications/docs/releases", c.body, header)
		problem(t, r, c.status, map[int]string{400: "invalid", 409: "conflict", 413: "too_large"}[c.status])
		if !strings.Contains(r.Body, c.says) {
			t.Errorf("%s: answered %s, want %q in it", name, r.Body, c.says)
		}
		if w.Changes() != before {
			t.Errorf("%s changed something", name)
		}
	}
	if diff := cmp.Diff(made, got[admin.Policies](t)(author.Policies(ctx, "docs"))); diff != "" {
		t.Errorf("in force (-want +got):\n%s", diff)
	}
	if r := w.Send("POST", admin.Base+"/applications/docs/releases", "", header); r.Status != http.StatusBadRequest {
		t.Errorf("without a body: %d %s", r.Status, r.Body)
	}
}
