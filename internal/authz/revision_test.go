package authz

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Writers commit random tuples, one in ten to a group, and readers put every kind
// of question: each answer is the reference's at exactly the revision that it
// names, which is no older than the last write that had returned when the
// question came. Half of the models are random, too.
func TestRightAtTheRevisionNamed(t *testing.T) {
	t.Parallel()
	var total, worlds, revisions int
	for want := cases(t); total < want; {
		rapid.Check(t, func(rt *rapid.T) {
			r := genRace(rt)
			if r == nil {
				return
			}
			r.run()
			r.judge(rt)
			total, worlds, revisions = total+len(r.answers), worlds+1, revisions+r.revisionsNamed()
		})
	}
	t.Logf("%d different answers of %d worlds; a world was asked at %.1f revisions", total, worlds, float64(revisions)/float64(worlds))
	if !testing.Short() && revisions < 3*worlds { // a busy machine may run the writers first
		t.Error("too few revisions were asked to mean something")
	}
}

// race is one world, what is written there, and what is asked meanwhile.
type race struct {
	w         *world
	g         *refGraph
	writers   [][]Write
	questions []relation.Tuple
	asked     []Asked

	history map[uint64][]relation.Tuple // the tuples at each revision
	newest  atomic.Uint64               // being committed
	settled atomic.Uint64               // returned to its writer
	put     atomic.Int64                // questions

	mu      sync.Mutex
	answers map[answered]string
	wrong   []string
}

// answered names an answer: two of one name must be the same. An error names no
// revision, but lies between two.
type answered struct {
	question      int
	kind          string
	oldest, named uint64
}

// genRace draws a world; nil for a model that can never be granted.
func genRace(rt *rapid.T) *race {
	m, grouped := groupedModel(), rapid.Bool().Draw(rt, "grouped")
	if !grouped {
		m = genModel(rt)
	}
	w, err := newSilentWorld(m.dsl())
	if fault.KindOf(err) == fault.Invalid && err != nil {
		return nil
	}
	if err != nil {
		rt.Fatal(err)
	}
	r := &race{w: w, g: &refGraph{m: m, now: refNow}, history: map[uint64][]relation.Tuple{}, answers: map[answered]string{}}
	draw := func() relation.Tuple {
		if !grouped {
			return genTuple(rt, m, "tuple")
		}
		part := *m
		part.types = append(slices.Clone(m.types[:2]), m.types[3:]...)
		if rapid.IntRange(0, 9).Draw(rt, "to a group") == 0 {
			part.types = m.types[:3]
		}
		return genTuple(rt, &part, "tuple")
	}
	seeded := map[relation.Tuple]relation.Tuple{}
	for range 25 {
		tu := draw()
		seeded[tu.Key()] = tu
	}
	w.db.seed(w.store)
	w.db.tuples[w.store] = seeded
	for range 3 {
		var list []Write
		for range 6 {
			write := Write{IgnoreMissing: true, IgnoreDuplicate: true}
			for range rapid.IntRange(1, 3).Draw(rt, "changes") {
				switch tu := draw(); {
				case rapid.Bool().Draw(rt, "delete"):
					some := slices.SortedFunc(maps.Values(seeded), byKey)
					write.Deletes = append(write.Deletes, rapid.SampledFrom(some).Draw(rt, "stored").Key())
				case r.g.valid(tu):
					write.Writes = append(write.Writes, tu)
				}
			}
			list = append(list, distinct(write))
		}
		r.writers = append(r.writers, list)
	}
	for range 8 {
		q, a := genQuestion(rt, m), Asked{}
		if rapid.IntRange(0, 3).Draw(rt, "contextual") == 0 {
			a.Contextual = slices.DeleteFunc([]relation.Tuple{draw()}, func(t relation.Tuple) bool { return !r.g.valid(t) })
		}
		if rapid.Bool().Draw(rt, "x") {
			a.Context = map[string]any{"x": 1.0}
		}
		if r.at(nil, a).answer(q) != "invalid" {
			r.questions, r.asked = append(r.questions, q), append(r.asked, a)
		}
	}
	if len(r.questions) == 0 {
		return nil
	}
	return r
}

