package authz

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/policy"
	"bulwark.example/internal/relation"
)

// KindRollout is the changelog's kind of rollouts: the key is the application,
// the payload the JSON of a [Rollout].
const KindRollout = "rollout"

// Rollout says which version of an operator's application answers for which of
// its stores. Its JSON form is what a store's changelog carries.
type Rollout struct {
	Application string `json:"application"`
	// Serial is one more with each change of the application's rollout. A change
	// that does not know the last one is refused, so that none undoes another's.
	Serial   uint64             `json:"serial"`
	Current  Version            `json:"current"`            // answers for all stores but Stores
	Previous *Version           `json:"previous,omitempty"` // what Current took the place of
	Next     *Version           `json:"next,omitempty"`     // answers for Stores: a wave
	Stores   []relation.StoreID `json:"stores,omitempty"`   // in order
}

func (r *Rollout) same(o *Rollout) bool {
	both := func(a, b *Version) bool {
		return a == b || a != nil && b != nil && a.Release == b.Release && a.Same(b)
	}
	return r.Application == o.Application && r.Serial == o.Serial && both(&r.Current, &o.Current) &&
		both(r.Previous, o.Previous) && both(r.Next, o.Next) && slices.Equal(r.Stores, o.Stores)
}

// Version is what decides for a store, together: a model with the policies and
// roles that fit it.
type Version struct {
	Release  string `json:"release,omitempty"`  // id of the release that brought it; empty for what an installation begins with
	Model    string `json:"model"`              // id of a [ModelRecord]
	Policies string `json:"policies,omitempty"` // id of a [PolicyRecord]; empty: none
	Roles    Roles  `json:"roles,omitzero"`
	// Routes are the gateway's routes that come with the version; null: they are
	// not the version's matter. To the engine they are opaque.
	Routes json.RawMessage `json:"routes,omitempty"`
}

// Same reports whether both versions say the same, whatever release brought them.
func (v *Version) Same(o *Version) bool {
	return v.Model == o.Model && v.Policies == o.Policies && v.Roles.same(o.Roles) && bytes.Equal(v.Routes, o.Routes)
}

// Draft is a version spelt out.
type Draft struct {
	Model    string // OpenFGA DSL
	Policies []PolicyFile
	Claims   Claims
	Roles    Roles
	Routes   json.RawMessage
}

// Content is what versions name by id. It is stored before or with them.
type Content struct {
	Models   []ModelRecord
	Policies []PolicyRecord
}

// force is a version that decides, compiled.
type force struct {
	version  Version
	model    *bound
	policies *PolicyRecord // nil without any
	own      judgement     // for model

	mu     sync.Mutex
	pinned []*judgement // for other models that callers name, oldest first
}

// judgement is what completes the value of a relation, compiled for one model.
type judgement struct {
	model    *bound
	policies *policy.Set // nil without any
	roles    *roleSet    // nil without any
	claims   Claims      // what a tenant's own policies may read and permit
	err      error       // they do not fit the model: nothing is answered by it
}

// newForce makes a force that nothing but a model decides for.
func newForce(b *bound) *force { return &force{model: b, own: judgement{model: b}} }

