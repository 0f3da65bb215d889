package authzen_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"bulwark.example/internal/api/authzen"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// Each of the three semantics over allowed, denied and unanswered evaluations:
// how far it comes is decided by order alone.
func TestSemantics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(fixture, tuples("record:a#read@user:alice", "record:a#delete@user:alice gentle")...)
	items := map[rune]string{
		'+': `{}`, '-': body(bob), '!': `{"action":{"name":"delete"}}`, // a condition without its attribute
		'?': `{"resource":{"type":"record"}}`, '#': `{"action":{"name":"nonsense"}}`, '*': `{"resource":{"type":"planet","id":"x"}}`,
	}
	for _, c := range []struct{ items, all, deny, permit string }{
		{"+", "+", "+", "+"}, {"-", "-", "-", "-"}, {"!", "!", "!", "!"},
		{"+-+", "+-+", "+-", "+"}, {"-+-", "-+-", "-", "-+"}, {"+++", "+++", "+++", "+"}, {"---", "---", "-", "---"},
		{"!+", "!+", "!", "!+"}, {"+!-", "+!-", "+!", "+"}, {"?+", "!+", "!", "!+"}, {"+?+", "+!+", "+!", "+"}, {"#*?!", "!!!!", "!", "!!!!"}, {"-#*+!", "-!!+!", "-", "-!!+"},
		{strings.Repeat("-", 49) + "+", strings.Repeat("-", 49) + "+", "-", strings.Repeat("-", 49) + "+"},
	} {
		var list []string
		for _, kind := range c.items {
			list = append(list, items[kind])
		}
		for semantic, want := range map[string]string{"execute_all": c.all, "deny_on_first_deny": c.deny, "permit_on_first_permit": c.permit, "": c.all} {
			options := `"options":{"evaluations_semantic":"` + semantic + `"}`
			if semantic == "" {
				options = `"options":{}`
			}
			r := w.ask("caller@acme", store, "evaluations", body(alice, action("read"), `"resource":{"type":"record","id":"a"}`, options, `"evaluations":[`+strings.Join(list, ",")+`]`))
			a := w.read(r)
			if a.decisions() != want {
				t.Errorf("%s of %s: %s, want %s: %s", semantic, c.items, a.decisions(), want, r.Body)
			}
			for _, e := range a.Evaluations {
				reason, status := map[string]string{"+": "relation", "-": "no_relation", "!": "invalid"}[e.decisions()], 0
				if e.Context.Error != nil {
					status = e.Context.Error.Status
				}
				if e.Context.Reason != reason || e.Context.Revision != r.Header.Get(authzen.RevisionHeader) || (status != 0) != (status == 400 && e.Context.Error.Message != "") {
					t.Errorf("%s: %+v", c.items, e)
				}
			}
		}
	}
	r := w.ask("caller@acme", store, "evaluations", body(alice, action("read"), `"resource":{"type":"record","id":"a"}`, `"options":{"evaluations_semantic":"deny_on_first_deny"}`,
		`"evaluations":[{"context":{"x":1}},`+body(bob)+`,`+body(bob)+`]`))
	ev := w.One(r.Header.Get(web.RequestIDHeader))
	if ev.Detail["batch"] != "+~record:a#read@user:alice -record:a#read@user:bob" || ev.Detail["allowed"] != "1" || ev.Detail["denied"] != "1" || ev.Detail["failed"] != "0" ||
		ev.Class != ledger.Check || ev.Action != "decision.batch" || ev.Reason != "batch" || ev.Decision != "" || ev.Revision.Store != store {
		t.Errorf("recorded as %+v", ev)
	}
	r = w.ask("caller@acme", store, "evaluations", body(alice, action("read"), `"evaluations":[{"resource":{"type":"record","id":"a b"}},{"resource":{"type":"record","id":"c"}},{"resource":{"type":"planet","id":"d"}}]`))
	if ev = w.One(r.Header.Get(web.RequestIDHeader)); ev.Detail["batch"] != "! -record:c#read@user:alice !planet:d#read@user:alice" || ev.Detail["failed"] != "2" {
		t.Errorf("recorded as %+v", ev)
	}
}

// Fifty evaluations with the longest names do not burst their event.
func TestLongBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(fixture)
	var list []string
	for range authzen.MaxEvaluations {
		list = append(list, `{"resource":{"type":"record","id":"`+strings.Repeat("i", relation.MaxObject-7)+`"}}`)
	}
	r := w.ask("caller@acme", store, "evaluations", body(`"subject":{"type":"user","id":"`+strings.Repeat("u", relation.MaxObject-5)+`"}`, action("read"), `"evaluations":[`+strings.Join(list, ",")+`]`))
	if got := w.read(r).decisions(); got != strings.Repeat("-", 50) {
		t.Error(got)
	}
	if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Detail["denied"] != "50" || ev.Detail["unnamed"] == "" {
		t.Errorf("recorded as %+v", ev)
	}
}

