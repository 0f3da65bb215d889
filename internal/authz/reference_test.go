package authz

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"bulwark.example/internal/relation"
)

// The naive reference: a model is a tree here, made without package schema, and
// a question is answered by the words of the specification (docs/spec/decisions.md),
// slowly: by fixed points over all objects, from end to end of the tuples.

type refModel struct {
	types []string
	defs  map[string]map[string]*refDef
}

type refDef struct {
	allowed []string // "user", "user:*", "team#member", "user with c"
	rewrite refRewrite
}

type refRewrite struct {
	op       string // this, computed, from, or, and, not
	relation string
	tupleset string
	operands []refRewrite
}

// refCondition is the one condition: parameter x must be positive.
const refCondition = "condition c(x: int) {\n  x > 0\n}\n"

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
	if strings.Contains(b.String(), " with c") {
		b.WriteString(refCondition)
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
	s := strings.Join(parts, map[string]string{"or": " or ", "and": " and ", "not": " but not "}[r.op])
	if !top {
		return "(" + s + ")"
	}
	return s
}

// refGraph is a list of tuples, searched from end to end each time.
type refGraph struct {
	m      *refModel
	tuples []relation.Tuple
	now    int64
	asked  map[string]any

	// Of one question:
	subject string
	other   truth              // of what stands after "but not" and has no value yet
	value   map[refPoint]truth // of operands, as computed so far
	negated map[refPoint]truth // of what stands after "but not"
}

// refPoint is an operand of an object's relation.
type refPoint struct {
	object, rel, path string
	explicit          bool
}

func typeOf(s string) string { typ, _, _ := strings.Cut(s, ":"); return typ }

// formOf is how a model's brackets name the tuple's subject.
func formOf(t relation.Tuple) string {
	object, rel, userset := strings.Cut(t.Subject, "#")
	form := typeOf(object)
	if userset {
		form += "#" + rel
	} else if strings.HasSuffix(object, ":*") {
		form = object
	}
	if t.Condition != "" {
		form += " with " + t.Condition
	}
	return form
}

// valid: the model's type restrictions, at reading time.
func (g *refGraph) valid(t relation.Tuple) bool {
	d := g.m.defs[typeOf(t.Object)][t.Relation]
	return d != nil && slices.Contains(d.allowed, formOf(t))
}

// counts is the value of a tuple's condition and expiry.
func (g *refGraph) counts(t relation.Tuple) truth {
	if t.Expires != 0 && t.Expires <= g.now {
		return no
	}
	if t.Condition == "" {
		return yes
	}
	var stored map[string]any
	if t.Context != "" {
		_ = json.Unmarshal([]byte(t.Context), &stored)
	}
	x, ok := stored["x"]
	if !ok {
		x, ok = g.asked["x"]
	}
	switch n, number := x.(float64); {
	case !ok || !number:
		return unknown
	case n > 0:
		return yes
	}
	return no
}

// refSpot is a relation of an object, or an operand in it.
type refSpot struct {
	refPoint
	rewrite refRewrite
	depth   int
}

// region is the value of a rewrite on an object: the greatest over all chains of
// unions, usersets and parents, of which each is worth its least link. A chain
// of 25 links or more is worth an error.
func (g *refGraph) region(at refPoint, r refRewrite) truth {
	for floor := yes; floor > no; floor-- {
		start := refSpot{at, r, 0}
		queue, deep := []refSpot{start}, false
		seen := map[string]bool{}
		visit := func(s refSpot) {
			if key := fmt.Sprint(s.object, "#", s.rel, "#", s.path); !seen[key] {
				seen[key] = true
				queue = append(queue, s)
			}
		}
		relationOf := func(object, rel string, depth int) {
			if d := g.m.defs[typeOf(object)][rel]; d != nil {
				visit(refSpot{refPoint{object, rel, "", at.explicit}, d.rewrite, depth})
			}
		}
		for i := 0; i < len(queue); i++ {
			s := queue[i]
			found := s.path == "" && s.object+"#"+s.rel == g.subject
			switch s.rewrite.op {
			case "this":
				for _, t := range g.tuples {
					if t.Object != s.object || t.Relation != s.rel || !g.valid(t) || g.counts(t) < floor {
						continue
					}
					if t.Subject == g.subject || !at.explicit && !strings.ContainsAny(g.subject, "#*") && t.Subject == typeOf(g.subject)+":*" {
						found = true
					}
					if o, r, ok := strings.Cut(t.Subject, "#"); ok {
						relationOf(o, r, s.depth+1)
					}
				}
			case "computed":
				relationOf(s.object, s.rewrite.relation, s.depth)
			case "from":
				for _, t := range g.tuples {
					if t.Object == s.object && t.Relation == s.rewrite.tupleset && g.valid(t) && g.counts(t) >= floor {
						relationOf(t.Subject, s.rewrite.relation, s.depth+1)
					}
				}
			case "or":
				for n, o := range s.rewrite.operands {
					visit(refSpot{refPoint{s.object, s.rel, fmt.Sprint(s.path, "|", n), at.explicit}, o, s.depth})
				}
			default:
				found = found || g.operator(s, at.explicit) >= floor
			}
			if found && (floor < yes || s.depth < maxDepth) {
				return floor
			}
			deep = deep || found
		}
		if floor == yes && deep {
			return unknown
		}
	}
	return no
}

