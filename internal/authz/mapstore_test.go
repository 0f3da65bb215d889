package authz

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// mapStore keeps the Store contract in memory: one lock, dense revisions,
// delivery before the answer.
type mapStore struct {
	mu       sync.Mutex
	tuples   map[relation.StoreID]map[relation.Tuple]relation.Tuple // by key
	revs     map[relation.StoreID]uint64
	models   []ModelRecord
	policies []PolicyRecord
	rollouts map[string]Rollout
	events   []ledger.Event
	own      map[relation.StoreID]*OwnPolicies
	roles    map[relation.StoreID]map[string]Role
	history  map[relation.StoreID][]TupleChange
	images   map[relation.StoreID]*mapImage
	engine   *Engine // delivered to, once there is one

	loads     int
	loadErr   error
	onLoad    func() // called without the lock, between reading and returning
	dropBatch func(rev uint64) bool
}

func newMapStore() *mapStore {
	return &mapStore{tuples: map[relation.StoreID]map[relation.Tuple]relation.Tuple{}, revs: map[relation.StoreID]uint64{}, rollouts: map[string]Rollout{},
		history: map[relation.StoreID][]TupleChange{}, images: map[relation.StoreID]*mapImage{}}
}

func (s *mapStore) LoadGraph(_ context.Context, id relation.StoreID, each func(relation.Tuple) error) (Loaded, error) {
	s.mu.Lock()
	s.loads++
	list, l, err, hook := slices.Collect(maps.Values(s.tuples[id])), s.loaded(id), s.loadErr, s.onLoad
	s.mu.Unlock()
	if hook != nil {
		hook()
	}
	for _, t := range list {
		if err == nil {
			err = each(t)
		}
	}
	return l, err
}

func (s *mapStore) loaded(id relation.StoreID) Loaded {
	l := Loaded{Revision: relation.Revision{Epoch: 1, Store: id, Rev: s.revs[id]}, Own: s.own[id]}
	for _, m := range s.models {
		if m.Application == FreeApplication(id) {
			l.Models = append(l.Models, m)
		}
	}
	return l
}

func (s *mapStore) WriteTuples(_ context.Context, c ledger.Change, w Write) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.tuples[c.Store]
	if set == nil {
		set = map[relation.Tuple]relation.Tuple{}
		s.tuples[c.Store] = set
	}
	var writes, deletes []relation.Tuple
	for _, t := range w.Deletes {
		if _, ok := set[t.Key()]; ok {
			deletes = append(deletes, t)
		} else if !w.IgnoreMissing {
			return relation.Revision{}, fault.New(fault.Conflict, "a tuple to delete does not exist")
		}
	}
	for _, t := range w.Writes {
		if old, ok := set[t.Key()]; !ok {
			writes = append(writes, t)
		} else if !w.IgnoreDuplicate || old != t {
			return relation.Revision{}, fault.New(fault.Conflict, "a tuple exists already")
		}
	}
	s.revs[c.Store]++
	note := func(ordinal int, t relation.Tuple, gone bool) {
		s.history[c.Store] = append(s.history[c.Store], TupleChange{Position: Position{s.revs[c.Store], ordinal}, Tuple: t, Delete: gone})
	}
	for i, t := range deletes {
		delete(set, t.Key())
		note(i, t.Key(), true)
	}
	for i, t := range writes {
		set[t.Key()] = t
		note(len(deletes)+i, t, false)
	}
	rev := relation.Revision{Epoch: 1, Store: c.Store, Rev: s.revs[c.Store]}
	c.Event.Revision = rev
	s.events = append(s.events, c.Event)
	if s.engine != nil && (s.dropBatch == nil || !s.dropBatch(rev.Rev)) {
		s.engine.Apply(c.Store, rev.Rev, writes, deletes)
	}
	return rev, nil
}

func (s *mapStore) LoadModels(context.Context) ([]ModelRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.models), func(m ModelRecord) bool { return strings.HasPrefix(m.Application, freePrefix) }), nil
}

