package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
)

// groups is a chain of n teams, each a member of the one before; user:x is in the last.
func groups(n int) []string {
	var list []string
	for i := 1; i < n; i++ {
		list = append(list, fmt.Sprintf("team:%d#member@team:%d#member", i-1, i))
	}
	return append(list, fmt.Sprintf("team:%d#member@user:x", n-1))
}

// 25 levels are an error, not a deny; a short way beside the long one counts.
func TestDepth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		extra []string
		n     int
		want  string
	}{
		{"24 hops", nil, 25, "allow"},
		{"25 hops", nil, 26, "deep"},
		{"100 hops", nil, 101, "deep"},
		{"a short cut", []string{"team:0#member@team:50#member"}, 60, "allow"},
		{"a way round that is short", []string{"team:0#member@user:x"}, 60, "allow"},
		{"a cycle of 60", []string{"team:59#member@team:0#member"}, 60, "deep"},
		{"a cycle of 20", []string{"team:19#member@team:0#member"}, 20, "allow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, docs, append(groups(c.n), c.extra...)...)
			d, err := w.ask(t, "team:0#member@user:x")
			if got := outcome(d, err); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// Cycles of groups and of folders end, and what stands on them is found from
// everywhere on them.
func TestCycles(t *testing.T) {
	t.Parallel()
	var list []string
	const n = 12
	for i := range n {
		list = append(list,
			fmt.Sprintf("team:%d#member@team:%d#member", i, (i+1)%n),
			fmt.Sprintf("team:%d#member@team:%d#member", i, (i+5)%n),
			fmt.Sprintf("folder:%d#parent@folder:%d", i, (i+1)%n))
	}
	list = append(list, "team:7#member@user:x", "folder:7#viewer@team:3#member", "folder:self#parent@folder:self")
	w := newWorld(t, docs, list...)
	for i := range n {
		for q, want := range map[string]string{
			fmt.Sprintf("team:%d#member@user:x", i):   "allow",
			fmt.Sprintf("team:%d#member@user:y", i):   "deny",
			fmt.Sprintf("folder:%d#viewer@user:x", i): "allow",
			fmt.Sprintf("folder:%d#editor@user:x", i): "deny",
			"folder:self#viewer@user:x":               "deny",
		} {
			d, err := w.ask(t, q)
			if got := outcome(d, err); got != want {
				t.Errorf("%s: %s, want %s", q, got, want)
			}
		}
	}
}

// A question that leads through too much is refused, and a caller who has gone
// does not keep the processor.
func TestBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	set := w.db.tuples[w.store]
	for i := range 520 { // 520 groups that hold each other: 270,400 tuples
		for j := range 520 {
			x := tuple(fmt.Sprintf("team:%d#member@team:%d#member", i, j))
			set[x] = x
		}
	}
	d, err := w.Check(context.Background(), Query{Store: w.store, Object: "team:0", Relation: "member", Subject: "team:none#member"})
	if fault.KindOf(err) != fault.Exhausted || d.Allowed {
		t.Errorf("a flood of tuples: %+v, %v", d, err)
	}
	d, err = w.Check(context.Background(), Query{Store: w.store, Object: "team:0", Relation: "member", Subject: "team:519#member"})
	if err != nil || !d.Allowed {
		t.Errorf("a near answer in the flood: %+v, %v", d, err)
	}
}

func TestUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", demo...)
	q := Query{Store: w.store, Object: "document:roadmap", Relation: "can_view", Subject: "user:alice"}
	if d, err := w.Check(context.Background(), q); fault.KindOf(err) != fault.NotFound || d != (Decision{}) {
		t.Errorf("without a model: %+v, %v", d, err)
	}
	q.Store = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
	if d, err := w.Check(context.Background(), q); fault.KindOf(err) != fault.NotFound || d != (Decision{}) {
		t.Errorf("unknown store: %+v, %v", d, err)
	}
	if w.db.loads > 1 {
		t.Error("an unknown store was asked for in the database")
	}
	if (Decision{}).Allowed {
		t.Error("the zero decision allows")
	}
}

