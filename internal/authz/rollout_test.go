package authz

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// bare is docs without wildcards: what they gave, it does not.
var bare = strings.ReplaceAll(docs, "user:*, ", "")

// waves has two stores of one application, both with demo's tuples.
func waves(t *testing.T) (w *world, other relation.StoreID) {
	t.Helper()
	w = newWorld(t, docs, demo...)
	return w, w.second
}

func (w *world) allows(t *testing.T, store relation.StoreID, q string) bool {
	t.Helper()
	x := tuple(q)
	d, err := w.Check(context.Background(), Query{Store: store, Object: x.Object, Relation: x.Relation, Subject: x.Subject})
	if err != nil {
		t.Fatal(err)
	}
	return d.Allowed
}

// A wave answers for its stores alone; it can end both ways, and a new process
// stands where the old one stood.
func TestWaves(t *testing.T) {
	t.Parallel()
	w, other := waves(t)
	w.db.seed(other, demo...)
	ctx, change := context.Background(), ledger.Change{Store: w.system}
	const everyone = "document:news#viewer@user:any" // by a wildcard
	expect := func(when string, first, second bool) {
		t.Helper()
		again, err := w.open()
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		for name, e := range map[string]*Engine{"this process": w.Engine, "a new one": again} {
			x := world{Engine: e}
			if got := []bool{x.allows(t, w.store, everyone), x.allows(t, other, everyone)}; !slices.Equal(got, []bool{first, second}) {
				t.Errorf("%s, %s: %v, want %v %v", when, name, got, first, second)
			}
		}
	}
	v, c, err := w.Compile("docs", Draft{Model: bare})
	if err != nil {
		t.Fatal(err)
	}
	before, _ := w.Rollout("docs")
	roll := func(next Rollout, c Content) error {
		next.Application = "docs"
		return w.Roll(ctx, change, next, c)
	}
	expect("before", true, true)
	if err := roll(Rollout{Serial: 2, Current: before.Current, Next: &v, Stores: []relation.StoreID{other}}, c); err != nil {
		t.Fatal(err)
	}
	expect("in the wave", true, false)
	if m, _ := w.ActiveModel("docs"); m.ID() != before.Current.Model {
		t.Error("the wave's model is the application's")
	}
	if _, err := w.Write(ctx, ledger.Change{Store: other}, "", Write{Writes: tuples("document:b#viewer@user:*")}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a tuple of the old model in the wave: %v", err)
	}
	if err := roll(Rollout{Serial: 2, Current: v}, Content{}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a serial that was: %v", err)
	}
	if err := roll(Rollout{Serial: 3, Current: Version{Model: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}}, Content{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a model that nobody knows: %v", err)
	}
	if err := roll(Rollout{Serial: 3, Current: Version{Model: v.Model, Policies: "none"}}, Content{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("policies that nobody knows: %v", err)
	}
	expect("after refusals", true, false)
	if err := roll(Rollout{Serial: 3, Current: v, Previous: &before.Current}, Content{}); err != nil {
		t.Fatal(err)
	}
	expect("for all", false, false)
	if err := roll(Rollout{Serial: 4, Current: before.Current}, Content{}); err != nil {
		t.Fatal(err)
	}
	expect("rolled back", true, true)

	staged, err := w.Stage("docs", v, Content{})
	if err != nil {
		t.Fatal(err)
	}
	x := tuple(everyone)
	q := Query{Store: w.store, Object: x.Object, Relation: x.Relation, Subject: x.Subject}
	if d, err := w.CheckStaged(ctx, q, staged); err != nil || d.Allowed || d.Model != v.Model {
		t.Errorf("staged: %+v, %v", d, err)
	}
	var orphans []string
	seen := 0
	err = w.Orphans(ctx, w.store, staged, func(t relation.Tuple, why error) error {
		if seen++; why != nil {
			orphans = append(orphans, t.String())
		}
		return nil
	})
	if diff := cmp.Diff([]string{"document:news#viewer@user:*"}, orphans); diff != "" || err != nil || seen != len(demo) {
		t.Errorf("%d tuples, %v: orphans (-want +got):\n%s", seen, err, diff)
	}
	expect("after questions", true, true)
}

// What a rollout cannot be read from leaves nothing to answer by.
func TestDamagedRollout(t *testing.T) {
	t.Parallel()
	for name, e := range map[string][2]string{
		"no JSON":           {"docs", "{"},
		"another's key":     {"docs", `{"application":"other","serial":2}`},
		"an unknown model":  {"docs", `{"application":"docs","serial":2,"current":{"model":"x"}}`},
		"a deletion":        {"docs", ""},
		"unknown policies":  {"docs", `{"application":"docs","serial":2,"current":{"model":"MODEL","policies":"x"}}`},
		"a wave of nothing": {"docs", `{"application":"docs","serial":2,"current":{"model":"MODEL"},"next":{"model":"x"},"stores":["s"]}`},
	} {
		w := newWorld(t, docs, demo...)
		m, _ := w.ActiveModel("docs")
		payload := strings.ReplaceAll(e[1], "MODEL", m.ID())
		if err := w.ApplyEntry(KindRollout, e[0], []byte(payload)); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v", name, err)
		}
		if d, err := w.ask(t, "document:roadmap#viewer@user:alice"); fault.KindOf(err) != fault.NotFound || d.Allowed {
			t.Errorf("%s: the old version still answers: %+v, %v", name, d, err)
		}
	}
	w := newWorld(t, docs)
	if err := w.ApplyEntry(KindRollout, System, []byte(`{}`)); fault.KindOf(err) != fault.Integrity {
		t.Errorf("a rollout of the system model: %v", err)
	}
}

// The changelog's form of a record stays readable.
func TestRolloutGolden(t *testing.T) {
	t.Parallel()
	r := Rollout{
		Application: "docs", Serial: 3, Current: Version{Model: "M1", Policies: "P1"}, Previous: &Version{Model: "M0"},
		Next: &Version{
			Release: "R2", Model: "M2", Routes: json.RawMessage(`[]`),
			Roles: Roles{Roles: []Role{{Name: "maintainer", Type: "repository", Relations: []string{"maintainer"}}}},
		},
		Stores: []relation.StoreID{"S"},
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "rollout.golden", string(b)+"\n")
	var back Rollout
	if err := json.Unmarshal(b, &back); err != nil || !back.same(&r) {
		t.Errorf("%+v, %v", back, err)
	}
}
