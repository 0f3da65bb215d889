// Package spicedb reads what SpiceDB holds in the words of OpenFGA: a schema becomes a model, relationships become tuples.
//
// The syntax is read by SpiceDB's own parser. What OpenFGA's language cannot say
// is refused with its line and never left out or bent: a model that says less may
// deny what it should allow, one that says more may allow what it should deny.
package spicedb

import (
	"fmt"
	"slices"
	"strings"

	"github.com/authzed/spicedb/pkg/schemadsl/dslshape"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/schemadsl/parser"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
)

// maxNesting bounds parentheses and braces: the parser calls itself for each.
const maxNesting = 100

// node is one of the parser's tree.
type node struct {
	kind  dslshape.NodeType
	text  map[string]string
	start int // byte, -1 if the parser did not say
	below map[string][]*node
	order []*node // all below, as they came
}

func newNode(_ input.Source, kind dslshape.NodeType) parser.AstNode {
	return &node{kind: kind, text: map[string]string{}, start: -1, below: map[string][]*node{}}
}

// Connect implements parser.AstNode.
func (n *node) Connect(as string, other parser.AstNode) {
	o := other.(*node) // newNode makes all of them
	n.below[as] = append(n.below[as], o)
	n.order = append(n.order, o)
}

// MustDecorate implements parser.AstNode.
func (n *node) MustDecorate(property, value string) parser.AstNode {
	n.text[property] = value
	return n
}

// MustDecorateWithInt implements parser.AstNode.
func (n *node) MustDecorateWithInt(property string, value int) parser.AstNode {
	if property == dslshape.NodePredicateStartRune {
		n.start = value
	}
	return n
}

func (n *node) one(as string) *node {
	if list := n.below[as]; len(list) > 0 {
		return list[0]
	}
	return &node{kind: dslshape.NodeTypeError, start: n.start, text: map[string]string{}}
}

// Schema is a schema with the model that says the same.
type Schema struct {
	Source string        // in the OpenFGA language
	Model  *schema.Model // of Source

	ends map[string]ends // by "type#relation subject", the subject as the model has it
}

// ends say whether relationships of one kind may end, and whether they may not:
// in SpiceDB one that says "with expiration" alone must.
type ends struct{ with, without bool }

// definition is one type of the schema.
type definition struct {
	name        string
	relations   map[string]*node // and permissions, by name
	permissions map[string]bool
	order       []string
}

// reader translates one schema.
type reader struct {
	text    string
	first   int // number of the text's first line
	defs    map[string]*definition
	order   []string
	caveats map[string]*node
	named   []string // the caveats in order
	out     strings.Builder
	ends    map[string]ends
}

// Parse reads a schema. first is the number of its first line in the file, for
// errors: kind [fault.Invalid] for what is wrong, [fault.Unsupported] for what
// OpenFGA's language cannot say, [fault.TooLarge] beyond OpenFGA's limit.
func Parse(text string, first int) (s *Schema, err error) {
	if len(text) > schema.MaxSource {
		return nil, fault.New(fault.TooLarge, "the schema is larger than 256 KiB")
	}
	defer func() {
		// The parser panics on some texts that it does not expect.
		if p := recover(); p != nil {
			s, err = nil, fault.Wrap(fault.Invalid, "the schema cannot be read: its syntax is broken", fmt.Errorf("%v", p))
		}
	}()
	r := &reader{text: text, first: first, defs: map[string]*definition{}, caveats: map[string]*node{}, ends: map[string]ends{}}
	if at := tooDeep(text); at >= 0 {
		return nil, fault.New(fault.Invalid, fmt.Sprintf("line %d: parentheses stand more than %d deep", r.lineAt(at), maxNesting))
	}
	root := parser.Parse(newNode, input.Source("schema"), text).(*node)
	if err := r.broken(root); err != nil {
		return nil, err
	}
	if err := r.collect(root); err != nil {
		return nil, err
	}
	if err := r.write(); err != nil {
		return nil, err
	}
	s = &Schema{Source: r.out.String(), ends: r.ends}
	if s.Model, err = schema.Parse(s.Source); err != nil {
		return nil, fault.Wrap(fault.Unsupported, "the schema's translation is no model of OpenFGA: "+fault.Public(err), err)
	}
	return s, r.same(s.Model)
}

