package condition

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
)

func TestInline(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	many := m{}
	for i := range maxInlineParameters + 1 {
		many[fmt.Sprint("p", i)] = "int"
	}
	for _, c := range []struct {
		name   string
		stored m
		text   string
		params map[string]string
	}{
		{"declared", m{"expression": "channel == 'X'", "parameters": m{"channel": "string"}}, "", map[string]string{"channel": "string"}},
		{"undeclared ones are strings", m{"expression": "channel == 'X' && n > 1", "parameters": m{"n": "int"}}, "", map[string]string{"channel": "string", "n": "int"}},
		{"declared and not used", m{"expression": "true", "parameters": m{"n": "list<int>"}}, "", map[string]string{"n": "list<int>"}},
		{"none", m{"expression": "true"}, "", map[string]string{}},
		{"no parameters", m{"expression": "true", "parameters": m{}}, "", map[string]string{}},
		{"a loop's variable is none", m{"expression": "[1, 2].exists(x, x > 0)"}, "", map[string]string{}},
		{"a name inside and outside of a loop", m{"expression": "['a'].exists(x, x == y) && x == 'a'"}, "", map[string]string{"x": "string", "y": "string"}},
		{"the range of a loop", m{"expression": "l.exists(x, x == 'a')", "parameters": m{"l": "list<string>"}}, "", map[string]string{"l": "list<string>"}},
		{"nested loops", m{"expression": "['a'].all(x, ['b'].all(y, x + y == z))"}, "", map[string]string{"z": "string"}},
		{"everywhere", m{"expression": "{a: b}[c] == (d == e ? f : g.substr()) || has(h.i) || [j] == []", "parameters": m{"h": "map<any>"}}, "undeclared reference to 'substr'", nil},
		{"everywhere, well", m{"expression": "{a: b}[c] == (d == e ? f : g) || has(h.i) || [j] == [] || k.startsWith(l)", "parameters": m{"h": "map<any>"}}, "",
			map[string]string{"a": "string", "b": "string", "c": "string", "d": "string", "e": "string", "f": "string", "g": "string", "h": "map<any>", "j": "string", "k": "string", "l": "string"}},
		{"the reserved names", m{"expression": "expression == parameters"}, "", map[string]string{"expression": "string", "parameters": "string"}},
		{"no expression", m{}, `needs a text under "expression"`, nil},
		{"empty", m{"expression": ""}, `needs a text under "expression"`, nil},
		{"not a text", m{"expression": 5.0}, `needs a text under "expression"`, nil},
		{"syntax", m{"expression": "channel =="}, "1:11: Syntax error", nil},
		{"unknown type", m{"expression": "x == 1", "parameters": m{"x": "bigdecimal"}}, `the type "bigdecimal" is unknown`, nil},
		{"not a type", m{"expression": "x == 1", "parameters": m{"x": 5.0}}, `the type "" is unknown`, nil},
		{"no element type", m{"expression": "size(x) > 0", "parameters": m{"x": "map"}}, "needs an element type", nil},
		{"malformed type", m{"expression": "size(x) > 0", "parameters": m{"x": "map<int"}}, "malformed", nil},
		{"parameters are no map", m{"expression": "true", "parameters": "x"}, "must be a map", nil},
		{"parameters are null", m{"expression": "true", "parameters": nil}, "must be a map", nil},
		{"types do not match", m{"expression": "n == 'a'", "parameters": m{"n": "int"}}, "found no matching overload", nil},
		{"no bool", m{"expression": "x"}, "not a bool", nil},
		{"control characters", m{"expression": "true &&\ntrue"}, "control characters", nil},
		{"control characters elsewhere", m{"expression": "true", "other": []any{"\x00"}}, "control characters", nil},
		{"utf8", m{"expression": "'\xff' == ''"}, "not UTF-8", nil},
		{"long", m{"expression": "true //" + strings.Repeat("x", MaxInline)}, "longer than 2048 bytes", nil},
		{"huge", m{"expression": strings.Repeat("(", 10<<20)}, "longer than 2048 bytes", nil},
		{"many parameters", m{"expression": "true", "parameters": many}, "more than 100 parameters", nil},
		{"many variables", m{"expression": strings.Join(names(maxInlineParameters+1), "==''||") + "==''"}, "more than 100 parameters", nil},
	} {
		cond, err := Inline(c.stored)
		want(t, err, fault.Invalid, c.text)
		if (cond == nil) != (c.text != "") {
			t.Errorf("%s: a condition with an error, or neither", c.name)
		}
		if cond == nil {
			continue
		}
		got := map[string]string{}
		for name, typ := range cond.Params() {
			got[name] = typ.String()
		}
		if diff := cmp.Diff(c.params, got); diff != "" || cond.Name() != InlineName {
			t.Errorf("%s: %s %s", c.name, cond.Name(), diff)
		}
		want(t, cond.Check(c.stored), 0, "")
	}
}

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint("v", i))
	}
	return out
}

// The cases at the end of OpenFGA's abac_tests.yaml.
func TestInlineEval(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	for _, c := range []struct {
		expression string
		params     m
		asked      m
		met        bool
		missing    string
	}{
		{"channel_id == 'X123456'", m{"channel_id": "string"}, m{"channel_id": "X123456"}, true, ""},
		{"channel_id == 'X123456'", m{"channel_id": "string"}, m{"channel_id": "WRONG"}, false, ""},
		{"channel_id == 'X123456'", m{"channel_id": "string"}, nil, false, "channel_id"},
		{"env == 'prod'", nil, m{"env": "prod"}, true, ""},
		{"env == 'prod'", nil, m{"env": "staging", "other": 1.0}, false, ""},
		{"true", nil, m{"other": 1.0}, true, ""}, // not OpenFGA's rule for a model's condition
		{"count > 5", m{"count": "int"}, m{"count": 10.0}, true, ""},
		{"count > 5", m{"count": "int"}, m{"count": 3.0}, false, ""},
		{`ts < timestamp("2023-10-11T10:00:00.000Z")`, m{"ts": "timestamp"}, m{"ts": "2023-10-11T09:00:00.000Z"}, true, ""},
		{`ip.in_cidr("10.0.0.0/8")`, m{"ip": "ipaddress"}, m{"ip": "10.1.2.3"}, true, ""},
		{`ip.in_cidr("10.0.0.0/8")`, m{"ip": "ipaddress"}, m{"ip": "192.168.1.1"}, false, ""},
		{"expression == 'x'", nil, nil, false, "expression"}, // what the tuple stores is no input
	} {
		stored := m{"expression": c.expression, "x": "x", "env": "prod"}
		if c.params != nil {
			stored["parameters"] = c.params
		}
		cond, err := Inline(stored)
		if err != nil {
			t.Fatal(err)
		}
		met, err := cond.Eval(t.Context(), c.asked, stored)
		missing := (*Missing)(nil)
		if errors.As(err, &missing) != (c.missing != "") || c.missing == "" && err != nil {
			t.Errorf("%s with %v: %v", c.expression, c.asked, err)
		}
		if missing != nil && strings.Join(missing.Parameters, ", ") != c.missing || met != c.met {
			t.Errorf("%s with %v: %v, %v", c.expression, c.asked, met, err)
		}
	}
}
