package release

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/trial"
)

var update = flag.Bool("update", false, "write golden files")

func sample() Release {
	no := map[string]bool{"viewer": false}
	return Release{
		Application: "docs", Base: authz.Version{Model: "M1"},
		Version: authz.Version{
			Model: "M2", Policies: "P2", Routes: json.RawMessage(`[{"id":"r"}]`),
			Roles: authz.Roles{Roles: []authz.Role{{Name: "reader", Type: "document", Relations: []string{"viewer"}}}},
		},
		Tests: []trial.File{{Name: "t", Tests: []trial.Test{{Name: "x", Check: []trial.Check{{User: "user:a", Object: "document:1", Assertions: no}}}}}},
		Note:  "why", Proposed: Mark{"user:a", time.Unix(1_800_000_000, 5).UTC()},
	}
}

// The digest that somebody signed stays what it is, and the record readable.
func TestReleaseGolden(t *testing.T) {
	t.Parallel()
	r := sample()
	var err error
	if r.ID, err = r.Digest(); err != nil {
		t.Fatal(err)
	}
	r.Version.Release = r.ID
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/release.golden", append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/release.golden")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(raw)+"\n"); diff != "" {
		t.Error(diff)
	}
	g := &Registry{all: map[string]map[string]Release{}}
	if err := g.Apply(KindRelease, "docs/"+r.ID, want); err != nil {
		t.Error(err)
	}
	if got, err := g.Get("docs", r.ID[:8]); err != nil || got.ID != r.ID {
		t.Errorf("%+v, %v", got, err)
	}
	for _, id := range []string{r.ID[:7], "", strings.Repeat("0", 64)} {
		if _, err := g.Get("docs", id); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// The digest covers everything that decides, before and after, and what proves
// it; not who said what about it.
func TestDigestCovers(t *testing.T) {
	t.Parallel()
	base, err := new(Release).Digest()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{base: "nothing"}
	for what, change := range map[string]func(*Release){
		"the sample":        func(*Release) {},
		"the application":   func(r *Release) { r.Application = "mail" },
		"the base's model":  func(r *Release) { r.Base.Model = "M0" },
		"the base":          func(r *Release) { r.Base.Release = "R" },
		"the base's routes": func(r *Release) { r.Base.Routes = json.RawMessage(`[]`) },
		"the model":         func(r *Release) { r.Version.Model = "M3" },
		"the model's text":  func(r *Release) { r.ModelSum = "other" },
		"the policies":      func(r *Release) { r.Version.Policies = "" },
		"the roles":         func(r *Release) { r.Version.Roles.Roles[0].Relations[0] = "editor" },
		"the exclusions": func(r *Release) {
			r.Version.Roles.Exclusive = []authz.Exclusive{{Name: "x", Type: "document", Relations: []string{"a", "b"}}}
		},
		"the routes": func(r *Release) { r.Version.Routes = nil },
		"a test":     func(r *Release) { r.Tests[0].Tests[0].Check[0].Assertions["viewer"] = true },
		"no test":    func(r *Release) { r.Tests = nil },
	} {
		r := sample()
		change(&r)
		d, err := r.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[d]; taken {
			t.Errorf("%s and %s have one digest", what, other)
		}
		seen[d] = what
	}
	r := sample()
	r.Note, r.Proposed, r.Approved, r.Version.Release = "else", Mark{}, Mark{By: "user:b"}, "R"
	if d, err := r.Digest(); err != nil || seen[d] != "the sample" {
		t.Errorf("who said what changes the digest: %v", err)
	}
}

// A stored release that is not what its digest says is none.
func TestDamagedRelease(t *testing.T) {
	t.Parallel()
	r := sample()
	r.ID, _ = r.Digest() // it has one, see above
	raw := func(r Release) []byte {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	edited := r
	edited.Version.Policies = ""
	for what, e := range map[string]struct {
		key     string
		payload []byte
	}{
		"edited":        {"docs/" + r.ID, raw(edited)},
		"another's key": {"mail/" + r.ID, raw(r)},
		"no JSON":       {"docs/" + r.ID, []byte("{")},
	} {
		g := &Registry{all: map[string]map[string]Release{}}
		if err := g.Apply(KindRelease, e.key, e.payload); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v", what, err)
		}
		if len(g.List("docs")) != 0 {
			t.Errorf("%s: it is known", what)
		}
	}
	g := &Registry{all: map[string]map[string]Release{}}
	if err := g.Apply(KindRelease, "docs/"+r.ID, raw(r)); err != nil || len(g.List("docs")) != 1 {
		t.Errorf("a sound one: %v", err)
	}
	for i, key := range []string{"mail/" + r.ID, "docs", "docs/" + r.ID} {
		if err := g.Apply(KindRelease, key, nil); err != nil || len(g.List("docs")) != 1-i/2 {
			t.Errorf("%s is forgotten: %v, %d are known", key, err, len(g.List("docs")))
		}
	}
	if err := (&Registry{}).Apply("model", "docs/x", nil); err != nil {
		t.Errorf("another kind: %v", err)
	}
	if _, err := Open(context.Background(), Config{Store: stored{edited}}); fault.KindOf(err) != fault.Integrity {
		t.Errorf("at the start: %v", err)
	}
}

// stored is a store that holds one release and takes none.
type stored [1]Release

func (s stored) LoadReleases(context.Context) ([]Release, error) { return s[:], nil }

func (stored) PutRelease(context.Context, ledger.Change, Release, authz.Content, ...string) error {
	return fault.New(fault.Unsupported, "it takes none")
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	at := relation.Revision{Store: "S"}
	q := func(object, rel, subject string, context bool) Question {
		return Question{Store: "S", Object: object, Relation: rel, Subject: subject, Context: context}
	}
	for what, c := range map[string]struct {
		ev   ledger.Event
		want []Question
	}{
		"a gateway's allow": {
			ledger.Event{Class: ledger.Allow, Revision: at, Resource: "d:1", Relation: "r", Subject: "user:a", Decision: "allow"},
			[]Question{q("d:1", "r", "user:a", false)},
		},
		"a check about somebody, with a context": {
			ledger.Event{Class: ledger.Check, Revision: at, Resource: "d:1", Relation: "r", Subject: "service:s", Decision: "deny", Detail: map[string]string{"asked": "user:b", "context": "given"}},
			[]Question{q("d:1", "r", "user:b", true)},
		},
		"a batch": {
			ledger.Event{Class: ledger.Check, Revision: at, Resource: "store:S", Reason: "batch", Detail: map[string]string{"batch": "+d:1#r@user:a -~d:2#r@t:x#m !d:3#r@user:* + broken"}},
			[]Question{q("d:1", "r", "user:a", false), q("d:2", "r", "t:x#m", true), q("d:3", "r", "user:*", false)},
		},
		"a change":           {ledger.Event{Class: ledger.Mutation, Revision: at, Resource: "d:1", Relation: "r", Decision: "allow"}, nil},
		"without a store":    {ledger.Event{Class: ledger.Deny, Resource: "d:1", Relation: "r", Decision: "deny"}, nil},
		"without a decision": {ledger.Event{Class: ledger.Check, Revision: at, Resource: "d:1", Relation: "r"}, nil},
	} {
		var got []Question
		Recorded(&c.ev, func(q Question) { got = append(got, q) })
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// Each test file costs a compilation, however small it is. Those beyond the bound
// cost none: there is not even an engine here.
func TestTestFilesAreBounded(t *testing.T) {
	t.Parallel()
	g := &Registry{}
	_, err := g.Plan(t.Context(), "docs", Proposal{Tests: make([]trial.File, MaxTestFiles+1)})
	if want := "the proposal has 101 test files; one may have 100"; fault.KindOf(err) != fault.TooLarge || fault.Public(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
}
