package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
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

var errOwn = fault.New(fault.Denied, "the function says no")

// testDense: whatever 16 writers of two shards do, succeed or fail, revisions
// have no gap and no duplicate, and a reader never sees one without all before.
func testDense(t *testing.T, open Open) {
	w := newWorld(t, open)
	shards := []directory.Tenant{w.acme, w.globex}
	begin := map[relation.StoreID]uint64{w.acme.System: w.head(w.acme.System), w.globex.System: w.head(w.globex.System)}
	var writing atomic.Int64
	var writers, readers sync.WaitGroup
	var mu sync.Mutex
	got := map[relation.StoreID]map[uint64]bool{w.acme.System: {}, w.globex.System: {}}
	const each = 60
	writing.Add(16)
	for i := range 16 {
		writers.Go(func() {
			defer writing.Add(-1)
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for range each {
				who := shards[rng.IntN(2)]
				fail := rng.IntN(3) == 0
				rev, err := w.mutate(who.System, who.Tenant, func(tx directory.Tx) error {
					if err := tx.Insert(user(who, tenant.RandomID())); err != nil {
						return err
					}
					if fail {
						return errOwn
					}
					return nil
				})
				if fail != errors.Is(err, errOwn) || !fail && err != nil {
					t.Errorf("failing %v: %v", fail, err)
				}
				if err == nil {
					mu.Lock()
					if got[who.System][rev.Rev] {
						t.Errorf("revision %d twice", rev.Rev)
					}
					got[who.System][rev.Rev] = true
					mu.Unlock()
				}
			}
		})
	}
	for _, who := range shards {
		readers.Go(func() {
			last := begin[who.System]
			for more := true; more; {
				more = writing.Load() > 0 // read once more after the end
				b, err := w.Changes(w.ctx, who.System, last, 7)
				if err != nil {
					t.Error(err)
					return
				}
				for _, b := range b {
					if b.Rev != last+1 || len(b.Entries) != 1 {
						t.Errorf("after revision %d came %+v", last, b)
					}
					last = b.Rev
				}
				if len(b) > 0 {
					more = true
				}
				runtime.Gosched()
			}
			mu.Lock()
			defer mu.Unlock()
			if want := begin[who.System] + uint64(len(got[who.System])); last != want {
				t.Errorf("the reader saw revisions to %d, the writers made them to %d", last, want)
			}
		})
	}
	writers.Wait()
	readers.Wait()
	for shard, revs := range got {
		for rev := begin[shard] + 1; rev <= begin[shard]+uint64(len(revs)); rev++ {
			if !revs[rev] {
				t.Errorf("revision %d of %d is missing", rev, len(revs))
			}
		}
	}
	// Callers that failed beside others that did not leave nothing either.
	for _, who := range shards {
		users, err := w.Directory().Users(w.ctx, who.Tenant, "", 1<<20)
		w.ok(err)
		if len(users) != len(got[who.System]) {
			t.Errorf("%d users after %d changes", len(users), len(got[who.System]))
		}
	}
	if n := len(w.events()); n != 4+len(got[w.acme.System])+len(got[w.globex.System]) {
		t.Errorf("%d events for %d changes", n, len(got[w.acme.System])+len(got[w.globex.System]))
	}
}

