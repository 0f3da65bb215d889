package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/audit/powerloss"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// rows is an outbox that survives the process, as a database does. Removing
// rows costs one write of the disk, so that the process can end right there.
type rows struct {
	mu      sync.Mutex
	file    func() error // the write; its error is the database's
	pending []audit.OutboxEntry
	empty   chan struct{} // closed when nothing is pending
}

func (r *rows) Pending(_ context.Context, limit int) ([]audit.OutboxEntry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.OutboxEntry(nil), r.pending[:min(limit, len(r.pending))]...), nil
}

func (r *rows) Done(_ context.Context, seqs []int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.file(); err != nil {
		return err
	}
	r.pending = r.pending[len(seqs):]
	if len(r.pending) == 0 {
		close(r.empty)
	}
	return nil
}

// fill makes rows of n mutations of one store.
func (r *rows) fill(store relation.StoreID, n int) {
	r.empty = make(chan struct{})
	for i := range n {
		r.pending = append(r.pending, audit.OutboxEntry{Seq: int64(i + 1), Event: ledger.Event{
			ID: tenant.RandomID(), Time: time.Now(), Class: ledger.Mutation, Action: "tuple.write", Tenant: tenant.Platform,
			Revision: relation.Revision{Epoch: 1, Store: store, Rev: uint64(i + 1)},
		}})
	}
}

// failures tells of every error that the log reports.
type failures struct {
	slog.Handler
	seen chan struct{}
}

func (f failures) Enabled(context.Context, slog.Level) bool { return true }
func (f failures) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		select {
		case f.seen <- struct{}{}:
		default:
		}
	}
	return nil
}

// script is one life of a process: it begins, decides, mutates and ends. It
// returns the ids of acknowledged events.
func script(cfg audit.Config, box *rows) (acked []string, err error) {
	failed := make(chan struct{}, 1)
	cfg.Logger = slog.New(failures{slog.DiscardHandler, failed})
	l, err := audit.Open(context.Background(), cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_ = l.Drain(ctx, box)
	}()
	for i := range 6 {
		ev := deny(tenant.Platform)
		ev.ID = tenant.RandomID()
		if i%2 == 1 {
			ev.Class = ledger.KeyUse
		}
		if l.Append(ctx, ev) == nil {
			acked = append(acked, ev.ID)
		}
		for range 20 {
			ev := deny(tenant.Platform)
			ev.Class = ledger.Allow
			_ = l.Append(ctx, ev)
		}
		l.Reject(ledger.Event{Reason: "expired"})
	}
	l.Wake()
	select {
	case <-box.empty:
	case <-failed:
	}
	cancel()
	<-drained
	return acked, l.Close(context.Background())
}

// TestStopAtEveryStep ends the process after its first, second, third …
// operation on the disk, by kill and by power loss, and after each end looks
// at the log of the next life: every mutation is there once.
func TestStopAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, power := range []bool{false, true} {
		t.Run(fmt.Sprintf("power=%v", power), func(t *testing.T) {
			t.Parallel()
			for step := 1; ; step++ {
				finished, err := newStorm(t, uint64(step)).twoLives(step, power)
				if err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				if finished {
					t.Logf("%d steps", step)
					return
				}
			}
		})
	}
}

// twoLives runs the script until the step, again until its end, and looks at
// what is there. It reports whether the first life came to its end.
func (s *storm) twoLives(step int, power bool) (finished bool, err error) {
	s.cfg.SegmentBytes = 600
	s.cfg.Budgets = map[ledger.Class]int64{ledger.Allow: 1000}
	s.cfg.FS = s.disk.FS()
	box := &rows{}
	box.fill(relation.StoreID(tenant.RandomID()), 5)
	for _, m := range box.pending {
		s.acked[m.Event.ID] = true
	}
	box.file = databaseOn(s.disk)
	s.disk.StopAfter(step)
	acked, _ := script(s.cfg, box) // its errors are the stop
	finished = !s.disk.Stopped()
	if power {
		s.disk.PowerCut(s.rng)
	} else {
		s.disk.Kill()
	}
	s.cfg.FS = s.disk.FS()
	box.file = databaseOn(s.disk)
	if len(box.pending) > 0 {
		more, err := script(s.cfg, box)
		if err != nil || len(box.pending) > 0 {
			return false, fmt.Errorf("the second life: %w, %d rows left", err, len(box.pending))
		}
		acked = append(acked, more...)
	}
	for _, id := range acked {
		s.acked[id] = true
	}
	return finished, s.inspect()
}

