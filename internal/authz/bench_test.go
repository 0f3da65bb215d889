package authz

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// drive makes data after research/authz.md section 1: for each unit 300 users,
// 30 nested groups, 265 folders on 4 levels and 4,000 documents, about 10,800
// tuples, with questions of the four kinds.
func drive(units int) (set map[relation.Tuple]relation.Tuple, questions map[string][]Query) {
	rng := rand.New(rand.NewPCG(1, 2))
	set, questions = map[relation.Tuple]relation.Tuple{}, map[string][]Query{}
	add := func(object, rel, subject string) {
		t := relation.Tuple{Object: object, Relation: rel, Subject: subject}
		set[t] = t
	}
	ask := func(kind, object, rel, subject string) {
		questions[kind] = append(questions[kind], Query{Object: object, Relation: rel, Subject: subject})
	}
	for u := range units {
		user := func(i int) string { return fmt.Sprintf("user:w%d-user-%03d", u, i) }
		group := func(i int) string { return fmt.Sprintf("team:w%d-group-%02d", u, i) }
		folder := func(i int) string { return fmt.Sprintf("folder:w%d-folder-%03d", u, i) }
		for g := range 30 {
			for range 30 {
				add(group(g), "member", user(rng.IntN(280)))
			}
			add(group(g), "member", user(290+g%10))
			if g > 0 {
				add(group((g-1)/3), "member", group(g)+"#member")
			}
		}
		for f := range 265 {
			if f > 0 {
				add(folder(f), "parent", folder((f-1)/6))
			}
			for range 6 {
				add(folder(f), []string{"viewer", "editor"}[rng.IntN(2)], user(rng.IntN(280)))
			}
			if f%9 == 0 {
				add(folder(f), "viewer", group(f%30)+"#member")
			}
		}
		add(folder(0), "editor", user(280))          // inherits everything
		add(folder(0), "viewer", group(0)+"#member") // and so do all groups
		for d := range 4000 {
			doc := fmt.Sprintf("document:w%d-document-%04d", u, d)
			owner := user(rng.IntN(280))
			add(doc, "parent", folder(rng.IntN(265)))
			add(doc, "owner", owner)
			ask("direct", doc, "can_edit", owner)
			ask("inherited", doc, "can_edit", user(280))
			ask("nested", doc, "can_view", user(290+d%10))
			ask("denied", doc, "can_view", user(281+d%9))
		}
		for i := range 300 {
			add(fmt.Sprintf("team:w%d-all", u), "member", user(i)) // so that every asker is known
		}
	}
	return set, questions
}

// driven is a world of that data, already in memory.
func driven(tb testing.TB, units int) (w *world, questions map[string][]Query) {
	tb.Helper()
	w = newWorld(tb, docs)
	w.db.tuples[w.store], questions = drive(units)
	for _, list := range questions {
		for i := range list {
			list[i].Store = w.store
		}
	}
	if _, err := w.Check(context.Background(), questions["direct"][0]); err != nil {
		tb.Fatal(err)
	}
	return w, questions
}

var kinds = []struct {
	name string
	want bool
}{{"direct", true}, {"inherited", true}, {"nested", true}, {"denied", false}}

func BenchmarkCheck(b *testing.B) {
	for _, units := range []int{1, 10} {
		w, questions := driven(b, units)
		for _, kind := range kinds {
			list := questions[kind.name]
			rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			b.Run(fmt.Sprintf("%s/%d", kind.name, w.Stats().Tuples), func(b *testing.B) {
				b.ReportAllocs()
				start := processor()
				for i := 0; b.Loop(); i++ {
					d, err := w.Check(context.Background(), list[i%len(list)])
					if err != nil || d.Allowed != kind.want {
						b.Fatal(list[i%len(list)], d, err)
					}
				}
				b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
			})
		}
		q := questions["denied"][0]
		q.Explain = true
		b.Run(fmt.Sprintf("explained-deny/%d", w.Stats().Tuples), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = w.Check(context.Background(), q)
			}
		})
		b.Run(fmt.Sprintf("apply-one/%d", w.Stats().Tuples), func(b *testing.B) {
			b.ReportAllocs()
			snap := w.stores.get(w.store).snap.Load()
			rev, write := snap.rev, []relation.Tuple{{Object: "folder:w0-folder-007", Relation: "owner", Subject: "user:w0-user-001"}}
			start := processor()
			for b.Loop() {
				rev++
				w.Apply(w.store, rev, write, nil)
				rev++
				w.Apply(w.store, rev, nil, write)
			}
			b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
			w.db.revs[w.store] = rev
		})
	}
}

