package openfga_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

const notes = `model
  schema 1.1
type user
type team
  relations
    define member: [user, team#member]
type note
  relations
    define owner: [user]
    define blocked: [user]
    define reader: [user, user:*, team#member, user with office] or owner
    define can_read: reader but not blocked
condition office(hour: int, open: int) {
  hour >= open
}
`

func values(t testing.TB, m map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asked(user, rel, object string) *fga.CheckRequestTupleKey {
	return &fga.CheckRequestTupleKey{User: user, Relation: rel, Object: object}
}

// Every call of the service, over TLS, on a store that its caller made.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	manager, author := w.as("access_manager@acme"), w.as("policy_author@acme")
	made, err := w.grpc.CreateStore(manager, &fga.CreateStoreRequest{Name: "my notes"})
	w.Must(err)
	id := made.GetId()
	got, err := w.grpc.GetStore(manager, &fga.GetStoreRequest{StoreId: id})
	w.Must(err)
	if got.GetName() != "my notes" || !got.GetCreatedAt().AsTime().Equal(made.GetCreatedAt().AsTime()) || made.GetCreatedAt().AsTime().IsZero() {
		t.Errorf("made %v, got %v", made, got)
	}
	model := w.publish(id, notes)
	back, err := w.grpc.ReadAuthorizationModel(author, &fga.ReadAuthorizationModelRequest{StoreId: id, Id: model})
	w.Must(err)
	want := parse(t, notes)
	want.Id = model
	if diff := cmp.Diff(want, back.GetAuthorizationModel(), protocmp.Transform()); diff != "" {
		t.Errorf("the model came back as %s", diff)
	}
	write(t, w, manager, id)
	questions(t, w, manager, id, model)
	var header metadata.MD
	page, err := w.grpc.Read(manager, &fga.ReadRequest{StoreId: id, TupleKey: &fga.ReadRequestTupleKey{User: "user:dan"}}, grpc.Header(&header))
	w.Must(err)
	if len(page.GetTuples()) != 1 || page.GetTuples()[0].GetTimestamp().AsTime().IsZero() || len(header.Get("bulwark-revision")) != 1 {
		t.Errorf("read %v with %v", page, header)
	}
	if diff := cmp.Diff(guarded(t), page.GetTuples()[0].GetKey(), protocmp.Transform()); diff != "" {
		t.Errorf("a conditional tuple came back as %s", diff)
	}
	changes, err := w.grpc.ReadChanges(manager, &fga.ReadChangesRequest{StoreId: id, Type: "team"})
	w.Must(err)
	if len(changes.GetChanges()) != 1 || changes.GetChanges()[0].GetTupleKey().GetObject() != "team:core" || changes.GetContinuationToken() == "" {
		t.Errorf("changes %v", changes)
	}
	_, err = w.grpc.DeleteStore(manager, &fga.DeleteStoreRequest{StoreId: id})
	w.Must(err)
	if _, err := w.grpc.GetStore(manager, &fga.GetStoreRequest{StoreId: id}); code(err) != int(fga.NotFoundErrorCode_store_id_not_found) {
		t.Errorf("a deleted store answers %v", err)
	}
	if _, err := w.grpc.UpdateStore(manager, &fga.UpdateStoreRequest{StoreId: id, Name: "other"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("updating answers %v", err)
	}
}

func guarded(t testing.TB) *fga.TupleKey {
	return &fga.TupleKey{User: "user:dan", Relation: "reader", Object: "note:plan", Condition: &fga.RelationshipCondition{
		Name: "office", Context: values(t, map[string]any{"open": 9.0}),
	}}
}

func write(t *testing.T, w *world, manager context.Context, id string) {
	t.Helper()
	_, err := w.grpc.Write(manager, &fga.WriteRequest{StoreId: id, Writes: &fga.WriteRequestWrites{TupleKeys: []*fga.TupleKey{
		{User: "user:anne", Relation: "owner", Object: "note:plan"},
		{User: "team:core#member", Relation: "reader", Object: "note:plan"},
		{User: "user:bob", Relation: "member", Object: "team:core"},
		{User: "user:anne", Relation: "owner", Object: "note:other"},
		{User: "user:anne", Relation: "blocked", Object: "note:other"},
		guarded(t),
	}}})
	w.Must(err)
	again := &fga.WriteRequest{StoreId: id, Writes: &fga.WriteRequestWrites{
		TupleKeys: []*fga.TupleKey{guarded(t)}, OnDuplicate: "ignore",
	}, Deletes: &fga.WriteRequestDeletes{
		TupleKeys: []*fga.TupleKeyWithoutCondition{{User: "user:nobody", Relation: "owner", Object: "note:plan"}}, OnMissing: "ignore",
	}}
	if _, err := w.grpc.Write(manager, again); err != nil {
		t.Errorf("what is there and what is not are not ignored: %v", err)
	}
	other := guarded(t)
	other.Condition.Context = values(t, map[string]any{"open": 10.0})
	again.Writes.TupleKeys = []*fga.TupleKey{other}
	if _, err := w.grpc.Write(manager, again); code(err) != int(fga.ErrorCode_write_failed_due_to_invalid_input) {
		t.Errorf("a duplicate under another condition: %v", err)
	}
	again.Deletes.OnMissing, again.Writes = "error", nil
	if _, err := w.grpc.Write(manager, again); code(err) != int(fga.ErrorCode_write_failed_due_to_invalid_input) {
		t.Errorf("a missing tuple: %v", err)
	}
}

func questions(t *testing.T, w *world, manager context.Context, id, model string) {
	t.Helper()
	check := func(q *fga.CheckRequest) bool {
		t.Helper()
		q.StoreId = id
		var header metadata.MD
		r, err := w.grpc.Check(manager, q, grpc.Header(&header))
		w.Must(err)
		if len(header.Get("bulwark-revision")) != 1 || header.Get("openfga-authorization-model-id")[0] != model || len(header.Get("bulwark-request-id")) != 1 {
			t.Errorf("the answer came with %v", header)
		}
		if (r.GetResolution() != "") != q.GetTrace() {
			t.Errorf("resolution %q", r.GetResolution())
		}
		return r.GetAllowed()
	}
	late, early := values(t, map[string]any{"hour": 12.0}), values(t, map[string]any{"hour": 3.0})
	contextual := &fga.ContextualTupleKeys{TupleKeys: []*fga.TupleKey{{User: "user:eve", Relation: "member", Object: "team:core"}}}
	for name, c := range map[string]struct {
		q    *fga.CheckRequest
		want bool
	}{
		"owner":        {&fga.CheckRequest{TupleKey: asked("user:anne", "can_read", "note:plan"), Trace: true}, true},
		"member":       {&fga.CheckRequest{TupleKey: asked("user:bob", "can_read", "note:plan"), AuthorizationModelId: model}, true},
		"blocked":      {&fga.CheckRequest{TupleKey: asked("user:anne", "can_read", "note:other"), Trace: true}, false},
		"in time":      {&fga.CheckRequest{TupleKey: asked("user:dan", "can_read", "note:plan"), Context: late}, true},
		"too early":    {&fga.CheckRequest{TupleKey: asked("user:dan", "can_read", "note:plan"), Context: early}, false},
		"nobody":       {&fga.CheckRequest{TupleKey: asked("user:eve", "can_read", "note:plan")}, false},
		"contextually": {&fga.CheckRequest{TupleKey: asked("user:eve", "can_read", "note:plan"), ContextualTuples: contextual}, true},
	} {
		if check(c.q) != c.want {
			t.Errorf("%s: not %v", name, c.want)
		}
	}
	if _, err := w.grpc.Check(manager, &fga.CheckRequest{StoreId: id, TupleKey: asked("user:dan", "can_read", "note:plan")}); code(err) != 2000 {
		t.Errorf("a condition without its parameter: %v", err)
	}
	batch, err := w.grpc.BatchCheck(manager, &fga.BatchCheckRequest{StoreId: id, Checks: []*fga.BatchCheckItem{
		{CorrelationId: "a", TupleKey: asked("user:anne", "can_read", "note:plan")},
		{CorrelationId: "b", TupleKey: asked("user:eve", "can_read", "note:plan"), ContextualTuples: contextual},
		{CorrelationId: "c", TupleKey: asked("user:eve", "can_read", "note:plan")},
		{CorrelationId: "d", TupleKey: asked("user:eve", "unknown", "note:plan")},
		{CorrelationId: "e", TupleKey: asked("user:dan", "can_read", "note:plan")},
		{CorrelationId: "f", TupleKey: asked("user:dan", "can_read", "note:plan"), Context: late},
		{CorrelationId: "g", TupleKey: asked("user:anne", "can_read", "note:plan"), ContextualTuples: &fga.ContextualTupleKeys{
			TupleKeys: []*fga.TupleKey{{User: "note:x", Relation: "member", Object: "team:core"}}}},
	}})
	w.Must(err)
	for cid, want := range map[string]any{"a": true, "b": true, "c": false, "d": fga.ErrorCode_validation_error, "e": fga.ErrorCode_validation_error, "f": true, "g": fga.ErrorCode_invalid_tuple} {
		r := batch.GetResult()[cid]
		if got := any(r.GetAllowed()); r.GetError() == nil && got != want || r.GetError() != nil && any(r.GetError().GetInputError()) != want {
			t.Errorf("%s: %v, want %v", cid, r, want)
		}
	}
	lists(t, w, manager, id, late)
}

func lists(t *testing.T, w *world, manager context.Context, id string, late *structpb.Struct) {
	t.Helper()
	objects, err := w.grpc.ListObjects(manager, &fga.ListObjectsRequest{StoreId: id, Type: "note", Relation: "reader", User: "user:anne"})
	w.Must(err)
	if got := strings.Join(objects.GetObjects(), " "); got != "note:other note:plan" {
		t.Errorf("objects %v", got)
	}
	stream, err := w.grpc.StreamedListObjects(manager, &fga.StreamedListObjectsRequest{StoreId: id, Type: "note", Relation: "can_read", User: "user:dan", Context: late})
	w.Must(err)
	one, err := stream.Recv()
	w.Must(err)
	if _, end := stream.Recv(); one.GetObject() != "note:plan" || end != io.EOF {
		t.Errorf("streamed %v, then %v", one, end)
	}
	if header, err := stream.Header(); err != nil || len(header.Get("bulwark-revision")) != 1 {
		t.Errorf("a stream came with %v, %v", header, err)
	}
	users := func(filter *fga.UserTypeFilter) string {
		t.Helper()
		r, err := w.grpc.ListUsers(manager, &fga.ListUsersRequest{
			StoreId: id, Object: &fga.Object{Type: "note", Id: "plan"}, Relation: "can_read", UserFilters: []*fga.UserTypeFilter{filter}, Context: late,
		})
		w.Must(err)
		var names []string
		for _, u := range r.GetUsers() {
			switch u := u.GetUser().(type) {
			case *fga.User_Object:
				names = append(names, u.Object.GetType()+":"+u.Object.GetId())
			case *fga.User_Userset:
				names = append(names, u.Userset.GetType()+":"+u.Userset.GetId()+"#"+u.Userset.GetRelation())
			}
		}
		return strings.Join(names, " ")
	}
	if got := users(&fga.UserTypeFilter{Type: "user"}); got != "user:anne user:bob user:dan" {
		t.Errorf("users %s", got)
	}
	if got := users(&fga.UserTypeFilter{Type: "team", Relation: "member"}); got != "team:core#member" {
		t.Errorf("usersets %s", got)
	}
	x, err := w.grpc.Expand(manager, &fga.ExpandRequest{StoreId: id, TupleKey: &fga.ExpandRequestTupleKey{Object: "note:plan", Relation: "can_read"}})
	w.Must(err)
	if d := x.GetTree().GetRoot().GetDifference(); d.GetBase().GetLeaf().GetComputed().GetUserset() != "note:plan#reader" || d.GetSubtract().GetLeaf().GetComputed().GetUserset() != "note:plan#blocked" {
		t.Errorf("expanded to %v", x)
	}
	x, err = w.grpc.Expand(manager, &fga.ExpandRequest{StoreId: id, TupleKey: &fga.ExpandRequestTupleKey{Object: "note:plan", Relation: "reader"}})
	w.Must(err)
	if u := x.GetTree().GetRoot().GetUnion().GetNodes(); len(u) != 2 || strings.Join(u[0].GetLeaf().GetUsers().GetUsers(), " ") != "team:core#member user:dan" {
		t.Errorf("expanded to %v", x)
	}
}

// Everyone of a type is one user in a list.
func TestListEveryone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := w.free(notes)
	w.put(store, "note:plan", "reader", "user:*", "note:plan", "reader", "user:anne")
	r, err := w.grpc.ListUsers(w.as("caller@acme"), &fga.ListUsersRequest{
		StoreId: string(store), Object: &fga.Object{Type: "note", Id: "plan"}, Relation: "reader", UserFilters: []*fga.UserTypeFilter{{Type: "user"}},
	})
	w.Must(err)
	if u := r.GetUsers(); len(u) != 2 || u[0].GetWildcard().GetType() != "user" || u[1].GetObject().GetId() != "anne" {
		t.Errorf("%v", r)
	}
}

