package guard

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authn"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/policy"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// Config names the engines that a guard asks. All are needed but Assertions,
// which only a door to an upstream uses.
type Config struct {
	Audit      *audit.Log
	Authn      *authn.Authenticator
	Authz      *authz.Engine
	Directory  *directory.Directory
	Assertions *sts.AssertionSigner
	Now        func() time.Time
}

// Guard decides about requests. It is safe for concurrent use.
type Guard struct {
	cfg      Config
	sessions sessions
}

// New returns a guard over the engines.
func New(cfg Config) *Guard { return &Guard{cfg: cfg} }

// Request is what a door knows about a request. Only Authorization, and the
// object's id within Require, come from the client; the rest is the door's own.
type Request struct {
	Action        string       // what is asked, for the audit log: "request", "tuple.write"
	Class         ledger.Class // what an allowed request will be recorded as; it decides on the log's disk reserve. Zero: a request
	Route         string       // the route's id
	Method        string
	Path          string // normalized: exactly what is forwarded
	RequestID     string
	Authorization []string // every Authorization header, as received
	Source        netip.Addr
	Audience      string       // the only audience that this door accepts
	Require       *Requirement // nil asks for authentication and a tenant only
	Upstream      string       // the id of the upstream's service; empty where nothing is forwarded
	Explain       bool         // the reason goes into the audit event

	asked authz.Asked // only where a question is explained
}

// Requirement is the relation that a route asks for.
type Requirement struct {
	System      bool   // on the tenant itself, in its system store; Object is ignored
	People      bool   // only people need the relation; a service needs no more than the token's audience
	Application string // otherwise: in the tenant's default store for the application
	Object      string
	Relation    string
	Visible     string // the relation that lets a refusal say 403; empty: always 404 (403 for System)
}

// Identity is what an upstream is told, as the header values of DESIGN section 5.
type Identity struct {
	Assertion, Tenant, Subject, Actor, Scope string
	// AtLeast is the newest revision token that the session has seen: an upstream
	// that asks about the same store sends it along.
	AtLeast string
}

// Verdict is the guard's answer. The zero Verdict refuses.
type Verdict struct {
	Allowed    bool
	Enforced   bool
	Kind       fault.Kind // how to refuse: Unauthenticated, Denied, NotFound or Unavailable
	Reason     string     // code of a closed set
	DecisionID string     // the id of the audit event
	Principal  *principal.Principal
	Identity   Identity
	Model      string
	Revision   relation.Revision
	Trace      *authz.Trace // only where Request.Explain asks

	cause error // why there is no decision
}

// Status is the HTTP status that answers a refusal, at every door that speaks
// HTTP; 0 for what is allowed, whose status is its handler's or its upstream's.
func (v Verdict) Status() int {
	switch {
	case v.Allowed:
		return 0
	case v.Kind == fault.Unauthenticated:
		return 401
	case v.Kind == fault.Denied:
		return 403
	case v.Kind == fault.NotFound:
		return 404
	}
	return 503
}

func (v Verdict) of(p *principal.Principal) Verdict { v.Principal = p; return v }

func refusal(err error, reason string) Verdict {
	kind := fault.KindOf(err)
	switch kind {
	case fault.Unauthenticated, fault.Denied, fault.NotFound:
	default:
		kind = fault.Unavailable // an error denies, and says nothing more
	}
	return Verdict{Kind: kind, Reason: reason}
}

func reasonOf(err error) string {
	var r *authn.Refusal
	if errors.As(err, &r) {
		return string(r.Reason)
	}
	return "authentication_failed"
}

func (g *Guard) opening(req *Request) ledger.Event {
	e := ledger.Event{
		ID: tenant.RandomID(), Time: g.cfg.Now(), Class: req.Class, Action: req.Action, Tenant: tenant.Platform,
		Route: req.Route, RequestID: req.RequestID, Source: ledger.Network(req.Source),
	}
	e.DecisionID = e.ID
	if req.Require != nil {
		e.Relation = req.Require.Relation
	}
	return e
}

// attribute writes the verified principal into the event.
func attribute(e *ledger.Event, p *principal.Principal) {
	e.Tenant, e.Subject, e.ClientID = p.Tenant, p.Subject.String(), p.ClientID
	for _, a := range p.Actors {
		e.Actors = append(e.Actors, a.Subject.String())
	}
}

// bind finds the graph of the principal's own tenant, and the object in it.
func (g *Guard) bind(t tenant.ID, need *Requirement) (relation.StoreID, string, error) {
	if !g.cfg.Directory.TenantActive(t) {
		return "", "", fault.New(fault.Denied, "the tenant is not active")
	}
	switch {
	case need == nil:
		return "", "", nil
	case need.System:
		graph, err := g.cfg.Directory.SystemGraph(t)
		return graph, directory.SystemObject(t), err
	}
	graph, err := g.cfg.Directory.DefaultGraph(t, need.Application)
	return graph, need.Object, err
}

