package authzen_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"bulwark.example/internal/api/authzen"
	"bulwark.example/internal/guardtest"
)

// The fixture of the working group's certification scenario: eight decisions and
// six searches.
const fixture = `model
  schema 1.1
type user
type record
  relations
    define read: [user]
    define write: [user, user with writable]
    define delete: [user with gentle]
condition writable(resource_status: string) {
  resource_status != "archived"
}
condition gentle(action_soft: bool) {
  action_soft
}
`

const (
	alice = `"subject":{"type":"user","id":"alice"}`
	bob   = `"subject":{"type":"user","id":"bob"}`
	admin = `"subject":{"type":"user","id":"bob","properties":{"role":"admin"}}`
	one   = `"resource":{"type":"record","id":"record-1"}`
	two   = `"resource":{"type":"record","id":"record-2","properties":{"status":"archived"}}`
	times = `"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}`
)

func action(name string) string { return `"action":{"name":"` + name + `"}` }

func body(members ...string) string { return "{" + strings.Join(members, ",") + "}" }

func TestCertification(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(fixture, tuples(
		"record:record-1#read@user:alice", "record:record-1#read@user:bob", "record:record-1#write@user:alice", "record:record-1#delete@user:alice gentle",
		"record:record-2#write@user:alice writable", "record:record-2#write@user:bob",
	)...)
	read, write := action("read"), action("write")
	remove := func(soft string) string { return `"action":{"name":"delete","properties":{"soft":` + soft + `}}` }
	users, records := `"subject":{"type":"user"}`, `"resource":{"type":"record"}`
	spaceship := `"subject":{"type":"spaceship"}`
	for _, c := range []struct{ call, body, want string }{
		{"evaluation", body(alice, read, one), "+"},
		{"evaluation", body(alice, write, one), "+"},
		{"evaluation", body(bob, read, one), "+"},
		{"evaluation", body(bob, write, one), "-"},
		{"evaluation", body(alice, read, one, times), "+"},
		{"evaluation", body(alice, write, two), "-"},
		{"evaluation", body(admin, write, two), "+"},
		{"evaluation", body(alice, remove("true"), one), "+"},
		{"evaluation", body(alice, remove("false"), one), "-"},
		{"evaluation", `{"subject":{"type":"user","id":"alice","properties":{"department":"Sales","role":"manager"}},"action":{"name":"read","properties":{"method":"GET"}},"resource":{"type":"record","id":"record-1","properties":{"status":"active","owner":"bob"}}}`, "+"},
		{"evaluation", body(alice, read, one, `"foo":"bar"`, `"futureField":{"nested":true}`), "+"},

		{"evaluations", body(alice, read, `"evaluations":[`+body(one)+`,{"resource":{"type":"record","id":"record-2"}}]`), "+-"},
		{"evaluations", body(bob, one, `"evaluations":[`+body(read)+`,`+body(write)+`]`), "+-"},
		{"evaluations", body(alice, write, `"evaluations":[{"resource":{"type":"record","id":"record-1","properties":{"status":"active"}}},`+body(two)+`]`), "+-"},
		{"evaluations", body(write, two, `"evaluations":[`+body(alice)+`,`+body(admin)+`]`), "-+"},
		{"evaluations", body(`"evaluations":[` + body(alice, read, one) + `,` + body(bob, write, one) + `]`), "+-"},
		{"evaluations", body(alice, read, `"context":{"time":"2025-06-27T18:03-07:00"}`, `"evaluations":[`+body(one)+`,{"resource":{"type":"record","id":"record-2"},"context":{"time":"2025-06-27T19:00-07:00","source":"batch-override"}}]`), "+-"},
		{"evaluations", body(alice, write, `"resource":{"type":"record","id":"record-1","properties":{"status":"active"}}`, `"evaluations":[{},`+body(two)+`]`), "+-"},
		{"evaluations", body(alice, read, `"options":{"evaluations_semantic":"execute_all"}`, `"evaluations":[`+body(one)+`,{}]`), "+!"},
		{"evaluations", body(alice, read, one), "+"},
		{"evaluations", body(alice, read, one, `"evaluations":[]`), "+"},

		{"search/subject", body(users, read, one), "user:alice user:bob"},
		{"search/subject", body(users, read, one, times), "user:alice user:bob"},
		{"search/subject", body(alice, read, one), "user:alice user:bob"},
		{"search/subject", body(users, write, two), "user:bob"},
		{"search/resource", body(alice, read, records), "record:record-1"},
		{"search/resource", body(alice, read, records, times), "record:record-1"},
		{"search/resource", body(alice, read, one), "record:record-1"},
		{"search/resource", body(admin, write, records), "record:record-2"},
		{"search/action", body(alice, one), "read write"},
		{"search/action", body(alice, one, times), "read write"},
		{"search/action", body(admin, two), "write"},
		{"search/action", body(`"subject":{"type":"user","id":"nonexistent-user"}`, one), ""},
		{"search/subject", body(users, read, `"resource":{"type":"record","id":"nonexistent"}`), ""},
		{"search/resource", body(`"subject":{"type":"user","id":"nonexistent-user"}`, read, records), ""},
		{"search/subject", body(spaceship, read, one), ""},
		{"search/subject", body(users, read, `"resource":{"type":"spaceship","id":"1"}`), ""},
		{"search/resource", body(alice, read, `"resource":{"type":"spaceship"}`), ""},
		{"search/resource", body(`"subject":{"type":"spaceship","id":"1"}`, read, records), ""},
		{"search/action", body(alice, `"resource":{"type":"spaceship","id":"1"}`), ""},
		{"search/action", body(`"subject":{"type":"spaceship","id":"1"}`, one), ""},
		{"search/subject", body(users, action("fly"), one), ""},
	} {
		r := w.ask("caller@acme", store, c.call, c.body, "X-Request-Id", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")
		a := w.read(r)
		got := a.decisions()
		if strings.HasPrefix(c.call, "search") {
			got = a.names()
			if a.Results == nil || a.Page == nil || a.Page.Next == nil || *a.Page.Next != "" || a.Page.Count != len(a.Results) || !strings.HasPrefix(r.Body, `{"page":`) {
				t.Errorf("%s %s: %s", c.call, c.body, r.Body)
			}
			if empty := strings.Contains(c.body, "spaceship") || strings.Contains(c.body, "fly"); empty != strings.HasPrefix(a.Context.Reason, "unknown_") {
				t.Errorf("%s %s: the reason is %q", c.call, c.body, a.Context.Reason)
			}
		}
		if got != c.want || r.Header.Get("X-Request-ID") != "bfe9eb29-ab87-4ca3-be83-a1d5d8305716" || r.Header.Get(authzen.RevisionHeader) == "" {
			t.Errorf("%s %s: %s, want %q", c.call, c.body, r.Body, c.want)
		}
	}
	unanswered := w.read(w.ask("caller@acme", store, "search/action", body(alice, one)))
	if fmt.Sprint(unanswered.Context.Unanswered) != "[delete]" {
		t.Errorf("an action that depends on a missing attribute: %+v", unanswered)
	}
	refused(t, "a list that depends on a missing attribute", w.ask("caller@acme", store, "search/subject", body(users, write, `"resource":{"type":"record","id":"record-2"}`)), 400)
}

// The requests of the specification's own examples, as they stand there.
func TestSpecificationExamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(`model
  schema 1.1
type user
type account
  relations
    define can_read: [user]
    define can_write: [user]
type document
  relations
    define can_read: [user]
    define can_edit: [user]
    define read: [user]
type todo
  relations
    define can_read: [user]
type book
  relations
    define extend-loan: [user]
`, tuples(
		"account:123#can_read@user:alice@example.com", "account:456#can_read@user:alice@example.com", "account:123#can_read@user:bob@example.com",
		"account:123#can_write@user:alice@example.com", "todo:1#can_read@user:alice@example.com", "book:123#extend-loan@user:alice@example.com",
		"document:boxcarring.md#can_read@user:alice@example.com", "document:resource-search.md#can_edit@user:alice@example.com",
		"document:1#read@user:alice@example.com", "document:3#read@user:alice@example.com",
	)...)
	semantics := func(name string) string {
		return `{"subject":{"type":"user","id":"alice@example.com"},"action":{"name":"read"},"options":{"evaluations_semantic":"` + name + `","another_option":"value"},
			"evaluations":[{"resource":{"type":"document","id":"1"}},{"resource":{"type":"document","id":"2"}},{"resource":{"type":"document","id":"3"}}]}`
	}
	for _, c := range []struct{ call, body, want string }{
		{"evaluation", `{"subject":{"type":"user","id":"alice@example.com"},"resource":{"type":"account","id":"123"},"action":{"name":"can_read","properties":{"method":"GET"}},"context":{"time":"1985-10-26T01:22-07:00"}}`, "+"},
		{"evaluation", `{"subject":{"type":"user","id":"alice@example.com"},"resource":{"type":"todo","id":"1"},"action":{"name":"can_read"},"context":{"time":"1985-10-26T01:22-07:00"}}`, "+"},
		{"evaluation", `{"subject":{"type":"user","id":"alice@example.com","properties":{"ip_address":"172.217.22.14","device_id":"8:65:ee:17:7e:0b"}},"resource":{"type":"book","id":"123","properties":{"library_record":{"title":"AuthZEN in Action","isbn":"978-0593383322"}}},"action":{"name":"extend-loan","properties":{"period":"2W"}},"context":{"time":"1985-10-26T01:22-07:00","schema":"https://schema.example.com/access-request.schema.json"}}`, "+"},
		{"evaluations", `{"subject":{"type":"user","id":"alice@example.com"},"context":{"time":"2024-05-31T15:22-07:00"},"action":{"name":"can_read"},"evaluations":[{"resource":{"type":"document","id":"boxcarring.md"}},{"resource":{"type":"document","id":"subject-search.md"}},{"action":{"name":"can_edit"},"resource":{"type":"document","id":"resource-search.md"}}]}`, "+-+"},
		{"evaluations", semantics("execute_all"), "+-+"},
		{"evaluations", semantics("deny_on_first_deny"), "+-"},
		{"evaluations", semantics("permit_on_first_permit"), "+"},
		{"search/subject", `{"subject":{"type":"user"},"action":{"name":"can_read"},"resource":{"type":"account","id":"123"},"context":{"time":"2024-10-26T01:22-07:00"}}`, "user:alice@example.com user:bob@example.com"},
		{"search/resource", `{"subject":{"type":"user","id":"alice@example.com"},"action":{"name":"can_read"},"resource":{"type":"account"}}`, "account:123 account:456"},
		{"search/action", `{"subject":{"type":"user","id":"alice@example.com"},"resource":{"type":"account","id":"123"},"context":{"time":"2024-10-26T01:22-07:00"}}`, "can_read can_write"},
	} {
		a := w.read(w.ask("caller@acme", store, c.call, c.body))
		if got := a.decisions(); got != c.want && a.names() != c.want {
			t.Errorf("%s %s: %+v", c.call, c.body, a)
		}
	}
}

