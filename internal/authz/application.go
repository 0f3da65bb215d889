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

// ModelRecord is one version of an application's model. Its JSON form is what a
// store's changelog carries.
type ModelRecord struct {
	Application string    `json:"application"`
	ID          string    `json:"id"` // [schema.Model.ID] of Source
	Source      string    `json:"source"`
	Active      bool      `json:"active"` // at most one of an application: activating one ends the other's turn
	Created     time.Time `json:"created"`
}

// application is an operator's application with its model versions. All its
// stores share one compiled form of each version.
type application struct {
	name   string
	syms   *symbols
	active atomic.Pointer[bound]

	// prepared is the model that PublishModel parsed last. The store delivers
	// it back while its writer waits, and parsing may take a second.
	prepared atomic.Pointer[schema.Model]

	mu      sync.Mutex // guards records
	records map[string]ModelRecord
	applied map[string]uint64 // how often ApplyModel told us of a version
}

func newApplication(name string) *application {
	return &application{name: name, syms: newSymbols(), records: map[string]ModelRecord{}, applied: map[string]uint64{}}
}

// take makes the record known and, if it is active, in force. Only active
// models are parsed: an application may have hundreds of old ones.
func (a *application) take(rec ModelRecord) error {
	if schema.ID(rec.Source) != rec.ID {
		return fault.New(fault.Integrity, "a stored model is not the one that its id names")
	}
	if !rec.Active {
		return a.install(rec, nil)
	}
	m := a.prepared.Load()
	if m == nil || m.ID() != rec.ID {
		var err error
		if m, err = schema.Parse(rec.Source); err != nil {
			return fault.Wrap(fault.Integrity, "a stored model does not parse", err)
		}
	}
	return a.install(rec, m)
}

// install needs the model of an active record only.
func (a *application) install(rec ModelRecord, m *schema.Model) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch b := a.active.Load(); {
	case rec.Active:
		b, err := bind(m, a.syms)
		if err != nil {
			return err
		}
		for id, other := range a.records {
			other.Active = false
			a.records[id] = other
		}
		a.active.Store(b)
	case b != nil && b.model.ID() == rec.ID:
		a.active.Store(nil) // its turn has ended, and no other's has begun
	}
	a.records[rec.ID] = rec
	a.applied[rec.ID]++
	return nil
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
// [Engine.ApplyModel] does; other kinds do nothing. An entry that cannot be
// read costs its application the model, for the same reason.
func (e *Engine) ApplyEntry(kind, key string, payload []byte) error {
	if kind != KindModel {
		return nil
	}
	var rec ModelRecord
	err := json.Unmarshal(payload, &rec)
	if err == nil && key == rec.Application+"/"+rec.ID {
		return e.ApplyModel(rec)
	}
	if name, _, ok := strings.Cut(key, "/"); ok && name != System {
		e.application(name).active.Store(nil)
	}
	return fault.Wrap(fault.Integrity, "a change of a model cannot be read", err)
}

// PublishModel parses a model, stores it as the application's active one and
// puts it in force. It returns the model's id and the revision of the change's
// shard. Errors: those of [schema.Parse], [fault.Denied] for the system
// application, and the store's.
func (e *Engine) PublishModel(ctx context.Context, change ledger.Change, application, source string) (string, relation.Revision, error) {
	if application == System {
		return "", relation.Revision{}, fault.New(fault.Denied, "the system model is fixed")
	}
	m, err := schema.Parse(source)
	if err != nil {
		return "", relation.Revision{}, err
	}
	a := e.application(application)
	a.prepared.Store(m)
	a.mu.Lock()
	before := a.applied[m.ID()]
	a.mu.Unlock()
	rec := ModelRecord{Application: application, ID: m.ID(), Source: source, Active: true, Created: e.cfg.Now().UTC()}
	rev, err := e.cfg.Store.PutModel(ctx, change, rec)
	if err != nil {
		return "", relation.Revision{}, err
	}
	a.mu.Lock()
	delivered := a.applied[m.ID()] != before
	a.mu.Unlock()
	if !delivered { // a store that delivers nothing: its order is ours
		err = a.install(rec, m)
	}
	return m.ID(), rev, err
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
