package admin

import (
	"cmp"
	"slices"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// change completes the call's event for an engine that commits it as it is.
func (s *server) change(c *call, shard relation.StoreID, resource string) ledger.Change {
	e := c.event()
	e.Class, e.Time, e.Resource = ledger.Mutation, s.Now(), resource
	return ledger.Change{Store: shard, Event: e}
}

func publishModel(s *server, c *call) (answer, error) {
	req, err := in[NewModel](c)
	if err != nil {
		return answer{}, err
	}
	app, err := s.application(c, req.Application)
	if err != nil {
		return answer{}, err
	}
	system, err := s.Directory.SystemGraph(tenant.Platform)
	if err != nil {
		return answer{}, err
	}
	id, _, err := s.Authz.PublishModel(c.r.Context(), s.change(c, system, "application:"+app), app, req.DSL, true)
	if err != nil {
		return answer{}, err
	}
	return created(modelOf(s.Authz, app, id)), nil
}

// modelOf returns the version with its source, the zero Model if there is none.
func modelOf(e *authz.Engine, app, id string) Model {
	for _, m := range e.Models(app) {
		if m.ID == id {
			return Model{ID: m.ID, Application: m.Application, Active: m.Active, DSL: m.Source, Created: m.Created}
		}
	}
	return Model{}
}

func listModels(s *server, c *call) (answer, error) {
	var all []authz.ModelRecord
	for _, g := range s.Directory.Graphs(c.tenant) {
		if g.Kind == directory.DefaultGraph {
			all = append(all, s.Authz.Models(g.Application)...)
		}
	}
	key := func(m authz.ModelRecord) string { return m.Application + "/" + m.ID }
	slices.SortFunc(all, func(a, b authz.ModelRecord) int { return cmp.Compare(key(a), key(b)) })
	return list(c, all, key, func(m authz.ModelRecord) Model {
		return Model{ID: m.ID, Application: m.Application, Active: m.Active, Created: m.Created}
	})
}

func getModel(s *server, c *call) (answer, error) {
	id := c.r.PathValue("model")
	for _, g := range s.Directory.Graphs(c.tenant) {
		if g.Kind != directory.DefaultGraph {
			continue
		}
		if m := modelOf(s.Authz, g.Application, id); m.ID != "" {
			c.about("model:" + id)
			return ok(m), nil
		}
	}
	return answer{}, fault.New(fault.NotFound, "no such model")
}

func writeTuples(s *server, c *call) (answer, error) {
	req, err := in[TupleChange](c)
	if err != nil {
		return answer{}, err
	}
	if len(req.Writes)+len(req.Deletes) > authz.MaxWrite {
		return answer{}, fault.New(fault.TooLarge, "one request changes at most 100 tuples")
	}
	app, err := s.application(c, req.Application)
	if err != nil {
		return answer{}, err
	}
	store, err := s.Directory.DefaultGraph(c.tenant, app)
	if err != nil {
		return answer{}, err
	}
	writes, err := s.resolve(c, req.Writes)
	if err != nil {
		return answer{}, err
	}
	deletes, err := s.resolve(c, req.Deletes)
	if err != nil {
		return answer{}, err
	}
	rev, err := s.Authz.Write(c.r.Context(), s.change(c, store, "store:"+string(store)), "", authz.Write{Writes: writes, Deletes: deletes})
	if err != nil {
		return answer{}, err
	}
	return ok(TuplesChanged{Revision: s.Authz.Token(rev), Writes: writes, Deletes: deletes}), nil
}

// resolve replaces the aliases of the tuples' subjects by ids.
func (s *server) resolve(c *call, tuples []relation.Tuple) ([]relation.Tuple, error) {
	out := make([]relation.Tuple, len(tuples))
	for i, t := range tuples {
		subject, err := s.subject(c, t.Subject)
		if err != nil {
			return nil, err
		}
		t.Subject = subject
		out[i] = t
	}
	return out, nil
}

func readTuples(s *server, c *call) (answer, error) {
	q, p, err := c.query("application", "object", "relation", "user")
	if err != nil {
		return answer{}, err
	}
	app, err := s.application(c, q.Get("application"))
	if err != nil {
		return answer{}, err
	}
	store, err := s.Directory.DefaultGraph(c.tenant, app)
	if err != nil {
		return answer{}, err
	}
	f := authz.Filter{Object: q.Get("object"), Relation: q.Get("relation"), Subject: q.Get("user")}
	if f.Subject != "user:" && f.Subject != "service:" {
		if f.Subject, err = s.subject(c, f.Subject); err != nil {
			return answer{}, err
		}
	}
	found, err := s.Authz.Read(c.r.Context(), store, f, p.Limit, p.Cursor)
	if err != nil {
		return answer{}, err
	}
	c.about("store:" + string(store))
	list := make([]relation.Tuple, len(found.Tuples))
	for i, t := range found.Tuples {
		list[i] = t.Tuple
	}
	return ok(Page[relation.Tuple]{Items: list, Next: found.Next}), nil
}

func explain(s *server, c *call) (answer, error) {
	req, err := in[Question](c)
	if err != nil {
		return answer{}, err
	}
	app, err := s.application(c, req.Application)
	if err != nil {
		return answer{}, err
	}
	subject, err := s.subject(c, req.Subject)
	if err != nil {
		return answer{}, err
	}
	asked := relation.Tuple{Object: req.Object, Relation: req.Relation, Subject: subject}
	if err := asked.Validate(); err != nil {
		return answer{}, err
	}
	if req.Visible != "" && !relation.ValidRelation(req.Visible) {
		return answer{}, fault.New(fault.Invalid, "visible must be a relation")
	}
	v, err := s.Guard.Explain(c.r.Context(), c.tenant, subject, &guard.Requirement{
		Application: app, Object: req.Object, Relation: req.Relation, Visible: req.Visible,
	})
	switch {
	case err != nil:
		return answer{}, err
	case v.Kind == fault.Unavailable && !v.Allowed:
		return answer{}, fault.New(fault.Unavailable, "the decision cannot be made now; try again")
	case v.Trace == nil:
		typ, _, _ := relation.SplitObject(req.Object) // validated above
		return answer{}, fault.New(fault.Invalid, "the active model has no relation "+req.Relation+" on "+typ)
	}
	c.about(req.Object)
	c.record.Event.Detail = map[string]string{"asked": subject, "relation": req.Relation}
	return ok(Explained{
		Subject: subject, Relation: req.Relation, Object: req.Object, Allowed: v.Allowed, Reason: v.Reason, Model: v.Model,
		Revision: s.Authz.Token(v.Revision), Trace: v.Trace, Drawing: v.Trace.String(),
	}), nil
}

func revoke(s *server, c *call) (answer, error) {
	req, err := in[NewRevocation](c)
	if err != nil {
		return answer{}, err
	}
	kind := directory.RevocationKind(req.Kind)
	switch kind {
	case directory.RevokeToken, directory.RevokeRoot, directory.RevokeSession, directory.RevokeClient:
		if err := oneLine(req.Value); err != nil {
			return answer{}, err
		}
	case directory.RevokeSubject:
		if req.Value, err = s.subject(c, req.Value); err != nil {
			return answer{}, err
		}
		if _, err := principal.ParseSubject(req.Value); err != nil {
			return answer{}, err
		}
	default: // a whole tenant is suspended by an operator, not revoked by itself
		return answer{}, fault.New(fault.Invalid, "kind must be token, root, session, subject or client")
	}
	return done, s.Directory.Revoke(c.r.Context(), c.event(), c.tenant, kind, req.Value)
}
