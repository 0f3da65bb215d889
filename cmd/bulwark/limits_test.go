package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// The limits of the operator's file reach those who keep them.
func TestLimits(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	n, state := limitedNode(t, time.Now, config.Limits{Memory: 1, Tuples: 300, FreeStores: 1})
	acme, globex := relation.StoreID(state.Tenants["acme"].Store), relation.StoreID(state.Tenants["globex"].Store)
	owner, err := n.directory.ResolveTenant("acme")
	must(t, err)
	write := func(part int) error {
		var w authz.Write
		for i := range authz.MaxWrite {
			w.Writes = append(w.Writes, relation.Tuple{Object: fmt.Sprintf("folder:%d-%d", part, i), Relation: "viewer", Subject: "user:x"})
		}
		_, err := n.authz.Write(ctx, n.change(acme, owner.Tenant, "tuple.write"), "", w)
		return err
	}
	must(t, write(0))
	must(t, write(1))
	if err := write(2); fault.KindOf(err) != fault.Exhausted { // dev's own tuples take some room
		t.Errorf("more than 300 tuples: %v", err)
	}
	create := func() error {
		_, err := n.directory.CreateGraph(ctx, ledger.Event{Action: "store.create", Subject: "system"}, owner.Tenant, "free")
		return err
	}
	must(t, create())
	if err := create(); fault.KindOf(err) != fault.Exhausted {
		t.Errorf("a second free store: %v", err)
	}
	for range 2 { // what leaves memory comes back, and answers as before
		for store, want := range map[relation.StoreID]bool{acme: true, globex: false} {
			d, err := n.authz.Check(ctx, authz.Query{Store: store, Object: "folder:0-7", Relation: "viewer", Subject: "user:x"})
			if err != nil || d.Allowed != want {
				t.Errorf("%s: %+v, %v", store, d, err)
			}
		}
	}
	if s := n.authz.Stats(); s.Evictions == 0 {
		t.Errorf("a byte of memory is enough for all stores: %+v", s)
	}
}
