package audit_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/audit/powerloss"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// onDisk is a log on a disk in memory.
func onDisk(t testing.TB) (*powerloss.Disk, audit.Config) {
	t.Helper()
	s := newStorm(t, 1)
	s.cfg.FS = s.disk.FS()
	s.cfg.Reserve, s.cfg.Budgets = 4<<10, nil
	return s.disk, s.cfg
}

func verifyOn(t testing.TB, cfg audit.Config) *audit.Report {
	t.Helper()
	r, err := audit.Verify(context.Background(), cfg.Dir, audit.VerifyOptions{FS: cfg.FS, Verifier: cfg.Verifier})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() {
		t.Fatalf("%+v", r)
	}
	return r
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	for name, reserve := range map[string]int64{"reserve": 4 << 10, "no space at all": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk, cfg := onDisk(t)
			cfg.Reserve = reserve
			l := open(t, cfg)
			acked := map[string]bool{}
			appendOne := func() error {
				ev := deny(tenant.Platform)
				ev.ID = tenant.RandomID()
				err := l.Append(context.Background(), ev)
				if err == nil {
					acked[ev.ID] = true
				}
				return err
			}
			var allowed, lost int
			allow := func() {
				ev := deny(tenant.Platform)
				ev.Class = ledger.Allow
				if err := l.Append(context.Background(), ev); err != nil {
					t.Fatal(err)
				}
				allowed++
			}
			disk.SetCapacity(disk.Used() + 12<<10)
			waitFor(t, func() bool {
				err := appendOne()
				if err != nil && fault.KindOf(err) != fault.Unavailable {
					t.Fatal(err)
				}
				allow()
				return err != nil
			})
			// Longer than buffered events linger, and nothing fits any more.
			disk.SetCapacity(1)
			for begin := time.Now(); time.Since(begin) < 20*cfg.Linger; {
				allow()
				_ = appendOne()
			}
			waitFor(t, func() bool { _, err := l.Begin(ledger.Event{}); return err != nil })
			// What ends access may begin: its event waits in the outbox.
			for action, may := range map[string]bool{"user.suspend": true, "token.revoke": true, "user.resume": false} {
				if _, err := l.Begin(ledger.Event{Class: ledger.Mutation, Action: action}); (err == nil) != may {
					t.Errorf("%s with no space: %v", action, err)
				}
			}
			disk.SetCapacity(1 << 30)
			waitFor(t, func() bool { return appendOne() == nil })
			waitFor(t, func() bool { _, err := l.Begin(ledger.Event{}); return err == nil })
			closeLog(t, l)
			verifyOn(t, cfg)
			stored := 0
			query(t, cfg, audit.Filter{}, func(ev ledger.Stored) {
				delete(acked, ev.Event.ID)
				switch {
				case ev.Event.Class == ledger.Allow:
					stored++
				case ev.Event.Action == "log.gap":
					n, _ := strconv.Atoi(ev.Event.Detail["allow"])
					lost += n
				}
			})
			if len(acked) > 0 {
				t.Errorf("%d acknowledged events are gone", len(acked))
			}
			if stored+lost != allowed || lost == 0 {
				t.Errorf("of %d allow events %d are stored and %d stated as lost", allowed, stored, lost)
			}
		})
	}
}

// The classes lose the disk in their order.
func TestReserve(t *testing.T) {
	t.Parallel()
	disk, cfg := onDisk(t)
	cfg.Reserve = 1 << 20
	l := open(t, cfg)
	events := []ledger.Event{
		{Class: ledger.AdminRead, Action: "user.list"},
		{Class: ledger.Deny, Action: "request"},
		{Class: ledger.KeyUse, Action: "key.decrypt"},
		{Class: ledger.Mutation, Action: "tuple.write"},
		{Class: ledger.Mutation, Action: "token.revoke"},
	}
	for quarter := range 4 {
		disk.SetCapacity(disk.Used() + cfg.Reserve*int64(4-quarter)/4 - cfg.Reserve/8)
		for i, ev := range events {
			err := l.Append(context.Background(), ev)
			if want := i > quarter; (err == nil) != want {
				t.Errorf("with %d/4 of the reserve used, %s: %v", quarter, ev.Action, err)
			}
		}
	}
	disk.SetCapacity(1 << 30)
	closeLog(t, l)
	verifyOn(t, cfg)
}

