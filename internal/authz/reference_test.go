package authz

import (
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"bulwark.example/internal/relation"
)

// The naive reference: a model is a tree here, made without package schema, and
// a question is answered by the words of OpenFGA's specification, slowly.

type refModel struct {
	types []string
	defs  map[string]map[string]*refDef
}

type refDef struct {
	allowed []string // "user", "user:*", "team#member"
	rewrite refRewrite
}

type refRewrite struct {
	op       string // this, computed, from, union
	relation string
	tupleset string
	operands []refRewrite
}

func (m *refModel) dsl() string {
	var b strings.Builder
	b.WriteString("model\n  schema 1.1\n")
	for _, typ := range m.types {
		fmt.Fprintf(&b, "type %s\n", typ)
		names := make([]string, 0, len(m.defs[typ]))
		for rel := range m.defs[typ] {
			names = append(names, rel)
		}
		slices.Sort(names)
		if len(names) > 0 {
			b.WriteString("  relations\n")
		}
		for _, rel := range names {
			d := m.defs[typ][rel]
			fmt.Fprintf(&b, "    define %s: %s\n", rel, d.rewrite.dsl(d, true))
		}
	}
	return b.String()
}

func (r refRewrite) dsl(d *refDef, top bool) string {
	switch r.op {
	case "this":
		return "[" + strings.Join(d.allowed, ", ") + "]"
	case "computed":
		return r.relation
	case "from":
		return r.relation + " from " + r.tupleset
	}
	var parts []string
	for _, o := range r.operands {
		parts = append(parts, o.dsl(d, false))
	}
	s := strings.Join(parts, " or ")
	if !top {
		return "(" + s + ")"
	}
	return s
}

// refGraph is a list of tuples, searched from end to end each time.
type refGraph struct {
	m      *refModel
	tuples []relation.Tuple
	memo   map[string]bool // of one question
}

func typeOf(s string) string { typ, _, _ := strings.Cut(s, ":"); return typ }

// valid: the model's type restrictions, at reading time.
func (g *refGraph) valid(t relation.Tuple) bool {
	d := g.m.defs[typeOf(t.Object)][t.Relation]
	if d == nil {
		return false
	}
	object, rel, userset := strings.Cut(t.Subject, "#")
	want := typeOf(object)
	if userset {
		want += "#" + rel
	} else if strings.HasSuffix(object, ":*") {
		want = object
	}
	return slices.Contains(d.allowed, want)
}

// holds: subject has rel on object by a chain of at most hops usersets and
// tuplesets. "Everyone in a userset" includes the userset itself.
func (g *refGraph) holds(object, rel, subject string, hops int) bool {
	if object+"#"+rel == subject {
		return true
	}
	d := g.m.defs[typeOf(object)][rel]
	if d == nil {
		return false
	}
	key := fmt.Sprint(object, "#", rel, "@", subject, " ", hops)
	if answer, ok := g.memo[key]; ok {
		return answer
	}
	answer := g.rewrite(d.rewrite, object, rel, subject, hops)
	g.memo[key] = answer
	return answer
}

func (g *refGraph) rewrite(r refRewrite, object, rel, subject string, hops int) bool {
	switch r.op {
	case "this":
		for _, t := range g.tuples {
			if t.Object != object || t.Relation != rel || !g.valid(t) {
				continue
			}
			if t.Subject == subject || (!strings.Contains(subject, "#") && t.Subject == typeOf(subject)+":*") {
				return true
			}
			if o, r, ok := strings.Cut(t.Subject, "#"); ok && hops > 0 && g.holds(o, r, subject, hops-1) {
				return true
			}
		}
		return false
	case "computed":
		return g.holds(object, r.relation, subject, hops)
	case "from":
		for _, t := range g.tuples {
			if t.Object == object && t.Relation == r.tupleset && g.valid(t) && hops > 0 && g.holds(t.Subject, r.relation, subject, hops-1) {
				return true
			}
		}
		return false
	}
	for _, o := range r.operands {
		if g.rewrite(o, object, rel, subject, hops) {
			return true
		}
	}
	return false
}

