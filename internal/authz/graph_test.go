package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Edges behave as a set of (key, word) whatever is added and removed, and the
// older versions stay what they were.
func TestEdges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var e edges
		want := map[[2]uint32]bool{}
		var versions []edges
		var copies []edges
		for range rapid.IntRange(1, 60).Draw(rt, "n") {
			key, word := uint32(rapid.IntRange(1, 4).Draw(rt, "key")), uint32(rapid.IntRange(1, 20).Draw(rt, "word"))
			at := [2]uint32{key, word}
			var changed bool
			if rapid.Bool().Draw(rt, "add") {
				if e, changed = e.with(key, word); changed == want[at] {
					rt.Fatalf("with(%v) = %v", at, changed)
				}
				want[at] = true
			} else {
				if e, changed = e.without(key, word); changed != want[at] {
					rt.Fatalf("without(%v) = %v", at, changed)
				}
				delete(want, at)
			}
			versions, copies = append(versions, e), append(copies, slices.Clone(e))
			n, last := 0, [2]uint32{}
			e.all(func(key, word uint32) bool {
				at := [2]uint32{key, word}
				if !want[at] || slices.Compare(last[:], at[:]) >= 0 {
					rt.Fatalf("%v after %v in %v", at, last, e)
				}
				last = at
				n++
				return true
			})
			if n != len(want) {
				rt.Fatalf("%d edges, want %d", n, len(want))
			}
			for key := uint32(0); key < 6; key++ {
				for word := uint32(0); word < 22; word++ {
					if e.holds(key, word) != want[[2]uint32{key, word}] {
						rt.Fatalf("holds(%d, %d) in %v", key, word, e)
					}
				}
			}
		}
		for i := range versions {
			if !slices.Equal(versions[i], copies[i]) {
				rt.Fatalf("version %d changed", i)
			}
		}
	})
}

// The set of visited pairs is empty again after reset, question after question,
// also when its stamps begin anew.
func TestVisitedSet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := set{stamp: rapid.SampledFrom([]uint32{0, 7, 1<<32 - 3}).Draw(rt, "stamp")}
		for range rapid.IntRange(1, 8).Draw(rt, "questions") {
			s.reset()
			want := map[[2]uint32]bool{}
			for range rapid.IntRange(0, 300).Draw(rt, "n") {
				at := [2]uint32{uint32(rapid.IntRange(0, 60).Draw(rt, "object")), uint32(rapid.IntRange(0, 4).Draw(rt, "program"))}
				if s.has(at[0], at[1]) != want[at] {
					rt.Fatalf("has(%v) = %v", at, !want[at])
				}
				if !want[at] {
					want[at] = true
					s.add(at[0], at[1])
				}
			}
			if s.n != len(want) || 2*s.n > len(s.slots) {
				rt.Fatalf("%d pairs in %d slots, want %d pairs", s.n, len(s.slots), len(want))
			}
		}
	})
}

// Names are found again, through growth of every part, by readers of older
// views as well, while the writer adds.
func TestInterner(t *testing.T) {
	t.Parallel()
	in, syms := newInterner(0), newSymbols()
	name := func(i int) string { return fmt.Sprintf("type%d:%s-%d", i%7, strings.Repeat("x", i%200), i) }
	const n = 20_000
	var wg sync.WaitGroup
	for i := range n {
		id, err := in.add(name(i), syms)
		if err != nil || id != uint32(i)+1 {
			t.Fatalf("%d: %d, %v", i, id, err)
		}
		if again, _ := in.add(name(i), syms); again != id {
			t.Fatalf("%d was added twice", i)
		}
		if i%2500 == 0 {
			v := in.view
			wg.Go(func() {
				for j := range n {
					want := uint32(0)
					if j <= i {
						want = uint32(j) + 1
					}
					if got := v.find(name(j)); got != want || (want != 0 && v.name(got) != name(j)) {
						t.Errorf("view of %d: find(%d) = %d", i, j, got)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if v := in.view; v.find("type1:nobody") != 0 || syms.table().names[in.entity(2).typ] != "type1" {
		t.Error("an unknown name is found, or a type is wrong")
	}
}

// Names that no tuple holds any more do not fill the memory for ever.
func TestChurnIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	for i := range 150 {
		var list []relation.Tuple
		for j := range MaxWrite {
			list = append(list, tuple(fmt.Sprintf("folder:f-%d-%d#viewer@user:u-%d-%d", i, j, i, j)))
		}
		if d, err := w.ask(t, "document:roadmap#can_view@user:alice"); err != nil || !d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
		w.write(t, list, nil)
		if d, err := w.ask(t, list[99].String()); err != nil || !d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
		w.write(t, nil, list)
		if d, err := w.ask(t, list[99].String()); err != nil || d.Allowed {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if n := w.stores.get(w.store).graph.in.n; n > 6000 {
		t.Errorf("%d names in memory for %d tuples", n, w.Stats().Tuples)
	}
	if s := w.Stats(); s.Tuples != len(demo) || s.Resyncs != 0 {
		t.Errorf("%+v", s)
	}
	got, err := readAll(w, Filter{}, 5, nil)
	if err != nil || len(got) != len(demo) {
		t.Errorf("%d tuples, %v", len(got), err)
	}
}

func TestNamesRunOut(t *testing.T) {
	t.Parallel()
	syms := newSymbols()
	table := &symtab{byName: map[string]sym{}, names: make([]string, wildcard)}
	syms.cur.Store(table)
	if _, err := syms.add("one too many"); err == nil {
		t.Error("a symbol took the wildcard's place")
	}
	w := newWorld(t, docs, demo...)
	if _, err := w.ask(t, demo[0]); err != nil {
		t.Fatal(err)
	}
	w.stores.get(w.store).app.syms.cur.Store(table)
	_, _ = w.Write(context.Background(), ledger.Change{Store: w.store}, nil, tuples(demo[1])) // its names are unknown now
	if d, err := w.ask(t, demo[0]); err == nil || d.Allowed {
		t.Errorf("a store that cannot be interned answers %+v", d)
	}
}
