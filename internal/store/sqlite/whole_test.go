package sqlite

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/audit/powerloss"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite/powervfs"
	"bulwark.example/internal/tenant"
)

// machine holds a store and an audit log that drains its outbox, each on a disk
// of its own. Both disks lose their power at the same moment, again and again.
type machine struct {
	name     string
	rng      *mathrand.Rand
	cfg      Config
	log      audit.Config
	segments *powerloss.Disk
	shard    relation.StoreID
	lives    int

	mu       sync.Mutex
	users    map[string]bool      // acknowledged changes
	denials  map[string]bool      // acknowledged events that wait for the disk
	allowed  map[string]time.Time // of this life: buffered events and when they were there at the latest
	buffered int                  // of all lives
	missing  int                  // buffered events that did not survive
}

func newMachine(t *testing.T, name string, seed uint64) *machine {
	t.Helper()
	signer, verifier := logKey(t)
	return &machine{
		name: name, rng: mathrand.New(mathrand.NewPCG(seed, 12)), segments: powerloss.New(),
		cfg: Config{Path: place(t), checkpoint: 60},
		log: audit.Config{Dir: "/audit", Now: time.Now, Signer: signer, Verifier: verifier, Instance: "test",
			Linger: time.Millisecond, Checkpoint: 5 * time.Millisecond, SegmentBytes: 8 << 10},
		users: map[string]bool{}, denials: map[string]bool{},
	}
}

// logKey makes the audit log's key pair for one test.
func logKey(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, "log.example/node")
	if err != nil {
		t.Fatal(err)
	}
	signer, errSigner := note.NewSigner(private)
	verifier, errVerifier := note.NewVerifier(public)
	if err := errors.Join(errSigner, errVerifier); err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

// whole is one life of the process on a machine.
type whole struct {
	store *Store
	log   *audit.Log
	disk  *powervfs.Disk
	drain sync.WaitGroup
	end   context.CancelFunc
}

// start begins a life, as a node does: store, log, drain.
func (m *machine) start() (p *whole, err error) {
	m.lives++
	vfs := fmt.Sprint("whole-", m.name, "-", m.lives)
	disk, err := powervfs.New(vfs)
	if err != nil {
		return nil, err
	}
	p = &whole{disk: disk, end: func() {}}
	cfg := m.cfg
	cfg.VFS = vfs
	if p.store, err = Open(context.Background(), cfg); err != nil {
		return nil, fmt.Errorf("the store does not open: %w", err)
	}
	m.log.FS = m.segments.FS()
	if p.log, err = audit.Open(context.Background(), m.log); err != nil {
		return nil, fmt.Errorf("the audit log does not open: %w", errors.Join(err, p.store.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.end = cancel
	p.store.Subscribe(func(store.Batch) { p.log.Wake() })
	p.drain.Go(func() { _ = p.log.Drain(ctx, p.store.Outbox()) }) // nil always
	return p, nil
}

func (p *whole) stop() {
	p.end()
	p.drain.Wait()
	_ = p.log.Close(context.Background()) // its disk is gone
	_ = p.store.Close()
	p.disk.Close()
}

// load makes changes, denials and allows until the power goes, which wait tells.
func (m *machine) load(p *whole) *sync.WaitGroup {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				id := tenant.RandomID()
				if addUser(p.store, m.shard, id) != nil {
					return
				}
				m.mu.Lock()
				m.users[id] = true
				m.mu.Unlock()
			}
		})
	}
	classes := [...]ledger.Class{ledger.Deny, ledger.Deny, ledger.KeyUse, ledger.AdminRead}
	for worker := range 3 {
		wg.Go(func() {
			for i := worker; m.decide(p.log, classes[i%len(classes)]); i++ {
			}
		})
	}
	return &wg
}

// decide records what the guard records of three requests: one that waits for
// the disk, one that is buffered, one without a principal. It is false when the
// power is gone.
func (m *machine) decide(l *audit.Log, class ledger.Class) bool {
	rec, err := l.Begin(ledger.Event{Action: "request", Tenant: tenant.Platform})
	if err != nil {
		return false
	}
	rec.Event.Class, rec.Event.Decision, rec.Event.Reason = class, "deny", "no_relation"
	if rec.Close(context.Background()) != nil {
		return false
	}
	allow := ledger.Event{ID: tenant.RandomID(), Class: ledger.Allow, Action: "request", Tenant: tenant.Platform, Decision: "allow"}
	err = l.Append(context.Background(), allow)
	l.Reject(ledger.Event{Action: "request", Reason: "expired", Source: "192.0.2.0/24"})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.denials[rec.Event.ID] = true
	if err == nil {
		m.allowed[allow.ID] = time.Now()
	}
	return true
}