// code is the status of an error as OpenFGA numbers it.
func code(err error) int { return int(status.Code(err)) }

// A sample of every way to fail, with the status that OpenFGA's own server gives.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := string(w.graph("acme"))
	none := tenant.RandomID()
	good := asked("user:x", "viewer", "folder:y")
	check := func(ctx context.Context, q *fga.CheckRequest) error {
		_, err := w.grpc.Check(ctx, q)
		return err
	}
	caller := w.as("caller@acme")
	token := "Bearer " + w.Token("caller@acme", "authz")
	bad := &fga.ContextualTupleKeys{TupleKeys: []*fga.TupleKey{{User: "folder:x", Relation: "viewer", Object: "folder:y"}}}
	bare := w.free("")
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"no token":         {check(t.Context(), &fga.CheckRequest{StoreId: id, TupleKey: good}), 1500},
		"two tokens":       {check(metadata.AppendToOutgoingContext(t.Context(), "authorization", token, "authorization", token), &fga.CheckRequest{StoreId: id, TupleKey: good}), 1500},
		"another audience": {check(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+w.Token("caller@acme", "admin")), &fga.CheckRequest{StoreId: id, TupleKey: good}), 1500},
		"nobody":           {check(w.as("nobody@acme"), &fga.CheckRequest{StoreId: id, TupleKey: good}), 1600},
		"malformed":        {check(caller, &fga.CheckRequest{StoreId: id}), int(codes.InvalidArgument)},
		"no store":         {check(caller, &fga.CheckRequest{StoreId: none, TupleKey: good}), 5002},
		"no model at all":  {check(caller, &fga.CheckRequest{StoreId: string(bare), TupleKey: good}), 2020},
		"no such model":    {check(caller, &fga.CheckRequest{StoreId: id, TupleKey: good, AuthorizationModelId: none}), 2001},
		"no such type":     {check(caller, &fga.CheckRequest{StoreId: id, TupleKey: asked("user:x", "viewer", "galaxy:y")}), 2000},
		"contextual tuple": {check(caller, &fga.CheckRequest{StoreId: id, TupleKey: good, ContextualTuples: bad}), 2027},
		"two at-least":     {check(w.as("caller@acme", "bulwark-at-least", "a", "bulwark-at-least", "b"), &fga.CheckRequest{StoreId: id, TupleKey: good}), 2000},
		"no revision":      {check(w.as("caller@acme", "bulwark-at-least", "a"), &fga.CheckRequest{StoreId: id, TupleKey: good}), 2000},
	} {
		if code(c.err) != c.want {
			t.Errorf("%s: %v, want %d", name, c.err, c.want)
		}
	}
	gone, leave := context.WithCancel(caller)
	leave()
	if err := check(gone, &fga.CheckRequest{StoreId: id, TupleKey: good}); status.Code(err) != codes.Canceled {
		t.Errorf("who left: %v", err)
	}
}

