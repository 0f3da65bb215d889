package audit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/audit/powerloss"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// storm is one disk that loses its power again and again under load.
type storm struct {
	disk   *powerloss.Disk
	cfg    audit.Config
	rng    *rand.Rand
	faults bool   // let writes and syncs fail now and then
	sick   string // files whose syncs fail every second time
	slow   bool   // little load
	long   bool   // rounds of thousands of operations, for full tiles
	cut    bool   // power cuts; otherwise kill -9

	mu       sync.Mutex
	acked    map[string]bool      // waiting events that were acknowledged
	buffered map[string]time.Time // buffered events of this run
	stated   int                  // buffered events that earlier rounds' gap records count
	crashes  int
	head     uint64 // size of the newest head that the log handed out
}

func newStorm(t testing.TB, seed uint64) *storm {
	cfg := newConfig(t)
	cfg.Dir = "/data/audit"
	cfg.Linger, cfg.Checkpoint = time.Millisecond, 4*time.Millisecond
	cfg.SegmentBytes, cfg.Reserve = 3<<10, 1
	cfg.Budgets = map[ledger.Class]int64{ledger.Allow: 5 << 10, ledger.Reject: 4 << 10}
	s := &storm{disk: powerloss.New(), cfg: cfg, rng: rand.New(rand.NewPCG(seed, 7)), cut: true, acked: map[string]bool{}}
	if err := s.disk.FS().MkdirAll("/data"); err != nil {
		t.Fatal(err)
	}
	if err := s.disk.FS().SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	return s
}

// round opens the log, puts load on it, ends the process at a random
// operation, and looks at what is left.
func (s *storm) round() error {
	s.cfg.FS = s.disk.FS()
	s.buffered = map[string]time.Time{}
	s.sick = []string{"", "", "-allow.seg", "-reject.seg"}[s.rng.IntN(4)]
	s.slow = !s.long && s.rng.IntN(3) == 0
	aim := 0
	stop := 1 + s.rng.IntN(120)
	switch {
	case s.long:
		stop = 2000 + s.rng.IntN(1000)
	case s.rng.IntN(2) == 0: // soon after a segment was removed: the narrowest place
		aim, stop = 1+s.rng.IntN(5), 500
	}
	s.disk.Hook(s.fault(s.rng.Uint64(), aim))
	s.disk.StopAfter(stop)
	if l, err := audit.Open(context.Background(), s.cfg); err == nil {
		s.load(l)
		if head := l.Head(); head != nil {
			size, err := ledger.HeadSize(head)
			if err != nil {
				return err
			}
			s.head = max(s.head, size)
		}
		_ = l.Close(context.Background()) // the process is gone; this ends its goroutine
		s.crashes++
	} else if !errors.Is(err, powerloss.ErrStopped) && !s.faults {
		return fmt.Errorf("open: %w", err)
	}
	s.disk.Hook(nil)
	if s.cut {
		s.disk.PowerCut(s.rng)
	} else {
		s.disk.Kill()
	}
	return s.inspect()
}

// fault makes one in forty writes and syncs fail, when the storm has faults,
// and with an aim stops the process so many operations after a segment's removal.
func (s *storm) fault(seed uint64, aim int) func(powerloss.Op) error {
	r := rand.New(rand.NewPCG(seed, 9)) // under the disk's lock
	removed := false
	return func(op powerloss.Op) error {
		removed = removed || aim > 0 && op.Kind == powerloss.Remove && strings.HasSuffix(op.Path, ".seg")
		if removed {
			if aim--; aim < 0 {
				return powerloss.ErrStopped
			}
		}
		if !s.faults {
			return nil
		}
		if s.sick != "" && strings.HasSuffix(op.Path, s.sick) && op.Kind == powerloss.Sync && r.IntN(2) == 0 {
			return syscall.EIO
		}
		if r.IntN(40) > 0 {
			return nil
		}
		switch op.Kind {
		case powerloss.Write:
			return syscall.ENOSPC
		case powerloss.Sync, powerloss.SyncDir:
			return syscall.EIO
		}
		return nil
	}
}

