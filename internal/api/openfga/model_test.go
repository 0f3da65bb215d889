package openfga_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// extra is the model of notes with one more type.
func extra(n int) string {
	return strings.Replace(notes, "condition", fmt.Sprintf("type extra%d\ncondition", n), 1)
}

// In a free store the newest model is in force; the older ones answer who names
// them, and pages hold each once.
func TestFreeModels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := string(w.free(""))
	var ids []string
	for i := range 5 {
		ids = append(ids, w.publish(store, extra(i)))
	}
	ctx := w.as("policy_author@acme")
	for _, size := range []int32{1, 2, 5} {
		var got []string
		for token := ""; ; {
			page, err := w.grpc.ReadAuthorizationModels(ctx, &fga.ReadAuthorizationModelsRequest{StoreId: store, PageSize: wrapperspb.Int32(size), ContinuationToken: token})
			w.Must(err)
			for _, m := range page.GetAuthorizationModels() {
				got = append(got, m.GetId())
			}
			if token = page.GetContinuationToken(); token == "" {
				break
			}
		}
		if want := []string{ids[4], ids[3], ids[2], ids[1], ids[0]}; !cmp.Equal(got, want) {
			t.Errorf("in pages of %d: %v, want %v", size, got, want)
		}
	}
	for _, token := range []string{"eA", "bTFY"} {
		if _, err := w.grpc.ReadAuthorizationModels(ctx, &fga.ReadAuthorizationModelsRequest{StoreId: store, ContinuationToken: token}); code(err) != int(fga.ErrorCode_invalid_continuation_token) {
			t.Errorf("token %s: %v", token, err)
		}
	}
	list := func(typ, model string) error {
		_, err := w.grpc.ListObjects(w.as("caller@acme"), &fga.ListObjectsRequest{StoreId: store, Type: typ, Relation: "x", User: "user:a", AuthorizationModelId: model})
		return err
	}
	// "no relation x" shows that the type is known.
	for name, c := range map[string]struct {
		typ, model string
		want       int
	}{"the newest": {"extra4", "", 2022}, "an older type": {"extra3", "", 2021}, "an older model": {"extra3", ids[3], 2022}, "no model": {"extra3", tenant.RandomID(), 2001}} {
		if err := list(c.typ, c.model); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Writing an old version again makes it the newest.
	if again := w.publish(store, extra(0)); again != ids[0] {
		t.Errorf("the same text has the ids %s and %s", again, ids[0])
	}
	if err := list("extra0", ""); code(err) != 2022 {
		t.Errorf("the old version is not in force again: %v", err)
	}
}

// What WriteAuthorizationModel writes to a default store is a proposal: it
// answers who names it, and changes nothing for anybody else.
func TestProposal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := string(w.graph("acme"))
	w.put(w.graph("acme"), "folder:plans", "viewer", "user:anne")
	active, ok := w.Authz.ActiveModel("docs")
	if !ok {
		t.Fatal("no model")
	}
	proposal := w.publish(store, strings.Replace(guardtest.Docs, "define viewer: [user, service]", "define viewer: [service]", 1))
	check := func(model string) bool {
		t.Helper()
		var header metadata.MD
		r, err := w.grpc.Check(w.as("caller@acme"), &fga.CheckRequest{StoreId: store, TupleKey: asked("user:anne", "viewer", "folder:plans"), AuthorizationModelId: model}, grpc.Header(&header))
		w.Must(err)
		if model != "" && header.Get("openfga-authorization-model-id")[0] != model {
			t.Errorf("answered by %v, asked %s", header, model)
		}
		return r.GetAllowed()
	}
	if !check("") || !check(active.ID()) || check(proposal) {
		t.Error("the proposal is in force, or does not answer")
	}
	if m, _ := w.Authz.ActiveModel("docs"); m.ID() != active.ID() {
		t.Error("another model is in force")
	}
	// It is not listed: it may be another tenant's. Who knows its id may read it.
	for _, who := range []string{"policy_author@acme", "policy_author@globex"} {
		of := string(w.graph(strings.TrimPrefix(who, "policy_author@")))
		page, err := w.grpc.ReadAuthorizationModels(w.as(who), &fga.ReadAuthorizationModelsRequest{StoreId: of})
		w.Must(err)
		if len(page.GetAuthorizationModels()) != 1 || page.GetAuthorizationModels()[0].GetId() != active.ID() {
			t.Errorf("%s lists %v", who, page)
		}
		if _, err := w.grpc.ReadAuthorizationModel(w.as(who), &fga.ReadAuthorizationModelRequest{StoreId: of, Id: proposal}); err != nil {
			t.Error(err)
		}
	}
	// Proposing what is in force does not end its turn.
	m := parse(t, guardtest.Docs)
	_, err := w.grpc.WriteAuthorizationModel(w.as("policy_author@acme"), &fga.WriteAuthorizationModelRequest{StoreId: store, SchemaVersion: m.GetSchemaVersion(), TypeDefinitions: m.GetTypeDefinitions()})
	w.Must(err)
	if !check("") {
		t.Error("the model is out of force")
	}
}

func TestBadModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := string(w.free(notes))
	before := w.Changes()
	ctx := w.as("policy_author@acme")
	user := &fga.TypeDefinition{Type: "user"}
	undefined := &fga.TypeDefinition{Type: "note", Relations: map[string]*fga.Userset{"reader": {Userset: &fga.Userset_ComputedUserset{ComputedUserset: &fga.ObjectRelation{Relation: "owner"}}}}}
	long := &fga.TypeDefinition{Type: "note", Relations: map[string]*fga.Userset{}}
	for i := range 5000 {
		long.Relations[fmt.Sprintf("relation_%040d", i)] = &fga.Userset{Userset: &fga.Userset_ComputedUserset{ComputedUserset: &fga.ObjectRelation{Relation: fmt.Sprintf("relation_%040d", 0)}}}
	}
	for name, c := range map[string]struct {
		q    *fga.WriteAuthorizationModelRequest
		want int
	}{
		"no type":        {&fga.WriteAuthorizationModelRequest{SchemaVersion: "1.1"}, 3},
		"no version":     {&fga.WriteAuthorizationModelRequest{TypeDefinitions: []*fga.TypeDefinition{user}}, 3},
		"an old version": {&fga.WriteAuthorizationModelRequest{SchemaVersion: "1.0", TypeDefinitions: []*fga.TypeDefinition{user}}, 2056},
		"twice":          {&fga.WriteAuthorizationModelRequest{SchemaVersion: "1.1", TypeDefinitions: []*fga.TypeDefinition{user, user}}, 2056},
		"undefined":      {&fga.WriteAuthorizationModelRequest{SchemaVersion: "1.1", TypeDefinitions: []*fga.TypeDefinition{user, undefined}}, 2056},
		"a broken condition": {&fga.WriteAuthorizationModelRequest{SchemaVersion: "1.1", TypeDefinitions: []*fga.TypeDefinition{user},
			Conditions: map[string]*fga.Condition{"cc": {Name: "cc", Expression: "1 +"}}}, 2056},
		"too large": {&fga.WriteAuthorizationModelRequest{SchemaVersion: "1.1", TypeDefinitions: []*fga.TypeDefinition{user, long}}, int(fga.ErrorCode_exceeded_entity_limit)},
	} {
		c.q.StoreId = store
		if _, err := w.grpc.WriteAuthorizationModel(ctx, c.q); code(err) != c.want {
			t.Errorf("%s: %.200v, want %d", name, err, c.want)
		}
	}
	if w.Changes() != before {
		t.Error("something changed")
	}
}