// A refusal over gRPC is in the log like one over HTTP.
func TestRecordOverGRPC(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := string(w.graph("acme"))
	var header metadata.MD
	_, err := w.grpc.Check(w.as("caller@acme"), &fga.CheckRequest{StoreId: id, TupleKey: asked("user:x", "viewer", "folder:y"),
		ContextualTuples: &fga.ContextualTupleKeys{TupleKeys: []*fga.TupleKey{{User: "user:x", Relation: "viewer", Object: "folder:y"}}}}, grpc.Header(&header))
	w.Must(err)
	ev := w.One(header.Get("bulwark-request-id")[0])
	if ev.Class != ledger.Check || ev.Decision != "allow" || ev.Resource != "folder:y" || ev.Relation != "viewer" || ev.Detail["asked"] != "user:x" ||
		ev.Detail["contextual"] != "folder:y#viewer@user:x" || ev.Revision.Store != relation.StoreID(id) || ev.Model == "" || ev.Source == "" {
		t.Errorf("recorded as %+v", ev)
	}
	_, err = w.grpc.Read(w.as("caller@acme"), &fga.ReadRequest{StoreId: id, PageSize: wrapperspb.Int32(1)}, grpc.Header(&header))
	if code(err) != 1600 {
		t.Errorf("%v", err)
	}
	refused := w.Events(filterOf(w, "caller@acme"), func(all []ledger.Event) bool { return len(all) > 0 })[0]
	if refused.Action != "tuple.read" || refused.Relation != "can_read_tuples" || refused.Reason != "no_relation" {
		t.Errorf("recorded as %+v", refused)
	}
}

// The same refusal over both doors says the same.
func TestSameWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.graph("globex")
	_, err := w.grpc.Check(w.as("caller@acme"), &fga.CheckRequest{StoreId: string(id), TupleKey: asked("user:x", "viewer", "folder:y")})
	r := w.send("POST", "/stores/"+string(id)+"/check", `{"tuple_key":`+tuple("user:x", "viewer", "folder:y")+`}`, guardtest.Bearer(w.Token("caller@acme", "authz")))
	if !strings.Contains(r.Body, `"message":"`+status.Convert(err).Message()+`"`) || r.Status != 404 {
		t.Errorf("%v; %d %s", err, r.Status, r.Body)
	}
}
