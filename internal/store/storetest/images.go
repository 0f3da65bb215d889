package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// image is what LoadImage gives.
type image struct {
	Rev     uint64
	Parts   []string
	Changes []authz.TupleChange
}

func (w *world) image(id relation.StoreID) (image, authz.Loaded, error) {
	var im image
	loaded, err := w.Images().LoadImage(w.ctx, id, func(rev uint64, part []byte) error {
		im.Rev, im.Parts = rev, append(im.Parts, string(part))
		return nil
	}, func(c authz.TupleChange) error { im.Changes = append(im.Changes, c); return nil })
	return im, loaded, err
}

func (w *world) putImage(id relation.StoreID, rev uint64, parts ...string) error {
	return w.Images().PutImage(w.ctx, id, rev, func(part func([]byte) error) error {
		b := make([]byte, 0, 100) // the same memory for each
		for _, p := range parts {
			if err := part(append(b[:0], p...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *world) holds(id relation.StoreID, want image) {
	w.t.Helper()
	got, loaded, err := w.image(id)
	w.ok(err)
	if diff := cmp.Diff(want, got); diff != "" || loaded.Revision.Rev != w.head(id) || loaded.Revision.Store != id {
		w.t.Errorf("the image at %+v (-want +got):\n%s", loaded.Revision, diff)
	}
}

// testImages: the newest image comes back whole, with all that changed since, from
// one view; no revision, event or quota knows of it.
func testImages(t *testing.T, open Open) {
	w := newWorld(t, open)
	_, _, err := w.image(w.docs)
	w.kind("the image of a store without one", err, fault.NotFound)
	_, _, err = w.image(newStore())
	w.kind("the image of an unknown store", err, fault.NotFound)
	w.kind("an image for an unknown store", w.putImage(newStore(), 1, "a"), fault.NotFound)
	w.kind("a removal for an unknown store", w.Images().DropImage(w.ctx, newStore()), fault.NotFound)
	w.ok(w.Images().DropImage(w.ctx, w.docs))

	guard := with(tuple("b"), func(t *relation.Tuple) { t.Condition, t.Context, t.Expires = "c", `{"a":1}`, 7 })
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("a")}})
	w.ok(err)
	events := len(w.events())
	w.ok(w.putImage(w.docs, 1, "one", "two\x00\xff", ""))
	if w.head(w.docs) != 1 || len(w.events()) != events {
		t.Error("an image made a revision or an event")
	}
	w.holds(w.docs, image{Rev: 1, Parts: []string{"one", "two\x00\xff", ""}})
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{guard}, Deletes: []relation.Tuple{tuple("a")}})
	w.ok(err)
	own := authz.OwnPolicies{Store: w.docs, ID: "p", Files: []authz.PolicyFile{{Name: "a", Text: "b"}}, Created: at}
	_, err = w.Tuples().PutOwnPolicies(w.ctx, ledger.Change{Store: w.docs, Event: event(w.acme.Tenant, "")}, own)
	w.ok(err)
	_, err = w.write(w.docs, w.acme.Tenant, authz.Write{Deletes: []relation.Tuple{guard.Key()}})
	w.ok(err)
	since := []authz.TupleChange{
		{Position: authz.Position{Rev: 2}, Tuple: tuple("a"), Delete: true}, {Position: authz.Position{Rev: 2, Ordinal: 1}, Tuple: guard},
		{Position: authz.Position{Rev: 4}, Tuple: guard.Key(), Delete: true},
	}
	w.holds(w.docs, image{Rev: 1, Parts: []string{"one", "two\x00\xff", ""}, Changes: since})
	if _, loaded, err := w.image(w.docs); err != nil || !cmp.Equal(loaded.Own, &own) {
		t.Errorf("the tenant's policies come as %+v: %v", loaded.Own, err)
	}
	w.ok(w.putImage(w.docs, 2, "next"))
	w.holds(w.docs, image{Rev: 2, Parts: []string{"next"}, Changes: since[2:]})
	w.ok(w.putImage(w.docs, 2, "again"))
	w.holds(w.docs, image{Rev: 2, Parts: []string{"again"}, Changes: since[2:]})
	w.ok(w.putImage(w.docs, 99, "of the future")) // the engine's to find
	w.holds(w.docs, image{Rev: 99, Parts: []string{"of the future"}})
	w.kind("a revision that does not fit", w.putImage(w.docs, 1<<63, "a"), fault.Invalid)

	free := w.free(w.globex, "theirs")
	model := authz.ModelRecord{Application: authz.FreeApplication(free.ID), ID: "m", Source: "s", Active: true, Created: at}
	_, err = w.Tuples().PutModel(w.ctx, ledger.Change{Store: free.ID, Event: event(w.globex.Tenant, "")}, model)
	w.ok(err)
	w.ok(w.putImage(free.ID, 1, "theirs"))
	w.holds(free.ID, image{Rev: 1, Parts: []string{"theirs"}})
	if _, loaded, err := w.image(free.ID); err != nil || !cmp.Equal(loaded.Models, []authz.ModelRecord{model}) {
		t.Errorf("the models come as %+v: %v", loaded.Models, err)
	}
	mine := errors.New("mine")
	_, err = w.Images().LoadImage(w.ctx, w.docs, func(uint64, []byte) error { return mine }, nil)
	if !errors.Is(err, mine) {
		t.Errorf("a reader's error gives %v", err)
	}
	w.ok(w.Images().DropImage(w.ctx, w.docs))
	_, _, err = w.image(w.docs)
	w.kind("a removed image", err, fault.NotFound)
	w.holds(free.ID, image{Rev: 1, Parts: []string{"theirs"}})
}

