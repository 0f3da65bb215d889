package authz

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/relation"
)

// imaged makes the world keep images of all stores, and make them anew after
// about so many changes. Nobody writes them but [world.shoot].
func (w *world) imaged(changes int) *world {
	w.cfg.Images, w.cfg.ImageTuples, w.cfg.ImageChanges = mapImages{w.db}, 1, changes
	return w
}

// shoot writes the images that are due, and says how many there were.
func (w *world) shoot() (n int) {
	for {
		select {
		case ent := <-w.wanted:
			w.keepImage(context.Background(), ent)
			n++
		default:
			return n
		}
	}
}

// leave takes a store out of memory.
func (w *world) leave(id relation.StoreID) {
	ent := w.stores.get(id)
	if ent == nil {
		return // nobody asked yet
	}
	ent.mu.Lock()
	defer ent.mu.Unlock()
	ent.lose()
	ent.app.forget()
}

// all returns every tuple of the graph, in order of their keys.
func (s *snapshot) all(forms []form) []relation.Tuple {
	var out []relation.Tuple
	s.each(func(object, key, word, caveat uint32) bool {
		out = append(out, s.tuple(object, key, word, caveat, forms))
		return true
	})
	slices.SortFunc(out, byKey)
	return out
}

func spelledImage(t testing.TB, store relation.StoreID, g *graph) []byte {
	t.Helper()
	var b []byte
	err := g.cur.image(store, g.syms.table().forms, func(part []byte) error {
		if len(part) > MaxImagePart/2 {
			t.Errorf("a part of %d bytes", len(part))
		}
		b = append(b, part...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readImageBytes(store relation.StoreID, rev uint64, b []byte) (*graph, error) {
	r := newImageReader(store, rev)
	if err := r.part(b); err != nil {
		return nil, err
	}
	return r.graph(newSymbols())
}

// Whatever a graph holds, it holds after an image of it was read: also what came
// by writes, and nothing that went.
func TestImageHoldsTheGraph(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 8))
	for round := range 40 {
		var list []relation.Tuple
		present := map[relation.Tuple]relation.Tuple{}
		draw := func() relation.Tuple {
			x := tuple(fmt.Sprintf("doc:%d#%s@%s", rng.IntN(9), []string{"viewer", "owner"}[rng.IntN(2)],
				[]string{"user:*", fmt.Sprint("user:", rng.IntN(30)), fmt.Sprintf("team:%d#member", rng.IntN(5)), "doc:ä:b#owner", "team:" + fmt.Sprint(rng.IntN(9))}[rng.IntN(5)]))
			if rng.IntN(4) == 0 {
				x.Condition = "c"
			}
			if x.Condition != "" && rng.IntN(2) == 0 {
				x.Context = fmt.Sprintf(`{"n":%d}`, rng.IntN(3))
			}
			if rng.IntN(4) == 0 {
				x.Expires = 1 + rng.Int64()
			}
			return x
		}
		for range rng.IntN(60) {
			if x := draw(); present[x.Key()] == (relation.Tuple{}) {
				present[x.Key()] = x
				list = append(list, x)
			}
		}
		g, err := built(list)
		if err != nil {
			t.Fatal(err)
		}
		for rev := uint64(2); rev < uint64(2+round%4*10); rev++ {
			var writes, deletes []relation.Tuple
			x := draw()
			if present[x.Key()] != (relation.Tuple{}) {
				deletes = append(deletes, x.Key())
				delete(present, x.Key())
			}
			if rng.IntN(2) == 0 {
				writes = append(writes, x)
				present[x.Key()] = x
			}
			if err := g.apply(rev, writes, deletes); err != nil {
				t.Fatal(err)
			}
		}
		want := slices.SortedFunc(maps.Values(present), byKey)
		again, err := readImageBytes("s", g.cur.rev, spelledImage(t, "s", g))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, again.cur.all(again.syms.table().forms)); diff != "" || again.cur.rev != g.cur.rev || again.cur.tuples != len(want) {
			t.Fatalf("round %d (-want +got):\n%s", round, diff)
		}
		for _, x := range want { // every name can be found, and from both ends
			if again.in.find(x.Object) == 0 || len(again.cur.in.node(again.in.find(relationObject(x.Subject)))) == 0 {
				t.Fatalf("%s is not found", x)
			}
		}
	}
}

func relationObject(subject string) string {
	object, _ := relation.SplitSubject(subject)
	return object
}

// A load from an image and what changed since gives the graph that a load from
// the rows gives.
func TestImageAndTail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...).imaged(4)
	ask := func(want string, q string) {
		t.Helper()
		if d, err := w.ask(t, q); outcome(d, err) != want {
			t.Errorf("%s: %s, %v", q, outcome(d, err), err)
		}
	}
	forms := func() []form { return w.application("docs").syms.table().forms }
	ask("allow", "document:roadmap#can_view@user:alice")
	if n := w.shoot(); n != 1 || w.Stats().ImageWrites != 1 {
		t.Fatalf("%d images, %+v", n, w.Stats())
	}
	w.write(t, tuples("folder:plans#viewer@user:dave"), tuples("folder:plans#owner@user:alice"))
	ended := tuple("folder:plans#editor@user:zoe")
	ended.Expires = 1
	w.write(t, []relation.Tuple{ended}, tuples("folder:plans#viewer@user:dave"))
	want := w.stores.get(w.store).snap.Load().all(forms())
	w.leave(w.store)
	ask("deny", "document:roadmap#can_view@user:alice")
	ask("deny", "document:roadmap#can_view@user:zoe")
	snap := w.stores.get(w.store).snap.Load()
	if diff := cmp.Diff(want, snap.all(forms())); diff != "" || snap.rev != 3 || snap.tuples != len(want) {
		t.Errorf("at %d (-want +got):\n%s", snap.rev, diff)
	}
	if s := w.Stats(); s.ImageLoads != 1 || s.ImageRefusals != 0 || w.db.loads != 1 {
		t.Errorf("%+v after %d loads of rows", s, w.db.loads)
	}
	if n := w.shoot(); n != 1 || w.db.images[w.store].rev != 3 {
		t.Errorf("after a load with a long tail %d images were written, the newest at %d", n, w.db.images[w.store].rev)
	}
}
