package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withoutViewer drops the relation viewer of folders, and what hangs on it.
const withoutViewer = `model
  schema 1.1

type user

type service

type team
  relations
    define member: [user, service, team#member]

type folder
  relations
    define parent: [folder]
    define owner: [user, service, team#member] or owner from parent
    define editor: [user, service, team#member] or owner or editor from parent

type document
  relations
    define parent: [folder]
    define owner: [user, service, team#member] or owner from parent
    define editor: [user, service, team#member] or owner or editor from parent
    define viewer: [user, user:*, service, team#member] or editor
    define can_view: viewer
    define can_edit: editor
`

const documentTests = `model_file: model.fga
tests:
  - name: an owner views
    tuples:
      - {user: "user:o", relation: owner, object: "document:d"}
    check:
      - {user: "user:o", object: "document:d", assertions: {can_view: true}}
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

type flip struct {
	Object, Relation, Subject, Before, After string
	Count                                    int
}

type planned struct {
	Applications []struct {
		State, Release string
		Sum            struct{ Tuples, Orphans, Decisions, Questions, Flips, Open int }
		Orphans        []struct{ Tuple string }
		Flips          []flip
	}
}

// A model that drops viewer is proposed: the plan lists the tuples that it orphans
// and each of 10,000 recorded decisions that it would flip, just as a full replay
// of them finds.
func TestProposalAgainstRecordedDecisions(t *testing.T) {
	t.Parallel()
	const decisions, batch = 10_000, 50
	dir := t.TempDir()
	d := startDev(t, filepath.Join(dir, "data"))
	store := d.API + "/stores/" + d.Tenants["acme"].Store
	header := append(bearer(d.token("admin@acme", "authz")), "Content-Type", "application/json")
	random := rand.New(rand.NewPCG(7, 7))

	// Twenty folders with viewers, two hundred documents in them.
	var tuples []string
	orphans := map[string]bool{"folder:plans#viewer@user:" + d.Users["carol@acme"].ID: true}
	user := func(i int) string { return fmt.Sprintf("user:U%03d", i) }
	add := func(object, relation, who string) {
		tuples = append(tuples, fmt.Sprintf(`{"object":%q,"relation":%q,"user":%q}`, object, relation, who))
	}
	for f := range 20 {
		folder := fmt.Sprintf("folder:f%d", f)
		for i := range 5 {
			add(folder, "viewer", user(f*5+i))
			orphans[folder+"#viewer@"+user(f*5+i)] = true
		}
		add(folder, "owner", user(100+f))
		for i := range 10 {
			add(fmt.Sprintf("document:d%d", f*10+i), "parent", folder)
		}
	}
	for len(tuples) > 0 {
		n := min(100, len(tuples))
		r := d.do("POST", store+"/write", `{"writes":{"tuple_keys":[`+strings.Join(tuples[:n], ",")+`]}}`, header...)
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		tuples = tuples[n:]
	}

	// ask puts questions in batches, by the model that it names.
	type question struct{ object, relation, subject string }
	ask := func(list []question, model string) map[question]bool {
		out := map[question]bool{}
		for at := 0; at < len(list); at += batch {
			part := list[at:min(at+batch, len(list))]
			var items []string
			for i, q := range part {
				items = append(items, fmt.Sprintf(`{"correlation_id":"%d","tuple_key":{"object":%q,"relation":%q,"user":%q}}`, i, q.object, q.relation, q.subject))
			}
			var answers struct {
				Result map[string]struct{ Allowed bool }
			}
			d.do("POST", store+"/batch-check", `{"authorization_model_id":"`+model+`","checks":[`+strings.Join(items, ",")+`]}`, header...).read(t, &answers)
			for i, q := range part {
				out[q] = answers.Result[fmt.Sprint(i)].Allowed
			}
		}
		return out
	}
	var asked []question
	counts := map[question]int{}
	for range decisions {
		f := random.IntN(20)
		q := question{fmt.Sprintf("document:d%d", f*10+random.IntN(10)), []string{"can_view", "can_edit"}[random.IntN(2)], user(random.IntN(120))}
		if random.IntN(2) == 0 {
			q.subject = user(f*5 + random.IntN(5)) // who may view
		}
		asked, counts[q] = append(asked, q), counts[q]+1
	}
	ask(asked, "")

	write(t, filepath.Join(dir, "next", "model.fga"), withoutViewer)
	write(t, filepath.Join(dir, "next", "tests.fga.yaml"), documentTests)
	write(t, filepath.Join(dir, "next", "bulwark.yaml"), "version: 1\napplications: {docs: {model: model.fga, tests: [tests.fga.yaml]}}\n")
	plan := func() (p planned) {
		t.Helper()
		if err := json.Unmarshal([]byte(d.cli("apply", "-f", filepath.Join(dir, "next"), "--plan", "--full", "--json")), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	var p planned
	d.await("the decisions are in the log", func() bool { p = plan(); return p.Applications[0].Sum.Decisions >= decisions })
	a := p.Applications[0]
	if a.State != "new" || a.Sum.Decisions != decisions || a.Sum.Questions != len(counts) || a.Sum.Open != 0 {
		t.Errorf("%s: %+v; %d different questions were asked", a.State, a.Sum, len(counts))
	}
	found := map[string]bool{}
	for _, o := range a.Orphans {
		found[o.Tuple] = true
	}
	if !maps.Equal(found, orphans) || a.Sum.Orphans != len(orphans) {
		t.Errorf("%d orphans, want %d", len(found), len(orphans))
	}

	// The full replay: the same model as a proposal answers those who name its id.
	d.cli("apply", "-f", filepath.Join(dir, "next"))
	var shown struct{ Model string }
	if err := json.Unmarshal([]byte(d.cli("release", "show", a.Release, "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	before, after := ask(asked, ""), ask(asked, shown.Model)
	want, flips := map[question]flip{}, 0
	word := map[bool]string{true: "allow", false: "deny"}
	for q, n := range counts {
		if before[q] != after[q] {
			want[q] = flip{q.object, q.relation, q.subject, word[before[q]], word[after[q]], n}
			flips += n
		}
	}
	got := map[question]flip{}
	for _, f := range a.Flips {
		got[question{f.Object, f.Relation, f.Subject}] = f
	}
	if !maps.Equal(got, want) || a.Sum.Flips != flips || flips < 1000 {
		t.Errorf("%d questions flip, %d times; a replay finds %d, %d times", len(got), a.Sum.Flips, len(want), flips)
	}
	t.Logf("%d decisions, %d questions: %d decisions flip, %d tuples are orphaned", decisions, len(counts), flips, len(orphans))
}

// Routes come into force with a release, and go back with it.
func TestRoutesOfARelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, filepath.Join(dir, "data"))
	status := func(path string) int {
		return d.do("GET", d.Gateway+path, "", bearer(d.token("carol@acme", "gateway"))...).status
	}
	if got := []int{status("/documents/roadmap"), status("/whoami"), status("/papers/roadmap")}; fmt.Sprint(got) != "[200 200 404]" {
		t.Fatalf("dev's own routes answer %v", got)
	}
	folder := filepath.Join(dir, "next")
	manifest := "version: 1\napplications: {docs: {routes: routes.yaml, tests: [tests.fga.yaml]}}\n"
	write(t, filepath.Join(folder, "bulwark.yaml"), manifest)
	write(t, filepath.Join(folder, "tests.fga.yaml"), strings.Replace(documentTests, "model_file: model.fga", `model: "type user"`, 1))
	refused := func(routes, says string) {
		t.Helper()
		write(t, filepath.Join(folder, "routes.yaml"), routes)
		_, stderr, code := run(t, "apply", "-f", folder, "--data", d.dir)
		if code != 2 || !strings.Contains(stderr, says) {
			t.Errorf("exit %d, %s", code, stderr)
		}
	}
	const paper = "- {id: papers, methods: [GET], path: '/papers/{id}', upstream: notes, require: {relation: can_view, object: 'document:{id}', visible: can_view}}\n"
	refused(strings.Replace(paper, "upstream: notes", "upstream: mail", 1), "route papers: there is no upstream mail")
	refused(strings.Replace(paper, "relation: can_view", "relation: can_fly", 1), "route papers: the model has no relation can_fly of document")
	refused(strings.Replace(paper, "methods", "method", 1), "field method not found")
	refused(paper+paper, "needs an id of its own")

	write(t, filepath.Join(folder, "routes.yaml"), paper)
	var p planned
	if err := json.Unmarshal([]byte(d.cli("apply", "-f", folder, "--json")), &p); err != nil {
		t.Fatal(err)
	}
	d.cli("release", "approve", p.Applications[0].Release)
	if s := status("/papers/roadmap"); s != 404 {
		t.Errorf("a route that is not in force answers %d", s)
	}
	d.cli("apply", "-f", folder)
	if got := []int{status("/documents/roadmap"), status("/whoami"), status("/papers/roadmap")}; fmt.Sprint(got) != "[404 404 200]" {
		t.Errorf("the release's routes answer %v", got)
	}
	d.cli("release", "rollback")
	if got := []int{status("/documents/roadmap"), status("/whoami"), status("/papers/roadmap")}; fmt.Sprint(got) != "[200 200 404]" {
		t.Errorf("after the way back the routes answer %v", got)
	}
}