// testImagesTorn: an image of which not all was written changes nothing, and others
// write while one is written.
func testImagesTorn(t *testing.T, open Open) {
	w := newWorld(t, open)
	w.ok(w.putImage(w.docs, 0, "old", "and whole"))
	mine := errors.New("mine")
	err := w.Images().PutImage(w.ctx, w.docs, 5, func(part func([]byte) error) error {
		for i := range 3 {
			w.ok(part([]byte("torn")))
			// Here another one has the writer: no transaction holds it.
			_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple(fmt.Sprint(i))}})
			w.ok(err)
		}
		return mine
	})
	if !errors.Is(err, mine) {
		t.Errorf("a writer's error gives %v", err)
	}
	w.kind("no parts at all", w.putImage(w.docs, 5), fault.Conflict)
	err = w.Images().PutImage(w.ctx, w.docs, 5, func(part func([]byte) error) error { return part(make([]byte, authz.MaxImagePart+1)) })
	w.kind("a part that is too large", err, fault.TooLarge)
	got, _, err := w.image(w.docs)
	w.ok(err)
	if got.Rev != 0 || !cmp.Equal(got.Parts, []string{"old", "and whole"}) || len(got.Changes) != 3 {
		t.Errorf("a torn image left %+v", got)
	}
	// Two at once: one of them is there at the end, whole.
	err = w.Images().PutImage(w.ctx, w.docs, 6, func(part func([]byte) error) error {
		w.ok(part([]byte("slow 1")))
		w.ok(w.putImage(w.docs, 7, "quick"))
		return part([]byte("slow 2"))
	})
	if err != nil {
		w.kind("one that another one overtook", err, fault.Conflict)
	}
	got, _, err = w.image(w.docs)
	w.ok(err)
	if whole := map[uint64]int{6: 2, 7: 1}[got.Rev]; len(got.Parts) != whole {
		t.Errorf("of two images this is left: %+v", got)
	}
	w.ok(w.Close())
	w.Store = open(t, w.place)
	again, _, err := w.image(w.docs)
	w.ok(err)
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}

// testImagesEnd: an image goes with its store, also one that is being written.
func testImagesEnd(t *testing.T, open Open) {
	w := newWorld(t, open)
	g, beside := w.free(w.acme, "gone"), w.free(w.acme, "beside")
	w.ok(w.putImage(g.ID, 0, "a", "b"))
	w.ok(w.putImage(beside.ID, 0, "c"))
	err := w.Images().PutImage(w.ctx, g.ID, 0, func(part func([]byte) error) error {
		w.ok(part([]byte("d")))
		w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Delete(g) })
		return part([]byte("e"))
	})
	w.kind("an image of a store that is deleted meanwhile", err, fault.NotFound)
	_, _, err = w.image(g.ID)
	w.kind("the image of a deleted store", err, fault.NotFound)
	w.holds(beside.ID, image{Parts: []string{"c"}})
}
