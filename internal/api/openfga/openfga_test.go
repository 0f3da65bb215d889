package openfga_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"bulwark.example/internal/api/openfga"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// refusal holds an answer to OpenFGA's form.
func refusal(t *testing.T, r guardtest.Reply, status int, code string) {
	t.Helper()
	var e struct{ Code, Message string }
	if err := json.Unmarshal([]byte(r.Body), &e); err != nil || r.Status != status || e.Code != code || e.Message == "" {
		t.Errorf("answered %d %s, want %d %s", r.Status, r.Body, status, code)
	}
}

func tuple(user, rel, object string) string {
	return `{"user":"` + user + `","relation":"` + rel + `","object":"` + object + `"}`
}

func TestCheckWriteRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.graph("acme")
	who := w.Subject("nobody@acme")
	question := `{"tuple_key":` + tuple(who, "viewer", "document:roadmap") + `}`
	want := func(who string, allowed string) guardtest.Reply {
		t.Helper()
		r := w.ask(who, store, "check", question)
		if r.Status != 200 || strings.TrimSpace(r.Body) != `{"allowed":`+allowed+`,"resolution":""}` || r.Header.Get(openfga.RevisionHeader) == "" {
			t.Errorf("%s: %d %s", who, r.Status, r.Body)
		}
		return r
	}
	r := want("caller@acme", "false")
	ev := w.One(r.Header.Get(web.RequestIDHeader))
	if ev.Class != ledger.Check || ev.Decision != "deny" || ev.Resource != "document:roadmap" || ev.Relation != "viewer" ||
		ev.Detail["asked"] != who || ev.Subject != w.Subject("caller@acme") || ev.Revision.Store != store {
		t.Errorf("recorded as %+v", ev)
	}

	r = w.ask("access_manager@acme", store, "write", `{"writes":{"tuple_keys":[`+tuple(who, "viewer", "folder:plans")+`,`+tuple("folder:plans", "parent", "document:roadmap")+`],"on_duplicate":"error"}}`)
	if r.Status != 200 || strings.TrimSpace(r.Body) != `{}` {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	revision := r.Header.Get(openfga.RevisionHeader)
	if ev = w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Mutation || ev.Action != "tuple.write" || w.Authz.Token(ev.Revision) != revision {
		t.Errorf("recorded as %+v", ev)
	}
	r = want("caller@acme", "true")
	if r.Header.Get(openfga.RevisionHeader) != revision {
		t.Error("the check did not see the write")
	}
	if ev = w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Check || ev.Decision != "allow" {
		t.Errorf("recorded as %+v", ev)
	}
	want("auditor@acme", "true") // a person with can_check

	var tuples []string
	token := ""
	for {
		r = w.ask("auditor@acme", store, "read", `{"tuple_key":{},"page_size":1,"continuation_token":"`+token+`"}`)
		var page struct {
			Tuples []struct {
				Key relation.Tuple `json:"key"`
			} `json:"tuples"`
			Token string `json:"continuation_token"`
		}
		w.Must(json.Unmarshal([]byte(r.Body), &page))
		for _, k := range page.Tuples {
			tuples = append(tuples, k.Key.String())
		}
		if token = page.Token; token == "" {
			break
		}
	}
	if strings.Join(tuples, " ") != "document:roadmap#parent@folder:plans folder:plans#viewer@"+who {
		t.Errorf("read %v", tuples)
	}
	if ev = w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.AdminRead || ev.Decision != "allow" || ev.Resource != "store:"+string(store) {
		t.Errorf("recorded as %+v", ev)
	}
	r = w.ask("access_manager@acme", store, "write", `{"deletes":{"tuple_keys":[`+tuple(who, "viewer", "folder:plans")+`]}}`)
	if r.Status != 200 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	want("caller@acme", "false")
}

// TestHiddenStores asks for every store that is not the caller's. All answer
// with the same bytes, change nothing and leave a refusal in the log.
func TestHiddenStores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.Changes()
	adminTuple := tuple(w.Subject("nobody@acme"), "administrator", "system:"+w.Acme.Tenant.String())
	for call, body := range map[string]string{
		"check": `{"tuple_key":` + adminTuple + `}`,
		"write": `{"writes":{"tuple_keys":[` + adminTuple + `]}}`,
		"read":  `{"tuple_key":{}}`,
	} {
		var first string
		for name, store := range map[string]relation.StoreID{
			"absent": relation.StoreID(tenant.RandomID()), "own system": w.Acme.System, "platform's system": w.Platform.System,
			"another's system": w.Globex.System, "another's default": w.graph("globex"), "the platform's default": w.graph("platform"),
		} {
			r := w.ask("access_manager@acme", store, call, body)
			refusal(t, r, 404, "store_id_not_found")
			if first == "" {
				first = r.Body
			}
			if r.Body != first || r.Header.Get(openfga.RevisionHeader) != "" {
				t.Errorf("%s of the store %s answers %q, others %q", call, name, r.Body, first)
			}
			ev := w.One(r.Header.Get(web.RequestIDHeader))
			if ev.Class != ledger.Deny || ev.Decision != "deny" || ev.Reason != "not_found" || ev.Tenant != w.Acme.Tenant {
				t.Errorf("%s of the store %s is recorded as %+v", call, name, ev)
			}
		}
	}
	if w.Changes() != before {
		t.Error("something changed")
	}
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.graph("acme")
	before := w.Changes()
	bodies := map[string]string{
		"check": `{"tuple_key":` + tuple("user:x", "viewer", "folder:y") + `}`,
		"write": `{"writes":{"tuple_keys":[` + tuple("user:x", "viewer", "folder:y") + `]}}`,
		"read":  `{"tuple_key":{}}`,
	}
	for call, body := range bodies {
		path := "/stores/" + string(store) + "/" + call
		refusal(t, w.send("POST", path, body, nil), 401, "unauthenticated")
		refusal(t, w.send("POST", path, body, guardtest.Bearer(w.Token("access_manager@acme", "admin"))), 401, "unauthenticated")
		good := "Bearer " + w.Token("access_manager@acme", "authz")
		refusal(t, w.send("POST", path, body, http.Header{"Authorization": {good, good}}), 401, "unauthenticated")
		r := w.ask("nobody@acme", store, call, body)
		refusal(t, r, 403, "forbidden")
		if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Class != ledger.Deny || ev.Subject != w.Subject("nobody@acme") || ev.Relation == "" {
			t.Errorf("%s is recorded as %+v", call, ev)
		}
		if call != "check" { // a service needs the relation like anybody
			refusal(t, w.ask("caller@acme", store, call, body), 403, "forbidden")
		}
	}
	refusal(t, w.ask("auditor@acme", store, "write", bodies["write"]), 403, "forbidden")
	refusal(t, w.get("caller@acme", "/stores/"+string(store)+"/rename"), 404, "undefined_endpoint")
	refusal(t, w.send("GET", "/stores/"+string(store)+"/check", "", nil), 405, "unimplemented")
	if w.Changes() != before {
		t.Error("something changed")
	}
}

