package condition

import (
	"maps"
	"slices"
)

// InlineName is the name under which a tuple brings its own expression along.
const InlineName = "$expression"

// Inline compiles the expression that a tuple carries in its context: a text
// under "expression", the types of parameters under "parameters" where they are
// not strings. Every variable of the expression is a parameter, and so is each
// one that is declared; their values come from the request alone. Errors:
// [fault.Invalid].
func Inline(stored map[string]any) (*Condition, error) {
	c := &Condition{name: InlineName, inline: true, params: map[string]Type{}}
	c.expression, _ = stored["expression"].(string)
	switch {
	case c.expression == "":
		return nil, c.invalid(`its context needs a text under "expression"`)
	case len(c.expression) > MaxInline:
		return nil, c.invalid("its expression is longer than %d bytes", MaxInline)
	}
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if err := printable(stored[name], 0); err != nil {
			return nil, c.refuse(name, err)
		}
	}
	declared, ok := stored["parameters"].(map[string]any)
	if _, given := stored["parameters"]; given && !ok {
		return nil, c.invalid(`"parameters" in its context must be a map of names to types`)
	}
	if len(declared) > maxInlineParameters {
		return nil, c.invalid("it has more than %d parameters", maxInlineParameters)
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		text, _ := declared[name].(string)
		typ, err := parseType(text, 0)
		if err != nil {
			return nil, c.invalid("the parameter %s: %s", quote(name), err)
		}
		c.params[name] = typ
	}
	parsed, err := c.parse()
	if err != nil {
		return nil, err
	}
	for _, name := range parsed.variables {
		if _, ok := c.params[name]; !ok {
			c.params[name] = Type{Name: "string"}
		}
	}
	if len(c.params) > maxInlineParameters {
		return nil, c.invalid("it has more than %d parameters", maxInlineParameters)
	}
	if err := c.compile(parsed); err != nil {
		return nil, err
	}
	return c, nil
}
