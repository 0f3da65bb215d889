package openfga

import (
	"math/rand/v2"
	"strings"
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
)

// bodies are the requests that come as a body, each with one of them.
var bodies = []struct {
	message request
	sample  string
}{
	{&fga.CreateStoreRequest{}, `{"name":"my store"}`},
	{&fga.CheckRequest{}, `{"tuple_key":{"user":"user:a","relation":"r","object":"o:1"},"contextual_tuples":{"tuple_keys":[{"user":"user:a","relation":"r","object":"o:1","condition":{"name":"cc","context":{"a":[1,null,{"b":"c"}]}}}]},"context":{"x":1.5},"trace":true,"consistency":"MINIMIZE_LATENCY"}`},
	{&fga.BatchCheckRequest{}, `{"checks":[{"tuple_key":{"user":"user:a","relation":"r","object":"o:1"},"correlation_id":"a"}]}`},
	{&fga.ListObjectsRequest{}, `{"type":"o","relation":"r","user":"user:a"}`},
	{&fga.StreamedListObjectsRequest{}, `{"type":"o","relation":"r","user":"user:a"}`},
	{&fga.ListUsersRequest{}, `{"object":{"type":"o","id":"1"},"relation":"r","user_filters":[{"type":"user","relation":"r"}]}`},
	{&fga.ExpandRequest{}, `{"tuple_key":{"relation":"r","object":"o:1"}}`},
	{&fga.WriteRequest{}, `{"writes":{"tuple_keys":[{"user":"user:a","relation":"r","object":"o:1"}],"on_duplicate":"ignore"},"deletes":{"tuple_keys":[{"user":"user:a","relation":"r","object":"o:2"}]}}`},
	{&fga.ReadRequest{}, `{"tuple_key":{"object":"o:1"},"page_size":2,"continuation_token":"YQ"}`},
	{&fga.WriteAuthorizationModelRequest{}, `{"schema_version":"1.1","type_definitions":[{"type":"user"},{"type":"o","relations":{"r":{"union":{"child":[{"this":{}},{"computedUserset":{"relation":"s"}}]}}},"metadata":{"relations":{"r":{"directly_related_user_types":[{"type":"user","wildcard":{}}]}}}}],"conditions":{"cc":{"name":"cc","expression":"x > 1","parameters":{"x":{"type_name":"TYPE_NAME_INT"}}}}}`},
	{&fga.WriteAssertionsRequest{}, `{"assertions":[{"tuple_key":{"user":"user:a","relation":"r","object":"o:1"},"expectation":true}]}`},
}

// Five fields have other names in JSON than in the files; OpenFGA's clients lose
// a branch of a tree or model that comes under another.
func TestNamesOnTheWire(t *testing.T) {
	t.Parallel()
	from := &fga.TupleToUserset{Tupleset: &fga.ObjectRelation{Relation: "p"}, ComputedUserset: &fga.ObjectRelation{Relation: "v"}}
	for _, c := range []struct {
		message proto.Message
		want    string
	}{
		{&fga.Userset{Userset: &fga.Userset_TupleToUserset{TupleToUserset: from}},
			`{"tupleToUserset":{"tupleset":{"object":"","relation":"p"},"computedUserset":{"object":"","relation":"v"}}}`},
		{&fga.Userset{Userset: &fga.Userset_ComputedUserset{ComputedUserset: &fga.ObjectRelation{Relation: "v"}}}, `{"computedUserset":{"object":"","relation":"v"}}`},
		{&fga.UsersetTree_Leaf{Value: &fga.UsersetTree_Leaf_TupleToUserset{TupleToUserset: &fga.UsersetTree_TupleToUserset{Tupleset: "d:1#p"}}},
			`{"tupleToUserset":{"tupleset":"d:1#p","computed":[]}}`},
		{&fga.WriteAuthorizationModelResponse{AuthorizationModelId: "m"}, `{"authorization_model_id":"m"}`},
	} {
		if got, err := spell(c.message); err != nil || string(got) != c.want {
			t.Errorf("%s, %v; want %s", got, err, c.want)
		}
	}
}