// judgement returns the force's policies and roles for a model, which callers
// that pin an old one name. What does not fit it leaves it without answers: what
// is forbidden must not be allowed by an older version.
func (f *force) judgement(b *bound) *judgement {
	if b == f.model {
		return &f.own
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, j := range f.pinned {
		if j.model == b {
			return j
		}
	}
	if len(f.pinned) == maxOthers {
		f.pinned = slices.Delete(f.pinned, 0, 1)
	}
	j := f.judge(b)
	f.pinned = append(f.pinned, &j)
	return &j
}

func (f *force) judge(b *bound) (j judgement) {
	j.model = b
	if f.policies != nil {
		j.claims = f.policies.Claims
		j.policies, j.err = b.compileGuards(f.policies)
	}
	if j.err == nil {
		j.roles, j.err = b.compileRoles(f.version.Roles)
	}
	if j.err != nil {
		j.err = fault.Wrap(fault.Invalid, "the policies or roles in force do not fit this model: "+fault.Public(j.err), j.err)
	}
	return j
}

// standing is a rollout in memory. It is immutable but for the caches below it.
type standing struct {
	rollout       Rollout
	current, next *force // next is nil without a wave
	wave          map[relation.StoreID]struct{}
}

// of returns what decides for the store.
func (s *standing) of(store relation.StoreID) *force {
	if s.next != nil {
		if _, ok := s.wave[store]; ok {
			return s.next
		}
	}
	return s.current
}

// stand compiles a rollout, taking over what is compiled already. What it names
// is stored, or among the content.
func (a *application) stand(r Rollout, c Content) (*standing, error) {
	s := &standing{rollout: r}
	var err error
	if s.current, err = a.enforce(r.Current, c); err != nil || r.Next == nil {
		return s, err
	}
	s.wave = make(map[relation.StoreID]struct{}, len(r.Stores))
	for _, id := range r.Stores {
		s.wave[id] = struct{}{}
	}
	s.next, err = a.enforce(*r.Next, c)
	return s, err
}

func (a *application) enforce(v Version, c Content) (*force, error) {
	if s := a.standing.Load(); s != nil {
		for _, f := range []*force{s.current, s.next} {
			if f != nil && f.version.Release == v.Release && f.version.Same(&v) {
				return f, nil
			}
		}
	}
	f := &force{version: v}
	var err error
	if i := slices.IndexFunc(c.Models, func(m ModelRecord) bool { return m.ID == v.Model }); i >= 0 {
		if f.model = a.prepared.Load(); f.model == nil || f.model.model.ID() != v.Model {
			f.model, err = a.compile(c.Models[i].Source)
		}
	} else {
		f.model, err = a.version(v.Model)
	}
	if err != nil {
		return nil, err
	}
	if v.Policies != "" {
		if i := slices.IndexFunc(c.Policies, func(p PolicyRecord) bool { return p.ID == v.Policies }); i >= 0 {
			f.policies = &c.Policies[i]
		} else if f.policies = a.policiesOf(v.Policies); f.policies == nil {
			return nil, fault.New(fault.Invalid, "the application has no policies "+clip(v.Policies))
		}
	}
	f.own = f.judge(f.model)
	return f, f.own.err
}

func (a *application) policiesOf(id string) *PolicyRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.policies[id]
}

// takeRollout makes a committed rollout the one that stands. One that cannot be
// used leaves the application without answers: what stood before may allow what
// this one was made to forbid.
func (a *application) takeRollout(r Rollout) error {
	s := a.rolling.Load()
	if s == nil || !s.rollout.same(&r) {
		var err error
		if s, err = a.stand(r, Content{}); err != nil {
			a.standing.Store(nil)
			return fault.Wrap(fault.Integrity, "a stored rollout cannot be used", err)
		}
	}
	a.standing.Store(s)
	return nil
}

func (e *Engine) applyRollout(name string, payload []byte) error {
	if name == System {
		return fault.New(fault.Integrity, "the system model is fixed")
	}
	var r Rollout
	err := json.Unmarshal(payload, &r)
	if err == nil && r.Application != name {
		err = fault.New(fault.Integrity, "a change of a rollout has the key of another application's")
	}
	if err != nil {
		e.application(name).standing.Store(nil)
		return fault.Wrap(fault.Integrity, "a change of a rollout cannot be read", err)
	}
	return e.application(name).takeRollout(r)
}

// Rollout returns which versions of an operator's application answer, and whether
// any does.
func (e *Engine) Rollout(application string) (Rollout, bool) {
	a := e.known(application)
	if a == nil || application == System {
		return Rollout{}, false
	}
	s := a.standing.Load()
	if s == nil {
		return Rollout{}, false
	}
	r := s.rollout
	r.Stores = slices.Clone(r.Stores)
	return r, true
}

// Draft returns what a version consists of, spelt out. Kind [fault.NotFound] for
// a version whose content is not stored.
func (e *Engine) Draft(application string, v Version) (Draft, error) {
	a := e.application(application)
	a.mu.Lock()
	defer a.mu.Unlock()
	rec, ok := a.records[v.Model]
	d := Draft{Model: rec.Source, Roles: v.Roles, Routes: v.Routes}
	if v.Policies != "" {
		p := a.policies[v.Policies]
		if ok = ok && p != nil; ok {
			d.Policies, d.Claims = slices.Clone(p.Files), p.Claims
		}
	}
	if !ok {
		return Draft{}, fault.New(fault.NotFound, "the application has no such version")
	}
	return d, nil
}

