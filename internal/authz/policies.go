package authz

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/policy"
	"bulwark.example/internal/relation"
)

// KindPolicies is the changelog's kind of guard policies: the key is
// "<application>/<id>", the payload the JSON of a [PolicyRecord]. That of an
// active one ends the turn of the application's other active record.
const KindPolicies = "policies"

// PolicyRecord is one version of an application's guard policies. Its JSON form
// is what a store's changelog carries.
type PolicyRecord struct {
	Application string       `json:"application"`
	ID          string       `json:"id"` // [policy.Set.ID] under the model that it was published with
	Files       []PolicyFile `json:"files"`
	Claims      Claims       `json:"claims,omitzero"`
	Active      bool         `json:"active"`
	Created     time.Time    `json:"created"`
}

// PolicyFile is one file of Cedar policies.
type PolicyFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Claims declares the attributes that callers may claim, each with its kind:
// string, long, bool, strings, time or ip. Types are of the model.
type Claims struct {
	Context    map[string]string            `json:"context,omitempty"`
	Types      map[string]map[string]string `json:"types,omitempty"`
	Principals []string                     `json:"principals,omitempty"` // types that ask; empty: all
	Zone       string                       `json:"zone,omitempty"`       // IANA name of the time zone of hours and weekdays; empty: UTC
}

var claimKinds = map[string]policy.Kind{
	"string": policy.String, "long": policy.Long, "bool": policy.Bool,
	"strings": policy.Strings, "time": policy.Time, "ip": policy.IP,
}

func kindsOf(declared map[string]string) (map[string]policy.Kind, error) {
	out := make(map[string]policy.Kind, len(declared))
	for name, text := range declared {
		kind, ok := claimKinds[text]
		if !ok {
			return nil, fault.New(fault.Invalid, "the claim "+clip(name)+" has the unknown kind "+clip(text)+"; use string, long, bool, strings, time or ip")
		}
		out[name] = kind
	}
	return out, nil
}

// guards are the policies in force, compiled for one model.
type guards struct {
	record *PolicyRecord
	set    *policy.Set
	err    error // they do not fit the model: nothing is answered by it
}

// compiledGuards caches what a bound model last compiled.
type compiledGuards = atomic.Pointer[guards]

// compileGuards compiles the record for a model.
func (b *bound) compileGuards(rec *PolicyRecord) (*policy.Set, error) {
	v := policy.Vocabulary{Principals: rec.Claims.Principals}
	var err error
	if v.Claimed, err = kindsOf(rec.Claims.Context); err != nil {
		return nil, err
	}
	for typ := range rec.Claims.Types {
		if b.types[typ] == nil {
			return nil, fault.New(fault.Invalid, "the model has no type "+clip(typ)+", for which claims are declared")
		}
	}
	for _, typ := range b.model.Types() {
		t := policy.Type{Name: typ}
		for _, r := range b.model.Relations(typ) {
			t.Relations = append(t.Relations, r.Name)
		}
		if t.Claimed, err = kindsOf(rec.Claims.Types[typ]); err != nil {
			return nil, err
		}
		v.Types = append(v.Types, t)
	}
	if rec.Claims.Zone != "" {
		v.Zone, err = time.LoadLocation(rec.Claims.Zone)
		if err != nil || rec.Claims.Zone == "Local" { // "Local" is another zone on another node
			return nil, fault.Wrap(fault.Invalid, "there is no time zone "+clip(rec.Claims.Zone), err)
		}
	}
	var sources []policy.Source
	for _, f := range rec.Files {
		sources = append(sources, policy.Source{Name: f.Name, Text: f.Text})
	}
	return policy.Compile(v, sources)
}

// policies returns the set in force for a model; nil if the application has none.
// Policies that do not fit the model leave it without answers: what they forbid
// must not be allowed by an older version.
func (a *application) policies(b *bound) (*policy.Set, error) {
	rec := a.guards.Load()
	if rec == nil {
		return nil, nil
	}
	if g := b.guards.Load(); g != nil && g.record == rec {
		return g.set, g.err
	}
	g := &guards{record: rec}
	if g.set, g.err = b.compileGuards(rec); g.err != nil {
		g.err = fault.Wrap(fault.Invalid, "the policies in force do not fit this model: "+fault.Public(g.err), g.err)
	}
	b.guards.Store(g)
	return g.set, g.err
}

