// Package authz decides: does this subject have this relation to this object?
//
// Each store's relation tuples are a graph in memory. A check reads one
// immutable snapshot of it and one compiled model, takes no lock and, on its
// usual ways, allocates nothing. Deny is what remains: the zero [Decision]
// denies, an error comes with the zero Decision, and a tuple that the model
// does not allow grants nothing.
//
// The answers follow OpenFGA's semantics (https://openfga.dev/docs/concepts) with
// one refinement: the depth of an answer is the length of its shortest chain,
// so that it does not depend on the order of evaluation.
package authz

import (
	"context"
	"strings"
	"sync"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/secret"
)

// Store is what the engine needs of a database. Every method is safe for
// concurrent use.
type Store interface {
	// LoadTuples returns all tuples of the store with the revision at which
	// they were read, from one consistent view.
	LoadTuples(context.Context, relation.StoreID) ([]relation.Tuple, relation.Revision, error)
	// WriteTuples commits the changes with their event. A duplicate write or a
	// missing delete has kind [fault.Conflict] and changes nothing. The batch
	// reaches [Engine.Apply] before WriteTuples returns.
	WriteTuples(_ context.Context, _ ledger.Change, writes, deletes []relation.Tuple) (relation.Revision, error)
	LoadModels(context.Context) ([]ModelRecord, error)
	// PutModel stores the record, new or known; an active one ends the turn of
	// the application's active record in the same transaction.
	PutModel(context.Context, ledger.Change, ModelRecord) (relation.Revision, error)
}

// Config says what an engine works with. All fields but MAC and Epoch are required.
type Config struct {
	Store Store
	// Application returns the application of a store, [System] for a system
	// store; false if the store is unknown. The answer must never change for
	// one id. It is asked once for each store.
	Application func(relation.StoreID) (string, bool)
	MAC         secret.Bytes // of revision tokens: 32 bytes
	Epoch       uint64       // of this instance's history
	Now         func() time.Time
}

// Engine answers questions about all stores. It is safe for concurrent use.
type Engine struct {
	cfg    Config
	stores registry

	mu           sync.Mutex // guards applications
	applications map[string]*application

	counters
}