func TestRejectsAreAggregated(t *testing.T) {
	t.Parallel()
	_, cfg := onDisk(t)
	cfg.Checkpoint = time.Hour // no flush but at the end
	l := open(t, cfg)
	const n = 30000
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range n / 4 {
				l.Reject(ledger.Event{Reason: "expired", Source: strconv.Itoa(i % 9000), Tenant: tenant.New(), Subject: "user:claimed", RequestID: strconv.Itoa(g)})
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	var events, count uint64
	overflow := 0
	query(t, cfg, audit.Filter{Class: ledger.Reject}, func(ev ledger.Stored) {
		events++
		count += ev.Event.Count
		if ev.Event.Tenant != tenant.Platform || ev.Event.Subject != "" {
			t.Errorf("unverified claims in %+v", ev.Event)
		}
		if ev.Event.Detail["overflow"] == "true" {
			overflow++
		}
	})
	if count != n || events != 4097 || overflow != 1 {
		t.Errorf("%d events stand for %d refusals, %d of them overflow", events, count, overflow)
	}
	verifyOn(t, cfg)
}

func TestRecord(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	l := open(t, cfg)
	ctx := context.Background()
	r, err := l.Begin(ledger.Event{Action: "request"})
	if err != nil {
		t.Fatal(err)
	}
	r.Event.Class, r.Event.Reason = ledger.Deny, "no_relation"
	for range 2 {
		if err := r.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := l.Begin(ledger.Event{Class: ledger.Mutation, Action: "tuple.write"})
	if err != nil {
		t.Fatal(err)
	}
	if ev := taken.Take(); ev.ID == "" || ev.Time.IsZero() || taken.Close(ctx) != nil {
		t.Errorf("taken %+v", ev)
	}
	none, err := l.Begin(ledger.Event{})
	if err != nil {
		t.Fatal(err)
	}
	if err := none.Close(ctx); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a record without a class: %v", err)
	}
	big := deny(tenant.Platform)
	big.Resource = string(make([]byte, 20<<10))
	if err := l.Append(ctx, big); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("too large: %v", err)
	}
	closeLog(t, l)
	closeLog(t, l)
	if _, err := l.Begin(ledger.Event{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("begin after close: %v", err)
	}
	if err := l.Append(ctx, deny(tenant.Platform)); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("append after close: %v", err)
	}
	n := 0
	query(t, cfg, audit.Filter{Reason: "no_relation"}, func(ledger.Stored) { n++ })
	if n != 1 {
		t.Errorf("%d events of the record", n)
	}
	// A clean end leaves no gap record.
	closeLog(t, open(t, cfg))
	query(t, cfg, audit.Filter{Action: "log.gap"}, func(ev ledger.Stored) { t.Errorf("%+v", ev.Event) })
}

func TestOneWriter(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	l := open(t, cfg)
	if _, err := audit.Open(context.Background(), cfg); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a second writer: %v", err)
	}
	closeLog(t, l)
	closeLog(t, open(t, cfg))
}

// Whatever waits while the disk works becomes one block: a thousand callers
// cost a few syncs.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	disk, cfg := onDisk(t)
	cfg.Checkpoint = time.Hour
	l := open(t, cfg)
	var syncs atomic.Int32
	entered := make(chan struct{})
	release := make(chan struct{})
	disk.Hook(func(op powerloss.Op) error {
		if op.Kind == powerloss.Sync && syncs.Add(1) == 1 {
			close(entered)
			<-release
		}
		return nil
	})
	var wg sync.WaitGroup
	put := func() {
		wg.Go(func() {
			if err := l.Append(context.Background(), deny(tenant.Platform)); err != nil {
				t.Error(err)
			}
		})
	}
	put()
	<-entered // the first one is in its sync
	for range 1000 {
		put()
	}
	waitFor(t, func() bool { return l.Waiting() == 1000 })
	close(release)
	wg.Wait()
	if n := syncs.Load(); n > 3 {
		t.Errorf("1001 events took %d syncs", n)
	}
	closeLog(t, l)
	verifyOn(t, cfg)
}
