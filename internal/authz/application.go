package authz

import (
	"cmp"
	"context"
	_ "embed" // the system model
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
)

// SystemModel is the fixed model of system stores: admin rights on the object
// system:<tenant id>.
//
//go:embed system.fga
var SystemModel string

// System is the name of the application whose stores are system stores.
const System = ""

// KindModel is the changelog's kind of models: the key is
// "<application>/<model id>", the payload the JSON of a [ModelRecord]. That of
// an active one ends the turn of the free store's other active record, which
// gets no entry of its own.
const KindModel = "model"

// KindStore is the changelog's kind of stores: the key is the store's id. An
// entry without a payload says that the store was deleted.
const KindStore = "graph"

// ModelRecord is one version of an application's model. Its JSON form is what a
// store's changelog carries.
type ModelRecord struct {
	Application string    `json:"application"`
	ID          string    `json:"id"` // [schema.Model.ID] of Source
	Source      string    `json:"source"`
	Active      bool      `json:"active"` // in force; stored for free stores alone, where making one active ends the other's turn
	Created     time.Time `json:"created"`
	Proposer    string    `json:"proposer,omitempty"` // id of the tenant that proposed it to the operator's application; empty: none
}

// freePrefix begins the name of the application that a free store is to itself.
const freePrefix = "store:"

// FreeApplication returns the name of the application that a free store is to
// itself: its models are its own, and the newest is in force.
func FreeApplication(id relation.StoreID) string { return freePrefix + string(id) }

// application is an operator's application with its versions, or a free store's
// own. All its stores share one compiled form of each model.
type application struct {
	name     string
	syms     *symbols
	standing atomic.Pointer[standing] // nil: nothing answers

	// What was compiled last. The store delivers it back while its writer waits,
	// and compiling may take a second.
	prepared atomic.Pointer[bound]
	rolling  atomic.Pointer[standing]

	mu       sync.Mutex // guards what follows
	records  map[string]ModelRecord
	policies map[string]*PolicyRecord
	applied  map[string]uint64 // how often ApplyModel told us of a version
	others   []*bound          // compiled models that are not in force, oldest use first

	kept atomic.Int64 // about what records and others take, in bytes; read without mu
}

// maxOthers is how many versions that are not in force stay compiled: callers
// pin old ones for months, but few at a time.
const maxOthers = 8

// compiledWeight is about how much larger than its text a compiled model is:
// 256 KiB of small types take 12 MB.
const compiledWeight = 48

func textWeight(source string) int64   { return int64(len(source)) + 256 }
func compiledOf(m *schema.Model) int64 { return compiledWeight * int64(len(m.Source())) }

// weight is about what the models take that are in memory for one store alone, in
// bytes. An operator's application is always here.
func (a *application) weight() int64 {
	if !a.free() {
		return 0
	}
	n := a.kept.Load()
	if s := a.standing.Load(); s != nil {
		n += compiledOf(s.current.model.model)
	}
	return n
}

func newApplication(name string) *application {
	return &application{name: name, syms: newSymbols(),
		records:  map[string]ModelRecord{},
		policies: map[string]*PolicyRecord{}, applied: map[string]uint64{}}
}

func (a *application) compile(source string) (*bound, error) {
	m, err := schema.Parse(source)
	if err != nil {
		return nil, err
	}
	return bind(m, a.syms)
}

// take makes the record known and, if it is active, in force. Only active
// models are compiled: an application may have hundreds of old ones.
func (a *application) take(rec ModelRecord) error {
	if schema.ID(rec.Source) != rec.ID {
		return fault.New(fault.Integrity, "a stored model is not the one that its id names")
	}
	if rec.Active && !a.free() {
		return fault.New(fault.Integrity, "a stored model is in force without a rollout")
	}
	var b *bound
	if rec.Active {
		if b = a.prepared.Load(); b == nil || b.model.ID() != rec.ID {
			var err error
			if b, err = a.compile(rec.Source); err != nil {
				return fault.Wrap(fault.Integrity, "a stored model does not compile", err)
			}
		}
	}
	a.install(rec, b)
	return nil
}

// free reports whether the application is a free store.
func (a *application) free() bool { return strings.HasPrefix(a.name, freePrefix) }

