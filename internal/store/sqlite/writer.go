package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
	"sync"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
)

// request is one caller's wish to write.
type request struct {
	change *ledger.Change // nil for the store's own bookkeeping, which has no revision
	fn     func(*tx) error
	done   chan struct{}

	rev   relation.Revision
	batch store.Batch
	err   error
}

// mutate runs fn in a transaction that bumps change.Store's revision and
// commits change.Event with it, or does nothing at all. It is the only way to
// change what tenants see.
//
// A ctx that ends before the writer takes the change stops it: kind
// Unavailable. After that the answer is what happened, whatever ctx says. fn
// runs on the writer, so it must not block and must not call the store. If fn
// panics its caller gets kind Internal, the others nothing.
func (s *Store) mutate(ctx context.Context, change ledger.Change, fn func(*tx) error) (relation.Revision, error) {
	if change.Store == "" || change.Event.Tenant.IsZero() || change.Event.Class != ledger.Mutation {
		return relation.Revision{}, fault.New(fault.Internal, "a change must name its shard and carry a mutation's event")
	}
	r := &request{change: &change, fn: fn, done: make(chan struct{})}
	if err := s.do(ctx, r); err != nil {
		return relation.Revision{}, err
	}
	return r.rev, nil
}

// keep runs the store's own bookkeeping, which no revision orders, on the writer.
func (s *Store) keep(ctx context.Context, fn func(*tx) error) error {
	return s.do(ctx, &request{fn: fn, done: make(chan struct{})})
}

func (s *Store) do(ctx context.Context, r *request) error {
	if ctx.Err() != nil {
		return translate(ctx.Err(), "")
	}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return translate(ctx.Err(), "")
	case <-s.stop:
		return fault.New(fault.Unavailable, "the store is closed")
	}
	<-r.done // the writer has begun with it
	return r.err
}

// writer is the state of the goroutine that owns the writing connection.
type writer struct {
	s       *Store
	conn    *sql.Conn // nil when the next group must open it
	stmts   map[string]*sql.Stmt
	members []*request // of the group that runs
}

// run is the writer's life: take who waits, commit, deliver, answer.
func (s *Store) run() {
	w := &writer{s: s}
	alive := true
	defer func() {
		w.reset()
		if alive {
			// A caller's function ended this goroutine (runtime.Goexit). Its
			// group is rolled back, and another writer takes over.
			for _, r := range w.members {
				r.err = fault.New(fault.Internal, "the change failed unexpectedly")
				close(r.done)
			}
			go s.run()
			return
		}
		close(s.stopped)
	}()
	for alive {
		select {
		case r := <-s.queue:
			w.group(r)
		case <-s.stop:
			alive = false
		}
	}
}

// group runs first and whoever else waits in one transaction.
func (w *writer) group(first *request) {
	err := w.execute(first)
	s := w.s
	if err != nil {
		s.cfg.Logger.Error("store commit failed", "callers", len(w.members), "error", err)
		w.reset()
	}
	var mutations, lost uint64
	for _, r := range w.members {
		switch {
		case r.err != nil: // its own failure, already rolled back
		case err != nil:
			r.err = translate(err, "the change")
			lost++
		case r.change != nil:
			mutations++
			s.subscribers.deliver(r.batch)
		}
	}
	// Counted before the answers, so that a caller sees its own change.
	s.counters.mutations.Add(mutations)
	s.counters.lost.Add(lost)
	for _, r := range w.members {
		close(r.done)
	}
	clear(w.members)
	w.members = w.members[:0]
}

// execute collects and runs the members of the group and returns the error
// that undid them all. Members that failed alone carry their own.
func (w *writer) execute(first *request) error {
	ctx := context.Background() // never a caller's: its end would interrupt everybody's transaction
	if err := w.begin(ctx); err != nil {
		w.members = append(w.members, first)
		return err
	}
	var alive, bytes int
	for r := first; r != nil; r = w.next(bytes) {
		w.members = append(w.members, r)
		n, err := w.member(ctx, r)
		if err != nil {
			return err
		}
		bytes += n
		if r.err == nil {
			alive++
		} else {
			w.s.counters.refused.Add(1)
		}
	}
	if alive == 0 {
		return w.exec(ctx, "ROLLBACK")
	}
	if err := w.exec(ctx, "COMMIT"); err != nil {
		return err
	}
	w.s.counters.commits.Add(1)
	if n := uint64(len(w.members)); n > w.s.counters.largest.Load() {
		w.s.counters.largest.Store(n)
	}
	return nil
}