// New returns an engine that knows the stored models. Tuples are loaded store
// by store on first use. Errors: [fault.Invalid] for an incomplete Config, the
// store's, and [fault.Integrity] when an active stored model is not usable.
func New(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Store == nil || cfg.Application == nil || cfg.Now == nil {
		return nil, fault.New(fault.Invalid, "authz: Store, Application and Now are required")
	}
	e := &Engine{cfg: cfg, applications: map[string]*application{}}
	m, err := schema.Parse(SystemModel)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "authz: the system model", err)
	}
	if err := e.application(System).install(ModelRecord{ID: m.ID(), Source: SystemModel, Active: true}, m); err != nil {
		return nil, err
	}
	records, err := cfg.Store.LoadModels(ctx)
	if err != nil {
		return nil, err
	}
	active := map[string]bool{}
	for _, rec := range records {
		if rec.Active && active[rec.Application] {
			return nil, fault.New(fault.Integrity, "an application has two active models")
		}
		active[rec.Application] = active[rec.Application] || rec.Active
		if err := e.ApplyModel(rec); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Query asks whether Subject has Relation to Object in Store. The strings have
// the forms of [relation.Tuple].
type Query struct {
	Store    relation.StoreID
	Object   string
	Relation string
	Subject  string
	Explain  bool // fill Decision.Trace
}

// Decision answers a [Query]. The zero Decision denies.
type Decision struct {
	Allowed  bool
	Revision relation.Revision // of the graph that answered
	Model    string            // id of the model that answered
	Trace    *Trace            // nil unless asked for
}

// Check answers the question at the latest revision that this process has. On
// an error the Decision is zero and the caller denies. Kinds: [fault.Invalid]
// for a malformed question or a type or relation that the model lacks,
// [fault.NotFound] for an unknown store or an application without a model,
// [fault.Exhausted] beyond the depth of 25 or 262,144 tuples followed,
// [fault.Unavailable] when the store cannot be loaded.
func (e *Engine) Check(ctx context.Context, q Query) (Decision, error) {
	ent, snap, err := e.snapshot(ctx, q.Store)
	if err != nil {
		return Decision{}, err
	}
	model := ent.app.active.Load()
	if model == nil {
		return Decision{}, fault.New(fault.NotFound, "the application has no active model")
	}
	object, prog, err := snap.question(model, q.Object, q.Relation)
	if err != nil {
		return Decision{}, err
	}
	who, err := snap.asker(model, q.Subject)
	if err != nil {
		return Decision{}, err
	}
	ev := newEvaluator(snap, who)
	defer ev.release()
	if q.Explain {
		ev.rec = &recorder{}
	}
	same := who.rel != plain && len(q.Subject) > len(q.Object) && q.Subject[len(q.Object)] == '#' && q.Subject[:len(q.Object)] == q.Object
	g, allowed, err := ev.run(ctx, object, prog, same)
	if err != nil {
		return Decision{}, err
	}
	d := Decision{
		Allowed:  allowed,
		Revision: relation.Revision{Epoch: e.cfg.Epoch, Store: q.Store, Rev: snap.rev},
		Model:    model.model.ID(),
	}
	if q.Explain {
		d.Trace = ev.trace(&q, &d, g)
	}
	return d, nil
}

// trace is kept apart so that q escapes to the heap only when it is called for.
func (ev *evaluator) trace(asked *Query, d *Decision, g grant) *Trace {
	q := *asked
	t := &Trace{
		Store: q.Store, Revision: d.Revision.Rev, Model: d.Model, Allowed: d.Allowed,
		Object: q.Object, Relation: q.Relation, Subject: q.Subject,
	}
	if d.Allowed {
		t.Path = ev.path(g, &q)
	} else {
		t.Tried, t.Omitted = ev.tried(&q), ev.rec.omitted
	}
	return t
}

// question finds the object and the program. An object that the graph knows is
// well formed, so only unknown ones are looked at closely.
func (s *snapshot) question(m *bound, object, rel string) (uint32, *program, error) {
	id := s.find(object)
	var typ *boundType
	if id != 0 {
		typ = m.typeOf(s.entity(id).typ)
	} else {
		if !relation.ValidObject(object) {
			return 0, nil, fault.New(fault.Invalid, "the object must be type:id")
		}
		name, _, _ := relation.SplitObject(object)
		typ = m.types[name]
	}
	if typ == nil {
		return 0, nil, fault.New(fault.Invalid, "the model has no such type of object")
	}
	prog := typ.programs[rel]
	if prog == nil {
		return 0, nil, fault.New(fault.Invalid, "the type "+typ.name+" has no such relation")
	}
	return id, prog, nil
}

func (s *snapshot) asker(m *bound, subject string) (asker, error) {
	object, rel, userset := strings.Cut(subject, "#")
	var typ *boundType
	id := s.find(object)
	if id != 0 {
		typ = m.typeOf(s.entity(id).typ)
	} else {
		if !relation.ValidSubject(subject) {
			return asker{}, fault.New(fault.Invalid, "the user must be type:id, type:id#relation or type:*")
		}
		name, _, _ := relation.SplitObject(object)
		typ = m.types[name]
	}
	if typ == nil {
		return asker{}, fault.New(fault.Invalid, "the model has no such type of user")
	}
	switch {
	case userset:
		prog := typ.programs[rel]
		if prog == nil {
			return asker{}, fault.New(fault.Invalid, "the type "+typ.name+" has no such relation")
		}
		return asker{id, prog.rel, typ.sym}, nil
	case id == 0 && strings.HasSuffix(object, ":*"):
		return asker{0, wildcard, typ.sym}, nil
	}
	return asker{id, plain, typ.sym}, nil
}
