package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/archive"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/web"
)

// moved has everything that a model can say: groups, parents, all operators,
// everyone, conditions.
const moved = `model
  schema 1.1
type user
type team
  relations
    define member: [user, team#member]
type folder
  relations
    define parent: [folder]
    define viewer: [user, user:*, team#member, user with near] or viewer from parent
    define banned: [user, team#member]
    define can_view: viewer but not banned
type document
  relations
    define parent: [folder]
    define owner: [user, team#member with near]
    define signed: [user, user:*]
    define can_view: owner or can_view from parent
    define can_sign: can_view and signed
condition near(distance: int, limit: int) {
  distance <= limit
}
`

// oldMoved is an older version, which answers otherwise.
var oldMoved = strings.Replace(moved, "viewer but not banned", "viewer", 1)

// filled makes a free store of acme with two models and n tuples or a few less.
func (w *world) filled(n int, random *rand.Rand) relation.StoreID {
	w.T.Helper()
	ctx := context.Background()
	g := got[*directory.Graph](w.T)(w.Directory.CreateGraph(ctx, ledger.Event{Subject: "system"}, w.Acme.Tenant, "drive"))
	for _, source := range []string{oldMoved, moved} {
		_, _, err := w.Authz.PublishModel(ctx, w.changeOf(g.ID), authz.FreeApplication(g.ID), source)
		must(w.T, err)
	}
	held := map[relation.Tuple]bool{}
	for range n / 100 {
		var batch []relation.Tuple
		for range 100 {
			if t := drawnTuple(random); !held[t.Key()] {
				held[t.Key()] = true
				batch = append(batch, t)
			}
		}
		if len(batch) > 0 {
			_, err := w.Authz.Write(ctx, w.changeOf(g.ID), "", authz.Write{Writes: batch})
			must(w.T, err)
		}
	}
	active := w.Authz.Models(authz.FreeApplication(g.ID))
	_, err := w.Store.Archive().PutAssertions(ctx, w.changeOf(g.ID), active[0].ID, []byte(`1{"assertions":[]}`))
	must(w.T, err)
	return g.ID
}

func (w *world) changeOf(id relation.StoreID) ledger.Change {
	return ledger.Change{Store: id, Event: ledger.Event{
		Time: w.Now(), Class: ledger.Mutation, Action: "test", Subject: "system", Tenant: w.Acme.Tenant,
	}}
}

func thing(random *rand.Rand, typ string, of int) string {
	return typ + ":" + strconv.Itoa(random.IntN(of))
}

func drawnTuple(random *rand.Rand) (t relation.Tuple) {
	near := func() {
		t.Condition, t.Context = "near", fmt.Sprintf(`{"limit":%d}`, random.IntN(10))
	}
	team := func() string { return thing(random, "team", 20) + "#member" }
	switch random.IntN(8) {
	case 0:
		t = relation.Tuple{Object: thing(random, "team", 20), Relation: "member", Subject: thing(random, "user", 60)}
	case 1:
		t = relation.Tuple{Object: thing(random, "team", 20), Relation: "member", Subject: team()}
	case 2:
		t = relation.Tuple{Object: thing(random, "folder", 80), Relation: "parent", Subject: thing(random, "folder", 80)}
	case 3:
		t = relation.Tuple{Object: thing(random, "document", 300), Relation: "parent", Subject: thing(random, "folder", 80)}
	case 4:
		t = relation.Tuple{Object: thing(random, "folder", 80), Relation: "viewer", Subject: thing(random, "user", 60)}
		if random.IntN(2) == 0 {
			near()
		}
	case 5:
		t = relation.Tuple{Object: thing(random, "folder", 80), Relation: "banned", Subject: []string{team(), thing(random, "user", 60)}[random.IntN(2)]}
	case 6:
		t = relation.Tuple{Object: thing(random, "document", 300), Relation: "owner", Subject: team()}
		near()
	default:
		t = relation.Tuple{Object: thing(random, "document", 300), Relation: "signed", Subject: []string{"user:*", thing(random, "user", 60)}[random.IntN(2)]}
	}
	if random.IntN(10) == 0 {
		t.Expires = time.Date(2100, 1, 1, 0, 0, random.IntN(60), 7, time.UTC).UnixNano()
	}
	return t
}

// answer puts a question to a store, and puts all of the answer into words.
func (w *world) answer(q authz.Query) string {
	d, err := w.Authz.Check(context.Background(), q)
	if err != nil {
		return "no answer: " + fault.Public(err)
	}
	return fmt.Sprint(d.Allowed, d.Reason, d.Model)
}