// testGroupCommit: callers that wait at the same time share a transaction.
func testGroupCommit(t *testing.T, open Open) {
	w := newWorld(t, open)
	before := w.Counters()
	// The first caller holds the writer until all others wait behind it.
	const callers = 100
	entered, release := make(chan struct{}), make(chan struct{})
	var all, ready sync.WaitGroup
	all.Go(func() {
		_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
			close(entered)
			<-release
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-entered
	ready.Add(callers)
	var ran atomic.Int64
	for i := range callers {
		who := w.acme
		if i%2 == 0 {
			who = w.globex
		}
		all.Go(func() {
			ready.Done()
			_, err := w.mutate(who.System, who.Tenant, func(tx directory.Tx) error {
				ran.Add(1)
				return tx.Insert(user(who, tenant.RandomID()))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
	close(release)
	all.Wait()
	c := w.Counters()
	mutations, commits := c.Mutations-before.Mutations, c.Commits-before.Commits
	if mutations != callers+1 || ran.Load() != callers {
		t.Errorf("%d mutations, %d ran", mutations, ran.Load())
	}
	if commits > callers/4 {
		t.Errorf("%d commits for %d mutations: callers do not share them", commits, mutations)
	}
	if c.Largest < 4 {
		t.Errorf("at most %d callers shared a commit", c.Largest)
	}
	t.Logf("%d mutations in %d commits, at most %d in one", mutations, commits, c.Largest)
}

// unchanged fails the test unless fn leaves no trace.
func (w *world) unchanged(what string, fn func()) {
	w.t.Helper()
	head, events := w.head(w.acme.System), len(w.events())
	delivered := 0
	w.Subscribe(func(store.Batch) { delivered++ })
	fn()
	if got := w.head(w.acme.System); got != head {
		w.t.Errorf("%s: revision %d after %d", what, got, head)
	}
	if got := len(w.events()); got != events {
		w.t.Errorf("%s: %d events after %d", what, got, events)
	}
	if delivered != 0 {
		w.t.Errorf("%s: %d batches were delivered", what, delivered)
	}
	if _, err := w.Directory().UserByName(w.ctx, w.acme.Tenant, "ghost"); fault.KindOf(err) != fault.NotFound {
		w.t.Errorf("%s: the user stands: %v", what, err)
	}
}

func (w *world) ghost(tx directory.Tx) error {
	sys := w.acme.System
	return errors.Join(tx.Insert(user(w.acme, "ghost")), tx.WriteTuples(sys, []relation.Tuple{tuple("ghost")}, nil))
}

func testAtomic(t *testing.T, open Open) {
	w := newWorld(t, open)
	foreign := errors.New("not ours")
	for what, want := range map[string]error{"a fault": errOwn, "another error": foreign} {
		w.unchanged(what, func() {
			_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
				w.ok(w.ghost(tx))
				return want
			})
			if !errors.Is(err, want) {
				t.Errorf("%s came back as %v", what, err)
			}
		})
	}
	// A refused statement is undone alone: a function may go on after it.
	w.ok(w.insert(w.acme, user(w.acme, "taken")))
	rev := w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
		w.kind("a taken name", tx.Insert(user(w.acme, "taken")), fault.Conflict)
		return tx.Insert(user(w.acme, "other"))
	})
	b, err := w.Changes(w.ctx, w.acme.System, rev.Rev-1, 1)
	w.ok(err)
	if len(b[0].Entries) != 1 {
		t.Errorf("the refused statement is in the changelog: %+v", b)
	}
}

func testPanic(t *testing.T, open Open) {
	w := newWorld(t, open)
	w.unchanged("a panic", func() {
		_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
			w.ok(w.ghost(tx))
			panic("boom")
		})
		w.kind("a panic", err, fault.Internal)
	})
	w.unchanged("a function that ends its goroutine", func() {
		_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
			runtime.Goexit()
			return nil
		})
		w.kind("it", err, fault.Internal)
	})
	// Nobody else in the group notices a panic.
	var all sync.WaitGroup
	var done atomic.Int64
	for i := range 32 {
		all.Go(func() {
			_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
				err := tx.Insert(user(w.acme, fmt.Sprint("u", i)))
				if i%4 == 0 {
					panic(i)
				}
				return err
			})
			if (i%4 == 0) != (err != nil) {
				t.Errorf("caller %d: %v", i, err)
			}
			if err == nil {
				done.Add(1)
			}
		})
	}
	all.Wait()
	users, err := w.Directory().Users(w.ctx, w.acme.Tenant, "", 100)
	w.ok(err)
	if int64(len(users)) != done.Load() || done.Load() != 24 {
		t.Errorf("%d users, %d acknowledged", len(users), done.Load())
	}
}

// testLateTransaction: a transaction kept after its function returned is dead.
func testLateTransaction(t *testing.T, open Open) {
	w := newWorld(t, open)
	var kept directory.Tx
	w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { kept = tx; return nil })
	w.unchanged("a late transaction", func() {
		w.kind("late insert", kept.Insert(user(w.acme, "ghost")), fault.Internal)
		_, err := kept.Tuples(w.acme.System, relation.Tuple{})
		w.kind("late read", err, fault.Internal)
	})
}

