package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// testSubscribers: every subscriber gets every batch once, in order, before the
// change's caller gets its answer, and what it gets is what Changes gives.
func testSubscribers(t *testing.T, open Open) {
	w := newWorld(t, open)
	var mu sync.Mutex
	seen := map[relation.StoreID][]store.Batch{}
	var second atomic.Int64
	w.Subscribe(func(b store.Batch) {
		mu.Lock()
		defer mu.Unlock()
		seen[b.Store] = append(seen[b.Store], b)
	})
	w.Subscribe(func(store.Batch) { second.Add(1) })
	begin := w.head(w.acme.System)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 20 {
				rev, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
					name := fmt.Sprintf("%d-%d", i, n)
					return errors.Join(tx.Insert(user(w.acme, name)), tx.WriteTuples(w.acme.System, []relation.Tuple{tuple(name)}, nil))
				})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if have := begin + uint64(len(seen[w.acme.System])); have < rev.Rev {
					t.Errorf("revision %d was answered when %d was delivered", rev.Rev, have)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	logged, err := w.Changes(w.ctx, w.acme.System, begin, 1000)
	w.ok(err)
	if diff := cmp.Diff(logged, seen[w.acme.System]); diff != "" {
		t.Errorf("delivered is not what was logged (-logged +delivered):\n%s", diff)
	}
	if len(logged) != 160 || second.Load() != 160 {
		t.Errorf("%d logged, %d delivered to the second", len(logged), second.Load())
	}
}

// testOutbox: each change has one event, with the revision that it made, until
// it is marked; numbers only grow.
func testOutbox(t *testing.T, open Open) {
	w := newWorld(t, open)
	w.ok(w.Outbox().Done(w.ctx, seqs(w.events())))
	if n := len(w.events()); n != 0 {
		t.Fatalf("%d events are left", n)
	}
	want := ledger.Event{
		ID: tenant.RandomID(), Time: at, Class: ledger.Mutation, Action: "user.create", Tenant: w.globex.Tenant, Subject: "user:x",
		Actors: []string{"service:y"}, ClientID: "c", Resource: "user:z", Reason: "r", RequestID: "q", Detail: map[string]string{"k": "v"},
	}
	rev, err := w.Directory().Mutate(w.ctx, ledger.Change{Store: w.acme.System, Event: want}, func(directory.Tx) error { return nil })
	w.ok(err)
	want.Revision = rev
	first := w.events()
	if diff := cmp.Diff(want, first[0].Event, exact); diff != "" || len(first) != 1 {
		t.Errorf("the event changed on the way (-want +got):\n%s", diff)
	}
	for range 4 {
		w.must(w.acme.System, w.acme.Tenant, func(directory.Tx) error { return nil })
	}
	all := w.events()
	page, err := w.Outbox().Pending(w.ctx, 2)
	w.ok(err)
	if diff := cmp.Diff(all[:2], page, exact); diff != "" {
		t.Errorf("a page is not the oldest events:\n%s", diff)
	}
	w.ok(w.Outbox().Done(w.ctx, seqs(all[1:3])))
	w.ok(w.Outbox().Done(w.ctx, seqs(all[1:3]))) // again, as after a crash
	w.ok(w.Outbox().Done(w.ctx, nil))
	if diff := cmp.Diff([]audit.OutboxEntry{all[0], all[3], all[4]}, w.events(), exact); diff != "" {
		t.Errorf("marked two, and left (-want +got):\n%s", diff)
	}
	w.ok(w.Outbox().Done(w.ctx, seqs(all)))
	w.must(w.acme.System, w.acme.Tenant, func(directory.Tx) error { return nil })
	last := w.events()
	if len(last) != 1 || last[0].Seq <= all[4].Seq {
		t.Errorf("after all were marked the next is %+v, after number %d", last, all[4].Seq)
	}
	// An event without id and time gets them: nothing may be written without.
	_, err = w.Directory().Mutate(w.ctx, ledger.Change{Store: w.acme.System, Event: ledger.Event{Class: ledger.Mutation, Tenant: w.acme.Tenant}}, func(directory.Tx) error { return nil })
	w.ok(err)
	if bare := w.events()[1].Event; bare.ID == "" || bare.Time.IsZero() {
		t.Errorf("an event without id and time was stored: %+v", bare)
	}
}

