// Package condition evaluates OpenFGA's conditions, which are CEL expressions over typed parameters.
//
// The meaning is OpenFGA's: a value of the tuple's context wins over the
// request's, a parameter without a value is an error even where the outcome does
// not depend on it, a value that does not fit its parameter is an error. An
// evaluation is bounded by [MaxCost], its inputs by [MaxValues] and [MaxBytes];
// the text that is compiled by [MaxExpression] and [MaxInline].
//
// Refused, where OpenFGA would crash, work for seconds, or go on for ever: numbers
// in strings of more than 64 bytes, numbers that JSON does not have (NaN, Inf),
// text that is not UTF-8, values nested deeper than 64, regular expressions of
// more than 10,000 steps, lists and loops more than 16 deep in each other, more
// than 10,000 iterations, protobuf messages in an expression. What a part of an
// expression costs that fails, without the outcome depending on it, is counted a
// little differently: CEL changed it after the release that OpenFGA uses.
package condition

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	celtypes "cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"bulwark.example/internal/fault"
)

const (
	// MaxCost is what one evaluation may cost, in CEL's units: about one for an
	// operator or a look-up, one for ten bytes of text compared. It is OpenFGA's
	// default, so that a condition which works there works here; it makes an
	// evaluation a matter of microseconds, wherever its text came from.
	MaxCost = 100

	// MaxExpression is how long the expression of a model's condition may be in
	// bytes; OpenFGA's limit on the wire.
	MaxExpression = 512

	// MaxInline is how long a tuple's own expression may be in bytes. OpenFGA
	// limits only the context that carries it (32 KiB), and compiles it again for
	// each evaluation.
	MaxInline = 2048

	maxParameters       = 25  // of a model's condition; OpenFGA's limit on the wire
	maxInlineParameters = 100 // of a tuple's own expression: it cannot pay for more
)

// Condition is a compiled condition. It never changes and is safe for concurrent use.
type Condition struct {
	name, expression string
	inline, loops    bool
	params           map[string]Type
	names            []string // of params, sorted
	types            []Type   // by names
	program          cel.Program
}

// Missing says that parameters have no value in either context.
type Missing struct {
	Condition  string
	Parameters []string // sorted
}

// Error names the condition with the parameters.
func (m *Missing) Error() string {
	return fmt.Sprintf("the condition %s needs values in the context for: %s", quote(m.Condition), clip(strings.Join(m.Parameters, ", ")))
}

// Unwrap gives the error its kind, [fault.Invalid], and its public text.
func (m *Missing) Unwrap() error { return fault.New(fault.Invalid, m.Error()) }

// Compile reads an expression with exactly the declared parameters. Errors are
// [fault.Invalid]: they name line, column, reason.
func Compile(name, expression string, params map[string]Type) (*Condition, error) {
	c := &Condition{name: name, expression: expression, params: maps.Clone(params)}
	switch {
	case len(expression) > MaxExpression:
		return nil, c.invalid("its expression is longer than %d bytes", MaxExpression)
	case len(params) > maxParameters:
		return nil, c.invalid("it has more than %d parameters", maxParameters)
	}
	parsed, err := c.parse()
	if err != nil {
		return nil, err
	}
	if err := c.compile(parsed); err != nil {
		return nil, err
	}
	return c, nil
}

// parse reads the expression's syntax, refusing what cannot be bounded later.
func (c *Condition) parse() (*survey, error) {
	if !utf8.ValidString(c.expression) {
		return nil, c.invalid("its expression is not UTF-8")
	}
	base, err := environment()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "conditions cannot be compiled", err)
	}
	parsed, issues := base.Parse(c.expression)
	if issues.Err() != nil {
		return nil, c.invalid("%s", reason(issues))
	}
	s := &survey{Ast: parsed}
	s.walk(parsed.NativeRep().Expr(), nil, 0)
	switch {
	case s.messages:
		return nil, c.invalid("its expression makes a protobuf message, which is not offered")
	case s.nesting > maxNesting:
		return nil, c.invalid("its lists, maps and loops stand more than %d deep in each other", maxNesting)
	}
	return s, nil
}

