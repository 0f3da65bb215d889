package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// testCopies: a copy is all of one revision, whatever is written meanwhile.
func testCopies(t *testing.T, open Open) {
	w := newWorld(t, open)
	g, theirs := w.free(w.acme, "mine"), w.free(w.globex, "theirs")
	model := authz.ModelRecord{Application: authz.FreeApplication(g.ID), ID: "m", Source: "text", Active: true, Created: at}
	_, err := w.Tuples().PutModel(w.ctx, ledger.Change{Store: g.ID, Event: event(w.acme.Tenant, "")}, model)
	w.ok(err)
	put := func(id relation.StoreID, payload string) {
		t.Helper()
		_, err := w.Archive().PutAssertions(w.ctx, ledger.Change{Store: id, Event: event(w.acme.Tenant, "")}, "m", []byte(payload))
		w.ok(err)
	}
	put(g.ID, "one\x00\xff")
	put(theirs.ID, "theirs")
	late := time.Unix(0, 1<<60)
	want := []relation.Tuple{tuple("a"), tuple("b"), with(tuple("c"), func(t *relation.Tuple) {
		t.Condition, t.Context, t.Expires = "when", `{"a":"\u001e"}`, late.UnixNano()
	})}
	rev, err := w.write(g.ID, w.acme.Tenant, authz.Write{Writes: want})
	w.ok(err)
	_, err = w.write(theirs.ID, w.globex.Tenant, authz.Write{Writes: []relation.Tuple{tuple("x")}})
	w.ok(err)

	var got []relation.Tuple
	var in authz.Contents
	begin := func(c authz.Contents) error {
		in = c
		// Changes while the copy is made are of later revisions.
		if _, err := w.write(g.ID, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("late")}, Deletes: []relation.Tuple{tuple("b")}}); err != nil {
			return err
		}
		put(g.ID, "two")
		return nil
	}
	each := func(t relation.Tuple) error { got = append(got, t); return nil }
	w.ok(w.Copies().CopyGraph(w.ctx, g.ID, begin, each))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the copy has other tuples: %s", d)
	}
	if d := cmp.Diff(authz.Contents{
		Revision: rev, Models: []authz.ModelRecord{model}, Assertions: map[string][]byte{"m": []byte("one\x00\xff")}, Tuples: len(want),
	}, in); d != "" {
		t.Errorf("the copy has other contents: %s", d)
	}

	nothing := func(authz.Contents) error { return nil }
	w.kind("of an unknown store", w.Copies().CopyGraph(w.ctx, newStore(), nothing, each), fault.NotFound)
	mine := errors.New("enough")
	if err := w.Copies().CopyGraph(w.ctx, g.ID, func(authz.Contents) error { return mine }, each); !errors.Is(err, mine) {
		t.Errorf("an error at the beginning gives %v", err)
	}
	if err := w.Copies().CopyGraph(w.ctx, g.ID, nothing, func(relation.Tuple) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("an error in between gives %v", err)
	}
}