func seqs(entries []audit.OutboxEntry) (n []int64) {
	for _, e := range entries {
		n = append(n, e.Seq)
	}
	return n
}

// meddling is a context that changes the store whenever somebody looks whether
// it has ended, which a load does between its steps.
type meddling struct {
	context.Context
	meddle func()
}

func (c *meddling) Done() <-chan struct{} {
	c.meddle()
	return c.Context.Done()
}

// testSnapshots: a load is one point in time. Each change keeps an invariant
// that any other mixture would break.
func testSnapshots(t *testing.T, open Open) {
	w := newWorld(t, open)
	var n atomic.Int64
	services := func() {
		s := service(w.acme, fmt.Sprint("s", n.Add(1)))
		if err := w.insert(w.acme, s, &directory.AudienceGrant{Tenant: w.acme.Tenant, Service: s.ID, Audience: "urn:x"}); err != nil {
			t.Error(err)
		}
	}
	pair := func() {
		i := n.Add(1)
		_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple(fmt.Sprint("a", i)), tuple(fmt.Sprint("b", i))}})
		if err != nil {
			t.Error(err)
		}
	}
	directoryAt := func(ctx context.Context) {
		records, err := w.Directory().LoadDirectory(ctx)
		w.ok(err)
		balance := 0
		for _, r := range records {
			switch r.(type) {
			case *directory.Service:
				balance++
			case *directory.AudienceGrant:
				balance--
			}
		}
		if balance != 0 {
			t.Errorf("a load with %+d services for its grants", balance)
		}
	}
	tuplesAt := func(ctx context.Context) {
		tuples, loaded, err := w.load(ctx, w.docs)
		w.ok(err)
		if uint64(len(tuples)) != 2*loaded.Revision.Rev {
			t.Errorf("%d tuples at revision %d", len(tuples), loaded.Revision.Rev)
		}
	}
	directoryAt(&meddling{w.ctx, services})
	tuplesAt(&meddling{w.ctx, pair})
	if n.Load() < 4 {
		t.Fatalf("the loads were disturbed %d times only", n.Load())
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(stop)
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				services()
				pair()
			}
		}
	})
	for range 60 {
		directoryAt(w.ctx)
		tuplesAt(w.ctx)
	}
}

func testChanges(t *testing.T, open Open) {
	w := newWorld(t, open)
	begin := w.head(w.acme.System)
	for i := range 5 {
		w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
			if i == 2 {
				return nil // changes nothing, and has its revision all the same
			}
			return tx.Insert(user(w.acme, fmt.Sprint("u", i)))
		})
	}
	for _, c := range []struct {
		after uint64
		limit int
		first uint64
		count int
	}{
		{begin, 100, begin + 1, 5}, {begin, 2, begin + 1, 2}, {begin + 2, 1, begin + 3, 1}, {begin + 4, 9, begin + 5, 1},
		{begin + 5, 9, 0, 0}, {begin, 0, 0, 0}, {begin, -1, 0, 0}, {0, 1, 1, 1},
	} {
		b, err := w.Changes(w.ctx, w.acme.System, c.after, c.limit)
		w.ok(err)
		if len(b) != c.count || len(b) > 0 && b[0].Rev != c.first {
			t.Errorf("after %d, limit %d: %+v", c.after, c.limit, b)
		}
	}
	_, err := w.Changes(w.ctx, w.acme.System, begin+6, 1)
	w.kind("a revision of the future", err, fault.Conflict)
}
