package openfga

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"

	"google.golang.org/protobuf/proto"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// rule says who may and how it is recorded.
type rule struct {
	action   string // also the scope that whoever acts for another needs
	relation string // on the own tenant's system object
	people   bool   // a service needs only the token's audience
	all      bool   // is about all stores of the caller, not about one
	class    ledger.Class
}

// request is one of OpenFGA's; Validate holds it to the rules of its proto file.
type request interface {
	proto.Message
	Validate() error
}

// operation is one row of the API.
type operation[Q request, R proto.Message] struct {
	rule
	pattern string   // of its HTTP route; what stands in braces is a member of the request
	query   []string // members of the request that are parameters of the URL
	status  int      // of its HTTP answer; zero: 200
	valid   func(Q) bool
	encode  func(w http.ResponseWriter, out R) error // of the HTTP answer; nil: JSON
	handle  func(context.Context, *call, Q) (R, error)
}

// inbound is a request as a door received it.
type inbound struct {
	id            string
	method        string
	authorization []string
	source        netip.Addr
	http          *http.Request                // nil over gRPC, where the message is read already
	option        func(header string) []string // the values of a header of ours
}

// call is one request of a principal. It belongs to one goroutine.
type call struct {
	api    *API
	rule   *rule
	in     *inbound
	tenant tenant.ID
	begun  ledger.Event // as the guard left it
	record *audit.Record
	store  *directory.Graph // of the tenant; nil when the call is about all
	outbound
}

// outbound is what an answer tells beside its message.
type outbound struct {
	revision  relation.Revision // zero for none
	model     string
	next      string // cursor
	truncated bool
}

// serve answers one request. The outbound part is that of an answer; with an
// error it is empty.
func (o *operation[Q, R]) serve(ctx context.Context, a *API, in *inbound, q Q) (out R, _ outbound, err error) {
	c, err := a.admit(ctx, &o.rule, in)
	if err != nil {
		return out, outbound{}, err
	}
	// A panic leaves the record of a refusal.
	defer func() { _ = c.record.Close(context.WithoutCancel(ctx)) }()
	out, err = o.answer(ctx, c, q)
	if err := c.settle(ctx, err); err != nil {
		var none R
		return none, outbound{}, err
	}
	return out, c.outbound, nil
}

// admit asks the guard.
func (a *API) admit(ctx context.Context, r *rule, in *inbound) (*call, error) {
	v, rec := a.Guard.Check(ctx, a.question(r, in))
	if !v.Allowed {
		return nil, refused(r, v)
	}
	c := &call{api: a, rule: r, in: in, tenant: v.Principal.Tenant, begun: rec.Event, record: rec}
	failed(rec, fault.Internal) // until the outcome is known
	return c, nil
}

func (a *API) question(r *rule, in *inbound) *guard.Request {
	req := &guard.Request{
		Action: r.action, Route: r.action, Method: in.method, RequestID: in.id,
		Authorization: in.authorization, Source: in.source, Audience: a.audience,
		Require: &guard.Requirement{System: true, Relation: r.relation, People: r.people},
	}
	if r.class == ledger.Mutation {
		req.Class = r.class // a mutation's share of the disk's reserve
	}
	return req
}

// answer reads and checks the request, finds the store and hands over.
func (o *operation[Q, R]) answer(ctx context.Context, c *call, q Q) (out R, err error) {
	if c.in.http != nil {
		if err := o.read(c.in.http, q); err != nil {
			return out, err
		}
	}
	if o.valid == nil || !o.valid(q) {
		if err := q.Validate(); err != nil {
			return out, invalid(err)
		}
	}
	if !o.all {
		if err := c.find(ctx, any(q).(interface{ GetStoreId() string }).GetStoreId()); err != nil {
			return out, err
		}
	}
	return o.handle(ctx, c, q)
}

// find binds the store, as the tenant may see it, and waits for nothing: a
// revision that is not here yet is an error.
func (c *call) find(ctx context.Context, id string) error {
	g, err := c.api.Directory.Graph(c.tenant, relation.StoreID(id))
	if err != nil || g.Kind == directory.SystemGraph {
		return errNoStore
	}
	c.store = g
	c.record.Event.Resource = "store:" + string(g.ID)
	token, err := c.option(AtLeastHeader)
	if err != nil || token == "" {
		return err
	}
	_, err = c.api.Authz.ParseToken(ctx, g.ID, token)
	if fault.KindOf(err) == fault.Conflict && err != nil {
		err = fault.Wrap(fault.Invalid, fault.Public(err), err)
	}
	return err
}

// option returns one of our headers, empty if it was not sent.
func (c *call) option(header string) (string, error) {
	switch values := c.in.option(header); len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", fault.New(fault.Invalid, header+" is repeated")
}

// settle closes the record with the outcome, which it returns.
func (c *call) settle(ctx context.Context, err error) error {
	rec := c.record
	switch kind := fault.KindOf(err); {
	case err == nil && c.rule.class == ledger.Mutation:
		rec.Take() // committed with the change
	case err == nil && c.rule.class == ledger.Check:
		rec.Event.Class = ledger.Check // the handler wrote its answer into the event
	case err == nil:
		rec.Event.Class, rec.Event.Decision, rec.Event.Reason = c.rule.class, c.begun.Decision, c.begun.Reason
	case c.rule.class == ledger.Check && kind != fault.Denied && kind != fault.NotFound:
		failed(rec, kind) // an answer to a question, not a refusal of the asker
		rec.Event.Class = ledger.Check
	default:
		failed(rec, kind)
		authz.MarkOverlap(&rec.Event, err)
	}
	if closing := rec.Close(ctx); closing != nil {
		return fault.Wrap(fault.Unavailable, "the audit log cannot take the event; try again later", closing)
	}
	return err
}

// failed makes the record that of a refusal of a verified principal.
func failed(rec *audit.Record, kind fault.Kind) {
	rec.Event.Class, rec.Event.Decision, rec.Event.Reason = ledger.Deny, "deny", kind.String()
}

// change is what commits with a mutation, in the shard.
func (c *call) change(shard relation.StoreID) ledger.Change {
	e := c.begun
	e.Class, e.Time, e.Resource = ledger.Mutation, c.api.Now(), c.record.Event.Resource
	return ledger.Change{Store: shard, Event: e}
}

// application is whose models answer about the store.
func (c *call) application() string {
	if c.store.Kind == directory.FreeGraph {
		return authz.FreeApplication(c.store.ID)
	}
	return c.store.Application
}

// tell notes which revision and model answered, for the answer and the record.
func (c *call) tell(rev relation.Revision, model string) {
	c.revision, c.model = rev, model
	c.record.Event.Revision, c.record.Event.Model = rev, model
}

// note adds to the record of a question.
func (c *call) note(name string, count int) { c.record.Event.Detail[name] = strconv.Itoa(count) }

// headers calls set for each header of the answer, in the canonical spelling.
func (a *API) headers(out *outbound, set func(name, value string)) {
	if out.revision != (relation.Revision{}) {
		set(RevisionHeader, a.Authz.Token(out.revision))
	}
	if out.model != "" {
		set(modelHeader, out.model)
	}
	if out.next != "" {
		set(NextCursorHeader, out.next)
	}
	if out.truncated {
		set(TruncatedHeader, "true")
	}
}