func testContexts(t *testing.T, open Open) {
	w := newWorld(t, open)
	mutate := func(ctx context.Context, fn func(directory.Tx) error) error {
		_, err := w.Directory().Mutate(ctx, ledger.Change{Store: w.acme.System, Event: event(w.acme.Tenant, "")}, fn)
		return err
	}
	gone, cancel := context.WithCancel(w.ctx)
	cancel()
	w.unchanged("a context that ended before", func() {
		w.kind("before", mutate(gone, func(directory.Tx) error { t.Error("it ran"); return nil }), fault.Unavailable)
	})
	w.unchanged("a context that ended while waiting", func() {
		entered, release := make(chan struct{}), make(chan struct{})
		var hold sync.WaitGroup
		hold.Go(func() {
			err := mutate(w.ctx, func(directory.Tx) error { close(entered); <-release; return errOwn })
			if !errors.Is(err, errOwn) {
				t.Error(err)
			}
		})
		<-entered
		inner, cancel := context.WithCancel(w.ctx)
		waiting := &watched{Context: inner, asked: make(chan struct{})}
		result := make(chan error)
		go func() { result <- mutate(waiting, func(directory.Tx) error { t.Error("it ran"); return nil }) }()
		<-waiting.asked // it waits for the writer, or for its own end
		cancel()
		w.kind("waiting", <-result, fault.Unavailable)
		close(release)
		hold.Wait()
	})
	// Once it began, the answer is what happened.
	during, cancel := context.WithCancel(w.ctx)
	err := mutate(during, func(tx directory.Tx) error {
		cancel()
		return tx.Insert(user(w.acme, "begun"))
	})
	if err != nil {
		t.Errorf("a context that ended after the start: %v", err)
	}
	if _, err := w.Directory().UserByName(w.ctx, w.acme.Tenant, "begun"); err != nil {
		t.Error(err)
	}
	_, err = w.Directory().LoadDirectory(gone)
	w.kind("a read", err, fault.Unavailable)
}

// watched is a context that tells when somebody begins to wait for its end.
type watched struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (c *watched) Done() <-chan struct{} {
	c.once.Do(func() { close(c.asked) })
	return c.Context.Done()
}

func testReopen(t *testing.T, open Open) {
	w := newWorld(t, open)
	shared, own := samples(w)
	w.ok(w.insert(w.platform, shared...))
	w.ok(w.insert(w.acme, own...))
	_, err := w.write(w.docs, w.acme.Tenant, authz.Write{Writes: []relation.Tuple{tuple("a")}})
	w.ok(err)
	type everything struct {
		Instance store.Instance
		Records  []directory.Record
		Users    []*directory.User
		Tuples   []relation.Tuple
		Loaded   authz.Loaded
		Changes  []store.Batch
		Events   []audit.OutboxEntry
	}
	read := func() (e everything) {
		t.Helper()
		var err error
		e.Instance, err = w.Instance(w.ctx)
		w.ok(err)
		e.Records, err = w.Directory().LoadDirectory(w.ctx)
		w.ok(err)
		e.Users, err = w.Directory().Users(w.ctx, w.acme.Tenant, "", 100)
		w.ok(err)
		e.Tuples, e.Loaded, err = w.load(w.ctx, w.docs)
		w.ok(err)
		e.Changes, err = w.Changes(w.ctx, w.acme.System, 0, 100)
		w.ok(err)
		e.Events = w.events()
		return e
	}
	before := read()
	w.ok(w.Close())
	w.Store = open(t, w.place)
	if diff := cmp.Diff(before, read(), exact); diff != "" {
		t.Errorf("reopening changed (-before +after):\n%s", diff)
	}
	rev := w.must(w.acme.System, w.acme.Tenant, func(directory.Tx) error { return nil })
	if want := before.Changes[len(before.Changes)-1].Rev + 1; rev.Rev != want {
		t.Errorf("the next revision is %d, want %d", rev.Rev, want)
	}
	w.ok(w.Close())
}

func testClosed(t *testing.T, open Open) {
	w := newWorld(t, open)
	// Closing waits for who has begun, and refuses the others.
	var all sync.WaitGroup
	var acked atomic.Int64
	for range 16 {
		all.Go(func() {
			for {
				_, err := w.mutate(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error { return tx.Insert(user(w.acme, tenant.RandomID())) })
				if err != nil {
					if fault.KindOf(err) != fault.Unavailable {
						t.Errorf("a closed store answers %v", err)
					}
					return
				}
				acked.Add(1)
			}
		})
	}
	for acked.Load() < 50 {
		runtime.Gosched()
	}
	w.ok(w.Close())
	all.Wait()
	w.ok(w.Close())
	w.Store = open(t, w.place)
	users, err := w.Directory().Users(w.ctx, w.acme.Tenant, "", 1<<20)
	w.ok(err)
	if int64(len(users)) != acked.Load() {
		t.Errorf("%d users, %d acknowledged", len(users), acked.Load())
	}
	w.ok(w.Close())
}