// tooDeep: something that the question leads to is 25 hops away or more.
func (g *refGraph) tooDeep(object, rel string) bool {
	distance := map[string]int{object + "#" + rel: 0}
	for changed := true; changed; {
		changed = false
		reach := func(node string, d int) {
			if old, ok := distance[node]; !ok || d < old {
				distance[node], changed = d, true
			}
		}
		for node, d := range distance {
			o, r, _ := strings.Cut(node, "#")
			if def := g.m.defs[typeOf(o)][r]; def != nil {
				g.leads(def.rewrite, o, r, d, reach)
			}
		}
	}
	for _, d := range distance {
		if d >= maxDepth {
			return true
		}
	}
	return false
}

func (g *refGraph) leads(r refRewrite, object, rel string, d int, reach func(string, int)) {
	for _, t := range g.tuples {
		if t.Object != object || !g.valid(t) {
			continue
		}
		if r.op == "this" && t.Relation == rel && strings.Contains(t.Subject, "#") {
			reach(t.Subject, d+1)
		}
		if r.op == "from" && t.Relation == r.tupleset && g.m.defs[typeOf(t.Subject)][r.relation] != nil {
			reach(t.Subject+"#"+r.relation, d+1)
		}
	}
	if r.op == "computed" {
		reach(object+"#"+r.relation, d)
	}
	for _, o := range r.operands {
		g.leads(o, object, rel, d, reach)
	}
}

// answer is "allow", "deny", "deep" or "invalid".
func (g *refGraph) answer(q relation.Tuple) string {
	object, rel, userset := strings.Cut(q.Subject, "#")
	styp := g.m.defs[typeOf(object)]
	if g.m.defs[typeOf(q.Object)][q.Relation] == nil || styp == nil || (userset && styp[rel] == nil) {
		return "invalid"
	}
	g.memo = map[string]bool{}
	switch {
	case g.holds(q.Object, q.Relation, q.Subject, maxDepth-1):
		return "allow"
	case g.tooDeep(q.Object, q.Relation):
		return "deep"
	}
	return "deny"
}

// genModel draws a model of the language that this version evaluates. Relations
// refer to earlier ones of their type, so that no computed cycle arises; hops
// through usersets and tuplesets may be circular.
func genModel(rt *rapid.T) *refModel {
	m := &refModel{types: []string{"user", "service"}, defs: map[string]map[string]*refDef{"user": {}, "service": {}}}
	n := rapid.IntRange(1, 3).Draw(rt, "types")
	depth := map[string]int{}
	for i := range n {
		typ := fmt.Sprintf("t%d", i)
		m.types = append(m.types, typ)
		m.defs[typ] = map[string]*refDef{}
		depth[typ] = rapid.IntRange(1, 4).Draw(rt, "relations")
	}
	objects := m.types[2:]
	for _, typ := range objects {
		for p := range rapid.IntRange(1, 2).Draw(rt, "tuplesets") {
			m.defs[typ][fmt.Sprintf("p%d", p)] = &refDef{
				allowed: rapid.SliceOfNDistinct(rapid.SampledFrom(m.types), 1, 3, rapid.ID).Draw(rt, "parents"),
				rewrite: refRewrite{op: "this"},
			}
		}
		for r := range depth[typ] {
			m.defs[typ][fmt.Sprintf("r%d", r)] = nil // known by name while the others are drawn
		}
	}
	for _, typ := range objects {
		for r := range depth[typ] {
			d := &refDef{}
			d.rewrite = genRewrite(rt, m, typ, r, d, 0, true)
			m.defs[typ][fmt.Sprintf("r%d", r)] = d
		}
	}
	return m
}

