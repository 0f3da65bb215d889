package policy

import (
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"bulwark.example/internal/fault"
)

// checkTypes runs Cedar's validator over one policy: unknown types, actions and
// attributes, operands of the wrong type, scopes that no question has.
//
// The schema says that every attribute is there, for which `has` would be true
// as a matter of types, and what follows a `!(… has …)` would go unchecked. So
// the validator sees each `has` with a boolean behind it that it knows nothing
// of. And it is asked a second time, with a wrong operand behind the
// conditions: it finds that operand unless the conditions are false for every
// kind of question. Such a policy would never apply and its author never know.
//
// The validator goes through all kinds of question. Where the conditions do not
// speak of the action, the types of principal and resource are what makes a
// difference, so it gets a schema with one action on the types that the scope
// admits: a hundredth of the work for a large model.
func (c *compiler) checkTypes(p *ast.Policy, questions []Grant) (reason string, err error) {
	q := *p
	q.Conditions = make([]ast.ConditionType, len(p.Conditions))
	for i, cond := range p.Conditions {
		q.Conditions[i] = ast.ConditionType{Condition: cond.Condition, Body: rewrite(cond.Body, opaqueHas)}
	}
	v, err := c.validatorFor(&q, questions)
	if err != nil {
		return "", err
	}
	if err := v.Policy("", &q); err != nil {
		reason, _, _ = strings.Cut(err.Error(), "\n")
		return reason, nil
	}
	if len(q.Conditions) == 0 {
		return "", nil
	}
	bare := ast.Policy{Principal: ast.ScopeTypeAll{}, Action: ast.ScopeTypeAll{}, Resource: ast.ScopeTypeAll{}, Conditions: q.Conditions}
	probe := eval.PolicyToNode(&bare).And(ast.Long(1))
	q.Conditions = []ast.ConditionType{{Condition: ast.ConditionWhen, Body: probe.AsIsNode()}}
	if v.Policy("", &q) == nil {
		return "the policy can never apply: its conditions are false whatever is asked", nil
	}
	return "", nil
}

// maxValidators bounds the memory for schemas while compiling.
const maxValidators = 64

var errTooMuch = fault.New(fault.TooLarge, "the set is too much to check; narrow the policies' scopes")

// validatorFor returns the smallest that is right for the policy, and takes the
// action out of a scope that it does not know.
func (c *compiler) validatorFor(p *ast.Policy, questions []Grant) (*validate.Validator, error) {
	actions, key := map[string][]*typ{}, "*"
	if speaksOfAction(p) {
		for _, name := range sortedKeys(c.types) {
			for _, r := range c.types[name].relations {
				actions[r] = append(actions[r], c.types[name])
			}
		}
	} else {
		p.Action = ast.ScopeTypeAll{}
		seen := map[string]bool{}
		for _, g := range questions {
			if !seen[g.Type] {
				seen[g.Type] = true
				actions["any"] = append(actions["any"], c.types[g.Type])
			}
		}
		key = strings.Join(sortedKeys(seen), " ")
	}
	if v := c.validators[key]; v != nil {
		return v, nil
	}
	if c.checks += c.declared; c.checks > maxChecks {
		return nil, errTooMuch
	}
	if len(c.validators) == maxValidators {
		clear(c.validators)
	}
	v, err := validator(c.vocabulary, c.types, actions)
	c.validators[key] = v
	return v, err
}

// speaksOfAction reports whether a condition names an action.
func speaksOfAction(p *ast.Policy) (speaks bool) {
	for _, cond := range p.Conditions {
		ast.Inspect(ast.NewNode(cond.Body), func(n ast.IsNode) bool {
			switch v := n.(type) {
			case ast.NodeTypeVariable:
				speaks = speaks || v.Name == "action"
			case ast.NodeValue:
				uid, ok := v.Value.(types.EntityUID)
				speaks = speaks || ok && isAction(uid)
			}
			return !speaks
		})
	}
	return speaks
}

func isAction(uid types.EntityUID) bool { return uid.Type == "Action" }

// opaqueHas puts a boolean of unknown value behind a `has`.
func opaqueHas(n ast.IsNode) ast.IsNode {
	if _, ok := n.(ast.NodeTypeHas); !ok {
		return nil
	}
	unknown := ast.Context().Access("verified").Access("hour").Equal(ast.Long(0))
	return ast.NewNode(n).And(unknown).AsIsNode()
}

