package authz

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/policy"
)

// KindPolicies is the changelog's kind of guard policies: the key is
// "<application>/<id>", the payload the JSON of a [PolicyRecord].
const KindPolicies = "policies"

// PolicyRecord is one version of an application's guard policies. Its JSON form
// is what a store's changelog carries.
type PolicyRecord struct {
	Application string       `json:"application"`
	ID          string       `json:"id"` // [policy.Set.ID] under the model that it was published with
	Files       []PolicyFile `json:"files"`
	Claims      Claims       `json:"claims,omitzero"`
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
	Delegate   []string                     `json:"delegate,omitempty"`   // relations that tenants' own policies may permit: "document#can_view"
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

// compileGuards compiles the record for a model.
func (b *bound) compileGuards(rec *PolicyRecord) (*policy.Set, error) {
	v, err := b.vocabulary(rec.Claims)
	if err != nil {
		return nil, err
	}
	grants, err := b.delegated(rec.Claims.Delegate)
	if err != nil {
		return nil, err
	}
	var sources []policy.Source
	for _, f := range rec.Files {
		sources = append(sources, policy.Source{Name: f.Name, Text: f.Text})
	}
	return policy.Compile(v, sources, grants...)
}

// vocabulary is what policies may talk about.
func (b *bound) vocabulary(claims Claims) (policy.Vocabulary, error) {
	v := policy.Vocabulary{Principals: claims.Principals}
	var err error
	if v.Claimed, err = kindsOf(claims.Context); err != nil {
		return v, err
	}
	for typ := range claims.Types {
		if b.types[typ] == nil {
			return v, fault.New(fault.Invalid, "the model has no type "+clip(typ)+", for which claims are declared")
		}
	}
	for _, typ := range b.model.Types() {
		t := policy.Type{Name: typ}
		for _, r := range b.model.Relations(typ) {
			t.Relations = append(t.Relations, r.Name)
		}
		if t.Claimed, err = kindsOf(claims.Types[typ]); err != nil {
			return v, err
		}
		v.Types = append(v.Types, t)
	}
	if claims.Zone != "" {
		v.Zone, err = time.LoadLocation(claims.Zone)
		if err != nil || claims.Zone == "Local" { // "Local" is another zone on another node
			return v, fault.Wrap(fault.Invalid, "there is no time zone "+clip(claims.Zone), err)
		}
	}
	return v, nil
}

// Policies returns the application's guard policies in force where no wave has
// others, and whether there are any.
func (e *Engine) Policies(application string) (PolicyRecord, bool) {
	if a := e.known(application); a != nil {
		if s := a.standing.Load(); s != nil && s.current.policies != nil {
			return *s.current.policies, true
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
			e.application(name).standing.Store(nil)
		}
		return fault.Wrap(fault.Integrity, "a change of policies cannot be read", err)
	}
	e.application(name).takePolicies(rec)
	return nil
}

func (a *application) takePolicies(rec *PolicyRecord) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policies[rec.ID] = rec
}

// Why a decision is what it is, in one word.
const (
	reasonRelation   = "relation"        // tuples give the relation
	reasonPolicy     = "policy"          // a policy permits
	reasonForbidden  = "forbidden"       // a policy forbids
	reasonNoRelation = "no_relation"     // nothing gives it
	reasonExclusive  = "exclusive_roles" // two relations are held that exclude each other
)

// judge completes the value of the relation by what the policies say, then by
// which roles exclude each other: whoever holds two is allowed nothing.
func (ev *evaluator) judge(object, subject string, prog *program, id uint32, v truth) (bool, string, []policy.Decisive, error) {
	allowed, reason, deciding, err := ev.consult(object, subject, prog, id, v)
	if !allowed || err != nil || !ev.roles.excludes(prog.typ) {
		return allowed, reason, deciding, err
	}
	if ev.clash, err = ev.overlap(prog, id, v); err != nil {
		return false, "", nil, err
	}
	if ev.clash != nil {
		return false, reasonExclusive, deciding, nil
	}
	return true, reason, deciding, nil
}

// consult asks the policies. They are about who asks, so a question about a
// userset or about everyone is one of relations alone.
func (ev *evaluator) consult(object, subject string, prog *program, id uint32, v truth) (bool, string, []policy.Decisive, error) {
	allowed, reason := v == yes, reasonNoRelation
	if allowed {
		reason = reasonRelation
	}
	if ev.policies == nil && ev.own == nil || ev.who.every == 0 {
		return allowed, reason, nil, nil
	}
	sets := [...]*policy.Set{ev.policies, ev.own}
	var forbids, permits int
	for _, set := range sets {
		if set != nil {
			f, p := set.Candidates(prog.typ, prog.name)
			forbids, permits = forbids+f, permits+p
		}
	}
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
	var err error
	if req.Verified.Relations, err = ev.relations(sets[:], prog, id); err != nil {
		return false, "", nil, err
	}
	var all policy.Answer
	for _, set := range sets {
		if set == nil {
			continue
		}
		answer, err := set.Decide(&req)
		if err != nil {
			return false, "", nil, err
		}
		all.Forbid, all.Permit = all.Forbid || answer.Forbid, all.Permit || answer.Permit
		all.Deciding = append(all.Deciding, answer.Deciding...)
	}
	switch {
	case all.Forbid:
		return false, reasonForbidden, slices.DeleteFunc(all.Deciding, func(d policy.Decisive) bool { return d.Permit }), nil
	case all.Permit && !allowed:
		return true, reasonPolicy, all.Deciding, nil
	}
	return allowed, reason, all.Deciding, nil
}

// relations returns those of the relations that policies look for which the asker
// has to the object, known though perhaps none.
func (ev *evaluator) relations(sets []*policy.Set, prog *program, id uint32) ([]string, error) {
	held := []string{}
	for n, set := range sets {
		if set == nil {
			continue
		}
		for _, rel := range set.Asks(prog.typ, prog.name) {
			if n > 0 && slices.Contains(held, rel) {
				continue
			}
			v := ev.value(id, ev.model.types[prog.typ].programs[rel])
			if err := ev.failure(v); err != nil {
				return nil, err
			}
			if v == yes {
				held = append(held, rel)
			}
		}
	}
	return held, nil
}

// Decisive is a policy that had a part in a decision.
type Decisive struct {
	Policy string `json:"policy"`           // its @id, else file:line
	Effect string `json:"effect"`           // permit or forbid
	Tenant bool   `json:"tenant,omitempty"` // one of the tenant's own
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
		out = append(out, Decisive{name, effect, d.Tenant, d.Error})
	}
	return out
}