// groupedModel has nested groups, parents, "and", "but not" and a condition.
func groupedModel() *refModel {
	this := refRewrite{op: "this"}
	computed := func(rel string) refRewrite { return refRewrite{op: "computed", relation: rel} }
	or := func(operands ...refRewrite) refRewrite { return refRewrite{op: "or", operands: operands} }
	inherited := refRewrite{op: "from", relation: "r0", tupleset: "p0"}
	shared := []string{"user", "user:*", "team#r0", "user with c", "team#r0 with c"}
	return &refModel{types: []string{"user", "service", "team", "folder", "doc"}, defs: map[string]map[string]*refDef{
		"user":    {},
		"service": {},
		"team":    {"r0": {allowed: []string{"user", "team#r0"}, rewrite: this}},
		"folder": {
			"p0": {allowed: []string{"folder"}, rewrite: this},
			"r0": {allowed: shared, rewrite: or(this, inherited)},
		},
		"doc": {
			"p0": {allowed: []string{"folder"}, rewrite: this},
			"r0": {allowed: shared, rewrite: or(this, inherited)},
			"r1": {allowed: []string{"user", "team#r0"}, rewrite: this},
			"r2": {rewrite: refRewrite{op: "not", operands: []refRewrite{computed("r0"), computed("r1")}}},
			"r3": {rewrite: refRewrite{op: "and", operands: []refRewrite{computed("r0"), computed("r1")}}},
		},
	}}
}

// distinct leaves out what a write names twice, which it may not.
func distinct(w Write) Write {
	seen := map[relation.Tuple]bool{}
	twice := func(t relation.Tuple) bool {
		was := seen[t.Key()]
		seen[t.Key()] = true
		return was
	}
	w.Deletes = slices.DeleteFunc(w.Deletes, twice)
	w.Writes = slices.DeleteFunc(w.Writes, twice)
	return w
}

// at is the reference's graph for a question over those tuples.
func (r *race) at(stored []relation.Tuple, a Asked) *refGraph {
	g := *r.g
	g.tuples = stored
	out := g.over(a.Contextual)
	out.asked = a.Context
	return out
}