// A batch is one event, which holds what a replay needs of every question.
func TestBatchRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.graph("acme")
	w.put(store, "folder:plans", "viewer", "user:anne")
	item := func(id, more string, parts ...string) string {
		return `{"correlation_id":"` + id + `","tuple_key":` + tuple(parts[0], parts[1], parts[2]) + more + `}`
	}
	r := w.ask("caller@acme", store, "batch-check", `{"checks":[`+strings.Join([]string{
		item("a", "", "user:anne", "viewer", "folder:plans"), item("b", "", "user:bob", "viewer", "folder:plans"),
		item("c", "", "user:bob", "unknown", "folder:plans"),
		item("d", `,"contextual_tuples":{"tuple_keys":[`+tuple("user:bob", "viewer", "folder:plans")+`]}`, "user:bob", "viewer", "folder:plans"),
	}, ",")+`]}`)
	var out struct {
		Result map[string]struct {
			Allowed *bool
			Error   *struct {
				InputError string `json:"input_error"`
				Message    string
			}
		}
	}
	w.Must(json.Unmarshal([]byte(r.Body), &out))
	if res := out.Result; r.Status != 200 || len(res) != 4 || !*res["a"].Allowed || *res["b"].Allowed || !*res["d"].Allowed || res["c"].Error.InputError != "validation_error" {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	ev := w.One(r.Header.Get(web.RequestIDHeader))
	want := "+folder:plans#viewer@user:anne -folder:plans#viewer@user:bob !folder:plans#unknown@user:bob +~folder:plans#viewer@user:bob"
	if ev.Class != ledger.Check || ev.Action != "decision.batch" || ev.Detail["batch"] != want || ev.Detail["allowed"] != "2" || ev.Detail["denied"] != "1" ||
		ev.Detail["failed"] != "1" || ev.Revision.Store != store || ev.Model == "" {
		t.Errorf("recorded as %+v", ev)
	}
	// Fifty of the longest questions are more than an event holds: it says how many it leaves out.
	var long []string
	for i := range 50 {
		long = append(long, item(fmt.Sprint(i), "", "user:"+strings.Repeat("x", 251), "viewer", "folder:"+strings.Repeat("y", 249)))
	}
	r = w.ask("caller@acme", store, "batch-check", `{"checks":[`+strings.Join(long, ",")+`]}`)
	if r.Status != 200 {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	ev = w.One(r.Header.Get(web.RequestIDHeader))
	named := len(strings.Fields(ev.Detail["batch"]))
	if unnamed, err := strconv.Atoi(ev.Detail["unnamed"]); err != nil || named < 15 || named+unnamed != 50 || ev.Detail["denied"] != "50" {
		t.Errorf("%d named, %v", named, ev.Detail["unnamed"])
	}
	refusal(t, w.ask("caller@acme", store, "batch-check", `{"checks":[`+strings.Join(append(long, item("50", "", "user:a", "viewer", "folder:b")), ",")+`]}`), 400, "validation_error")
}

// A trace is OpenFGA's resolution, and in the record of the question.
func TestTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.graph("acme")
	w.put(store, "folder:plans", "viewer", "user:anne", "document:roadmap", "parent", "folder:plans")
	for user, allowed := range map[string]bool{"user:anne": true, "user:bob": false} {
		r := w.ask("caller@acme", store, "check", `{"trace":true,"tuple_key":`+tuple(user, "viewer", "document:roadmap")+`}`)
		var out struct {
			Allowed    bool
			Resolution string
		}
		w.Must(json.Unmarshal([]byte(r.Body), &out))
		var trace authz.Trace
		w.Must(json.Unmarshal([]byte(out.Resolution), &trace))
		if out.Allowed != allowed || trace.Allowed != allowed || trace.Object != "document:roadmap" || trace.Subject != user || (len(trace.Path) > 0) != allowed {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		if ev := w.One(r.Header.Get(web.RequestIDHeader)); ev.Detail["trace"] != out.Resolution {
			t.Errorf("recorded as %+v", ev)
		}
	}
}
