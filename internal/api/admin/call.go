package admin

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

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

// answer is what a handler gives back: a status and a body, none for 204.
type answer struct {
	status int
	body   any
	stream func(context.Context, http.ResponseWriter) error // instead of a body
	drop   func()                                           // gives back what stream needs, also where it is not called
}

func ok(body any) answer      { return answer{status: http.StatusOK, body: body} }
func created(body any) answer { return answer{status: http.StatusCreated, body: body} }

var done = answer{status: http.StatusNoContent}

// call is one request that the guard let in. It belongs to one goroutine.
type call struct {
	r      *http.Request
	w      http.ResponseWriter // for its deadlines alone; nil at the open door
	tenant tenant.ID           // the principal's
	who    *principal.Principal
	begun  ledger.Event  // as the guard left it: the base of a change's event
	record *audit.Record // nil at the open door
}

// event returns the event that is to commit with the call's change.
func (c *call) event() ledger.Event { return c.begun }

// about notes what a read was about.
func (c *call) about(resource string) { c.record.Event.Resource = resource }

// guarded serves a route behind the guard.
func (s *server) guarded(rt route) web.Handler {
	audience := s.Directory.Audience("admin")
	var need *guard.Requirement
	if rt.relation != "" {
		need = &guard.Requirement{System: true, Relation: rt.relation}
	}
	class := ledger.AdminRead
	if rt.effect == changes {
		class = ledger.Mutation
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		v, rec := s.Guard.Check(r.Context(), &guard.Request{
			Action: rt.action, Class: class, Route: rt.action, Method: r.Method, RequestID: web.RequestID(r),
			Authorization: web.Authorization(r), Source: web.Source(r), Audience: audience, Require: need,
		})
		if !v.Allowed {
			return refused(rt, v)
		}
		c := &call{r: r, w: w, tenant: v.Principal.Tenant, who: v.Principal, begun: rec.Event, record: rec}
		// Until the outcome is known the record says that the request failed.
		// A panic leaves it that way.
		failed(rec, fault.Internal)
		defer func() { _ = rec.Close(context.WithoutCancel(r.Context())) }()

		out, err := s.run(rt, c)
		if out.drop != nil {
			defer out.drop()
		}
		if err == nil && rt.effect == reads {
			rec.Event.Class, rec.Event.Decision, rec.Event.Reason = ledger.AdminRead, c.begun.Decision, c.begun.Reason
		}
		if err == nil && rt.effect == changes {
			rec.Take() // committed with the change; nothing is left to close
		}
		if err != nil {
			failed(rec, fault.KindOf(err))
			authz.MarkOverlap(&rec.Event, err)
			err = web.WithDecision(err, v.DecisionID)
		}
		ctx := r.Context()
		if err != nil { // what failed is recorded whether or not the caller still waits
			var cancel func()
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), web.DefaultTimeout)
			defer cancel()
		}
		if closing := rec.Close(ctx); closing != nil {
			return fault.Wrap(fault.Unavailable, "the audit log cannot take the event; try again later", closing)
		}
		if err != nil {
			return err
		}
		if out.stream != nil {
			return out.stream(r.Context(), w)
		}
		return send(w, out)
	}
}

// run asks what the relation alone does not: operators' routes are for
// principals of the platform, whatever their own tenant's system store says.
func (s *server) run(rt route, c *call) (answer, error) {
	if rt.platform && c.tenant != tenant.Platform {
		return answer{}, fault.New(fault.Denied, "this belongs to the platform's operators")
	}
	if m := c.r.Method; m != http.MethodPost && m != http.MethodPut {
		if err := web.Empty(c.r); err != nil {
			return answer{}, err
		}
	}
	return rt.handle(s, c)
}

// open serves the one route that needs no credential. What it refuses is a
// reject: counted, never waited for.
func (s *server) open(rt route) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		source := web.Source(r)
		c := &call{r: r, begun: ledger.Event{
			Action: rt.action, Route: rt.action, RequestID: web.RequestID(r), Source: ledger.Network(source),
		}}
		var out answer
		err := error(fault.New(fault.Exhausted, "too many attempts from your network; wait a minute"))
		if s.door.Allow(source) {
			out, err = rt.handle(s, c)
		}
		if err != nil {
			e := c.begun
			e.Class, e.Decision, e.Reason = ledger.Reject, "deny", fault.KindOf(err).String()
			s.Audit.Reject(e)
			return err
		}
		return send(w, out)
	}
}

func send(w http.ResponseWriter, out answer) error {
	if out.body == nil {
		w.WriteHeader(out.status)
		return nil
	}
	return web.Send(w, out.status, out.body)
}

// failed makes the record that of a refusal of a verified principal.
func failed(rec *audit.Record, kind fault.Kind) {
	rec.Event.Class, rec.Event.Decision, rec.Event.Reason = ledger.Deny, "deny", kind.String()
}

// refused words the guard's refusal.
func refused(rt route, v guard.Verdict) error {
	text := map[fault.Kind]string{
		fault.Unauthenticated: "send one access token for the audience admin, as Authorization: Bearer",
		fault.Denied:          "this needs " + rt.relation + " in your tenant; an administrator can give you a role that has it",
		fault.NotFound:        "there is nothing at this path",
		fault.Unavailable:     "the request cannot be decided now; try again",
	}[v.Kind]
	if v.Reason == guard.NoScope {
		text = "a token that acts for another needs the scope " + rt.action + " here"
	}
	return web.WithDecision(fault.New(v.Kind, text), v.DecisionID)
}

