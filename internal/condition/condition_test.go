package condition

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
)

func compile(tb testing.TB, expression string, params map[string]string) *Condition {
	tb.Helper()
	typed := map[string]Type{}
	for name, text := range params {
		typ, err := ParseType(text)
		if err != nil {
			tb.Fatal(err)
		}
		typed[name] = typ
	}
	c, err := Compile("c", expression, typed)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// want checks an error's kind with a part of its public text; "" means none.
func want(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	switch {
	case text == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case text == "":
	case err == nil:
		t.Errorf("no error, want %s: %s", kind, text)
	case fault.KindOf(err) != kind || !strings.Contains(fault.Public(err), text):
		t.Errorf("error %s: %s\nwant  %s: …%s…", fault.KindOf(err), fault.Public(err), kind, text)
	case strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 1000:
		t.Errorf("the error is not one short line: %q", err.Error())
	}
}

func TestCompileErrors(t *testing.T) {
	t.Parallel()
	list := &Type{Name: "list"}
	list.Of = list
	many := map[string]Type{}
	for i := range maxParameters + 1 {
		many["p"+strings.Repeat("x", i)] = Type{Name: "int"}
	}
	for _, c := range []struct {
		name, expression string
		params           map[string]Type
		text             string
	}{
		{"ok", "x == 'a'", map[string]Type{"x": {Name: "string"}}, ""},
		{"no parameters", "true", nil, ""},
		{"undeclared", "x ==\n  'a' && foo", map[string]Type{"x": {Name: "string"}}, `the condition "undeclared": 2:10: undeclared reference to 'foo'`},
		{"syntax", "x ==", map[string]Type{"x": {Name: "string"}}, "1:5: Syntax error"},
		{"types", "x == 1", map[string]Type{"x": {Name: "string"}}, "1:3: found no matching overload for '_==_' applied to '(string, int)'"},
		{"no bool", "x", map[string]Type{"x": {Name: "string"}}, "is a string, not a bool"},
		{"dyn", "x.y", map[string]Type{"x": {Name: "any"}}, "not a bool"},
		{"empty", "", nil, "Syntax error"},
		{"unknown type", "true", map[string]Type{"x": {Name: "int32"}}, `the parameter "x": the type "int32" is unknown`},
		{"list without elements", "true", map[string]Type{"x": {Name: "list"}}, "needs an element type, as in list<any>"},
		{"scalar with elements", "true", map[string]Type{"x": {Name: "int", Of: &Type{Name: "int"}}}, "the type int has no element type"},
		{"endless type", "true", map[string]Type{"x": *list}, "nested deeper than 8"},
		{"parameters", "true", many, "more than 25 parameters"},
		{"constant", "timestamp('yesterday') > timestamp('2020-01-01T00:00:00Z')", nil, "invalid RFC 3339 timestamp"},
		{"pattern", "'a'.matches('(')", nil, "missing closing )"},
		{"ipaddress of a bool", "ipaddress(true).in_cidr('10.0.0.0/8')", nil, "found no matching overload for 'ipaddress'"},
		{"message", "google.protobuf.BoolValue{value: true} == true", nil, "protobuf message"},
		{"utf8", "'\xff' == 'a'", nil, "not UTF-8"},
		{"long", "'" + strings.Repeat("a", MaxExpression) + "' == ''", nil, "longer than 512 bytes"},
		{"huge", strings.Repeat("a||", 10<<20/3) + "a", nil, "longer than 512 bytes"},
		{"\xff\n" + strings.Repeat("n", 200), "", nil, "Syntax error"},
	} {
		_, err := Compile(c.name, c.expression, c.params)
		want(t, err, fault.Invalid, c.text)
	}
}

func TestAccessors(t *testing.T) {
	t.Parallel()
	c := compile(t, "x in y && size(z) > 0", map[string]string{"x": "string", "y": "list<string>", "z": "map<list<any>>"})
	if c.Name() != "c" || c.Expression() != "x in y && size(z) > 0" {
		t.Errorf("name %q, expression %q", c.Name(), c.Expression())
	}
	delete(c.Params(), "x") // the caller's copy
	got := map[string]string{}
	for name, typ := range c.Params() {
		got[name] = typ.String()
	}
	if diff := cmp.Diff(map[string]string{"x": "string", "y": "list<string>", "z": "map<list<any>>"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestContexts(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	params := map[string]string{"a": "string", "b": "string"}
	for _, c := range []struct {
		name, expression string
		asked, stored    m
		met              bool
		missing          string
	}{
		{"both from the request", "a == '1' && b == '2'", m{"a": "1", "b": "2"}, nil, true, ""},
		{"both from the tuple", "a == '1' && b == '2'", nil, m{"a": "1", "b": "2"}, true, ""},
		{"one from each", "a == '1' && b == '2'", m{"a": "1"}, m{"b": "2"}, true, ""},
		{"the tuple wins", "a == '1' && b == '2'", m{"a": "1", "b": "forged"}, m{"b": "2"}, true, ""},
		{"the tuple wins, with another type in the request", "a == '1' && b == '2'", m{"a": "1", "b": 5.0}, m{"b": "2"}, true, ""},
		{"false", "a == '1' && b == '2'", m{"a": "1"}, m{"b": "3"}, false, ""},
		{"foreign names are not read", "a == b", m{"a": "1", "c": make(chan int)}, m{"b": "1", "d": 1.0}, true, ""},
		{"nothing", "a == b", nil, nil, false, "a, b"},
		{"one missing", "a == b", m{"a": "1"}, nil, false, "b"},
		// OpenFGA's rule: a parameter without a value is an error, though CEL could
		// decide without it.
		{"missing beside true", "a == '1' || b == '2'", m{"a": "1"}, nil, false, "b"},
		{"missing beside false", "a == '1' && b == '2'", m{"a": "2"}, nil, false, "b"},
		{"missing and not even used", "a == '1'", m{"a": "1"}, nil, false, "b"},
	} {
		met, err := compile(t, c.expression, params).Eval(t.Context(), c.asked, c.stored)
		if c.missing != "" {
			missing := (*Missing)(nil)
			if !errors.As(err, &missing) || strings.Join(missing.Parameters, ", ") != c.missing || missing.Condition != "c" {
				t.Errorf("%s: error %v, want the missing %s", c.name, err, c.missing)
			}
			want(t, err, fault.Invalid, `the condition "c" needs values in the context for: `+c.missing)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if met != c.met {
			t.Errorf("%s: %v", c.name, met)
		}
	}
	none := compile(t, "true", nil)
	if met, err := none.Eval(t.Context(), nil, nil); !met || err != nil {
		t.Errorf("no parameters: %v, %v", met, err)
	}
	_, err := none.Eval(t.Context(), m{"a": "1"}, nil)
	want(t, err, fault.Invalid, "no parameters")
}

// A wrong value is told before a missing one, as OpenFGA does.
func TestWrongBeforeMissing(t *testing.T) {
	t.Parallel()
	c := compile(t, "a == b && b == c", map[string]string{"a": "string", "b": "string", "c": "string"})
	met, err := c.Eval(t.Context(), map[string]any{"b": 1.0}, nil)
	want(t, err, fault.Invalid, `the parameter "b": its value must be string, not this number`)
	if missing := (*Missing)(nil); met || errors.As(err, &missing) {
		t.Error(met, err)
	}
}

func TestRuntimeErrorsAreNeverAllows(t *testing.T) {
	t.Parallel()
	params := map[string]string{"x": "any", "i": "int", "s": "string"}
	values := map[string]any{"x": map[string]any{"a": 1.0}, "i": 0.0, "s": "SECRET"}
	for _, c := range []struct {
		expression string
		met        bool
		text       string
	}{
		{"1 / i == 1", false, "cannot be evaluated"},
		{"1 / i == 1 || true", true, ""}, // CEL: the outcome does not depend on it
		{"1 / i == 1 && false", false, ""},
		{"!(1 / i == 1)", false, "cannot be evaluated"},
		{"x.b == 1", false, "cannot be evaluated"},
		{"has(x.b)", false, ""},
		{"x > 5", false, "cannot be evaluated"},
		{"9223372036854775807 + i + 1 > 0", false, "cannot be evaluated"},
		{"[1][i + 1] == 1", false, "cannot be evaluated"},
		{"timestamp(s) > timestamp('2020-01-01T00:00:00Z')", false, "cannot be evaluated"},
		{"ipaddress(s).in_cidr('10.0.0.0/8')", false, "cannot be evaluated"},
		{"ipaddress('10.0.0.1').in_cidr(s)", false, "cannot be evaluated"},
		{"s.matches('(' + s)", false, "cannot be evaluated"},
	} {
		met, err := compile(t, c.expression, params).Eval(t.Context(), values, nil)
		want(t, err, fault.Invalid, c.text)
		if met != c.met {
			t.Errorf("%s: %v, %v", c.expression, met, err)
		}
		if err != nil && strings.Contains(fault.Public(err), "SECRET") {
			t.Errorf("%s: the public text has a stored value: %s", c.expression, fault.Public(err))
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	c := compile(t, "a == 'x' && l.size() == 1 && y != null", map[string]string{"a": "string", "l": "list<string>", "y": "any"})
	deep := any("x")
	for range maxDepth + 1 {
		deep = []any{deep}
	}
	for _, x := range []struct {
		stored m
		kind   fault.Kind
		text   string
	}{
		{nil, 0, ""},
		{m{}, 0, ""},
		{m{"a": "1"}, 0, ""}, // the request brings the rest
		{m{"a": "1", "l": []any{"x"}, "y": m{"z": nil}}, 0, ""},
		{m{"a": 1.0}, fault.Invalid, `the parameter "a": its value must be string, not this number`},
		{m{"a": nil}, fault.Invalid, "not this null"},
		{m{"b": "1"}, fault.Invalid, `the context names "b", which is not one of its parameters`},
		{m{"b\n" + strings.Repeat("x", 99): "1"}, fault.Invalid, "is not one of its parameters"},
		{m{"a": "1\x00"}, fault.Invalid, "control characters"},
		{m{"l": []any{"1\n"}}, fault.Invalid, "control characters"},
		{m{"y": m{"k\t": 1.0}}, fault.Invalid, "control characters"},
		{m{"y": m{"k": "\u0085"}}, fault.Invalid, "control characters"},
		{m{"a": "\xff"}, fault.Invalid, "not UTF-8"},
		{m{"y": m{"\xff": 1.0}}, fault.Invalid, "not UTF-8"},
		{m{"y": deep}, fault.Invalid, "nested deeper than 64"},
		{m{"y": struct{}{}}, fault.Invalid, "JSON does not have"},
		{m{"a": strings.Repeat("x", MaxBytes+1)}, fault.TooLarge, "too large"},
		{m{"l": make([]any, MaxValues+1)}, fault.TooLarge, "too large"},
	} {
		want(t, c.Check(x.stored), x.kind, x.text)
	}
	want(t, compile(t, "true", nil).Check(m{"a": "1"}), fault.Invalid, "not one of its parameters")
}

func TestInputs(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	c := compile(t, "a == b && n > 1", map[string]string{"a": "string", "b": "string", "n": "int"})
	got := c.Inputs(m{"a": "1", "b": "asked", "other": "not ours"}, m{"b": "stored", "n": "7", "older": true})
	if diff := cmp.Diff(m{"a": "1", "b": "stored", "n": "7"}, got); diff != "" {
		t.Error(diff)
	}
	if got := c.Inputs(nil, nil); got == nil || len(got) != 0 {
		t.Errorf("no contexts: %v", got)
	}
	own, err := Inline(m{"expression": "channel == 'x'"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m{"channel": "y"}, own.Inputs(m{"channel": "y", "z": 1.0}, m{"expression": "channel == 'x'", "channel": "stored"})); diff != "" {
		t.Error(diff)
	}
}

func TestEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	met, err := compile(t, "true", nil).Eval(ctx, nil, nil)
	if met || !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v, %v", met, err)
	}
}

// One condition serves all questions at once; each sees its own values.
func TestConcurrentEval(t *testing.T) {
	t.Parallel()
	c := compile(t, "l.exists(e, e == a) && a.matches(p)", map[string]string{"a": "string", "l": "list<string>", "p": "string"})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				a := strings.Repeat("x", i)
				met, err := c.Eval(t.Context(), map[string]any{"a": a, "l": []any{"x", "xxx"}}, map[string]any{"p": "^x*$"})
				if err != nil || met != (i == 1 || i == 3) {
					t.Errorf("%q: %v, %v", a, met, err)
					return
				}
			}
		})
	}
	all.Wait()
}
