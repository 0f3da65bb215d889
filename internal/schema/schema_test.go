package schema

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

var update = flag.Bool("update", false, "write the golden files anew")

var ignoreRewrite = cmpopts.IgnoreFields(Relation{}, "Rewrite")

const header = "model\n  schema 1.1\ntype user\n"

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, dsl string
		kind      fault.Kind
		text      string // part of the public text
	}{
		{"empty", "", fault.Invalid, "line 1: "},
		{"no header", "type user\n", fault.Invalid, "line 1: "},
		{"no types", "model\n  schema 1.1\n", fault.Invalid, "no type"},
		{"old schema", "model\n  schema 1.0\ntype user\n", fault.Invalid, "use 1.1"},
		{"module", "module core\ntype user\n", fault.Invalid, "fga.mod"},
		{"bracket", header + "type d\n  relations\n    define a: [user\n", fault.Invalid, "line 6: "},
		{"stray word", header + "type d\n  relation\n    define a: [user]\n", fault.Invalid, "line 5: "},
		{"no definition", header + "type d\n  relations\n    define a:\n", fault.Invalid, "line 6: "},
		{"mixed operators", header + "type d\n  relations\n    define a: [user]\n    define b: [user]\n    define c: a or b and a\n", fault.Invalid, "line 8: "},
		{"two types of a name", header + "type d\n  relations\n    define a: [user]\ntype d\n", fault.Invalid, "line 7: the type d is defined twice"},
		{"two relations of a name", header + "type d\n  relations\n    define a: [user]\n    define a: [user]\n", fault.Invalid, "line 7: 'a' is already defined"},
		{"reserved type", header + "type self\n", fault.Invalid, "line 4: self"},
		{"reserved relation", header + "type d\n  relations\n    define this: [user]\n", fault.Invalid, "line 6: this"},
		{"unknown computed", header + "type d\n  relations\n    define a: b\n", fault.Invalid, "line 6: the type d has no relation b"},
		{"unknown tupleset", header + "type d\n  relations\n    define a: a from p\n", fault.Invalid, "line 6: the type d has no relation p"},
		{"tupleset with rewrite", header + "type d\n  relations\n    define q: [d]\n    define p: [d] or q\n    define a: [user] or a from p\n", fault.Invalid, "line 8: p in 'a from p' must be a direct relation"},
		{"tupleset with userset", header + "type d\n  relations\n    define p: [d, d#a]\n    define a: [user] or a from p\n", fault.Invalid, "line 6: d#p is used as 'from p'"},
		{"tupleset with wildcard", header + "type d\n  relations\n    define p: [d:*]\n    define a: [user] or a from p\n", fault.Invalid, "line 6: d#p"},
		{"nothing at the tupleset's types", header + "type d\n  relations\n    define p: [user]\n    define a: [user] or a from p\n", fault.Invalid, "line 7: none of the types in d#p has a relation a"},
		{"unknown type", header + "type d\n  relations\n    define a: [alien]\n", fault.Invalid, "line 6: the model has no type alien"},
		{"unknown userset", header + "type d\n  relations\n    define a: [user#b]\n", fault.Invalid, "line 6: the type user has no relation b"},
		{"itself", header + "type d\n  relations\n    define a: a\n", fault.Invalid, "line 6: d#a is defined by itself"},
		{"circle", header + "type d\n  relations\n    define a: [user] or b\n    define b: [user] or c\n    define c: a\n", fault.Invalid, "is defined by itself"},
		{"never granted", header + "type d\n  relations\n    define p: [d]\n    define a: a from p\n", fault.Invalid, "line 7: d#a can never be granted"},
		{"never granted userset", header + "type d\n  relations\n    define a: [d#a]\n", fault.Invalid, "line 6: d#a can never be granted"},
		{"never granted in an intersection", header + "type d\n  relations\n    define p: [d]\n    define b: [user] and b from p\n", fault.Invalid, "line 7: d#b can never be granted"},
		{"never granted in an exclusion", header + "type d\n  relations\n    define p: [d]\n    define a: a from p\n    define b: [user] but not a\n", fault.Invalid, "can never be granted"},
		{"circle through an operator", header + "type d\n  relations\n    define a: [user] but not b\n    define b: [user] and a\n", fault.Invalid, "is defined by itself"},
		{"JSON of something else", `{"types": []}`, fault.Invalid, "not an authorization model"},
		{"JSON without a version", `{"type_definitions": [{"type": "user"}]}`, fault.Invalid, "schema 1.1"},
		{"JSON with one operand", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "d", "relations": {"a": {"union": {"child": [{"this": {}}]}}}, "metadata": {"relations": {"a": {"directly_related_user_types": [{"type": "user"}]}}}}]}`, fault.Invalid, "fewer than two"},
		{"JSON with an empty userset", `{"schema_version": "1.1", "type_definitions": [{"type": "user"}, {"type": "d", "relations": {"a": {"this": {}}}, "metadata": {"relations": {"a": {"directly_related_user_types": [{"type": "d", "relation": ""}]}}}}]}`, fault.Invalid, "without a relation"},
		{"JSON with types for nothing", `{"schema_version": "1.1", "type_definitions": [{"type": "user", "metadata": {"relations": {"a": {"directly_related_user_types": [{"type": "user"}]}}}}]}`, fault.Invalid, "does not define"},
		{"deep JSON", `{"schema_version": "1.1", "type_definitions": [{"type": "d", "relations": {"a": ` + strings.Repeat(`{"union": {"child": [{"this": {}}, `, 100) + `{"this": {}}` + strings.Repeat(`]}}`, 100) + `}}]}`, fault.Invalid, "deeper than 25"},
		{"undefined condition", header + "type d\n  relations\n    define a: [user with c]\n", fault.Invalid, "line 6: the model has no condition c"},
		{"control character", header + "type d\x00\n", fault.Invalid, "line 4: "},
		{"not UTF-8", header + "type d\xff\n", fault.Invalid, "UTF-8"},
		{"nested", header + "type d\n  relations\n    define a: [user]\n    define b: " + strings.Repeat("(", 40) + "a" + strings.Repeat(")", 40) + "\n", fault.Invalid, "line 7: "},
		{"many parentheses", header + "type d\n  relations\n    define a: [user]\n" + strings.Repeat("    define b: (((a)))\n", 400), fault.Invalid, "line 340: "},
		{"blank lines", header + strings.Repeat("\n# nothing\n", 20_000) + "x", fault.Invalid, "line 40004: "},
		{"parser bomb", header + strings.Repeat("(", 200_000), fault.Invalid, "line 4: "},
		{"large JSON", `{"schema_version": "1.1", "type_definitions": [{"type": "` + strings.Repeat("x", 4*MaxSource) + `"}]}`, fault.TooLarge, "larger"},
		{"JSON that is large on the wire", `{"schema_version": "1.1", "type_definitions": [{"type": "` + strings.Repeat("x", MaxSource) + `"}]}`, fault.TooLarge, "larger"},
		{"too large", header + strings.Repeat("#", MaxSource), fault.TooLarge, "larger"},
		{"too many includes", header + "type d\n  relations\n    define r0: [user]\n" + chain(700), fault.TooLarge, "65536 steps"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, err := Parse(c.dsl)
			if err == nil || m != nil {
				t.Fatalf("Parse = %v, %v", m, err)
			}
			if got := fault.KindOf(err); got != c.kind || !strings.Contains(fault.Public(err), c.text) {
				t.Errorf("Parse: %v %q, want %v with %q", got, fault.Public(err), c.kind, c.text)
			}
			if strings.ContainsAny(fault.Public(err), "\n\r\x00") || len(fault.Public(err)) > 400 {
				t.Errorf("the text is not one short line: %q", fault.Public(err))
			}
		})
	}
}

func chain(n int) string {
	var b strings.Builder
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "    define r%d: r%d\n", i, i-1)
	}
	return b.String()
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	m, err := Parse(header + `type team
  relations
    define member: [user, team#member] # a comment
type folder
  relations
    define parent: [folder]
    define owner: [user] or owner from parent
    define viewer: [user, user:*, team#member] or (owner or viewer from parent)
type document
  relations
    define parent: [folder, team]
    define owner: [user]
    define lead: member from parent
    define viewer: owner or owner from parent or viewer from parent
    define can_view: viewer
`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"user", "team", "folder", "document"}, m.Types()); diff != "" {
		t.Error(diff)
	}
	get := func(typ, rel string) *Relation {
		r, ok := m.Relation(typ, rel)
		if !ok {
			t.Fatalf("no %s#%s", typ, rel)
		}
		return r
	}
	for _, want := range []*Relation{
		{
			Type: "folder", Name: "viewer",
			Restrictions: []Restriction{{Type: "user"}, {Type: "user", Wildcard: true}, {Type: "team", Relation: "member"}},
			// "owner from parent" is left out: a viewer of the parent is as good.
			Program: &Program{Includes: []Include{{"viewer", -1}, {"owner", 0}}, Steps: []Step{
				{Op: Direct, Include: 0, Relation: "viewer"},
				{Op: FromTuple, Include: 0, Relation: "parent", Computed: "viewer"},
				{Op: Direct, Include: 1, Relation: "owner"},
			}},
		},
		{
			Type: "document", Name: "can_view",
			Program: &Program{Includes: []Include{{"can_view", -1}, {"viewer", 0}, {"owner", 1}}, Steps: []Step{
				{Op: FromTuple, Include: 1, Relation: "parent", Computed: "viewer"},
				{Op: Direct, Include: 2, Relation: "owner"},
			}},
		},
		{
			Type: "document", Name: "lead",
			Program: &Program{
				Includes: []Include{{"lead", -1}},
				Steps:    []Step{{Op: FromTuple, Include: 0, Relation: "parent", Computed: "member"}},
			},
		},
	} {
		if diff := cmp.Diff(want, get(want.Type, want.Name), ignoreRewrite); diff != "" {
			t.Errorf("%s#%s: %s", want.Type, want.Name, diff)
		}
	}
	if _, ok := m.Relation("user", "viewer"); ok {
		t.Error("user has a relation")
	}
	if m.HasType("alien") || !m.HasType("user") || m.Relations("alien") != nil || len(m.Relations("user")) != 0 || len(m.Relations("document")) != 5 {
		t.Error("the lists of types and relations are wrong")
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	m, err := Parse(header + "type team\n  relations\n    define member: [user]\ntype d\n  relations\n    define a: [user, team#member]\n    define open: [user:*]\n    define b: a\n    define c: [user with k]\ncondition k(x: int) {\n  x > 1\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		object, rel, subject string
		want                 string // part of the text; "" is valid
	}{
		{"d:1", "a", "user:x", ""},
		{"d:1", "a", "team:x#member", ""},
		{"d:1", "open", "user:*", ""},
		{"d:1", "a", "user:*", "d#a does not accept user:*"},
		{"d:1", "c", "user:x with k", ""},
		{"d:1", "c", "user:x", "d#c does not accept user"},
		{"d:1", "a", "user:x with k", "d#a does not accept user with k"},
		{"d:1", "c", "user:x with other", "d#c does not accept user with other"},
		{"d:1", "open", "user:x", "d#open does not accept user"},
		{"d:1", "a", "team:x", "does not accept team"},
		{"d:1", "a", "d:x#b", "does not accept d#b"},
		{"d:1", "b", "user:x", "computed"},
		{"d:1", "e", "user:x", "no relation e"},
		{"alien:1", "a", "user:x", "no type alien"},
		{"d:1", "a", "alien:x", "does not accept alien"},
	} {
		subject, condition, _ := strings.Cut(c.subject, " with ")
		err := m.Validate(relation.Tuple{Object: c.object, Relation: c.rel, Subject: subject, Condition: condition})
		if c.want == "" && err != nil || c.want != "" && (fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), c.want)) {
			t.Errorf("%s#%s@%s: %v, want %q", c.object, c.rel, c.subject, err, c.want)
		}
	}
}

// Operands become programs of their own, and those of relations are shared.
func TestOperators(t *testing.T) {
	t.Parallel()
	m, err := Parse(header + `type d
  relations
    define p: [d]
    define a: [user with c, user]
    define b: [user] and a
    define n: ([user, d#b] or b) but not (a and (b or b from p))
    define v: n or a
condition c(x: map<string>, n: int) {
  x["a"] == "b" && n < 3
}
`)
	if err != nil {
		t.Fatal(err)
	}
	program := func(rel string) *Program {
		r, _ := m.Relation("d", rel)
		return r.Program
	}
	all := Step{Op: All, Include: 0, Operands: []*Program{{Steps: []Step{{Op: Direct, Include: -1, Relation: "b"}}}, program("a")}}
	if diff := cmp.Diff(&Program{Includes: []Include{{"b", -1}}, Steps: []Step{all}}, program("b")); diff != "" {
		t.Error(diff)
	}
	all.Include = 1
	except := Step{Op: Except, Include: 1, Operands: []*Program{
		{Includes: []Include{{"b", -1}}, Steps: []Step{{Op: Direct, Include: -1, Relation: "n"}, {Op: All, Include: 0, Operands: all.Operands}}},
		{Steps: []Step{{Op: All, Include: -1, Operands: []*Program{
			program("a"),
			{Includes: []Include{{"b", -1}}, Steps: []Step{{Op: FromTuple, Include: -1, Relation: "p", Computed: "b"}, {Op: All, Include: 0, Operands: all.Operands}}},
		}}}},
	}}
	want := &Program{Includes: []Include{{"v", -1}, {"n", 0}, {"a", 0}}, Steps: []Step{except, {Op: Direct, Include: 2, Relation: "a"}}}
	if diff := cmp.Diff(want, program("v")); diff != "" {
		t.Error(diff)
	}
	if program("v").Steps[0].Operands[0] != program("n").Steps[0].Operands[0] || program("b").Steps[0].Operands[1] != program("a") {
		t.Error("programs are not shared")
	}
	if diff := cmp.Diff([]Condition{{Name: "c", Expression: "x[\"a\"] == \"b\" && n < 3", Parameters: map[string]string{"x": "map<string>", "n": "int"}}}, m.Conditions()); diff != "" {
		t.Error(diff)
	}

	// The JSON form is the same model.
	proto, err := Proto(m.Source())
	if err != nil {
		t.Fatal(err)
	}
	source, err := Source(proto)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range m.Relations("d") {
		if got, _ := again.Relation("d", r.Name); cmp.Diff(r, got, ignoreRewrite) != "" {
			t.Errorf("%s: %s", r.Name, cmp.Diff(r, got, ignoreRewrite))
		}
	}
	if twice, err := Source(proto); err != nil || twice != source || again.ID() == m.ID() {
		t.Errorf("%v: %s, then %s", err, source, twice)
	}
}

// A chain of operators is compiled once for each link.
func TestLongChain(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(header + "type d\n  relations\n    define x: [user]\n    define r0: [user]\n")
	for i := 1; i < 490; i++ {
		fmt.Fprintf(&b, "    define r%d: (r%d and x) but not (r%d and x)\n", i, i-1, i-1)
	}
	if _, err := Parse(b.String()); err != nil {
		t.Fatal(err)
	}
}

// The id is persisted with decisions and models: it may never change for a text.
func TestIdentity(t *testing.T) {
	t.Parallel()
	m, err := Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/id.golden", []byte(m.ID()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("testdata/id.golden")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(string(b))
	if m.ID() != want || m.Source() != header {
		t.Errorf("the id of the text is %s, want %s", m.ID(), want)
	}
	other, err := Parse(header + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if other.ID() == m.ID() || len(other.ID()) != 26 || other.ID()[0] > '7' {
		t.Errorf("another text has the id %s", other.ID())
	}
}

// One text gives one result, however maps are iterated.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	dsl := header + "type d\n  relations\n    define z: nope\n    define y: [alien]\n    define x: x\n"
	_, first := Parse(dsl)
	for range 20 {
		if _, err := Parse(dsl); fault.Public(err) != fault.Public(first) {
			t.Fatalf("%q, then %q", fault.Public(first), fault.Public(err))
		}
	}
}

// A large flat model parses in linear time. (The test's own timeout judges.)
func TestLargest(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(header)
	for i := 0; b.Len() < MaxSource-200; i++ {
		fmt.Fprintf(&b, "type t%d\n  relations\n    define a: [user, user:*]\n    define b: a\n", i)
	}
	m, err := Parse(b.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Types()) < 3000 {
		t.Errorf("%d types", len(m.Types()))
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", header, "type", "model\n  schema 1.1\ntype a\n  relations\n    define",
		header + "type d\n  relations\n    define p: [d]\n    define a: [user, user:*, d#a] or (a from p or b)\n    define b: [user]\n",
		header + "type d\n  relations\n    define a: [user with c]\ncondition c(x: map<string>) { x == 1 }\n",
		"module m\nextend type user\n  relations\n    define a: [user]\n",
		header + "type d\n  relations\n    define a: [user] but not (b and c)\n",
		header + "type d\n  relations\n    define a: from b\n    define : or\n",
		`{"schema_version": "1.1", "type_definitions": [{"type": "user"}]}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dsl string) {
		m, err := Parse(dsl)
		if err != nil {
			switch k := fault.KindOf(err); k {
			case fault.Invalid, fault.Unsupported, fault.TooLarge:
			default:
				t.Fatalf("kind %v: %v", k, err)
			}
			return
		}
		again, err := Parse(m.Source())
		if err != nil || again.ID() != m.ID() {
			t.Fatalf("parsed once, then: %v", err)
		}
		for _, typ := range m.Types() {
			for _, r := range m.Relations(typ) {
				if len(r.Steps) == 0 || r.Includes[0].Relation != r.Name {
					t.Errorf("%s#%s has the program %+v", typ, r.Name, r)
				}
				for _, s := range r.Steps {
					if _, ok := m.Relation(typ, s.Relation); ok != (s.Op == Direct || s.Op == FromTuple) || ok == (len(s.Operands) > 0) || s.Include >= len(r.Includes) {
						t.Errorf("%s#%s has the step %+v", typ, r.Name, s)
					}
				}
			}
		}
	})
}
