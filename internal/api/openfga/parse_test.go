package openfga_test

import (
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/schema"
)

// parse is the wire's form of a model's text.
func parse(t testing.TB, model string) *fga.AuthorizationModel {
	t.Helper()
	m, err := schema.Proto(model)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// filterOf finds the refusals of somebody.
func filterOf(w *world, who string) audit.Filter {
	return audit.Filter{Subject: w.Subject(who), Class: ledger.Deny}
}
