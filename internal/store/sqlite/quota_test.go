package sqlite

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// A tenant's stores hold as many tuples together as it may have, whichever way
// they come and go; those about its administration do not count.
func TestQuotaOfTuples(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	path := place(t)
	s := open(t, Config{Path: path, MaxTuples: 5})
	system := world(t, s)
	var free []*directory.Graph
	for _, name := range []string{"one", "two"} {
		g := &directory.Graph{Tenant: tenant.Platform, ID: relation.StoreID(tenant.RandomID()), Kind: directory.FreeGraph, Name: name, Created: time.Now()}
		free = append(free, g)
		_, err := s.Directory().Mutate(ctx, change(system, "store.create", "store:"+string(g.ID)), func(tx directory.Tx) error { return tx.Insert(g) })
		if err != nil {
			t.Fatal(err)
		}
	}
	tup := func(n int) relation.Tuple {
		return relation.Tuple{Object: fmt.Sprintf("document:%d", n), Relation: "viewer", Subject: "user:a"}
	}
	write := func(s *Store, g *directory.Graph, w authz.Write) error {
		_, err := s.Tuples().WriteTuples(ctx, change(g.ID, "tuple.write", "store:"+string(g.ID)), w)
		return err
	}
	add := func(s *Store, g *directory.Graph, from, to int) error {
		var w authz.Write
		for n := from; n < to; n++ {
			w.Writes = append(w.Writes, tup(n))
		}
		return write(s, g, w)
	}
	full := func(what string, err error) {
		t.Helper()
		if fault.KindOf(err) != fault.Exhausted || !strings.Contains(fault.Public(err), "may have 5 relation tuples") || !strings.Contains(fault.Public(err), "limits.tuples") {
			t.Errorf("%s: %v", what, err)
		}
	}
	good := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	good("three in the first", add(s, free[0], 0, 3))
	full("three more in the second", add(s, free[1], 0, 3))
	if r, err := s.Head(ctx, free[1].ID); err != nil || r.Rev != 0 {
		t.Errorf("a refused write made the revision %v, %v", r, err)
	}
	good("two in the second", add(s, free[1], 0, 2))
	full("one more", add(s, free[1], 2, 3))
	good("one for another", write(s, free[1], authz.Write{Writes: []relation.Tuple{tup(9)}, Deletes: []relation.Tuple{tup(0)}}))
	guarded := tup(9)
	guarded.Expires = time.Now().Add(time.Hour).UnixNano()
	good("the same with an end", write(s, free[1], authz.Write{Writes: []relation.Tuple{guarded}, Deletes: []relation.Tuple{tup(9)}}))
	full("one more still", add(s, free[0], 3, 4))
	good("a user with a role", addUser(s, system, tenant.RandomID()))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Path: path, MaxTuples: 5})
	full("one more after a restart", add(s, free[0], 3, 4))
	good("a delete", write(s, free[0], authz.Write{Deletes: []relation.Tuple{tup(0)}}))
	good("one in its place", add(s, free[0], 3, 4))
	_, err := s.Directory().Mutate(ctx, change(system, "store.delete", "store:"+string(free[0].ID)), func(tx directory.Tx) error { return tx.Delete(free[0]) })
	good("a store goes", err)
	good("its tuples count no more", add(s, free[1], 10, 13))
	full("and no less", add(s, free[1], 13, 14))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good("without a bound", add(open(t, Config{Path: path}), free[1], 20, 40))
}
