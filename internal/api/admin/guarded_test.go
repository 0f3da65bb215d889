package admin_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

const guarded = `model
  schema 1.1
type user
type service
type document
  relations
    define viewer: [user, user with in_region]
condition in_region(region: string, allowed: list<string>) {
  region in allowed
}
`

// A tuple may have a condition and an end; a question may bring a version of the
// model, a context and tuples of its own.
func TestGuardedTuples(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	manager := w.as("access_manager@acme")
	was := got[admin.Application](t)(manager.Application(ctx, "docs")).Current.ModelID
	source := guarded
	w.inForce(t, admin.NewRelease{Model: &source, Tests: holds})
	nobody := "user:" + w.ID("nobody@acme")
	end := w.Now().Add(time.Hour)

	written := []admin.Tuple{
		{Object: "document:a", Relation: "viewer", Subject: nobody, Condition: "in_region", Context: map[string]any{"allowed": []any{"eu", "ch"}}},
		{Object: "document:b", Relation: "viewer", Subject: nobody, Expires: end},
	}
	changed := got[admin.TuplesChanged](t)(manager.WriteTuples(ctx, admin.TupleChange{Writes: written}))
	if diff := cmp.Diff(written, changed.Writes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(written, all(t, 1, func(p admin.Paging) (admin.Page[admin.Tuple], error) {
		return manager.Tuples(ctx, admin.TupleFilter{}, p)
	})); diff != "" {
		t.Error(diff)
	}
	w.Events(audit.Filter{Action: "tuple.write"}, func(all []ledger.Event) bool { return len(all) == 1 })

	for name, bad := range map[string]admin.Tuple{
		"an end that has passed":    {Expires: w.Now().Add(-time.Second)},
		"the first year":            {Expires: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)},
		"an end beyond all":         {Expires: time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"a condition that is not":   {Condition: "in_orbit"},
		"a context for nothing":     {Context: map[string]any{"allowed": []any{}}},
		"a context of another type": {Condition: "in_region", Context: map[string]any{"allowed": "eu"}},
	} {
		bad.Object, bad.Relation, bad.Subject = "document:c", "viewer", nobody
		_, err := manager.WriteTuples(ctx, admin.TupleChange{Writes: []admin.Tuple{bad}})
		if err == nil || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if _, err = manager.WriteTuples(ctx, admin.TupleChange{Deletes: []admin.Tuple{bad}}); err == nil || fault.KindOf(err) != fault.Invalid {
			t.Errorf("a delete with %s: %v", name, err)
		}
	}

	ask := func(object string, q admin.Question) string {
		t.Helper()
		q.Subject, q.Relation, q.Object = "user:@nobody", "viewer", object
		e, err := manager.Explain(ctx, q)
		if err != nil {
			return fault.KindOf(err).String()
		}
		return fmt.Sprint(e.Allowed)
	}
	region := func(v any) map[string]any { return map[string]any{"region": v} }
	brought := []admin.Tuple{{Object: "document:c", Relation: "viewer", Subject: "user:@nobody"}}
	for _, c := range []struct {
		name, object, want string
		q                  admin.Question
	}{
		{"the condition holds", "document:a", "true", admin.Question{Context: region("eu")}},
		{"the condition fails", "document:a", "false", admin.Question{Context: region("us")}},
		{"nothing is claimed", "document:a", "invalid", admin.Question{}},
		{"a claim of another type", "document:a", "invalid", admin.Question{Context: region(7)}},
		{"a grant with an end", "document:b", "true", admin.Question{}},
		{"no grant", "document:c", "false", admin.Question{}},
		{"a grant that was brought along", "document:c", "true", admin.Question{Contextual: brought}},
		{"one that the model does not allow", "document:c", "invalid", admin.Question{Contextual: []admin.Tuple{{Object: "document:c", Relation: "editor", Subject: nobody}}}},
		{"an older version", "document:b", "true", admin.Question{Model: was}},
		{"an older version, without the condition", "document:a", "false", admin.Question{Model: was, Context: region("eu")}},
		{"no version", "document:a", "invalid", admin.Question{Model: "none"}},
	} {
		if got := ask(c.object, c.q); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	w.Advance(2 * time.Hour)
	w.Directory.Confirm()
	manager = w.as("access_manager@acme")
	if got := ask("document:b", admin.Question{}); got != "false" {
		t.Errorf("after its end: %s", got)
	}
}
