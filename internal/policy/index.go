package policy

import (
	"iter"

	"github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

type policyID = cedar.PolicyID

// entry is one policy, compiled.
type entry struct {
	id     policyID
	order  int // among all policies of the set
	policy *cedar.Policy

	name, source   string
	line           int
	tenant, permit bool

	reads map[read]bool
	asks  []string
}

// index finds the policies that may apply to a question: all whose scope does
// not rule them out by the action or by the type of the resource.
type index struct {
	// flat says that nothing has parents, so that `in` is equality, and that
	// the context holds all attributes. Cedar's corpus has neither.
	flat bool

	both     map[question][]*entry
	byAction map[cedar.EntityUID][]*entry
	byType   map[cedar.EntityType][]*entry
	rest     []*entry
}

type question struct {
	action cedar.EntityUID
	typ    cedar.EntityType
}

func newIndex(flat bool) *index {
	return &index{
		flat: flat, both: map[question][]*entry{},
		byAction: map[cedar.EntityUID][]*entry{}, byType: map[cedar.EntityType][]*entry{},
	}
}

// add files the policy under its scope and compiles it without the parts of the
// scope that the index has then decided.
func (x *index) add(e *entry, p *ast.Policy) {
	rest := *p
	if x.flat {
		rest = flatten(rest)
		rest.Conditions = make([]ast.ConditionType, len(p.Conditions))
		for i, c := range p.Conditions {
			rest.Conditions[i] = ast.ConditionType{Condition: c.Condition, Body: rewrite(c.Body, flat)}
		}
	}
	actions, anyAction := x.actions(rest.Action)
	typ, anyType, exact := resourceType(rest.Resource)
	if !anyAction {
		rest.Action = ast.ScopeTypeAll{}
	}
	if exact {
		rest.Resource = ast.ScopeTypeAll{}
	}
	e.policy = cedar.NewPolicyFromAST((*cedarast.Policy)(&rest))
	switch {
	case anyAction && anyType:
		x.rest = append(x.rest, e)
	case anyAction:
		x.byType[typ] = append(x.byType[typ], e)
	}
	for _, a := range actions {
		if anyType {
			x.byAction[a] = append(x.byAction[a], e)
		} else {
			q := question{a, typ}
			x.both[q] = append(x.both[q], e)
		}
	}
}

// flatten replaces `in` by `==` in the scope.
func flatten(p ast.Policy) ast.Policy {
	switch s := p.Principal.(type) {
	case ast.ScopeTypeIn:
		p.Principal = ast.ScopeTypeEq(s)
	case ast.ScopeTypeIsIn:
		if s.Type == s.Entity.Type {
			p.Principal = ast.ScopeTypeEq{Entity: s.Entity}
		}
	}
	if s, ok := p.Action.(ast.ScopeTypeIn); ok {
		p.Action = ast.ScopeTypeEq(s)
	}
	switch s := p.Resource.(type) {
	case ast.ScopeTypeIn:
		p.Resource = ast.ScopeTypeEq(s)
	case ast.ScopeTypeIsIn:
		if s.Type == s.Entity.Type {
			p.Resource = ast.ScopeTypeEq{Entity: s.Entity}
		}
	}
	return p
}

// actions returns the actions that the scope admits, each once, or that there
// is no telling.
func (x *index) actions(scope ast.IsActionScopeNode) (actions []cedar.EntityUID, any bool) {
	switch s := scope.(type) {
	case ast.ScopeTypeEq:
		return []cedar.EntityUID{s.Entity}, false
	case ast.ScopeTypeInSet:
		if !x.flat {
			return nil, true
		}
		seen := make(map[cedar.EntityUID]bool, len(s.Entities))
		for _, a := range s.Entities {
			if !seen[a] {
				seen[a] = true
				actions = append(actions, a)
			}
		}
		return actions, false
	}
	return nil, true
}

// resourceType returns the type that the scope admits, or that there is no
// telling; exact: it asks for nothing else.
func resourceType(scope ast.IsResourceScopeNode) (typ cedar.EntityType, any, exact bool) {
	switch s := scope.(type) {
	case ast.ScopeTypeEq:
		return s.Entity.Type, false, false
	case ast.ScopeTypeIs:
		return s.Type, false, true
	case ast.ScopeTypeIsIn:
		return s.Type, false, false
	}
	return "", true, false
}

// candidates is what the index finds, in up to four lists so that a policy
// without a scope is not copied to every question.
type candidates [4][]*entry

func (x *index) find(q question) candidates {
	return candidates{x.both[q], x.byAction[q.action], x.byType[q.typ], x.rest}
}

func (c *candidates) len() (n int) {
	for _, list := range c {
		n += len(list)
	}
	return n
}

// All makes the candidates a set of policies for Cedar.
func (c *candidates) All() iter.Seq2[policyID, *cedar.Policy] {
	return func(yield func(policyID, *cedar.Policy) bool) {
		for _, list := range c {
			for _, e := range list {
				if !yield(e.id, e.policy) {
					return
				}
			}
		}
	}
}

// evaluate is the one way to Cedar's evaluator, for guard policies as for its
// corpus. cedar.Authorize is the only public function that runs a compiled
// policy (x/exp/eval compiles at every call). Its profile: a policy costs
// 0.1 µs, so the scan over policies that cannot apply was what made a thousand
// of them take 386 µs, and the index saves that; what is left per question is
// boxing and allocation around the scan, about 0.5 µs, and the records and sets
// of its input, which Cedar hashes, sorts, copies when they are made: hence
// one record, see [flat], out of a map that is used again.
func evaluate(c *candidates, entities cedar.EntityGetter, req cedar.Request) (cedar.Decision, cedar.Diagnostic) {
	return cedar.Authorize(c, entities, req)
}