// cut loads a life until a random operation of one of the disks, at which both
// lose their power, and returns what was acknowledged until then.
func (m *machine) cut(p *whole) blackout {
	m.mu.Lock()
	m.allowed = map[string]time.Time{}
	m.mu.Unlock()
	dark := make(chan blackout, 1)
	// On SQLite's own way, which stands still meanwhile.
	off := func(im *powervfs.Image) {
		m.segments.PowerCut(m.rng)
		p.disk.Fail(func(powervfs.Op, string) int32 { return 10 }) // the process is no more
		m.mu.Lock()
		defer m.mu.Unlock()
		dark <- blackout{im, maps.Clone(m.users)}
	}
	if m.rng.IntN(2) == 0 {
		p.disk.CutAfter(1+m.rng.Int64N(300), off)
	} else {
		// In front of an operation of the log; the store does one more.
		left := 1 + m.rng.IntN(500)
		m.segments.Hook(func(powerloss.Op) error {
			switch left--; {
			case left > 0:
				return nil
			case left == 0:
				p.disk.CutAfter(1, off)
			}
			return powerloss.ErrStopped
		})
	}
	load := m.load(p)
	b := <-dark
	load.Wait()
	p.stop()
	m.segments.Hook(nil)
	return b
}

// round is one life, the cut that ends it, and a judgement over what is left.
// The life after the cut is returned.
func (m *machine) round(t *testing.T, p *whole) (*whole, error) {
	b := m.cut(p)
	head := p.log.Head() // kept elsewhere
	dir := t.TempDir()
	if err := b.image.WriteTo(dir, powervfs.Losses()[m.lives%4], m.rng); err != nil {
		return nil, err
	}
	m.cfg.Path = filepath.Join(dir, "bulwark.db")
	next, err := m.start()
	if err != nil {
		return nil, err
	}
	if err := m.judge(next, b, head); err != nil {
		next.stop()
		return nil, err
	}
	return next, nil
}

// judge holds a life that has drained its outbox against what was promised.
func (m *machine) judge(p *whole, b blackout, head []byte) error {
	ctx := context.Background()
	for {
		left, err := p.store.Outbox().Pending(ctx, 1)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		p.log.Wake()
	}
	have := map[string]bool{}
	list, err := p.store.Directory().Users(ctx, tenant.Platform, "", 1<<20)
	if err != nil {
		return err
	}
	for _, u := range list {
		have[u.ID] = true
	}
	if n := lost(b.acked, have); n > 0 {
		return fmt.Errorf("%d of %d acknowledged changes are lost", n, len(b.acked))
	}
	last, err := p.store.Head(ctx, m.shard)
	if err != nil || last.Rev != uint64(1+len(have)) {
		return errors.Join(fmt.Errorf("revision %d with %d users", last.Rev, len(have)), err)
	}
	m.users = have
	report, err := audit.Verify(ctx, m.log.Dir, audit.VerifyOptions{FS: m.segments.FS(), Verifier: m.log.Verifier, Since: head})
	if err != nil {
		return err
	}
	if !report.OK() || !report.Anchored {
		return fmt.Errorf("%s: %+v", report.Summary(), report.Defects)
	}
	return m.judgeEvents(last.Rev)
}

// judgeEvents reads the log: the event of every revision, of every acknowledged
// denial, and a record of every cut that says what else may be missing.
func (m *machine) judgeEvents(rev uint64) error {
	seen, revs := map[string]int{}, map[uint64]int{}
	var gaps []ledger.Event
	err := audit.Query(context.Background(), m.log.Dir, audit.QueryOptions{FS: m.segments.FS()}, func(s ledger.Stored) bool {
		seen[s.Event.ID]++
		switch {
		case s.Event.Class == ledger.Mutation && s.Event.Revision.Store == m.shard:
			revs[s.Event.Revision.Rev]++
		case s.Event.Action == "log.gap":
			gaps = append(gaps, s.Event)
		}
		return true
	})
	if err != nil {
		return err
	}
	for r := uint64(1); r <= rev; r++ {
		if revs[r] != 1 {
			return fmt.Errorf("revision %d is in the log %d times", r, revs[r])
		}
	}
	if len(revs) != int(rev) {
		return fmt.Errorf("the log has %d revisions, the store %d", len(revs), rev)
	}
	for id, n := range seen {
		if n != 1 {
			return fmt.Errorf("the event %s is there %d times", id, n)
		}
	}
	for id := range m.denials {
		if seen[id] != 1 {
			return fmt.Errorf("an acknowledged denial is there %d times", seen[id])
		}
	}
	if len(gaps) != m.lives-1 {
		return fmt.Errorf("%d gap records after %d power cuts", len(gaps), m.lives-1)
	}
	return m.judgeGap(gaps[len(gaps)-1], seen)
}