// PublishPolicies compiles guard policies for the active model, stores them as
// the application's active ones and puts them in force. It returns their id and
// the revision of the change's shard. No files: no policies. Errors: those of
// [policy.Compile], [fault.Denied] for the system application, [fault.NotFound]
// without an active model, and the store's.
func (e *Engine) PublishPolicies(ctx context.Context, change ledger.Change, application string, files []PolicyFile, claims Claims) (string, relation.Revision, error) {
	if application == System {
		return "", relation.Revision{}, fault.New(fault.Denied, "the system store has no policies")
	}
	b, err := e.application(application).bound("")
	if err != nil {
		return "", relation.Revision{}, err
	}
	rec := PolicyRecord{Application: application, Files: slices.Clone(files), Claims: claims, Active: true, Created: e.cfg.Now().UTC()}
	set, err := b.compileGuards(&rec)
	if err != nil {
		return "", relation.Revision{}, err
	}
	rec.ID = set.ID()
	rev, err := e.cfg.Store.PutPolicies(ctx, change, rec)
	return rec.ID, rev, err
}

// Policies returns the application's guard policies in force, and whether there
// are any.
func (e *Engine) Policies(application string) (PolicyRecord, bool) {
	if a := e.known(application); a != nil {
		if rec := a.guards.Load(); rec != nil {
			return *rec, true
		}
	}
	return PolicyRecord{}, false
}

// applyPolicies takes a committed record over.
func (e *Engine) applyPolicies(name string, payload []byte) error {
	rec := new(PolicyRecord)
	err := json.Unmarshal(payload, rec)
	if err == nil && rec.Application != name {
		err = fault.New(fault.Integrity, "a change of policies has the key of another application's")
	}
	if err != nil || name == System {
		if name != System {
			e.application(name).active.Store(nil) // the old ones may allow what these forbid
		}
		return fault.Wrap(fault.Integrity, "a change of policies cannot be read", err)
	}
	e.application(name).takePolicies(rec)
	return nil
}

func (a *application) takePolicies(rec *PolicyRecord) {
	switch {
	case rec.Active && len(rec.Files) == 0:
		a.guards.Store(nil)
	case rec.Active:
		a.guards.Store(rec)
	}
}

// Why a decision is what it is, in one word.
const (
	reasonRelation   = "relation"    // tuples give the relation
	reasonPolicy     = "policy"      // a policy permits
	reasonForbidden  = "forbidden"   // a policy forbids
	reasonNoRelation = "no_relation" // nothing gives it
)

// judge completes the value of the relation by what the policies say. They are
// about who asks, so a question about a userset or about everyone is one of
// relations alone.
func (ev *evaluator) judge(object, subject string, prog *program, id uint32, v truth) (bool, string, []policy.Decisive, error) {
	allowed, reason := v == yes, reasonNoRelation
	if allowed {
		reason = reasonRelation
	}
	set := ev.policies
	if set == nil || ev.who.every == 0 {
		return allowed, reason, nil, nil
	}
	forbids, permits := set.Candidates(prog.typ, prog.name)
	if permits == 0 && (forbids == 0 || !allowed) {
		return allowed, reason, nil, nil // nothing can change it
	}
	req := policy.Request{
		Principal: subject, Relation: prog.name, Resource: object,
		Claimed: policy.Claimed{Context: ev.asked, Principal: ev.subjectClaims, Resource: ev.objectClaims},
	}
	if ev.verified != nil {
		req.Verified = ev.verified()
	}
	if req.Verified.Time.IsZero() {
		req.Verified.Time = ev.now()
	}
	asks := set.Asks(prog.typ, prog.name)
	req.Verified.Relations = make([]string, 0, len(asks)) // known, though perhaps empty
	for _, rel := range asks {
		v, _ := ev.answer(id, ev.model.types[prog.typ].programs[rel], false)
		if err := ev.failure(v); err != nil {
			return false, "", nil, err
		}
		if v == yes {
			req.Verified.Relations = append(req.Verified.Relations, rel)
		}
	}
	answer, err := set.Decide(&req)
	switch {
	case err != nil:
		return false, "", nil, err
	case answer.Forbid:
		return false, reasonForbidden, answer.Deciding, nil
	case answer.Permit && !allowed:
		return true, reasonPolicy, answer.Deciding, nil
	}
	return allowed, reason, answer.Deciding, nil
}

// Decisive is a policy that had a part in a decision.
type Decisive struct {
	Policy string `json:"policy"` // its @id, else file:line
	Effect string `json:"effect"` // permit or forbid
	Error  string `json:"error,omitempty"`
}

func decisive(list []policy.Decisive) []Decisive {
	var out []Decisive
	for _, d := range list {
		effect := "forbid"
		if d.Permit {
			effect = "permit"
		}
		name := d.Policy
		if name == "" {
			name = fmt.Sprintf("%s:%d", d.Source, d.Line)
		}
		out = append(out, Decisive{name, effect, d.Error})
	}
	return out
}
