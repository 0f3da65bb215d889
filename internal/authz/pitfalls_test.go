package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// The twelve pitfalls of engines like this one, each with its number in the
// research on our peers.

const blocking = `model
  schema 1.1
type user
type group
  relations
    define member: [user, user:*, group#member] but not banned
    define banned: [user, user:* with strict, group#member]
type doc
  relations
    define parent: [doc]
    define allowed: [user, user:*, group#member, user with strict]
    define blocked: [user, user with strict, group#member] or blocked from parent
    define viewer: allowed but not blocked
    define both: [user, user:*] and viewer
condition strict(level: int) {
  level > 3
}
`

func (w *world) expect(t *testing.T, asked Asked, want map[string]string) {
	t.Helper()
	for q, want := range want {
		x := tuple(q)
		for _, explain := range []bool{true, false} {
			d, err := w.Check(context.Background(), Query{Store: w.store, Object: x.Object, Relation: x.Relation, Subject: x.Subject, Asked: asked, Explain: explain})
			if got := outcome(d, err); got != want {
				t.Errorf("%s: %s (%v), want %s\n%s", q, got, err, want, d.Trace)
			}
		}
		l, err := w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: typeOf(x.Object), Relation: x.Relation, Subject: x.Subject, Asked: asked})
		if err == nil && want != "error" && want != "deep" && slices.Contains(l.Names, x.Object) != (want == "allow") {
			t.Errorf("%s: the list of objects is %v", q, l.Names)
		}
	}
}

func with(q, condition, context string) relation.Tuple {
	x := tuple(q)
	x.Condition, x.Context = condition, context
	return x
}

func TestPitfall01NegativeBranchesAreEvaluatedToTheEnd(t *testing.T) {
	t.Parallel()
	list := []string{"doc:a#allowed@user:*", "doc:a#blocked@group:g#member", "group:g#member@user:eve", "doc:b#allowed@user:eve", "doc:b#parent@doc:a", "doc:c#allowed@user:eve"}
	for i := range 30 { // a block that is too far away to see is no reason to allow
		list = append(list, fmt.Sprintf("doc:c%d#parent@doc:c%d", i, i+1))
	}
	w := newWorld(t, blocking, append(list, "doc:c#parent@doc:c0", "doc:c30#blocked@user:eve")...)
	w.write(t, []relation.Tuple{with("doc:d#allowed@user:eve", "", ""), with("doc:d#blocked@user:eve", "strict", "")}, nil)
	w.expect(t, Asked{}, map[string]string{
		"doc:a#viewer@user:eve": "deny", "doc:a#viewer@user:bob": "allow", "doc:a#viewer@user:*": "allow",
		"doc:b#viewer@user:eve": "deny",
		"doc:c#viewer@user:eve": "deep", "doc:c#viewer@user:bob": "deny",
		"doc:d#viewer@user:eve": "error", "doc:d#viewer@user:bob": "deny",
	})
	w.expect(t, Asked{Context: map[string]any{"level": 4.0}}, map[string]string{"doc:d#viewer@user:eve": "deny"})
	w.expect(t, Asked{Context: map[string]any{"level": 3.0}}, map[string]string{"doc:d#viewer@user:eve": "allow"})
}

func TestPitfall02Cycles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `model
  schema 1.1
type user
type doc
  relations
    define restricted: [user, doc#viewer, doc#restricted]
    define viewer: [user] but not restricted
    define a: [user, doc#b] and c
    define b: [user, doc#a]
    define c: [user]
`,
		"doc:1#viewer@user:jon", "doc:1#restricted@doc:1#viewer", // restricted, because not restricted
		"doc:2#viewer@user:jon", "doc:2#restricted@doc:2#restricted", // a circle without a reason
		"doc:3#a@doc:3#b", "doc:3#b@doc:3#a", "doc:3#c@user:jon", // each because of the other
		"doc:4#a@doc:4#b", "doc:4#b@doc:4#a", "doc:4#c@user:jon", "doc:4#b@user:jon", // now with a reason
	)
	w.expect(t, Asked{}, map[string]string{
		"doc:1#viewer@user:jon": "deny", "doc:2#viewer@user:jon": "allow", "doc:3#a@user:jon": "deny", "doc:3#b@user:jon": "deny",
		"doc:4#a@user:jon": "allow", "doc:4#b@user:jon": "allow",
	})
}

