package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// The reference of exclusive roles, in the words of docs/spec/decisions.md.

// could returns the graph in which a relation is held as far as it could come to
// be without another write: conditions are met, nothing is subtracted.
func (g *refGraph) could() *refGraph {
	var grants func(r refRewrite) refRewrite
	grants = func(r refRewrite) refRewrite {
		if r.op == "not" {
			return grants(r.operands[0])
		}
		out := r
		out.operands = nil
		for _, o := range r.operands {
			out.operands = append(out.operands, grants(o))
		}
		return out
	}
	m := &refModel{types: g.m.types, defs: map[string]map[string]*refDef{}}
	for typ, defs := range g.m.defs {
		m.defs[typ] = map[string]*refDef{}
		for rel, d := range defs {
			plain := &refDef{rewrite: grants(d.rewrite)}
			for _, form := range d.allowed {
				form, _, _ = strings.Cut(form, " ")
				plain.allowed = append(plain.allowed, form)
			}
			m.defs[typ][rel] = plain
		}
	}
	out := &refGraph{m: m, now: g.now}
	for _, t := range g.tuples {
		if g.valid(t) && (t.Expires == 0 || t.Expires > g.now) {
			out.tuples = append(out.tuples, t.Key())
		}
	}
	return out
}

// both returns how many of the set's relations the subject has: surely, and
// perhaps.
func (g *refGraph) both(x Exclusive, object, subject string) (sure, perhaps int) {
	for _, rel := range x.Relations {
		switch g.solve(object, rel, subject, false) {
		case yes:
			sure++
		case unknown:
			perhaps++
		}
	}
	return sure, perhaps
}

// overlaps finds somebody who could hold two: of everybody that a tuple names,
// and everyone of a type. What follows for the groups themselves depends on which
// tuples name them; their members are looked at.
func (g *refGraph) overlaps(x Exclusive) string {
	subjects := map[string]bool{}
	for _, typ := range g.m.types {
		subjects[typ+":*"] = true
	}
	for _, t := range g.tuples {
		object, _, _ := strings.Cut(t.Subject, "#")
		subjects[t.Object], subjects[object] = true, true
	}
	for _, object := range g.names(x.Type) {
		for subject := range subjects {
			if sure, perhaps := g.both(x, object, subject); sure+perhaps > 1 {
				return subject + " of " + object
			}
		}
	}
	return ""
}

// answerApart is answer, under an exclusive set.
func (g *refGraph) answerApart(x Exclusive, q relation.Tuple) string {
	a := g.answer(q)
	if a != "allow" || typeOf(q.Object) != x.Type {
		return a
	}
	switch sure, perhaps := g.both(x, q.Object, q.Subject); {
	case sure > 1:
		return "deny"
	case sure+perhaps > 1:
		return "error"
	}
	return "allow"
}

// apart filters a list of what was allowed by the exclusive set.
func (g *refGraph) apart(names []string, q func(name string) relation.Tuple, x Exclusive) []string {
	var out []string
	for _, name := range names {
		if name == "error" {
			return []string{"error"}
		}
		sure, perhaps := 0, 0
		if t := q(name); typeOf(t.Object) == x.Type {
			sure, perhaps = g.both(x, t.Object, t.Subject)
		}
		if sure < 2 && sure+perhaps > 1 {
			return []string{"error"}
		}
		if sure < 2 {
			out = append(out, name)
		}
	}
	return out
}

// genExclusive draws a set that the model takes.
func genExclusive(rt *rapid.T, m *refModel) (Exclusive, bool) {
	x := Exclusive{Name: "apart", Type: rapid.SampledFrom(m.types[2:]).Draw(rt, "type")}
	var rels []string
	for rel := range m.defs[x.Type] {
		rels = append(rels, rel)
	}
	slices.Sort(rels)
	if len(rels) < 2 {
		return x, false
	}
	x.Relations = rapid.SliceOfNDistinct(rapid.SampledFrom(rels), 2, min(3, len(rels)), rapid.ID).Draw(rt, "exclusive")
	return x, true
}