// load appends from several goroutines until the process is stopped.
func (s *storm) load(l *audit.Log) {
	tenants := []tenant.ID{tenant.New(), tenant.New(), tenant.Platform}
	var wg sync.WaitGroup
	var pace <-chan time.Time
	if s.slow { // so that buffered blocks are committed without a waiting one
		ticker := time.NewTicker(1500 * time.Microsecond)
		defer ticker.Stop()
		pace = ticker.C
	}
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if s.slow {
					<-pace
				}
				ev := deny(tenants[(i+g)%3])
				ev.ID = tenant.RandomID()
				ev.Time = time.Now()
				if i%3 == 2 {
					ev.Class = ledger.Mutation
				}
				err := l.Append(context.Background(), ev)
				if err == nil {
					s.mu.Lock()
					s.acked[ev.ID] = true
					s.mu.Unlock()
				} else if errors.Is(err, powerloss.ErrStopped) {
					return
				}
				for range 2 {
					ev := deny(tenants[i%3])
					ev.ID, ev.Class, ev.Time = tenant.RandomID(), ledger.Allow, time.Now()
					if l.Append(context.Background(), ev) == nil {
						s.mu.Lock()
						s.buffered[ev.ID] = time.Now() // at the latest it arrived now
						s.mu.Unlock()
					}
				}
				l.Reject(ledger.Event{Reason: "expired", Source: strconv.Itoa(i % 5)})
			}
		})
	}
	wg.Wait()
}

// inspect reopens the log on the disk that is left, closes it cleanly, and
// holds it against what was promised.
func (s *storm) inspect() error {
	s.cfg.FS = s.disk.FS()
	if s.head > 0 {
		f, err := s.cfg.FS.OpenFile(s.cfg.Dir+"/log/checkpoint", os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("the head that was handed out is gone: %w", err)
		}
		b := make([]byte, 4096)
		n, _ := f.ReadAt(b, 0)
		if size, err := ledger.HeadSize(b[:n]); err != nil || size < s.head {
			return fmt.Errorf("a head over %d blocks was handed out, the stored one covers %d (%v)", s.head, size, err)
		}
	}
	l, err := audit.Open(context.Background(), s.cfg)
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	if err := l.Close(context.Background()); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	report, err := audit.Verify(context.Background(), s.cfg.Dir, audit.VerifyOptions{FS: s.cfg.FS, Verifier: s.cfg.Verifier, Since: l.Head()})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !report.OK() || !report.Anchored {
		return fmt.Errorf("verify: %+v", report)
	}
	return s.compare(report)
}

func (s *storm) compare(report *audit.Report) error {
	seen := map[string]int{}
	var gaps []ledger.Event
	var stated int // allow events that gap records count
	var rebuilt error
	err := audit.Query(context.Background(), s.cfg.Dir, audit.QueryOptions{FS: s.cfg.FS}, func(ev ledger.Stored) bool {
		seen[ev.Event.ID]++
		if ev.Event.Action == "log.gap" && ev.Event.Reason == "crash" {
			gaps = append(gaps, ev.Event)
		} else if ev.Event.Action == "log.gap" {
			n, _ := strconv.Atoi(ev.Event.Detail["allow"])
			stated += n
		}
		if ev.Event.Detail["tiles"] == "rebuilt" {
			rebuilt = errors.New("full tiles were lost")
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	before := s.stated
	s.stated = stated
	for id := range s.acked {
		if seen[id] != 1 {
			return fmt.Errorf("an acknowledged event is there %d times", seen[id])
		}
	}
	if len(gaps) < s.crashes {
		return fmt.Errorf("%d crashes and %d gap records", s.crashes, len(gaps))
	}
	if report.Dropped > 0 || len(s.buffered) == 0 || len(gaps) == 0 {
		return rebuilt // retention may have dropped what is missing
	}
	gap := gaps[len(gaps)-1]
	window, err := strconv.Atoi(gap.Detail["allow_window_ms"])
	if err != nil {
		return err
	}
	from := gap.Time.Add(-time.Duration(window) * time.Millisecond)
	missing := 0
	for id, at := range s.buffered {
		if seen[id] == 0 && at.Before(from) {
			missing++
		}
	}
	if missing > stated-before {
		return fmt.Errorf("%d buffered events are missing that arrived before %v, where the crash's gap begins, and gap records state %d as lost", missing, from, stated-before)
	}
	return rebuilt
}

func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := newStorm(t, seed)
			if seed%2 == 1 {
				s.cfg.Budgets = nil // without retention every lost event is accounted for
			}
			for i := range 20 {
				s.faults = seed >= 5 && i%2 == 0
				if err := s.round(); err != nil {
					t.Fatalf("seed %d, round %d: %v", seed, i, err)
				}
			}
			if len(s.acked) == 0 {
				t.Fatal("nothing was acknowledged: the load is no load")
			}
		})
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	s := newStorm(t, 1)
	s.cut = false
	for i := range 30 {
		if err := s.round(); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

// TestEverySyncIsNeeded takes one sync after the other out of the program and
// expects that a storm notices.
func TestEverySyncIsNeeded(t *testing.T) {
	t.Parallel()
	sites := syncSites(t)
	if len(sites) < 12 {
		t.Fatalf("only %d places that sync were seen: %v", len(sites), sites)
	}
	for _, site := range sites {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(1000) {
				ignore := func(op powerloss.Op) bool { return siteOf(op) == site }
				s := newStorm(t, 100+seed)
				s.disk.Ignore(ignore)
				if _, err := s.twoLives(1+int(seed%80), true); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return // noticed
				}
				s = newStorm(t, 100+seed)
				s.disk.Ignore(ignore)
				if err := s.voidBlock(); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return // noticed
				}
				s = newStorm(t, 100+seed)
				s.disk.Ignore(ignore)
				for i := range 6 {
					s.long = seed%4 == 3 && i == 0
					s.faults = !s.long && i%2 == 0
					if err := s.round(); err != nil {
						t.Logf("seed %d, round %d: %v", seed, i, err)
						return // noticed
					}
				}
			}
			t.Error("without this sync nothing was ever missed: it is not needed, or the test is blind to it")
		})
	}
}

