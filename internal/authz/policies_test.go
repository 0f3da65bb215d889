package authz

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/policy"
)

const guarded4 = `
@id("step-up")
forbid (principal, action == Action::"can_edit", resource is document)
unless { context.verified.amr.contains("mfa") };

@id("nobody-edits-what-they-own")
forbid (principal, action == Action::"can_view", resource == document::"news")
when { context.verified.relations.contains("owner") };

@id("support")
permit (principal, action == Action::"can_view", resource is document)
when { context.claimed has ticket && context.claimed.ticket like "SUP-*" };
`

// guardedWorld has demo's data and policies.
func guardedWorld(t *testing.T, text string) *world {
	t.Helper()
	w := newWorld(t, docs, append(demo, "document:news#owner@user:alice", "team:guests#member@user:dave")...)
	publish(t, w, text)
	return w
}

func publish(t *testing.T, w *world, text string) string {
	t.Helper()
	var files []PolicyFile
	if text != "" {
		files = []PolicyFile{{Name: "guards.cedar", Text: text}}
	}
	claims := Claims{Context: map[string]string{"ticket": "string", "amr": "strings"}}
	v, err := w.enforce(Draft{Model: docs, Policies: files, Claims: claims})
	if err != nil {
		t.Fatal(err)
	}
	return v.Policies
}

func mfa() policy.Verified { return policy.Verified{AMR: []string{"pwd", "mfa"}} }

func pwd() policy.Verified { return policy.Verified{AMR: []string{"pwd"}} }

func TestPolicies(t *testing.T) {
	t.Parallel()
	w := guardedWorld(t, guarded4)
	for _, c := range []struct {
		q        string
		verified func() policy.Verified
		context  map[string]any
		want     string
	}{
		{"document:roadmap#can_edit@user:alice", mfa, nil, "relation"},
		{"document:roadmap#can_edit@user:alice", pwd, nil, "forbidden"},
		{"document:roadmap#can_edit@user:alice", nil, nil, "forbidden"}, // unknown is not enough
		{"document:roadmap#can_edit@user:alice", nil, map[string]any{"amr": []any{"mfa"}}, "forbidden"},
		{"document:roadmap#can_edit@user:alice", pwd, map[string]any{"amr": []any{"mfa"}, "verified": map[string]any{"amr": []any{"mfa"}}}, "forbidden"},
		{"document:roadmap#can_edit@user:dave", mfa, nil, "no_relation"},
		{"document:news#can_view@user:bob", nil, nil, "relation"},
		{"document:news#can_view@user:alice", nil, nil, "forbidden"}, // by a relation that only the graph knows
		{"document:news#can_view@user:alice", nil, map[string]any{"ticket": "SUP-1"}, "forbidden"},
		{"document:roadmap#can_view@user:dave", nil, map[string]any{"ticket": "SUP-1"}, "policy"},
		{"document:roadmap#can_view@user:dave", nil, map[string]any{"ticket": "X-1"}, "no_relation"},
		{"document:absent#can_view@user:nobody", nil, map[string]any{"ticket": "SUP-1"}, "policy"},
		{"document:roadmap#editor@user:alice", nil, nil, "relation"},           // another action
		{"document:roadmap#can_edit@folder:plans#owner", nil, nil, "relation"}, // a userset asks nothing of policies
	} {
		x := tuple(c.q)
		for _, explain := range []bool{false, true} {
			q := Query{Store: w.store, Object: x.Object, Relation: x.Relation, Subject: x.Subject, Explain: explain}
			q.Verified, q.Context = c.verified, c.context
			d, err := w.Check(context.Background(), q)
			if err != nil || d.Reason != c.want || d.Allowed != (c.want == "relation" || c.want == "policy") {
				t.Errorf("%s %v: %+v, %v; want %s", c.q, c.context, d, err, c.want)
			}
			if explain && (c.want == "policy" || c.want == "forbidden") && len(d.Trace.Policies) == 0 {
				t.Errorf("%s: the trace names no policy\n%s", c.q, d.Trace)
			}
		}
	}
	q := Query{Store: w.store, Object: "document:roadmap", Relation: "can_view", Subject: "user:dave"}
	q.Context = map[string]any{"ticket": 7.0} // of another kind than declared
	if d, err := w.Check(context.Background(), q); fault.KindOf(err) != fault.Invalid || d.Allowed {
		t.Errorf("a claim of the wrong kind: %+v, %v", d, err)
	}
}

