package admin

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
)

// change completes the call's event for an engine that commits it as it is.
func (s *server) change(c *call, shard relation.StoreID, resource string) ledger.Change {
	e := c.event()
	e.Class, e.Time, e.Resource = ledger.Mutation, s.Now(), resource
	return ledger.Change{Store: shard, Event: e}
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
	store, err := s.storeOf(c, req.Application)
	if err != nil {
		return answer{}, err
	}
	writes, err := s.tuples(c, req.Writes)
	if err != nil {
		return answer{}, err
	}
	for _, t := range writes {
		if t.Expires != 0 && t.Expires <= s.Now().UnixNano() {
			return answer{}, fault.New(fault.Invalid, "the tuple "+t.String()+" has expired already; name a time to come")
		}
	}
	deletes, err := s.tuples(c, req.Deletes)
	if err != nil {
		return answer{}, err
	}
	for _, t := range deletes {
		if t != t.Key() {
			return answer{}, fault.New(fault.Invalid, "a delete names object, relation and user alone")
		}
	}
	rev, err := s.Authz.Write(c.r.Context(), s.change(c, store, "store:"+string(store)), "", authz.Write{Writes: writes, Deletes: deletes})
	if err != nil {
		return answer{}, err
	}
	out := TuplesChanged{Revision: s.Authz.Token(rev)}
	if out.Writes, err = wired(writes); err != nil {
		return answer{}, err
	}
	if out.Deletes, err = wired(deletes); err != nil {
		return answer{}, err
	}
	return ok(out), nil
}

// lastYear is the last whole one that nanoseconds since 1970 reach.
const lastYear = 2261

// tuples takes tuples over, with ids for the aliases of subjects.
func (s *server) tuples(c *call, list []Tuple) ([]relation.Tuple, error) {
	out := make([]relation.Tuple, len(list))
	for i, t := range list {
		subject, err := s.subject(c, t.Subject)
		if err != nil {
			return nil, err
		}
		out[i] = relation.Tuple{Object: t.Object, Relation: t.Relation, Subject: subject, Condition: t.Condition}
		if len(t.Context) > 0 {
			raw, err := json.Marshal(t.Context)
			if err != nil {
				return nil, fault.Wrap(fault.Internal, "a context does not encode", err)
			}
			out[i].Context = string(raw)
		}
		if out[i].Expires, err = ending(t.Expires); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ending returns when a tuple ends, 0 for never.
func ending(t time.Time) (int64, error) {
	if t.IsZero() {
		return 0, nil
	}
	if y := t.UTC().Year(); y < 1970 || y > lastYear {
		return 0, fault.New(fault.Invalid, "expires must be a time of the years 1970 to 2261")
	}
	return t.UnixNano(), nil
}

// wired gives tuples out.
func wired(tuples []relation.Tuple) ([]Tuple, error) {
	out := make([]Tuple, len(tuples))
	for i, t := range tuples {
		values, err := authz.Context([]byte(t.Context))
		if err != nil {
			return nil, fault.Wrap(fault.Integrity, "a stored context cannot be read", err)
		}
		out[i] = Tuple{Object: t.Object, Relation: t.Relation, Subject: t.Subject, Condition: t.Condition, Context: values}
		if t.Expires != 0 {
			out[i].Expires = time.Unix(0, t.Expires).UTC()
		}
	}
	return out, nil
}

func readTuples(s *server, c *call) (answer, error) {
	q, p, err := c.query("application", "object", "relation", "user")
	if err != nil {
		return answer{}, err
	}
	store, err := s.storeOf(c, q.Get("application"))
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
	stored := make([]relation.Tuple, len(found.Tuples))
	for i, t := range found.Tuples {
		stored[i] = t.Tuple
	}
	list, err := wired(stored)
	if err != nil {
		return answer{}, err
	}
	return ok(Page[Tuple]{Items: list, Next: found.Next}), nil
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
	contextual, err := s.tuples(c, req.Contextual)
	if err != nil {
		return answer{}, err
	}
	v, err := s.Guard.Explain(c.r.Context(), c.tenant, subject, &guard.Requirement{
		Application: app, Object: req.Object, Relation: req.Relation, Visible: req.Visible,
	}, authz.Asked{Model: req.Model, Context: req.Context, Contextual: contextual})
	if err != nil {
		return answer{}, err
	}
	c.about(req.Object)
	c.record.Event.Detail = map[string]string{"asked": subject, "relation": req.Relation}
	if len(contextual) > 0 {
		c.record.Event.Detail["contextual"] = strconv.Itoa(len(contextual))
	}
	if len(req.Context) > 0 {
		c.record.Event.Detail["context"] = "given" // its values may be anything about anybody
	}
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