// download returns an archive of the store.
func download(t testing.TB, c *admin.Client, id relation.StoreID) []byte {
	t.Helper()
	body := got[io.ReadCloser](t)(c.Backup(context.Background(), string(id)))
	raw := got[[]byte](t)(io.ReadAll(body))
	must(t, body.Close())
	return raw
}

// TestRestoredStoreAnswersAsBefore: 10,000 drawn questions, by the model in force
// and an older one, with context and without, and lists, get the same answers
// from a restored store as from the one that was backed up.
func TestRestoredStoreAnswersAsBefore(t *testing.T) {
	t.Parallel()
	const questions = 10_000
	w := newWorld(t)
	random := rand.New(rand.NewPCG(1, 2))
	from := w.filled(3000, random)
	manager := w.as("access_manager@acme")
	raw := download(t, manager, from)
	out := got[admin.Restored](t)(manager.Restore(context.Background(), bytes.NewReader(raw), admin.RestoreInto{}))
	to := relation.StoreID(out.Store)
	if out.Name != "drive" || out.Models != 2 || out.Assertions != 1 || out.Tuples < 2000 || to == from {
		t.Errorf("restored %+v", out)
	}
	models := w.Authz.Models(authz.FreeApplication(from))
	after := got[[]authz.ModelRecord](t)(w.Authz.StoreModels(context.Background(), to))
	for i := range after {
		after[i].Application = models[i].Application
	}
	if d := cmp.Diff(models, after); d != "" {
		t.Errorf("the models are others: %s", d)
	}
	kinds := map[string]int{}
	for range questions {
		q := authz.Query{Subject: thing(random, "user", 60)}
		switch random.IntN(3) {
		case 0:
			q.Object, q.Relation = thing(random, "document", 300), []string{"can_view", "can_sign", "owner"}[random.IntN(3)]
		case 1:
			q.Object, q.Relation = thing(random, "folder", 80), []string{"viewer", "can_view", "banned"}[random.IntN(3)]
		default:
			q.Object, q.Relation = thing(random, "team", 20), "member"
		}
		if random.IntN(4) > 0 {
			q.Context = map[string]any{"distance": float64(random.IntN(10))}
		}
		if random.IntN(3) == 0 {
			q.Model = models[random.IntN(2)].ID
		}
		q.Store = from
		before := w.answer(q)
		q.Store = to
		if now := w.answer(q); now != before {
			t.Fatalf("%+v: %s, before %s", q, now, before)
		}
		kinds[strings.Fields(before)[0][:2]]++
	}
	if kinds["tr"] < questions/20 || kinds["fa"] < questions/20 || kinds["no"] == 0 {
		t.Errorf("the questions are too much alike: %v", kinds)
	}
	w.listsAlike(from, to)
}

func (w *world) listsAlike(from, to relation.StoreID) {
	w.T.Helper()
	ctx := context.Background()
	asked := authz.Asked{Context: map[string]any{"distance": 4.0}}
	found := 0
	for i := range 60 {
		var lists [2][]string
		for j, store := range []relation.StoreID{from, to} {
			l, err := w.Authz.ListObjects(ctx, authz.ObjectsQuery{Store: store, Type: "document", Relation: "can_view", Subject: fmt.Sprint("user:", i), Asked: asked})
			must(w.T, err)
			lists[j] = l.Names
		}
		if d := cmp.Diff(lists[0], lists[1]); d != "" {
			w.T.Fatalf("user:%d sees others: %s", i, d)
		}
		found += len(lists[0])
	}
	if found == 0 {
		w.T.Error("nobody sees anything")
	}
}