// compile checks the types of a parsed expression with the condition's
// parameters, then plans its program.
func (c *Condition) compile(parsed *survey) error {
	base, err := environment()
	if err != nil {
		return fault.Wrap(fault.Internal, "conditions cannot be compiled", err)
	}
	c.names = slices.Sorted(maps.Keys(c.params))
	var declared []cel.EnvOption
	for _, name := range c.names {
		typ := c.params[name]
		if err := typ.valid(0); err != nil {
			return c.invalid("the parameter %s: %s", quote(name), err)
		}
		c.types = append(c.types, typ)
		declared = append(declared, cel.Variable(name, typ.cel()))
	}
	env, err := base.Extend(declared...)
	if err != nil {
		return c.invalid("its parameters cannot be declared: %s", clip(err.Error()))
	}
	checked, issues := env.Check(parsed.Ast)
	switch {
	case issues.Err() != nil:
		return c.invalid("%s", reason(issues))
	case !checked.OutputType().IsExactType(cel.BoolType):
		return c.invalid("its expression is a %s, not a bool", clip(checked.OutputType().String()))
	}
	c.loops = parsed.loops
	if c.program, err = env.Program(checked, parsed.options()...); err != nil {
		return c.invalid("%s", clip(err.Error()))
	}
	return nil
}

// Name returns the condition's name; [InlineName] for a tuple's own expression.
func (c *Condition) Name() string { return c.name }

// Expression returns the CEL text.
func (c *Condition) Expression() string { return c.expression }

// Params returns the parameters that need a value, with their types; of a
// tuple's own expression also those that it only uses. The map is the caller's.
func (c *Condition) Params() map[string]Type { return maps.Clone(c.params) }

// Check reports whether a tuple's context may be stored with the condition: its
// names are parameters, its values fit their types. Errors are
// [fault.Invalid], or [fault.TooLarge]. The context of a tuple's own expression
// was checked by [Inline].
func (c *Condition) Check(stored map[string]any) error {
	if c.inline || len(stored) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if _, ok := c.params[name]; !ok {
			return c.invalid("the context names %s, which is not one of its parameters", quote(name))
		}
		if err := printable(stored[name], 0); err != nil {
			return c.refuse(name, err)
		}
	}
	_, err := c.bind(nil, stored)
	if missing := (*Missing)(nil); errors.As(err, &missing) {
		return nil // the request may bring them
	}
	return err
}

// Eval evaluates the condition: asked is the request's context, stored the
// tuple's, whose values win. An error is never an allow: *[Missing];
// [fault.Invalid] for a value of a wrong type, or one that the expression fails
// on; [fault.TooLarge] for inputs beyond the limits; [fault.Exhausted] beyond
// [MaxCost], or its likes for memory and loops. The context's end is seen before
// an evaluation, not within: these limits make it a matter of milliseconds.
func (c *Condition) Eval(ctx context.Context, asked, stored map[string]any) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	asked, stored = c.contexts(asked, stored)
	if len(c.params) == 0 && len(asked)+len(stored) > 0 {
		return false, c.invalid("it has no parameters, but there is a context") // OpenFGA's rule
	}
	values, err := c.bind(asked, stored)
	if err != nil {
		return false, err
	}
	out, err := c.run(&activation{c.names, values})
	if err != nil {
		return false, c.failed(err)
	}
	met, ok := out.(celtypes.Bool)
	if !ok {
		return false, fault.New(fault.Internal, "the condition "+quote(c.name)+" does not evaluate to a bool")
	}
	return bool(met), nil
}