// Two stores of one application share nothing but the model.
func TestStoresAreApart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	other := relation.StoreID("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	application := w.Engine.cfg.Application
	w.Engine.cfg.Application = func(id relation.StoreID) (string, bool) {
		if id == other {
			return "docs", true
		}
		return application(id)
	}
	w.db.seed(other, "document:roadmap#viewer@user:mallory")
	for store, subject := range map[relation.StoreID]string{w.store: "user:mallory", other: "user:alice"} {
		d, err := w.Check(context.Background(), Query{Store: store, Object: "document:roadmap", Relation: "can_view", Subject: subject})
		if err != nil || d.Allowed {
			t.Errorf("%s of the other store: %+v, %v", subject, d, err)
		}
	}
	d, err := w.Check(context.Background(), Query{Store: other, Object: "document:roadmap", Relation: "can_view", Subject: "user:mallory"})
	if err != nil || !d.Allowed || d.Revision.Store != other {
		t.Errorf("mallory in the own store: %+v, %v", d, err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	write := func(writes, deletes []relation.Tuple) error {
		_, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: writes, Deletes: deletes})
		return err
	}
	many := func(n int) []relation.Tuple {
		var out []relation.Tuple
		for i := range n {
			out = append(out, tuple(fmt.Sprintf("folder:f%d#viewer@user:x", i)))
		}
		return out
	}
	for name, c := range map[string]struct {
		writes, deletes []relation.Tuple
		want            fault.Kind
	}{
		"nothing":                 {nil, nil, fault.Invalid},
		"too many":                {many(60), many(41), fault.TooLarge},
		"malformed":               {tuples("folder:a b#viewer@user:x"), nil, fault.Invalid},
		"unknown type":            {tuples("planet:a#viewer@user:x"), nil, fault.Invalid},
		"unknown relation":        {tuples("folder:a#boss@user:x"), nil, fault.Invalid},
		"computed relation":       {tuples("document:a#can_view@user:x"), nil, fault.Invalid},
		"restriction":             {tuples("folder:a#owner@user:*"), nil, fault.Invalid},
		"userset as parent":       {tuples("folder:a#parent@folder:b#viewer"), nil, fault.Invalid},
		"wildcard as parent":      {tuples("folder:a#parent@folder:*"), nil, fault.Invalid},
		"twice":                   {tuples("folder:a#viewer@user:x", "folder:a#viewer@user:x"), nil, fault.Invalid},
		"written and deleted":     {tuples("folder:a#viewer@user:x"), tuples("folder:a#viewer@user:x"), fault.Invalid},
		"exists":                  {tuples("folder:a#viewer@user:x", "folder:plans#owner@user:alice"), nil, fault.Conflict},
		"missing":                 {tuples("folder:a#viewer@user:x"), tuples("folder:b#viewer@user:x"), fault.Conflict},
		"malformed delete":        {nil, tuples("folder:#viewer@user:x"), fault.Invalid},
		"delete of unknown types": {nil, tuples("planet:a#viewer@user:x"), fault.Conflict}, // well formed, and not there
	} {
		if err := write(c.writes, c.deletes); err == nil || fault.KindOf(err) != c.want {
			t.Errorf("%s: %v, want kind %v", name, err, c.want)
		}
	}
	if d, err := w.ask(t, "folder:a#viewer@user:x"); err != nil || d.Allowed || d.Revision.Rev != 1 {
		t.Errorf("a refused write left something: %+v, %v", d, err)
	}
	if _, err := w.Write(context.Background(), ledger.Change{Store: w.system}, "", Write{Writes: tuples("system:x#auditor@user:mallory")}); fault.KindOf(err) != fault.Denied {
		t.Errorf("a system store: %v", err)
	}
	if _, err := w.Write(context.Background(), ledger.Change{Store: "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "", Write{Writes: tuples("folder:a#viewer@user:x")}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an unknown store: %v", err)
	}
	rev := w.write(t, many(100), nil)
	d, err := w.ask(t, "folder:f99#viewer@user:x")
	if err != nil || !d.Allowed || d.Revision != rev || rev.Rev != 2 {
		t.Errorf("the next check does not see the write of %v: %+v, %v", rev, d, err)
	}
	rev = w.write(t, tuples("document:roadmap#viewer@user:dave"), tuples("folder:plans#owner@user:alice"))
	for q, want := range map[string]string{"document:roadmap#can_view@user:dave": "allow", "document:roadmap#can_view@user:alice": "deny"} {
		if d, err := w.ask(t, q); outcome(d, err) != want || d.Revision != rev {
			t.Errorf("%s: %+v, %v", q, d, err)
		}
	}
	if n := len(w.db.events); n != 2 || w.db.events[1].Revision != rev {
		t.Errorf("%d events for 2 writes", n)
	}
	want := map[string]string{"writes": "document:roadmap#viewer@user:dave", "deletes": "folder:plans#owner@user:alice"}
	if diff := gocmp.Diff(want, w.db.events[1].Detail); diff != "" {
		t.Errorf("what the event names: %s", diff)
	}
}

// An event names as many tuples as it has room for, and counts the others.
func TestLargeWritesAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	var writes, deletes []relation.Tuple
	for i := range MaxWrite / 2 {
		long := fmt.Sprintf("folder:%s%d#viewer@user:%s", strings.Repeat("f", 200), i, strings.Repeat("u", 200))
		writes = append(writes, tuple(long))
		deletes = append(deletes, tuple("x"+long))
	}
	ev := ledger.Event{ID: tenant.RandomID(), Time: time.Now(), Class: ledger.Mutation, Tenant: tenant.New()}
	if _, err := w.Write(context.Background(), ledger.Change{Store: w.store, Event: ev}, "", Write{Writes: writes}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(context.Background(), ledger.Change{Store: w.store, Event: ev}, "", Write{Deletes: writes}); err != nil {
		t.Fatal(err)
	}
	got := w.db.events[0]
	named := len(strings.Fields(got.Detail["writes"]))
	if named < 10 || strconv.Itoa(len(writes)-named) != got.Detail["writes_unnamed"] {
		t.Errorf("%d tuples named, %q counted, of %d", named, got.Detail["writes_unnamed"], len(writes))
	}
	if w.db.events[1].Detail["deletes_unnamed"] == "" || len(ev.Detail) != 0 {
		t.Errorf("deletes: %v; the caller's event: %v", w.db.events[1].Detail, ev.Detail)
	}
	name(&got, "deletes", deletes)
	if _, err := ledger.AppendEvent(nil, &got, make([]byte, 16)); err != nil {
		t.Errorf("the largest event has no form: %v", err)
	}
}

// A new model judges old tuples: what it does not allow grants nothing, and
// comes back with the old model.
func TestModelUpgrade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, append(demo, "document:x#writer@user:alice", "document:y#viewer@planet:earth")...)
	first, _ := w.ActiveModel("docs")
	publish := func(src string) (string, error) {
		v, err := w.enforce(Draft{Model: src})
		return v.Model, err
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		for q, want := range want {
			if d, err := w.ask(t, q); outcome(d, err) != want {
				t.Errorf("%s: %s: %s (%v), want %s", when, q, outcome(d, err), err, want)
			}
		}
	}
	expect("before", map[string]string{
		"document:news#viewer@user:any": "allow", "document:memo#viewer@user:eve": "allow",
		"document:x#writer@user:alice": "invalid", "document:roadmap#viewer@user:alice": "allow",
	})
	second, err := publish("model\n  schema 1.1\ntype user\ntype team\n  relations\n    define member: [user]\ntype document\n  relations\n    define writer: [user]\n    define viewer: [user, team#member] or writer\n")
	if err != nil {
		t.Fatal(err)
	}
	expect("after", map[string]string{
		"document:news#viewer@user:any":      "deny",    // no wildcard any more
		"document:memo#viewer@user:eve":      "allow",   // the group stays
		"document:memo#viewer@user:frank":    "deny",    // groups do not nest any more
		"document:x#viewer@user:alice":       "allow",   // a tuple of an even older model fits again
		"document:roadmap#viewer@user:alice": "deny",    // no parents
		"folder:plans#owner@user:alice":      "invalid", // no folders
	})
	if _, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Deletes: tuples("folder:plans#owner@user:alice")}); err != nil {
		t.Errorf("a tuple of an older model cannot be deleted: %v", err)
	}
	if _, err := publish("model\n  schema 1.1\ntype user\ntype d\n  relations\n    define a: [user] but not a\n"); err == nil {
		t.Error("an unsupported model was published")
	}
	if m, _ := w.ActiveModel("docs"); m.ID() != second {
		t.Error("a refused model is in force")
	}
	if id, err := publish(docs); err != nil || id != first.ID() {
		t.Errorf("back to the first: %s, %v", id, err)
	}
	expect("back", map[string]string{"document:memo#viewer@user:frank": "allow", "document:roadmap#viewer@user:alice": "deny"})
	again, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := again.ActiveModel("docs"); !ok || m.ID() != first.ID() || len(again.Models("docs")) != 2 {
		t.Errorf("a new process has the model %v of %d", m, len(again.Models("docs")))
	}
	if _, ok := again.ActiveModel("nothing"); ok || again.Models("nothing") != nil {
		t.Error("an unknown application has a model")
	}
}

func TestEntriesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, e := range map[string][2]string{
		"no JSON":                {"docs/x", "{"},
		"another's key":          {"docs/x", `{"application":"other","id":"x"}`},
		"a payload that is gone": {"docs/x", ""},
	} {
		w := newWorld(t, docs)
		if err := w.ApplyEntry("user", e[0], []byte(e[1])); err != nil {
			t.Errorf("%s, of a kind that is not ours: %v", name, err)
		}
		if _, ok := w.ActiveModel("docs"); !ok {
			t.Fatalf("%s: no model before", name)
		}
		if err := w.ApplyEntry(KindModel, e[0], []byte(e[1])); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := w.ActiveModel("docs"); ok {
			t.Errorf("%s: the old model still answers, which may allow what the unread one forbids", name)
		}
	}
}

func TestModelRecordsAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs)
	m, _ := w.ActiveModel("docs")
	for name, rec := range map[string]ModelRecord{
		"in force":     {Application: "docs", ID: m.ID(), Source: docs, Active: true},
		"another text": {Application: "docs", ID: m.ID(), Source: docs + "\n", Active: true},
		"no model":     {Application: "docs", ID: schema.ID("type"), Source: "type", Active: true},
		"an old text":  {Application: "docs", ID: m.ID(), Source: docs + "\n"},
		"system":       {Application: System, ID: m.ID(), Source: docs, Active: true},
	} {
		live := newWorld(t, docs)
		if err := live.ApplyModel(rec); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := live.ActiveModel("docs"); ok != (!rec.Active || rec.Application == System) {
			t.Errorf("%s: a model in force: %v", name, ok)
		}
		if _, ok := live.ActiveModel(System); !ok {
			t.Errorf("%s: the system model is gone", name)
		}
		w.db.models = []ModelRecord{rec}
		if _, err := w.open(); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s at the start: %v", name, err)
		}
	}
	current := ModelRecord{Application: "docs", ID: m.ID(), Source: docs}
	w.db.models = []ModelRecord{current, {Application: "docs", ID: schema.ID("retired"), Source: "retired"}} // no matter any more
	if e, err := w.open(); err != nil || len(e.Models("docs")) != 2 {
		t.Errorf("an old model that no longer parses: %v", err)
	}
	w.db.models = w.db.models[1:]
	if _, err := w.open(); fault.KindOf(err) != fault.Integrity {
		t.Errorf("a rollout of a model that is gone: %v", err)
	}
	if _, _, err := w.PublishModel(context.Background(), ledger.Change{}, System, docs); fault.KindOf(err) != fault.Denied {
		t.Errorf("a system model: %v", err)
	}
	if err := w.ApplyModel(current); err != nil {
		t.Error(err)
	}
	if d, err := w.ask(t, "folder:a#viewer@user:x"); err != nil || d.Allowed {
		t.Errorf("a model that is proposed while it is in force: %+v, %v", d, err)
	}
}