// TestBackupIsTheStore: the archive holds the store as it is, and a backup of a
// restored store has the same lines but the header's.
func TestBackupIsTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.filled(300, rand.New(rand.NewPCG(3, 4)))
	manager := w.as("access_manager@acme")
	read := func(id relation.StoreID) (*archive.Reader, []relation.Tuple) {
		a, err := archive.NewReader(bytes.NewReader(download(t, manager, id)))
		must(t, err)
		var all []relation.Tuple
		for {
			x, err := a.Next()
			if err == io.EOF {
				return a, all
			}
			must(t, err)
			all = append(all, x)
		}
	}
	a, tuples := read(from)
	var stored []relation.Tuple
	page, err := w.Authz.Read(context.Background(), from, authz.Filter{}, authz.MaxPage, "")
	must(t, err)
	for _, s := range page.Tuples {
		stored = append(stored, s.Tuple)
	}
	if d := cmp.Diff(stored, tuples); d != "" || a.Header.Revision != page.Revision.Rev {
		t.Errorf("the archive of revision %d, at %d, holds others: %s", a.Header.Revision, page.Revision.Rev, d)
	}
	out := got[admin.Restored](t)(manager.Restore(context.Background(), bytes.NewReader(download(t, manager, from)), admin.RestoreInto{Name: "other"}))
	b, again := read(relation.StoreID(out.Store))
	if d := cmp.Diff(tuples, again) + cmp.Diff(a.Models, b.Models) + cmp.Diff(a.Assertions, b.Assertions); d != "" {
		t.Errorf("a backup of the restored store is another: %s", d)
	}
	if out.Name != "other" || b.Header.Name != "other" || b.Header.Store == a.Header.Store {
		t.Errorf("restored %+v", out)
	}
	// What ends still ends there.
	ends := slices.IndexFunc(again, func(t relation.Tuple) bool { return t.Expires != 0 })
	if ends < 0 {
		t.Error("no grant has an end")
	}

	// One event for the backup, with revision and digest; the restore's last one
	// has the decision's id, and the digest too.
	one := func(action string, n int) ledger.Event {
		t.Helper()
		return w.Events(audit.Filter{Tenant: w.Acme.Tenant.String(), Action: action}, func(all []ledger.Event) bool { return len(all) == n })[n-1]
	}
	if ev := one("store.backup", 3); ev.Class != ledger.AdminRead || ev.Revision.Rev == 0 || len(ev.Detail["digest"]) != 64 || ev.Resource != "store:"+string(b.Header.Store) {
		t.Errorf("a backup is recorded as %+v", ev)
	}
	parts := 2 + 1 + 1 // models, assertions, one batch of tuples
	ev := one("store.restore", parts)
	if ev.Class != ledger.Mutation || ev.Detail["digest"] != out.Digest || ev.Detail["parts"] != "4" || ev.Detail["from"] != string(from) ||
		ev.Detail["tuples"] != strconv.Itoa(out.Tuples) || ev.DecisionID == "" && ev.ID == "" || ev.Subject != w.Subject("access_manager@acme") {
		t.Errorf("a restore is recorded as %+v", ev)
	}
}

