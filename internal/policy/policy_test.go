package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
)

func ask(relation string, change func(*Request)) *Request {
	r := &Request{Principal: "user:anne", Relation: relation, Resource: "document:roadmap", Verified: verified(nil)}
	if change != nil {
		change(r)
	}
	return r
}

func decide(t testing.TB, s *Set, r *Request) Answer {
	t.Helper()
	a, err := s.Decide(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func operator(text string) Source { return Source{Name: "guard.cedar", Text: text} }

// A caller that says it has a second factor has none. Everything that a caller
// may pass is tried, against policies on verified context of both effects.
func TestForgedContextNeverSatisfiesVerified(t *testing.T) {
	t.Parallel()
	forged := map[string]any{
		"amr": []any{"mfa"}, "verified": map[string]any{"amr": []any{"mfa"}}, "context.verified.amr": []any{"mfa"},
		"context.verified.amr contains mfa": true, "roles": []any{"admin"}, "principal.roles contains admin": true,
		"tenant": "acme", "id": "user:root", "ip": "192.0.2.7", "time": "2026-11-25T12:00:00Z",
		"relations": []any{"owner"}, "context.verified.relations contains owner": true,
	}
	s := mustCompile(t, operator(`
		@id("mfa") forbid (principal, action == Action::"can_delete", resource) unless { context.verified.amr.contains("mfa") };
		@id("set") forbid (principal, action == Action::"can_delete", resource) unless { context.verified.amr.containsAll(["mfa"]) };
		@id("roles") permit (principal, action == Action::"can_view", resource) when { principal.roles.contains("admin") };
		@id("id") permit (principal, action == Action::"can_view", resource) when { principal.id == "user:root" };
		@id("ip") permit (principal, action == Action::"can_edit", resource) when { context.verified.ip == ip("192.0.2.7") };
		@id("owner") permit (principal, action == Action::"can_edit", resource) when { context.verified.relations.contains("owner") };
		@id("time") permit (principal, action == Action::"can_approve", resource) when { context.verified.hour == 13 };
	`))
	for _, known := range []Verified{{}, {AMR: []string{"pwd"}, Roles: []string{}, Relations: []string{}}} {
		for _, relation := range []string{"can_delete", "can_view", "can_edit", "can_approve"} {
			a := decide(t, s, ask(relation, func(r *Request) {
				r.Verified = known
				r.Claimed = Claimed{Context: forged, Principal: forged, Resource: forged}
			}))
			if a.Permit || a.Forbid != (relation == "can_delete") {
				t.Errorf("%s with %+v: %+v", relation, known, a)
			}
		}
	}
	// What is claimed is there, under its own name.
	claimed := mustCompile(t, operator(`permit (principal, action, resource) when { context.claimed.amr.contains("mfa") };`))
	if a := decide(t, claimed, ask("can_view", func(r *Request) { r.Claimed.Context = forged })); !a.Permit {
		t.Errorf("a policy on claimed context: %+v", a)
	}
	for _, text := range []string{
		`permit (principal, action, resource) when { context.amr.contains("mfa") };`,
		`permit (principal, action, resource) when { context.claimed.verified.amr.contains("mfa") };`,
		`permit (principal, action, resource) when { resource.claimed.roles.contains("admin") };`,
	} {
		if _, err := Compile(vocabulary(t), []Source{operator(text)}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s compiles: %v", text, err)
		}
	}
}

// The rule in which a guard differs from Cedar.
func TestAnErrorInAForbidForbids(t *testing.T) {
	t.Parallel()
	const permits = `@id("all") permit (principal, action, resource);`
	for name, c := range map[string]struct {
		text           string
		change         func(*Request)
		forbid, permit bool
		deciding       []string // policy, and " !" where it erred
	}{
		"nothing is unknown": {
			permits + `@id("f") forbid (principal, action, resource) unless { context.verified.amr.contains("mfa") };`,
			nil, false, true, []string{"all"},
		},
		"unknown amr": {
			permits + `@id("f") forbid (principal, action, resource) unless { context.verified.amr.contains("mfa") };`,
			func(r *Request) { r.Verified.AMR = nil }, true, false, []string{"f !"},
		},
		"unknown in a when": {
			permits + `@id("f") forbid (principal, action, resource) when { context.verified.acr == "low" };`,
			nil, true, false, []string{"f !"},
		},
		"an unknown that is not reached": {
			permits + `@id("f") forbid (principal, action, resource) when { context.verified.hour == 25 && context.verified.acr == "low" };`,
			nil, false, true, []string{"all"},
		},
		"asked with has": {
			permits + `@id("f") forbid (principal, action, resource) when { context.verified has acr && context.verified.acr == "low" };`,
			nil, false, true, []string{"all"},
		},
		"has not": {
			permits + `@id("f") forbid (principal, action, resource) when { !(context.verified has acr) };`,
			nil, true, false, []string{"f"},
		},
		"overflow": {
			permits + `@id("f") forbid (principal, action, resource) when { resource.claimed.size * 9223372036854775807 > 0 };`,
			func(r *Request) {
				r.Resource = "document:d"
				r.Claimed.Resource = map[string]any{"size": 2.0}
			}, true, false, []string{"f !"},
		},
		"a scope that does not match": {
			permits + `@id("f") forbid (principal == user::"bob", action, resource) when { context.verified.acr == "low" };`,
			nil, false, true, []string{"all"},
		},
		"in a permit": {
			`@id("p") permit (principal, action, resource) when { context.verified.acr == "high" };`,
			nil, false, false, []string{"p !"},
		},
		"in a permit beside another": {
			permits + `@id("p") permit (principal, action, resource) when { context.verified.acr == "high" };`,
			nil, false, true, []string{"all", "p !"},
		},
		"in a permit beside a forbid": {
			permits + `@id("p") permit (principal, action, resource) when { context.verified.acr == "high" };
			@id("f") forbid (principal, action, resource);`,
			nil, true, false, []string{"f"},
		},
		"in one of two forbids": {
			`@id("g") forbid (principal, action, resource) when { context.verified.acr == "low" }; @id("f") forbid (principal, action, resource);`,
			nil, true, false, []string{"g !", "f"},
		},
	} {
		text := c.text
		if name == "overflow" {
			text = strings.ReplaceAll(text, "resource) when", "resource is document) when")
		}
		a := decide(t, mustCompile(t, operator(text)), ask("can_view", c.change))
		var deciding []string
		for _, d := range a.Deciding {
			if d.Error != "" {
				d.Policy += " !"
			}
			deciding = append(deciding, d.Policy)
		}
		if a.Forbid != c.forbid || a.Permit != c.permit || !slices.Equal(deciding, c.deciding) {
			t.Errorf("%s: %+v, want forbid %v, permit %v by %v", name, a, c.forbid, c.permit, c.deciding)
		}
	}
}

func TestLayers(t *testing.T) {
	t.Parallel()
	tenant := func(text string) Source { return Source{Name: "ours.cedar", Text: text, Tenant: true} }
	op := operator(`@id("op") forbid (principal, action == Action::"can_delete", resource is document) when { context.verified.hour == 13 };`)
	view, edit := Grant{"document", "can_view"}, Grant{"folder", "can_view"}
	for name, c := range map[string]struct {
		text      string
		delegated []Grant
		reason    string // of the refusal
	}{
		"a forbid":                        {`forbid (principal, action, resource);`, nil, ""},
		"a permit":                        {`permit (principal, action == Action::"can_view", resource is document);`, nil, "a tenant may not permit can_view on document"},
		"delegated":                       {`permit (principal, action == Action::"can_view", resource is document);`, []Grant{view}, ""},
		"delegated, one object":           {`permit (principal, action == Action::"can_view", resource == document::"d");`, []Grant{view}, ""},
		"delegated for one of two types":  {`permit (principal, action == Action::"can_view", resource);`, []Grant{view}, "a tenant may not permit can_view on folder"},
		"delegated for both":              {`permit (principal, action == Action::"can_view", resource);`, []Grant{view, edit}, ""},
		"delegated for one of two action": {`permit (principal, action in [Action::"can_view", Action::"can_edit"], resource is document);`, []Grant{view}, "a tenant may not permit can_edit"},
		"everything":                      {`permit (principal, action, resource is document);`, []Grant{view}, "a tenant may not permit author"},
		"by a condition":                  {`permit (principal, action, resource) when { action == Action::"can_view" && resource is document };`, []Grant{view}, "a tenant may not permit"},
		"the operator's @id":              {`@id("op") forbid (principal, action, resource);`, nil, ""},
	} {
		_, err := Compile(vocabulary(t), []Source{op, tenant(c.text)}, c.delegated...)
		switch {
		case c.reason == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.reason != "" && (fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), c.reason)):
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
	s, err := Compile(vocabulary(t), []Source{op, tenant(`
		@id("theirs") permit (principal, action == Action::"can_delete", resource is document);
		@id("op") forbid (principal, action == Action::"can_view", resource is document);`)}, Grant{"document", "can_delete"})
	if err != nil {
		t.Fatal(err)
	}
	a := decide(t, s, ask("can_delete", nil))
	if d := cmp.Diff(Answer{Forbid: true, Deciding: []Decisive{{Policy: "op", Source: "guard.cedar", Line: 1}}}, a); d != "" {
		t.Errorf("a tenant's permit beside the operator's forbid (-want +got)\n%s", d)
	}
	a = decide(t, s, ask("can_delete", func(r *Request) { r.Verified.Time = noon.Add(time.Hour) }))
	if d := cmp.Diff(Answer{Permit: true, Deciding: []Decisive{{Policy: "theirs", Source: "ours.cedar", Line: 2, Tenant: true, Permit: true}}}, a); d != "" {
		t.Errorf("a tenant's permit (-want +got)\n%s", d)
	}
	a = decide(t, s, ask("can_view", nil))
	if d := cmp.Diff(Answer{Forbid: true, Deciding: []Decisive{{Policy: "op", Source: "ours.cedar", Line: 3, Tenant: true}}}, a); d != "" {
		t.Errorf("a tenant's forbid (-want +got)\n%s", d)
	}
}

func TestDecideRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	s := mustCompile(t, operator(`permit (principal, action, resource);`))
	for name, change := range map[string]func(*Request){
		"relation":         func(r *Request) { r.Relation = "can_fly" },
		"type":             func(r *Request) { r.Resource = "planet:mars" },
		"no resource":      func(r *Request) { r.Resource = "" },
		"relation of type": func(r *Request) { r.Resource = "folder:f"; r.Relation = "can_delete" },
		"principal's type": func(r *Request) { r.Principal = "planet:mars" },
		"no principal":     func(r *Request) { r.Principal = "" },
		"not a principal":  func(r *Request) { r.Principal = "folder:f" },
		"bare principal":   func(r *Request) { r.Principal = "user" },
	} {
		if a, err := s.Decide(ask("can_view", change)); fault.KindOf(err) != fault.Invalid || a.Permit {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	for path, c := range map[string]struct {
		test       string
		good, bad  []any
		unreadable []any
	}{
		"region": {`== "eu"`, []any{"eu"}, []any{"us", ""}, []any{1.0, true, []any{"eu"}, map[string]any{}, strings.Repeat("e", MaxClaim+1)}},
		"size":   {`> 6`, []any{7.0, 7, int64(7), float64(1 << 53)}, []any{6.0, -7.0, 0}, []any{7.5, float64(1 << 54), "7", true, uint8(7)}},
		"public": {`== true`, []any{true}, []any{false}, []any{"true", 1.0, []any{}}},
		"labels": {`.contains("x")`, []any{[]any{"x"}, []any{"y", "x"}, []string{"x"}}, []any{[]any{}, []any{"y"}}, []any{"x", []any{1.0}, []any{"x", nil}, make([]any, MaxItems+1), []any{strings.Repeat("x", MaxClaim+1)}}},
		"created": {
			`< datetime("2026-01-01")`,
			[]any{"2025-12-31T23:59:59Z", "2026-01-01T00:30:00+01:00"},
			[]any{"2026-01-01T00:00:00Z"},
			[]any{"2025", "yesterday", 0.0},
		},
		"origin": {`.isInRange(ip("10.0.0.0/8"))`, []any{"10.1.2.3", "10.1.0.0/16"}, []any{"192.0.2.1", "::1"}, []any{"ten", "", 10.0, "10.0.0.1%eth0"}},
	} {
		s := mustCompile(t, operator(fmt.Sprintf(`permit (principal, action, resource is document) when { resource.claimed.%s %s };`, path, c.test)))
		give := func(v any) (Answer, error) {
			return s.Decide(ask("can_view", func(r *Request) { r.Claimed.Resource = map[string]any{path: v} }))
		}
		for _, v := range c.good {
			if a, err := give(v); err != nil || !a.Permit {
				t.Errorf("%s %v: %+v, %v", path, v, a, err)
			}
		}
		for _, v := range c.bad {
			if a, err := give(v); err != nil || a.Permit || len(a.Deciding) > 0 {
				t.Errorf("%s %v: %+v, %v", path, v, a, err)
			}
		}
		for _, v := range c.unreadable {
			if a, err := give(v); fault.KindOf(err) != fault.Invalid || a.Permit || !strings.Contains(fault.Public(err), path) {
				t.Errorf("%s %v: %+v, %v", path, v, a, err)
			}
		}
		for _, absent := range []map[string]any{nil, {}, {path: nil}, {"other": 1}} {
			a, err := s.Decide(ask("can_view", func(r *Request) { r.Claimed.Resource = absent }))
			if err != nil || a.Permit || len(a.Deciding) != 1 || a.Deciding[0].Error == "" {
				t.Errorf("%s absent in %v: %+v, %v", path, absent, a, err)
			}
		}
	}
}

// What no candidate reads does not matter, whatever it is.
func TestOnlyWhatIsReadIsLookedAt(t *testing.T) {
	t.Parallel()
	s := mustCompile(t, operator(`permit (principal, action == Action::"can_edit", resource is document) when { resource.claimed.region == "eu" };
		permit (principal, action == Action::"can_view", resource is document);`))
	a, err := s.Decide(ask("can_view", func(r *Request) { r.Claimed.Resource = map[string]any{"region": 1.0, "strange": make(chan int)} }))
	if err != nil || !a.Permit {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestCandidatesAndAsks(t *testing.T) {
	t.Parallel()
	s := mustCompile(t, operator(`
		forbid (principal, action in [Action::"can_view", Action::"can_view", Action::"can_edit"], resource is document) when { context.verified.relations.contains("author") };
		permit (principal, action == Action::"can_view", resource) when { context.verified.relations.contains("can_edit") };
		permit (principal, action, resource is document);
		forbid (principal, action, resource == folder::"f");
		forbid (principal, action, resource) when { principal.tenant == "x" };`))
	type found struct {
		Forbids, Permits int
		Asks             []string
	}
	got := map[Grant]found{}
	for _, g := range []Grant{{"document", "can_view"}, {"document", "can_edit"}, {"document", "can_delete"}, {"folder", "can_view"}, {"folder", "can_fly"}, {"mars", "can_view"}} {
		f, p := s.Candidates(g.Type, g.Relation)
		got[g] = found{f, p, s.Asks(g.Type, g.Relation)}
	}
	want := map[Grant]found{
		{"document", "can_view"}:   {2, 2, []string{"author", "can_edit"}},
		{"document", "can_edit"}:   {2, 1, []string{"author"}},
		{"document", "can_delete"}: {1, 1, nil},
		{"folder", "can_view"}:     {2, 1, []string{"can_edit"}},
		{"folder", "can_fly"}:      {},
		{"mars", "can_view"}:       {},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if s.Len() != 5 {
		t.Errorf("%d policies", s.Len())
	}
}

// No candidates, no cost.
func TestNoCandidatesNoAllocation(t *testing.T) { // not parallel: it counts allocations
	s, r := mustCompile(t, operator(`forbid (principal, action == Action::"can_edit", resource);`)), ask("can_delete", nil)
	if n := testing.AllocsPerRun(100, func() { sink, _ = s.Decide(r) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestID(t *testing.T) {
	t.Parallel()
	base := func() (Vocabulary, []Source, []Grant) {
		return vocabulary(t), []Source{{Name: "a", Text: "forbid(principal,action,resource);"}, {Name: "b", Text: "", Tenant: true}}, []Grant{{"document", "can_view"}}
	}
	id := func(change func(*Vocabulary, []Source, []Grant)) string {
		v, sources, grants := base()
		change(&v, sources, grants)
		s, err := Compile(v, sources, grants...)
		if err != nil {
			t.Fatal(err)
		}
		return s.ID()
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*Vocabulary, []Source, []Grant){
		"nothing":    func(*Vocabulary, []Source, []Grant) {},
		"text":       func(_ *Vocabulary, s []Source, _ []Grant) { s[0].Text += " " },
		"name":       func(_ *Vocabulary, s []Source, _ []Grant) { s[0].Name = "c" },
		"layer":      func(_ *Vocabulary, s []Source, _ []Grant) { s[0].Tenant = true },
		"order":      func(_ *Vocabulary, s []Source, _ []Grant) { s[0], s[1] = s[1], s[0] },
		"delegation": func(_ *Vocabulary, _ []Source, g []Grant) { g[0].Relation = "can_edit" },
		"zone":       func(v *Vocabulary, _ []Source, _ []Grant) { v.Zone = nil },
		"kind":       func(v *Vocabulary, _ []Source, _ []Grant) { v.Claimed["amr"] = String },
		"relation":   func(v *Vocabulary, _ []Source, _ []Grant) { v.Types[2].Relations[1] = "can_read" },
	} {
		got := id(change)
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have one id", name, other)
		}
		seen[got] = name
		if got != id(change) {
			t.Errorf("%s: two ids", name)
		}
	}
	// A vector: the ids of stored sets must not change.
	const golden = "c9ad17a27147641cc06a6139ad98abf676629fb07319b5a552c3c4272bf9d108"
	if got := id(func(v *Vocabulary, _ []Source, _ []Grant) { v.Zone = nil }); got != golden {
		t.Errorf("id %s, want %s", got, golden)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	s := big(t, thousand(10))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				r := askDelete()
				want := (i+j)%2 == 0
				if want {
					r.Verified.AMR = []string{"pwd"}
				}
				a, err := s.Decide(r)
				if err != nil || a.Forbid != want {
					t.Errorf("%+v, %v", a, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