func (s *mapStore) PutModel(_ context.Context, c ledger.Change, rec ModelRecord) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.models = slices.DeleteFunc(s.models, func(m ModelRecord) bool { return m.Application == rec.Application && m.ID == rec.ID })
	for i := range s.models {
		if rec.Active && s.models[i].Application == rec.Application {
			s.models[i].Active = false
		}
	}
	s.models = append(s.models, rec)
	s.revs[c.Store]++
	if s.engine != nil {
		payload, err := json.Marshal(rec)
		if err == nil {
			err = s.engine.ApplyEntry(KindModel, rec.Application+"/"+rec.ID, payload)
		}
		if err != nil {
			return relation.Revision{}, err
		}
		s.engine.Apply(c.Store, s.revs[c.Store], nil, nil)
	}
	return relation.Revision{Epoch: 1, Store: c.Store, Rev: s.revs[c.Store]}, nil
}

func (s *mapStore) LoadPolicies(context.Context) ([]PolicyRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.policies), nil
}

func (s *mapStore) LoadRollouts(context.Context) ([]Rollout, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.rollouts)), nil
}

func (s *mapStore) PutRollout(_ context.Context, ch ledger.Change, r Rollout, c Content) (relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Serial != s.rollouts[r.Application].Serial+1 {
		return relation.Revision{}, fault.New(fault.Conflict, "the rollout has changed meanwhile")
	}
	s.rollouts[r.Application] = r
	entries := map[string]any{}
	for _, m := range c.Models {
		s.models = append(slices.DeleteFunc(s.models, func(o ModelRecord) bool { return o.Application == m.Application && o.ID == m.ID }), m)
		entries[KindModel] = m
	}
	for _, p := range c.Policies {
		s.policies = append(slices.DeleteFunc(s.policies, func(o PolicyRecord) bool { return o.Application == p.Application && o.ID == p.ID }), p)
		entries[KindPolicies] = p
	}
	entries[KindRollout] = r
	s.revs[ch.Store]++
	for _, kind := range []string{KindModel, KindPolicies, KindRollout} {
		v, ok := entries[kind]
		if !ok || s.engine == nil {
			continue
		}
		key := map[string]string{KindRollout: r.Application}[kind]
		switch v := v.(type) {
		case ModelRecord:
			key = v.Application + "/" + v.ID
		case PolicyRecord:
			key = v.Application + "/" + v.ID
		}
		payload, err := json.Marshal(v)
		if err == nil {
			err = s.engine.ApplyEntry(kind, key, payload)
		}
		if err != nil {
			return relation.Revision{}, err
		}
	}
	return relation.Revision{Epoch: 1, Store: ch.Store, Rev: s.revs[ch.Store]}, nil
}

// mapImages keeps images in a mapStore.
type mapImages struct{ *mapStore }

type mapImage struct {
	rev   uint64
	parts [][]byte
}

func (s mapImages) LoadImage(_ context.Context, id relation.StoreID, part func(uint64, []byte) error, change func(TupleChange) error) (Loaded, error) {
	s.mu.Lock()
	im, l, history, err, hook := s.images[id], s.loaded(id), slices.Clone(s.history[id]), s.loadErr, s.onLoad
	s.mu.Unlock()
	if im == nil {
		return Loaded{}, fault.New(fault.NotFound, "there is no image")
	}
	if hook != nil {
		hook()
	}
	for _, b := range im.parts {
		if err == nil {
			err = part(im.rev, slices.Clone(b))
		}
	}
	for _, c := range history {
		if err == nil && c.Rev > im.rev {
			err = change(c)
		}
	}
	return l, err
}

func (s mapImages) PutImage(ctx context.Context, id relation.StoreID, rev uint64, write func(func([]byte) error) error) error {
	im := &mapImage{rev: rev}
	err := write(func(b []byte) error {
		if len(b) > MaxImagePart {
			return fault.New(fault.TooLarge, "a part is too large")
		}
		im.parts = append(im.parts, slices.Clone(b))
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[id] = im
	return nil
}

func (s mapImages) DropImage(_ context.Context, id relation.StoreID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.images, id)
	return nil
}

// mapArchive reads from a mapStore.
type mapArchive struct{ *mapStore }

func (s mapArchive) ReadTuples(_ context.Context, id relation.StoreID, f Filter, after relation.Tuple, limit int) ([]StoredTuple, relation.Revision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	matches := func(filter, value string) bool {
		return filter == "" || filter == value || strings.HasSuffix(filter, ":") && strings.HasPrefix(value, filter)
	}
	var found []relation.Tuple
	for _, t := range s.tuples[id] {
		if matches(f.Object, t.Object) && (f.Relation == "" || f.Relation == t.Relation) && matches(f.Subject, t.Subject) && byKey(t, after) > 0 {
			found = append(found, t)
		}
	}
	slices.SortFunc(found, byKey)
	var out []StoredTuple
	for _, t := range found[:min(limit, len(found))] {
		out = append(out, StoredTuple{Tuple: t})
	}
	return out, relation.Revision{Epoch: 1, Store: id, Rev: s.revs[id]}, nil
}

func byKey(a, b relation.Tuple) int {
	return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Relation, b.Relation), strings.Compare(a.Subject, b.Subject))
}

