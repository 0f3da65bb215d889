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
	"log/slog"
	"strings"
	"sync"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/policy"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
)

// Config says what an engine works with. Store, Archive, Application and Now are required.
type Config struct {
	Store   Store
	Archive Archive
	// Application returns the application of a store, [System] for a system
	// store; false if the store is unknown. The answer must never change for
	// one id. It is asked once for each store.
	Application func(relation.StoreID) (string, bool)
	MAC         secret.Bytes // of revision tokens: 32 bytes
	Epoch       uint64       // of this instance's history
	Memory      int64        // bytes that stores may take before the ones not asked for leave; 0: no bound
	Now         func() time.Time
	Logger      *slog.Logger // nil discards

	Images       Images // nil: stores are loaded from their rows alone
	ImageTuples  int    // that a store holds to get an image; 0: 20,000
	ImageChanges int    // beside a sixteenth of its tuples, until its image is made anew; 0: 1,000
}

// Engine answers questions about all stores. It is safe for concurrent use.
type Engine struct {
	cfg    Config
	stores registry

	mu           sync.Mutex // guards applications
	applications map[string]*application

	wanted chan *entry // whose images are to be written, or removed
	counters
}

// New returns an engine that knows the stored models. Tuples are loaded store
// by store on first use. Errors: [fault.Invalid] for an incomplete Config, the
// store's, and [fault.Integrity] when what is stored is not usable.
func New(ctx context.Context, cfg Config) (*Engine, error) {
	if cfg.Store == nil || cfg.Archive == nil || cfg.Application == nil || cfg.Now == nil {
		return nil, fault.New(fault.Invalid, "authz: Store, Archive, Application and Now are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{cfg: cfg, applications: map[string]*application{}, wanted: make(chan *entry, imageQueue)}
	system, err := e.application(System).compile(SystemModel)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "authz: the system model", err)
	}
	e.application(System).install(ModelRecord{ID: system.model.ID(), Source: SystemModel, Active: true}, system)
	records, err := cfg.Store.LoadModels(ctx)
	if err != nil {
		return nil, err
	}
	policies, err := cfg.Store.LoadPolicies(ctx)
	if err != nil {
		return nil, err
	}
	for i := range policies {
		e.application(policies[i].Application).takePolicies(&policies[i])
	}
	for _, rec := range records {
		if err := e.ApplyModel(rec); err != nil {
			return nil, err
		}
	}
	rollouts, err := cfg.Store.LoadRollouts(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rollouts {
		if err := e.application(r.Application).takeRollout(r); err != nil {
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
	Asked         // what else a question may bring
	Explain  bool // fill Decision.Trace
}

// Asked is what every kind of question may bring along.
type Asked struct {
	Model      string           // id of the model to answer by; "" for the active one
	Contextual []relation.Tuple // count for this question as if they were stored
	Context    map[string]any   // for conditions, and claimed before policies; as encoding/json decodes an object

	// What guard policies read beside it. Verified is only for what Bulwark knows
	// itself: a caller's words never go there.
	Verified      func() policy.Verified // of who asks, called when a policy is looked at; nil: nothing but the time
	SubjectClaims map[string]any         // the caller's words about the subject
	ObjectClaims  map[string]any         // and about the object
}

// Decision answers a [Query]. The zero Decision denies.
type Decision struct {
	Allowed  bool
	Reason   string            // relation, policy, no_relation, forbidden or exclusive_roles
	Revision relation.Revision // of the graph that answered
	Model    string            // id of the model that answered
	Trace    *Trace            // nil unless asked for
}

// Check answers the question at the latest revision that this process has. On
// an error the Decision is zero and the caller denies. Kinds: [fault.Invalid]
// for a malformed question, a type or relation that the model lacks
// ([ErrNoType], [ErrNoRelation]), a model that the store lacks ([ErrNoModel]), a
// contextual tuple that the model does not allow ([ErrTuple]) and for a condition
// on which the answer depends and that cannot be evaluated; [fault.NotFound] for
// an unknown store or an application without a model, [fault.TooLarge] beyond
// [MaxContextual], [fault.Exhausted] beyond the depth of 25 or 262,144 tuples
// followed, [fault.Unavailable] when the store cannot be loaded.
func (e *Engine) Check(ctx context.Context, q Query) (Decision, error) {
	ev, err := e.ask(ctx, q.Store, &q.Asked)
	if err != nil {
		return Decision{}, err
	}
	defer ev.release()
	return e.decide(ev, &q)
}

// decide answers one question in the evaluator's snapshot.
func (e *Engine) decide(ev *evaluator, q *Query) (Decision, error) {
	subject, _, _ := strings.Cut(q.Subject, "#")
	known, asker := ev.lookups(q.Object, subject)
	object := known.id
	typ, err := ev.objectType(q.Object, known)
	if err != nil {
		return Decision{}, err
	}
	prog, err := typ.program(q.Relation)
	if err != nil {
		return Decision{}, err
	}
	if ev.who, err = ev.askerIs(q.Subject, asker); err != nil {
		return Decision{}, err
	}
	if ev.who.set && object == 0 {
		ev.same = len(q.Subject) > len(q.Object) && q.Subject[len(q.Object)] == '#' && q.Subject[:len(q.Object)] == q.Object
	}
	ev.walk = ev.walk || q.Explain || ev.who.every == 0 // sets are kept for objects
	v, f := ev.answer(object, prog, false)
	if err := ev.failure(v); err != nil {
		return Decision{}, err
	}
	d := Decision{Allowed: v == yes, Revision: e.revision(q.Store, ev.snap), Model: ev.model.model.ID()}
	if q.Explain {
		d.Trace = ev.trace(q, &d, f) // of the relation; f does not outlive the next question
	}
	var deciding []policy.Decisive
	if d.Allowed, d.Reason, deciding, err = ev.judge(q.Object, q.Subject, prog, object, v); err != nil {
		return Decision{}, err
	}
	if q.Explain {
		d.Trace.Allowed, d.Trace.Policies = d.Allowed, decisive(deciding)
		if d.Reason == reasonExclusive {
			ev.explainOverlap(q, d.Trace, object)
		}
	}
	return d, nil
}

// failure returns why a question has no answer; nil if it has one. What depends
// on its own negation is denied, as OpenFGA does.
func (ev *evaluator) failure(v truth) error {
	switch {
	case ev.fatal != nil:
		return ev.fatal
	case v == unknown && ev.cause != nil:
		return ev.cause
	case v == unknown:
		return fault.New(fault.Internal, "a question has no answer, for no reason")
	}
	return nil
}

// ask makes an evaluator for a question about the store.
func (e *Engine) ask(ctx context.Context, store relation.StoreID, a *Asked) (*evaluator, error) {
	ent, snap, by, err := e.view(ctx, store, a.Model)
	if err != nil {
		return nil, err
	}
	return e.askIn(ctx, ent, snap, by, a)
}

// askIn makes an evaluator for a question about the snapshot.
func (e *Engine) askIn(ctx context.Context, ent *entry, snap *snapshot, by *judgement, a *Asked) (*evaluator, error) {
	ev := newEvaluator(ctx, snap, by.model, e.cfg.Now)
	var err error
	if len(a.Contextual) > 0 {
		if ev.over, err = lay(snap, by.model, ent.app.syms, a.Contextual); err != nil {
			ev.release()
			return nil, err
		}
		ev.walk = true // the sets know the stored tuples only
	}
	ev.policies, ev.roles = by.policies, by.roles
	if ev.own, err = snap.layer.under(by); err != nil {
		ev.release()
		return nil, err
	}
	ev.asked, ev.verified, ev.subjectClaims, ev.objectClaims = a.Context, a.Verified, a.SubjectClaims, a.ObjectClaims
	return ev, nil
}

// view returns what a question is answered from.
func (e *Engine) view(ctx context.Context, store relation.StoreID, model string) (*entry, *snapshot, *judgement, error) {
	for {
		ent, snap, err := e.snapshot(ctx, store)
		if err != nil {
			return nil, nil, nil, err
		}
		by, err := ent.app.answers(store, model)
		if err != nil && ent.snap.Load() == nil {
			continue // the store left memory in between, and a free one's models with it
		}
		return ent, snap, by, err
	}
}

func (e *Engine) revision(store relation.StoreID, s *snapshot) relation.Revision {
	return relation.Revision{Epoch: e.cfg.Epoch, Store: store, Rev: s.rev}
}