// The changelog's form of a record stays readable.
func TestModelRecordGolden(t *testing.T) {
	t.Parallel()
	rec := ModelRecord{Application: "docs", ID: "3SAF8M90RPANABBZ7YMW7THA1Q", Source: "model\n", Active: true, Created: time.Unix(1_800_000_000, 5).UTC()}
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "model_record.golden", string(b)+"\n")
	var back ModelRecord
	if err := json.Unmarshal(b, &back); err != nil || back != rec {
		t.Errorf("%+v, %v", back, err)
	}
}

// The system model, as a table: which role may do what.
func TestSystemModel(t *testing.T) {
	t.Parallel()
	roles := map[string]string{
		"operator":          "can_create_tenant can_invite can_suspend can_roll_back_release can_read_release",
		"administrator":     "can_invite can_manage_users can_read_users can_manage_services can_manage_connections can_install can_manage_stores can_suspend can_propose_model can_define_roles can_read_roles",
		"access_manager":    "can_read_users can_write_tuples can_read_tuples can_explain can_manage_stores can_read_model can_check can_propose_model can_define_roles can_read_roles can_publish_own_policies",
		"policy_author":     "can_read_model can_propose_model can_propose_release can_refuse_release can_activate_release can_roll_back_release can_rehearse_release can_read_release can_read_roles",
		"approver":          "can_read_roles can_read_model can_approve_release can_refuse_release can_activate_release can_roll_back_release can_rehearse_release can_read_release",
		"auditor":           "can_read_tuples can_read_audit can_explain can_read_model can_check can_read_release can_read_roles",
		"key_administrator": "",
	}
	m, err := schema.Parse(SystemModel)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "")
	for role := range roles {
		w.db.seed(w.system, "system:acme#"+role+"@user:"+role, "system:acme#"+role+"@service:"+role)
	}
	for _, r := range m.Relations("system") {
		for role, may := range roles {
			for _, kind := range []string{"user:", "service:"} {
				q := Query{Store: w.system, Object: "system:acme", Relation: r.Name, Subject: kind + role}
				d, err := w.Check(context.Background(), q)
				want := r.Name == role || strings.Contains(" "+may+" ", " "+r.Name+" ")
				if err != nil || d.Allowed != want || d.Model != m.ID() {
					t.Errorf("%s %s: %+v, %v", kind+role, r.Name, d, err)
				}
				q.Object = "system:globex"
				if d, err := w.Check(context.Background(), q); err != nil || d.Allowed {
					t.Errorf("%s has %s in another tenant: %v", kind+role, r.Name, err)
				}
			}
		}
	}
}

