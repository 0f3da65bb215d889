package openfga_test

import (
	"context"
	"strings"
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// Through OpenFGA's door, too, nobody comes to hold two exclusive roles; the
// refusal says which, and is recorded.
func TestExclusiveRolesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	platform, err := w.Directory.SystemGraph(tenant.Platform)
	w.Must(err)
	_, err = w.Authz.Enforce(context.Background(), ledger.Change{Store: platform, Event: ledger.Event{
		ID: tenant.RandomID(), Time: w.Now(), Class: ledger.Mutation, Action: "release.activate", Subject: "system", Tenant: tenant.Platform,
	}}, "docs", authz.Draft{
		Model: guardtest.Docs + "\ntype change\n  relations\n    define asker: [user]\n    define judge: [user]\n",
		Roles: authz.Roles{Exclusive: []authz.Exclusive{{Name: "four-eyes", Type: "change", Relations: []string{"asker", "judge"}}}},
	})
	w.Must(err)
	store := w.graph("acme")
	w.put(store, "change:1", "asker", "user:anne")
	_, err = w.grpc.Write(w.as("access_manager@acme"), &fga.WriteRequest{StoreId: string(store), Writes: &fga.WriteRequestWrites{
		TupleKeys: []*fga.TupleKey{{Object: "change:1", Relation: "judge", User: "user:anne"}},
	}})
	if status.Code(err) != codes.Code(fga.AuthErrorCode_forbidden) || !strings.Contains(err.Error(), "user:anne would hold both judge and asker of change:1") {
		t.Errorf("%v", err)
	}
	for _, ev := range w.Events(audit.Filter{Class: ledger.Deny, Tenant: w.Acme.Tenant.String()}, func(all []ledger.Event) bool { return len(all) == 1 }) {
		if ev.Reason != "exclusive_roles" || ev.Resource != "store:"+string(store) || ev.Detail["object"] != "change:1" || ev.Detail["relations"] != "judge asker" {
			t.Errorf("recorded as %+v", ev)
		}
	}
	// What a question brings along assigns nothing: it is denied at use.
	r, err := w.grpc.Check(w.as("caller@acme"), &fga.CheckRequest{
		StoreId: string(store), TupleKey: asked("user:anne", "asker", "change:1"),
		ContextualTuples: &fga.ContextualTupleKeys{TupleKeys: []*fga.TupleKey{{Object: "change:1", Relation: "judge", User: "user:anne"}}},
	})
	if err != nil || r.GetAllowed() {
		t.Errorf("%v, %v", r, err)
	}
}