// BenchmarkLoad builds a graph from tuples, and says what it weighs.
func BenchmarkLoad(b *testing.B) {
	for _, units := range []int{1, 10, 100} {
		set, _ := drive(units)
		list := make([]relation.Tuple, 0, len(set))
		for t := range set {
			list = append(list, t)
		}
		clear(set)
		b.Run(fmt.Sprint(len(list)), func(b *testing.B) {
			var weight float64
			start := processor()
			for b.Loop() {
				before := heap()
				g, err := built(list)
				if err != nil {
					b.Fatal(err)
				}
				weight = float64(heap()-before) / float64(len(list))
				runtime.KeepAlive(g)
			}
			b.ReportMetric(weight, "B/tuple")
			b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
		})
	}
}

// processor returns the processor time of this process: on a busy machine the
// clock says more about the neighbours.
func processor() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return r.Utime.Nano() + r.Stime.Nano()
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A check costs no garbage on its usual ways, and a tuple no more than 100 bytes.
//
// not parallel: it counts the allocations and the heap of the whole process.
func TestCost(t *testing.T) {
	set, _ := drive(1)
	list := make([]relation.Tuple, 0, len(set))
	for tu := range set {
		list = append(list, tu)
	}
	before := heap()
	g, err := built(list)
	if err != nil {
		t.Fatal(err)
	}
	if weight := float64(heap()-before) / float64(len(list)); weight > 100 {
		t.Errorf("%.0f bytes a tuple", weight)
	}
	runtime.KeepAlive(g)
	w, questions := driven(t, 1)
	for _, kind := range kinds {
		q := questions[kind.name][17]
		for range 3 {
			_, _ = w.Check(context.Background(), q) // the evaluator's memory grows once
		}
		if n := testing.AllocsPerRun(200, func() { _, _ = w.Check(context.Background(), q) }); n >= 1 && !raced {
			t.Errorf("%s: %v allocations", kind.name, n)
		}
		if d, err := w.Check(context.Background(), q); err != nil || d.Allowed != kind.want {
			t.Errorf("%v: %+v, %v", q, d, err)
		}
	}
	write := tuples("folder:w0-folder-007#owner@user:w0-user-001")
	if n := testing.AllocsPerRun(50, func() {
		_, _ = w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Writes: write})
		_, _ = w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Deletes: write})
	}); n > 100 {
		t.Errorf("a write and a delete: %v allocations: more is copied than what changed", n)
	}
}

func built(list []relation.Tuple) (*graph, error) {
	b := newBuilder(newSymbols())
	for _, t := range list {
		if err := b.add(t); err != nil {
			return nil, err
		}
	}
	return b.graph(1)
}

// BenchmarkLists lists a thousand documents of a user, and the users of a document.
func BenchmarkLists(b *testing.B) {
	w, _ := driven(b, 10)
	var mine []relation.Tuple
	for d := range 1000 {
		mine = append(mine, relation.Tuple{Object: fmt.Sprintf("document:w%d-document-%04d", d%10, d), Relation: "editor", Subject: "user:lister"})
	}
	for i := 0; i < len(mine); i += MaxWrite {
		w.write(b, mine[i:i+MaxWrite], nil)
	}
	b.Run("objects/1000", func(b *testing.B) {
		b.ReportAllocs()
		start := processor()
		for b.Loop() {
			l, err := w.ListObjects(context.Background(), ObjectsQuery{Store: w.store, Type: "document", Relation: "can_view", Subject: "user:lister"})
			if err != nil || len(l.Names) != 1000 {
				b.Fatal(len(l.Names), err)
			}
		}
		b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
	})
	b.Run("users", func(b *testing.B) {
		b.ReportAllocs()
		start := processor()
		n := 0
		for b.Loop() {
			l, err := w.ListUsers(context.Background(), UsersQuery{Store: w.store, Object: "document:w3-document-0100", Relation: "can_view", Type: "user"})
			if err != nil {
				b.Fatal(err)
			}
			n = len(l.Names)
		}
		b.ReportMetric(float64(n), "users")
		b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
	})
}

// BenchmarkGroupChange asks after each change of a group, when every set that is
// kept has lost its worth: what a subject's first touch costs.
func BenchmarkGroupChange(b *testing.B) {
	w, questions := driven(b, 10)
	list := questions["nested"]
	rev := w.stores.get(w.store).snap.Load().rev
	change := []relation.Tuple{{Object: "team:w9-all", Relation: "member", Subject: "user:comes-and-goes"}}
	start := processor()
	for i := 0; b.Loop(); i++ {
		rev++
		if i%2 == 0 {
			w.Apply(w.store, rev, change, nil)
		} else {
			w.Apply(w.store, rev, nil, change)
		}
		if d, err := w.Check(context.Background(), list[i%len(list)]); err != nil || !d.Allowed {
			b.Fatal(d, err)
		}
	}
	b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
}
