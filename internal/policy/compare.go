package policy

import (
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// compares refuses comparisons of unlike things, `time < 9`, which Cedar's
// validator in its version 1.9.0 lets pass: it looks at each side alone. It
// knows the sides that people write: attributes, literals, the functions of
// times.
func (c *compiler) compares(n ast.IsNode) (reason string) {
	var b ast.BinaryNode
	switch v := n.(type) {
	case ast.NodeTypeLessThan:
		b = v.BinaryNode
	case ast.NodeTypeLessThanOrEqual:
		b = v.BinaryNode
	case ast.NodeTypeGreaterThan:
		b = v.BinaryNode
	case ast.NodeTypeGreaterThanOrEqual:
		b = v.BinaryNode
	default:
		return ""
	}
	if left, right := c.comparable(b.Left), c.comparable(b.Right); left != "" && right != "" && left != right {
		return "a " + left + " is compared with a " + right
	}
	return ""
}

// results are the types of what Cedar's functions of times give.
var results = map[types.Path]string{
	"datetime": "datetime", "offset": "datetime", "toDate": "datetime",
	"duration": "duration", "durationSince": "duration", "toTime": "duration",
	"toMilliseconds": "Long", "toSeconds": "Long", "toMinutes": "Long", "toHours": "Long", "toDays": "Long",
}

// comparable returns the type of an expression, or "" where that is not plain.
func (c *compiler) comparable(n ast.IsNode) string {
	switch v := n.(type) {
	case ast.NodeValue:
		if _, ok := v.Value.(types.Long); ok {
			return "Long"
		}
	case ast.NodeTypeAdd, ast.NodeTypeSub, ast.NodeTypeMult, ast.NodeTypeNegate:
		return "Long"
	case ast.NodeTypeExtensionCall:
		return results[v.Name]
	case ast.NodeTypeAccess:
		if r, _, ok := attribute(n); ok {
			return c.paths[r.path]
		}
	}
	return ""
}
