package main

import (
	"os"
	"strings"
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/trial"
)

// The roles of the example fit its model, whose tests go on as without them.
func TestExampleRoles(t *testing.T) {
	t.Parallel()
	const dir = "../../docs/models/github/"
	var d authz.Draft
	roles, err := os.ReadFile(dir + "roles.yaml")
	must(t, err)
	must(t, readAsJSON("roles.yaml", roles, &d.Roles, ""))
	d.Model, err = trial.ReadModel(dir + "model.fga")
	must(t, err)
	f, err := trial.Read(dir + "store.fga.yaml")
	must(t, err)
	out, err := f.RunWith(t.Context(), d)
	must(t, err)
	if len(d.Roles.Roles) < 5 || len(out.Tests) < 5 {
		t.Errorf("%d roles, %d tests", len(d.Roles.Roles), len(out.Tests))
	}
	for _, r := range out.Tests {
		if len(r.Failures) > 0 {
			t.Errorf("%s: %v", r.Name, r.Failures)
		}
	}
	// Olivia owns the organization, and so pays its bills.
	f.Tuples = append(f.Tuples, trial.Tuple{Object: "organization:acme", Relation: "security_manager", User: "user:olivia"})
	if _, err := f.RunWith(t.Context(), d); err == nil || !strings.Contains(err.Error(), "money-and-security") {
		t.Errorf("an owner who watches over security: %v", err)
	}
}
