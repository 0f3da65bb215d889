package authz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// sealed gives a changed image the checksum that fits it.
func sealed(b []byte) []byte {
	b = slices.Clone(b[:len(b)-sha256.Size])
	sum := sha256.Sum256(b[:len(b)-2])
	return append(b, sum[:]...)
}

// An image that is damaged in any way is refused and counted, the store is loaded
// from its rows with all its tuples, and the image is made anew.
func TestDamagedImages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...).imaged(100)
	q := "document:roadmap#can_view@user:alice"
	if d, err := w.ask(t, q); err != nil || !d.Allowed {
		t.Fatal(d, err)
	}
	w.shoot()
	good := *w.db.images[w.store]
	whole := bytes.Join(good.parts, nil)
	refused := uint64(0)
	try := func(what string, im mapImage) {
		t.Helper()
		w.db.images[w.store] = &im
		w.leave(w.store)
		d, err := w.ask(t, q)
		if refused++; err != nil || !d.Allowed || w.Stats().ImageRefusals != refused || w.Stats().Tuples != len(demo) {
			t.Fatalf("%s: %+v, %v, %+v; want %d refusals", what, d, err, w.Stats(), refused)
		}
		if n := w.shoot(); n != 1 || !bytes.Equal(bytes.Join(w.db.images[w.store].parts, nil)[:8], whole[:8]) || w.db.images[w.store].rev != good.rev {
			t.Fatalf("%s: %d images were made", what, n)
		}
	}
	for at := range whole {
		flipped := slices.Clone(whole)
		flipped[at] ^= 1 << (at % 8)
		try(fmt.Sprint("a bit of byte ", at), mapImage{good.rev, [][]byte{flipped}})
	}
	half := [][]byte{whole[:40], whole[40:]}
	for what, im := range map[string]mapImage{
		"nothing": {good.rev, nil}, "an empty part": {good.rev, [][]byte{{}}}, "one byte less": {good.rev, [][]byte{whole[:len(whole)-1]}},
		"one byte more": {good.rev, [][]byte{append(slices.Clone(whole), 0)}}, "a part twice": {good.rev, [][]byte{whole, whole}},
		"the first part missing": {good.rev, half[1:]}, "the last part missing": {good.rev, half[:1]}, "parts swapped": {good.rev, [][]byte{half[1], half[0]}},
		"another revision": {good.rev - 1, good.parts}, "a revision of the future": {good.rev + 1, good.parts},
		"a newer version": {good.rev, [][]byte{sealed(append(append([]byte(imageMagic), imageVersion+1), whole[len(imageMagic)+1:]...))}},
	} {
		try(what, im)
	}
	ahead := newWorld(t, docs, demo...)
	g, err := readImageBytes(w.store, good.rev, whole)
	if err != nil {
		t.Fatal(err)
	}
	g.cur.rev = 77
	try("a whole image of the future", mapImage{77, [][]byte{spelledImage(t, w.store, g)}})
	g.cur.rev = good.rev
	try("another store's", mapImage{good.rev, [][]byte{spelledImage(t, ahead.store, g)}})
	g.cur.rev = 0
	w.db.history[w.store] = []TupleChange{{Position: Position{Rev: 1}, Tuple: tuple(demo[0])}} // which it has
	try("changes that do not fit", mapImage{0, [][]byte{spelledImage(t, w.store, g)}})
}

