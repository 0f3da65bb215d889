package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// The token of a change that an upstream makes stays with the session, whichever
// of its credentials and routes come next; clients can neither see nor send one.
func TestSessionsCarryTheRevision(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	graph := must[relation.StoreID](t)(w.directory.DefaultGraph(w.tenants["acme"].Tenant, "docs"))
	change := func() string {
		t.Helper()
		ev := ledger.Event{ID: tenant.RandomID(), Time: w.now(), Class: ledger.Mutation, Action: "tuple.write", Tenant: w.tenants["acme"].Tenant, Subject: "system"}
		rev := must[relation.Revision](t)(w.authz.Write(context.Background(), ledger.Change{Store: graph, Event: ev}, "", authz.Write{
			Writes: []relation.Tuple{{Object: "document:" + strings.ToLower(tenant.RandomID()), Relation: "viewer", Subject: "user:" + w.users["carol@acme"]}},
		}))
		return w.authz.Token(rev)
	}
	says := func(tokens ...string) {
		w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
			for _, v := range tokens {
				rw.Header().Add("Bulwark-Revision", v)
			}
		})
	}
	atLeast := func(who string, claims map[string]any) string {
		t.Helper()
		a := w.call("GET", "/whoami", w.token(who, claims))
		if a.Status != 200 || a.Header.Get("Bulwark-Revision") != "" || a.Header.Get("Bulwark-At-Least") != "" {
			t.Fatalf("%+v", a)
		}
		r, _ := w.last()
		return r.Header.Get("Bulwark-At-Least")
	}
	carol := map[string]any{"sid": "login-1"}
	first, second := change(), change()
	says(second)
	if got := atLeast("carol@acme", carol); got != "" {
		t.Errorf("before anything was seen: %q", got)
	}
	says()
	if got := atLeast("carol@acme", carol); got != second {
		t.Errorf("the session's next request: %q, want %q", got, second)
	}
	says(first)
	atLeast("carol@acme", carol)
	says()
	if got := atLeast("carol@acme", carol); got != second {
		t.Errorf("after an older token: %q, want the newer %q", got, second)
	}
	for what, other := range map[string]map[string]any{"another login": {"sid": "login-2"}, "no login": nil} {
		if got := atLeast("carol@acme", other); got != "" {
			t.Errorf("%s: %q", what, got)
		}
	}
	for _, who := range []string{"alice@acme", "mallory@globex"} { // a session is one person's
		if got := atLeast(who, carol); got != "" {
			t.Errorf("%s: %q", who, got)
		}
	}
	// What is no token of the tenant's store is passed over.
	foreign := must[relation.StoreID](t)(w.directory.DefaultGraph(w.tenants["globex"].Tenant, "docs"))
	for what, tokens := range map[string][]string{
		"no token": {"none"}, "two": {first, second}, "an empty one": {""}, "another tenant's": {w.authz.Token(relation.Revision{Epoch: 1, Store: foreign, Rev: 1})},
		"the future": {w.authz.Token(relation.Revision{Epoch: 1, Store: graph, Rev: 1 << 40})}, "another epoch": {w.authz.Token(relation.Revision{Epoch: 7, Store: graph, Rev: 1})},
	} {
		says(tokens...)
		session := map[string]any{"sid": tenant.RandomID()}
		atLeast("carol@acme", session)
		says()
		if got := atLeast("carol@acme", session); got != "" {
			t.Errorf("%s: %q", what, got)
		}
	}
	// A client's own header ends at the gateway.
	a := w.send("GET /whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nBulwark-At-Least: " + first + "\r\nAuthorization: Bearer " + w.token("alice@acme", nil) + "\r\n\r\n")
	if r, _ := w.last(); a[0].Status != 200 || r.Header.Get("Bulwark-At-Least") != "" {
		t.Errorf("%+v; the upstream got %v", a, r.Header)
	}
}

// A route that asks for it has the reason in the audit event, for allows and for
// refusals; others have not.
func TestExplainedRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		target, who string
		status      int
	}{{"/explained/roadmap", "alice@acme", 200}, {"/explained/roadmap", "dave@acme", 404}, {"/documents/roadmap", "alice@acme", 200}} {
		if a := w.call("GET", c.target, w.token(c.who, nil)); a.Status != c.status {
			t.Errorf("%+v", a)
		}
	}
	if err := w.audit.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	err := audit.Query(context.Background(), w.auditDir, audit.QueryOptions{Filter: audit.Filter{Action: "request"}}, func(s ledger.Stored) bool {
		e := s.Event
		raw := e.Detail["trace"]
		seen[e.Route+" "+e.Decision]++
		if e.Route != "explained" {
			if raw != "" {
				t.Errorf("the reason of %s is recorded: %s", e.Route, raw)
			}
			return true
		}
		var trace authz.Trace
		if err := json.Unmarshal([]byte(raw), &trace); err != nil || trace.Allowed != (e.Decision == "allow") {
			t.Errorf("%s is recorded with %q: %v", e.Decision, raw, err)
		}
		if e.Decision == "allow" && (len(trace.Path) == 0 || trace.Path[len(trace.Path)-1].Tuple.Relation != "editor") {
			t.Errorf("the path is %+v", trace.Path)
		}
		if e.Decision == "deny" && trace.Tried == nil {
			t.Errorf("nothing was tried: %s", raw)
		}
		return true
	})
	if err != nil || seen["explained allow"] != 1 || seen["explained deny"] != 1 || seen["read allow"] != 1 {
		t.Errorf("%v, %v", seen, err)
	}
}
