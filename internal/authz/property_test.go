package authz

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// outcome spells the engine's answer in the reference's words.
func outcome(d Decision, err error) string {
	switch {
	case err == nil && d.Allowed:
		return "allow"
	case err == nil:
		return "deny"
	case errors.Is(err, ErrCondition):
		return "error"
	case fault.KindOf(err) == fault.Invalid:
		return "invalid"
	case fault.KindOf(err) == fault.Exhausted:
		return "deep"
	}
	return err.Error()
}

// cases is how many questions the comparison with the reference puts.
// BULWARK_TEST_CASES sets another number; short runs and the race detector, under
// which one question costs ten times as much, have a tenth.
func cases(t *testing.T) int {
	if text := os.Getenv("BULWARK_TEST_CASES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("BULWARK_TEST_CASES is %q", text)
		}
		return n
	}
	if raced || testing.Short() {
		return 500
	}
	return 5000
}

// Random models, tuples, contextual tuples and questions: the engine answers as
// the reference does, with a trace that proves what it says; lists hold exactly
// what Check allows, and Expand has the tree that the definition is. Each of
// rapid's runs takes a graph through a load, writes and questions; they go on
// until there are as many cases as were asked for. A case is one question, in
// each of its forms.
func TestAgainstReference(t *testing.T) {
	t.Parallel()
	c := &comparison{tally: map[string]int{}, record: newRecorder(t)}
	c.against(t, cases(t))
}

// The same of graphs that leave memory now and then, and come back from an image
// and what changed since.
func TestImagesAgainstReference(t *testing.T) {
	t.Parallel()
	c := &comparison{tally: map[string]int{}, imaged: true}
	c.against(t, cases(t)/5)
	t.Logf("%d loads from images", c.reloads)
	if c.reloads < uint64(c.valid)/2 {
		t.Errorf("only %d loads from images of %d graphs", c.reloads, c.valid)
	}
}

func (c *comparison) against(t *testing.T, want int) {
	t.Helper()
	for c.questions < want {
		rapid.Check(t, c.graph)
	}
	t.Logf("%d cases of %d graphs, of which %d have a valid model: %v", c.questions, c.graphs, c.valid, c.tally)
	// Shares, not counts: short runs draw fewer. A question in error is rare; some
	// hundred of them need not hold one.
	if c.valid*3 < c.graphs || c.tally["allow"]*20 < c.questions || c.tally["deny"]*20 < c.questions ||
		c.questions >= 5000 && c.tally["error"]*1000 < c.questions {
		t.Errorf("too few cases to mean something")
	}
}

type comparison struct {
	graphs, valid, questions int
	tally                    map[string]int
	record                   *recorder // nil: nobody wants the cases
	imaged                   bool
	reloads                  uint64 // from images
}

func (c *comparison) graph(rt *rapid.T) {
	c.graphs++
	m := genModel(rt)
	dsl := m.dsl()
	w, err := newSilentWorld(dsl)
	if fault.KindOf(err) == fault.Invalid && err != nil {
		return // the draw can never be granted; see TestRefused of package schema
	}
	if err != nil {
		rt.Fatalf("%v\n%s", err, dsl)
	}
	c.valid++
	tuple := rapid.Custom(func(rt *rapid.T) relation.Tuple { return genTuple(rt, m, "tuple") })
	g := &refGraph{m: m, now: refNow}
	for range rapid.SampledFrom([]int{60, 30, 10, 120}).Draw(rt, "tuples") {
		tu := tuple.Draw(rt, "tuple")
		if c.record.takes(g, tu) && !slices.ContainsFunc(g.tuples, func(o relation.Tuple) bool { return o.Key() == tu.Key() }) {
			g.tuples = append(g.tuples, tu)
		}
	}
	var written []relation.Tuple
	w.db.seed(w.store)
	for i, tu := range g.tuples {
		if i%3 == 0 && g.valid(tu) {
			written = append(written, tu)
		} else {
			w.db.tuples[w.store][tu.Key()] = tu
		}
	}
	if c.imaged {
		w.imaged(40)
	}
	if _, err := w.Check(context.Background(), Query{Store: w.store}); fault.KindOf(err) != fault.Invalid {
		rt.Fatalf("the empty question: %v", err)
	}
	if c.imaged && w.shoot() != 1 && len(g.tuples) > len(written) {
		rt.Fatalf("no image: %+v", w.Stats())
	}
	if len(written) > 0 {
		if _, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: written}); err != nil {
			rt.Fatalf("write: %v", err)
		}
	}
	made := recordedGraph{Model: dsl, Tuples: g.tuples}
	for range 12 {
		if c.imaged && rapid.Bool().Draw(rt, "leaves") {
			w.leave(w.store)
		}
		q := genQuestion(rt, m)
		var asked Asked
		if rapid.IntRange(0, 2).Draw(rt, "contextual") == 0 {
			asked.Contextual = slices.DeleteFunc(rapid.SliceOfNDistinct(tuple, 0, 6, relation.Tuple.Key).Draw(rt, "with"), func(t relation.Tuple) bool { return !g.valid(t) || !c.record.takes(g, t) })
		}
		if n := rapid.IntRange(-1, 2).Draw(rt, "x"); n < 2 {
			asked.Context = map[string]any{"x": float64(n)}
		}
		over := g.over(asked.Contextual)
		over.asked = asked.Context
		made.Cases = append(made.Cases, c.question(rt, w, over, q, asked))
	}
	if c.imaged {
		if s := w.Stats(); s.ImageRefusals > 0 {
			rt.Fatalf("an image was refused: %+v", s)
		}
		c.reloads += w.Stats().ImageLoads
	}
	if c.record != nil {
		if err := c.record.enc.Encode(made); err != nil {
			rt.Fatal(err)
		}
	}
}