// Whatever does not have the contract's form is 400 with a text, at every
// endpoint, and nothing is asked.
func TestMalformed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(fixture, tuples("record:record-1#read@user:alice")...)
	read := action("read")
	good := body(alice, read, one)
	long := strings.Repeat("x", 300)
	everywhere := map[string]string{
		"empty": "", "no JSON": "x", "an array": "[" + good + "]", "a string": `"x"`, "null": "null", "cut": good[:len(good)-1], "two": good + good, "behind": good + "x",
		"no members": "{}", "no UTF-8": body(alice, read, one, "\"x\":\"\xff\""), "a lone surrogate": body(alice, read, one, `"x":"\ud800"`),
		"repeated": body(alice, alice, read, one), "repeated inside": body(`"subject":{"type":"user","id":"alice","id":"bob"}`, read, one),
		"repeated and unknown": body(alice, read, one, `"x":1,"x":2`), "a number out of range": body(alice, read, one, `"context":{"x":1e999}`),
		"deep": body(alice, read, one, `"context":{"x":`+strings.Repeat("[", 50)+strings.Repeat("]", 50)+`}`), "too large": body(alice, read, one, `"x":"`+strings.Repeat("x", authzen.MaxBody)+`"`),
		"subject a string": body(`"subject":"alice"`, read, one), "subject null": body(`"subject":null`, read, one), "subject an array": body(`"subject":[]`, read, one),
		"no subject": body(read, one), "a subject without type": body(`"subject":{"id":"alice"}`, read, one), "a type that is a number": body(`"subject":{"type":1,"id":"alice"}`, read, one),
		"an empty type": body(`"subject":{"type":"","id":"alice"}`, read, one), "a type with a colon": body(`"subject":{"type":"user:a","id":"b"}`, read, one),
		"a type with a space": body(`"subject":{"type":"us er","id":"b"}`, read, one), "a long type": body(`"subject":{"type":"`+long+`","id":"b"}`, read, one),
		"properties a list": body(`"subject":{"type":"user","id":"alice","properties":[]}`, read, one), "properties null": body(`"subject":{"type":"user","id":"alice","properties":null}`, read, one),
		"other case":        body(`"Subject":{"type":"user","id":"alice"}`, read, one),
		"resource a number": body(alice, read, `"resource":3`), "no resource": body(alice, read), "a resource without type": body(alice, read, `"resource":{"id":"x"}`),
		"a resource with a colon": body(alice, read, `"resource":{"type":"a:b","id":"x"}`),
		"context a string":        body(alice, read, one, `"context":"x"`), "context null": body(alice, read, one, `"context":null`),
		"too many attributes": body(alice, read, one, `"context":{`+many(authzen.MaxAttributes+1)+`}`),
		"a name taken twice":  body(`"subject":{"type":"user","id":"alice","properties":{"a":1}}`, read, one, `"context":{"subject_a":1}`),
	}
	subjects := map[string]string{ // where the subject is not what is searched for
		"a subject without id": body(`"subject":{"type":"user"}`, read, one), "an id that is a number": body(`"subject":{"type":"user","id":1}`, read, one), "an empty id": body(`"subject":{"type":"user","id":""}`, read, one),
		"an id with a space": body(`"subject":{"type":"user","id":"a b"}`, read, one), "a long id": body(`"subject":{"type":"user","id":"`+long+long+`"}`, read, one),
		"a userset of nothing": body(`"subject":{"type":"user","id":"a#"}`, read, one),
	}
	resources := map[string]string{
		"a resource without id": body(alice, read, `"resource":{"type":"record"}`), "everything": body(alice, read, `"resource":{"type":"record","id":"*"}`),
		"a resource with a hash": body(alice, read, `"resource":{"type":"record","id":"a#b"}`), "a resource id that is a list": body(alice, read, `"resource":{"type":"record","id":[]}`),
	}
	actions := map[string]string{
		"no action": body(alice, one), "action a string": body(alice, one, `"action":"read"`), "action null": body(alice, one, `"action":null`), "no name": body(alice, one, `"action":{}`),
		"a name that is a number": body(alice, one, action("read")[:len(`"action":{"name":`)]+`123}`), "an empty name": body(alice, one, action("")), "a name with a hash": body(alice, one, action("a#b")),
		"a long name": body(alice, one, action(long)), "action properties a string": body(alice, one, `"action":{"name":"read","properties":"x"}`),
	}
	pages := map[string]string{}
	for name, page := range map[string]string{
		"a page of a string": `"x"`, "a page of null": "null", "a negative limit": `{"limit":-1}`, "a broken limit": `{"limit":1.5}`, "a limit in quotes": `{"limit":"1"}`, "a null limit": `{"limit":null}`,
		"a token that is a number": `{"token":1}`, "a token of nobody": `{"token":"a3M9NDU2O3N6PTI="}`, "a long token": `{"token":"` + strings.Repeat("A", 5000) + `"}`, "page properties": `{"properties":[]}`,
	} {
		pages[name] = body(alice, read, one, `"page":`+page)
	}
	boxcars := map[string]string{}
	for name, text := range map[string]string{
		"evaluations an object": `"evaluations":{}`, "evaluations null": `"evaluations":null`, "an evaluation that is a string": `"evaluations":["x"]`, "an evaluation that is null": `"evaluations":[null]`,
		"an evaluation of the wrong type": `"evaluations":[{"subject":"alice"}]`, "options a string": `"options":"x"`, "no semantics": `"options":{"evaluations_semantic":"first_wins"}`,
		"semantics of null": `"evaluations":[{}],"options":{"evaluations_semantic":null}`, "too many": `"evaluations":[` + strings.Repeat("{},", authzen.MaxEvaluations) + `{}]`,
	} {
		boxcars[name] = body(alice, read, one, text)
	}
	boxcars["a default of the wrong form"] = body(`"subject":{"type":"user"}`, read, one, `"evaluations":[`+body(alice)+`]`)
	for call, sets := range map[string][]map[string]string{
		"evaluation":      {everywhere, subjects, resources, actions},
		"evaluations":     {everywhere, subjects, resources, actions, boxcars},
		"search/subject":  {everywhere, resources, actions, pages},
		"search/resource": {everywhere, subjects, actions, pages},
		"search/action":   {everywhere, subjects, resources, pages},
	} {
		for _, set := range sets {
			for name, text := range set {
				refused(t, call+", "+name+": "+text[:min(len(text), 200)], w.ask("caller@acme", store, call, text, "Content-Type", "application/json"), 400)
			}
		}
		for name, h := range map[string]http.Header{
			"a form": {"Content-Type": {"application/x-www-form-urlencoded"}}, "no type": {"Content-Type": {""}}, "packed": {"Content-Encoding": {"gzip"}},
			"explain maybe": {authzen.ExplainHeader: {"maybe"}}, "explain twice": {authzen.ExplainHeader: {"true", "true"}}, "no revision": {authzen.AtLeastHeader: {"x"}},
		} {
			h["Authorization"] = bearer(w.Token("caller@acme", "authz"))["Authorization"]
			refused(t, call+", "+name, w.door.Send("POST", path(store, call), good, h), 400)
		}
		refused(t, call+" with a parameter", w.door.Send("POST", path(store, call)+"?x=1", good, bearer(w.Token("caller@acme", "authz"))), 400)
		refused(t, call+" got", w.door.Send("GET", path(store, call), "", bearer(w.Token("caller@acme", "authz"))), 405)
		if a := w.read(w.ask("caller@acme", store, call, good)); a.decisions() != "+" && a.names() == "" {
			t.Errorf("%s: the good one is %+v", call, a)
		}
	}
	for _, nowhere := range []string{"/access/v1/evaluate", "/access/v2/evaluation", "/access/v1/evaluation/", "/access", "/stores/" + string(store) + "/access/v1"} {
		refused(t, nowhere, w.door.Send("POST", nowhere, good, bearer(w.Token("caller@acme", "authz"))), 404)
	}
}

