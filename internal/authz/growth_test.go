package authz

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"bulwark.example/internal/relation"
)

// long makes every id of the data 36 bytes, as a UUID's text is.
func long(name string) string {
	object, rel := relation.SplitSubject(name)
	typ, id, _ := relation.SplitObject(object)
	if id != everyone {
		object = typ + ":" + id + strings.Repeat("-", max(0, 36-len(id)))
	}
	if rel != "" {
		object += "#" + rel
	}
	return object
}

// sample is how many questions of a kind are asked, from all over the data.
const sample = 1 << 14

// grown is the data of driven with long ids.
func grown(tb testing.TB, units int) (w *world, questions map[string][]Query) {
	tb.Helper()
	w = newWorld(tb, docs)
	set, questions := drive(units)
	w.db.tuples[w.store] = make(map[relation.Tuple]relation.Tuple, len(set))
	for t := range set {
		t.Object, t.Subject = long(t.Object), long(t.Subject)
		w.db.tuples[w.store][t] = t
	}
	for kind, list := range questions {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = slices.Clone(list[:min(len(list), sample)]) // a million of them would be what the collector is busy with
		for i := range list {
			q := &list[i]
			q.Store, q.Object, q.Subject = w.store, long(q.Object), long(q.Subject)
		}
		questions[kind] = list
	}
	if _, err := w.Check(context.Background(), questions["direct"][0]); err != nil {
		tb.Fatal(err)
	}
	w.db.tuples[w.store] = nil // the graph is what answers
	return w, questions
}

// streamed lays the questions' texts one after the other, as a caller's have just
// been read from its connection: to wait for them is not the engine's work.
func streamed(list []Query) []Query {
	var text strings.Builder
	for _, q := range list {
		text.WriteString(q.Object + q.Subject)
	}
	list, rest := slices.Clone(list), text.String()
	for i := range list {
		q := &list[i]
		n, m := len(q.Object), len(q.Object)+len(q.Subject)
		q.Object, q.Subject, rest = rest[:n], rest[n:m], rest[m:]
	}
	return list
}

// row asks the questions in turn, each with the answer want.
func row(b *testing.B, w *world, list []Query, want func(i int) bool, before func(i int)) {
	b.Helper()
	b.ReportAllocs()
	list = streamed(list)
	for i := range list { // the asker's groups, unless before undoes it
		_, _ = w.Check(context.Background(), list[i])
	}
	b.ResetTimer()
	start := processor()
	for i := 0; b.Loop(); i++ {
		if before != nil {
			before(i)
		}
		q := list[i%len(list)]
		d, err := w.Check(context.Background(), q)
		if err != nil || d.Allowed != want(i%len(list)) {
			b.Fatal(q, d, err)
		}
	}
	b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
}

// BenchmarkDecisions are the rows of in-process checks that bench/ prints: with
// string arguments and ids of 36 bytes.
func BenchmarkDecisions(b *testing.B) {
	for _, units := range []int{1, 9, 93} {
		w, questions := grown(b, units)
		size := w.Stats().Tuples
		var mix []Query
		var want []bool
		for i := range min(len(questions["direct"]), len(questions["denied"])) {
			for _, kind := range kinds {
				mix, want = append(mix, questions[kind.name][i]), append(want, kind.want)
			}
		}
		for _, kind := range kinds {
			b.Run(fmt.Sprintf("%s/%d", kind.name, size), func(b *testing.B) {
				row(b, w, questions[kind.name], func(int) bool { return kind.want }, nil)
			})
		}
		b.Run(fmt.Sprintf("mix/%d", size), func(b *testing.B) { row(b, w, mix, func(i int) bool { return want[i] }, nil) })
		if units < 93 {
			continue
		}
		disturbed(b, w, mix, want)
	}
	shapes(b)
}

