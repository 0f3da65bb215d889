package policy

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
)

// read is an attribute that a policy looks at: its dotted path from the
// variable, and for a list the item that it is asked to contain.
type read struct {
	path, item string
	contains   bool
}

// key is the name under which the policy finds it, see [flat].
func (r read) key() types.String {
	if r.contains {
		return types.String(r.path + " contains " + r.item)
	}
	return types.String(r.path)
}

// flat replaces each attribute by one of the same value in the context:
// principal.id by context["principal.id"], and what a list contains by a
// boolean. Making a Cedar record costs ten times what evaluating a policy
// does, and a set half of that, so a question makes one record, of what its
// candidates read and no more. [compiler.inspect] refuses what hides the
// attributes that it reads; TestFlatIsCedar compares with Cedar unaltered.
func flat(n ast.IsNode) ast.IsNode {
	r, has, ok := attribute(n)
	switch {
	case !ok:
		return nil
	case has:
		return ast.Context().Has(r.key()).AsIsNode()
	}
	return ast.Context().Access(r.key()).AsIsNode()
}

// wantsRelations is the attribute that the caller of Decide cannot fill without
// knowing which relations are looked for.
const wantsRelations = "context.verified.relations"

// inspect adds what the policy reads, and the relations that it looks for. The
// answer is what is wrong: an unknown attribute or one read in a way that hides
// its name.
func (c *compiler) inspect(p *ast.Policy, reads map[read]bool, asks map[string]bool) (reason string) {
	for _, cond := range p.Conditions {
		ast.Inspect(ast.NewNode(cond.Body), func(n ast.IsNode) bool {
			if reason != "" {
				return false
			}
			if r, has, ok := attribute(n); ok {
				if _, known := c.paths[r.path]; !known {
					reason = "unknown attribute " + r.path
				}
				if r.path == wantsRelations && !has && !r.contains {
					reason = `ask ` + r.path + ` by contains("name") with the name written out`
				}
				if r.path == wantsRelations && r.contains {
					asks[r.item] = true
				}
				reads[r] = true
				return false
			}
			reason = c.compares(n)
			switch v := n.(type) {
			case ast.NodeTypeVariable:
				if v.Name == "context" {
					reason = "context is read attribute by attribute, as context.verified.time"
				}
			case ast.NodeTypeAccess, ast.NodeTypeHas, ast.NodeTypeGetTag, ast.NodeTypeHasTag:
				reason = "attributes are read from principal, resource or context by their full path"
			}
			return true
		})
	}
	return reason
}

// attribute recognizes an access, a `has` or a contains("…") of an attribute of
// a variable.
func attribute(n ast.IsNode) (r read, has, ok bool) {
	if c, ok := n.(ast.NodeTypeContains); ok {
		v, _ := c.Right.(ast.NodeValue)
		item, literal := v.Value.(types.String)
		if !literal {
			return read{}, false, false
		}
		if _, access := c.Left.(ast.NodeTypeAccess); !access {
			return read{}, false, false
		}
		r, _, ok := attribute(c.Left)
		return read{r.path, string(item), true}, false, ok
	}
	var parts []string
	if h, ok := n.(ast.NodeTypeHas); ok {
		has = true
		parts = append(parts, string(h.Value))
		n = h.Arg
	}
	for {
		switch v := n.(type) {
		case ast.NodeTypeAccess:
			parts = append(parts, string(v.Value))
			n = v.Arg
			continue
		case ast.NodeTypeVariable:
			if len(parts) == 0 {
				return read{}, false, false
			}
			parts = append(parts, string(v.Name))
			slices.Reverse(parts)
			return read{path: strings.Join(parts, ".")}, has, true
		}
		return read{}, false, false
	}
}

// knownPaths lists every attribute that a policy may read, with its type where
// that can be compared and is the same everywhere.
func knownPaths(v *Vocabulary) map[string]string {
	paths := map[string]string{"principal.id": "", "principal.tenant": "", "principal.roles": "", "resource.id": ""}
	for _, a := range verifiedAttrs {
		paths["context.verified."+a.name] = comparableTypes[a.typ]
	}
	declare := func(section string, claimed map[string]Kind) {
		for name, kind := range claimed {
			typ := comparableTypes[kinds[kind]]
			if other, ok := paths[section+name]; ok && other != typ {
				typ = ""
			}
			paths[section+name] = typ
		}
	}
	declare("context.claimed.", v.Claimed)
	for _, t := range v.Types {
		declare("principal.claimed.", t.Claimed)
		declare("resource.claimed.", t.Claimed)
	}
	return paths
}

// comparableTypes are those that < is for.
var comparableTypes = map[sast.IsType]string{sast.Long(): "Long", sast.Datetime(): "datetime"}