// First questions at once load the store once, and none waits longer than it likes.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	entered, open := make(chan struct{}), make(chan struct{})
	w.db.onLoad = func() { close(entered); <-open }
	impatient, leave := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	q := Query{Store: w.store, Object: "document:roadmap", Relation: "can_view", Subject: "user:alice"}
	wg.Go(func() {
		if _, err := w.Check(impatient, q); !errors.Is(err, context.Canceled) {
			t.Errorf("the one who left: %v", err)
		}
	})
	<-entered
	leave()
	for range 20 {
		wg.Go(func() {
			if d, err := w.Check(context.Background(), q); err != nil || !d.Allowed {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
	// A change that commits while the load is on its way is not lost.
	if _, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: tuples("folder:plans#viewer@user:dave")}); err != nil {
		t.Fatal(err)
	}
	close(open)
	wg.Wait()
	if d, err := w.ask(t, "document:roadmap#can_view@user:dave"); err != nil || !d.Allowed || d.Revision.Rev != 2 {
		t.Errorf("the write during the load: %+v, %v", d, err)
	}
	if s := w.Stats(); w.db.loads != 1 || s.Loads != 1 || s.Resyncs != 0 || s.Stores != 1 || s.Tuples != len(demo)+1 {
		t.Errorf("%d loads, %+v", w.db.loads, s)
	}
}

// A missed revision, a change that does not fit: the store is loaded again
// before anything more is answered.
func TestResync(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	check := func(q, want string, rev, resyncs uint64) {
		t.Helper()
		d, err := w.ask(t, q)
		if outcome(d, err) != want || d.Revision.Rev != rev || w.Stats().Resyncs != resyncs {
			t.Errorf("%s: %s at %d (%v), %+v; want %s at %d", q, outcome(d, err), d.Revision.Rev, err, w.Stats(), want, rev)
		}
	}
	check("document:roadmap#can_view@user:alice", "allow", 1, 0)
	w.db.dropBatch = func(rev uint64) bool { return rev == 2 }
	w.write(t, nil, tuples("folder:plans#owner@user:alice")) // lost on its way
	w.write(t, tuples("folder:plans#viewer@user:dave"), nil)
	check("document:roadmap#can_view@user:alice", "deny", 3, 1)
	check("document:roadmap#can_view@user:dave", "allow", 3, 1)
	w.Apply(w.store, 3, tuples("folder:plans#viewer@user:mallory"), nil) // known already: ignored
	w.Apply(w.store, 1, tuples("folder:plans#viewer@user:mallory"), nil)
	check("document:roadmap#can_view@user:mallory", "deny", 3, 1)
	w.Apply(w.store, 4, tuples("folder:plans#viewer@user:dave"), nil) // there already: does not fit
	check("document:roadmap#can_view@user:dave", "allow", 3, 2)
	w.Apply(w.store, 4, nil, tuples("folder:none#viewer@user:dave"))
	check("document:roadmap#can_view@user:dave", "allow", 3, 3)
	w.Apply(w.store, 4, []relation.Tuple{{Object: "folder:a b", Relation: "viewer", Subject: "user:x"}}, nil)
	check("document:roadmap#can_view@user:dave", "allow", 3, 4)
	w.db.revs[w.store] = 4
	w.Apply(w.store, 4, nil, nil) // a change of the shard that touches no tuple
	check("document:roadmap#can_view@user:dave", "allow", 4, 4)
}

// While the database is away nothing is answered, and nothing is remembered of it.
func TestLoadFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	w.db.loadErr = errors.New("disk on fire at /dev/sda")
	q := "document:roadmap#can_view@user:alice"
	d, err := w.ask(t, q)
	if fault.KindOf(err) != fault.Unavailable || d.Allowed || strings.Contains(fault.Public(err), "sda") {
		t.Errorf("%+v, %v", d, err)
	}
	w.db.loadErr = nil
	if d, err := w.ask(t, q); err != nil || !d.Allowed {
		t.Errorf("afterwards: %+v, %v", d, err)
	}
	bad := newWorld(t, docs, demo...)
	odd := relation.Tuple{Object: "folder:x y", Relation: "viewer", Subject: "user:x"}
	bad.db.tuples[bad.store][odd] = odd
	if _, err := bad.ask(t, q); fault.KindOf(err) != fault.Integrity {
		t.Errorf("a malformed stored tuple: %v", err)
	}
}