// many is n members.
func many(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"m%d":1`, i)
	}
	return strings.Join(all, ",")
}

// The metadata's endpoints are the ones that answer, at each decision point.
func TestMetadata(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(fixture, tuples("record:record-1#read@user:alice")...)
	w.Write(tuples("document:1#viewer@user:alice")...)
	for id, c := range map[string]struct{ where, question string }{
		"":                         {"", body(alice, action("viewer"), `"resource":{"type":"document","id":"1"}`)},
		"/stores/" + string(store): {"/stores/" + string(store), body(alice, action("read"), one)},
	} {
		r := w.door.Send("GET", "/.well-known/authzen-configuration"+c.where, "", http.Header{"X-Request-Id": {"an id"}, "Host": {"evil.test"}})
		want := strings.ReplaceAll(`{"policy_decision_point":"@","access_evaluation_endpoint":"@/access/v1/evaluation","access_evaluations_endpoint":"@/access/v1/evaluations","search_subject_endpoint":"@/access/v1/search/subject","search_action_endpoint":"@/access/v1/search/action","search_resource_endpoint":"@/access/v1/search/resource"}`, "@", origin+id)
		if r.Status != 200 || strings.TrimSpace(r.Body) != want || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Request-ID") != "an id" || r.Header.Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%s: %d %v %s", id, r.Status, r.Header, r.Body)
		}
		for _, part := range strings.Split(r.Body, `"`) {
			if call, ok := strings.CutPrefix(part, origin+id+"/access/v1/"); ok {
				w.read(w.door.Send("POST", strings.TrimPrefix(part, origin), c.question, bearer(w.Token("caller@acme", "authz"))))
				if call == "evaluation" {
					refused(t, "without a token", w.door.Send("POST", strings.TrimPrefix(part, origin), c.question, nil), 401)
				}
			}
		}
	}
	for where, status := range map[string]int{"/x": 404, "/stores": 404, "/stores/x": 404, "?x=1": 400, "/stores/" + string(store) + "/x": 404} {
		refused(t, where, w.door.Send("GET", "/.well-known/authzen-configuration"+where, "", nil), status)
	}
	refused(t, "posted", w.door.Send("POST", "/.well-known/authzen-configuration", "{}", nil), 405)
}

// A request identifier comes back as it was sent, also with a refusal.
func TestRequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := body(alice, action("viewer"), `"resource":{"type":"document","id":"1"}`)
	for _, sent := range []string{"1", "\u00fcber", "a b;c=d", strings.Repeat("x", 8000)} {
		for _, r := range []guardtest.Reply{
			w.ask("caller@acme", "", "evaluation", good, "X-Request-Id", sent), w.ask("caller@acme", "", "evaluation", "x", "X-Request-Id", sent),
			w.ask("nobody@acme", "", "evaluation", good, "X-Request-Id", sent), w.door.Send("POST", "/access/v1/evaluation", good, http.Header{"X-Request-Id": {sent}}),
			w.door.Send("GET", "/access/v1/nothing", "", http.Header{"X-Request-Id": {sent}}),
		} {
			if got := r.Header["X-Request-Id"]; len(got) != 1 || got[0] != sent {
				t.Errorf("%d: sent %.20q, got %.20q", r.Status, sent, got)
			}
		}
	}
	if r := w.ask("caller@acme", "", "evaluation", good); len(r.Header["X-Request-Id"]) != 0 {
		t.Errorf("an identifier that nobody sent: %v", r.Header)
	}
}
