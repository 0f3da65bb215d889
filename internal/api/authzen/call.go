package authzen

import (
	"context"
	"net/http"
	"strconv"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
	"bulwark.example/internal/web"
)

// operation is one endpoint.
type operation struct {
	name   string // of the path, below the base
	action string // for the audit log; also the scope that whoever acts for another needs
	handle func(context.Context, *call, members) (any, error)
}

// call is one request of a principal. It belongs to one goroutine.
type call struct {
	api       *API
	request   *http.Request
	tenant    tenant.ID
	record    *audit.Record
	store     *directory.Graph
	explain   bool
	revision  relation.Revision // that answered; zero for none
	truncated bool
}

// serve takes a request from its credential to its answer.
func (a *API) serve(op operation) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx := r.Context()
		c, err := a.admit(ctx, op, r)
		if err != nil {
			return err
		}
		// A panic leaves the record of a refusal.
		defer func() { _ = c.record.Close(context.WithoutCancel(ctx)) }()
		out, err := c.answer(ctx, op)
		if err := c.settle(ctx, err); err != nil {
			return err
		}
		w.Header().Set(RevisionHeader, a.Authz.Token(c.revision))
		if c.truncated {
			w.Header().Set(TruncatedHeader, "true")
		}
		return web.Send(w, http.StatusOK, out)
	}
}

// need is the relation on the own tenant's system object.
const need = "can_check"

// admit asks the guard.
func (a *API) admit(ctx context.Context, op operation, r *http.Request) (*call, error) {
	v, rec := a.Guard.Check(ctx, &guard.Request{
		Action: op.action, Route: "authzen." + op.name, Method: r.Method, RequestID: web.RequestID(r),
		Authorization: web.Authorization(r), Source: web.Source(r), Audience: a.audience,
		Require: &guard.Requirement{System: true, Relation: need, People: true},
	})
	if !v.Allowed {
		return nil, refused(op, v)
	}
	failed(rec, fault.Internal) // until the outcome is known
	return &call{api: a, request: r, tenant: v.Principal.Tenant, record: rec}, nil
}

// answer reads the request, finds the store and hands over.
func (c *call) answer(ctx context.Context, op operation) (any, error) {
	if _, err := web.Query(c.request); err != nil {
		return nil, err
	}
	raw, err := web.Body(c.request)
	if err != nil {
		return nil, err
	}
	m, err := web.Object(raw)
	if err != nil {
		return nil, err
	}
	switch explain, err := c.option(ExplainHeader); {
	case err != nil:
		return nil, err
	case explain != "" && explain != "true" && explain != "false":
		return nil, fault.New(fault.Invalid, ExplainHeader+" must be true or false")
	default:
		c.explain = explain == "true"
	}
	if err := c.find(ctx); err != nil {
		return nil, err
	}
	return op.handle(ctx, c, m)
}

// find binds the store, as the tenant may see it. It waits for nothing: a
// revision that is not here yet is an error.
func (c *call) find(ctx context.Context) error {
	if id := c.request.PathValue("store_id"); id != "" {
		g, err := c.api.Directory.Graph(c.tenant, relation.StoreID(id))
		if err != nil || g.Kind == directory.SystemGraph {
			return errNoStore
		}
		c.store = g
	} else {
		n := 0
		for _, g := range c.api.Directory.Graphs(c.tenant) {
			if g.Kind == directory.DefaultGraph {
				c.store = g
				n++
			}
		}
		if n != 1 {
			return fault.New(fault.Invalid, "your tenant has "+strconv.Itoa(n)+" applications, so that the store must be named: /stores/{store_id}"+base+"/...")
		}
	}
	c.record.Event.Resource = "store:" + string(c.store.ID)
	token, err := c.option(AtLeastHeader)
	if err != nil || token == "" {
		return err
	}
	_, err = c.api.Authz.ParseToken(ctx, c.store.ID, token)
	return err
}

// option returns one of our headers, empty if it was not sent.
func (c *call) option(header string) (string, error) {
	switch values := c.request.Header.Values(header); len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", fault.New(fault.Invalid, header+" is repeated")
}

// settle closes the record with the outcome, which it returns. What has no
// answer is still an answer to who may ask, and no refusal.
func (c *call) settle(ctx context.Context, err error) error {
	switch kind := fault.KindOf(err); {
	case err == nil:
		c.record.Event.Class = ledger.Check // the handler wrote its answer into the event
	case kind == fault.NotFound:
		failed(c.record, kind)
	default:
		failed(c.record, kind)
		c.record.Event.Class = ledger.Check
	}
	if closing := c.record.Close(ctx); closing != nil {
		return fault.Wrap(fault.Unavailable, "the audit log cannot take the event; try again later", closing)
	}
	return err
}

// failed makes the record that of a refusal of a verified principal.
func failed(rec *audit.Record, kind fault.Kind) {
	rec.Event.Class, rec.Event.Decision, rec.Event.Reason = ledger.Deny, "deny", kind.String()
}

// asking begins the record of a question.
func (c *call) asking(resource, rel, asked string, attributes map[string]any) {
	e := &c.record.Event
	e.Resource, e.Relation = resource, rel
	e.Detail = map[string]string{"store": string(c.store.ID)}
	if asked != "" {
		e.Detail["asked"] = asked
	}
	if attributes != nil {
		e.Detail["context"] = "given" // the values may say anything about anybody
	}
}

// tell notes which revision and model answered.
func (c *call) tell(rev relation.Revision, model string) {
	c.revision = rev
	c.record.Event.Revision, c.record.Event.Model = rev, model
}

// note adds to the record of a question.
func (c *call) note(name string, count int) { c.record.Event.Detail[name] = strconv.Itoa(count) }

// model returns the store's active model.
func (c *call) model(ctx context.Context) (*schema.Model, error) {
	app := c.store.Application
	if c.store.Kind == directory.FreeGraph {
		app = authz.FreeApplication(c.store.ID)
		if _, err := c.api.Authz.StoreModels(ctx, c.store.ID); err != nil { // known once the store is loaded
			return nil, c.wrong(err)
		}
	}
	if m, ok := c.api.Authz.ActiveModel(app); ok {
		return m, nil
	}
	return nil, errNoModel
}

// wrong tells a store without a model from one that was deleted meanwhile.
func (c *call) wrong(err error) error {
	if fault.KindOf(err) != fault.NotFound {
		return err
	}
	if _, known := c.api.Directory.Graph(c.tenant, c.store.ID); known != nil {
		return errNoStore
	}
	return errNoModel
}