// What an evaluation answers and records, with the revision that it names, and
// what a later request may ask of that revision.
func TestEvaluation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	graph, err := w.Directory.DefaultGraph(w.Acme.Tenant, "docs")
	w.Must(err)
	question := body(alice, action("viewer"), `"resource":{"type":"document","id":"roadmap"}`)
	want := func(r guardtest.Reply, decision string) {
		t.Helper()
		reason, word := "no_relation", "deny"
		if decision == "true" {
			reason, word = "relation", "allow"
		}
		token := r.Header.Get(authzen.RevisionHeader)
		if r.Status != 200 || strings.TrimSpace(r.Body) != `{"decision":`+decision+`,"context":{"reason":"`+reason+`","revision":"`+token+`"}}` {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		rev, err := w.Authz.ParseToken(t.Context(), graph, token)
		w.Must(err)
		ev := w.One(r.Header.Get(web.RequestIDHeader))
		if ev.Class != ledger.Check || ev.Action != "decision.check" || ev.Route != "authzen.evaluation" || ev.Decision != word || ev.Reason != reason || ev.Resource != "document:roadmap" || ev.Relation != "viewer" ||
			ev.Detail["asked"] != "user:alice" || ev.Detail["store"] != string(graph) || ev.Revision != rev || ev.Model == "" || ev.Subject != w.Subject("caller@acme") {
			t.Errorf("recorded as %+v", ev)
		}
	}
	before := w.ask("caller@acme", "", "evaluation", question)
	want(before, "false")
	rev := w.Write(tuples("folder:plans#viewer@user:alice", "document:roadmap#parent@folder:plans")...)
	after := w.ask("caller@acme", graph, "evaluation", question, authzen.AtLeastHeader, w.Authz.Token(rev))
	want(after, "true")
	if after.Header.Get(authzen.RevisionHeader) != w.Authz.Token(rev) {
		t.Error("the revision is not the write's")
	}
	want(w.ask("caller@acme", "", "evaluation", question, authzen.AtLeastHeader, before.Header.Get(authzen.RevisionHeader)), "true")
	ahead, other, restored := rev, rev, rev
	ahead.Rev, other.Store, restored.Epoch = ahead.Rev+1, w.Globex.System, 7
	for token, status := range map[string]int{w.Authz.Token(ahead): 503, w.Authz.Token(other): 400, w.Authz.Token(restored): 400, "x": 400} {
		for _, call := range []string{"evaluation", "evaluations", "search/subject", "search/resource", "search/action"} {
			refused(t, call, w.ask("caller@acme", "", call, question, authzen.AtLeastHeader, token), status)
		}
	}

	// A question without an answer.
	for name, text := range map[string]string{
		"no such type":    body(alice, action("viewer"), `"resource":{"type":"planet","id":"x"}`),
		"no such action":  body(alice, action("boss"), `"resource":{"type":"document","id":"x"}`),
		"no such subject": body(`"subject":{"type":"alien","id":"x"}`, action("viewer"), `"resource":{"type":"document","id":"x"}`),
	} {
		r := w.ask("caller@acme", "", "evaluation", text)
		refused(t, name, r, 400)
		if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Check || ev.Decision != "deny" || ev.Reason != "invalid" {
			t.Errorf("%s is recorded as %+v", name, ev)
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(tuples("folder:plans#viewer@user:alice", "document:roadmap#parent@folder:plans")...)
	document := `"resource":{"type":"document","id":"roadmap"}`
	r := w.ask("caller@acme", "", "evaluation", body(alice, action("viewer"), document), authzen.ExplainHeader, "true")
	var trace authz.Trace
	w.Must(json.Unmarshal(w.read(r).Context.Trace, &trace))
	if !trace.Allowed || trace.Subject != "user:alice" || len(trace.Path) != 2 || trace.Path[1].Tuple.Object != "folder:plans" {
		t.Errorf("%s", r.Body)
	}
	if ev := w.One(r.Header.Get(web.RequestIDHeader)); !strings.Contains(ev.Detail["trace"], "folder:plans") {
		t.Errorf("recorded as %+v", ev)
	}
	a := w.read(w.ask("caller@acme", "", "evaluations", body(action("viewer"), document, `"evaluations":[`+body(alice)+`,`+body(bob)+`]`), authzen.ExplainHeader, "true"))
	for i, e := range a.Evaluations {
		var trace authz.Trace
		w.Must(json.Unmarshal(e.Context.Trace, &trace))
		if trace.Allowed != (i == 0) || (trace.Tried != nil) != (i == 1) {
			t.Errorf("%d: %s", i, e.Context.Trace)
		}
	}
	if r := w.ask("caller@acme", "", "evaluation", body(alice, action("viewer"), document), authzen.ExplainHeader, "false"); strings.Contains(r.Body, "trace") {
		t.Errorf("%s", r.Body)
	}
}

// Attributes come to the conditions under the names that the package promises,
// and whole: an evaluation's own context replaces the default.
func TestAttributes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(`model
  schema 1.1
type user
type record
  relations
    define r: [user with all]
condition all(subject_a: int, resource_a: string, action_a: bool, a: list<string>) {
  subject_a == 1 && resource_a == "x" && action_a && a == ["y"]
}
`, tuples("record:1#r@user:alice all")...)
	who := func(a string) string {
		return `"subject":{"type":"user","id":"alice","properties":{"a":` + a + `,"n":null}}`
	}
	what, how := `"resource":{"type":"record","id":"1","properties":{"a":"x"}}`, `"action":{"name":"r","properties":{"a":true}}`
	ctx := `"context":{"a":["y"]}`
	for text, want := range map[string]string{
		body(who("1"), what, how, ctx): "+", body(who("2"), what, how, ctx): "-",
		body(who("1"), what, how, ctx, `"evaluations":[{},{"context":{"a":[]}},{"context":{}},`+body(who("2"))+`,{"action":{"name":"r"}},{"context":{"a":["y"],"subject_a":1}},{"context":{"a":["y"],"action_b":1}}]`): "+-!-!!+",
	} {
		if got := w.read(w.ask("caller@acme", store, "evaluations", text)).decisions(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	refused(t, "a missing attribute", w.ask("caller@acme", store, "evaluation", body(who("1"), what, how)), 400)
	refused(t, "an attribute of the wrong type", w.ask("caller@acme", store, "evaluation", body(who(`"x"`), what, how, ctx)), 400)
	r := w.ask("caller@acme", store, "evaluation", body(who("1"), what, how, `"context":{"a":["y"],"mail":"the-private-value"}`))
	if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Detail["context"] != "given" || strings.Contains(fmt.Sprint(ev), "the-private-value") {
		t.Errorf("recorded as %+v", ev)
	}
	if got := w.read(w.ask("caller@acme", store, "search/subject", body(`"subject":{"type":"user","properties":{"a":1}}`, what, how, ctx))).names(); got != "user:alice" {
		t.Errorf("found %s", got)
	}
	if got := w.read(w.ask("caller@acme", store, "search/resource", body(who("1"), `"resource":{"type":"record","properties":{"a":"x"}}`, how, ctx))).names(); got != "record:1" {
		t.Errorf("found %s", got)
	}
}

// Every answer is the engine's, over random graphs and questions; what a search
// finds is exactly what an evaluation allows.
func TestAnswersAreTheEngines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := rand.New(rand.NewPCG(3, 9))
	model := `model
  schema 1.1
type user
type team
  relations
    define member: [user, team#member]
type record
  relations
    define parent: [record]
    define owner: [user, team#member, user with open]
    define banned: [user, user:*]
    define reader: [user:*, user] or owner or reader from parent
    define safe: reader but not banned
condition open(x: int, subject_level: int) {
  x < 3 && subject_level > 1
}
`
	subjects := []string{"user:0", "user:1", "user:2", "user:3", "team:0#member", "team:1#member", "user:*"}
	var all []relation.Tuple
	seen := map[relation.Tuple]bool{}
	for range 120 {
		record := fmt.Sprintf("record:%d", r.IntN(8))
		t := relation.Tuple{Object: record, Relation: "owner", Subject: subjects[r.IntN(6)]}
		switch r.IntN(7) {
		case 0:
			t.Relation, t.Subject = "parent", fmt.Sprintf("record:%d", r.IntN(8))
		case 1:
			t.Object, t.Relation, t.Subject = fmt.Sprintf("team:%d", r.IntN(2)), "member", subjects[r.IntN(6)]
		case 2:
			t.Relation, t.Subject = "banned", []string{"user:0", "user:1", "user:*"}[r.IntN(3)]
		case 3:
			t.Relation, t.Subject = "reader", []string{"user:2", "user:*"}[r.IntN(2)]
		case 4:
			t.Subject, t.Condition = subjects[r.IntN(4)], "open"
		}
		if !seen[t.Key()] && r.IntN(2) == 0 {
			seen[t.Key()] = true
			all = append(all, t)
		}
	}
	store := w.free(model, all...)
	subjects = append(subjects, "user:nobody", "alien:1", "team:0", "team:0#nonsense")
	actions := []string{"owner", "reader", "safe", "banned", "parent", "member", "nonsense"}
	wrong, counts := 0, map[string]int{}
	for range 12 {
		var items []string
		var queries []authz.Query
		for range authzen.MaxEvaluations {
			q := authz.Query{Store: store, Object: fmt.Sprintf("record:%d", r.IntN(9)), Relation: actions[r.IntN(len(actions))], Subject: subjects[r.IntN(len(subjects))]}
			typ, id, _ := strings.Cut(q.Subject, ":")
			item := fmt.Sprintf(`"resource":{"type":"record","id":"%s"},"action":{"name":"%s"},"subject":{"type":"%s","id":"%s"`, q.Object[len("record:"):], q.Relation, typ, id)
			if r.IntN(3) > 0 {
				x, level := r.IntN(5), r.IntN(4)
				q.Context = map[string]any{"x": float64(x), "subject_level": float64(level)}
				item += fmt.Sprintf(`,"properties":{"level":%d}},"context":{"x":%d}`, level, x)
			} else {
				item += "}"
			}
			items, queries = append(items, "{"+item+"}"), append(queries, q)
		}
		for i, e := range w.read(w.ask("caller@acme", store, "evaluations", `{"evaluations":[`+strings.Join(items, ",")+`]}`)).Evaluations {
			d, err := w.Authz.Check(t.Context(), queries[i])
			want := map[bool]string{true: "+", false: "-"}[d.Allowed]
			if err != nil {
				want = "!"
			}
			counts[want]++
			single := w.ask("caller@acme", store, "evaluation", items[i])
			alone := "!"
			if single.Status == 200 {
				alone = w.read(single).decisions()
			}
			if e.decisions() != want || alone != want || err != nil && errors.Is(err, authz.ErrCondition) && single.Status != 400 {
				wrong++
				t.Errorf("%s: %s among others, %s alone (%d), want %s (%v)", items[i], e.decisions(), alone, single.Status, want, err)
			}
			if wrong > 5 {
				t.FailNow()
			}
		}
	}
	if counts["+"] < 50 || counts["-"] < 50 || counts["!"] < 50 {
		t.Errorf("the questions say little: %v", counts)
	}
	w.searchesAgree(store, actions[:5], subjects[:7])
}

// searchesAgree compares the three searches with the engine's Check.
func (w *world) searchesAgree(store relation.StoreID, actions, subjects []string) {
	t := w.T
	given := map[string]any{"x": 1.0, "subject_level": 2.0}
	allowed := func(object, rel, subject string) bool {
		d, err := w.Authz.Check(t.Context(), authz.Query{Store: store, Object: object, Relation: rel, Subject: subject, Asked: authz.Asked{Context: given}})
		w.Must(err)
		return d.Allowed
	}
	spell := func(subject string) string {
		typ, id, _ := strings.Cut(subject, ":")
		return `"subject":{"type":"` + typ + `","id":"` + id + `"}`
	}
	ctx, found := `"context":{"x":1,"subject_level":2}`, 0
	for _, subject := range subjects {
		for _, rel := range actions {
			var want []string
			for i := range 9 {
				if object := fmt.Sprintf("record:%d", i); allowed(object, rel, subject) {
					want = append(want, object)
				}
			}
			if got := w.read(w.ask("caller@acme", store, "search/resource", body(spell(subject), action(rel), `"resource":{"type":"record"}`, ctx))); got.names() != strings.Join(want, " ") {
				t.Errorf("%s of %s: %s, want %v", rel, subject, got.names(), want)
			}
			found += len(want)
		}
		for i := range 9 {
			var want []string
			for _, rel := range []string{"banned", "owner", "parent", "reader", "safe"} {
				if allowed(fmt.Sprintf("record:%d", i), rel, subject) {
					want = append(want, rel)
				}
			}
			if got := w.read(w.ask("caller@acme", store, "search/action", body(spell(subject), fmt.Sprintf(`"resource":{"type":"record","id":"%d"}`, i), ctx))); got.names() != strings.Join(want, " ") {
				t.Errorf("record:%d of %s: %s, want %v", i, subject, got.names(), want)
			}
		}
	}
	for i := range 9 {
		for _, rel := range actions {
			object := fmt.Sprintf("record:%d", i)
			got := w.read(w.ask("caller@acme", store, "search/subject", body(`"subject":{"type":"user"}`, action(rel), fmt.Sprintf(`"resource":{"type":"record","id":"%d"}`, i), ctx)))
			everyone := strings.Contains(got.names()+" ", "user:* ")
			if everyone != allowed(object, rel, "user:*") {
				t.Errorf("%s of %s: everyone %v", rel, object, everyone)
			}
			for _, subject := range subjects[:4] {
				if listed := strings.Contains(got.names()+" ", subject+" "); listed != allowed(object, rel, subject) && (listed || !everyone) {
					t.Errorf("%s of %s: %s listed %v", rel, object, subject, listed)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("the searches say little: %d", found)
	}
}