func TestPitfall03ConditionsHaveThreeValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, blocking, "doc:b#allowed@user:eve", "doc:b#both@user:*")
	w.write(t, []relation.Tuple{
		with("doc:a#allowed@user:eve", "strict", ""), with("doc:c#allowed@user:eve", "strict", `{"level":9}`), with("doc:d#allowed@user:eve", "strict", `{"level":1}`),
		with("doc:a#both@user:eve", "", ""), with("doc:b#blocked@user:bob", "strict", ""),
	}, nil)
	w.expect(t, Asked{}, map[string]string{
		"doc:a#allowed@user:eve": "error", "doc:a#allowed@user:bob": "deny", "doc:a#both@user:eve": "error", "doc:a#both@user:bob": "deny",
		"doc:c#allowed@user:eve": "allow", "doc:d#allowed@user:eve": "deny",
		"doc:b#viewer@user:eve": "allow", "doc:b#viewer@user:bob": "deny", // unknown on the side that does not matter
	})
	w.expect(t, Asked{Context: map[string]any{"level": "four"}}, map[string]string{"doc:a#allowed@user:eve": "error", "doc:c#allowed@user:eve": "allow"})
	if _, err := w.ask(t, "doc:a#allowed@user:eve"); !errors.Is(err, ErrCondition) || !strings.Contains(fault.Public(err), "level") {
		t.Errorf("the error does not say what is missing: %v", err)
	}
}

func TestPitfall04Wildcards(t *testing.T) {
	t.Parallel()
	w := newWorld(t, blocking, "doc:a#allowed@user:*", "doc:a#blocked@user:eve", "group:g#member@user:*", "doc:b#allowed@group:g#member", "group:g#banned@user:mallory", "doc:b#both@user:*")
	w.expect(t, Asked{}, map[string]string{
		"doc:a#viewer@user:*": "allow", "doc:a#viewer@user:eve": "deny", "doc:a#viewer@user:nobody-knows": "allow",
		"doc:b#viewer@user:eve": "allow", "doc:b#viewer@user:mallory": "deny", "doc:b#viewer@user:*": "allow",
		"doc:a#viewer@group:g#member": "deny", "doc:b#viewer@group:g#member": "allow", "doc:b#both@user:zoe": "allow",
	})
	l, err := w.ListUsers(context.Background(), UsersQuery{Store: w.store, Object: "doc:a", Relation: "viewer", Type: "user"})
	if err != nil || !slices.Equal(l.Names, []string{"user:*"}) {
		t.Errorf("%v, %v", l.Names, err)
	}
	if s := w.Stats(); s.Tuples != 6 {
		t.Errorf("wildcards made %d tuples", s.Tuples)
	}
}

func TestPitfall05DepthIsAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, append(groups(40), "team:3#member@user:near")...)
	for _, q := range []string{"team:0#member@user:x", "team:20#member@user:x", "team:0#member@user:near", "team:0#member@user:nobody"} {
		want := map[string]string{"team:0#member@user:x": "deep", "team:20#member@user:x": "allow", "team:0#member@user:near": "allow", "team:0#member@user:nobody": "deny"}[q]
		w.expect(t, Asked{}, map[string]string{q: want}) // with group sets, which hide the depth, and without
	}
	if _, err := w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: "team", Relation: "member", Subject: "user:x"}); fault.KindOf(err) != fault.Exhausted {
		t.Errorf("a list with a member that is too deep: %v", err)
	}
}

func TestPitfall06OldModelsAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, append(demo, "document:news#writer@user:zoe")...)
	old, _ := w.ActiveModel("docs")
	next := strings.Replace(docs, "define viewer: [user, user:*, service, team#member] or editor or viewer from parent\n    define can_view", "define viewer: [user, service] or editor or viewer from parent\n    define can_view", 1)
	if _, err := w.enforce(Draft{Model: next}); err != nil {
		t.Fatal(err)
	}
	w.expect(t, Asked{}, map[string]string{"document:news#can_view@user:any": "deny", "document:memo#can_view@user:eve": "deny", "document:roadmap#can_view@user:carol": "allow"})
	w.expect(t, Asked{Model: old.ID()}, map[string]string{"document:news#can_view@user:any": "allow", "document:memo#can_view@user:eve": "allow", "document:roadmap#can_view@user:carol": "allow"})
	if _, err := w.Check(context.Background(), Query{Store: w.store, Object: "document:news", Relation: "viewer", Subject: "user:a", Asked: Asked{Model: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}}); !errors.Is(err, ErrNoModel) {
		t.Errorf("a model that the store never had: %v", err)
	}
}

func TestPitfall07ContextualTuplesLeaveNoTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	before := map[string]string{"document:memo#can_view@user:dave": "deny", "document:new#can_view@user:dave": "deny", "document:memo#can_edit@user:frank": "allow"}
	joined := Asked{Contextual: tuples("team:guests#member@user:dave", "team:ops#member@team:guests#member", "document:new#parent@folder:fresh", "folder:fresh#viewer@team:core#member")}
	for range 3 {
		w.expect(t, Asked{}, before)
		w.expect(t, joined, map[string]string{"document:memo#can_view@user:dave": "allow", "document:memo#can_edit@user:dave": "allow", "document:new#can_view@user:eve": "allow", "document:new#can_view@user:dave": "allow"})
	}
	past := tuple("team:ops#member@user:frank")
	past.Expires = 1 // stands in place of the stored one, and has ended
	w.expect(t, Asked{Contextual: []relation.Tuple{past}}, map[string]string{"document:memo#can_edit@user:frank": "deny"})
	w.expect(t, Asked{}, before)
	for name, bad := range map[string][]relation.Tuple{"not allowed": tuples("folder:x#owner@user:*"), "unknown type": tuples("planet:x#owner@user:a"), "malformed": tuples("folder:#owner@user:a")} {
		if _, err := w.Check(context.Background(), Query{Store: w.store, Object: "folder:x", Relation: "owner", Subject: "user:a", Asked: Asked{Contextual: bad}}); !errors.Is(err, ErrTuple) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var many []relation.Tuple
	for i := range MaxContextual + 1 {
		many = append(many, tuple(fmt.Sprintf("folder:x#owner@user:%d", i)))
	}
	if _, err := w.Check(context.Background(), Query{Store: w.store, Object: "folder:x", Relation: "owner", Subject: "user:a", Asked: Asked{Contextual: many}}); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("too many: %v", err)
	}
}

// not parallel: it measures the heap of the whole process.
func TestPitfall08Memory(t *testing.T) {
	set, questions := drive(1)
	list := make([]relation.Tuple, 0, len(set))
	long := func(s string) string { // ids of 36 bytes, as UUIDs
		object, rel, userset := strings.Cut(s, "#")
		typ, id, _ := strings.Cut(object, ":")
		object = typ + ":" + (id + strings.Repeat("-", 36))[:36]
		if userset {
			object += "#" + rel
		}
		return object
	}
	for tu := range set {
		list = append(list, relation.Tuple{Object: long(tu.Object), Relation: tu.Relation, Subject: long(tu.Subject)})
	}
	before := heap()
	w := newWorld(t, docs)
	b := newBuilder(w.application("docs").syms)
	for _, tu := range list {
		if err := b.add(tu); err != nil {
			t.Fatal(err)
		}
	}
	g, err := b.graph(1)
	if err != nil {
		t.Fatal(err)
	}
	ent := w.stores.getOrAdd(w.store, w.application("docs"))
	ent.graph = g
	ent.snap.Store(g.cur)
	for _, kind := range kinds {
		for _, q := range questions[kind.name] { // the group sets count, too
			d, err := w.Check(context.Background(), Query{Store: w.store, Object: long(q.Object), Relation: q.Relation, Subject: long(q.Subject)})
			if err != nil || d.Allowed != kind.want {
				t.Fatalf("%v: %+v, %v", q, d, err)
			}
		}
	}
	b = nil
	weight := float64(heap()-before) / float64(len(list))
	t.Logf("%.0f bytes a tuple", weight)
	if weight > 150 {
		t.Errorf("%.0f bytes a tuple", weight)
	}
}

