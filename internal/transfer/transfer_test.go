package transfer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/api/openfga"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/transfer"
)

const model = `model
  schema 1.1
type user
type team
  relations
    define member: [user, team#member]
type doc
  relations
    define viewer: [user, user:*, team#member, user with near]
    define banned: [user]
    define can_view: viewer but not banned
condition near(distance: int, limit: int) {
  distance <= limit
}
`

// later is a version with a type more.
var later = strings.Replace(model, "condition near", "type tool\n  relations\n    define user: [user]\ncondition near", 1)

// world is our own server in both parts: its API is OpenFGA's.
type world struct {
	*guardtest.World
	door guardtest.Door
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: guardtest.New(t)}
	w.door = w.Serve(openfga.New(openfga.Config{
		Guard: w.Guard, Directory: w.Directory, Authz: w.Authz, Archive: w.Store.Archive(),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: w.Now,
	}))
	return w
}

// source makes a store with models, as it would stand at an OpenFGA.
func (w *world) source(models ...string) transfer.Store {
	w.T.Helper()
	g, err := w.Directory.CreateGraph(context.Background(), ledger.Event{Subject: "system"}, w.Acme.Tenant, "theirs")
	w.Must(err)
	s := w.store(string(g.ID))
	for _, m := range models {
		_, _, err := w.Authz.PublishModel(context.Background(), w.change(s), authz.FreeApplication(g.ID), m)
		w.Must(err)
	}
	return s
}

func (w *world) store(id string) transfer.Store {
	return transfer.Store{URL: w.door.URL, ID: id, HTTP: w.door.Client(), Token: func(context.Context) (string, error) {
		return w.Token("access_manager@acme", "authz"), nil
	}}
}

func (w *world) change(s transfer.Store) ledger.Change {
	return ledger.Change{Store: relation.StoreID(s.ID), Event: ledger.Event{
		Time: time.Now(), Class: ledger.Mutation, Action: "test", Subject: "system", Tenant: w.Acme.Tenant,
	}}
}

func (w *world) write(s transfer.Store, writes, deletes []relation.Tuple) {
	w.T.Helper()
	_, err := w.Authz.Write(context.Background(), w.change(s), "", authz.Write{Writes: writes, Deletes: deletes})
	w.Must(err)
}

// all returns a store's tuples.
func (w *world) all(s transfer.Store) (list []relation.Tuple) {
	w.T.Helper()
	for cursor := ""; ; {
		page, err := w.Authz.Read(context.Background(), relation.StoreID(s.ID), authz.Filter{}, authz.MaxPage, cursor)
		w.Must(err)
		for _, t := range page.Tuples {
			list = append(list, t.Tuple)
		}
		if cursor = page.Next; cursor == "" {
			return list
		}
	}
}

func (w *world) into(from transfer.Store) *transfer.Import {
	w.T.Helper()
	m := &transfer.Import{From: from, To: w.store(""), Now: time.Now}
	w.Must(m.To.Create(context.Background(), "ours"))
	return m
}

func drawn(random *rand.Rand) relation.Tuple {
	user := fmt.Sprint("user:", random.IntN(40))
	doc := fmt.Sprint("doc:", random.IntN(60))
	switch random.IntN(5) {
	case 0:
		return relation.Tuple{Object: fmt.Sprint("team:", random.IntN(8)), Relation: "member", Subject: user}
	case 1:
		return relation.Tuple{Object: doc, Relation: "viewer", Subject: fmt.Sprint("team:", random.IntN(8), "#member")}
	case 2:
		return relation.Tuple{Object: doc, Relation: "banned", Subject: user}
	case 3:
		return relation.Tuple{Object: doc, Relation: "viewer", Subject: user, Condition: "near", Context: fmt.Sprintf(`{"limit":%d}`, random.IntN(3))}
	}
	return relation.Tuple{Object: doc, Relation: "viewer", Subject: user}
}

// churn changes the store by one tuple: what is there goes, or comes back with
// another condition, or something new comes.
func (w *world) churn(s transfer.Store, held map[relation.Tuple]relation.Tuple, random *rand.Rand) {
	w.T.Helper()
	t := drawn(random)
	if old, there := held[t.Key()]; there {
		w.write(s, nil, []relation.Tuple{old.Key()})
		delete(held, t.Key())
		if random.IntN(2) == 0 {
			return
		}
	}
	w.write(s, []relation.Tuple{t}, nil)
	held[t.Key()] = t
}