// What is read is read whole: spelled again it reads the same, and nothing that
// follows the reading panics.
func FuzzDecode(f *testing.F) {
	for i, b := range bodies {
		f.Add(uint8(i), []byte(b.sample))
	}
	for _, s := range []string{`{`, `[]`, `null`, `{"a":1,"a":2}`, "{\"name\":\"\xff\"}", `{"name":"\ud800"}`, `{"name":null}`, strings.Repeat(`{"context":`, 200), `{"context":{"x":NaN}}`} {
		f.Add(uint8(1), []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		q := bodies[int(kind)%len(bodies)].message
		q = q.ProtoReflect().New().Interface().(request)
		if err := decode(raw, q); err != nil {
			if fault.KindOf(err) != fault.Invalid || fault.Public(err) == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		again := q.ProtoReflect().New().Interface().(request)
		text, err := spell(q)
		if err != nil {
			t.Fatalf("%s was read, and does not encode: %v", raw, err)
		}
		if err := decode(text, again); err != nil || !proto.Equal(q, again) {
			t.Fatalf("%s became %s and then %v (%v)", raw, text, again, err)
		}
		_ = q.Validate()
		follow(q)
	})
}

// follow does what handlers do with a request before the engine sees it.
func follow(q request) {
	switch q := q.(type) {
	case *fga.WriteRequest:
		_, _ = changesOf(q)
	case *fga.CheckRequest:
		_, _ = tuplesOf(q.GetContextualTuples().GetTupleKeys())
		_, _ = contextOf(q.GetContext())
		validCheck(q)
	case *fga.BatchCheckRequest:
		_, _ = newBatch(nil, q.GetChecks())
		validBatch(q)
	case *fga.WriteAuthorizationModelRequest:
		_, _ = schema.Source(&fga.AuthorizationModel{SchemaVersion: q.GetSchemaVersion(), TypeDefinitions: q.GetTypeDefinitions(), Conditions: q.GetConditions()})
	}
}

// What the short way accepts, the rules of the proto file accept; and it accepts
// what programs send.
func TestShortWay(t *testing.T) {
	t.Parallel()
	id := tenant.RandomID()
	parts := []string{"", "a", ":", "#", "@", " ", "\t", "ab", "é", "\x7f", "\u2028", "user:anne", "team:core#member", "user:*", strings.Repeat("x", 49), strings.Repeat("y", 255)}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func() string {
		s := ""
		for range r.IntN(4) {
			s += parts[r.IntN(len(parts))]
		}
		return s
	}
	accepted := 0
	for range 200_000 {
		q := &fga.CheckRequest{StoreId: id, TupleKey: &fga.CheckRequestTupleKey{User: pick(), Relation: pick(), Object: pick()}}
		switch r.IntN(12) {
		case 0:
			q.StoreId = pick()
		case 1:
			q.AuthorizationModelId = pick()
		case 2:
			q.Consistency = fga.ConsistencyPreference(r.IntN(300))
		case 3:
			q.TupleKey = nil
		case 4:
			q.ContextualTuples = &fga.ContextualTupleKeys{TupleKeys: []*fga.TupleKey{{}}}
		}
		b := &fga.BatchCheckRequest{StoreId: q.StoreId, AuthorizationModelId: q.AuthorizationModelId, Consistency: q.Consistency, Checks: []*fga.BatchCheckItem{
			{TupleKey: q.TupleKey, ContextualTuples: q.ContextualTuples, CorrelationId: strings.TrimSpace(pick())},
		}}
		if validCheck(q) {
			if accepted++; q.Validate() != nil {
				t.Fatalf("accepted %v: %v", q, q.Validate())
			}
		}
		if validBatch(b) && b.Validate() != nil {
			t.Fatalf("accepted %v: %v", b, b.Validate())
		}
	}
	if accepted < 500 {
		t.Errorf("only %d were accepted", accepted)
	}
	usual := &fga.CheckRequest{StoreId: id, AuthorizationModelId: id, TupleKey: &fga.CheckRequestTupleKey{User: "team:core#member", Relation: "can_read", Object: "note:1"}}
	if !validCheck(usual) || !validBatch(&fga.BatchCheckRequest{StoreId: id, Checks: []*fga.BatchCheckItem{{TupleKey: usual.GetTupleKey(), CorrelationId: id}}}) {
		t.Error("an usual question takes the long way")
	}
	if validBatch(&fga.BatchCheckRequest{StoreId: id}) {
		t.Error("a batch of none takes the short way")
	}
}

// A context keeps its values on their way through a tuple, and numbers that
// JSON does not have are refused.
func TestTupleContext(t *testing.T) {
	t.Parallel()
	values, err := structpb.NewStruct(map[string]any{"b": true, "n": nil, "s": "é<>&", "l": []any{1.5, "x"}, "o": map[string]any{"z": -1e300}})
	if err != nil {
		t.Fatal(err)
	}
	k := &fga.TupleKey{User: "user:a", Relation: "r", Object: "o:1", Condition: &fga.RelationshipCondition{Name: "cc", Context: values}}
	tuple, err := tupleOf(k)
	if err != nil {
		t.Fatal(err)
	}
	back, err := keyOf(tuple)
	if err != nil || !proto.Equal(k, back) {
		t.Errorf("%v became %v, %v", k, back, err)
	}
	if m, err := authz.Context([]byte(tuple.Context)); err != nil || m["s"] != "é<>&" {
		t.Errorf("%v, %v", m, err)
	}
	for _, bad := range []*structpb.Value{structpb.NewNumberValue(1 / zero()), structpb.NewNumberValue(zero() / zero()), structpb.NewStringValue("\x00"), structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("a\nb")}})} {
		k.Condition.Context = &structpb.Struct{Fields: map[string]*structpb.Value{"x": bad}}
		if tuple, err := tupleOf(k); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%v was taken as %v, %v", bad, tuple, err)
		}
	}
}

