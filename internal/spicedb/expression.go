package spicedb

import (
	"fmt"
	"strings"

	"github.com/authzed/spicedb/pkg/schemadsl/dslshape"

	"bulwark.example/internal/fault"
)

// operators are the words that OpenFGA has for SpiceDB's signs.
var operators = map[dslshape.NodeType]string{
	dslshape.NodeTypeUnionExpression:     " or ",
	dslshape.NodeTypeIntersectExpression: " and ",
	dslshape.NodeTypeExclusionExpression: " but not ",
}

// expression writes what a permission is computed from; an operator below
// another stands in parentheses.
func (r *reader) expression(d *definition, n *node, below bool) (string, error) {
	switch n.kind {
	case dslshape.NodeTypeIdentifier:
		name := n.text[dslshape.NodeIdentiferPredicateValue]
		if d.relations[name] == nil {
			return "", r.wrong(fault.Invalid, n, "%s has no relation or permission %s", d.name, name)
		}
		return name, nil
	case dslshape.NodeTypeArrowExpression:
		return r.arrow(d, n)
	case dslshape.NodeTypeNilExpression:
		return "", r.wrong(fault.Unsupported, n, "OpenFGA's language has no word for nil: leave it out, or the permission")
	case dslshape.NodeTypeSelfExpression:
		return "", r.wrong(fault.Unsupported, n, "OpenFGA's language has no word for self: write a tuple for each object that is its own subject")
	}
	word, ok := operators[n.kind]
	if !ok {
		return "", r.wrong(fault.Unsupported, n, "this cannot be translated")
	}
	left, err := r.expression(d, n.one(dslshape.NodeExpressionPredicateLeftExpr), true)
	if err != nil {
		return "", err
	}
	right, err := r.expression(d, n.one(dslshape.NodeExpressionPredicateRightExpr), true)
	if err != nil {
		return "", err
	}
	if first := n.one(dslshape.NodeExpressionPredicateLeftExpr); first.kind == n.kind && n.kind != dslshape.NodeTypeExclusionExpression {
		left = strings.TrimSuffix(strings.TrimPrefix(left, "("), ")") // (a or b) or c
	}
	if below {
		return "(" + left + word + right + ")", nil
	}
	return left + word + right, nil
}

// arrow writes "computed from tupleset".
func (r *reader) arrow(d *definition, n *node) (string, error) {
	left, right := n.one(dslshape.NodeExpressionPredicateLeftExpr), n.one(dslshape.NodeExpressionPredicateRightExpr)
	if left.kind != dslshape.NodeTypeIdentifier || right.kind != dslshape.NodeTypeIdentifier {
		return "", r.wrong(fault.Unsupported, n, "an arrow leads from one relation to one other; name what is between as a permission of its own")
	}
	tupleset, computed := left.text[dslshape.NodeIdentiferPredicateValue], right.text[dslshape.NodeIdentiferPredicateValue]
	if n.text[dslshape.NodeArrowExpressionFunctionName] == "all" {
		return "", r.wrong(fault.Unsupported, n, "OpenFGA's language cannot say %s.all(%s): that every one of them has it", tupleset, computed)
	}
	rel := d.relations[tupleset]
	switch {
	case rel == nil:
		return "", r.wrong(fault.Invalid, n, "%s has no relation %s", d.name, tupleset)
	case d.permissions[tupleset]:
		return "", r.wrong(fault.Unsupported, n, "%s is a permission: OpenFGA follows an arrow along a relation alone", tupleset)
	}
	found := false
	for _, t := range rel.one(dslshape.NodeRelationPredicateAllowedTypes).below[dslshape.NodeTypeReferencePredicateType] {
		of := t.text[dslshape.NodeSpecificReferencePredicateRelation]
		if t.text[dslshape.NodeSpecificReferencePredicateWildcard] != "" || of != "" && of != "..." {
			return "", r.wrong(fault.Unsupported, n, "%s takes usersets or everyone (line %d): OpenFGA follows an arrow to objects alone", tupleset, r.line(t))
		}
		other := r.defs[t.text[dslshape.NodeSpecificReferencePredicateType]]
		found = found || other != nil && other.relations[computed] != nil
	}
	if !found {
		return "", r.wrong(fault.Invalid, n, "nothing that %s leads to has a relation or permission %s", tupleset, computed)
	}
	return computed + " from " + tupleset, nil
}

// kinds are SpiceDB's types of a caveat's parameters that OpenFGA has, by how many
// types stand in their brackets.
var kinds = map[string]int{
	"any": 0, "bool": 0, "string": 0, "int": 0, "uint": 0, "double": 0, "duration": 0, "timestamp": 0, "ipaddress": 0, "list": 1, "map": 1,
}

// caveat writes a condition.
func (r *reader) caveat(name string, n *node) error {
	var params []string
	for _, p := range n.below[dslshape.NodeCaveatDefinitionPredicateParameters] {
		kind, err := r.kind(p.one(dslshape.NodeCaveatParameterPredicateType))
		if err != nil {
			return err
		}
		params = append(params, p.text[dslshape.NodeCaveatParameterPredicateName]+": "+kind)
	}
	expression := n.one(dslshape.NodeCaveatDefinitionPredicateExpession).text[dslshape.NodeCaveatExpressionPredicateExpression]
	if strings.Contains(expression, "//") && comments(expression) {
		return r.wrong(fault.Unsupported, n, "the caveat %s has a comment in its expression; move it before the caveat", name)
	}
	fmt.Fprintf(&r.out, "\ncondition %s(%s) {\n  %s\n}\n", name, strings.Join(params, ", "), strings.TrimSpace(expression))
	return nil
}

func (r *reader) kind(n *node) (string, error) {
	name := n.text[dslshape.NodeCaveatTypeReferencePredicateType]
	below, known := kinds[name]
	children := n.below[dslshape.NodeCaveatTypeReferencePredicateChildTypes]
	if !known {
		return "", r.wrong(fault.Unsupported, n, "OpenFGA's conditions have no parameters of the type %s", name)
	}
	if len(children) != below {
		return "", r.wrong(fault.Invalid, n, "the type %s takes %d types, not %d", name, below, len(children))
	}
	if below == 0 {
		return name, nil
	}
	inner, err := r.kind(children[0])
	if err == nil && len(children[0].order) > 0 {
		err = r.wrong(fault.Unsupported, n, "OpenFGA's conditions have no %s of lists or maps", name)
	}
	return name + "<" + inner + ">", err
}

// comments reports whether // stands outside of a string.
func comments(expression string) bool {
	var quote byte
	for i := 0; i < len(expression); i++ {
		switch c := expression[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case c == '"' || c == '\'':
			quote = c
		case c == '/' && i+1 < len(expression) && expression[i+1] == '/':
			return true
		}
	}
	return false
}