// operator is the value of "and" and "but not", of their operands' values.
func (g *refGraph) operator(s refSpot, explicit bool) truth {
	point := func(n int, explicit bool) refPoint {
		return refPoint{s.object, s.rel, fmt.Sprint(s.path, "&", n), explicit}
	}
	if s.rewrite.op == "not" {
		v := g.value[g.need(point(0, explicit))]
		subtracted, ok := g.negated[g.need(point(1, false))]
		if !ok {
			subtracted = g.other
		}
		return min(v, subtracted.not())
	}
	v, named := yes, no
	for n := range s.rewrite.operands {
		v = min(v, g.value[g.need(point(n, false))])
		if explicit {
			named = max(named, g.value[g.need(point(n, true))])
		}
	}
	if explicit {
		v = min(v, named)
	}
	return v
}

// need makes a point one of those that the fixed point is computed for.
func (g *refGraph) need(p refPoint) refPoint {
	if _, ok := g.value[p]; !ok {
		g.value[p] = no
	}
	return p
}

// rewriteAt finds the operand that a point names.
func (g *refGraph) rewriteAt(p refPoint) refRewrite {
	r := g.m.defs[typeOf(p.object)][p.rel].rewrite
	for rest := p.path; rest != ""; {
		var n int
		_, _ = fmt.Sscanf(rest[1:], "%d", &n)
		r = r.operands[n]
		rest = strings.TrimLeft(rest[1:], "0123456789")
	}
	return r
}

// least computes the least fixed point with negations read from negated.
func (g *refGraph) least(negated map[refPoint]truth, root refPoint) (map[refPoint]truth, truth) {
	known := g.value
	g.value, g.negated = map[refPoint]truth{}, negated
	for p := range known {
		g.value[p] = no
	}
	for {
		top := g.region(root, g.rewriteAt(root))
		next := map[refPoint]truth{}
		for p := range g.value {
			next[p] = g.region(p, g.rewriteAt(p))
		}
		changed := len(next) != len(g.value)
		for p, v := range next {
			changed = changed || g.value[p] != v
		}
		for p := range g.value {
			if v, ok := next[p]; ok {
				g.value[p] = v
			}
		}
		if !changed {
			return g.value, top
		}
	}
}

// solve is the well-founded value of a relation of an object for a subject, by
// the alternating fixed point (Van Gelder 1993): negations are read by what is
// possible, then by what is certain, until both stay.
func (g *refGraph) solve(object, rel, subject string, explicit bool) truth {
	g.subject, g.value, g.other = subject, map[refPoint]truth{}, no
	root := refPoint{object, rel, "", explicit}
	possible, top := g.least(map[refPoint]truth{}, root) // nothing is subtracted
	for {
		g.other = yes
		certain, low := g.least(possible, root)
		g.other = no
		next, high := g.least(certain, root)
		same := high == top && len(next) == len(possible)
		for p, v := range next {
			same = same && possible[p] == v
		}
		possible, top = next, high
		if !same {
			continue
		}
		if low != high {
			return undefined
		}
		return low
	}
}

// answer is "allow", "deny", "error" or "invalid".
func (g *refGraph) answer(q relation.Tuple) string {
	object, rel, userset := strings.Cut(q.Subject, "#")
	styp := g.m.defs[typeOf(object)]
	if g.m.defs[typeOf(q.Object)][q.Relation] == nil || styp == nil || (userset && styp[rel] == nil) {
		return "invalid"
	}
	switch v := g.solve(q.Object, q.Relation, q.Subject, false); {
	case v == yes:
		return "allow"
	case v == unknown:
		return "error"
	}
	return "deny"
}

// over returns the graph with contextual tuples in place of those of their keys.
func (g *refGraph) over(contextual []relation.Tuple) *refGraph {
	out := *g
	out.tuples = slices.DeleteFunc(slices.Clone(g.tuples), func(t relation.Tuple) bool {
		return slices.ContainsFunc(contextual, func(c relation.Tuple) bool { return c.Key() == t.Key() })
	})
	out.tuples = append(out.tuples, contextual...)
	return &out
}

