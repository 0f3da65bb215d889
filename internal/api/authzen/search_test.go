package authzen_test

import (
	"fmt"
	"strings"
	"testing"

	"bulwark.example/internal/api/authzen"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// pages walks a search to its end, as a client does that knows nothing but the
// token: the limit is sent once.
func (w *world) pages(store relation.StoreID, call, question string, limit int) (names []string, count int) {
	w.T.Helper()
	page := ""
	if limit >= 0 {
		page = fmt.Sprintf(`,"page":{"limit":%d}`, limit)
	}
	for {
		a := w.read(w.ask("caller@acme", store, call, strings.TrimSuffix(question, "}")+page+"}"))
		if a.Page.Count != len(a.Results) || limit > 0 && len(a.Results) > limit {
			w.T.Fatalf("a page of %d says %d", len(a.Results), a.Page.Count)
		}
		if a.names() != "" {
			names = append(names, strings.Split(a.names(), " ")...)
		}
		if count++; *a.Page.Next == "" {
			return names, count
		}
		if page = `,"page":{"token":"` + *a.Page.Next + `"}`; count > 100 {
			w.T.Fatal("the pages do not end")
		}
	}
}

// Lists are complete, whole and in pages of any size.
func TestPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all []relation.Tuple
	for i := range 1203 {
		all = append(all, tuples(fmt.Sprintf("record:%04d#read@user:alice", i), fmt.Sprintf("record:0000#write@user:u%04d", i))...)
	}
	store := w.free(fixture, append(all, tuples("record:0000#write@user:alice", "record:0000#delete@user:alice gentle")...)...)
	actions := w.free("model\n  schema 1.1\ntype user\ntype record\n  relations\n    define a: [user]\n    define b: [user] or a\n    define c: [user]\n    define d: a\n    define e: b\n", tuples("record:0000#a@user:alice")...)
	for _, c := range []struct {
		store          relation.StoreID
		call, question string
		n              int
		limits         []int
	}{
		{store, "search/resource", body(alice, action("read"), `"resource":{"type":"record"}`), 1203, []int{-1, 400, 401, 1202, 1203, 1204, 2_000_000}},
		{store, "search/subject", body(`"subject":{"type":"user"}`, action("write"), `"resource":{"type":"record","id":"0000"}`), 1204, []int{-1, 13, 602, 1204}},
		{actions, "search/action", body(alice, `"resource":{"type":"record","id":"0000"}`), 4, []int{-1, 1, 2, 3, 4, 5}},
	} {
		var whole []string
		for _, limit := range c.limits {
			names, count := w.pages(c.store, c.call, c.question, limit)
			if whole == nil {
				whole = names
			}
			wanted := 1
			if limit > 0 {
				wanted = (c.n + limit - 1) / limit
			}
			if len(names) != c.n || strings.Join(names, " ") != strings.Join(whole, " ") || count != wanted {
				t.Errorf("%s in pages of %d: %d results on %d pages", c.call, limit, len(names), count)
			}
		}
	}
	r := w.ask("caller@acme", store, "search/resource", body(alice, action("read"), `"resource":{"type":"record"}`, `"page":{"limit":2}`))
	ev := w.One(r.Header.Get(web.RequestIDHeader))
	if ev.Class != ledger.Check || ev.Action != "decision.list_objects" || ev.Reason != "list" || ev.Decision != "" || ev.Resource != "record:" || ev.Relation != "read" ||
		ev.Detail["asked"] != "user:alice" || ev.Detail["listed"] != "2" || ev.Revision.Store != store || ev.Detail["after"] != "" {
		t.Errorf("recorded as %+v", ev)
	}
	r = w.ask("caller@acme", store, "search/resource", body(alice, action("read"), `"resource":{"type":"record"}`, `"page":{"token":"`+*w.read(r).Page.Next+`"}`))
	if ev = w.One(r.Header.Get(web.RequestIDHeader)); ev.Detail["after"] != "record:0001" || w.read(r).names() != "record:0002 record:0003" {
		t.Errorf("recorded as %+v", ev)
	}
}

// A limit of nothing gives nothing, and tells whether there is something.
func TestPageOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(fixture, tuples("record:a#read@user:alice", "record:b#read@user:alice")...)
	ask := func(who, page string) answer {
		t.Helper()
		return w.read(w.ask("caller@acme", store, "search/resource", body(who, action("read"), `"resource":{"type":"record"}`, `"page":`+page)))
	}
	if a := ask(bob, `{"limit":0}`); a.names() != "" || *a.Page.Next != "" {
		t.Errorf("%+v", a)
	}
	a := ask(alice, `{"limit":0}`)
	if a.names() != "" || a.Page.Count != 0 || *a.Page.Next == "" || a.Results == nil {
		t.Errorf("%+v", a)
	}
	if again := ask(alice, `{"limit":0,"token":"`+*a.Page.Next+`"}`); again.names() != "" || *again.Page.Next == "" {
		t.Errorf("%+v", again)
	}
}

