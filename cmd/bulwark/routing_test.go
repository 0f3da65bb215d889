package main

import (
	"context"
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
)

// Where what was in force cannot be read any more, the configuration's routes do
// not come back: they may be wider than the release's.
func TestLostRolloutBringsNoRoutesBack(t *testing.T) {
	t.Parallel()
	r := &routing{node: &node{plan: plan{application: "docs"}, authz: new(authz.Engine)}, inForce: true}
	if err := r.load(context.Background()); fault.KindOf(err) != fault.Integrity {
		t.Errorf("loaded: %v", err)
	}
}
