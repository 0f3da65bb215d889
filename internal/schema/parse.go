package schema

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	openfga "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Bounds on parentheses: the language's parser looks ahead over them again at
// every level, about a millisecond each when they are nested.
const (
	maxNesting     = 8
	maxParentheses = 1000
)

// Parse reads, validates and compiles a model. Errors name the line and the
// reason: kind [fault.Invalid] for a wrong model, [fault.Unsupported] for a
// right one with a construct that this version does not evaluate (intersection,
// exclusion, conditions, modules), [fault.TooLarge] beyond [MaxSource] or a
// program of more than 65,536 steps.
func Parse(dsl string) (*Model, error) {
	if len(dsl) > MaxSource {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("the model is larger than %d bytes", MaxSource))
	}
	if line := strangeLine(dsl); line > 0 {
		return nil, invalid(line, "the text must be UTF-8 without control characters, with at most %d parentheses, %d deep", maxParentheses, maxNesting)
	}
	text, numbers := dense(dsl)
	proto, err := transform(text, numbers)
	if err != nil {
		return nil, err
	}
	p := &parser{lines: number(dsl), defs: map[string]map[string]*definition{}}
	if err := p.read(proto); err != nil {
		return nil, err
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	m := &Model{id: ID(dsl), source: dsl, types: p.types}
	if err := p.compile(m); err != nil {
		return nil, err
	}
	return m, nil
}

// strangeLine returns the first line that must not reach the parser; 0 if none.
func strangeLine(dsl string) int {
	if !utf8.ValidString(dsl) {
		return 1
	}
	line, depth, open := 1, 0, 0
	for _, r := range dsl {
		if r == '(' {
			if open++; open > maxParentheses {
				return line
			}
		}
		switch {
		case r == '\n':
			line, depth = line+1, 0
		case r == '(' || r == '[' || r == '{' || r == '<':
			if depth++; depth > maxNesting {
				return line
			}
		case r == ')' || r == ']' || r == '}' || r == '>':
			depth--
		case r < ' ' && r != '\t' && r != '\r', r == 0x7f:
			return line
		}
	}
	return 0
}

// dense drops the lines that say nothing, over which the language's parser
// takes quadratic time, and returns the old number of each line that is left.
func dense(dsl string) (text string, number []int) {
	var kept []string
	for i, line := range strings.Split(dsl, "\n") {
		if s := strings.TrimSpace(line); s != "" && s[0] != '#' {
			kept, number = append(kept, line), append(number, i+1)
		}
	}
	return strings.Join(kept, "\n"), number
}

var syntaxError = regexp.MustCompile(`^syntax error at line=(\d+), column=(\d+): ((?s:.*))$`)

// transform calls the language package. Its tree walker runs over broken trees
// as well and may panic there, which is the text's fault and not ours.
func transform(dsl string, number []int) (proto *openfga.AuthorizationModel, err error) {
	defer func() {
		if r := recover(); r != nil {
			proto, err = nil, fault.Wrap(fault.Invalid, "the model cannot be read: its syntax is broken", fmt.Errorf("%v", r))
		}
	}()
	proto, err = transformer.TransformDSLToProto(dsl)
	if err == nil {
		return proto, nil
	}
	first := err
	var many *transformer.OpenFgaDslSyntaxMultipleError
	if errors.As(err, &many) && len(many.Errors) > 0 {
		first = many.Errors[0]
	}
	if parts := syntaxError.FindStringSubmatch(first.Error()); parts != nil {
		line, _ := strconv.Atoi(parts[1]) // counted from 0 there
		if line < len(number) {
			return nil, invalid(number[line], "%s", reason(parts[3]))
		}
		return nil, invalid(1, "%s", reason(parts[3]))
	}
	return nil, fault.Wrap(fault.Invalid, "the model cannot be read: its syntax is broken", err)
}