// genRewrite draws a definition's right-hand side. The grammar has room for one
// direct part, at the far left.
func genRewrite(rt *rapid.T, m *refModel, typ string, r int, d *refDef, nesting int, leftmost bool) refRewrite {
	var ops []string
	if leftmost {
		ops = []string{"this", "this"}
	}
	if r > 0 {
		ops = append(ops, "computed")
	}
	var froms []refRewrite
	for p := range 2 {
		set := m.defs[typ][fmt.Sprintf("p%d", p)]
		if set == nil {
			continue
		}
		for _, target := range set.allowed {
			for rel := range m.defs[target] {
				if strings.HasPrefix(rel, "r") {
					froms = append(froms, refRewrite{op: "from", relation: rel, tupleset: fmt.Sprintf("p%d", p)})
				}
			}
		}
	}
	slices.SortFunc(froms, func(a, b refRewrite) int { return strings.Compare(a.relation+a.tupleset, b.relation+b.tupleset) })
	if len(froms) > 0 {
		ops = append(ops, "from", "from")
	}
	if nesting < 2 && (len(froms) > 0 || r > 0) {
		ops = append(ops, "union", "union", "union")
	}
	switch op := rapid.SampledFrom(ops).Draw(rt, "op"); op {
	case "computed":
		return refRewrite{op: op, relation: fmt.Sprintf("r%d", rapid.IntRange(0, r-1).Draw(rt, "computed"))}
	case "from":
		return rapid.SampledFrom(froms).Draw(rt, "from")
	case "union":
		u := refRewrite{op: op}
		for i := range rapid.IntRange(2, 3).Draw(rt, "operands") {
			u.operands = append(u.operands, genRewrite(rt, m, typ, r, d, nesting+1, leftmost && i == 0))
		}
		return u
	}
	if d.allowed == nil {
		d.allowed = rapid.SliceOfNDistinct(rapid.SampledFrom(restrictionsOf(m)), 1, 4, rapid.ID).Draw(rt, "allowed")
	}
	return refRewrite{op: "this"}
}

func restrictionsOf(m *refModel) []string {
	out := []string{"user", "user", "user:*", "service", "service:*"}
	for _, typ := range m.types[2:] {
		out = append(out, typ, typ+":*")
		for rel := range m.defs[typ] {
			out = append(out, typ+"#"+rel)
		}
	}
	slices.Sort(out)
	return out
}

// genTuple draws a tuple over few ids, so that they meet. Most fit the model;
// some do not, as tuples of an older model would.
func genTuple(rt *rapid.T, m *refModel, label string) relation.Tuple {
	typ := rapid.SampledFrom(m.types[2:]).Draw(rt, label)
	rels := make([]string, 0, len(m.defs[typ]))
	for rel := range m.defs[typ] {
		rels = append(rels, rel)
	}
	slices.Sort(rels)
	rel := rapid.SampledFrom(rels).Draw(rt, label)
	t := relation.Tuple{Object: genObject(rt, typ), Relation: rel}
	d := m.defs[typ][rel]
	if len(d.allowed) > 0 && rapid.IntRange(0, 9).Draw(rt, "fits") > 0 {
		t.Subject = genSubject(rt, rapid.SampledFrom(d.allowed).Draw(rt, label))
	} else {
		t.Subject = genSubject(rt, rapid.SampledFrom(restrictionsOf(m)).Draw(rt, label))
	}
	return t
}

func genObject(rt *rapid.T, typ string) string {
	return fmt.Sprintf("%s:%c", typ, 'a'+rune(rapid.IntRange(0, 2).Draw(rt, "id")))
}

func genSubject(rt *rapid.T, form string) string {
	if typ, rel, ok := strings.Cut(form, "#"); ok {
		return genObject(rt, typ) + "#" + rel
	}
	if strings.HasSuffix(form, ":*") {
		return form
	}
	return genObject(rt, form)
}