// TestRestoreLeavesNothingHalfDone: what cannot be restored whole is not there
// afterwards, and what is wrong with an archive is found before a store is made.
func TestRestoreLeavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	from := w.filled(2000, rand.New(rand.NewPCG(5, 6)))
	manager := w.as("access_manager@acme")
	raw := download(t, manager, from)
	stores := func() int { return len(w.Directory.Graphs(w.Acme.Tenant)) }
	before, changes := stores(), w.Changes()
	edit := func(models []archive.Model, more ...archive.Assertions) []byte {
		var b bytes.Buffer
		a, err := archive.NewWriter(&b, archive.Header{Name: "edited", Kind: "free", Models: len(models), Assertions: len(more)})
		for _, m := range models {
			err = errors.Join(err, a.Model(m))
		}
		for _, s := range more {
			err = errors.Join(err, a.Assertions(s))
		}
		_, end := a.Close()
		must(t, errors.Join(err, end))
		return b.Bytes()
	}
	good := archive.Model{ID: w.Authz.Models(authz.FreeApplication(from))[1].ID, Active: true, Source: moved}
	for name, c := range map[string]struct {
		raw  []byte
		into admin.RestoreInto
		kind fault.Kind
		text string
	}{
		"torn":                 {raw[:len(raw)/2], admin.RestoreInto{}, fault.Invalid, "torn or damaged"},
		"torn at the end":      {raw[:len(raw)-1], admin.RestoreInto{}, fault.Invalid, "torn"},
		"edited":               {append(slices.Clone(raw[:len(raw)/2]), append([]byte{raw[len(raw)/2] ^ 1}, raw[len(raw)/2+1:]...)...), admin.RestoreInto{}, fault.Invalid, "line"},
		"nothing":              {nil, admin.RestoreInto{}, fault.Invalid, "no archive"},
		"no model":             {edit(nil), admin.RestoreInto{}, fault.Invalid, "holds no model"},
		"another's id":         {edit([]archive.Model{{ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Active: true, Source: moved}}), admin.RestoreInto{}, fault.Invalid, "not the one that its id names"},
		"none in force":        {edit([]archive.Model{{ID: good.ID, Source: moved}}), admin.RestoreInto{}, fault.Invalid, "no model of the archive is in force"},
		"a time of no use":     {edit([]archive.Model{{ID: good.ID, Active: true, Source: moved, Created: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}}), admin.RestoreInto{}, fault.Invalid, "was made at no time"},
		"a model twice":        {edit([]archive.Model{good, good}), admin.RestoreInto{}, fault.Invalid, "twice"},
		"assertions of none":   {edit([]archive.Model{good}, archive.Assertions{Model: "x"}), admin.RestoreInto{}, fault.Invalid, "assertions of a model that it does not hold"},
		"an impossible name":   {raw, admin.RestoreInto{Name: "a\"b"}, fault.Invalid, "name"},
		"another application":  {raw, admin.RestoreInto{Application: "mail"}, fault.NotFound, "application"},
		"into the application": {raw, admin.RestoreInto{Application: "docs"}, fault.Invalid, "not one of a store of the application"},
		"both":                 {raw, admin.RestoreInto{Application: "docs", Name: "abc"}, fault.Invalid, "not both"},
	} {
		_, err := manager.Restore(ctx, bytes.NewReader(c.raw), c.into)
		if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(fault.Public(err), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := w.Changes() - changes; stores() != before || n != 0 {
		t.Errorf("%d stores are left of refused archives, after %d changes", stores()-before, n)
	}

	// A store that fails in the middle of it.
	cfg := w.cfg
	broken := authzOver(w, &failing{Store: w.Store.Tuples(), after: 2})
	cfg.Authz = broken
	w.serve(admin.New(cfg))
	if _, err := w.as("access_manager@acme").Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{}); err == nil || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a store that failed: %v", err)
	}
	if stores() != before {
		t.Error("half a store is left")
	}
	if n := w.Changes() - changes; n < 3 { // made, filled in part, deleted
		t.Errorf("the failure came too early to prove anything: %d changes", n)
	}
	if r := w.Send("POST", admin.Base+"/stores/restore", string(raw), guardtest.Bearer(w.Token("access_manager@acme", "admin"))); r.Status != http.StatusBadRequest {
		t.Errorf("an archive as JSON: %d %s", r.Status, r.Body)
	}
}

// failing is a real store whose tuples cannot be written after a while.
type failing struct {
	authz.Store
	after int
}

func (f *failing) WriteTuples(ctx context.Context, c ledger.Change, w authz.Write) (relation.Revision, error) {
	if f.after--; f.after == 0 {
		return relation.Revision{}, fault.New(fault.Unavailable, "the disk is full")
	}
	return f.Store.WriteTuples(ctx, c, w)
}

func authzOver(w *world, store authz.Store) *authz.Engine {
	w.T.Helper()
	return got[*authz.Engine](w.T)(authz.New(context.Background(), authz.Config{
		Store: store, Archive: w.Store.Archive(), MAC: secret.Random(32), Epoch: 1, Now: w.Now,
		Application: func(id relation.StoreID) (string, bool) {
			g, err := w.Directory.GraphByID(id)
			if err != nil {
				return "", false
			}
			if g.Kind == directory.FreeGraph {
				return authz.FreeApplication(id), true
			}
			return g.Application, true
		},
	}))
}

