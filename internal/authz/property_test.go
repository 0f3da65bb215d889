package authz

import (
	"context"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// outcome spells the engine's answer in the reference's words.
func outcome(d Decision, err error) string {
	switch {
	case err == nil && d.Allowed:
		return "allow"
	case err == nil:
		return "deny"
	case fault.KindOf(err) == fault.Invalid:
		return "invalid"
	case fault.KindOf(err) == fault.Exhausted:
		return "deep"
	}
	return err.Error()
}

// Random models, tuples and questions: the engine answers as the reference does,
// with a trace that proves what it says. Each of rapid's runs (100 by default)
// takes 30 graphs through a load, writes and a reload.
func TestAgainstReference(t *testing.T) {
	t.Parallel()
	var graphs, valid, questions int
	tally := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		for range 30 {
			graphs++
			m := genModel(rt)
			dsl := m.dsl()
			w, err := newSilentWorld(dsl)
			if fault.KindOf(err) == fault.Invalid && err != nil {
				continue // the draw can never be granted; see TestRefused of package schema
			}
			if err != nil {
				rt.Fatalf("%v\n%s", err, dsl)
			}
			valid++
			g := &refGraph{m: m, tuples: rapid.SliceOfNDistinct(rapid.Custom(func(rt *rapid.T) relation.Tuple {
				return genTuple(rt, m, "tuple")
			}), 5, 40, rapid.ID).Draw(rt, "tuples")}
			var loaded, written []relation.Tuple
			for i, tu := range g.tuples {
				if i%3 == 0 && g.valid(tu) {
					written = append(written, tu)
				} else {
					loaded = append(loaded, tu)
				}
			}
			w.db.seed(w.store)
			for _, tu := range loaded {
				w.db.tuples[w.store][tu] = true
			}
			if _, err := w.Check(context.Background(), Query{Store: w.store}); fault.KindOf(err) != fault.Invalid {
				rt.Fatalf("the empty question: %v", err)
			}
			if len(written) > 0 {
				if _, err := w.Write(context.Background(), ledger.Change{Store: w.store}, written, nil); err != nil {
					rt.Fatalf("write: %v", err)
				}
			}
			for range 15 {
				q := genTuple(rt, m, "question")
				questions++
				want := g.answer(q)
				tally[want]++
				for range 2 { // with a recorder, then without
					d, err := w.Check(context.Background(), Query{Store: w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject, Explain: true})
					if got := outcome(d, err); got != want {
						rt.Fatalf("%s: %s, the reference says %s\n%s\n%v\n%s", q, got, want, dsl, g.tuples, d.Trace)
					}
					if err == nil {
						proves(rt, g, q, d)
					}
					d, err = w.Check(context.Background(), Query{Store: w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject})
					if got := outcome(d, err); got != want {
						rt.Fatalf("%s without a recorder: %s, the reference says %s", q, got, want)
					}
				}
			}
		}
	})
	t.Logf("%d graphs, %d with a valid model, %d questions: %v", graphs, valid, questions, tally)
	// Shares, not counts: -short lets rapid draw a fifth of its runs.
	if graphs < 600 || valid*2 < graphs || tally["allow"]*20 < questions || tally["deny"]*20 < questions {
		t.Errorf("too few cases to mean something")
	}
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
	at, rel := q.Object, q.Relation
	for i, grant := range d.Trace.Path {
		if grant.Object != at || grant.Relation != rel {
			rt.Fatalf("%s: the path breaks at %+v\n%s", q, grant, d.Trace)
		}
		for _, inc := range grant.Includes {
			if !g.includes(typeOf(at), rel, inc) {
				rt.Fatalf("%s: %s does not include %s\n%s", q, rel, inc, d.Trace)
			}
			rel = inc
		}
		if grant.Reason == Itself {
			if at+"#"+rel != q.Subject || i != len(d.Trace.Path)-1 {
				rt.Fatalf("%s: %s#%s is not the subject\n%s", q, at, rel, d.Trace)
			}
			return
		}
		if !slices.Contains(g.tuples, grant.Tuple) || !g.valid(grant.Tuple) || grant.Tuple.Object != at {
			rt.Fatalf("%s: there is no valid tuple %s\n%s", q, grant.Tuple, d.Trace)
		}
		switch grant.Reason {
		case ByTuple:
			if grant.Tuple.Subject != q.Subject {
				rt.Fatalf("%s: the last tuple names another\n%s", q, d.Trace)
			}
			return
		case ByEveryone:
			if grant.Tuple.Subject != typeOf(q.Subject)+":*" {
				rt.Fatalf("%s: the wildcard is of another type\n%s", q, d.Trace)
			}
			return
		case ByUserset:
			at, rel = relation.SplitSubject(grant.Tuple.Subject)
		case ByParent:
			at, rel = grant.Tuple.Subject, d.Trace.Path[i+1].Relation
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