// After any history of accepted writes and deletes nobody can hold two exclusive
// roles, and what is refused would have led to it.
func TestNobodyComesToHoldTwo(t *testing.T) {
	t.Parallel()
	graphs, taken, refused := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		m := genModel(rt)
		x, ok := genExclusive(rt, m)
		if !ok {
			return
		}
		w, err := newSilentWorld("")
		if err != nil {
			rt.Fatal(err)
		}
		if _, err := w.enforce(Draft{Model: m.dsl(), Roles: Roles{Exclusive: []Exclusive{x}}}); err != nil {
			return // the model can never be granted, or one of the relations includes another
		}
		graphs++
		w.application("docs").standing.Load().current.own.roles.many = rapid.SampledFrom([]int{0, manyGains}).Draw(rt, "many")
		g := &refGraph{m: m, now: refNow}
		for range 12 {
			after := &refGraph{m: m, now: refNow, tuples: slices.Clone(g.tuples)}
			var change Write
			for range rapid.IntRange(1, 3).Draw(rt, "tuples") {
				tu := genTuple(rt, m, "tuple")
				at := slices.IndexFunc(after.tuples, func(o relation.Tuple) bool { return o.Key() == tu.Key() })
				named := func(o relation.Tuple) bool { return o.Key() == tu.Key() }
				switch {
				case slices.ContainsFunc(change.Writes, named) || slices.ContainsFunc(change.Deletes, named):
				case at >= 0:
					change.Deletes = append(change.Deletes, tu.Key())
					after.tuples = slices.Delete(after.tuples, at, at+1)
				case g.valid(tu):
					change.Writes = append(change.Writes, tu)
					after.tuples = append(after.tuples, tu)
				}
			}
			if len(change.Writes)+len(change.Deletes) == 0 {
				continue
			}
			_, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", change)
			var o *Overlap
			switch {
			case err == nil:
				taken++
				g = after
			case fault.KindOf(err) != fault.Denied || !errors.As(err, &o):
				rt.Fatalf("%+v: %v", change, err)
			default:
				refused++
				could := after.could()
				for _, rel := range o.Relations {
					if could.solve(o.Object, rel, o.Subject, false) == no || !slices.Contains(x.Relations, rel) {
						rt.Fatalf("%+v is refused, and %s could not hold %s of %s\n%s\n%v", change, o.Subject, rel, o.Object, m.dsl(), after.tuples)
					}
				}
			}
		}
		if who := g.could().overlaps(x); who != "" {
			rt.Fatalf("%s holds two of %v\n%s\n%v", who, x, m.dsl(), g.tuples)
		}
	})
	t.Logf("%d histories, %d writes taken, %d refused", graphs, taken, refused)
	if !testing.Short() && (taken < graphs || refused*10 < graphs) { // a few histories may hold neither
		t.Error("too few cases to mean something")
	}
}

// Where overlaps came about in spite of all, every kind of question denies what
// the reference denies.
func TestExclusiveRolesAgainstReference(t *testing.T) {
	t.Parallel()
	tally := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		m := genModel(rt)
		x, ok := genExclusive(rt, m)
		if !ok {
			return
		}
		w, err := newSilentWorld("")
		if err != nil {
			rt.Fatal(err)
		}
		if _, err := w.enforce(Draft{Model: m.dsl(), Roles: Roles{Exclusive: []Exclusive{x}}}); err != nil {
			return
		}
		g := &refGraph{m: m, now: refNow}
		w.db.seed(w.store)
		for range 40 {
			tu := genTuple(rt, m, "tuple")
			if !slices.ContainsFunc(g.tuples, func(o relation.Tuple) bool { return o.Key() == tu.Key() }) {
				g.tuples = append(g.tuples, tu)
				w.db.tuples[w.store][tu.Key()] = tu
			}
		}
		for range 8 {
			q := genQuestion(rt, m)
			if n := rapid.IntRange(0, 3).Draw(rt, "of the set"); n > 0 {
				q.Object, q.Relation = genObject(rt, x.Type), rapid.SampledFrom(x.Relations).Draw(rt, "relation")
			}
			fatal := func(what string, got, want any) {
				rt.Fatalf("%s of %s under %v: %v, the reference says %v\n%s\n%v", what, q, x, got, want, m.dsl(), g.tuples)
			}
			want := g.answerApart(x, q)
			if plain := g.answer(q); plain != want {
				tally[plain+" is "+want]++
			}
			tally[want]++
			for _, explain := range []bool{true, false} {
				d, err := w.Check(context.Background(), Query{Store: w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject, Explain: explain})
				if got := strings.Replace(outcome(d, err), "deep", "error", 1); got != want || explain && err == nil && (d.Trace.Overlap != nil) != (d.Reason == reasonExclusive) {
					fatal(fmt.Sprint("the answer, explained: ", explain), got, want)
				}
			}
			if want == "invalid" {
				continue
			}
			named := func(l List, err error) []string {
				if err != nil {
					return []string{"error"}
				}
				return l.Names
			}
			typ := typeOf(q.Object)
			objects := g.apart(g.objects(typ, q.Relation, q.Subject), func(name string) relation.Tuple { return relation.Tuple{Object: name, Subject: q.Subject} }, x)
			if got := named(w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: typ, Relation: q.Relation, Subject: q.Subject})); !slices.Equal(got, objects) {
				fatal("the objects", got, objects)
			}
			object, userset, _ := strings.Cut(q.Subject, "#")
			users := g.apart(g.users(q.Object, q.Relation, typeOf(object), userset), func(name string) relation.Tuple { return relation.Tuple{Object: q.Object, Subject: name} }, x)
			if got := named(w.ListUsers(context.Background(), UsersQuery{Store: w.store, Object: q.Object, Relation: q.Relation, Type: typeOf(object), Userset: userset})); !slices.Equal(got, users) {
				fatal("the users", got, users)
			}
		}
	})
	t.Log(tally)
	if !testing.Short() && (tally["allow is deny"] == 0 || tally["allow"] == 0) { // a few cases may hold neither
		t.Error("too few cases to mean something")
	}
}
