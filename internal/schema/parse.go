package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	openfga "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Bounds on parentheses: the language's parser looks ahead over them again at
// every level, about a millisecond each when they are nested.
const (
	maxNesting     = 8
	maxParentheses = 1000
)

// Parse reads, validates and compiles a model: the language's text, or its JSON
// form, which begins with a brace. Errors name the line of a text and the
// reason: kind [fault.Invalid] for a wrong model, [fault.TooLarge] beyond
// [MaxSource] or a program of more than 65,536 steps. The expressions of
// conditions are checked where they are compiled, not here.
func Parse(source string) (*Model, error) {
	proto, err := Proto(source)
	if err != nil {
		return nil, err
	}
	p := &parser{defs: map[string]map[string]*definition{}, lines: map[name]int{}}
	if !isJSON(source) {
		p.lines = number(source)
	}
	if err := p.read(proto); err != nil {
		return nil, err
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	m := &Model{id: ID(source), source: source, types: p.types, conditions: p.conditions}
	if err := p.compile(m); err != nil {
		return nil, err
	}
	return m, nil
}

// Proto returns the source in OpenFGA's wire form, without validating what it
// says. Errors: as [Parse]'s about size, form and syntax.
func Proto(source string) (*openfga.AuthorizationModel, error) {
	switch {
	case len(source) > MaxSource && !isJSON(source), len(source) > maxJSON:
		return nil, errLarge
	case isJSON(source):
		return parseJSON(source)
	}
	if line := strangeLine(source); line > 0 {
		return nil, errStrange(line)
	}
	return transform(dense(source))
}

func isJSON(source string) bool { return strings.HasPrefix(source, "{") }

// parseJSON reads OpenFGA's JSON form.
func parseJSON(source string) (*openfga.AuthorizationModel, error) {
	m := new(openfga.AuthorizationModel)
	if err := protojson.Unmarshal([]byte(source), m); err != nil {
		return nil, fault.Wrap(fault.Invalid, "the model is not an authorization model in JSON: "+reason(err.Error()), err)
	}
	if proto.Size(m) > MaxSource {
		return nil, errLarge
	}
	return m, nil
}

var errLarge = fault.New(fault.TooLarge, fmt.Sprintf("the model is larger than %d bytes", MaxSource))

// Source spells a model of the wire as a source for [Parse]: JSON with sorted
// keys, so that equal models have equal ids. The model's own id is left out.
// Kind [fault.TooLarge] beyond [MaxSource].
func Source(m *openfga.AuthorizationModel) (string, error) {
	raw, err := protojson.Marshal(&openfga.AuthorizationModel{
		SchemaVersion: m.GetSchemaVersion(), TypeDefinitions: m.GetTypeDefinitions(), Conditions: m.GetConditions(),
	})
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "the model is not valid UTF-8", err)
	}
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		return "", fault.Wrap(fault.Internal, "a model does not encode", err)
	}
	if raw, err = json.Marshal(members); err != nil {
		return "", fault.Wrap(fault.Internal, "a model does not encode", err)
	}
	if len(raw) > maxJSON {
		return "", errLarge
	}
	return string(raw), nil
}

func errStrange(line int) error {
	return invalid(line, "the text must be UTF-8 without control characters, with at most %d parentheses, %d deep", maxParentheses, maxNesting)
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
	return nil, syntaxFault(err, number)
}

// syntaxFault words the first error of the language's parser.
func syntaxFault(err error, number []int) error {
	first := err
	var many *transformer.OpenFgaDslSyntaxMultipleError
	if errors.As(err, &many) && len(many.Errors) > 0 {
		first = many.Errors[0]
	}
	if parts := syntaxError.FindStringSubmatch(first.Error()); parts != nil {
		line, _ := strconv.Atoi(parts[1]) // counted from 0 there
		if line < len(number) {
			return invalid(number[line], "%s", reason(parts[3]))
		}
		return invalid(1, "%s", reason(parts[3]))
	}
	return fault.Wrap(fault.Invalid, "the model cannot be read: its syntax is broken", err)
}