// databaseOn writes to another file of the disk: durable at once, because the
// rows of the test are.
func databaseOn(disk *powerloss.Disk) func() error {
	fsys := disk.FS()
	return func() error {
		f, err := fsys.OpenFile("/data/db", os.O_RDWR|os.O_CREATE)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("done"), 0)
		return err
	}
}

// A decision that names a mutation's revision is no reason to leave the
// mutation out.
func TestDrainIsNotFooledByDecisions(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	l := open(t, cfg)
	box := &rows{file: func() error { return nil }}
	box.fill(relation.StoreID(tenant.RandomID()), 3)
	want := append([]audit.OutboxEntry(nil), box.pending...)
	for _, e := range want {
		ev := deny(tenant.Platform)
		ev.Revision = e.Event.Revision
		if err := l.Append(context.Background(), ev); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Drain(ctx, box) }()
	l.Wake()
	<-box.empty
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	seen := map[string]int{}
	query(t, cfg, audit.Filter{Class: ledger.Mutation}, func(ev ledger.Stored) { seen[ev.Event.ID]++ })
	for _, e := range want {
		if seen[e.Event.ID] != 1 {
			t.Errorf("a mutation is there %d times", seen[e.Event.ID])
		}
	}
}

// While the outbox cannot be emptied, its events are not written again.
func TestDrainWhenDoneFails(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	l := open(t, cfg)
	tries := make(chan struct{}, 10)
	var mu sync.Mutex
	broken := true
	box := &rows{}
	box.file = func() error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			tries <- struct{}{}
			return errors.New("the database is read-only")
		}
		return nil
	}
	box.fill(relation.StoreID(tenant.RandomID()), 3)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Drain(ctx, box) }()
	for range 3 {
		l.Wake()
		<-tries
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	l.Wake()
	<-box.empty
	cancel()
	<-done
	closeLog(t, l)
	n := 0
	query(t, cfg, audit.Filter{Class: ledger.Mutation}, func(ledger.Stored) { n++ })
	if n != 3 {
		t.Errorf("%d mutations are in the log, want 3", n)
	}
}

// A write that failed leaves its block in the file until the next one cuts it
// off. Such a block is not in the log, and the mutation must be written again.
func TestDrainAfterFailedSync(t *testing.T) {
	t.Parallel()
	disk, cfg := onDisk(t)
	cfg.Checkpoint = time.Hour // nothing else repairs meanwhile
	l := open(t, cfg)
	var once sync.Once
	disk.Hook(func(op powerloss.Op) (err error) {
		if op.Kind == powerloss.Sync && strings.HasSuffix(op.Path, "-durable.seg") {
			once.Do(func() { err = syscall.EIO })
		}
		return err
	})
	box := &rows{file: func() error { return nil }}
	box.fill(relation.StoreID(tenant.RandomID()), 3)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Drain(ctx, box) }()
	l.Wake()
	<-box.empty // the poll tries again
	cancel()
	<-done
	closeLog(t, l)
	n := 0
	query(t, cfg, audit.Filter{Class: ledger.Mutation}, func(ledger.Stored) { n++ })
	if n != 3 {
		t.Errorf("%d mutations are in the log, want 3", n)
	}
	verifyOn(t, cfg)
}