// Compile proves that a draft's model, policies and roles are usable and fit each
// other. It returns the version, and the content that is to be stored for it.
// Nothing is changed. Errors: those of [schema.Parse], of its conditions and of
// [policy.Compile], those of roles, and [fault.Denied] for an application that
// is not the operator's.
func (e *Engine) Compile(application string, d Draft) (Version, Content, error) {
	if application == System || strings.HasPrefix(application, freePrefix) {
		return Version{}, Content{}, fault.New(fault.Denied, "only an operator's application has versions")
	}
	a := e.application(application)
	b, err := a.compile(d.Model)
	if err != nil {
		return Version{}, Content{}, err
	}
	now := e.cfg.Now().UTC()
	v := Version{Model: b.model.ID(), Roles: d.Roles, Routes: d.Routes}
	c := Content{Models: []ModelRecord{{Application: application, ID: v.Model, Source: d.Model, Created: now}}}
	if len(d.Policies)+len(d.Claims.Delegate) > 0 {
		rec := PolicyRecord{Application: application, Files: slices.Clone(d.Policies), Claims: d.Claims, Created: now}
		set, err := b.compileGuards(&rec)
		if err != nil {
			return Version{}, Content{}, err
		}
		rec.ID = set.ID()
		v.Policies, c.Policies = rec.ID, []PolicyRecord{rec}
	}
	if _, err := b.compileRoles(d.Roles); err != nil {
		return Version{}, Content{}, err
	}
	a.prepared.Store(b)
	return v, c, nil
}

// Roll stores the content and puts the rollout in force. Whether it may be is for
// package release to say; this proves that it can be. Kinds: [fault.Conflict] if
// the serial is not the next, [fault.Invalid] for a version that names what is
// neither stored nor in the content, [fault.Denied] for an application that is
// not the operator's, and the store's.
func (e *Engine) Roll(ctx context.Context, change ledger.Change, r Rollout, c Content) error {
	if r.Application == System || strings.HasPrefix(r.Application, freePrefix) {
		return fault.New(fault.Denied, "only an operator's application has versions")
	}
	slices.Sort(r.Stores)
	r.Stores = slices.Compact(r.Stores)
	if r.Next == nil && len(r.Stores) > 0 {
		return fault.New(fault.Invalid, "a wave needs a version")
	}
	a := e.application(r.Application)
	s, err := a.stand(r, c)
	if err != nil {
		return err
	}
	a.rolling.Store(s)
	defer a.rolling.Store(nil)
	if _, err := e.cfg.Store.PutRollout(ctx, change, r, c); err != nil {
		return err
	}
	if now := a.standing.Load(); now == nil || now.rollout.Serial < r.Serial { // a store that delivers nothing: its order is ours
		for _, m := range c.Models {
			a.install(m, nil)
		}
		for i := range c.Policies {
			a.takePolicies(&c.Policies[i])
		}
		a.standing.Store(s)
	}
	return nil
}

// Enforce puts a draft in force for all stores of an application at once: what
// an installation begins with, and what tests decide by. Errors are those of
// [Engine.Compile] and [Engine.Roll].
func (e *Engine) Enforce(ctx context.Context, change ledger.Change, application string, d Draft) (Version, error) {
	v, c, err := e.Compile(application, d)
	if err != nil {
		return Version{}, err
	}
	before, _ := e.Rollout(application)
	return v, e.Roll(ctx, change, Rollout{Application: application, Serial: before.Serial + 1, Current: v}, c)
}

// Staged is a version that can be asked without being in force.
type Staged struct{ f *force }

// Stage compiles a version for questions that ask what it would answer. What it
// names is stored, or among the content. Errors as [Engine.Roll]'s.
func (e *Engine) Stage(application string, v Version, c Content) (Staged, error) {
	f, err := e.application(application).enforce(v, c)
	return Staged{f}, err
}

// CheckStaged answers the question as [Engine.Check] would if the version were in
// force for the store. The question's model is not read.
func (e *Engine) CheckStaged(ctx context.Context, q Query, s Staged) (Decision, error) {
	ent, snap, err := e.snapshot(ctx, q.Store)
	if err != nil {
		return Decision{}, err
	}
	ev, err := e.askIn(ctx, ent, snap, &s.f.own, &q.Asked)
	if err != nil {
		return Decision{}, err
	}
	defer ev.release()
	return e.decide(ev, &q)
}

// Orphans gives every stored tuple of the store to each; with the reason, those
// that count by what is in force and would not by the version. Errors are the
// store's and each's.
func (e *Engine) Orphans(ctx context.Context, store relation.StoreID, s Staged, each func(relation.Tuple, error) error) error {
	_, _, now, err := e.view(ctx, store, "")
	if err != nil {
		return err
	}
	_, err = e.cfg.Store.LoadGraph(ctx, store, func(t relation.Tuple) error {
		why := s.f.model.accepts(t)
		if why != nil && now.model.accepts(t) != nil {
			why = nil // it counts for nothing today
		}
		return each(t, why)
	})
	return err
}

// Unanswered reports whether the error says that an answer hangs on a condition
// that could not be evaluated.
func Unanswered(err error) bool { return errors.Is(err, ErrCondition) }