// judgeGap checks that a gap record covers every buffered event that is missing.
func (m *machine) judgeGap(gap ledger.Event, seen map[string]int) error {
	windows := map[string]time.Duration{}
	for _, class := range []string{"check", "allow", "reject"} {
		ms, err := strconv.Atoi(gap.Detail[class+"_window_ms"])
		if err != nil || gap.Reason != "crash" {
			return fmt.Errorf("the gap record does not say what may be missing of %s: %+v", class, gap)
		}
		windows[class] = time.Duration(ms) * time.Millisecond
	}
	for id, at := range m.allowed {
		m.buffered++
		if seen[id] > 0 {
			continue
		}
		m.missing++
		if from := gap.Time.Add(-windows["allow"]); at.Before(from) {
			return fmt.Errorf("an allow event of %v is missing, and the gap record begins at %v", at, from)
		}
	}
	return nil
}

// run begins a machine and cuts its power n times.
func (m *machine) run(t *testing.T, n int) error {
	p, err := m.start()
	if err != nil {
		return err
	}
	m.shard = world(t, p.store)
	for i := range n {
		if p, err = m.round(t, p); err != nil {
			return fmt.Errorf("cut %d: %w", i+1, err)
		}
	}
	p.stop()
	return nil
}

// wholeCuts is how often the power of the whole process is cut: 200 times, and
// under -short, which the race detector's slow runs have, 40 times.
// BULWARK_TEST_CUTS sets another number.
func wholeCuts() int {
	if n, err := strconv.Atoi(os.Getenv("BULWARK_TEST_CUTS")); err == nil {
		return n
	}
	if testing.Short() {
		return 40
	}
	return 200
}

// One power cut over the store and the audit log under load: every acknowledged
// change and denial is there, every change has its event in the log once, when
// the outbox is drained, no event is of a change that was lost, the log verifies
// against a head that was kept elsewhere, and a gap record of each cut says what
// may be missing of what was not promised.
func TestPowerLossWithAuditLog(t *testing.T) {
	t.Parallel()
	const lives = 20 // of one machine: what is read again and again must not grow for ever
	began := time.Now()
	total := wholeCuts()
	var mu sync.Mutex
	var cuts, users, denials, buffered, missing int
	t.Run("machines", func(t *testing.T) {
		for n := 0; n*lives < total; n++ {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, fmt.Sprint(n), uint64(n))
				if err := m.run(t, min(lives, total-n*lives)); err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				cuts, users, denials = cuts+m.lives-1, users+len(m.users), denials+len(m.denials)
				buffered, missing = buffered+m.buffered, missing+m.missing
			})
		}
	})
	if users == 0 || denials == 0 || missing == 0 {
		t.Error("the load is no load, or the disks forget nothing")
	}
	t.Logf("%d power cuts of the whole process in %v: %d changes with their events and %d denials survived; of %d buffered events %d are gone, each inside its gap record",
		cuts, time.Since(began), users, denials, buffered, missing)
}

// The test above can fail: without one of the syncs on which its promises rest
// it does.
func TestPowerLossWithAuditLogIsSeen(t *testing.T) {
	t.Parallel()
	without := func(kind, suffix string) func(m *machine) {
		return func(m *machine) {
			m.segments.Ignore(func(op powerloss.Op) bool { return op.Kind == kind && strings.HasSuffix(op.Path, suffix) })
		}
	}
	for name, blind := range map[string]func(m *machine){
		"commit of the store":        func(m *machine) { m.cfg.unsafeSync = "NORMAL" },
		"fdatasync of denials":       without(powerloss.Sync, "-durable.seg"),
		"fdatasync of allows":        without(powerloss.Sync, "-allow.seg"),
		"fdatasync of rejects":       without(powerloss.Sync, "-reject.seg"),
		"fdatasync of the head":      without(powerloss.Sync, "checkpoint.tmp"),
		"fsync of the log's folder":  without(powerloss.SyncDir, "/audit"),
		"fsync of the head's folder": without(powerloss.SyncDir, "/audit/log"),
		"fsync of the folder above":  without(powerloss.SyncDir, "/"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(50) {
				m := newMachine(t, fmt.Sprint("blind-", strings.ReplaceAll(name, " ", "-"), "-", seed), 100+seed)
				blind(m)
				if err := m.run(t, 5); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return // noticed
				}
			}
			t.Error("without this sync nothing was ever missed")
		})
	}
}