// same compares the expressions that went into the text with those that came out
// of it: they are the one part that is copied without being understood.
func (r *reader) same(m *schema.Model) error {
	for _, c := range m.Conditions() {
		n := r.caveats[c.Name]
		if n == nil {
			return fault.New(fault.Internal, "a caveat was lost in translation: "+c.Name)
		}
		want := n.one(dslshape.NodeCaveatDefinitionPredicateExpession).text[dslshape.NodeCaveatExpressionPredicateExpression]
		if strings.TrimSpace(want) != strings.TrimSpace(c.Expression) {
			return r.wrong(fault.Unsupported, n, "OpenFGA's language cannot hold the expression of the caveat %s as it is", c.Name)
		}
	}
	if len(m.Conditions()) != len(r.named) {
		return fault.New(fault.Internal, "a caveat was lost in translation")
	}
	return nil
}

// tooDeep returns where the nesting is over the bound, -1 if it nowhere is.
func tooDeep(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '(', '{', '<', '[':
			depth++
		case ')', '}', '>', ']':
			depth--
		}
		if depth > maxNesting {
			return i
		}
	}
	return -1
}

func (r *reader) lineAt(at int) int {
	return r.first + strings.Count(r.text[:min(max(at, 0), len(r.text))], "\n")
}

// line is where a node stands; one that the parser did not place stands where the
// first below it does.
func (r *reader) line(n *node) int {
	for n.start < 0 && len(n.order) > 0 {
		n = n.order[0]
	}
	return r.lineAt(n.start)
}

func (r *reader) wrong(kind fault.Kind, n *node, format string, args ...any) error {
	return fault.New(kind, fmt.Sprintf("line %d: ", r.line(n))+fmt.Sprintf(format, args...))
}