func TestAssertions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := string(w.free(notes))
	list, err := w.grpc.ReadAuthorizationModels(w.as("auditor@acme"), &fga.ReadAuthorizationModelsRequest{StoreId: store})
	w.Must(err)
	model := list.GetAuthorizationModels()[0].GetId()
	readBack := func() []*fga.Assertion {
		t.Helper()
		r, err := w.grpc.ReadAssertions(w.as("auditor@acme"), &fga.ReadAssertionsRequest{StoreId: store, AuthorizationModelId: model})
		w.Must(err)
		if r.GetAuthorizationModelId() != model {
			t.Errorf("of the model %s", r.GetAuthorizationModelId())
		}
		return r.GetAssertions()
	}
	if got := readBack(); len(got) != 0 {
		t.Errorf("there are %v", got)
	}
	good := &fga.Assertion{
		TupleKey: &fga.AssertionTupleKey{User: "user:dan", Relation: "can_read", Object: "note:plan"}, Expectation: true,
		ContextualTuples: []*fga.TupleKey{guarded(t)}, Context: values(t, map[string]any{"hour": 10.0}),
	}
	put := func(list ...*fga.Assertion) error {
		_, err := w.grpc.WriteAssertions(w.as("policy_author@acme"), &fga.WriteAssertionsRequest{StoreId: store, AuthorizationModelId: model, Assertions: list})
		return err
	}
	w.Must(put(good, good))
	if diff := cmp.Diff([]*fga.Assertion{good, good}, readBack(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	big := &fga.Assertion{TupleKey: good.TupleKey, Context: values(t, map[string]any{"a": strings.Repeat("x", 70_000)})}
	for name, c := range map[string]struct {
		a    *fga.Assertion
		want int
	}{
		"no type":                {&fga.Assertion{TupleKey: &fga.AssertionTupleKey{User: "user:dan", Relation: "can_read", Object: "galaxy:plan"}}, 2000},
		"no user":                {&fga.Assertion{TupleKey: &fga.AssertionTupleKey{User: "alien:dan", Relation: "can_read", Object: "note:plan"}}, 2000},
		"no userset":             {&fga.Assertion{TupleKey: &fga.AssertionTupleKey{User: "team:a#owner", Relation: "can_read", Object: "note:plan"}}, 2000},
		"a tuple not allowed":    {&fga.Assertion{TupleKey: good.TupleKey, ContextualTuples: []*fga.TupleKey{{User: "note:a", Relation: "owner", Object: "note:plan"}}}, 2000},
		"more than 64,000 bytes": {big, int(fga.ErrorCode_exceeded_entity_limit)},
	} {
		if err := put(c.a); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.Must(put())
	if got := readBack(); len(got) != 0 {
		t.Errorf("after writing none there are %v", got)
	}
	_, err = w.grpc.WriteAssertions(w.as("policy_author@acme"), &fga.WriteAssertionsRequest{StoreId: store, AuthorizationModelId: tenant.RandomID()})
	if code(err) != 2001 {
		t.Errorf("of no model: %v", err)
	}
}

// Who may make and delete stores, and what happens to what is in them.
func TestFreeStores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for who, may := range map[string]bool{
		"administrator@acme": true, "access_manager@acme": true, "policy_author@acme": false, "auditor@acme": false, "caller@acme": false, "nobody@acme": false,
	} {
		s, err := w.grpc.CreateStore(w.as(who), &fga.CreateStoreRequest{Name: "of " + strings.TrimSuffix(who, "@acme")})
		if (err == nil) != may || !may && code(err) != 1600 {
			t.Errorf("%s: %v, %v", who, s, err)
		}
	}
	list, err := w.grpc.ListStores(w.as("caller@acme"), &fga.ListStoresRequest{})
	w.Must(err)
	if len(list.GetStores()) != 3 || list.GetStores()[0].GetName() != "docs" {
		t.Errorf("listed %v", list)
	}
	free := list.GetStores()[1].GetId()
	w.publish(free, notes)
	w.put(relation.StoreID(free), "note:plan", "owner", "user:anne")
	// The default store is not the tenant's to delete, and no other tenant's is there.
	for name, c := range map[string]struct {
		id   string
		who  string
		want int
	}{
		"default": {string(w.graph("acme")), "administrator@acme", 1600}, "system": {string(w.Acme.System), "administrator@acme", 5002},
		"another's": {string(w.graph("globex")), "administrator@acme", 5002}, "another's free": {free, "administrator@globex", 5002},
		"without the right": {free, "policy_author@acme", 1600},
	} {
		if _, err := w.grpc.DeleteStore(w.as(c.who), &fga.DeleteStoreRequest{StoreId: c.id}); code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := w.send("DELETE", "/stores/"+free, "", guardtest.Bearer(w.Token("access_manager@acme", "authz")))
	if r.Status != 204 || r.Body != "" {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	if _, err := w.grpc.Check(w.as("caller@acme"), &fga.CheckRequest{StoreId: free, TupleKey: asked("user:anne", "reader", "note:plan")}); code(err) != 5002 {
		t.Errorf("a deleted store answers %v", err)
	}
	r = w.send("POST", "/stores", `{"name":"a"}`, guardtest.Bearer(w.Token("access_manager@acme", "authz")))
	refusal(t, r, 400, "validation_error")
	r = w.send("POST", "/stores", `{"name":"another one"}`, guardtest.Bearer(w.Token("access_manager@acme", "authz")))
	if r.Status != 201 || !strings.Contains(r.Body, `"name":"another one"`) {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	ev := w.Events(filterMutation(w, "store.create"), func(all []ledger.Event) bool { return len(all) == 3 })[2]
	if ev.Class != ledger.Mutation || ev.Subject != w.Subject("access_manager@acme") || !strings.HasPrefix(ev.Resource, "store:") {
		t.Errorf("recorded as %+v", ev)
	}
	// Pages go on behind a store that was deleted meanwhile.
	page, err := w.grpc.ListStores(w.as("caller@acme"), &fga.ListStoresRequest{PageSize: wrapperspb.Int32(2)})
	w.Must(err)
	_, err = w.grpc.DeleteStore(w.as("access_manager@acme"), &fga.DeleteStoreRequest{StoreId: page.GetStores()[1].GetId()})
	w.Must(err)
	page, err = w.grpc.ListStores(w.as("caller@acme"), &fga.ListStoresRequest{PageSize: wrapperspb.Int32(2), ContinuationToken: page.GetContinuationToken()})
	w.Must(err)
	if len(page.GetStores()) != 1 || page.GetStores()[0].GetName() != "another one" {
		t.Errorf("the second page is %v", page)
	}
}

// Nothing of another tenant, over any route, answers otherwise than what does
// not exist.
func TestTenantsAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	free := string(w.free(notes))
	list, err := w.grpc.ReadAuthorizationModels(w.as("auditor@acme"), &fga.ReadAuthorizationModelsRequest{StoreId: free})
	w.Must(err)
	model := list.GetAuthorizationModels()[0].GetId()
	before := w.Changes()
	key := tuple("user:x", "reader", "note:y")
	for _, c := range []struct{ who, method, path, body string }{
		{"access_manager", "GET", "", ""}, {"access_manager", "DELETE", "", ""},
		{"access_manager", "POST", "/check", `{"tuple_key":` + key + `,"authorization_model_id":"` + model + `"}`},
		{"access_manager", "POST", "/batch-check", `{"checks":[{"correlation_id":"a","tuple_key":` + key + `}]}`},
		{"access_manager", "POST", "/list-objects", listBody("user:x")}, {"access_manager", "POST", "/streamed-list-objects", listBody("user:x")},
		{"access_manager", "POST", "/list-users", `{"object":{"type":"note","id":"y"},"relation":"reader","user_filters":[{"type":"user"}]}`},
		{"access_manager", "POST", "/expand", `{"tuple_key":{"object":"note:y","relation":"reader"}}`},
		{"access_manager", "POST", "/read", `{}`}, {"access_manager", "POST", "/write", `{"writes":{"tuple_keys":[` + key + `]}}`},
		{"access_manager", "GET", "/changes", ""}, {"access_manager", "GET", "/watch", ""},
		{"policy_author", "GET", "/authorization-models", ""}, {"policy_author", "GET", "/authorization-models/" + model, ""},
		{"policy_author", "POST", "/authorization-models", `{"schema_version":"1.1","type_definitions":[{"type":"user"}]}`},
		{"policy_author", "GET", "/assertions/" + model, ""}, {"policy_author", "PUT", "/assertions/" + model, `{"assertions":[]}`},
	} {
		var first string
		for name, id := range map[string]string{
			"absent": tenant.RandomID(), "another's free": free, "another's default": string(w.graph("acme")),
			"another's system": w.acmeSystem(), "its own system": string(w.Globex.System), "the platform's": string(w.graph("platform")),
		} {
			r := w.send(c.method, "/stores/"+id+c.path, c.body, guardtest.Bearer(w.Token(c.who+"@globex", "authz")))
			refusal(t, r, 404, "store_id_not_found")
			if first == "" {
				first = r.Body
			}
			if r.Body != first {
				t.Errorf("%s %s of %s: %q, others %q", c.method, c.path, name, r.Body, first)
			}
			for h := range r.Header {
				if strings.HasPrefix(h, "Bulwark-") && h != "Bulwark-Request-Id" || strings.HasPrefix(h, "Openfga-") {
					t.Errorf("%s %s of %s has the header %s", c.method, c.path, name, h)
				}
			}
		}
	}
	if w.Changes() != before {
		t.Error("something changed")
	}
}

func (w *world) acmeSystem() string { return string(w.Acme.System) }

// Whoever acts for another needs the scope of the call, whatever the other may.
func TestScopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.actor("decision.check", "tuple.read")
	ask := a.derived("decision.check")
	check := func(ctx context.Context) error {
		_, err := w.grpc.Check(ctx, &fga.CheckRequest{StoreId: string(w.graph("acme")), TupleKey: asked("user:x", "viewer", "folder:y")})
		return err
	}
	w.Must(check(ask))
	if _, err := w.grpc.Read(ask, &fga.ReadRequest{StoreId: string(w.graph("acme"))}); code(err) != 1600 || !strings.Contains(err.Error(), "tuple.read") {
		t.Errorf("reading with a scope for checks: %v", err)
	}
	if err := check(a.derived()); code(err) != 1600 || !strings.Contains(err.Error(), "decision.check") {
		t.Errorf("without a scope: %v", err)
	}
}

// A tenant proposes as many versions as it may, and takes no room of another's.
func TestProposalsAreCountedByTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.api.Proposals = 2
	propose := func(who string, n int) error {
		model := strings.Replace(guardtest.Docs, "type folder", fmt.Sprintf("type extra%d\n\ntype folder", n), 1)
		m := parse(t, model)
		_, err := w.grpc.WriteAuthorizationModel(w.as("policy_author@"+who), &fga.WriteAuthorizationModelRequest{
			StoreId: string(w.graph(who)), SchemaVersion: m.GetSchemaVersion(), TypeDefinitions: m.GetTypeDefinitions(),
		})
		return err
	}
	w.Must(propose("acme", 1))
	w.Must(propose("acme", 2))
	if err := propose("acme", 3); err == nil || !strings.Contains(err.Error(), "your tenant has proposed 2 versions") {
		t.Errorf("a third: %v", err)
	}
	w.Must(propose("acme", 1)) // it is there already
	w.Must(propose("globex", 1))
	w.Must(propose("globex", 3)) // the one that acme made is still acme's
	w.Must(propose("globex", 4))
	if err := propose("globex", 5); err == nil {
		t.Error("a third of another tenant")
	}
	for _, ev := range w.Events(audit.Filter{Class: ledger.Deny, Tenant: w.Acme.Tenant.String()}, func(all []ledger.Event) bool { return len(all) == 1 }) {
		if ev.Reason != "too_large" {
			t.Errorf("recorded as %+v", ev)
		}
	}
}