func TestPitfall09ColdStores(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	known := map[relation.StoreID]bool{}
	w.cfg.Application = func(id relation.StoreID) (string, bool) { return "docs", known[id] }
	w.cfg.Memory = 1 // any two are too many
	var ids []relation.StoreID
	for i := range 4 {
		id := relation.StoreID(tenant.RandomID())
		ids, known[id] = append(ids, id), true
		w.db.seed(id, fmt.Sprintf("folder:f#owner@user:%d", i))
	}
	var wg sync.WaitGroup
	for reader := range 4 { // stores leave while others ask
		wg.Go(func() {
			for n := range 200 {
				i := (n*7 + reader) % len(ids)
				for subject := range len(ids) {
					d, err := w.Check(context.Background(), Query{Store: ids[i], Object: "folder:f", Relation: "viewer", Subject: fmt.Sprintf("user:%d", subject)})
					if err != nil || d.Allowed != (subject == i) {
						t.Errorf("%+v, %v", d, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if s := w.Stats(); s.Evictions == 0 || s.Stores > 2 || s.Loads < 5 {
		t.Errorf("%+v", s)
	}
}

func TestPitfall10GapsAreSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	w.expect(t, Asked{}, map[string]string{"document:roadmap#can_view@user:alice": "allow"})
	w.db.dropBatch = func(rev uint64) bool { return rev%2 == 0 }
	w.write(t, nil, tuples("folder:plans#owner@user:alice"))
	w.write(t, tuples("folder:other#owner@user:alice"), nil)
	w.expect(t, Asked{}, map[string]string{"document:roadmap#can_view@user:alice": "deny", "folder:other#viewer@user:alice": "allow"})
	if w.Stats().Resyncs == 0 {
		t.Error("no load was made necessary")
	}
}

// not parallel: it counts the allocations of the whole process.
func TestPitfall11GroupWritesTouchNoMembers(t *testing.T) {
	w := newWorld(t, docs)
	set := w.db.tuples[w.store]
	add := func(s string) { x := tuple(s); set[x.Key()] = x }
	w.db.seed(w.store)
	set = w.db.tuples[w.store]
	const members = 20_000
	for i := range members {
		add(fmt.Sprintf("team:big#member@user:%d", i))
	}
	add("folder:f#viewer@team:top#member")
	ask := func(i int) bool {
		d, err := w.Check(context.Background(), Query{Store: w.store, Object: "folder:f", Relation: "viewer", Subject: fmt.Sprintf("user:%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		return d.Allowed
	}
	for i := range members {
		if ask(i) {
			t.Fatal("too early")
		}
	}
	link := tuples("team:top#member@team:big#member")
	if n := testing.AllocsPerRun(10, func() {
		w.write(t, link, nil)
		w.write(t, nil, link)
	}); n > 200 {
		t.Errorf("joining a group of %d members costs %v allocations", members, n)
	}
	w.write(t, link, nil)
	for i := range members {
		if !ask(i) {
			t.Fatalf("member %d is not there yet", i)
		}
	}
}

func TestPitfall12HugeListsAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, "folder:f#viewer@user:a")
	ctx := context.Background()
	q := ObjectsQuery{Store: w.store, Type: "folder", Relation: "viewer", Subject: "user:a"}
	if _, err := w.ListObjects(ctx, q); err != nil {
		t.Fatal(err)
	}
	ev, err := w.Engine.ask(ctx, w.store, &Asked{})
	if err != nil {
		t.Fatal(err)
	}
	ev.limit = 0 // as after four million tuples
	if ev.who, err = ev.askerOf("user:a"); err != nil {
		t.Fatal(err)
	}
	wave := &wave{ev: ev}
	found := wave.objects(ev.model.types["folder"].programs["viewer"])
	if l, err := w.list(w.store, wave, nil, 0, ""); err != nil || !l.Truncated || len(found) > 1 {
		t.Errorf("%+v, %v", l, err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	big := newWorld(t, docs)
	big.db.seed(big.store)
	for i := range 5000 {
		x := tuple(fmt.Sprintf("folder:%d#viewer@user:a", i))
		big.db.tuples[big.store][x] = x
	}
	q.Store = big.store
	if l, err := big.ListObjects(ctx, q); err != nil || len(l.Names) != 5000 || l.Truncated {
		t.Errorf("%d, %v", len(l.Names), err) // no silent cap at a thousand
	}
	if _, err := big.ListObjects(gone, q); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has gone: %v", err)
	}
	// Pages join to the whole.
	var joined []string
	for q.Limit = 700; ; {
		l, err := big.ListObjects(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		joined = append(joined, l.Names...)
		if q.After = l.Next; l.Next == "" {
			break
		}
	}
	if len(joined) != 5000 || !slices.IsSorted(joined) {
		t.Errorf("%d names in pages", len(joined))
	}
}