// transfers is the tenants' side of it: a default store comes back into an empty
// one, and nobody reaches another tenant's.
func transfers(ctx context.Context, t *testing.T, w *world) {
	manager := w.as("access_manager@acme")
	store := got[relation.StoreID](t)(w.Directory.DefaultGraph(w.Acme.Tenant, "docs"))
	x := relation.Tuple{Object: "folder:moved", Relation: "viewer", Subject: w.Subject("nobody@acme")}
	w.Write(x)
	raw := download(t, w.as("auditor@acme"), store)
	_, err := manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{Application: "docs"})
	wantKind(t, err, fault.Conflict) // it is not empty
	list := got[admin.Page[admin.Tuple]](t)(manager.Tuples(ctx, admin.TupleFilter{}, admin.Paging{Limit: 100}))
	if list.Next != "" {
		t.Fatal("there are too many tuples for this test")
	}
	_, err = manager.WriteTuples(ctx, admin.TupleChange{Deletes: keys(list.Items)})
	must(t, err)
	out := got[admin.Restored](t)(manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{Application: "docs"}))
	if out.Store != string(store) || out.Tuples != len(list.Items) || out.LeftOut != 0 || out.Name != "docs" {
		t.Errorf("restored %+v", out)
	}
	again := got[admin.Page[admin.Tuple]](t)(manager.Tuples(ctx, admin.TupleFilter{}, admin.Paging{Limit: 100}))
	if d := cmp.Diff(list, again); d != "" {
		t.Error(d)
	}
	// As a free store it answers as well, by the model that was in force.
	free := got[admin.Restored](t)(manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{}))
	if free.Name != "docs" || free.Models != 1 {
		t.Errorf("restored %+v", free)
	}
	d := got[authz.Decision](t)(w.Authz.Check(ctx, authz.Query{Store: relation.StoreID(free.Store), Object: x.Object, Relation: x.Relation, Subject: x.Subject}))
	if !d.Allowed {
		t.Error("the free store does not know the grant")
	}
	// To another tenant it is not there; a system store is to nobody.
	for _, id := range []string{string(store), free.Store, string(w.Acme.System), "x"} {
		_, err := w.as("access_manager@globex").Backup(ctx, id)
		wantKind(t, err, fault.NotFound)
	}
	_, err = manager.Backup(ctx, string(w.Acme.System))
	wantKind(t, err, fault.NotFound)
	_, err = w.as("administrator@acme").Backup(ctx, string(store))
	wantKind(t, err, fault.Denied)
	_, err = w.as("administrator@acme").Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{})
	wantKind(t, err, fault.Denied)
}

func keys(list []admin.Tuple) []admin.Tuple {
	out := make([]admin.Tuple, len(list))
	for i, t := range list {
		out[i] = admin.Tuple{Object: t.Object, Relation: t.Relation, Subject: t.Subject}
	}
	return out
}

// TestTenantsOwnComesBack: what a tenant added in its default store — roles, and
// policies that forbid — is in the archive, and guards the restored tuples from
// their first moment. A new store says that it has none of it.
func TestTenantsOwnComesBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	w.inForce(t, admin.NewRelease{Roles: &papers, Claims: &authz.Claims{Delegate: []string{"document#viewer"}}, Tests: holds})
	manager := w.as("access_manager@acme")
	store := got[relation.StoreID](t)(w.Directory.DefaultGraph(w.Acme.Tenant, "docs"))
	x := relation.Tuple{Object: "document:secret", Relation: "viewer", Subject: w.Subject("nobody@acme")}
	w.Write(x)
	role := got[admin.ObjectRole](t)(manager.DefineObjectRole(ctx, "document", "reader", admin.NewObjectRole{Relations: []string{"viewer"}}))
	files := []authz.PolicyFile{{Name: "a.cedar", Text: `forbid (principal, action, resource == document::"secret");`}}
	before := got[admin.OwnPolicies](t)(manager.PublishOwnPolicies(ctx, "docs", files))
	raw := download(t, manager, store)
	for _, holds := range []string{"roles or policies", "tuples"} {
		_, err := manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{Application: "docs"})
		if err == nil || fault.KindOf(err) != fault.Conflict {
			t.Errorf("over a store that holds %s: %v", holds, err)
		}
		if holds == "roles or policies" {
			_, err = manager.WriteTuples(ctx, admin.TupleChange{Deletes: []admin.Tuple{{Object: x.Object, Relation: x.Relation, Subject: x.Subject}}})
			must(t, err)
		}
	}
	must(t, manager.DeleteObjectRole(ctx, "docs", "document", "reader"))
	got[admin.OwnPolicies](t)(manager.PublishOwnPolicies(ctx, "docs", []authz.PolicyFile{}))

	out := got[admin.Restored](t)(manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{Application: "docs"}))
	if out.Roles != 1 || out.Policies != 1 || out.Tuples != 1 || out.Unguarded {
		t.Errorf("restored %+v", out)
	}
	d := got[authz.Decision](t)(w.Authz.Check(ctx, authz.Query{Store: store, Object: x.Object, Relation: x.Relation, Subject: x.Subject}))
	if d.Allowed || d.Reason != "forbidden" {
		t.Errorf("what was forbidden is decided as %+v", d)
	}
	after := got[admin.OwnPolicies](t)(manager.OwnPolicies(ctx, "docs"))
	if d := cmp.Diff(files, after.Files); d != "" || after.ID != before.ID {
		t.Errorf("other policies came back, %s for %s: %s", after.ID, before.ID, d)
	}
	if all := got[admin.ObjectRoles](t)(manager.ObjectRoles(ctx, "docs")).Roles; !slices.ContainsFunc(all, func(r admin.ObjectRole) bool { return cmp.Equal(r, role) }) {
		t.Errorf("the tenant's role is not among %+v", all)
	}
	free := got[admin.Restored](t)(manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{}))
	if !free.Unguarded || free.Roles != 0 || free.Policies != 0 {
		t.Errorf("a new store is %+v", free)
	}

	// What does not fit the application is refused before anything is stored.
	w.inForce(t, admin.NewRelease{Roles: &authz.Roles{}, Claims: &authz.Claims{}, Tests: holds})
	must(t, manager.DeleteObjectRole(ctx, "docs", "document", "reader"))
	got[admin.OwnPolicies](t)(manager.PublishOwnPolicies(ctx, "docs", []authz.PolicyFile{}))
	_, err := manager.WriteTuples(ctx, admin.TupleChange{Deletes: []admin.Tuple{{Object: x.Object, Relation: x.Relation, Subject: x.Subject}}})
	must(t, err)
	changes := w.Changes()
	_, err = manager.Restore(ctx, bytes.NewReader(raw), admin.RestoreInto{Application: "docs"})
	if err == nil || w.Changes() != changes {
		t.Errorf("a role that the application does not know any more: %v, %d changes", err, w.Changes()-changes)
	}
}

