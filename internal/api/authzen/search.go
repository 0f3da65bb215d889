package authzen

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// found is the answer to a search. The page comes first, as recommended.
type found struct {
	Page    page     `json:"page"`
	Context findings `json:"context"`
	Results []result `json:"results"`
}

type page struct {
	Next  string `json:"next_token"` // empty at the end
	Count int    `json:"count"`
}

// findings are what a search says beside its results.
type findings struct {
	Revision   string   `json:"revision"`
	Reason     string   `json:"reason,omitempty"` // why nothing can be found: a code
	Truncated  bool     `json:"truncated,omitempty"`
	Unanswered []string `json:"unanswered,omitempty"` // actions
}

// result is a subject or a resource, or an action.
type result struct {
	Type string `json:"type,omitempty"`
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// search is a question for a list, ready to be asked.
type search struct {
	*call
	model                     *schema.Model
	subject, action, resource string // "type:id", or the type alone of what is searched for
	asked                     authz.Asked
	paging
}

// searching reads the request for a list of what kind says. What the contract or
// the engine would not take is an error; what the model does not have is none.
func (c *call) searching(ctx context.Context, m members, kind string) (*search, error) {
	q, err := m.question(kind)
	if err != nil {
		return nil, err
	}
	s := &search{call: c}
	subject, resource := subjectOf, resourceOf
	switch kind {
	case "subject":
		subject = func(e *entity) (string, error) { return typeOf(e, kind) }
	case "resource":
		resource = func(e *entity) (string, error) { return typeOf(e, kind) }
	}
	if s.subject, err = subject(q.subject); err != nil {
		return nil, err
	}
	if s.resource, err = resource(q.resource); err != nil {
		return nil, err
	}
	if kind != "action" {
		if s.action, err = actionOf(q.action); err != nil {
			return nil, err
		}
	}
	if s.asked.Context, err = q.attributes(); err != nil {
		return nil, err
	}
	t, err := m.turn()
	if err != nil {
		return nil, err
	}
	if s.paging, err = s.page(ctx, kind, t); err != nil {
		return nil, err
	}
	if s.model, err = c.model(ctx); err != nil {
		return nil, err
	}
	s.asked.Model = s.model.ID() // the one that was looked into
	return s, nil
}

// lacking names what the model does not have of the question; "" if it has all.
func (s *search) lacking() string {
	subject, _, _ := strings.Cut(s.subject, ":")
	resource, _, _ := strings.Cut(s.resource, ":")
	switch {
	case !s.model.HasType(subject):
		return "unknown_subject_type"
	case !s.model.HasType(resource):
		return "unknown_resource_type"
	case s.action != "":
		if _, ok := s.model.Relation(resource, s.action); !ok {
			return "unknown_action"
		}
	}
	return ""
}

// ask gives the list, an empty one with the reason where the model lacks
// something.
func (s *search) ask(ctx context.Context, list func() (authz.List, error)) (l authz.List, why string, err error) {
	if why = s.lacking(); why == "" {
		l, err = list()
	} else {
		l.Revision, l.Model, err = s.api.Authz.CheckBatch(ctx, s.store.ID, s.asked.Model, nil, nil)
	}
	return l, why, s.wrong(err)
}

func searchSubject(ctx context.Context, c *call, m members) (any, error) {
	s, err := c.searching(ctx, m, "subject")
	if err != nil {
		return nil, err
	}
	c.asking(s.resource, s.action, s.subject+":", s.asked.Context)
	l, why, err := s.ask(ctx, func() (authz.List, error) {
		return c.api.Authz.ListUsers(ctx, authz.UsersQuery{
			Store: c.store.ID, Object: s.resource, Relation: s.action, Type: s.subject, Asked: s.asked, Limit: max(s.limit, 1), After: s.after,
		})
	})
	if err != nil {
		return nil, err
	}
	return s.listed(l, findings{Reason: why}, entityResult), nil
}

func searchResource(ctx context.Context, c *call, m members) (any, error) {
	s, err := c.searching(ctx, m, "resource")
	if err != nil {
		return nil, err
	}
	c.asking(s.resource+":", s.action, s.subject, s.asked.Context)
	l, why, err := s.ask(ctx, func() (authz.List, error) {
		return c.api.Authz.ListObjects(ctx, authz.ObjectsQuery{
			Store: c.store.ID, Type: s.resource, Relation: s.action, Subject: s.subject, Asked: s.asked, Limit: max(s.limit, 1), After: s.after,
		})
	})
	if err != nil {
		return nil, err
	}
	return s.listed(l, findings{Reason: why}, entityResult), nil
}

func searchAction(ctx context.Context, c *call, m members) (any, error) {
	s, err := c.searching(ctx, m, "action")
	if err != nil {
		return nil, err
	}
	c.asking(s.resource, "", s.subject, s.asked.Context)
	var unanswered []string
	l, why, err := s.ask(ctx, func() (l authz.List, err error) {
		l, unanswered, err = s.actions(ctx)
		return l, err
	})
	if err != nil {
		return nil, err
	}
	return s.listed(l, findings{Reason: why, Unanswered: unanswered}, func(name string) result { return result{Name: name} }), nil
}

// actions asks for every relation of the resource's type, all at one revision,
// and cuts the page out as the engine does with its lists.
func (s *search) actions(ctx context.Context) (l authz.List, unanswered []string, err error) {
	typ, _, _ := relation.SplitObject(s.resource)
	var queries []authz.Query
	for _, r := range s.model.Relations(typ) {
		queries = append(queries, authz.Query{Object: s.resource, Relation: r.Name, Subject: s.subject, Asked: s.asked})
	}
	slices.SortFunc(queries, func(a, b authz.Query) int { return strings.Compare(a.Relation, b.Relation) })
	var broken error
	l.Revision, l.Model, err = s.api.Authz.CheckBatch(ctx, s.store.ID, s.asked.Model, queries, func(i int, d authz.Decision, err error) {
		switch name := queries[i].Relation; {
		case err == nil && d.Allowed && name > s.after:
			l.Names = append(l.Names, name)
		case errors.Is(err, authz.ErrCondition) || err != nil && fault.KindOf(err) == fault.Exhausted:
			unanswered = append(unanswered, name)
		case err != nil && broken == nil:
			broken = err
		}
	})
	if limit := max(s.limit, 1); len(l.Names) > limit {
		l.Names = l.Names[:limit]
		l.Next = l.Names[limit-1]
	}
	return l, unanswered, cmp.Or(err, broken)
}

func entityResult(name string) result {
	typ, id, _ := relation.SplitObject(name)
	return result{Type: typ, ID: id}
}

// listed tells and records what a list came to.
func (s *search) listed(l authz.List, says findings, spell func(string) result) found {
	s.tell(l.Revision, l.Model)
	names, last, more := l.Names, l.Next, l.Next != ""
	if s.limit == 0 { // one was asked for, to know whether there is any
		names, last, more = nil, s.after, len(l.Names) > 0
	}
	says.Revision, says.Truncated, s.truncated = s.api.Authz.Token(l.Revision), l.Truncated, l.Truncated
	out := found{Page: page{Count: len(names)}, Context: says, Results: make([]result, len(names))}
	for i, name := range names {
		out.Results[i] = spell(name)
	}
	if more {
		out.Page.Next = s.token(says.Revision, last)
	}
	e := &s.record.Event
	e.Decision, e.Reason = "", "list"
	s.note("listed", len(names))
	for name, value := range map[string]string{"after": s.after, "lacking": says.Reason} {
		if value != "" {
			e.Detail[name] = value
		}
	}
	if l.Truncated {
		e.Detail["truncated"] = "true"
	}
	if n := len(says.Unanswered); n > 0 {
		s.note("unanswered", n)
	}
	return out
}

// lasts tell what can be the last name of a list.
var lasts = map[string]func(string) bool{"subject": relation.ValidSubject, "resource": relation.ValidObject, "action": relation.ValidRelation}

// paging is where a search goes on, and for how long.
type paging struct {
	limit    int
	after    string
	question [tokenHash]byte
}

// A page's token, format 1: base64url of
//
//	"a" | the question's hash (16) | the limit (4, big endian) | a revision token (79) | the last name
//
// There is no last name before the first result. The hash is the first bytes of
// SHA-256 over the question as JSON. Nothing relies on it: it keeps a caller from
// going on with another question by mistake.
const (
	tokenHash     = 16
	tokenRevision = 79
	maxToken      = 1024
)

// page reads what the request says about pages. The revision of a token must be
// here: a page is answered at the latest, and may not be older than the one before.
func (s *search) page(ctx context.Context, kind string, t turn) (p paging, err error) {
	raw, err := json.Marshal([]any{kind, s.store.ID, s.subject, s.action, s.resource, s.asked.Context})
	if err != nil {
		return p, fault.Wrap(fault.Internal, "a question does not encode", err)
	}
	sum := sha256.Sum256(raw)
	p.question = [tokenHash]byte(sum[:])
	if p.limit = t.limit; t.limit < 0 {
		p.limit = MaxPage
	}
	if t.token == "" {
		return p, nil
	}
	limit, revision, last, ok := opened(t.token, string(p.question[:]))
	if !ok || last != "" && !lasts[kind](last) {
		return p, invalid("page.token is not one of this search; everything but the token must be as in the request before")
	}
	if t.limit >= 0 && t.limit != limit {
		return p, invalid("page.limit is not that of the request before")
	}
	if _, err := s.api.Authz.ParseToken(ctx, s.store.ID, revision); err != nil {
		if fault.KindOf(err) == fault.Unavailable {
			return p, err
		}
		return p, fault.Wrap(fault.Invalid, "page.token is not one of this search, or older than the last restore; begin again without it", err)
	}
	p.limit, p.after = limit, last
	return p, nil
}

// opened reads a token of the question.
func opened(token, question string) (limit int, revision, last string, ok bool) {
	if len(token) > maxToken {
		return 0, "", "", false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return 0, "", "", false
	}
	rest, ok := strings.CutPrefix(string(b), "a"+question)
	if !ok || len(rest) < 4+tokenRevision {
		return 0, "", "", false
	}
	n := binary.BigEndian.Uint32([]byte(rest))
	return int(n), rest[4 : 4+tokenRevision], rest[4+tokenRevision:], n <= MaxPage
}

func (p *paging) token(revision, last string) string {
	b := append([]byte("a"), p.question[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.limit))
	return base64.RawURLEncoding.EncodeToString(append(append(b, revision...), last...))
}