// run lets the writers and readers go.
func (r *race) run() {
	r.history[1] = slices.Collect(maps.Values(r.w.db.tuples[r.w.store]))
	r.newest.Store(1)
	r.settled.Store(1)
	r.w.db.dropBatch = func(rev uint64) bool { // called under the store's lock, before the delivery
		r.history[rev] = slices.Collect(maps.Values(r.w.db.tuples[r.w.store]))
		r.newest.Store(rev)
		return false
	}
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	for n := range 3 {
		readers.Go(func() {
			for i := 0; i < 4*len(r.questions) || !done.Load(); i++ {
				r.ask((i+n)%len(r.questions), []string{"check", "objects", "users", "expand"}[(i+i/len(r.questions))%4])
			}
		})
	}
	for _, list := range r.writers {
		writers.Go(func() {
			for _, write := range list {
				for enough := r.put.Load() + 5; r.put.Load() < enough; {
					runtime.Gosched() // the readers go on
				}
				rev, err := r.w.Write(context.Background(), ledger.Change{Store: r.w.store}, "", write)
				if k := fault.KindOf(err); err != nil && k != fault.Conflict && k != fault.Invalid {
					r.fail("write: %v", err)
				}
				for err == nil {
					if before := r.settled.Load(); before >= rev.Rev || r.settled.CompareAndSwap(before, rev.Rev) {
						break
					}
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
}

func (r *race) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// ask puts one question and keeps the answer.
func (r *race) ask(n int, kind string) {
	q, a, ctx := r.questions[n], r.asked[n], context.Background()
	key, answer := answered{question: n, kind: kind}, ""
	oldest := r.settled.Load()
	var err error
	switch object, userset := relation.SplitSubject(q.Subject); kind {
	case "check":
		var d Decision
		d, err = r.w.Check(ctx, Query{Store: r.w.store, Object: q.Object, Relation: q.Relation, Subject: q.Subject, Asked: a})
		key.named, answer = d.Revision.Rev, outcome(d, nil)
	case "objects":
		var l List
		l, err = r.w.ListObjects(ctx, ObjectsQuery{Store: r.w.store, Type: typeOf(q.Object), Relation: q.Relation, Subject: q.Subject, Asked: a})
		key.named, answer = l.Revision.Rev, fmt.Sprint(l.Names)
	case "users":
		var l List
		l, err = r.w.ListUsers(ctx, UsersQuery{Store: r.w.store, Object: q.Object, Relation: q.Relation, Type: typeOf(object), Userset: userset, Asked: a})
		key.named, answer = l.Revision.Rev, fmt.Sprint(l.Names)
	case "expand":
		var x Expansion
		x, err = r.w.Expand(ctx, ExpandQuery{Store: r.w.store, Object: q.Object, Relation: q.Relation, Asked: a})
		key.named, answer = x.Revision.Rev, spelled(x.Root)
	}
	r.put.Add(1)
	newest := r.newest.Load()
	switch {
	case err != nil && fault.KindOf(err) == fault.Internal:
		r.fail("%s %s: %v", kind, q, err)
		return
	case err != nil:
		key.oldest, key.named, answer = oldest, newest, "error"
	case key.named < oldest || key.named > newest:
		r.fail("%s %s names revision %d, outside of %d to %d", kind, q, key.named, oldest, newest)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.answers[key]; ok && before != answer {
		r.wrong = append(r.wrong, fmt.Sprintf("%s %s at %d: both %s and %s", kind, q, key.named, before, answer))
	}
	r.answers[key] = answer
}

// judge compares all answers with the reference.
func (r *race) judge(rt *rapid.T) {
	for _, text := range r.wrong {
		rt.Fatal(text)
	}
	for key, got := range r.answers {
		if got == "error" && key.oldest != 0 {
			if !r.failsBetween(key) {
				rt.Fatalf("%s %s is an error at a revision from %d to %d, for the reference at none", key.kind, r.questions[key.question], key.oldest, key.named)
			}
			continue
		}
		if want := r.reference(key, key.named); got != want {
			rt.Fatalf("%s %s (%+v) at revision %d: %s, the reference says %s\n%s\n%v", key.kind, r.questions[key.question], r.asked[key.question],
				key.named, got, want, r.g.m.dsl(), r.history[key.named])
		}
	}
}

func (r *race) failsBetween(key answered) bool {
	for rev := key.oldest; rev <= key.named; rev++ {
		if r.reference(key, rev) == "error" {
			return true
		}
	}
	return false
}

// reference answers at a revision.
func (r *race) reference(key answered, rev uint64) string {
	q := r.questions[key.question]
	g := r.at(r.history[rev], r.asked[key.question])
	var names []string
	switch object, userset := relation.SplitSubject(q.Subject); key.kind {
	case "check":
		return g.answer(q)
	case "expand":
		return g.expanded(q.Object, q.Relation)
	case "objects":
		names = g.objects(typeOf(q.Object), q.Relation, q.Subject)
	case "users":
		names = g.users(q.Object, q.Relation, typeOf(object), userset)
	}
	if slices.Equal(names, []string{"error"}) {
		return "error"
	}
	return fmt.Sprint(names)
}

// revisionsNamed counts the revisions at which there are answers.
func (r *race) revisionsNamed() int {
	named := map[uint64]bool{}
	for key := range r.answers {
		named[key.named] = true
	}
	return len(named)
}