// names lists every object and subject of a type that there is.
func (g *refGraph) names(typ string) []string {
	var out []string
	add := func(object string) {
		if typeOf(object) == typ && !strings.HasSuffix(object, ":*") && !slices.Contains(out, object) {
			out = append(out, object)
		}
	}
	for _, t := range g.tuples {
		add(t.Object)
		object, _, _ := strings.Cut(t.Subject, "#")
		add(object)
	}
	slices.Sort(out)
	return out
}

// objects lists what the subject has the relation to; "error" instead if one
// object has no answer.
func (g *refGraph) objects(typ, rel, subject string) []string {
	var out []string
	candidates := g.names(typ)
	if o, _, userset := strings.Cut(subject, "#"); userset && typeOf(o) == typ && !slices.Contains(candidates, o) {
		candidates = append(candidates, o)
	}
	for _, object := range candidates {
		switch g.answer(relation.Tuple{Object: object, Relation: rel, Subject: subject}) {
		case "allow":
			out = append(out, object)
		case "error":
			return []string{"error"}
		}
	}
	slices.Sort(out)
	return out
}

// circles reports whether what is subtracted on the way to the object's relation
// leads to itself. There, and only for that reason, OpenFGA denies what follows
// here from the rule that a circle is no.
func (g *refGraph) circles(object, rel string) bool {
	type spot struct{ object, rel string }
	path, done := map[spot]bool{}, map[string]bool{}
	var walk func(object string, r refRewrite, rel string, subtracted bool) bool
	enter := func(object, rel string, subtracted bool) bool {
		d := g.m.defs[typeOf(object)][rel]
		at := spot{object, rel}
		key := fmt.Sprint(at, subtracted)
		switch {
		case d == nil || strings.HasSuffix(object, ":*"):
			return false
		case path[at]:
			return subtracted
		case done[key]:
			return false
		}
		path[at], done[key] = true, true
		defer delete(path, at)
		return walk(object, d.rewrite, rel, subtracted)
	}
	walk = func(object string, r refRewrite, rel string, subtracted bool) bool {
		switch r.op {
		case "computed":
			return enter(object, r.relation, subtracted)
		case "this", "from":
			for _, t := range g.tuples {
				if t.Object != object || !g.valid(t) {
					continue
				}
				subject, of := relation.SplitSubject(t.Subject)
				if r.op == "this" && t.Relation == rel && of != "" && enter(subject, of, subtracted) ||
					r.op == "from" && t.Relation == r.tupleset && enter(subject, r.relation, subtracted) {
					return true
				}
			}
			return false
		}
		for n, operand := range r.operands {
			if walk(object, operand, rel, subtracted || r.op == "not" && n == 1) {
				return true
			}
		}
		return false
	}
	return enter(object, rel, false)
}

// meetsUnknown: a list of users follows everything that could grant, and meets a
// tuple whose condition cannot be evaluated.
func (g *refGraph) meetsUnknown(object, rel, form string) bool {
	seen := map[string]bool{}
	var walk func(object, rel string, r refRewrite) bool
	relationOf := func(object, rel string) bool {
		d := g.m.defs[typeOf(object)][rel]
		if d == nil || seen[object+"#"+rel] {
			return false
		}
		seen[object+"#"+rel] = true
		return walk(object, rel, d.rewrite)
	}
	walk = func(object, rel string, r refRewrite) bool {
		for _, t := range g.tuples {
			if t.Object != object || !g.valid(t) || g.counts(t) == no {
				continue
			}
			next, nextRel, userset := strings.Cut(t.Subject, "#")
			matters := r.op == "this" && t.Relation == rel && (userset || typeOf(t.Subject) == form)
			if r.op == "from" && t.Relation == r.tupleset && g.m.defs[typeOf(t.Subject)][r.relation] != nil {
				matters, userset, nextRel = true, true, r.relation
			}
			if matters && (g.counts(t) == unknown || userset && relationOf(next, nextRel)) {
				return true
			}
		}
		if r.op == "computed" {
			return relationOf(object, r.relation)
		}
		for n, o := range r.operands {
			if (r.op != "not" || n == 0) && walk(object, rel, o) {
				return true
			}
		}
		return false
	}
	return relationOf(object, rel)
}