// install needs the compiled form of an active record only.
func (a *application) install(rec ModelRecord, compiled *bound) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := a.standing.Load(); {
	case rec.Active:
		for id, other := range a.records {
			other.Active = false
			a.records[id] = other
		}
		a.standing.Store(&standing{current: newForce(compiled)})
	case s != nil && a.free() && s.current.model.model.ID() == rec.ID:
		a.standing.Store(nil) // its turn has ended, and no other's has begun
	}
	if old, ok := a.records[rec.ID]; ok {
		a.kept.Add(-textWeight(old.Source))
	}
	a.kept.Add(textWeight(rec.Source))
	a.records[rec.ID] = rec
	a.applied[rec.ID]++
}

// reset makes the records the only ones: a free store was loaded.
func (a *application) reset(records []ModelRecord) error {
	if !a.free() {
		return nil // the platform's, which are always here
	}
	a.mu.Lock()
	a.records, a.others = map[string]ModelRecord{}, nil
	a.kept.Store(0)
	a.mu.Unlock()
	a.standing.Store(nil)
	return a.takeAll(records)
}

// forget gives a free store's models back: they are loaded with it.
func (a *application) forget() {
	if !a.free() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.standing.Store(nil)
	a.prepared.Store(nil)
	a.records, a.others = map[string]ModelRecord{}, nil
	a.kept.Store(0)
}

func (a *application) takeAll(records []ModelRecord) error {
	for _, rec := range records {
		if err := a.take(rec); err != nil {
			return err
		}
	}
	return nil
}

// answers returns what decides for the store, and the model to answer by: that
// of the id, the one in force for "". Errors: [ErrNoModel], [fault.NotFound] if
// none is in force.
func (a *application) answers(store relation.StoreID, id string) (*judgement, error) {
	s := a.standing.Load()
	if s == nil {
		if a.free() && id != "" { // nothing but its model decides for a free store
			b, err := a.version(id)
			return &judgement{model: b}, err
		}
		return nil, fault.New(fault.NotFound, "the application has no active model")
	}
	f := s.of(store)
	if id == "" || id == f.model.model.ID() {
		return &f.own, nil
	}
	b, err := a.version(id)
	if err != nil {
		return nil, err
	}
	j := f.judgement(b)
	return j, j.err
}