// A token goes on with its own search only, whatever was written meanwhile.
func TestPageToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store, other := w.free(fixture), w.free(fixture)
	for _, s := range []relation.StoreID{store, other} {
		w.put(s, tuples("record:b#read@user:alice", "record:d#read@user:alice", "record:f#read@user:alice", "record:b#read@user:bob", "record:b#write@user:alice", "record:d#write@user:alice")...)
	}
	records := `"resource":{"type":"record"}`
	call := func(store relation.StoreID, call, page string, members ...string) guardtest.Reply {
		t.Helper()
		return w.ask("caller@acme", store, call, body(append(members, `"page":`+page)...))
	}
	first := w.read(call(store, "search/resource", `{"limit":1}`, alice, action("read"), records))
	token := *first.Page.Next
	page := `{"token":"` + token + `"}`
	w.put(store, tuples("record:a#read@user:alice", "record:c#read@user:alice")...)
	second := call(store, "search/resource", page, alice, action("read"), records)
	if w.read(second).names() != "record:c" || first.names() != "record:b" {
		t.Errorf("%s", second.Body)
	}
	for name, r := range map[string]guardtest.Reply{
		"as before":           call(store, "search/resource", page, alice, action("read"), records),
		"with the limit":      call(store, "search/resource", `{"token":"`+token+`","limit":1,"properties":{"x":1}}`, alice, action("read"), records),
		"with unknown things": call(store, "search/resource", page, alice, action("read"), `"resource":{"type":"record","id":"ignored"}`, `"x":1`),
		"by somebody else":    w.ask("auditor@acme", store, "search/resource", body(alice, action("read"), records, `"page":`+page)),
	} {
		if r.Status != 200 || w.read(r).names() != "record:c" {
			t.Errorf("%s: %d %s", name, r.Status, r.Body)
		}
	}
	for name, r := range map[string]guardtest.Reply{
		"another subject":    call(store, "search/resource", page, bob, action("read"), records),
		"another action":     call(store, "search/resource", page, alice, action("write"), records),
		"another type":       call(store, "search/resource", page, alice, action("read"), `"resource":{"type":"user"}`),
		"another context":    call(store, "search/resource", page, alice, action("read"), records, `"context":{"x":1}`),
		"another attribute":  call(store, "search/resource", page, admin, action("read"), records),
		"another limit":      call(store, "search/resource", `{"token":"`+token+`","limit":2}`, alice, action("read"), records),
		"another search":     call(store, "search/subject", page, alice, action("read"), one),
		"a search of action": call(store, "search/action", page, alice, one),
		"another store":      call(other, "search/resource", page, alice, action("read"), records),
		"a changed token":    call(store, "search/resource", `{"token":"B`+token[1:]+`"}`, alice, action("read"), records),
		"a cut token":        call(store, "search/resource", `{"token":"`+token[:60]+`"}`, alice, action("read"), records),
		"a padded token":     call(store, "search/resource", `{"token":"`+token+`="}`, alice, action("read"), records),
	} {
		refused(t, name, r, 400)
	}
	if a := w.read(call(store, "search/resource", `{"token":"","limit":9}`, alice, action("read"), records)); len(a.Results) != 5 {
		t.Errorf("an empty token: %+v", a)
	}
}

// A subject may be a set of others, or everyone.
func TestKindsOfSubjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free("model\n  schema 1.1\ntype user\ntype team\n  relations\n    define member: [user]\ntype record\n  relations\n    define read: [user, user:*, team#member]\n",
		tuples("record:1#read@team:core#member", "record:2#read@user:*", "record:3#read@user:alice", "record:2#read@user:alice")...)
	subject := func(typ, id string) string { return `"subject":{"type":"` + typ + `","id":"` + id + `"}` }
	records := `"resource":{"type":"record"}`
	for who, want := range map[string]string{
		subject("team", "core#member"): "record:1", subject("user", "*"): "record:2", subject("user", "alice"): "record:2 record:3", subject("user", "x"): "record:2", subject("team", "core"): "",
	} {
		if got := w.read(w.ask("caller@acme", store, "search/resource", body(who, action("read"), records))).names(); got != want {
			t.Errorf("%s: %s, want %s", who, got, want)
		}
	}
	found := w.read(w.ask("caller@acme", store, "search/subject", body(`"subject":{"type":"user"}`, action("read"), `"resource":{"type":"record","id":"2"}`)))
	if found.names() != "user:* user:alice" { // alice also by a tuple of her own
		t.Errorf("found %s", found.names())
	}
}

