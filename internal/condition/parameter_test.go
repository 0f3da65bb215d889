package condition

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"bulwark.example/internal/fault"
)

// Every type with values that fit and values that do not. What is met tells
// which value the expression saw. The table was compared with OpenFGA v1.22.1.
func TestParameterTypes(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	type l = []any
	for _, c := range []struct {
		typ, expression string
		value           any
		met             bool
		text            string // of the error
	}{
		{"bool", "x", true, true, ""},
		{"bool", "x", false, false, ""},
		{"bool", "x", "true", false, "must be bool, not this string"},
		{"bool", "x", 1.0, false, "must be bool, not this number"},
		{"bool", "x", nil, false, "must be bool, not this null"},

		{"string", "x == 'é'", "é", true, ""},
		{"string", "x == ''", "", true, ""},
		{"string", "x == '1'", 1.0, false, "must be string, not this number"},
		{"string", "x == ''", nil, false, "must be string, not this null"},
		{"string", "x == ''", l{"a"}, false, "must be string, not this list"},
		{"string", "x == ''", "\xff", false, "not UTF-8"},

		{"int", "x == 10", 10.0, true, ""},
		{"int", "x == 10", "10", true, ""},
		{"int", "x == -10", "-10", true, ""},
		{"int", "x == 1000", "1e3", true, ""},
		{"int", "x == 8", "1p3", true, ""},
		{"int", "x == 0", math.Copysign(0, -1), true, ""},
		{"int", "x == 9223372036854775807", "9223372036854775807", true, ""},
		{"int", "x == 9223372036854775807", 1e30, true, ""}, // the nearest, as in OpenFGA
		{"int", "x == -9223372036854775808", "-1e30", true, ""},
		{"int", "x == 10", 10.5, false, "must be int, not a fraction"},
		{"int", "x == 10", "10.5", false, "must be int, not a fraction"},
		{"int", "x == 10", "Inf", false, "must be int, not a fraction"},
		{"int", "x == 10", "ten", false, "must be int, not this string"},
		{"int", "x == 10", "", false, "must be int, not this string"},
		{"int", "x == 10", "0x10", false, "must be int, not this string"},
		{"int", "x == 10", true, false, "must be int, not this bool"},
		{"int", "x == 10", int64(10), false, "which JSON does not have"},
		{"int", "x == 10", math.NaN(), false, "a number that JSON does not have"},
		{"int", "x == 10", math.Inf(1), false, "a number that JSON does not have"},
		{"int", "x > 0", "1e600000000", true, ""},
		{"int", "x > 0", "1e-600000000", false, "not a fraction"},
		{"int", "x > 0", strings.Repeat("9", maxNumber+1), false, "more than 64 bytes"},

		{"uint", "x == 10u", 10.0, true, ""},
		{"uint", "x == 10u", "10", true, ""},
		{"uint", "x == 9223372036854775807u", 1e30, true, ""}, // OpenFGA takes the nearest int
		{"uint", "x == 10u", -10.0, false, "must be uint, not negative"},
		{"uint", "x == 10u", "-1e600000000", false, "must be uint, not negative"},
		{"uint", "x == 10u", -0.5, false, "must be uint, not a fraction"},

		{"double", "x == 10.5", 10.5, true, ""},
		{"double", "x == 0.1", 0.1, true, ""},
		{"double", "x == 10.5", "10.5", true, ""},
		{"double", "x == 0.1", "0.1", false, "write it as a number"}, // not exactly a double
		{"double", "x > 1e308", "Inf", true, ""},
		{"double", "x > 0.0", "1e400", false, "write it as a number"},
		{"double", "x > 0.0", math.NaN(), false, "a number that JSON does not have"},
		{"double", "x > 0.0", "NaN", false, "must be double, not this string"},
		{"double", "x > 0.0", l{}, false, "must be double, not this list"},

		{"duration", "x == duration('90m')", "1h30m", true, ""},
		{"duration", "x < duration('0s')", "-1.5s", true, ""},
		{"duration", "x == duration('1s')", "1d", false, `a string like "1h30m"`},
		{"duration", "x == duration('1s')", "", false, `a string like "1h30m"`},
		{"duration", "x == duration('1s')", 1.0, false, `a string like "1h30m", not this number`},

		{"timestamp", "x == timestamp('2023-01-02T03:04:05Z')", "2023-01-02T08:34:05+05:30", true, ""},
		{"timestamp", "x.getFullYear() == 2023", "2023-01-02T03:04:05.123456789Z", true, ""},
		{"timestamp", "x.getHours() == 22", "2023-01-02T03:04:05+05:00", true, ""}, // UTC
		{"timestamp", "x.getFullYear() == 2023", "2023-01-02", false, "RFC 3339"},
		{"timestamp", "x.getFullYear() == 2023", 1.0, false, "RFC 3339"},

		{"ipaddress", "x.in_cidr('10.0.0.0/8')", "10.1.2.3", true, ""},
		{"ipaddress", "x.in_cidr('10.0.0.0/8')", "11.1.2.3", false, ""},
		{"ipaddress", "x.in_cidr('10.0.0.0/8')", "::ffff:10.1.2.3", true, ""},
		{"ipaddress", "x.in_cidr('::ffff:10.0.0.0/104')", "10.1.2.3", true, ""},
		{"ipaddress", "x.in_cidr('2001:db8::/32')", "2001:db8::1", true, ""},
		{"ipaddress", "x.in_cidr('0.0.0.0/0')", "2001:db8::1", false, ""},
		{"ipaddress", "x.in_cidr('fe80::/10')", "fe80::1%eth0", false, ""}, // a zone is in no range
		{"ipaddress", "x == ipaddress('10.1.2.3') && type(x) == type(ipaddress('::1')) && dyn(x) != 'a'", "10.1.2.3", true, ""},
		{"ipaddress", "[x].exists(e, e.in_cidr('10.0.0.0/8'))", "10.1.2.3", true, ""},
		{"ipaddress", "x.in_cidr('10.0.0.0/8')", "10.0.0.0/8", false, "an IP address, not this string"},
		{"ipaddress", "x.in_cidr('10.0.0.0/8')", 10.0, false, "an IP address, not this number"},

		{"any", "x == null", nil, true, ""},
		{"any", "x == 'a'", "a", true, ""},
		{"any", "x == 10", 10.0, true, ""},
		{"any", "x.a.b[0] == 1", m{"a": m{"b": l{1.0}}}, true, ""},
		{"any", "x == 1", math.Inf(1), false, "a number that JSON does not have"},
		{"any", "x == 1", l{m{"a": math.NaN()}}, false, "a number that JSON does not have"},
		{"any", "x == 1", int(1), false, "which JSON does not have"},
		{"any", "x == 1", l{m{"a": struct{}{}}}, false, "which JSON does not have"},

		{"map<string>", "x['a'] == 'b' && x.a == 'b'", m{"a": "b"}, true, ""},
		{"map<int>", "x.a == 1", m{"a": "1"}, true, ""},
		{"map<any>", "x.a == null", m{"a": nil}, true, ""},
		{"map<string>", "size(x) == 0", m{}, true, ""},
		{"map<string>", "size(x) == 0", l{}, false, "must be map, not this list"},
		{"map<string>", "size(x) == 0", m{"a": 1.0}, false, "must be string, not this number"},
		{"map<string>", "size(x) == 0", m{"\xff": "a"}, false, "not UTF-8"},

		{"list<string>", "'b' in x", l{"a", "b"}, true, ""},
		{"list<int>", "x[1] == 2", l{1.0, "2"}, true, ""},
		{"list<list<timestamp>>", "x[0][0].getFullYear() == 2023", l{l{"2023-01-02T03:04:05Z"}}, true, ""},
		{"list<string>", "x == []", l{}, true, ""},
		{"list<string>", "x == []", "a", false, "must be list, not this string"},
		{"list<string>", "x == []", l{"a", nil}, false, "must be string, not this null"},
		{"list<ipaddress>", "x.exists(i, i.in_cidr('10.0.0.0/8'))", l{"11.0.0.1", "10.0.0.1"}, true, ""},
	} {
		cond := compile(t, c.expression, map[string]string{"x": c.typ})
		met, err := cond.Eval(t.Context(), map[string]any{"x": c.value}, nil)
		name := fmt.Sprintf("%s: %s with %.40v", c.typ, c.expression, c.value)
		want(t, err, fault.Invalid, c.text)
		if met != c.met || t.Failed() {
			t.Fatalf("%s: %v, %v", name, met, err)
		}
		if (cond.Check(map[string]any{"x": c.value}) == nil) != (c.text == "") {
			t.Errorf("%s: Check and Eval do not agree", name)
		}
	}
}

func TestParseType(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"bool", "ipaddress", "any", "list<any>", "map<list<map<timestamp>>>", "list<list<list<list<list<list<list<list<int>>>>>>>>"} {
		typ, err := ParseType(text)
		if err != nil || typ.String() != text {
			t.Errorf("%s: %s, %v", text, typ, err)
		}
	}
	for _, text := range []string{"", "Bool", "list", "map", "list<", "list>", "list<>", "list<int", "list<int>>", "<int>", "int<int>", "list<int,int>", " int", "unspecified",
		"list<list>", strings.Repeat("list<", 9) + "int" + strings.Repeat(">", 9), strings.Repeat("list<", 1<<20), "\xff"} {
		_, err := ParseType(text)
		if err == nil {
			t.Errorf("%.20q is accepted", text)
			continue
		}
		want(t, err, fault.Invalid, "type")
	}
	endless := &Type{Name: "map"}
	endless.Of = endless
	if s := endless.String(); !strings.HasPrefix(s, "map<map<") || len(s) > 100 {
		t.Errorf("a type that contains itself: %s", s)
	}
}