// voidBlock makes a commit fail after the file of one group was synced: its
// block is void and the file is removed. Then the number is given again, to a
// block that is acknowledged, and the power goes. The void one must not return.
func (s *storm) voidBlock() error {
	s.cfg.FS = s.disk.FS()
	l, err := audit.Open(context.Background(), s.cfg)
	if err != nil {
		return err
	}
	failed := make(chan struct{})
	var once sync.Once
	s.disk.Hook(func(op powerloss.Op) (err error) {
		if op.Kind == powerloss.Sync && strings.HasSuffix(op.Path, "-reject.seg") {
			once.Do(func() { err = syscall.EIO; close(failed) })
		}
		return err
	})
	ev := deny(tenant.Platform)
	ev.Class = ledger.Allow
	if err := l.Append(context.Background(), ev); err != nil {
		return err
	}
	l.Reject(ledger.Event{Reason: "expired"})
	<-failed
	for ack := false; !ack; { // the first may still meet the failure
		ev := deny(tenant.Platform)
		ev.ID = tenant.RandomID()
		if ack = l.Append(context.Background(), ev) == nil; ack {
			s.acked[ev.ID] = true
		}
	}
	s.disk.PowerCut(s.rng)
	s.disk.Hook(nil)
	_ = l.Close(context.Background())
	s.crashes++
	return s.inspect()
}

// siteOf names the line that asks for a sync: the call inside the two helpers
// that write a whole file is one place for each of their callers.
func siteOf(op powerloss.Op) string {
	calls := op.Calls
	for len(calls) > 1 && (strings.HasPrefix(calls[0], "audit.writeFile:") || strings.HasPrefix(calls[0], "audit.replaceFile:")) {
		calls = calls[1:]
	}
	return op.Kind + " " + calls[0]
}

// syncSites runs storms and returns every place of the package that syncs.
func syncSites(t *testing.T) []string {
	var mu sync.Mutex
	seen := map[string]bool{}
	for seed := range uint64(4) {
		s := newStorm(t, 50+seed)
		s.disk.Ignore(func(op powerloss.Op) bool {
			mu.Lock()
			defer mu.Unlock()
			seen[siteOf(op)] = true
			return false
		})
		for i := range 12 {
			s.long = seed == 0 && i == 0
			s.faults = !s.long && i%2 == 0
			if err := s.round(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var sites []string
	for site := range seen {
		if strings.Contains(site, " audit.") {
			sites = append(sites, site)
		}
	}
	slices.Sort(sites)
	return sites
}