// TestImportWhileTheyWrite: whatever is written there before, while and after the
// tuples are read, and however often the import is stopped and goes on, at the
// end of the changes both stores hold the same and answer the same.
func TestImportWhileTheyWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	from := w.source(strings.Replace(model, "viewer but not banned", "viewer", 1), model)
	random := rand.New(rand.NewPCG(1, 1))
	held := map[relation.Tuple]relation.Tuple{}
	for range 8 {
		var batch []relation.Tuple
		for range 50 {
			if t := drawn(random); held[t.Key()] == (relation.Tuple{}) {
				held[t.Key()] = t
				batch = append(batch, t)
			}
		}
		w.write(from, batch, nil)
	}
	m := w.into(from)
	// Their writes come between the pages that the import reads.
	var saved []byte
	m.From.HTTP = between{w.door.Client(), func(r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/read") {
			for range 25 {
				w.churn(from, held, random)
			}
		}
	}}
	m.Save = func(s transfer.State) (err error) { saved, err = json.Marshal(s); return err }
	w.Must(m.Copy(ctx))
	if d := cmp.Diff(w.all(from), w.all(m.To)); d != "" {
		t.Fatalf("after the copy the stores differ: %s", d)
	}
	if m.Report.Tuples < 200 || m.Report.Changes < 50 || m.Report.Skipped != 0 || len(m.Report.Models) != 2 {
		t.Errorf("the report is %+v", m.Report)
	}
	if got, want := len(w.models(m.To)), 2; got != want {
		t.Errorf("%d models came over, want %d", got, want)
	}

	for range 50 {
		w.churn(from, held, random)
	}
	again := &transfer.Import{From: from, Now: time.Now}
	w.Must(json.Unmarshal(saved, &again.State))
	again.To = w.store(m.To.ID)
	w.Must(again.Copy(ctx))
	if d := cmp.Diff(w.all(from), w.all(m.To)); d != "" {
		t.Fatalf("after a second run the stores differ: %s", d)
	}
	if again.Report.Tuples != 0 || again.Report.Changes == 0 || again.Report.Changes > 100 {
		t.Errorf("the second run did not go on where the first ended: %+v", again.Report)
	}
	questions, err := transfer.Draw(ctx, from, 300, random)
	w.Must(err)
	for i := range questions {
		questions[i].Context = json.RawMessage(`{"distance":1}`)
	}
	same, err := transfer.Compare(ctx, from, m.To, questions)
	w.Must(err)
	if same.Differ != 0 || same.Asked != 300 || same.Allowed < 20 || same.Denied < 20 {
		t.Errorf("the answers differ: %+v", same)
	}
}

func (w *world) models(s transfer.Store) []authz.ModelRecord {
	w.T.Helper()
	list, err := w.Authz.StoreModels(context.Background(), relation.StoreID(s.ID))
	w.Must(err)
	return list
}

// between does something before each request.
type between struct {
	transfer.Doer
	do func(*http.Request)
}

func (b between) Do(r *http.Request) (*http.Response, error) {
	b.do(r)
	return b.Doer.Do(r)
}

// TestFollow: changes arrive while it follows, a server that is away for a while
// too, and a model that was written meanwhile comes over with the first tuple
// that needs it.
func TestFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.source(model)
	m := w.into(from)
	var away atomic.Bool
	var troubles atomic.Int64
	m.Trouble = func(error) { troubles.Add(1); away.Store(false) }
	m.From.HTTP = flaky{w.door.Client(), &away}
	w.Must(m.Copy(context.Background()))
	ctx, enough := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Follow(ctx, time.Millisecond) }()
	arrives := func(want relation.Tuple) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; {
			if all := w.all(m.To); len(all) > 0 && all[len(all)-1] == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s never arrived", want)
			}
		}
	}
	defer enough() // also where the test ends early
	one := relation.Tuple{Object: "doc:a", Relation: "viewer", Subject: "user:a"}
	w.write(from, []relation.Tuple{one}, nil)
	arrives(one)
	away.Store(true)
	two := relation.Tuple{Object: "doc:b", Relation: "viewer", Subject: "user:a"}
	w.write(from, []relation.Tuple{two}, nil)
	arrives(two)
	_, _, err := w.Authz.PublishModel(context.Background(), w.change(from), authz.FreeApplication(relation.StoreID(from.ID)), later)
	w.Must(err)
	three := relation.Tuple{Object: "tool:x", Relation: "user", Subject: "user:a"}
	w.write(from, []relation.Tuple{three}, nil)
	arrives(three)
	enough()
	w.Must(<-ended)
	if m.Report.Skipped != 0 || troubles.Load() == 0 {
		t.Errorf("%d troubles, the report is %+v", troubles.Load(), m.Report)
	}
}

// flaky answers 503 while it is away.
type flaky struct {
	transfer.Doer
	away *atomic.Bool
}

func (f flaky) Do(r *http.Request) (*http.Response, error) {
	if f.away.Load() {
		rec := httptest.NewRecorder()
		rec.WriteHeader(http.StatusServiceUnavailable)
		return rec.Result(), nil
	}
	return f.Doer.Do(r)
}

// TestSkips: tuples that no model here takes are left out by name, and their
// neighbours are not.
func TestSkips(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.source(later)
	orphan := relation.Tuple{Object: "tool:x", Relation: "user", Subject: "user:a"}
	var kept []relation.Tuple
	for i := range 30 {
		kept = append(kept, relation.Tuple{Object: fmt.Sprintf("doc:%02d", i), Relation: "viewer", Subject: "user:a"})
	}
	w.write(from, append([]relation.Tuple{orphan}, kept...), nil)
	_, _, err := w.Authz.PublishModel(context.Background(), w.change(from), authz.FreeApplication(relation.StoreID(from.ID)), model)
	w.Must(err)
	m := w.into(from)
	w.Must(m.Copy(context.Background()))
	if d := cmp.Diff(kept, w.all(m.To)); d != "" {
		t.Error(d)
	}
	// Once as a tuple, once as a change.
	if m.Report.Skipped != 2 || m.Report.Skips[0].What != orphan.String() || !strings.Contains(m.Report.Skips[0].Reason, "tool") {
		t.Errorf("the report is %+v", m.Report)
	}
}

