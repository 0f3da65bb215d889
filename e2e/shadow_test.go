package e2e

import (
	"context"
	"sync"
	"testing"

	"bulwark.example/sdk"
)

// A check that a service has had before, with Bulwark in its shadow: the service
// gets the old answers, and learns where Bulwark's are others, with the revision
// at which they were given.
func shadows(t *testing.T, w *town) {
	t.Helper()
	ctx := t.Context()
	alice, bob := w.user("alice"), w.user("bob")
	old := func(_ context.Context, _, subject, _, _ string) (bool, error) { return subject == alice, nil }
	var mu sync.Mutex
	var told []sdk.Disagreement
	s := sdk.Shadow(old, w.client(w.notes), sdk.ShadowConfig{Report: func(d sdk.Disagreement) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, d)
	}})
	ask := func(subject string, want bool) {
		t.Helper()
		if got, err := s.Check(ctx, "acme", subject, "can_view", "document:shadow"); got != want || err != nil {
			t.Errorf("%s: %v %v", subject, got, err)
		}
		s.Wait()
	}
	ask(alice, true) // Bulwark does not know of her grant yet
	w.cli("access", "tuple", "write", "document:shadow", "viewer", alice)
	ask(alice, true)
	ask(bob, false)
	if c := s.Counters(); c != (sdk.ShadowCounters{Agreed: 2, Disagreed: 1}) {
		t.Errorf("counted %+v", c)
	}
	if len(told) != 1 || told[0].Subject != alice || !told[0].Existing || told[0].Ours || told[0].OursErr != nil || told[0].Revision == "" {
		t.Errorf("told %+v", told)
	}
}