// reason makes the parser's message fit for one line.
func reason(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// invalid words an error; line is 0 for a model without lines.
func invalid(line int, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if line > 0 {
		text = fmt.Sprintf("line %d: %s", line, text)
	}
	return fault.New(fault.Invalid, text)
}

type definition struct {
	typ, name    string
	rewrite      Rewrite
	restrictions []Restriction
	line         int
}

type parser struct {
	lines      map[name]int
	types      []string
	defs       map[string]map[string]*definition // a known type has a non-nil map
	conditions []Condition                       // sorted by name
	programs   map[*definition]*Program
	operands   map[*Rewrite][]*Program
	steps      int // compiled so far
}

// read turns the proto into definitions.
func (p *parser) read(proto *openfga.AuthorizationModel) error {
	switch v := proto.GetSchemaVersion(); v {
	case "1.1", "1.2":
	case "":
		return invalid(p.line("", ""), "the model must begin with 'model' and 'schema 1.1' or 'schema 1.2'; a module is read together with its fga.mod")
	default:
		return invalid(p.line("", ""), "schema version %s is not known; use 1.1 or 1.2", reason(v))
	}
	if len(proto.GetTypeDefinitions()) == 0 {
		return invalid(p.line("", ""), "the model defines no type")
	}
	if err := p.readConditions(proto); err != nil {
		return err
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
		for _, rel := range slices.Sorted(maps.Keys(td.GetRelations())) {
			d, err := p.readRelation(td, rel, td.GetRelations()[rel])
			if err != nil {
				return err
			}
			p.defs[typ][rel] = d
		}
		for _, rel := range slices.Sorted(maps.Keys(td.GetMetadata().GetRelations())) {
			if p.defs[typ][rel] == nil {
				return invalid(line, "the type %s has types for the relation %s, which it does not define", clip(typ), clip(rel))
			}
		}
	}
	return nil
}

func (p *parser) readRelation(td *openfga.TypeDefinition, rel string, set *openfga.Userset) (*definition, error) {
	line := p.line(td.GetType(), rel)
	if rel == "self" || rel == "this" || !relation.ValidRelation(rel) {
		return nil, invalid(line, "%s cannot be the name of a relation", clip(rel))
	}
	d := &definition{typ: td.GetType(), name: rel, line: line}
	var err error
	if d.rewrite, err = d.convert(set, 0); err != nil {
		return nil, err
	}
	for _, ref := range td.GetMetadata().GetRelations()[rel].GetDirectlyRelatedUserTypes() {
		r := Restriction{Type: ref.GetType(), Relation: ref.GetRelation(), Wildcard: ref.GetWildcard() != nil, Condition: ref.GetCondition()}
		if ref.GetRelationOrWildcard() != nil && !r.Wildcard && r.Relation == "" {
			return nil, invalid(line, "%s#%s accepts a userset of %s without a relation", clip(d.typ), clip(rel), clip(r.Type))
		}
		if !slices.Contains(d.restrictions, r) {
			d.restrictions = append(d.restrictions, r)
		}
	}
	return d, nil
}

func (p *parser) readConditions(proto *openfga.AuthorizationModel) error {
	for _, key := range slices.Sorted(maps.Keys(proto.GetConditions())) {
		c := proto.GetConditions()[key]
		if key != c.GetName() {
			return invalid(p.line("", ""), "the condition %s has the name %s", clip(key), clip(c.GetName()))
		}
		if !relation.ValidRelation(key) {
			return invalid(p.line("", ""), "%s cannot be the name of a condition", clip(key))
		}
		out := Condition{Name: key, Expression: c.GetExpression(), Parameters: map[string]string{}}
		for name, typ := range c.GetParameters() {
			out.Parameters[name] = typeText(typ, 0)
		}
		p.conditions = append(p.conditions, out)
	}
	return nil
}

// typeText spells a parameter's type as the language does: list<string>.
func typeText(t *openfga.ConditionParamTypeRef, depth int) string {
	text := strings.ToLower(strings.TrimPrefix(t.GetTypeName().String(), "TYPE_NAME_"))
	if len(t.GetGenericTypes()) == 0 || depth == maxNesting {
		return text
	}
	var of []string
	for _, g := range t.GetGenericTypes() {
		of = append(of, typeText(g, depth+1))
	}
	return text + "<" + strings.Join(of, ", ") + ">"
}

// maxRewrite is how deep operators may be nested in one definition.
const maxRewrite = 25

func (d *definition) convert(set *openfga.Userset, depth int) (Rewrite, error) {
	if depth == maxRewrite {
		return Rewrite{}, invalid(d.line, "%s#%s nests its operators deeper than %d", clip(d.typ), clip(d.name), maxRewrite)
	}
	switch u := set.GetUserset().(type) {
	case *openfga.Userset_This:
		return Rewrite{Op: Direct}, nil
	case *openfga.Userset_ComputedUserset:
		return Rewrite{Op: Computed, Relation: u.ComputedUserset.GetRelation()}, nil
	case *openfga.Userset_TupleToUserset:
		return Rewrite{
			Op:       FromTuple,
			Relation: u.TupleToUserset.GetComputedUserset().GetRelation(),
			Tupleset: u.TupleToUserset.GetTupleset().GetRelation(),
		}, nil
	case *openfga.Userset_Union:
		return d.operator(Union, depth, u.Union.GetChild()...)
	case *openfga.Userset_Intersection:
		return d.operator(All, depth, u.Intersection.GetChild()...)
	case *openfga.Userset_Difference:
		return d.operator(Except, depth, u.Difference.GetBase(), u.Difference.GetSubtract())
	}
	return Rewrite{}, invalid(d.line, "%s#%s has no definition", clip(d.typ), clip(d.name))
}

func (d *definition) operator(op Op, depth int, operands ...*openfga.Userset) (Rewrite, error) {
	if len(operands) < 2 {
		return Rewrite{}, invalid(d.line, "%s#%s has an operator with fewer than two operands", clip(d.typ), clip(d.name))
	}
	r := Rewrite{Op: op}
	for _, child := range operands {
		operand, err := d.convert(child, depth+1)
		if err != nil {
			return Rewrite{}, err
		}
		r.Operands = append(r.Operands, operand)
	}
	return r, nil
}

var (
	typeLine   = regexp.MustCompile(`^\s*type\s+(\S+)`)
	defineLine = regexp.MustCompile(`^\s*define\s+([^\s:]+)\s*:`)
)

// number finds the line, from 1, of each definition. Of a name that is defined
// twice it keeps the last.
func number(dsl string) map[name]int {
	lines := map[name]int{{}: 1}
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

// line returns where the type, or the relation if it is not "", is defined; 0
// for a model without lines.
func (p *parser) line(typ, rel string) int {
	if len(p.lines) == 0 {
		return 0
	}
	return max(1, p.lines[name{typ, rel}])
}