// TestCompareFindsDifferences: a tuple more here, one more there, and a question
// that one side cannot answer, each with our reason.
func TestCompareFindsDifferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	theirs, ours := w.source(model), w.source(model)
	key := func(object, user string) relation.Tuple {
		return relation.Tuple{Object: object, Relation: "viewer", Subject: user}
	}
	both := key("doc:both", "user:a")
	w.write(theirs, []relation.Tuple{both, key("doc:theirs", "user:a")}, nil)
	near := key("doc:near", "user:a")
	near.Condition = "near"
	w.write(ours, []relation.Tuple{both, key("doc:ours", "user:a"), near}, nil)
	questions, err := transfer.Questions(strings.NewReader(`
		// about four objects
		doc:both can_view user:a
		doc:ours can_view user:a {"distance": 1}
		{"object": "doc:theirs", "relation": "can_view", "user": "user:a", "context": {"distance": 2}}
		doc:near can_view user:a
		doc:none can_view user:a
		thing:none can_view user:a
	`))
	w.Must(err)
	got, err := transfer.Compare(context.Background(), theirs, ours, questions)
	w.Must(err)
	if got.Asked != 6 || got.Allowed != 1 || got.Denied != 1 || got.Unanswered != 1 || got.Differ != 3 || len(got.Differences) != 3 {
		t.Fatalf("compared: %+v", got)
	}
	for i, want := range []struct{ object, theirs, ours string }{
		{"doc:ours", "no", "yes"}, {"doc:theirs", "yes", "no"}, {"doc:near", "no", "no answer"},
	} {
		d := got.Differences[i]
		if d.Question.Object != want.object || d.Theirs.String() != want.theirs || !strings.HasPrefix(d.Ours.String(), want.ours) {
			t.Errorf("difference %d is %+v", i, d)
		}
		if want.ours != "no answer" && !strings.Contains(string(d.Why), want.object) {
			t.Errorf("the reason for %s is %s", want.object, d.Why)
		}
	}
	// Whoever cannot be asked gives no answer at all.
	gone := theirs
	gone.ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
	if _, err := transfer.Compare(context.Background(), gone, ours, questions); err == nil || fault.KindOf(err) != fault.NotFound {
		t.Errorf("a store that is not there: %v", err)
	}
}

func TestQuestionsRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"doc:a can_view", "doc:a can_view user:a more", `doc:a can_view user:a {`, `doc:a can_view user:a {} x`, `{"object":"doc:a"}`,
		`{"object":"doc:a","relation":"r","user":"user:a","condition":{"name":"c"}}`, `{"object":"doc:a","relation":"r","user":"user:a","who":1}`,
		`{"object":"doc:a","relation":"r","user":"user:a","context":[]}`, `{"object":"doc:a","relation":"r","user":"user:a"}{}`,
	} {
		if _, err := transfer.Questions(strings.NewReader("\n" + bad)); err == nil || !strings.HasPrefix(fault.Public(err), "line 2 is no question") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestStrangeServers: what is not OpenFGA, and what OpenFGA says when it does not
// answer, becomes an error that says whose it is, in one clean line.
func TestStrangeServers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	status, body := 0, ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	for name, c := range map[string]struct {
		status int
		body   string
		kind   fault.Kind
		text   string
	}{
		"no JSON":       {200, "<html>", fault.Unavailable, "is not OpenFGA's API"},
		"endless":       {200, `{"name":"` + strings.Repeat("x", 17<<20) + `"}`, fault.Unavailable, "did not arrive whole"},
		"no token":      {401, `{"code":"bearer_token_missing","message":"missing\u001b[31m bearer"}`, fault.Denied, "answered 401: missing [31m bearer"},
		"forbidden":     {403, ``, fault.Denied, "answered 403"},
		"absent":        {404, `{"code":"store_id_not_found","message":"Store ID not found"}`, fault.NotFound, "Store ID not found"},
		"stands":        {400, `{"code":"write_failed_due_to_invalid_input","message":"exists"}`, fault.Conflict, "exists"},
		"too many":      {429, ``, fault.Exhausted, "answered 429"},
		"elsewhere":     {302, ``, fault.Unavailable, "answered 302"},
		"long and odd":  {400, `{"message":"` + strings.Repeat("ä", 1000) + `"}`, fault.Invalid, "…"},
		"not a message": {500, `{"message":7}`, fault.Unavailable, "answered 500"},
	} {
		mu.Lock()
		status, body = c.status, c.body
		mu.Unlock()
		store := transfer.Store{URL: s.URL, ID: "x", HTTP: s.Client()}
		_, _, err := store.Info(context.Background())
		if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(fault.Public(err), c.text) || strings.ContainsAny(fault.Public(err), "\x1b\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
