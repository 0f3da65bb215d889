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
// an active one ends the turn of the application's other active record, which
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
	Active      bool      `json:"active"` // at most one of an application: activating one ends the other's turn
	Created     time.Time `json:"created"`
}

// freePrefix begins the name of the application that a free store is to itself.
const freePrefix = "store:"

// FreeApplication returns the name of the application that a free store is to
// itself: its models are its own, and the newest is in force.
func FreeApplication(id relation.StoreID) string { return freePrefix + string(id) }

// application is an operator's application with its model versions, or a free
// store's own. All its stores share one compiled form of each version.
type application struct {
	name   string
	syms   *symbols
	active atomic.Pointer[bound]
	guards atomic.Pointer[PolicyRecord] // in force; nil without any

	// prepared is the model that was compiled last. The store delivers it back
	// while its writer waits, and compiling may take a second.
	prepared atomic.Pointer[bound]

	mu      sync.Mutex // guards what follows
	records map[string]ModelRecord
	applied map[string]uint64 // how often ApplyModel told us of a version
	others  []*bound          // compiled versions that are not in force, oldest use first
}

// maxOthers is how many versions that are not in force stay compiled: callers
// pin old ones for months, but few at a time.
const maxOthers = 8

func newApplication(name string) *application {
	return &application{name: name, syms: newSymbols(), records: map[string]ModelRecord{}, applied: map[string]uint64{}}
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

// install needs the compiled form of an active record only.
func (a *application) install(rec ModelRecord, compiled *bound) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch b := a.active.Load(); {
	case rec.Active:
		for id, other := range a.records {
			other.Active = false
			a.records[id] = other
		}
		a.active.Store(compiled)
	case b != nil && b.model.ID() == rec.ID:
		a.active.Store(nil) // its turn has ended, and no other's has begun
	}
	a.records[rec.ID] = rec
	a.applied[rec.ID]++
}

// reset makes the records the only ones: a free store was loaded.
func (a *application) reset(records []ModelRecord) error {
	if !strings.HasPrefix(a.name, freePrefix) {
		return nil // the platform's, which are always here
	}
	a.mu.Lock()
	a.records = map[string]ModelRecord{}
	a.mu.Unlock()
	a.active.Store(nil)
	return a.takeAll(records)
}

// forget gives a free store's models back: they are loaded with it.
func (a *application) forget() {
	if !strings.HasPrefix(a.name, freePrefix) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.active.Store(nil)
	a.prepared.Store(nil)
	a.records, a.others = map[string]ModelRecord{}, nil
}

func (a *application) takeAll(records []ModelRecord) error {
	for _, rec := range records {
		if err := a.take(rec); err != nil {
			return err
		}
	}
	return nil
}

// bound returns a compiled version; the active one for "". Errors: [ErrNoModel],
// [fault.NotFound] if there is no active one.
func (a *application) bound(id string) (*bound, error) {
	b := a.active.Load()
	switch {
	case b != nil && (id == "" || id == b.model.ID()):
		return b, nil
	case id == "":
		return nil, fault.New(fault.NotFound, "the application has no active model")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	rec, ok := a.records[id]
	if !ok {
		return nil, fault.Wrap(fault.Invalid, "the store has no such model", ErrNoModel)
	}
	if i := slices.IndexFunc(a.others, func(b *bound) bool { return b.model.ID() == id }); i >= 0 {
		b = a.others[i]
		a.others = append(slices.Delete(a.others, i, i+1), b)
		return b, nil
	}
	b, err := a.compile(rec.Source)
	if err != nil {
		return nil, err
	}
	if len(a.others) == maxOthers {
		a.others = slices.Delete(a.others, 0, 1)
	}
	a.others = append(a.others, b)
	return b, nil
}

// ApplyModel takes a committed model record over: the wiring calls it with
// every record that the store delivers, in order. An active record is in force
// when ApplyModel returns. The error has kind [fault.Integrity] when the record
// is not what it says. If it claims to be active, the application then has no
// model and every question about its stores is refused: the old model may allow
// what the new one was made to forbid.
func (e *Engine) ApplyModel(rec ModelRecord) error {
	if rec.Application == System {
		return fault.New(fault.Integrity, "the system model is fixed")
	}
	a := e.application(rec.Application)
	err := a.take(rec)
	if err != nil && rec.Active {
		a.active.Store(nil)
	}
	return err
}

// ApplyEntry takes one committed change of the kind [KindModel] over, as
// [Engine.ApplyModel] does; a deletion of the kind [KindStore], after which
// nothing answers about the store and nothing of it is in memory; other kinds do
// nothing. A model that cannot be read costs its application the model in force,
// for the same reason. The model of a free store comes into force with the
// revision that [Engine.Apply] is told next.
func (e *Engine) ApplyEntry(kind, key string, payload []byte) error {
	if kind == KindStore && payload == nil {
		e.drop(relation.StoreID(key))
	}
	if kind == KindPolicies {
		name, _, _ := strings.Cut(key, "/")
		return e.applyPolicies(name, payload)
	}
	if kind != KindModel {
		return nil
	}
	var rec ModelRecord
	err := json.Unmarshal(payload, &rec)
	if err == nil && key != rec.Application+"/"+rec.ID {
		err = fault.New(fault.Integrity, "a change of a model has the key of another")
	}
	name, _, _ := strings.Cut(key, "/")
	if id, free := strings.CutPrefix(name, freePrefix); free {
		if ent := e.stores.get(relation.StoreID(id)); ent != nil {
			ent.announce(rec, err)
		}
	} else if err == nil {
		return e.ApplyModel(rec)
	} else if name != System {
		e.application(name).active.Store(nil)
	}
	if err != nil {
		return fault.Wrap(fault.Integrity, "a change of a model cannot be read", err)
	}
	return nil
}

// PublishModel compiles a model, stores it and, if activate says so, puts it in
// force. It returns the model's id and the revision of the change's shard. A
// model that is not in force answers callers that name its id. One that the
// policies in force do not fit cannot come into force. Errors: those of
// [schema.Parse] and of its conditions, [fault.Denied] for the system
// application, and the store's.
func (e *Engine) PublishModel(ctx context.Context, change ledger.Change, application, source string, activate bool) (string, relation.Revision, error) {
	if application == System {
		return "", relation.Revision{}, fault.New(fault.Denied, "the system model is fixed")
	}
	a := e.application(application)
	b, err := a.compile(source)
	if err != nil {
		return "", relation.Revision{}, err
	}
	id := b.model.ID()
	if activate {
		if _, err := a.policies(b); err != nil {
			return "", relation.Revision{}, err
		}
	}
	a.prepared.Store(b)
	a.mu.Lock()
	before := a.applied[id]
	known, ok := a.records[id]
	a.mu.Unlock()
	rec := ModelRecord{Application: application, ID: id, Source: source, Active: activate, Created: e.cfg.Now().UTC()}
	if ok && known.Active {
		rec.Active = true // proposing what is in force does not end its turn
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
	if !delivered && !strings.HasPrefix(application, freePrefix) { // a store that delivers nothing: its order is ours
		a.install(rec, b)
	}
	return id, rev, nil
}

// ActiveModel returns the application's model in force, and whether there is one.
// The application [System] has the system model.
func (e *Engine) ActiveModel(application string) (*schema.Model, bool) {
	a := e.known(application)
	if a == nil {
		return nil, false
	}
	if b := a.active.Load(); b != nil {
		return b.model, true
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
	for _, rec := range a.records {
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