func (s mapArchive) ReadChanges(context.Context, relation.StoreID, string, time.Time, Position, int) ([]TupleChange, relation.Revision, error) {
	return nil, relation.Revision{}, fault.New(fault.Unsupported, "a map has no history")
}

func (s mapArchive) Assertions(context.Context, relation.StoreID, string) ([]byte, error) {
	return nil, nil
}

func (s mapArchive) PutAssertions(context.Context, ledger.Change, string, []byte) (relation.Revision, error) {
	return relation.Revision{}, nil
}

// docs is the drive-like model of the demo.
const docs = `model
  schema 1.1

type user

type service

type team
  relations
    define member: [user, service, team#member]

type folder
  relations
    define parent: [folder]
    define owner: [user, service, team#member] or owner from parent
    define editor: [user, service, team#member] or owner or editor from parent
    define viewer: [user, user:*, service, team#member] or editor or viewer from parent

type document
  relations
    define parent: [folder]
    define owner: [user, service, team#member] or owner from parent
    define editor: [user, service, team#member] or owner or editor from parent
    define viewer: [user, user:*, service, team#member] or editor or viewer from parent
    define can_view: viewer
    define can_edit: editor
`

// world is an engine over a map store with one default store and one system store.
type world struct {
	*Engine
	db     *mapStore
	store  relation.StoreID
	second relation.StoreID // another tenant's default store
	system relation.StoreID
}

func newWorld(t testing.TB, model string, tuples ...string) *world {
	t.Helper()
	w, err := newSilentWorld(model)
	if err != nil {
		t.Fatal(err)
	}
	w.db.seed(w.store, tuples...)
	return w
}

// newSilentWorld is for generated models, which may be refused.
func newSilentWorld(model string) (*world, error) {
	w := &world{db: newMapStore(), store: relation.StoreID(tenant.RandomID()), second: relation.StoreID(tenant.RandomID()), system: relation.StoreID(tenant.RandomID())}
	var err error
	if w.Engine, err = w.open(); err != nil {
		return nil, err
	}
	w.db.engine = w.Engine
	if model != "" {
		_, err = w.enforce(Draft{Model: model})
	}
	return w, err
}

func (w *world) enforce(d Draft) (Version, error) {
	return w.Enforce(context.Background(), ledger.Change{Store: w.system}, "docs", d)
}

// open starts an engine on what the store holds, as a new process would.
func (w *world) open() (*Engine, error) {
	return New(context.Background(), Config{
		Store: w.db, Archive: mapArchive{w.db}, MAC: secret.Random(32), Epoch: 1,
		Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Application: func(id relation.StoreID) (string, bool) {
			if id == w.system {
				return System, true
			}
			return "docs", id == w.store || id == w.second
		},
	})
}

func (s *mapStore) seed(id relation.StoreID, tuples ...string) {
	if s.tuples[id] == nil {
		s.tuples[id] = map[relation.Tuple]relation.Tuple{}
	}
	for _, t := range tuples {
		s.tuples[id][tuple(t)] = tuple(t)
	}
	s.revs[id]++
}

// tuple reads object#relation@subject.
func tuple(s string) relation.Tuple {
	object, rest := cut(s, "#")
	rel, subject := cut(rest, "@")
	return relation.Tuple{Object: object, Relation: rel, Subject: subject}
}

func tuples(list ...string) []relation.Tuple {
	var out []relation.Tuple
	for _, s := range list {
		out = append(out, tuple(s))
	}
	return out
}

// ask puts a question written as a tuple.
func (w *world) ask(t testing.TB, q string) (Decision, error) {
	t.Helper()
	x := tuple(q)
	return w.Check(context.Background(), Query{Store: w.store, Object: x.Object, Relation: x.Relation, Subject: x.Subject, Explain: true})
}

func (w *world) write(t testing.TB, writes, deletes []relation.Tuple) relation.Revision {
	t.Helper()
	rev, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: writes, Deletes: deletes})
	if err != nil {
		t.Fatal(err)
	}
	return rev
}
