package condition

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"bulwark.example/internal/fault"
)

// FuzzCondition compiles any text with any types, then evaluates it on any JSON.
// No input may panic, run long, or be an allow with an error; an error is one of
// the documented kinds.
func FuzzCondition(f *testing.F) {
	for _, seed := range []struct{ expression, typ, asked, stored string }{
		{"x == 'a'", "string", `{"x":"a"}`, `{}`},
		{"x > 5 || y", "int", `{"x":"7","y":true}`, `{"x":"9"}`},
		{"x.in_cidr('10.0.0.0/8')", "ipaddress", `{"x":"::ffff:10.0.0.1"}`, `null`},
		{"x < timestamp('2023-01-01T00:00:00Z') + duration('1h')", "timestamp", `{"x":"2023-01-02T03:04:05Z"}`, `{}`},
		{"x.a.b[0] == 1 && x.exists(k, k == 'a')", "any", `{"x":{"a":{"b":[1]}}}`, `{}`},
		{"x.map(e, [e, e]).map(e, [e, e]) == [] || y", "list<list<any>>", `{"x":[[1,null]]}`, `{"y":false}`},
		{"x.filter(e, x[e] > 1.0) == []", "map<double>", `{"x":{"a":1.5}}`, `{"x":{"a":"1.5"}}`},
		{"x.matches(x)", "string", `{"x":"(a+)+$"}`, `{}`},
		{"1 / x == 1u", "uint", `{"x":0}`, `{"x":-1}`},
		{"[[[[[[x]]]]]] == [", "duration", `{"x":"1h"}`, `[]`},
	} {
		f.Add(seed.expression, seed.typ, []byte(seed.asked), []byte(seed.stored))
	}
	f.Fuzz(func(t *testing.T, expression, typ string, askedJSON, storedJSON []byte) {
		var asked, stored map[string]any
		_ = json.Unmarshal(askedJSON, &asked) // what is no object is no context
		_ = json.Unmarshal(storedJSON, &stored)
		start := time.Now()
		var found []*Condition
		if x, err := ParseType(typ); err == nil {
			c, err := Compile("c", expression, map[string]Type{"x": x, "y": {Name: "bool"}})
			found = append(found, checked(t, c, err)...)
		}
		inline := map[string]any{"expression": expression, "parameters": map[string]any{"x": typ}}
		c, err := Inline(inline)
		found = append(found, checked(t, c, err)...)
		for _, c := range found {
			if err := c.Check(stored); err != nil {
				known(t, err)
			}
			c.Inputs(asked, stored)
			met, err := c.Eval(t.Context(), asked, stored)
			if err == nil {
				if again, err := c.Eval(t.Context(), asked, stored); again != met || err != nil {
					t.Errorf("%v, then %v with %v", met, again, err)
				}
				continue
			}
			known(t, err)
			if met {
				t.Errorf("an allow with an error: %v", err)
			}
			if missing := (*Missing)(nil); errors.As(err, &missing) && len(missing.Parameters) == 0 {
				t.Error("nothing is missing")
			}
		}
		if took := time.Since(start); took > tripwire {
			t.Errorf("took %v", took)
		}
	})
}

func checked(t *testing.T, c *Condition, err error) []*Condition {
	if (c == nil) == (err == nil) {
		t.Fatalf("condition %v with error %v", c, err)
	}
	if err != nil {
		known(t, err)
		return nil
	}
	return []*Condition{c}
}

func known(t *testing.T, err error) {
	switch kind := fault.KindOf(err); kind {
	case fault.Invalid, fault.TooLarge, fault.Exhausted:
	default:
		t.Errorf("error of kind %s: %v", kind, err)
	}
	if text := err.Error(); len(text) > 1500 || bytes.ContainsAny([]byte(text), "\n\r") {
		t.Errorf("an error of %d bytes, or of many lines: %q", len(text), text)
	}
}