// Whose store it is decides the credential.
func TestHiddenStores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mine := w.free(fixture)
	globex, err := w.Directory.DefaultGraph(w.Globex.Tenant, "docs")
	w.Must(err)
	w.Write(tuples("document:1#viewer@user:alice")...)
	before := w.Changes()
	questions := map[string]string{
		"evaluation": body(alice, action("viewer"), `"resource":{"type":"document","id":"1"}`), "evaluations": body(alice, action("viewer"), `"evaluations":[{"resource":{"type":"document","id":"1"}}]`),
		"search/subject": body(`"subject":{"type":"user"}`, action("viewer"), `"resource":{"type":"document","id":"1"}`), "search/resource": body(alice, action("viewer"), `"resource":{"type":"document"}`),
		"search/action": body(alice, `"resource":{"type":"document","id":"1"}`),
	}
	for call, question := range questions {
		first := ""
		for name, store := range map[string]relation.StoreID{
			"absent": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "no id": "x", "own system": w.Acme.System, "platform's system": w.Platform.System, "another's system": w.Globex.System, "another's default": globex,
		} {
			r := w.ask("access_manager@acme", store, call, question)
			refused(t, name, r, 404)
			if first == "" {
				first = r.Body
			}
			if ev := w.One(r.Header.Get(web.RequestIDHeader)); r.Body != first || ev.Class != ledger.Deny || ev.Decision != "deny" || ev.Reason != "not_found" || ev.Tenant != w.Acme.Tenant {
				t.Errorf("%s of the store %s: %s, recorded as %+v", call, name, r.Body, ev)
			}
		}
		refused(t, "acme's, asked by globex", w.ask("caller@globex", mine, call, question), 404)
		// The same question about the own default store is about the own tuples.
		own, others := w.read(w.ask("caller@acme", "", call, question)), w.read(w.ask("caller@globex", "", call, question))
		if got := own.decisions() + own.names(); got == others.decisions()+others.names() {
			t.Errorf("%s: both tenants are answered %s", call, got)
		}
	}
	if w.Changes() != before {
		t.Error("something changed")
	}
	empty := w.free("")
	for call, question := range questions {
		refused(t, call+" without a model", w.ask("caller@acme", empty, call, question), 400)
	}
	w.Must(w.Directory.DeleteGraph(t.Context(), ledger.Event{Subject: "system"}, w.Acme.Tenant, mine))
	refused(t, "a deleted store", w.ask("caller@acme", mine, "evaluation", questions["evaluation"]), 404)
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := body(alice, action("viewer"), `"resource":{"type":"document","id":"1"}`)
	for _, call := range []string{"evaluation", "evaluations", "search/subject", "search/resource", "search/action"} {
		for _, text := range []string{good, "no JSON"} { // who may not ask is not told what is wrong
			refused(t, "nobody", w.door.Send("POST", path("", call), text, nil), 401)
			refused(t, "for another audience", w.door.Send("POST", path("", call), text, bearer(w.Token("access_manager@acme", "admin"))), 401)
			h := bearer(w.Token("access_manager@acme", "authz"))
			h["Authorization"] = append(h["Authorization"], h["Authorization"][0])
			r := w.door.Send("POST", path("", call), text, h)
			refused(t, "twice", r, 401)
			if r.Header.Get("WWW-Authenticate") != `Bearer realm="bulwark"` {
				t.Errorf("%v", r.Header)
			}
			r = w.ask("nobody@acme", "", call, text)
			refused(t, "without a role", r, 403)
			if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Reason != "no_relation" || ev.Relation != "can_check" || ev.Subject != w.Subject("nobody@acme") || !strings.HasPrefix(ev.Action, "decision.") {
				t.Errorf("%s is recorded as %+v", call, ev)
			}
		}
		for _, who := range []string{"caller@acme", "auditor@acme"} {
			w.read(w.ask(who, "", call, good))
		}
	}
}

// Without exactly one application the store must be named.
func TestWhichStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := body(alice, action("viewer"), `"resource":{"type":"document","id":"1"}`)
	free := w.free(fixture, tuples("record:record-1#read@user:alice")...)
	if a := w.read(w.ask("caller@acme", "", "evaluation", good)); a.decisions() != "-" {
		t.Errorf("beside a free store: %+v", a)
	}
	w.second("mail")
	r := w.ask("caller@acme", "", "evaluation", good)
	refused(t, "two applications", r, 400)
	if !strings.Contains(r.Body, "2 applications") || !strings.Contains(r.Body, "/stores/{store_id}/access/v1/") {
		t.Error(r.Body)
	}
	docs, err := w.Directory.DefaultGraph(w.Acme.Tenant, "docs")
	w.Must(err)
	if a := w.read(w.ask("caller@acme", docs, "evaluation", good)); a.decisions() != "-" {
		t.Errorf("the one that is named: %+v", a)
	}
	if a := w.read(w.ask("caller@acme", free, "evaluation", body(alice, action("read"), one))); a.decisions() != "+" {
		t.Errorf("a free one: %+v", a)
	}
}

func TestOwns(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/access/v1/evaluation": true, "/access": true, "/access/": true, "/accessories": false, "/stores": false, "/stores/": false, "/stores/x": false, "/stores/access": false, "/stores/access/v1/check": false,
		"/stores/x/access/v1/evaluation": true, "/stores/x/access": true, "/stores/x/check": false, "/stores/x/check/access/v1": false, "/stores//access/v1": true,
		"/.well-known/authzen-configuration": true, "/.well-known/authzen-configuration/stores/x": true, "/.well-known/openid-configuration": false, "/.well-known/authzen-configurations": false, "": false, "/": false,
	} {
		if authzen.Owns(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}