// decide asks for the relation and for the visibility, always both.
func (g *Guard) decide(ctx context.Context, graph relation.StoreID, object, subject string, req *Request, known func() policy.Verified) Verdict {
	need := req.Require
	if need == nil || need.People && strings.HasPrefix(subject, string(principal.Service)+":") {
		return Verdict{Allowed: true, Reason: "authenticated"}
	}
	q := authz.Query{Store: graph, Object: object, Relation: need.Relation, Subject: subject, Asked: req.asked, Explain: req.Explain}
	q.Verified = known
	d, err := g.cfg.Authz.Check(ctx, q)
	visible := need.System
	if need.Visible != "" && !need.System {
		q.Relation, q.Explain = need.Visible, false
		seen, errSeen := g.cfg.Authz.Check(ctx, q)
		visible, err = seen.Allowed, errors.Join(err, errSeen)
	}
	v := Verdict{Model: d.Model, Revision: d.Revision, Trace: d.Trace, cause: err}
	switch {
	case err != nil && fault.KindOf(err) == fault.Unavailable:
		v.Kind, v.Reason = fault.Unavailable, "decision_unavailable"
	case err != nil:
		v.Kind, v.Reason = fault.NotFound, "decision_failed"
	case d.Allowed:
		v.Allowed, v.Reason = true, d.Reason
	case visible, req.Explain && need.Visible == "" && (d.Reason == "forbidden" || d.Reason == "exclusive_roles"): // nothing is hidden from who asks why
		v.Kind, v.Reason = fault.Denied, d.Reason
	default:
		v.Kind, v.Reason = fault.NotFound, "not_visible"
	}
	return v
}

// verified returns what policies may rely on: what the credential says, after its
// verification, and what we see ourselves.
func (g *Guard) verified(p *principal.Principal, req *Request) func() policy.Verified {
	return func() policy.Verified {
		v := policy.Verified{
			Tenant: p.Tenant.String(), Time: g.cfg.Now(), IP: req.Source, Client: p.ClientID,
			AMR: p.Assurance.AMR, ACR: p.Assurance.ACR, AuthTime: p.Assurance.AuthTime,
			Scopes: append([]string{}, p.Scopes...), Actors: []string{}, // known, though perhaps empty
		}
		for _, a := range p.Actors {
			v.Actors = append(v.Actors, a.Subject.String())
		}
		return v
	}
}

// NoScope is the reason of a refusal for want of a scope.
const NoScope = "no_scope"

// within holds whoever acts for another to its scope on our own surfaces: the
// right there is the subject's, bounded by what the tenant let the actor have
// (DESIGN 6.2). The scope names the action; none names none. What a route of an
// application asks of scopes is the application's.
func (v Verdict) within(p *principal.Principal, req *Request) Verdict {
	system := req.Require != nil && req.Require.System
	if v.Allowed && system && len(p.Actors) > 0 && !p.HasScope(req.Action) {
		v.Allowed, v.Kind, v.Reason = false, fault.Denied, NoScope
	}
	return v
}

// Explain decides as Check would for a subject of the tenant, with the trace,
// and records nothing: the caller's own request is the one that is recorded. What
// asked brings along is the caller's word. A question that has no answer is an
// error, the engine's.
func (g *Guard) Explain(ctx context.Context, t tenant.ID, subject string, need *Requirement, asked authz.Asked) (Verdict, error) {
	graph, object, err := g.bind(t, need)
	if err != nil {
		return Verdict{}, err
	}
	v := g.decide(ctx, graph, object, subject, &Request{Require: need, Explain: true, asked: asked}, nil)
	if v.cause != nil {
		return Verdict{}, v.cause
	}
	v.Enforced = true
	return v, nil
}

// identity signs the assertion for the upstream and fills the plain headers.
func (g *Guard) identity(ctx context.Context, req *Request, p *principal.Principal, v *Verdict, object string) (Identity, error) {
	claims := sts.AssertionClaims{
		Audience: g.cfg.Directory.ServiceAudience(req.Upstream), Principal: p,
		Method: req.Method, Path: req.Path, Route: req.Route, RequestID: req.RequestID,
	}
	if req.Require != nil {
		claims.Relation, claims.Object = req.Require.Relation, object
	}
	signed, err := g.cfg.Assertions.Sign(ctx, claims)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Assertion: signed, Tenant: p.Tenant.String(), Subject: p.Subject.String(), Scope: strings.Join(p.Scopes, " ")}
	if len(p.Actors) > 0 {
		id.Actor = p.Actors[0].Subject.String()
	}
	return id, nil
}