// broken returns the parser's first error.
func (r *reader) broken(root *node) error {
	var first *node
	var walk func(*node)
	walk = func(n *node) {
		if n.kind == dslshape.NodeTypeError && (first == nil || n.start < first.start) {
			first = n
		}
		for _, o := range n.order {
			walk(o)
		}
	}
	walk(root)
	if first == nil {
		return nil
	}
	return r.wrong(fault.Invalid, first, "%s", oneLine(first.text[dslshape.NodePredicateErrorMessage]))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// collect takes the definitions and caveats by name.
func (r *reader) collect(root *node) error {
	for _, n := range root.order {
		switch n.kind {
		case dslshape.NodeTypeComment:
		case dslshape.NodeTypeUseFlag:
			// What a flag allows is refused where it is used and cannot be said.
			if flag := n.text[dslshape.NodeUseFlagPredicateName]; !slices.Contains([]string{"expiration", "typechecking", "self"}, flag) {
				return r.wrong(fault.Unsupported, n, "`use %s` is not known here", flag)
			}
		case dslshape.NodeTypeDefinition:
			if err := r.define(n); err != nil {
				return err
			}
		case dslshape.NodeTypeCaveatDefinition:
			name := n.text[dslshape.NodeCaveatDefinitionPredicateName]
			if err := r.name(n, "caveat", name); err != nil {
				return err
			}
			if r.caveats[name] != nil {
				return r.wrong(fault.Invalid, n, "there is a caveat %s already", name)
			}
			r.caveats[name] = n
			r.named = append(r.named, name)
		default:
			return r.wrong(fault.Unsupported, n, "this cannot be translated")
		}
	}
	if len(r.order) == 0 {
		return fault.New(fault.Invalid, "the schema defines nothing")
	}
	return nil
}

func (r *reader) define(n *node) error {
	d := &definition{name: n.text[dslshape.NodeDefinitionPredicateName], relations: map[string]*node{}, permissions: map[string]bool{}}
	if err := r.name(n, "type", d.name); err != nil {
		return err
	}
	if r.defs[d.name] != nil {
		return r.wrong(fault.Invalid, n, "there is a definition of %s already", d.name)
	}
	for _, c := range n.order {
		if c.kind == dslshape.NodeTypeComment {
			continue
		}
		name := c.text[dslshape.NodePredicateName]
		if c.kind != dslshape.NodeTypeRelation && c.kind != dslshape.NodeTypePermission {
			return r.wrong(fault.Unsupported, c, "this cannot be translated")
		}
		if err := r.name(c, "relation", name); err != nil {
			return err
		}
		if d.relations[name] != nil {
			return r.wrong(fault.Invalid, c, "%s has %s already", d.name, name)
		}
		d.relations[name] = c
		d.permissions[name] = c.kind == dslshape.NodeTypePermission
		d.order = append(d.order, name)
	}
	r.defs[d.name] = d
	r.order = append(r.order, d.name)
	return nil
}

// reserved are the words that OpenFGA's language does not take as names.
var reserved = []string{"self", "this"}

// name refuses what OpenFGA does not take as a name.
func (r *reader) name(n *node, what, name string) error {
	most := 50
	if what == "type" {
		most = 254
	}
	switch {
	case name == "":
		return r.wrong(fault.Invalid, n, "a %s has no name", what)
	case len(name) > most:
		return r.wrong(fault.Unsupported, n, "the name of the %s %s is longer than OpenFGA's %d characters", what, name, most)
	case slices.Contains(reserved, name):
		return r.wrong(fault.Unsupported, n, "OpenFGA reserves the name %s", name)
	case what == "caveat" && strings.Contains(name, "/"):
		return r.wrong(fault.Unsupported, n, "a condition of OpenFGA cannot have a / in its name, as the caveat %s has", name)
	}
	return nil
}

// write writes the model.
func (r *reader) write() error {
	r.out.WriteString("model\n  schema 1.1\n")
	for _, name := range r.order {
		d := r.defs[name]
		fmt.Fprintf(&r.out, "\ntype %s\n", d.name)
		if len(d.order) > 0 {
			r.out.WriteString("  relations\n")
		}
		for _, rel := range d.order {
			n := d.relations[rel]
			var text string
			var err error
			if d.permissions[rel] {
				text, err = r.expression(d, n.one(dslshape.NodePermissionPredicateComputeExpression), false)
			} else {
				text, err = r.subjects(d, rel, n.one(dslshape.NodeRelationPredicateAllowedTypes))
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(&r.out, "    define %s: %s\n", rel, text)
		}
	}
	for _, name := range r.named {
		if err := r.caveat(name, r.caveats[name]); err != nil {
			return err
		}
	}
	return nil
}

// subjects writes the types that a relation takes.
func (r *reader) subjects(d *definition, rel string, types *node) (string, error) {
	var out []string
	for _, n := range types.below[dslshape.NodeTypeReferencePredicateType] {
		name := n.text[dslshape.NodeSpecificReferencePredicateType]
		other := r.defs[name]
		if other == nil {
			return "", r.wrong(fault.Invalid, n, "there is no definition of %s", name)
		}
		text := name
		of := n.text[dslshape.NodeSpecificReferencePredicateRelation]
		switch {
		case n.text[dslshape.NodeSpecificReferencePredicateWildcard] != "":
			text += ":*"
		case of != "" && of != "...":
			if other.relations[of] == nil {
				return "", r.wrong(fault.Invalid, n, "%s has no relation or permission %s", name, of)
			}
			text += "#" + of
		}
		if c := n.below[dslshape.NodeSpecificReferencePredicateCaveat]; len(c) > 0 {
			caveat := c[0].text[dslshape.NodeCaveatPredicateCaveat]
			if r.caveats[caveat] == nil {
				return "", r.wrong(fault.Invalid, n, "there is no caveat %s", caveat)
			}
			text += " with " + caveat
		}
		end := r.ends[d.name+"#"+rel+" "+text]
		if t := n.below[dslshape.NodeSpecificReferencePredicateTrait]; len(t) > 0 {
			if trait := t[0].text[dslshape.NodeTraitPredicateTrait]; trait != "expiration" {
				return "", r.wrong(fault.Unsupported, n, "the trait %s is not known here", trait)
			}
			end.with = true // our tuples can end whatever the model says
		} else {
			end.without = true
		}
		r.ends[d.name+"#"+rel+" "+text] = end
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return "[" + strings.Join(out, ", ") + "]", nil
}