// rewrite builds the expression anew with what f puts in the place of parts of
// it; nil leaves a part as it is, up to its own parts.
func rewrite(n ast.IsNode, f func(ast.IsNode) ast.IsNode) ast.IsNode {
	if m := f(n); m != nil {
		return m
	}
	one := func(u ast.UnaryNode) ast.UnaryNode { return ast.UnaryNode{Arg: rewrite(u.Arg, f)} }
	two := func(b ast.BinaryNode) ast.BinaryNode {
		return ast.BinaryNode{Left: rewrite(b.Left, f), Right: rewrite(b.Right, f)}
	}
	str := func(s ast.StrOpNode) ast.StrOpNode { return ast.StrOpNode{Arg: rewrite(s.Arg, f), Value: s.Value} }
	all := func(nodes []ast.IsNode) []ast.IsNode {
		out := make([]ast.IsNode, len(nodes))
		for i, n := range nodes {
			out[i] = rewrite(n, f)
		}
		return out
	}
	switch v := n.(type) {
	case ast.NodeTypeIfThenElse:
		n = ast.NodeTypeIfThenElse{If: rewrite(v.If, f), Then: rewrite(v.Then, f), Else: rewrite(v.Else, f)}
	case ast.NodeTypeOr:
		n = ast.NodeTypeOr{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeAnd:
		n = ast.NodeTypeAnd{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeLessThan:
		n = ast.NodeTypeLessThan{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeLessThanOrEqual:
		n = ast.NodeTypeLessThanOrEqual{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeGreaterThan:
		n = ast.NodeTypeGreaterThan{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeGreaterThanOrEqual:
		n = ast.NodeTypeGreaterThanOrEqual{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeEquals:
		n = ast.NodeTypeEquals{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeNotEquals:
		n = ast.NodeTypeNotEquals{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeIn:
		n = ast.NodeTypeIn{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeHasTag:
		n = ast.NodeTypeHasTag{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeGetTag:
		n = ast.NodeTypeGetTag{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeSub:
		n = ast.NodeTypeSub{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeAdd:
		n = ast.NodeTypeAdd{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeMult:
		n = ast.NodeTypeMult{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeContains:
		n = ast.NodeTypeContains{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeContainsAll:
		n = ast.NodeTypeContainsAll{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeContainsAny:
		n = ast.NodeTypeContainsAny{BinaryNode: two(v.BinaryNode)}
	case ast.NodeTypeHas:
		n = ast.NodeTypeHas{StrOpNode: str(v.StrOpNode)}
	case ast.NodeTypeAccess:
		n = ast.NodeTypeAccess{StrOpNode: str(v.StrOpNode)}
	case ast.NodeTypeLike:
		n = ast.NodeTypeLike{Arg: rewrite(v.Arg, f), Value: v.Value}
	case ast.NodeTypeIs:
		n = ast.NodeTypeIs{Left: rewrite(v.Left, f), EntityType: v.EntityType}
	case ast.NodeTypeIsIn:
		n = ast.NodeTypeIsIn{NodeTypeIs: ast.NodeTypeIs{Left: rewrite(v.Left, f), EntityType: v.EntityType}, Entity: rewrite(v.Entity, f)}
	case ast.NodeTypeNegate:
		n = ast.NodeTypeNegate{UnaryNode: one(v.UnaryNode)}
	case ast.NodeTypeNot:
		n = ast.NodeTypeNot{UnaryNode: one(v.UnaryNode)}
	case ast.NodeTypeIsEmpty:
		n = ast.NodeTypeIsEmpty{UnaryNode: one(v.UnaryNode)}
	case ast.NodeTypeExtensionCall:
		n = ast.NodeTypeExtensionCall{Name: v.Name, Args: all(v.Args)}
	case ast.NodeTypeSet:
		n = ast.NodeTypeSet{Elements: all(v.Elements)}
	case ast.NodeTypeRecord:
		elements := make([]ast.RecordElementNode, len(v.Elements))
		for i, e := range v.Elements {
			elements[i] = ast.RecordElementNode{Key: e.Key, Value: rewrite(e.Value, f)}
		}
		n = ast.NodeTypeRecord{Elements: elements}
	}
	return n
}

// shape is how much of an expression there is.
type shape struct{ nodes, depth, has int }

// measure returns the sum over a policy's conditions, and the deepest.
func measure(p *ast.Policy) (s shape) {
	for _, c := range p.Conditions {
		s.add(c.Body, 1)
	}
	return s
}

func (s *shape) add(n ast.IsNode, depth int) {
	s.nodes++
	s.depth = max(s.depth, depth)
	if _, ok := n.(ast.NodeTypeHas); ok {
		s.has++
	}
	self := true
	ast.Inspect(ast.NewNode(n), func(m ast.IsNode) bool {
		if self {
			self = false
			return true
		}
		s.add(m, depth+1)
		return false
	})
}