// in reads the body into a T.
func in[T any](c *call) (T, error) {
	var v T
	err := web.Decode(c.r, &v)
	return v, err
}

// query reads the parameters of a list: its filters and its paging.
func (c *call) query(filters ...string) (url.Values, Paging, error) {
	q, err := web.Query(c.r, append(filters, "limit", "cursor")...)
	if err != nil {
		return nil, Paging{}, err
	}
	p := Paging{Limit: 100, Cursor: q.Get("cursor")}
	if q.Has("limit") {
		if p.Limit, err = strconv.Atoi(q.Get("limit")); err != nil || p.Limit < 1 || p.Limit > 1000 {
			return nil, Paging{}, fault.New(fault.Invalid, "limit must be 1 to 1000")
		}
	}
	return q, p, nil
}

var errCursor = fault.New(fault.Invalid, "the cursor is not one that this list gave; begin again without it")

// cursor spells the key after which a list goes on. It is opaque to clients
// and no secret: a list never leaves the caller's tenant, whatever it says.
func cursor(key string) string { return base64.RawURLEncoding.EncodeToString([]byte("1" + key)) }

func parseCursor(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) < 2 || raw[0] != '1' {
		return "", errCursor
	}
	return string(raw[1:]), nil
}

// list answers one page of all, which is in the order of key.
func list[T, W any](c *call, all []T, key func(T) string, wire func(T) W) (answer, error) {
	_, p, err := c.query()
	if err != nil {
		return answer{}, err
	}
	after, err := parseCursor(p.Cursor)
	if err != nil {
		return answer{}, err
	}
	if after != "" {
		at, found := slices.BinarySearchFunc(all, after, func(v T, k string) int { return strings.Compare(key(v), k) })
		if found {
			at++
		}
		all = all[at:]
	}
	return page(all, p.Limit, key, wire), nil
}

// page answers the first limit of all, which may hold one more to show that
// the list goes on.
func page[T, W any](all []T, limit int, key func(T) string, wire func(T) W) answer {
	out := Page[W]{Items: []W{}}
	for i, v := range all {
		if i == limit {
			out.Next = cursor(key(all[i-1]))
			break
		}
		out.Items = append(out.Items, wire(v))
	}
	return ok(out)
}

// subject resolves a subject. Ids are what grants name: an alias counts only
// where it is written as one, user:@alice or service:@notes, and any other word
// in the place of an id is refused, because it would name nobody for ever.
func (s *server) subject(c *call, text string) (string, error) {
	object, rel, userset := strings.Cut(text, "#")
	kind, id, _ := strings.Cut(object, ":")
	if kind != string(principal.User) && kind != string(principal.Service) {
		return text, nil
	}
	alias, aliased := strings.CutPrefix(id, "@")
	switch {
	case aliased && kind == string(principal.User):
		u, err := s.Directory.ResolveUser(c.r.Context(), c.tenant, alias)
		if err != nil {
			return "", err
		}
		id = u.ID
	case aliased:
		svc, err := s.anyService(c.tenant, alias)
		if err != nil {
			return "", err
		}
		id = svc.ID
	case id != "*" && !tenant.ValidID(id):
		return "", fault.New(fault.Invalid, "a "+kind+" is named by id, or by alias as "+kind+":@name")
	}
	if userset {
		return kind + ":" + id + "#" + rel, nil
	}
	return kind + ":" + id, nil
}

// anyService finds a service by alias among those that can act in the tenant:
// its own first, then the platform's. A name that both have is refused.
func (s *server) anyService(t tenant.ID, name string) (*directory.Service, error) {
	own, err := s.Directory.ServiceByName(t, name)
	if t == tenant.Platform {
		return own, err
	}
	shared, errShared := s.Directory.ServiceByName(tenant.Platform, name)
	switch {
	case err == nil && errShared == nil:
		return nil, fault.New(fault.Invalid, "two services have this name; use the id")
	case err == nil:
		return own, nil
	}
	return shared, errShared
}

// application returns the application that the caller means: the named one, or
// the only one that there is.
func (s *server) application(c *call, name string) (string, error) {
	var known []string
	for _, g := range s.Directory.Graphs(c.tenant) {
		if g.Kind == directory.DefaultGraph {
			known = append(known, g.Application)
		}
	}
	switch {
	case name == "" && len(known) == 1:
		return known[0], nil
	case name == "":
		return "", fault.New(fault.Invalid, "name the application")
	case !slices.Contains(known, name):
		return "", fault.New(fault.NotFound, "no such application")
	}
	return name, nil
}

// storeOf returns the tenant's store of the application.
func (s *server) storeOf(c *call, application string) (relation.StoreID, error) {
	app, err := s.application(c, application)
	if err != nil {
		return "", err
	}
	return s.Directory.DefaultGraph(c.tenant, app)
}

// maxScopes bounds a list of scopes.
const maxScopes = 64

// scopes checks that every scope is one token of RFC 6749 section 3.3.
func scopes(list []string) error {
	if len(list) > maxScopes {
		return fault.New(fault.TooLarge, "at most 64 scopes")
	}
	for _, s := range list {
		if s == "" || len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return fault.New(fault.Invalid, "a scope is a word of printable ASCII without quotes")
		}
	}
	return nil
}

// oneLine refuses text that would break a line or hide in one.
func oneLine(texts ...string) error {
	for _, s := range texts {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' }) {
			return fault.New(fault.Invalid, "a name or address must be one line")
		}
	}
	return nil
}
