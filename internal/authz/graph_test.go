package authz

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Pages behave as a set of edges whatever comes and goes, guarded or not, and
// the older versions stay what they were.
func TestPages(t *testing.T) {
	t.Parallel()
	type at struct{ from, key, word uint32 }
	rapid.Check(t, func(rt *rapid.T) {
		want := map[at]uint32{} // to the caveat
		ps := fill(nil, 3*pageSize)
		var versions []pages
		var copies []map[at]uint32
		draw := func() at {
			return at{
				uint32(rapid.SampledFrom([]int{1, 2, pageSize - 1, pageSize, 3 * pageSize, 4*pageSize + 1}).Draw(rt, "from")),
				uint32(rapid.IntRange(1, 3).Draw(rt, "key")), uint32(rapid.IntRange(1, 12).Draw(rt, "word")),
			}
		}
		spelled := func(ps pages) map[at]uint32 {
			got := map[at]uint32{}
			for from := uint32(0); from < uint32(len(ps)*pageSize); from++ {
				var last [2]uint32
				for i, nd := 0, ps.node(from); i < len(nd); {
					key, words, caveats, after := nd.next(i)
					i = after
					for n, w := range words {
						e := edge{from: from, key: key &^ guarded, word: w}
						if caveats != nil {
							e.caveat = caveats[n]
						}
						now := [2]uint32{key, w}
						if slices.Compare(last[:], now[:]) >= 0 || e.stored() != key {
							rt.Fatalf("%v after %v", e, last)
						}
						last = now
						got[at{from, e.key, w}] = e.caveat
					}
				}
			}
			return got
		}
		for range rapid.IntRange(1, 30).Draw(rt, "batches") {
			next := maps.Clone(want)
			var changes []change
			fits := true
			for range rapid.IntRange(1, 6).Draw(rt, "changes") {
				w, caveat := draw(), uint32(rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(rt, "caveat"))
				old, there := next[w]
				if slices.ContainsFunc(changes, func(c change) bool { return at{c.from, c.key, c.word} == w }) {
					continue
				}
				c := change{edge: edge{from: w.from, key: w.key, word: w.word, caveat: caveat}}
				op := rapid.SampledFrom([]string{"come", "come", "go", "swap"}).Draw(rt, "op")
				if op == "come" && there && (old == 0) != (caveat == 0) {
					continue // that a key stands once is the store's to see to
				}
				if op != "come" {
					gone := c
					gone.gone, gone.caveat = true, 0
					fits = fits && there
					changes = append(changes, gone)
					delete(next, w)
				} else {
					fits = fits && !there
				}
				if op != "go" {
					changes = append(changes, c)
					next[w] = caveat
				}
			}
			after, err := ps.with(changes, 5*pageSize)
			if (err == nil) != fits {
				rt.Fatalf("%v: %v, fits: %v", changes, err, fits)
			}
			if err != nil {
				continue
			}
			ps, want = after, next
			if diff := cmp.Diff(want, spelled(ps)); diff != "" {
				rt.Fatalf("%v: %s", changes, diff)
			}
			versions, copies = append(versions, ps), append(copies, maps.Clone(want))
			for w, c := range want {
				key := w.key
				if c != 0 {
					key |= guarded
				}
				if words, _ := ps.node(w.from).group(key); !holds(words, w.word) {
					rt.Fatalf("%v is not held", w)
				}
			}
		}
		for i := range versions {
			if diff := cmp.Diff(copies[i], spelled(versions[i])); diff != "" {
				rt.Fatalf("version %d changed: %s", i, diff)
			}
		}
		var list []edge
		for w, c := range want {
			list = append(list, edge{w.from, w.key, w.word, c})
		}
		sortEdges(list)
		if diff := cmp.Diff(want, spelled(fill(list, 5*pageSize))); diff != "" {
			rt.Fatalf("filled: %s", diff)
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
	if v := in.view; v.find("type1:nobody") != 0 || syms.table().forms[in.form(2)] != (form{"type1", ""}) {
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
	table := &symtab{byForm: map[form]sym{}, forms: make([]form, maxSymbols+1)}
	syms.cur.Store(table)
	if _, err := syms.add("one too many", ""); err == nil {
		t.Error("a symbol took the bit of guarded keys")
	}
	w := newWorld(t, docs, demo...)
	if _, err := w.ask(t, demo[0]); err != nil {
		t.Fatal(err)
	}
	w.stores.get(w.store).app.syms.cur.Store(table)
	_, _ = w.Write(context.Background(), ledger.Change{Store: w.store}, "", Write{Deletes: tuples(demo[1])}) // its names are unknown now
	if d, err := w.ask(t, demo[0]); err == nil || d.Allowed {
		t.Errorf("a store that cannot be interned answers %+v", d)
	}
}