// An image with a checksum that fits, and which says what no tuple can, is refused.
func TestImpossibleImages(t *testing.T) {
	t.Parallel()
	text := func(s string) []byte { return appendText(nil, s) }
	section := func(kind byte, payload ...[]byte) []byte {
		p := bytes.Join(payload, nil)
		return append(binary.AppendUvarint([]byte{kind}, uint64(len(p))), p...)
	}
	n := func(list ...uint64) (b []byte) {
		for _, v := range list {
			b = binary.AppendUvarint(b, v)
		}
		return b
	}
	image := func(sections ...[]byte) []byte {
		b := append(append([]byte(imageMagic), imageVersion), bytes.Join(sections, nil)...)
		return sealed(append(b, append([]byte{sectionEnd, sha256.Size}, make([]byte, sha256.Size)...)...))
	}
	store := func(names, ties uint64) []byte { return section(sectionStore, text("s"), n(3, names, ties)) }
	forms := section(sectionForms, text("doc"), text(""), text("user"), text(""), text("doc"), text("viewer"), text("user"), text("*"))
	names := append(append(section(sectionNames, n(0), text("a"), text("b")), section(sectionNames, n(1), text("x"), text("y"))...), section(sectionNames, n(3), text("*"))...)
	ties := section(sectionTies, n(2, 1, 0, 2<<1, 0, 1)) // doc:a#viewer@user:x and user:y
	caveat := section(sectionCaveats, text("c"), text(`{"a":1}`), n(9))
	good := image(store(5, 2), forms, names, ties)
	g, err := readImageBytes("s", 3, good)
	if err != nil {
		t.Fatal(err)
	}
	want := tuples("doc:a#viewer@user:x", "doc:a#viewer@user:y")
	if diff := cmp.Diff(want, g.cur.all(g.syms.table().forms)); diff != "" {
		t.Fatal(diff)
	}
	name := func(form uint64, ids ...string) []byte {
		b := n(form)
		for _, id := range ids {
			b = append(b, text(id)...)
		}
		return section(sectionNames, b)
	}
	for what, b := range map[string][]byte{
		"a name twice":               image(store(3, 0), forms, name(0, "a", "a"), name(1, "x")),
		"a name twice, apart":        image(store(3, 0), forms, name(0, "a"), name(1, "x"), name(0, "a")),
		"a name with a space":        image(store(1, 0), forms, name(0, "a b")),
		"a name with a relation":     image(store(1, 0), forms, name(0, "a#viewer")),
		"an empty name":              image(store(1, 0), forms, name(0, "")),
		"everyone as an object":      image(store(1, 0), forms, name(0, "*")),
		"invalid UTF-8":              image(store(1, 0), forms, name(0, "\xff")),
		"somebody as everyone":       image(store(1, 0), forms, name(3, "x")),
		"everyone twice":             image(store(2, 0), forms, name(3, "*", "*")),
		"names of a userset":         image(store(1, 0), forms, name(2, "x")),
		"names of no form":           image(store(1, 0), forms, name(9, "x")),
		"fewer names than said":      image(store(6, 2), forms, names, ties),
		"fewer ties than said":       image(store(5, 3), forms, names, ties),
		"more ties than said":        image(store(5, 1), forms, names, ties),
		"a form twice":               image(store(0, 0), forms, forms),
		"a form of no type":          image(store(0, 0), section(sectionForms, text(""), text(""))),
		"a form of a bad relation":   image(store(0, 0), section(sectionForms, text("a"), text("b c"))),
		"names before forms":         image(store(5, 2), names, forms, ties),
		"ties before names":          image(store(5, 2), forms, ties, names),
		"two stores":                 image(store(5, 2), store(5, 2), forms, names, ties),
		"no store":                   image(forms, names, ties),
		"an unknown section":         image(store(5, 2), forms, names, ties, section(99)),
		"a tie twice":                image(store(5, 3), forms, names, section(sectionTies, n(2, 1, 0, 3<<1, 0, 1, 0))),
		"a tie twice, apart":         image(store(5, 3), forms, names, ties, section(sectionTies, n(2, 1, 0, 1<<1, 1))),
		"a tie twice in two runs":    image(store(5, 2), forms, names, section(sectionTies, n(2, 1, 0, 1<<1, 0, 0, 1<<1, 0))),
		"a tie twice, once guarded":  image(store(5, 3), forms, names, caveat, ties, section(sectionTies, n(2, 1, 0, 1<<1|1, 0, 1))),
		"an object that is not":      image(store(5, 1), forms, names, section(sectionTies, n(2, 1, 2, 1<<1, 0))),
		"an object far away":         image(store(5, 1), forms, names, section(sectionTies, n(2, 1, 1<<63, 1<<1, 0))),
		"an object that wraps":       image(store(5, 2), forms, names, section(sectionTies, n(2, 1, 1, 1<<1, 0, 1<<64-1, 1<<1, 1))),
		"a subject that is not":      image(store(5, 1), forms, names, section(sectionTies, n(2, 1, 0, 1<<1, 2))),
		"a subject that wraps":       image(store(5, 2), forms, names, section(sectionTies, n(2, 1, 0, 2<<1, 1, 1<<64-1))),
		"objects that go back":       image(store(5, 3), forms, names, section(sectionTies, n(2, 1, 1, 1<<1, 0)), ties),
		"a caveat that is not":       image(store(5, 1), forms, names, section(sectionTies, n(2, 1, 0, 1<<1|1, 0, 1))),
		"no subjects":                image(store(5, 0), forms, names, section(sectionTies, n(2, 1, 0, 0))),
		"more subjects than bytes":   image(store(5, 2), forms, names, section(sectionTies, n(2, 1, 0, 1<<40, 0, 1))),
		"a relation that is a type":  image(store(5, 2), forms, names, section(sectionTies, n(0, 1, 0, 2<<1, 0, 1))),
		"a relation that is all":     image(store(5, 2), forms, names, section(sectionTies, n(3, 1, 0, 2<<1, 0, 1))),
		"a number that does not end": image(store(5, 2), forms, names, section(sectionTies, n(2, 1, 0), []byte{0xff, 0xff})),
		"a caveat of nothing":        image(store(5, 2), forms, names, section(sectionCaveats, text(""), text(""), n(0)), ties),
		"a context that is no JSON":  image(store(5, 2), forms, names, section(sectionCaveats, text("c"), text("{"), n(0)), ties),
		"an end before 1970":         image(store(5, 2), forms, names, section(sectionCaveats, text(""), text(""), n(1<<63)), ties),
	} {
		if _, err := readImageBytes("s", 3, b); fault.KindOf(err) != fault.Integrity || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Changes that do not follow on each other are not folded.
func TestTail(t *testing.T) {
	t.Parallel()
	put := func(rev uint64, ordinal int, s string) TupleChange {
		return TupleChange{Position: Position{rev, ordinal}, Tuple: tuple(s)}
	}
	gone := func(rev uint64, ordinal int, s string) TupleChange {
		c := put(rev, ordinal, s)
		c.Delete = true
		return c
	}
	const a, b = "doc:a#viewer@user:x", "doc:b#viewer@user:x"
	for what, c := range map[string]struct {
		list            []TupleChange
		writes, deletes []relation.Tuple
		bad             bool
	}{
		"nothing":                  {},
		"one of each":              {list: []TupleChange{gone(4, 0, a), put(4, 1, b)}, writes: tuples(b), deletes: tuples(a)},
		"comes and goes":           {list: []TupleChange{put(4, 0, a), gone(7, 0, a)}},
		"goes and comes":           {list: []TupleChange{gone(4, 0, a), put(9, 0, a)}, writes: tuples(a), deletes: tuples(a)},
		"goes, comes and goes":     {list: []TupleChange{gone(4, 0, a), put(4, 1, a), gone(5, 0, a)}, deletes: tuples(a)},
		"comes twice":              {list: []TupleChange{put(4, 0, a), put(5, 0, a)}, bad: true},
		"goes twice":               {list: []TupleChange{gone(4, 0, a), gone(5, 0, a)}, bad: true},
		"the image's own revision": {list: []TupleChange{put(3, 0, a)}, bad: true},
		"a revision from before":   {list: []TupleChange{put(2, 0, a)}, bad: true},
		"a change missing before":  {list: []TupleChange{put(4, 1, a)}, bad: true},
		"a change missing between": {list: []TupleChange{put(4, 0, a), put(4, 2, b)}, bad: true},
		"a change twice":           {list: []TupleChange{put(4, 0, a), put(4, 0, b)}, bad: true},
		"back in time":             {list: []TupleChange{put(5, 0, a), put(4, 0, b)}, bad: true},
	} {
		s := tail{last: Position{3, -1}}
		var err error
		for _, x := range c.list {
			err = errors.Join(err, s.add(x))
		}
		writes, deletes := s.net()
		if (err != nil) != c.bad || err == nil && cmp.Diff(c.writes, writes)+cmp.Diff(c.deletes, deletes) != "" {
			t.Errorf("%s: %v and %v, %v", what, writes, deletes, err)
		}
	}
}

// When images are written: after a load from rows, after enough changes, not of
// small stores; and a failure is tried again.
func TestWhenImagesAreWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...).imaged(3)
	ask := func() {
		t.Helper()
		if d, err := w.ask(t, "document:roadmap#can_view@user:alice"); err != nil || !d.Allowed {
			t.Fatal(d, err)
		}
	}
	due := func(what string, want int) {
		t.Helper()
		if n := w.shoot(); n != want {
			t.Errorf("%s: %d images are due, want %d", what, n, want)
		}
	}
	ask()
	due("after a load from rows", 1)
	n := 0
	change := func() {
		n++
		w.write(t, tuples(fmt.Sprintf("folder:%d#owner@user:x", n)), nil)
	}
	change()
	change()
	due("after two changes", 0)
	change()
	due("after three", 1)
	w.leave(w.store)
	ask()
	due("after a load from an image without a tail", 0)
	broken := w.cfg.Images
	w.cfg.Images = noDisk{broken}
	for range 4 {
		change()
	}
	due("while the disk is full", 1)
	if s := w.Stats(); s.ImageFailures != 1 || s.ImageWrites != 2 {
		t.Errorf("%+v", s)
	}
	w.cfg.Images = broken
	change()
	due("soon after a failure", 0)
	for range 3 {
		change()
	}
	due("after more changes", 1)
	for range 14 {
		change() // nobody writes images: the tail grows
	}
	w.leave(w.store)
	ask()
	if s := w.Stats(); s.ImageLoads != 1 || s.ImageRefusals != 0 || w.db.loads != 2 {
		t.Errorf("an image with a long tail: %+v, %d loads of rows", s, w.db.loads)
	}
	due("after it", 1)
	w.cfg.ImageTuples = 1000
	w.db.images[w.store] = &mapImage{1, [][]byte{[]byte("of no use")}}
	w.leave(w.store)
	ask()
	due("of a store that became small", 1)
	if w.db.images[w.store] != nil {
		t.Error("an image of no use is still there")
	}
	w.leave(w.store)
	ask()
	due("of a small store", 0)
}

