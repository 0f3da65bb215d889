package openfga_test

import (
	"strings"
	"testing"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// What is wrong with a request has OpenFGA's code, changes nothing and is
// recorded.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.graph("acme")
	good := tuple("user:x", "viewer", "folder:y")
	if first := w.ask("access_manager@acme", store, "write", `{"writes":{"tuple_keys":[`+good+`]}}`); first.Status != 200 {
		t.Fatal(first.Body)
	}
	before := w.Changes()
	many := func(n int, tuple string) string { return strings.TrimSuffix(strings.Repeat(tuple+",", n), ",") }
	question := `{"tuple_key":` + good
	none := tenant.RandomID()
	for name, c := range map[string]struct{ call, body, code string }{
		"another model":            {"check", question + `,"authorization_model_id":"` + none + `"}`, "authorization_model_not_found"},
		"malformed model":          {"check", question + `,"authorization_model_id":"x"}`, "validation_error"},
		"consistency":              {"check", question + `,"consistency":"EVENTUAL"}`, "validation_error"},
		"consistency by number":    {"check", question + `,"consistency":7}`, "validation_error"},
		"unknown relation":         {"check", `{"tuple_key":` + tuple("user:x", "owner", "folder:y") + `}`, "validation_error"},
		"unknown type":             {"check", `{"tuple_key":` + tuple("user:x", "viewer", "galaxy:y") + `}`, "validation_error"},
		"unknown type of user":     {"check", `{"tuple_key":` + tuple("alien:x", "viewer", "folder:y") + `}`, "validation_error"},
		"no tuple":                 {"check", `{}`, "tuple_key_value_not_specified"},
		"empty tuple":              {"check", `{"tuple_key":{}}`, "validation_error"},
		"malformed":                {"check", `{"tuple_key":`, "validation_error"},
		"no object":                {"check", `[]`, "validation_error"},
		"two values":               {"check", question + `} {}`, "validation_error"},
		"repeated member":          {"check", question + `,"tuple_key":` + good + `}`, "validation_error"},
		"unknown member":           {"check", question + `,"tenant":"globex"}`, "validation_error"},
		"camel case":               {"check", `{"tupleKey":` + good + `}`, "validation_error"},
		"another store":            {"check", question + `,"store_id":"` + none + `"}`, "validation_error"},
		"invalid utf-8":            {"check", "{\"tuple_key\":{\"user\":\"user:\xff\"}}", "validation_error"},
		"lone surrogate":           {"check", `{"tuple_key":{"user":"user:\ud800"}}`, "validation_error"},
		"space in an id":           {"check", `{"tuple_key":` + tuple("user:a b", "viewer", "folder:y") + `}`, "validation_error"},
		"control in an id":         {"check", `{"tuple_key":` + tuple(`user:a\u0000b`, "viewer", "folder:y") + `}`, "validation_error"},
		"two megabytes":            {"check", `{"tuple_key":` + tuple("user:"+strings.Repeat("a", 2<<20), "viewer", "folder:y") + `}`, "exceeded_entity_limit"},
		"invalid contextual tuple": {"check", question + `,"contextual_tuples":{"tuple_keys":[` + tuple("folder:x", "viewer", "folder:y") + `]}}`, "invalid_tuple"},
		"101 contextual tuples":    {"check", question + `,"contextual_tuples":{"tuple_keys":[` + many(101, good) + `]}}`, "validation_error"},
		"control in a context":     {"check", question + `,"context":{"a":[{"b":"\u0007"}]}}`, "validation_error"},
		"context of no object":     {"check", question + `,"context":[]}`, "validation_error"},
		"deep context":             {"check", question + `,"context":{"a":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}}`, "validation_error"},
		"empty batch":              {"batch-check", `{"checks":[]}`, "validation_error"},
		"duplicate correlation":    {"batch-check", `{"checks":[` + many(2, question+`,"correlation_id":"a"}`) + `]}`, "validation_error"},
		"no correlation":           {"batch-check", `{"checks":[` + question + `}]}`, "validation_error"},
		"a batch by another model": {"batch-check", `{"checks":[` + question + `,"correlation_id":"a"}],"authorization_model_id":"` + none + `"}`, "authorization_model_not_found"},
		"list of an unknown type":  {"list-objects", `{"type":"galaxy","relation":"viewer","user":"user:x"}`, "type_not_found"},
		"list without relation":    {"list-objects", `{"type":"folder","relation":"owner","user":"user:x"}`, "relation_not_found"},
		"list for nobody":          {"list-objects", `{"type":"folder","relation":"viewer","user":"alien:x"}`, "validation_error"},
		"list with a bad tuple":    {"list-objects", `{"type":"folder","relation":"viewer","user":"user:x","contextual_tuples":{"tuple_keys":[` + tuple("folder:x", "viewer", "folder:y") + `]}}`, "invalid_tuple"},
		"stream of a type":         {"streamed-list-objects", `{"type":"galaxy","relation":"viewer","user":"user:x"}`, "type_not_found"},
		"users of a type":          {"list-users", `{"object":{"type":"galaxy","id":"y"},"relation":"viewer","user_filters":[{"type":"user"}]}`, "type_not_found"},
		"users of a relation":      {"list-users", `{"object":{"type":"folder","id":"y"},"relation":"owner","user_filters":[{"type":"user"}]}`, "relation_not_found"},
		"users of another form":    {"list-users", `{"object":{"type":"folder","id":"y"},"relation":"viewer","user_filters":[{"type":"user","relation":"x"}]}`, "relation_not_found"},
		"users of no form":         {"list-users", `{"object":{"type":"folder","id":"y"},"relation":"viewer","user_filters":[]}`, "validation_error"},
		"expansion of nothing":     {"expand", `{"tuple_key":{"object":"folder:y"}}`, "invalid_expand_input"},
		"expansion of a type":      {"expand", `{"tuple_key":{"object":"galaxy:y","relation":"viewer"}}`, "validation_error"},
		"duplicate write":          {"write", `{"writes":{"tuple_keys":[` + good + `]}}`, "write_failed_due_to_invalid_input"},
		"missing delete":           {"write", `{"deletes":{"tuple_keys":[` + tuple("user:z", "viewer", "folder:y") + `]}}`, "write_failed_due_to_invalid_input"},
		"policy of duplicates":     {"write", `{"writes":{"tuple_keys":[` + good + `],"on_duplicate":"merge"}}`, "validation_error"},
		"policy of the missing":    {"write", `{"deletes":{"tuple_keys":[` + good + `],"on_missing":"merge"}}`, "validation_error"},
		"condition":                {"write", `{"writes":{"tuple_keys":[{"user":"user:x","relation":"viewer","object":"folder:z","condition":{"name":"cc"}}]}}`, "validation_error"},
		"not allowed by model":     {"write", `{"writes":{"tuple_keys":[` + tuple("folder:x", "viewer", "folder:y") + `]}}`, "validation_error"},
		"implicit":                 {"write", `{"writes":{"tuple_keys":[` + tuple("folder:y#viewer", "viewer", "folder:y") + `]}}`, "validation_error"},
		"write by another model":   {"write", `{"writes":{"tuple_keys":[` + tuple("user:z", "viewer", "folder:y") + `]},"authorization_model_id":"` + none + `"}`, "authorization_model_not_found"},
		"nothing to write":         {"write", `{}`, "invalid_write_input"},
		"an empty list to write":   {"write", `{"writes":{"tuple_keys":[]}}`, "validation_error"},
		"101 tuples":               {"write", `{"writes":{"tuple_keys":[` + many(101, good) + `]}}`, "exceeded_entity_limit"},
		"twice":                    {"write", `{"writes":{"tuple_keys":[` + many(2, good) + `]}}`, "cannot_allow_duplicate_tuples_in_one_request"},
		"write and delete of one":  {"write", `{"writes":{"tuple_keys":[` + good + `]},"deletes":{"tuple_keys":[` + good + `]}}`, "cannot_allow_duplicate_tuples_in_one_request"},
		"page size":                {"read", `{"page_size":101}`, "page_size_invalid"},
		"page of none":             {"read", `{"page_size":0}`, "page_size_invalid"},
		"continuation token":       {"read", `{"continuation_token":"x"}`, "invalid_continuation_token"},
		"unfit continuation token": {"read", `{"continuation_token":"?"}`, "validation_error"},
		"filter":                   {"read", `{"tuple_key":{"object":"a b:c"}}`, "validation_error"},
	} {
		who := "access_manager@acme"
		r := w.ask(who, store, c.call, c.body)
		if refusal(t, r, 400, c.code); t.Failed() {
			t.Fatalf("%s: %d %s", name, r.Status, r.Body)
		}
		ev := w.One(r.Header.Get(web.RequestIDHeader))
		wantClass := ledger.Check
		if c.call == "read" || c.call == "write" {
			wantClass = ledger.Deny
		}
		if ev.Class != wantClass || ev.Decision != "deny" {
			t.Errorf("%s is recorded as %+v", name, ev)
		}
	}
	// Members that say nothing are no reason to refuse.
	r := w.ask("caller@acme", store, "check", question+`,"contextual_tuples":{"tuple_keys":[]},"context":{},"trace":false,"consistency":"HIGHER_CONSISTENCY","authorization_model_id":""}`)
	if r.Status != 200 || !strings.Contains(r.Body, "true") {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	if w.Changes() != before {
		t.Error("something changed")
	}
}