// question puts one in all its forms, and returns what was right.
func (c *comparison) question(rt *rapid.T, w *world, g *refGraph, q relation.Tuple, asked Asked) (r recordedCase) {
	fatal := func(format string, args ...any) {
		rt.Fatalf(format+"\n%s\n%v\nasked: %+v", append(args, g.m.dsl(), g.tuples, asked)...)
	}
	c.questions++
	want := g.answer(q)
	c.tally[want]++
	r = recordedCase{Question: q, Contextual: asked.Contextual, Context: asked.Context, Check: want}
	for _, explain := range []bool{true, false} {
		d, err := w.Check(context.Background(), Query{Store: w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject, Asked: asked, Explain: explain})
		got := strings.Replace(outcome(d, err), "deep", "error", 1)
		if got != want {
			fatal("%s (explained: %v): %s (%v), the reference says %s\n%s", q, explain, got, err, want, d.Trace)
		}
		if err == nil && explain {
			proves(rt, g, q, d)
		}
	}
	listed := func(l List, err error) []string {
		switch {
		case err != nil && fault.KindOf(err) == fault.Internal:
			fatal("%s: %v", q, err)
		case err != nil:
			return []string{"error"}
		case l.Truncated:
			return []string{"truncated"}
		}
		return l.Names
	}
	if want == "invalid" {
		return r
	}
	r.Undefined = c.record != nil && g.solve(q.Object, q.Relation, q.Subject, false) == undefined
	if c.record != nil {
		for _, object := range append(g.names(typeOf(q.Object)), q.Object) {
			if g.circles(object, q.Relation) {
				r.Circles = append(r.Circles, object)
			}
		}
	}
	x, err := w.Expand(context.Background(), ExpandQuery{Store: w.store, Object: q.Object, Relation: q.Relation, Asked: asked})
	if err != nil {
		fatal("expand %s: %v", q, err)
	}
	if got, want := spelled(x.Root), g.expanded(q.Object, q.Relation); got != want {
		fatal("expand %s: %s, the reference says %s", q, got, want)
	}
	typ := typeOf(q.Object)
	{
		want := g.objects(typ, q.Relation, q.Subject)
		got := listed(w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: typ, Relation: q.Relation, Subject: q.Subject, Asked: asked}))
		if !slices.Equal(got, want) {
			fatal("objects of %s %s %s: %v, the reference says %v", typ, q.Relation, q.Subject, got, want)
		}
		r.Objects = want
	}
	object, userset, _ := strings.Cut(q.Subject, "#")
	{
		want := g.users(q.Object, q.Relation, typeOf(object), userset)
		got := listed(w.ListUsers(context.Background(), UsersQuery{Store: w.store, Object: q.Object, Relation: q.Relation, Type: typeOf(object), Userset: userset, Asked: asked}))
		if !slices.Equal(got, want) {
			fatal("users %s#%s of %s %s: %v, the reference says %v", typeOf(object), userset, q.Object, q.Relation, got, want)
		}
		r.Users = want
	}
	return r
}

// spelled writes an engine's tree as refGraph.expanded does.
func spelled(x Expanded) string {
	s := x.Name + " = "
	switch x.Op {
	case schema.Direct:
		return s + fmt.Sprintf("users %q", x.Users)
	case schema.Computed:
		return s + fmt.Sprintf("computed %q", x.Computed)
	case schema.FromTuple:
		return s + fmt.Sprintf("from %s %q", x.Tupleset, x.Computed)
	}
	s += map[schema.Op]string{schema.Union: "or", schema.All: "and", schema.Except: "not"}[x.Op]
	for _, o := range x.Operands {
		s += " (" + spelled(o) + ")"
	}
	return s
}