// run evaluates the program. Some loops cost nothing in CEL's units, so that only
// their iterations bound them: a context that has ended cuts an evaluation off
// where CEL first looks at it, at the iteration [maxIterations].
func (c *Condition) run(in *activation) (out ref.Val, err error) {
	if c.loops {
		out, _, err = c.program.ContextEval(ended(), in)
	} else {
		out, _, err = c.program.Eval(in)
	}
	return out, err
}

// Inputs returns what an evaluation reads from the two contexts, as it came:
// the condition's own parameters that have a value. The map is the caller's, the
// values in it are not.
func (c *Condition) Inputs(asked, stored map[string]any) map[string]any {
	asked, stored = c.contexts(asked, stored)
	inputs := map[string]any{}
	for _, name := range c.names {
		if v, ok := stored[name]; ok {
			inputs[name] = v
		} else if v, ok := asked[name]; ok {
			inputs[name] = v
		}
	}
	return inputs
}

// contexts drops what the condition does not read. The stored context of a
// tuple's own expression is its source; without parameters it reads nothing.
func (c *Condition) contexts(asked, stored map[string]any) (map[string]any, map[string]any) {
	switch {
	case !c.inline:
		return asked, stored
	case len(c.params) == 0:
		return nil, nil
	}
	return asked, nil
}

// bind converts the parameters' values, in the order of the names.
func (c *Condition) bind(asked, stored map[string]any) ([]ref.Val, error) {
	values := make([]ref.Val, len(c.names))
	var missing []string
	var used budget
	for i, name := range c.names {
		v, ok := stored[name]
		if !ok {
			v, ok = asked[name]
		}
		if !ok {
			missing = append(missing, name)
			continue
		}
		var err error
		if values[i], err = c.types[i].convert(v, &used, 0); err != nil {
			return nil, c.refuse(name, err)
		}
	}
	if len(missing) > 0 {
		return nil, &Missing{Condition: c.name, Parameters: missing}
	}
	return values, nil
}

// failed turns CEL's error into ours. Its text may quote stored values, which
// the caller need not be allowed to read: it stays the private cause.
func (c *Condition) failed(err error) error {
	cause := errors.New(clip(err.Error()))
	switch {
	case errors.As(err, new(interpreter.EvalCancelledError)), errors.Is(err, interpreter.InterruptError{}):
		return fault.Wrap(fault.Exhausted, "the condition "+quote(c.name)+" costs too much with these values", cause)
	case errors.As(err, new(*celtypes.Err)):
		return fault.Wrap(fault.Invalid, "the condition "+quote(c.name)+" cannot be evaluated with these values", cause)
	}
	return fault.Wrap(fault.Internal, "the condition "+quote(c.name)+" was not evaluated", cause)
}

// refuse names the parameter whose value was not accepted.
func (c *Condition) refuse(name string, err error) error {
	kind := fault.Invalid
	if errors.Is(err, errTooLarge) {
		kind = fault.TooLarge
	}
	return fault.New(kind, fmt.Sprintf("the condition %s: the parameter %s: %s", quote(c.name), quote(name), err))
}

func (c *Condition) invalid(format string, args ...any) error {
	return fault.New(fault.Invalid, "the condition "+quote(c.name)+": "+fmt.Sprintf(format, args...))
}

// reason gives the first of CEL's complaints with its place in one line.
func reason(issues *cel.Issues) string {
	all := issues.Errors()
	if len(all) == 0 {
		return "its expression is refused"
	}
	at := all[0].Location
	if at.Line() < 1 { // a limit, not a place
		return clip(all[0].Message)
	}
	return clip(fmt.Sprintf("%d:%d: %s", at.Line(), at.Column()+1, all[0].Message))
}

// maxText bounds what a foreign text adds to an error.
const maxText = 200

// clip makes a foreign text fit for one line of an error.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// quote makes a name fit for an error.
func quote(name string) string {
	if len(name) > 50 {
		name = name[:50] + "…"
	}
	return `"` + clip(name) + `"`
}