func zero() float64 { return 0 }

// Each code has the name and status over HTTP that OpenFGA gives it.
func TestCodes(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]struct {
		name   string
		status int
	}{
		errNoStore: {"store_id_not_found", 404},
		newCoded(fga.ErrorCode_invalid_tuple, fault.Invalid, "x"):                 {"invalid_tuple", 400},
		newCoded(fga.InternalErrorCode_deadline_exceeded, fault.Unavailable, "x"): {"deadline_exceeded", 500},
		fault.New(fault.Internal, "x"):                                            {"internal_error", 500},
		fault.New(fault.Integrity, "x"):                                           {"internal_error", 500},
		fault.New(fault.Unauthenticated, "x"):                                     {"unauthenticated", 401},
		fault.New(fault.Denied, "x"):                                              {"forbidden", 403},
		fault.New(fault.Exhausted, "x"):                                           {"authorization_model_resolution_too_complex", 400},
		fault.New(fault.TooLarge, "x"):                                            {"exceeded_entity_limit", 400},
		fault.New(fault.Unavailable, "x"):                                         {"unavailable", 503},
		fault.New(fault.Conflict, "x"):                                            {"write_failed_due_to_invalid_input", 400},
	} {
		if name, status := nameOf(err); name != want.name || status != want.status {
			t.Errorf("%v: %s %d, want %+v", err, name, status, want)
		}
	}
	for i, k := range kinds {
		if int(k.kind) != i {
			t.Errorf("the kind %v stands at %d", k.kind, i)
		}
	}
}

// What was stored in this format is read for ever.
func TestAssertionsFormat(t *testing.T) {
	t.Parallel()
	const golden = `1{"assertions":[{"tuple_key":{"object":"note:plan","relation":"can_read","user":"user:dan"},"expectation":true,` +
		`"contextual_tuples":[{"user":"user:dan","relation":"reader","object":"note:plan","condition":{"name":"office","context":{"open":9}}}],"context":{"hour":10}}]}`
	kept, err := openAssertions([]byte(golden))
	if err != nil || len(kept.GetAssertions()) != 1 || !kept.GetAssertions()[0].GetExpectation() || kept.GetAssertions()[0].GetContextualTuples()[0].GetCondition().GetName() != "office" {
		t.Fatalf("%v, %v", kept, err)
	}
	again, err := spellAssertions(kept.GetAssertions())
	if err != nil || string(again) != golden {
		t.Errorf("spelled as %s, %v", again, err)
	}
	if none, err := openAssertions(nil); err != nil || len(none.GetAssertions()) != 0 {
		t.Errorf("%v, %v", none, err)
	}
	for _, bad := range []string{"", "2{}", "1", "1[]"} {
		if kept, err := openAssertions([]byte(bad)); fault.KindOf(err) != fault.Integrity || err == nil {
			t.Errorf("%q was read as %v, %v", bad, kept, err)
		}
	}
}