// next returns a caller that waits already, nil if there is none or the group is full.
func (w *writer) next(bytes int) *request {
	if len(w.members) >= groupCallers || bytes >= groupBytes {
		return nil
	}
	select {
	case r := <-w.s.queue:
		return r
	default:
		return nil
	}
}

// member runs one caller in its savepoint. The error is the whole group's.
func (w *writer) member(ctx context.Context, r *request) (bytes int, err error) {
	if err := w.exec(ctx, "SAVEPOINT member"); err != nil {
		return 0, err
	}
	t := &tx{w: w, ctx: ctx, change: r.change}
	r.err = t.run(r.fn)
	if t.broken != nil {
		// SQLite may have rolled back everything: nobody's work is certain.
		return 0, t.broken
	}
	if r.err == nil && r.change != nil {
		r.rev, r.err = t.finish()
		if t.broken != nil {
			return 0, t.broken
		}
		r.batch = store.Batch{Store: r.rev.Store, Rev: r.rev.Rev, Entries: t.entries}
		r.batch.Writes, r.batch.Deletes = t.tuples.net()
	}
	if r.err != nil {
		if err := w.exec(ctx, "ROLLBACK TO member"); err != nil {
			return 0, err
		}
	}
	return t.bytes, w.exec(ctx, "RELEASE member")
}

// run calls fn. A panic is fn's caller's error: the others in the group did
// nothing wrong.
func (t *tx) run(fn func(*tx) error) (err error) {
	defer func() {
		t.over = true
		if p := recover(); p != nil {
			t.w.s.cfg.Logger.Error("a change panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fault.New(fault.Internal, "the change failed unexpectedly")
		}
	}()
	return fn(t)
}

func (w *writer) begin(ctx context.Context) error {
	if w.conn == nil {
		conn, err := w.s.write.Conn(ctx)
		if err != nil {
			return err
		}
		w.conn, w.stmts = conn, map[string]*sql.Stmt{}
	}
	return w.exec(ctx, "BEGIN IMMEDIATE")
}

// reset drops the connection, whose state is in doubt or which is not needed
// any more. Closing it rolls back what it had open.
func (w *writer) reset() {
	if w.conn == nil {
		return
	}
	for _, s := range w.stmts {
		_ = s.Close()
	}
	// ErrBadConn makes database/sql close the connection instead of keeping it.
	_ = w.conn.Raw(func(any) error { return errDiscard })
	_ = w.conn.Close()
	w.conn, w.stmts = nil, nil
}

// stmt returns the prepared form of query.
func (w *writer) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := w.stmts[query]; ok {
		return s, nil
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.stmts[query] = s
	return s, nil
}

func (w *writer) exec(ctx context.Context, query string) error {
	s, err := w.stmt(ctx, query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(ctx)
	return err
}

// subscribers are called by the writer, in order of commit.
type subscribers struct {
	mu  sync.Mutex
	fns []func(store.Batch)
}

func (s *subscribers) deliver(b store.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fn := range s.fns {
		fn(b)
	}
}

// Subscribe has fn called with every batch from now on: in order, after its
// commit, before the change's caller gets its answer. fn runs on the writer: it
// must be quick and must not call the store's changing methods, which would
// wait for it. To follow without a gap subscribe first, load then, and expect
// batches that the load has seen already.
func (s *Store) Subscribe(fn func(store.Batch)) {
	s.subscribers.mu.Lock()
	defer s.subscribers.mu.Unlock()
	s.subscribers.fns = append(s.subscribers.fns, fn)
}