type noDisk struct{ Images }

func (noDisk) PutImage(context.Context, relation.StoreID, uint64, func(func([]byte) error) error) error {
	return fault.New(fault.Unavailable, "the disk is full")
}

// Readers, a writer, the one that writes images and stores that leave memory, all
// at once: every answer is right for the revision that it names.
func TestImagesWhileWriting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...).imaged(5)
	ctx, cancel := context.WithCancel(context.Background())
	var keeper, readers sync.WaitGroup
	keeper.Go(func() { w.KeepImages(ctx) })
	done := make(chan struct{})
	var mu sync.Mutex
	granted := []bool{1: false} // by revision
	for range 3 {
		readers.Go(func() {
			for running := true; running; {
				select {
				case <-done:
					running = false
				default:
				}
				d, err := w.Check(context.Background(), Query{Store: w.store, Object: "folder:new", Relation: "viewer", Subject: "user:zoe"})
				if fault.KindOf(err) == fault.Unavailable && err != nil {
					continue // it left memory faster than it could be loaded
				}
				mu.Lock()
				if err != nil || d.Revision.Rev < uint64(len(granted)) && d.Allowed != granted[d.Revision.Rev] {
					t.Errorf("%+v, %v", d, err)
				}
				mu.Unlock()
			}
		})
	}
	grant := tuples("folder:new#owner@user:zoe")
	for i := range 300 {
		change := Write{Writes: grant}
		if i%2 == 1 {
			change = Write{Deletes: grant}
		}
		mu.Lock()
		granted = append(granted, i%2 == 0)
		mu.Unlock()
		if _, err := w.Write(context.Background(), ledger.Change{Store: w.store}, "", change); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			w.leave(w.store)
		}
	}
	// By now or soon there is an image, and a load from it.
	for last := uint64(0); w.Stats().ImageLoads == 0 && !t.Failed(); {
		if loads := w.Stats().Loads; loads != last {
			last = loads
			w.leave(w.store)
		}
		runtime.Gosched()
	}
	close(done)
	readers.Wait()
	cancel()
	keeper.Wait()
	if s := w.Stats(); s.ImageRefusals != 0 || s.ImageFailures != 0 {
		t.Errorf("%+v", s)
	}
}