// disturbed are the rows without a warm group set, or with a writer.
func disturbed(b *testing.B, w *world, mix []Query, want []bool) {
	size := w.Stats().Tuples
	rev := w.stores.get(w.store).snap.Load().rev
	change := func(object, rel string) func() {
		n := 0
		return func() {
			list := []relation.Tuple{{Object: long(object), Relation: rel, Subject: long("user:comes-and-goes")}}
			if rev++; n%2 == 0 {
				w.Apply(w.store, rev, list, nil)
			} else {
				w.Apply(w.store, rev, nil, list)
			}
			n++
		}
	}
	nested := make([]Query, 0, len(mix)/4)
	for i := 2; i < len(mix); i += 4 {
		nested = append(nested, mix[i])
	}
	yes := func(int) bool { return true }
	b.Run(fmt.Sprintf("first-touch/%d", size), func(b *testing.B) {
		s := w.stores.get(w.store).snap.Load()
		row(b, w, nested, yes, func(i int) { s.sets.slot(s.find(nested[i%len(nested)].Subject)).Store(nil) })
	})
	group := change("team:w9-all", "member")
	b.Run(fmt.Sprintf("after-group-change/%d", size), func(b *testing.B) { row(b, w, nested, yes, func(int) { group() }) })
	document := change("document:w9-document-0001", "editor")
	b.Run(fmt.Sprintf("under-writes-1-in-100/%d", size), func(b *testing.B) {
		row(b, w, mix, func(i int) bool { return want[i] }, func(i int) {
			switch {
			case i%1000 == 0:
				group()
			case i%100 == 0:
				document()
			}
		})
	})
}

// shapes are graphs that one relation makes large.
func shapes(b *testing.B) {
	tuples := func(n int, make func(i int) relation.Tuple) (list []relation.Tuple) {
		for i := range n {
			t := make(i)
			list = append(list, relation.Tuple{Object: long(t.Object), Relation: t.Relation, Subject: long(t.Subject)})
		}
		return list
	}
	user := func(i int) string { return fmt.Sprintf("user:%d", i) }
	for _, n := range []int{100, 100_000} {
		shape(b, fmt.Sprintf("group-of/%d", n), append(tuples(n, func(i int) relation.Tuple {
			return relation.Tuple{Object: "team:all", Relation: "member", Subject: user(i)}
		}), tuples(1, func(int) relation.Tuple {
			return relation.Tuple{Object: "document:d", Relation: "viewer", Subject: "team:all#member"}
		})...), n, func(i int) (string, string) { return "document:d", user(i) })
		shape(b, fmt.Sprintf("folder-of/%d", n), append(tuples(n, func(i int) relation.Tuple {
			return relation.Tuple{Object: fmt.Sprintf("document:%d", i), Relation: "parent", Subject: "folder:f"}
		}), tuples(1, func(int) relation.Tuple {
			return relation.Tuple{Object: "folder:f", Relation: "viewer", Subject: user(1)}
		})...), n, func(i int) (string, string) { return fmt.Sprintf("document:%d", i), user(1) })
	}
	for _, n := range []int{10, 1000} {
		list := tuples(n, func(i int) relation.Tuple {
			return relation.Tuple{Object: fmt.Sprintf("team:%d", i), Relation: "member", Subject: user(1)}
		})
		list = append(list, tuples(n, func(i int) relation.Tuple {
			return relation.Tuple{Object: fmt.Sprintf("document:%d", i), Relation: "viewer", Subject: fmt.Sprintf("team:%d#member", i)}
		})...)
		shape(b, fmt.Sprintf("groups-of-a-user/%d", n), list, n, func(i int) (string, string) { return fmt.Sprintf("document:%d", i), user(1) })
	}
	for _, n := range []int{2, 20} {
		list := tuples(n, func(i int) relation.Tuple {
			return relation.Tuple{Object: fmt.Sprintf("folder:%d", i+1), Relation: "parent", Subject: fmt.Sprintf("folder:%d", i)}
		})
		list = append(list, tuples(1, func(int) relation.Tuple {
			return relation.Tuple{Object: "folder:0", Relation: "viewer", Subject: user(1)}
		})...)
		shape(b, fmt.Sprintf("depth/%d", n), list, 1, func(int) (string, string) { return fmt.Sprintf("folder:%d", n), user(1) })
	}
}

func shape(b *testing.B, name string, list []relation.Tuple, questions int, ask func(i int) (object, user string)) {
	b.Helper()
	w := newWorld(b, docs)
	w.db.seed(w.store)
	for _, t := range list {
		w.db.tuples[w.store][t] = t
	}
	var asked []Query
	for i := range questions {
		object, user := ask(i)
		rel := "can_view"
		if strings.HasPrefix(object, "folder:") {
			rel = "viewer"
		}
		asked = append(asked, Query{Store: w.store, Object: long(object), Relation: rel, Subject: long(user)})
	}
	b.Run(name, func(b *testing.B) { row(b, w, asked, func(int) bool { return true }, nil) })
}