// TestPartAnswersNothing: what a process leaves that dies within a restore holds
// tuples, has no model, and so allows nothing to anybody.
func TestPartAnswersNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	g := got[*directory.Graph](t)(w.Directory.CreateGraph(ctx, ledger.Event{Subject: "system"}, w.Acme.Tenant, "part"))
	model := w.Authz.Models(authz.FreeApplication(w.filled(100, rand.New(rand.NewPCG(7, 8)))))[1]
	n := 0
	_, _, err := w.Authz.Restore(ctx, w.changeOf(g.ID), authz.Restored{Models: []authz.ModelRecord{model}, Next: func() (relation.Tuple, error) {
		if n++; n > 2*authz.RestoreBatch {
			return relation.Tuple{}, errors.New("the power is gone")
		}
		return relation.Tuple{Object: fmt.Sprintf("document:%05d", n), Relation: "signed", Subject: "user:a"}, nil
	}})
	if err == nil {
		t.Fatal("the restore did not end")
	}
	page, err := w.Authz.Read(ctx, g.ID, authz.Filter{}, authz.MaxPage, "")
	must(t, err)
	if len(page.Tuples) != authz.MaxPage {
		t.Fatalf("there are %d tuples: nothing is proved", len(page.Tuples))
	}
	for _, id := range []string{"", model.ID} {
		d, err := w.Authz.Check(ctx, authz.Query{Store: g.ID, Object: "document:00001", Relation: "signed", Subject: "user:a", Asked: authz.Asked{Model: id}})
		if err == nil || d.Allowed {
			t.Errorf("by the model %q: %+v", id, d)
		}
	}
}

// TestRestoreEndsWithItsCaller: an archive is not read on once nobody waits for
// what comes of it: a small one may hold a thousand times its size.
func TestRestoreEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	raw := download(t, w.as("access_manager@acme"), w.filled(300, rand.New(rand.NewPCG(7, 8))))
	ctx, cancel := context.WithCancel(context.Background())
	body := io.MultiReader(bytes.NewReader(raw[:len(raw)-1]), leaving(cancel)) // torn, which is found at its end
	r := httptest.NewRequestWithContext(ctx, "POST", admin.Base+"/stores/restore", body)
	r.Header.Set("Content-Type", "application/gzip")
	r.Header.Set("Authorization", "Bearer "+w.Token("access_manager@acme", "admin"))
	out := httptest.NewRecorder()
	admin.New(w.cfg).ServeHTTP(out, r)
	if ev := w.One(out.Header().Get(web.RequestIDHeader)); ev.Reason != fault.Unavailable.String() { // not invalid
		t.Errorf("the archive was read to its end: %s, %d %s", ev.Reason, out.Code, out.Body)
	}
}

// leaving ends a body, and with it the caller's patience.
type leaving context.CancelFunc

func (l leaving) Read([]byte) (int, error) { l(); return 0, io.EOF }