// goldenTuples is what testdata/image.golden holds, at revision 42 of a store.
func goldenTuples() []relation.Tuple {
	list := tuples("doc:a#viewer@user:x", "doc:a#viewer@user:y", "doc:a#viewer@user:*", "doc:b#owner@team:core#member", "doc:ä:1#viewer@user:y", "team:core#member@user:x", "team:core#member@team:all#member")
	list = append(list, relation.Tuple{Object: "doc:a", Relation: "viewer", Subject: "user:z", Condition: "office", Context: `{"zone":"eu"}`},
		relation.Tuple{Object: "doc:b", Relation: "viewer", Subject: "user:z", Expires: 1_800_000_000_000_000_000},
		relation.Tuple{Object: "doc:b", Relation: "viewer", Subject: "user:x", Condition: "office", Expires: 7})
	slices.SortFunc(list, byKey)
	return list
}

const goldenStore = relation.StoreID("01ARZ3NDEKTSV4RRFFQ69G5FAV")

// An image of version 1 is read for good.
func TestGoldenImage(t *testing.T) {
	t.Parallel()
	const file = "testdata/image.golden"
	if *update {
		g, err := built(goldenTuples())
		if err != nil {
			t.Fatal(err)
		}
		g.cur.rev = 42
		if err := os.WriteFile(file, spelledImage(t, goldenStore, g), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	g, err := readImageBytes(goldenStore, 42, b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goldenTuples(), g.cur.all(g.syms.table().forms)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzImage: whatever the bytes are, with a checksum that fits, they are refused or
// make a graph that a second image says again.
func FuzzImage(f *testing.F) {
	b, err := os.ReadFile("testdata/image.golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > sha256.Size+2 {
			b = sealed(b)
		}
		g, err := readImageBytes(goldenStore, 42, b)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Integrity && k != fault.Unsupported {
				t.Fatal(err)
			}
			return
		}
		again, err := readImageBytes(goldenStore, 42, spelledImage(t, goldenStore, g))
		if err != nil {
			t.Fatal(err)
		}
		list := g.cur.all(g.syms.table().forms)
		if diff := cmp.Diff(list, again.cur.all(again.syms.table().forms)); diff != "" || len(list) != g.cur.tuples {
			t.Fatalf("(-first +second):\n%s", diff)
		}
		for _, x := range list {
			if err := x.Validate(); err != nil {
				t.Fatalf("%v: %v", x, err)
			}
		}
	})
}

// BenchmarkImage writes and reads the image of a large store. Loads from tuples are
// BenchmarkLoad's.
func BenchmarkImage(b *testing.B) {
	set, _ := drive(93)
	list := make([]relation.Tuple, 0, len(set))
	for t := range set {
		list = append(list, t)
	}
	slices.SortFunc(list, byKey)
	g, err := built(list)
	if err != nil {
		b.Fatal(err)
	}
	id := relation.StoreID(tenant.RandomID())
	var parts [][]byte
	b.Run(fmt.Sprint("write/", len(list)), func(b *testing.B) {
		start, size := processor(), 0
		for b.Loop() {
			parts, size = nil, 0
			if err := g.cur.image(id, g.syms.table().forms, func(p []byte) error { parts = append(parts, slices.Clone(p)); size += len(p); return nil }); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(size)/float64(len(list)), "B/tuple")
		b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
	})
	b.Run(fmt.Sprint("read/", len(list)), func(b *testing.B) {
		start := processor()
		for b.Loop() {
			r := newImageReader(id, g.cur.rev)
			for _, p := range parts {
				if err := r.part(p); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := r.graph(newSymbols()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
	})
	b.Run(fmt.Sprint("rows/", len(list)), func(b *testing.B) {
		start := processor()
		for b.Loop() {
			if _, err := built(list); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(processor()-start)/float64(b.N), "cpu-ns/op")
	})
}