// expanded is the tree that a relation's definition is, with the tuples of the
// object alone: a leaf names the subjects of its tuples, the relation that it is
// computed of, or that relation of each parent whose type has it. Conditions and
// expiries do not count, type restrictions do.
func (g *refGraph) expanded(object, rel string) string {
	subjects := func(rel string) []string {
		var out []string
		for _, t := range g.tuples {
			if t.Object == object && t.Relation == rel && g.valid(t) && !slices.Contains(out, t.Subject) {
				out = append(out, t.Subject)
			}
		}
		slices.Sort(out)
		return out
	}
	var node func(r refRewrite) string
	node = func(r refRewrite) string {
		s := object + "#" + rel + " = "
		switch r.op {
		case "this":
			return s + fmt.Sprintf("users %q", subjects(rel))
		case "computed":
			return s + fmt.Sprintf("computed %q", []string{object + "#" + r.relation})
		case "from":
			var computed []string
			for _, parent := range subjects(r.tupleset) {
				if g.m.defs[typeOf(parent)][r.relation] != nil {
					computed = append(computed, parent+"#"+r.relation)
				}
			}
			return s + fmt.Sprintf("from %s %q", object+"#"+r.tupleset, computed)
		}
		s += r.op
		for _, o := range r.operands {
			s += " (" + node(o) + ")"
		}
		return s
	}
	return node(g.m.defs[typeOf(object)][rel].rewrite)
}

// proves checks that the trace of an allow is a chain of valid stored tuples
// from the question to the subject.
func proves(rt *rapid.T, g *refGraph, q relation.Tuple, d Decision) {
	if !d.Allowed {
		if d.Trace.Tried == nil || d.Trace.Path != nil {
			rt.Fatalf("%s: the deny has the trace %+v", q, d.Trace)
		}
		return
	}
	provesPath(rt, g, q, d, q.Object, q.Relation, d.Trace.Path)
}

// provesPath follows a path from the relation on the object, or from an operand,
// whose relation has no name, to the subject of the question.
func provesPath(rt *rapid.T, g *refGraph, q relation.Tuple, d Decision, at, rel string, path []Grant) {
	for i, grant := range path {
		if grant.Object != at || grant.Relation != rel {
			rt.Fatalf("%s: the path breaks at %+v\n%s", q, grant, d.Trace)
		}
		for _, inc := range grant.Includes {
			if rel != "" && !g.includes(typeOf(at), rel, inc) {
				rt.Fatalf("%s: %s does not include %s\n%s", q, rel, inc, d.Trace)
			}
			rel = inc
		}
		if grant.Reason == reasonItself {
			if at+"#"+rel != q.Subject || i != len(path)-1 {
				rt.Fatalf("%s: %s#%s is not the subject\n%s", q, at, rel, d.Trace)
			}
			return
		}
		if grant.Reason == reasonAll || grant.Reason == reasonExcept {
			if grant.Operands == nil && d.Trace.Omitted == 0 {
				rt.Fatalf("%s: no operands of %s\n%s", q, grant.Reason, d.Trace)
			}
			for n, o := range grant.Operands {
				if o.Allowed != (n == 0 || grant.Reason == reasonAll) || o.Allowed == (o.Tried != nil) {
					rt.Fatalf("%s: operand %d of %s\n%s", q, n, grant.Reason, d.Trace)
				}
				if o.Allowed {
					provesPath(rt, g, q, d, at, o.Path[0].Relation, o.Path)
				}
			}
			return
		}
		if g.counts(grant.Tuple.Tuple) != yes || !slices.Contains(g.tuples, grant.Tuple.Tuple) || !g.valid(grant.Tuple.Tuple) || grant.Tuple.Object != at {
			rt.Fatalf("%s: there is no valid tuple %s\n%s", q, grant.Tuple, d.Trace)
		}
		switch grant.Reason {
		case reasonTuple:
			if grant.Tuple.Subject != q.Subject {
				rt.Fatalf("%s: the last tuple names another\n%s", q, d.Trace)
			}
			return
		case reasonEveryone:
			if grant.Tuple.Subject != typeOf(q.Subject)+":*" {
				rt.Fatalf("%s: the wildcard is of another type\n%s", q, d.Trace)
			}
			return
		case reasonUserset:
			at, rel = relation.SplitSubject(grant.Tuple.Subject)
		case reasonParent:
			at, rel = grant.Tuple.Subject, path[i+1].Relation
		}
	}
	rt.Fatalf("%s: the path has no end\n%s", q, d.Trace)
}

// includes: the definition names the relation as computed, in a union or alone.
func (g *refGraph) includes(typ, rel, computed string) bool {
	var in func(r refRewrite) bool
	in = func(r refRewrite) bool {
		return r.op == "computed" && r.relation == computed || slices.ContainsFunc(r.operands, in)
	}
	return in(g.m.defs[typ][rel].rewrite)
}
