package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/cedar-policy/cedar-go"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Request is one question: does a policy say something about the principal
// having the relation to the resource?
type Request struct {
	Principal, Relation, Resource string // "user:anne", "can_view", "document:roadmap"

	Verified Verified
	Claimed  Claimed
}

// Verified is what Bulwark itself knows of the principal and its credential.
// The zero value of a field means unknown: the attribute is absent, and reading
// it is an error. A list that is known to be empty is empty and not nil.
type Verified struct {
	Tenant string   // principal.tenant
	Roles  []string // principal.roles

	Time     time.Time // our clock; gives time, and weekday, hour, minute in the set's zone
	IP       netip.Addr
	AMR      []string
	ACR      string
	AuthTime time.Time
	Client   string   // the client's id
	Scopes   []string // of the token
	Actors   []string // who acts for the principal, as "service:id"

	// Relations holds those of [Set.Asks] that the principal has to the
	// resource, from the graph.
	Relations []string
}

// Claimed is what the caller says, as encoding/json gives it. Attributes that
// no policy in question reads are not looked at.
type Claimed struct{ Context, Principal, Resource map[string]any }

// Answer is what the policies say. The zero value says nothing.
type Answer struct {
	// Forbid beats every grant.
	Forbid bool
	// Permit grants; never set beside Forbid.
	Permit bool
	// Deciding names the policies that made the answer, in the order of the
	// set, and the permits that would have been looked at but for an error.
	Deciding []Decisive
}

// Decisive is a policy that had a part in an answer.
type Decisive struct {
	Policy string // its @id, else file:line
	Source string
	Line   int
	Tenant bool // of the tenant's layer
	Permit bool // else forbid
	// Error says why the policy could not be evaluated; such a forbid counts.
	// It may quote values of the request: it belongs into an explanation and
	// the sealed part of the audit, not into a log.
	Error string
}

// Decide asks the policies. An error means that there is no answer, which is
// never an allow: a relation or type that the vocabulary does not have, or a
// claimed attribute that a policy reads and that is not of its declared type,
// kind [fault.Invalid].
func (s *Set) Decide(r *Request) (Answer, error) {
	typ, _, _ := relation.SplitObject(r.Resource)
	b := s.pairs[Grant{typ, r.Relation}]
	if b == nil {
		return Answer{}, errUnknown
	}
	if b.count == 0 {
		return Answer{}, nil
	}
	q, err := s.question(b, r)
	if err != nil {
		return Answer{}, err
	}
	return s.judge(evaluate(&b.lists, nil, q)), nil
}

var (
	errUnknown   = fault.New(fault.Invalid, "the policies' vocabulary has no such relation on the type of the resource")
	errPrincipal = fault.New(fault.Invalid, "the principal's type asks nothing in the policies' vocabulary")
)

// judge turns Cedar's answer into a guard's: an error in a forbid is a forbid.
func (s *Set) judge(decision cedar.Decision, diag cedar.Diagnostic) Answer {
	if len(diag.Reasons) == 0 && len(diag.Errors) == 0 {
		return Answer{}
	}
	type part struct {
		*entry
		reason string
	}
	parts := make([]part, 0, len(diag.Reasons)+len(diag.Errors))
	forbid := decision == cedar.Deny && len(diag.Reasons) > 0
	for _, r := range diag.Reasons {
		parts = append(parts, part{s.policies[r.PolicyID], ""})
	}
	for _, r := range diag.Errors {
		e := s.policies[r.PolicyID]
		parts = append(parts, part{e, r.Message})
		forbid = forbid || !e.permit
	}
	slices.SortFunc(parts, func(x, y part) int { return x.order - y.order })
	a := Answer{Forbid: forbid, Permit: decision == cedar.Allow && !forbid, Deciding: make([]Decisive, 0, len(parts))}
	for _, p := range parts {
		if !(forbid && p.permit) {
			a.Deciding = append(a.Deciding, Decisive{p.name, p.source, p.line, p.tenant, p.permit, p.reason})
		}
	}
	return a
}

// question puts the question in Cedar's terms. No entity exists: all attributes
// are in the context.
func (s *Set) question(b *bucket, r *Request) (cedar.Request, error) {
	typ, id, ok := relation.SplitObject(r.Principal)
	asker := s.types[typ]
	if !ok || asker == nil || !asker.principal {
		return cedar.Request{}, errPrincipal
	}
	_, object, _ := relation.SplitObject(r.Resource)
	q := cedar.Request{
		Principal: cedar.NewEntityUID(asker.cedar, cedar.String(id)),
		Action:    b.action,
		Resource:  cedar.NewEntityUID(b.resource.cedar, cedar.String(object)),
	}
	if len(b.slots) == 0 {
		return q, nil
	}
	context, ok := b.records.Get().(cedar.RecordMap)
	if !ok {
		context = make(cedar.RecordMap, len(b.slots))
	}
	defer func() {
		clear(context)
		b.records.Put(context)
	}()
	for i := range b.slots {
		v, err := b.slots[i].value(r, asker)
		if err != nil {
			return cedar.Request{}, err
		}
		if v != nil {
			context[b.slots[i].key] = v
		}
	}
	q.Context = cedar.NewRecord(context) // which copies
	return q, nil
}