// Lists hold what Check allows, policies counted.
func TestListsUnderPolicies(t *testing.T) {
	t.Parallel()
	w := guardedWorld(t, guarded4)
	for _, c := range []struct{ who, rel, ticket string }{
		{"user:alice", "can_view", ""}, {"user:alice", "can_edit", ""}, {"user:dave", "can_view", "SUP-1"}, {"user:alice", "can_view", "SUP-1"}, {"user:frank", "can_view", ""},
	} {
		asked := Asked{Context: map[string]any{}}
		if c.ticket != "" {
			asked.Context["ticket"] = c.ticket
		}
		var want []string
		for _, o := range []string{"document:deep", "document:memo", "document:news", "document:roadmap"} {
			d, err := w.Check(context.Background(), Query{Store: w.store, Object: o, Relation: c.rel, Subject: c.who, Asked: asked})
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed {
				want = append(want, o)
			}
			l, err := w.ListUsers(context.Background(), UsersQuery{Store: w.store, Object: o, Relation: c.rel, Type: "user", Asked: asked})
			if err != nil || slices.Contains(l.Names, c.who) != d.Allowed && !slices.Contains(l.Names, "user:*") {
				t.Errorf("%v: users of %s: %v, %v; Check says %v", c, o, l.Names, err, d.Allowed)
			}
		}
		l, err := w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: "document", Relation: c.rel, Subject: c.who, Asked: asked})
		if err != nil || !slices.Equal(l.Names, want) {
			t.Errorf("%v: %v, %v; want %v", c, l.Names, err, want)
		}
	}
}

// Policies and models come into force only if they fit each other, and what is
// in force is found again by another process.
func TestPoliciesAndModels(t *testing.T) {
	t.Parallel()
	w := guardedWorld(t, guarded4)
	ctx := context.Background()
	for name, text := range map[string]string{
		"an unknown relation":  `forbid (principal, action == Action::"can_fly", resource);`,
		"an unknown attribute": `forbid (principal, action, resource) when { context.verified.shoe == "x" };`,
		"no Cedar":             `forbid everything`,
	} {
		_, err := w.enforce(Draft{Model: docs, Policies: []PolicyFile{{"bad.cedar", text}}})
		if fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Public(err), "bad.cedar:") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Enforce(ctx, ledger.Change{Store: w.system}, System, Draft{Model: docs}); fault.KindOf(err) != fault.Denied {
		t.Errorf("the system store: %v", err)
	}
	now, _ := w.Rollout("docs")
	without := strings.Replace(docs, "    define can_edit: editor\n", "", 1)
	old, _, err := w.PublishModel(ctx, ledger.Change{Store: w.system}, "docs", without)
	if err != nil {
		t.Fatal(err)
	}
	misfit := Rollout{Application: "docs", Serial: now.Serial + 1, Current: Version{Model: old, Policies: now.Current.Policies}}
	if err := w.Roll(ctx, ledger.Change{Store: w.system}, misfit, Content{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a model without a relation that the policies name: %v", err)
	}
	q := Query{Store: w.store, Object: "document:roadmap", Relation: "can_view", Subject: "user:alice", Asked: Asked{Model: old}}
	if d, err := w.Check(ctx, q); fault.KindOf(err) != fault.Invalid || d.Allowed {
		t.Errorf("a pinned model that the policies do not fit: %+v, %v", d, err)
	}
	rec, ok := w.Policies("docs")
	if !ok || rec.ID != w.db.policies[0].ID {
		t.Errorf("%+v, %v", rec, ok)
	}
	again, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	q = Query{Store: w.store, Object: "document:roadmap", Relation: "can_edit", Subject: "user:alice"}
	if d, err := again.Check(ctx, q); err != nil || d.Reason != "forbidden" {
		t.Errorf("another process: %+v, %v", d, err)
	}
	publish(t, w, "")
	if d, err := w.Check(ctx, q); err != nil || !d.Allowed {
		t.Errorf("without policies: %+v, %v", d, err)
	}
	if _, ok := w.Policies("docs"); ok {
		t.Error("policies that were taken away are in force")
	}
	if err := w.ApplyEntry(KindPolicies, "docs/x", []byte("{")); fault.KindOf(err) != fault.Integrity {
		t.Errorf("an entry that cannot be read: %v", err)
	}
	if d, err := w.Check(ctx, q); err == nil || d.Allowed {
		t.Errorf("after policies that cannot be read: %+v, %v", d, err)
	}
}

// The changelog's form of a record stays readable.
func TestPolicyRecordGolden(t *testing.T) {
	t.Parallel()
	rec := PolicyRecord{
		Application: "docs", ID: "3SAF8M90RPANABBZ7YMW7THA1Q", Files: []PolicyFile{{"a.cedar", "permit (principal, action, resource);"}},
		Claims:  Claims{Context: map[string]string{"ticket": "string"}, Types: map[string]map[string]string{"document": {"size": "long"}}, Principals: []string{"user"}, Zone: "Europe/Berlin"},
		Created: time.Unix(1_800_000_000, 5).UTC(),
	}
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "policy_record.golden", string(b)+"\n")
}

// The cost of guards that do not concern the question is nothing to speak of.
func TestGuardsCostNothingElsewhere(t *testing.T) {
	w := guardedWorld(t, guarded4) // not parallel: it counts the allocations of the whole process
	q := Query{Store: w.store, Object: "document:roadmap", Relation: "viewer", Subject: "user:alice"}
	if n := testing.AllocsPerRun(200, func() { _, _ = w.Check(context.Background(), q) }); n >= 1 && !raced {
		t.Errorf("%v allocations", n)
	}
}