// reason makes the parser's message fit for one line.
func reason(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

func invalid(line int, format string, args ...any) error {
	return fault.New(fault.Invalid, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
}

type kind uint8

const (
	this kind = iota + 1
	computed
	fromTuple
	union
)

// rewrite is the right-hand side of a definition.
type rewrite struct {
	kind     kind
	relation string // computed, or what is asked of the tupleset's objects
	tupleset string
	operands []rewrite
}

type definition struct {
	typ, name    string
	rewrite      rewrite
	restrictions []Restriction
	line         int
}

type parser struct {
	lines map[name]int
	types []string
	defs  map[string]map[string]*definition // a known type has a non-nil map
}

// read turns the proto into definitions and refuses what is not evaluated.
func (p *parser) read(proto *openfga.AuthorizationModel) error {
	switch v := proto.GetSchemaVersion(); v {
	case "1.1":
	case "", "1.2":
		return fault.New(fault.Unsupported, "line 1: the model must begin with 'model' and 'schema 1.1'; modules are not supported")
	default:
		return invalid(1, "schema version %s is not known; use 1.1", reason(v))
	}
	if len(proto.GetConditions()) > 0 {
		var names []string
		for c := range proto.GetConditions() {
			names = append(names, c)
		}
		slices.Sort(names)
		return fault.New(fault.Unsupported, "condition "+clip(names[0])+": conditions are not supported by this version")
	}
	if len(proto.GetTypeDefinitions()) == 0 {
		return invalid(1, "the model defines no type")
	}
	for _, td := range proto.GetTypeDefinitions() {
		typ := td.GetType()
		line := p.line(typ, "")
		if p.defs[typ] != nil {
			return invalid(line, "the type %s is defined twice", clip(typ))
		}
		if typ == "self" || typ == "this" || !relation.ValidObject(typ+":x") {
			return invalid(line, "%s cannot be the name of a type", clip(typ))
		}
		p.types = append(p.types, typ)
		p.defs[typ] = map[string]*definition{}
		for rel, set := range td.GetRelations() {
			line := p.line(typ, rel)
			if rel == "self" || rel == "this" || !relation.ValidRelation(rel) {
				return invalid(line, "%s cannot be the name of a relation", clip(rel))
			}
			d := &definition{typ: typ, name: rel, line: line}
			var err error
			if d.rewrite, err = d.convert(set); err != nil {
				return err
			}
			for _, ref := range td.GetMetadata().GetRelations()[rel].GetDirectlyRelatedUserTypes() {
				if ref.GetCondition() != "" {
					return d.unsupported("conditions (with " + clip(ref.GetCondition()) + ")")
				}
				r := Restriction{Type: ref.GetType(), Relation: ref.GetRelation(), Wildcard: ref.GetWildcard() != nil}
				if !slices.Contains(d.restrictions, r) {
					d.restrictions = append(d.restrictions, r)
				}
			}
			p.defs[typ][rel] = d
		}
	}
	return nil
}

func (d *definition) unsupported(construct string) error {
	return fault.New(fault.Unsupported,
		fmt.Sprintf("line %d: %s#%s uses %s, which this version does not evaluate", d.line, clip(d.typ), clip(d.name), construct))
}

func (d *definition) convert(set *openfga.Userset) (rewrite, error) {
	switch u := set.GetUserset().(type) {
	case *openfga.Userset_This:
		return rewrite{kind: this}, nil
	case *openfga.Userset_ComputedUserset:
		return rewrite{kind: computed, relation: u.ComputedUserset.GetRelation()}, nil
	case *openfga.Userset_TupleToUserset:
		return rewrite{
			kind:     fromTuple,
			relation: u.TupleToUserset.GetComputedUserset().GetRelation(),
			tupleset: u.TupleToUserset.GetTupleset().GetRelation(),
		}, nil
	case *openfga.Userset_Union:
		r := rewrite{kind: union}
		for _, child := range u.Union.GetChild() {
			operand, err := d.convert(child)
			if err != nil {
				return rewrite{}, err
			}
			r.operands = append(r.operands, operand)
		}
		return r, nil
	case *openfga.Userset_Intersection:
		return rewrite{}, d.unsupported("intersection (and)")
	case *openfga.Userset_Difference:
		return rewrite{}, d.unsupported("exclusion (but not)")
	}
	return rewrite{}, invalid(d.line, "%s#%s has no definition", clip(d.typ), clip(d.name))
}

var (
	typeLine   = regexp.MustCompile(`^\s*type\s+(\S+)`)
	defineLine = regexp.MustCompile(`^\s*define\s+([^\s:]+)\s*:`)
)

// number finds the line, from 1, of each definition. Of a name that is defined
// twice it keeps the last.
func number(dsl string) map[name]int {
	lines := map[name]int{}
	current := ""
	for i, line := range strings.Split(dsl, "\n") {
		if m := typeLine.FindStringSubmatch(line); m != nil {
			current = m[1]
			lines[name{current, ""}] = i + 1
		} else if m := defineLine.FindStringSubmatch(line); m != nil {
			lines[name{current, m[1]}] = i + 1
		}
	}
	return lines
}

// line returns where the type, or the relation if it is not "", is defined.
func (p *parser) line(typ, rel string) int { return max(1, p.lines[name{typ, rel}]) }