// version returns a compiled model. Error: [ErrNoModel].
func (a *application) version(id string) (*bound, error) {
	if s := a.standing.Load(); s != nil {
		for _, f := range []*force{s.current, s.next} {
			if f != nil && f.model.model.ID() == id {
				return f.model, nil
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	rec, ok := a.records[id]
	if !ok {
		return nil, fault.Wrap(fault.Invalid, "the store has no such model", ErrNoModel)
	}
	if i := slices.IndexFunc(a.others, func(b *bound) bool { return b.model.ID() == id }); i >= 0 {
		b := a.others[i]
		a.others = append(slices.Delete(a.others, i, i+1), b)
		return b, nil
	}
	b, err := a.compile(rec.Source)
	if err != nil {
		return nil, err
	}
	if len(a.others) == maxOthers {
		a.kept.Add(-compiledOf(a.others[0].model))
		a.others = slices.Delete(a.others, 0, 1)
	}
	a.kept.Add(compiledOf(b.model))
	a.others = append(a.others, b)
	return b, nil
}

// ApplyModel takes a committed model record over: the wiring calls it with
// every record that the store delivers, in order. That of a free store is in
// force when ApplyModel returns if it is active. The error has kind
// [fault.Integrity] when the record is not what it says. If it claims to be
// active, the application then has no model and every question about its stores
// is refused: the old model may allow what the new one was made to forbid.
func (e *Engine) ApplyModel(rec ModelRecord) error {
	if rec.Application == System {
		return fault.New(fault.Integrity, "the system model is fixed")
	}
	a := e.application(rec.Application)
	err := a.take(rec)
	if err != nil && rec.Active {
		a.standing.Store(nil)
	}
	return err
}

// ApplyEntry takes one committed change over: of the kinds [KindModel],
// [KindPolicies] and [KindRollout], and a deletion of the kind [KindStore], after
// which nothing answers about the store and nothing of it is in memory. Other
// kinds do nothing. What cannot be read costs its application all answers. The
// model of a free store comes into force with the revision that [Engine.Apply]
// is told next.
func (e *Engine) ApplyEntry(kind, key string, payload []byte) error {
	name, _, _ := strings.Cut(key, "/")
	switch kind {
	case KindStore:
		if payload == nil {
			e.drop(relation.StoreID(key))
		}
	case KindPolicies:
		return e.applyPolicies(name, payload)
	case KindRollout:
		return e.applyRollout(key, payload)
	case KindOwnPolicies:
		return e.announceOwn(key, payload)
	case KindModel:
		return e.applyModel(name, key, payload)
	}
	return nil
}

func (e *Engine) applyModel(name, key string, payload []byte) error {
	var rec ModelRecord
	err := json.Unmarshal(payload, &rec)
	if err == nil && key != rec.Application+"/"+rec.ID {
		err = fault.New(fault.Integrity, "a change of a model has the key of another")
	}
	if id, free := strings.CutPrefix(name, freePrefix); free {
		if ent := e.stores.get(relation.StoreID(id)); ent != nil {
			ent.announce(rec, err)
		}
	} else if err == nil {
		return e.ApplyModel(rec)
	} else if name != System {
		e.application(name).standing.Store(nil)
	}
	if err != nil {
		return fault.Wrap(fault.Integrity, "a change of a model cannot be read", err)
	}
	return nil
}

// PublishModel compiles a model and stores it. In a free store it is in force at
// once; in an operator's application it answers callers that name its id, until
// a rollout puts it in force. It returns the model's id and the revision of the
// change's shard. Errors: those of [schema.Parse] and of its conditions,
// [fault.Denied] for the system application, and the store's.
func (e *Engine) PublishModel(ctx context.Context, change ledger.Change, application, source string) (string, relation.Revision, error) {
	if application == System {
		return "", relation.Revision{}, fault.New(fault.Denied, "the system model is fixed")
	}
	a := e.application(application)
	b, err := a.compile(source)
	if err != nil {
		return "", relation.Revision{}, err
	}
	id := b.model.ID()
	a.prepared.Store(b)
	a.mu.Lock()
	before := a.applied[id]
	known, proposed := a.records[id]
	a.mu.Unlock()
	rec := ModelRecord{Application: application, ID: id, Source: source, Active: a.free(), Created: e.cfg.Now().UTC()}
	switch owner := change.Event.Tenant; {
	case a.free():
	case proposed: // who came first: nobody takes another's place in its quota
		rec.Proposer = known.Proposer
	case owner != tenant.Platform:
		rec.Proposer = owner.String()
	}
	rev, err := e.cfg.Store.PutModel(ctx, change, rec)
	if err != nil {
		if id, free := strings.CutPrefix(application, freePrefix); free && fault.KindOf(err) == fault.NotFound {
			e.drop(relation.StoreID(id)) // deleted meanwhile
		}
		return "", relation.Revision{}, err
	}
	a.mu.Lock()
	delivered := a.applied[id] != before
	a.mu.Unlock()
	if !delivered && !a.free() { // a store that delivers nothing: its order is ours
		a.install(rec, b)
	}
	return id, rev, nil
}

// ActiveModel returns the application's model in force where no wave has another,
// and whether there is one.
// The application [System] has the system model.
func (e *Engine) ActiveModel(application string) (*schema.Model, bool) {
	a := e.known(application)
	if a == nil {
		return nil, false
	}
	if s := a.standing.Load(); s != nil {
		return s.current.model.model, true
	}
	return nil, false
}

// Models returns the known versions of an application's model, oldest first.
func (e *Engine) Models(application string) []ModelRecord {
	a := e.known(application)
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]ModelRecord, 0, len(a.records))
	s := a.standing.Load()
	for _, rec := range a.records {
		rec.Active = s != nil && s.current.model.model.ID() == rec.ID
		out = append(out, rec)
	}
	slices.SortFunc(out, func(a, b ModelRecord) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return out
}

// StoreModels returns the versions of the model that can answer about the store,
// oldest first. Those of a free store are known only once it is loaded. Kinds:
// [fault.NotFound] for an unknown store, [fault.Unavailable] when it cannot be
// loaded.
func (e *Engine) StoreModels(ctx context.Context, store relation.StoreID) ([]ModelRecord, error) {
	for {
		ent, _, err := e.snapshot(ctx, store)
		if err != nil {
			return nil, err
		}
		if models := e.Models(ent.app.name); len(models) > 0 || ent.snap.Load() != nil {
			return models, nil
		} // else the store left memory in between, and a free one's models with it
	}
}

// application returns the application of the name, an empty one if it is new.
func (e *Engine) application(name string) *application {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.applications[name]
	if a == nil {
		a = newApplication(name)
		e.applications[name] = a
	}
	return a
}

// known returns the application of the name; nil if nobody spoke of it yet.
func (e *Engine) known(name string) *application {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.applications[name]
}
