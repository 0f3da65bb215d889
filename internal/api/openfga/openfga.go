// Package openfga answers the part of the OpenFGA HTTP API that a program needs to ask for decisions.
//
// Offered are the list of stores, and check, write and read of default stores.
// Paths, bodies and errors have OpenFGA's form, so that its clients work
// unchanged; what is well formed and not offered here is refused with a clear
// text, never ignored.
//
// A caller sees the default stores of its own tenant. Any other store, a system
// store and another tenant's alike, is not listed and answers exactly like one
// that does not exist, and asking for it is recorded as a refusal. Whatever the
// request says, the tenant is the credential's.
//
// A service needs a token for the audience "authz" to check and to find the
// store that it checks in. People need can_check in their tenant; to write or
// read tuples, can_write_tuples or can_read_tuples are needed by both.
package openfga

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// RevisionHeader carries the consistency token of an answer.
const RevisionHeader = "Bulwark-Revision"

// route is one row of the part that is offered.
type route struct {
	pattern  string
	action   string
	relation string       // on the own tenant's system object
	services bool         // services need only the token's audience
	all      bool         // is about all stores of the caller, not about one
	class    ledger.Class // of an answered request
	handle   func(*server, *call) (any, error)
}

func table() []route {
	const relationToo, audienceAlone, one, all = false, true, false, true
	return []route{
		{"GET /stores", "store.list", "can_check", audienceAlone, all, ledger.AdminRead, listStores},
		{"GET /stores/{store_id}", "store.get", "can_check", audienceAlone, one, ledger.AdminRead, getStore},
		{"POST /stores/{store_id}/check", "decision.check", "can_check", audienceAlone, one, ledger.Check, check},
		{"POST /stores/{store_id}/write", "tuple.write", "can_write_tuples", relationToo, one, ledger.Mutation, write},
		{"POST /stores/{store_id}/read", "tuple.read", "can_read_tuples", relationToo, one, ledger.AdminRead, read},
	}
}

// Config names what the server works with. All fields are needed.
type Config struct {
	Guard     *guard.Guard
	Directory *directory.Directory
	Authz     *authz.Engine
	Logger    *slog.Logger
	Now       func() time.Time
}

type server struct{ Config }

// New returns the server: a handler for every path below /stores.
func New(cfg Config) http.Handler {
	s := &server{cfg}
	m := web.NewMux(web.Config{Logger: cfg.Logger, Refuse: refuse})
	for _, rt := range table() {
		m.Handle(rt.pattern, s.guarded(rt))
	}
	return m
}

// call is one request of a principal. It belongs to one goroutine.
type call struct {
	r      *http.Request
	header http.Header // of the answer
	tenant tenant.ID
	begun  ledger.Event // as the guard left it
	record *audit.Record
	store  *directory.Graph // a default store of the tenant; nil on a route about all
}

// guarded serves a route behind the guard.
func (s *server) guarded(rt route) web.Handler {
	audience := s.Directory.Audience("authz")
	need := &guard.Requirement{System: true, Relation: rt.relation}
	return func(w http.ResponseWriter, r *http.Request) error {
		req := &guard.Request{
			Action: rt.action, Route: rt.action, Method: r.Method, RequestID: web.RequestID(r),
			Authorization: web.Authorization(r), Source: web.Source(r), Audience: audience,
		}
		if !rt.services {
			req.Require = need
		}
		if rt.class == ledger.Mutation {
			req.Class = rt.class // a mutation's share of the disk's reserve
		}
		v, rec := s.Guard.Check(r.Context(), req)
		if !v.Allowed {
			return refused(rt, v.Kind)
		}
		c := &call{r: r, header: http.Header{}, tenant: v.Principal.Tenant, begun: rec.Event, record: rec}
		failed(rec, fault.Internal) // until the outcome is known; a panic leaves it that way
		defer func() { _ = rec.Close(context.WithoutCancel(r.Context())) }()

		out, err := s.run(rt, c, v.Principal.Subject, need)
		switch kind := fault.KindOf(err); {
		case err == nil && rt.class == ledger.Mutation:
			rec.Take() // committed with the change
		case err == nil && rt.class == ledger.Check:
			rec.Event.Class = rt.class // the handler wrote its answer into the event
		case err == nil:
			rec.Event.Class, rec.Event.Decision, rec.Event.Reason = rt.class, c.begun.Decision, c.begun.Reason
		case rt.class == ledger.Check && kind != fault.Denied && kind != fault.NotFound:
			failed(rec, kind) // an answer to a question, not a refusal of the asker
			rec.Event.Class = ledger.Check
		default:
			failed(rec, kind)
		}
		if closing := rec.Close(r.Context()); closing != nil {
			return fault.Wrap(fault.Unavailable, "the audit log cannot take the event; try again later", closing)
		}
		if err != nil {
			return err
		}
		for name, values := range c.header {
			w.Header()[name] = values
		}
		return web.Send(w, http.StatusOK, out)
	}
}

// run finds the store and hands over to the route's handler.
func (s *server) run(rt route, c *call, who principal.Subject, need *guard.Requirement) (any, error) {
	if rt.services && who.Kind != principal.Service {
		v, err := s.Guard.Explain(c.r.Context(), c.tenant, who.String(), need)
		if err != nil {
			return nil, err
		}
		if !v.Allowed {
			c.record.Event.Relation = need.Relation
			return nil, refused(rt, v.Kind)
		}
	}
	if rt.all {
		return rt.handle(s, c)
	}
	g, err := s.Directory.Graph(c.tenant, relation.StoreID(c.r.PathValue("store_id")))
	if err != nil || g.Kind != directory.DefaultGraph {
		return nil, errNoStore
	}
	c.store = g
	c.record.Event.Resource = "store:" + string(g.ID)
	return rt.handle(s, c)
}

// model holds the request to the active model: other versions answer nobody yet.
func (s *server) model(c *call, asked string) error {
	m, ok := s.Authz.ActiveModel(c.store.Application)
	switch {
	case !ok:
		return errNoModel
	case asked != "" && asked != m.ID():
		return errOtherModel
	}
	return nil
}

// reveal puts the consistency token into the answer.
func (s *server) reveal(c *call, rev relation.Revision) {
	c.header.Set(RevisionHeader, s.Authz.Token(rev))
}

// failed makes the record that of a refusal of a verified principal.
func failed(rec *audit.Record, kind fault.Kind) {
	rec.Event.Class, rec.Event.Decision, rec.Event.Reason = ledger.Deny, "deny", kind.String()
}
