package openfga

import (
	"encoding/json"
	"fmt"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// tupleKey is OpenFGA's TupleKey.
type tupleKey struct {
	User      string          `json:"user,omitempty"`
	Relation  string          `json:"relation,omitempty"`
	Object    string          `json:"object,omitempty"`
	Condition json.RawMessage `json:"condition,omitempty"`
}

type tupleKeys struct {
	TupleKeys   []tupleKey `json:"tuple_keys"`
	OnDuplicate string     `json:"on_duplicate"`
	OnMissing   string     `json:"on_missing"`
}

type checkRequest struct {
	TupleKey             tupleKey        `json:"tuple_key"`
	ContextualTuples     tupleKeys       `json:"contextual_tuples"`
	AuthorizationModelID string          `json:"authorization_model_id"`
	Trace                bool            `json:"trace"`
	Context              json.RawMessage `json:"context"`
	Consistency          string          `json:"consistency"`
}

type checkResponse struct {
	Allowed    bool   `json:"allowed"`
	Resolution string `json:"resolution"`
}

type writeRequest struct {
	Writes               tupleKeys `json:"writes"`
	Deletes              tupleKeys `json:"deletes"`
	AuthorizationModelID string    `json:"authorization_model_id"`
}

type readRequest struct {
	TupleKey          tupleKey `json:"tuple_key"`
	PageSize          int      `json:"page_size"`
	ContinuationToken string   `json:"continuation_token"`
	Consistency       string   `json:"consistency"`
}

type tuple struct {
	Key tupleKey `json:"key"`
}

type readResponse struct {
	Tuples            []tuple `json:"tuples"`
	ContinuationToken string  `json:"continuation_token"`
}

func unsupported(what string) error { return fault.New(fault.Unsupported, what+" not offered here") }

// filled reports whether a free-form member says anything.
func filled(raw json.RawMessage) bool {
	var members map[string]json.RawMessage
	return len(raw) > 0 && (json.Unmarshal(raw, &members) != nil || len(members) > 0)
}

// consistency accepts OpenFGA's values. All mean the latest revision: this
// process answers from no older one.
func consistency(s string) error {
	switch s {
	case "", "UNSPECIFIED", "MINIMIZE_LATENCY", "HIGHER_CONSISTENCY":
		return nil
	}
	return fault.New(fault.Invalid, "consistency must be UNSPECIFIED, MINIMIZE_LATENCY or HIGHER_CONSISTENCY")
}

func (k tupleKey) tuple() (relation.Tuple, error) {
	if filled(k.Condition) {
		return relation.Tuple{}, unsupported("conditions are")
	}
	t := relation.Tuple{Object: k.Object, Relation: k.Relation, Subject: k.User}
	return t, t.Validate()
}

func check(s *server, c *call) (any, error) {
	var req checkRequest
	if err := web.Decode(c.r, &req); err != nil {
		return nil, err
	}
	switch {
	case len(req.ContextualTuples.TupleKeys) > 0:
		return nil, unsupported("contextual tuples are")
	case filled(req.Context):
		return nil, unsupported("conditions, and context for them, are")
	case req.Trace:
		return nil, unsupported("a trace is")
	}
	if err := consistency(req.Consistency); err != nil {
		return nil, err
	}
	t, err := req.TupleKey.tuple()
	if err != nil {
		return nil, err
	}
	if err := s.model(c, req.AuthorizationModelID); err != nil {
		return nil, err
	}
	e := &c.record.Event
	e.Resource, e.Relation, e.Detail = t.Object, t.Relation, map[string]string{"asked": t.Subject, "store": string(c.store.ID)}
	d, err := s.Authz.Check(c.r.Context(), authz.Query{Store: c.store.ID, Object: t.Object, Relation: t.Relation, Subject: t.Subject})
	if err != nil {
		return nil, err
	}
	e.Model, e.Revision = d.Model, d.Revision
	e.Decision, e.Reason = "deny", "no_relation"
	if d.Allowed {
		e.Decision, e.Reason = "allow", "relation"
	}
	s.reveal(c, d.Revision)
	return checkResponse{Allowed: d.Allowed}, nil
}

func write(s *server, c *call) (any, error) {
	var req writeRequest
	if err := web.Decode(c.r, &req); err != nil {
		return nil, err
	}
	for _, policy := range []string{req.Writes.OnDuplicate, req.Writes.OnMissing, req.Deletes.OnDuplicate, req.Deletes.OnMissing} {
		if policy != "" && policy != "error" {
			return nil, unsupported("any other on_duplicate or on_missing than error is")
		}
	}
	if n := len(req.Writes.TupleKeys) + len(req.Deletes.TupleKeys); n > authz.MaxWrite {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("the number of write operations exceeds the allowed limit of %d", authz.MaxWrite))
	}
	if err := s.model(c, req.AuthorizationModelID); err != nil {
		return nil, err
	}
	writes, err := tuples(req.Writes.TupleKeys)
	if err != nil {
		return nil, err
	}
	deletes, err := tuples(req.Deletes.TupleKeys)
	if err != nil {
		return nil, err
	}
	e := c.begun
	e.Class, e.Time, e.Resource = ledger.Mutation, s.Now(), "store:"+string(c.store.ID)
	rev, err := s.Authz.Write(c.r.Context(), ledger.Change{Store: c.store.ID, Event: e}, writes, deletes)
	if err != nil {
		return nil, err
	}
	s.reveal(c, rev)
	return struct{}{}, nil
}

func tuples(keys []tupleKey) ([]relation.Tuple, error) {
	out := make([]relation.Tuple, len(keys))
	for i, k := range keys {
		t, err := k.tuple()
		if err != nil {
			return nil, err
		}
		out[i] = t
	}
	return out, nil
}

// The page sizes of OpenFGA's Read.
const (
	defaultPage = 50
	maxPage     = 100
)

func read(s *server, c *call) (any, error) {
	var req readRequest
	if err := web.Decode(c.r, &req); err != nil {
		return nil, err
	}
	if err := consistency(req.Consistency); err != nil {
		return nil, err
	}
	if filled(req.TupleKey.Condition) {
		return nil, unsupported("conditions are")
	}
	if req.PageSize == 0 {
		req.PageSize = defaultPage
	}
	if req.PageSize < 1 || req.PageSize > maxPage {
		return nil, errPage
	}
	f := authz.Filter{Object: req.TupleKey.Object, Relation: req.TupleKey.Relation, Subject: req.TupleKey.User}
	found, err := s.Authz.Read(c.r.Context(), c.store.ID, f, req.PageSize, req.ContinuationToken)
	if err != nil {
		return nil, err
	}
	out := readResponse{Tuples: []tuple{}, ContinuationToken: found.Next}
	for _, t := range found.Tuples {
		out.Tuples = append(out.Tuples, tuple{tupleKey{User: t.Subject, Relation: t.Relation, Object: t.Object}})
	}
	s.reveal(c, found.Revision)
	return out, nil
}