// users lists who of a form has the relation.
func (g *refGraph) users(object, rel, typ, userset string) []string {
	var out []string
	form := typ
	if userset != "" {
		form = "only usersets"
	}
	failed := g.meetsUnknown(object, rel, form)
	try := func(subject string, explicit bool) {
		switch g.solve(object, rel, subject, explicit) {
		case unknown:
			failed = true
		case yes:
			out = append(out, subject)
		}
	}
	candidates := g.names(typ)
	if userset != "" && typeOf(object) == typ && !slices.Contains(candidates, object) {
		candidates = append(candidates, object)
	}
	for _, name := range candidates {
		if userset != "" {
			try(name+"#"+userset, false)
		} else {
			try(name, true)
		}
	}
	if userset == "" {
		try(typ+":*", false)
	}
	if failed {
		return []string{"error"}
	}
	slices.Sort(out)
	return out
}

// genModel draws a model of the whole language. Relations refer to earlier ones of their type, so that no computed cycle arises; hops
// through usersets and tuplesets may be circular.
func genModel(rt *rapid.T) *refModel {
	m := &refModel{types: []string{"user", "service"}, defs: map[string]map[string]*refDef{"user": {}, "service": {}}}
	n := rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(rt, "types")
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
				allowed: rapid.SliceOfNDistinct(rapid.SampledFrom(guardedToo(m.types)), 1, 3, rapid.ID).Draw(rt, "parents"),
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
			target, _, _ = strings.Cut(target, " ")
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
		ops = append(ops, "or", "or", "and", "not")
	}
	switch op := rapid.SampledFrom(ops).Draw(rt, "op"); op {
	case "computed":
		return refRewrite{op: op, relation: fmt.Sprintf("r%d", rapid.IntRange(0, r-1).Draw(rt, "computed"))}
	case "from":
		return rapid.SampledFrom(froms).Draw(rt, "from")
	case "or", "and", "not":
		u := refRewrite{op: op}
		n := 2
		if op != "not" {
			n = rapid.IntRange(2, 3).Draw(rt, "operands")
		}
		for i := range n {
			u.operands = append(u.operands, genRewrite(rt, m, typ, r, d, nesting+1, leftmost && i == 0))
		}
		return u
	}
	if d.allowed == nil {
		d.allowed = rapid.SliceOfNDistinct(rapid.SampledFrom(guardedToo(restrictionsOf(m))), 1, 4, rapid.ID).Draw(rt, "allowed")
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

// guardedToo adds the forms with the condition.
func guardedToo(forms []string) []string {
	out := slices.Clone(forms)
	for _, f := range forms {
		out = append(out, f+" with c")
	}
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
		form := rapid.SampledFrom(d.allowed).Draw(rt, label)
		t.Subject = genSubject(rt, form)
		if strings.HasSuffix(form, " with c") {
			t.Condition, t.Context = "c", rapid.SampledFrom([]string{`{"x":1}`, "", `{"x":1}`, `{"x":0}`}).Draw(rt, "context")
		}
		t.Expires = rapid.SampledFrom([]int64{0, 0, 0, 0, 0, 0, 0, refNow + 1, refNow, refNow - 1}).Draw(rt, "expires")
	} else {
		t.Subject = genSubject(rt, rapid.SampledFrom(restrictionsOf(m)).Draw(rt, label))
	}
	return t
}

// refNow is the clock of the generated worlds.
const refNow = int64(1_800_000_000_000_000_000)

func genObject(rt *rapid.T, typ string) string {
	return fmt.Sprintf("%s:%c", typ, 'a'+rune(rapid.IntRange(0, 2).Draw(rt, "id")))
}

func genSubject(rt *rapid.T, form string) string {
	form, _, _ = strings.Cut(form, " ")
	if typ, rel, ok := strings.Cut(form, "#"); ok {
		return genObject(rt, typ) + "#" + rel
	}
	if strings.HasSuffix(form, ":*") {
		return form
	}
	return genObject(rt, form)
}

// genQuestion draws what is asked: mostly of a relation with a definition, for a
// user.
func genQuestion(rt *rapid.T, m *refModel) relation.Tuple {
	q := genTuple(rt, m, "question")
	if rapid.IntRange(0, 3).Draw(rt, "for a user") > 0 {
		q.Subject = genSubject(rt, rapid.SampledFrom([]string{"user", "user", "user", "user:*"}).Draw(rt, "user"))
	}
	if rapid.IntRange(0, 3).Draw(rt, "defined") > 0 {
		var rels []string
		for rel := range m.defs[typeOf(q.Object)] {
			if strings.HasPrefix(rel, "r") {
				rels = append(rels, rel)
			}
		}
		slices.Sort(rels)
		q.Relation = rapid.SampledFrom(rels).Draw(rt, "relation")
	}
	return q
}
