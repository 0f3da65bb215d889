package authz

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/policy"
	"bulwark.example/internal/relation"
)

// KindOwnPolicies is the changelog's kind of what a tenant adds to the guard
// policies of an application, in its own store: the key is the store's id, the
// payload the JSON of an [OwnPolicies].
const KindOwnPolicies = "own_policies"

// OwnPolicies are a tenant's own guard policies for one of its default stores.
// They may forbid, and permit what the operator delegates ([Claims]). Its JSON
// form is what the store's changelog carries.
type OwnPolicies struct {
	Store   relation.StoreID `json:"store"`
	ID      string           `json:"id,omitempty"` // [policy.Set.ID] under what they were published with; empty: none
	Files   []PolicyFile     `json:"files"`        // none: none are in force
	Created time.Time        `json:"created"`
}

// MaxOwnText bounds a tenant's own policies, in bytes of all files together:
// every node of every tenant compiles them.
const MaxOwnText = 256 << 10

// layer is a tenant's own policies in memory. All snapshots of a store share it
// until it changes.
type layer struct {
	record OwnPolicies

	mu       sync.Mutex
	compiled []ownSet // by what they complete, oldest first
}

type ownSet struct {
	by  *judgement
	set *policy.Set
	err error
}

// newLayer returns nil for no policies.
func newLayer(rec *OwnPolicies) *layer {
	if rec == nil || len(rec.Files) == 0 {
		return nil
	}
	return &layer{record: *rec}
}

// under returns the policies compiled for what decides for the store. What the
// operator does not delegate any more permits nothing; what else does not fit
// leaves the store without answers: it may be a forbid.
func (l *layer) under(by *judgement) (*policy.Set, error) {
	if l == nil {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.compiled {
		if c.by == by {
			return c.set, c.err
		}
	}
	c := ownSet{by: by}
	if c.set, c.err = by.ownPolicies(l.record.Files, true); c.err != nil {
		c.err = fault.Wrap(fault.Invalid, "the tenant's own policies do not fit the application any more; publish others: "+fault.Public(c.err), c.err)
	}
	if len(l.compiled) == maxOthers {
		l.compiled = slices.Delete(l.compiled, 0, 1)
	}
	l.compiled = append(l.compiled, c)
	return c.set, c.err
}

// ownPolicies compiles a tenant's own policies beside the operator's. lenient
// leaves out what is not delegated.
func (j *judgement) ownPolicies(files []PolicyFile, lenient bool) (*policy.Set, error) {
	v, err := j.model.vocabulary(j.claims)
	if err != nil {
		return nil, err
	}
	grants, err := j.model.delegated(j.claims.Delegate)
	if err != nil {
		return nil, err
	}
	v.Lenient = lenient
	size := 0
	var sources []policy.Source
	for _, f := range files {
		size += len(f.Text)
		sources = append(sources, policy.Source{Name: f.Name, Text: f.Text, Tenant: true})
	}
	if size > MaxOwnText {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("a tenant's own policies may have %d KiB together", MaxOwnText>>10))
	}
	return policy.Compile(v, sources, grants...)
}

// delegated reads the relations that tenants may permit: "document#can_view".
func (b *bound) delegated(list []string) ([]policy.Grant, error) {
	out := make([]policy.Grant, len(list))
	for i, s := range list {
		typ, rel, ok := strings.Cut(s, "#")
		if bt := b.types[typ]; !ok || bt == nil || bt.programs[rel] == nil {
			return nil, fault.New(fault.Invalid, "what is delegated must be a relation of the model like document#can_view, not "+clip(s))
		}
		out[i] = policy.Grant{Type: typ, Relation: rel}
	}
	return out, once("what is delegated", list)
}

// PublishOwnPolicies puts a tenant's own guard policies in force for a default
// store, in the place of all that were: change.Store. No files: no policies.
// Errors: those of [policy.Compile], kind [fault.Denied] for a store that is no
// default store, [fault.NotFound] for an unknown one or an application without a
// model, and the store's.
func (e *Engine) PublishOwnPolicies(ctx context.Context, change ledger.Change, files []PolicyFile) (OwnPolicies, error) {
	if err := e.protected(change.Store); err != nil {
		return OwnPolicies{}, err
	}
	_, _, by, err := e.view(ctx, change.Store, "")
	if err != nil {
		return OwnPolicies{}, err
	}
	rec := OwnPolicies{Store: change.Store, Files: slices.Clone(files), Created: e.cfg.Now().UTC()}
	if len(files) > 0 {
		set, err := by.ownPolicies(files, false)
		if err != nil {
			return OwnPolicies{}, err
		}
		rec.ID = set.ID()
	}
	_, err = e.cfg.Store.PutOwnPolicies(ctx, change, rec)
	return rec, err
}

// OwnPolicies returns what a tenant has added to the policies of its default
// store. Kinds as [Engine.PublishOwnPolicies].
func (e *Engine) OwnPolicies(ctx context.Context, store relation.StoreID) (OwnPolicies, error) {
	if err := e.protected(store); err != nil {
		return OwnPolicies{}, err
	}
	_, snap, err := e.snapshot(ctx, store)
	if err != nil {
		return OwnPolicies{}, err
	}
	if snap.layer == nil {
		return OwnPolicies{Store: store}, nil
	}
	return snap.layer.record, nil
}

// protected refuses all but default stores.
func (e *Engine) protected(store relation.StoreID) error {
	switch named, ok := e.cfg.Application(store); {
	case !ok:
		return fault.New(fault.NotFound, "there is no such store")
	case named == System || strings.HasPrefix(named, freePrefix):
		return fault.New(fault.Denied, "this is for the stores of an operator's application")
	}
	return nil
}

// announceOwn takes a tenant's own policies, for the revision that is told next.
// What cannot be read leaves the store to be loaded again.
func (e *Engine) announceOwn(key string, payload []byte) error {
	ent := e.stores.get(relation.StoreID(key))
	if ent == nil {
		return nil // the first question will load them
	}
	rec := new(OwnPolicies)
	err := json.Unmarshal(payload, rec)
	if err == nil && string(rec.Store) != key {
		err = fault.New(fault.Integrity, "a change of a tenant's policies has the key of another store")
	}
	ent.mu.Lock()
	defer ent.mu.Unlock()
	if err != nil {
		ent.lose()
		return fault.Wrap(fault.Integrity, "a change of a tenant's policies cannot be read", err)
	}
	ent.own = rec
	return nil
}
