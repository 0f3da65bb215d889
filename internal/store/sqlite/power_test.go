package sqlite

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite/powervfs"
	"bulwark.example/internal/tenant"
)

// world is the least that a load needs: an instance and the platform.
func world(t testing.TB, s *Store) relation.StoreID {
	t.Helper()
	ctx := context.Background()
	if err := s.CreateInstance(ctx, instance()); err != nil {
		t.Fatal(err)
	}
	system := relation.StoreID(tenant.RandomID())
	_, err := s.Directory().Mutate(ctx, change(system, "tenant.create", "tenant:"+tenant.Platform.String()), func(tx directory.Tx) error {
		err := tx.Insert(&directory.Tenant{Tenant: tenant.Platform, Name: "platform", State: directory.Active, System: system, Created: time.Now()})
		if err != nil {
			return err
		}
		return tx.Insert(&directory.Graph{Tenant: tenant.Platform, ID: system, Kind: directory.SystemGraph})
	})
	if err != nil {
		t.Fatal(err)
	}
	return system
}

func change(shard relation.StoreID, action, resource string) ledger.Change {
	return ledger.Change{Store: shard, Event: ledger.Event{Class: ledger.Mutation, Tenant: tenant.Platform, Action: action, Resource: resource}}
}

// addUser makes one user, with a tuple, and its event.
func addUser(s *Store, shard relation.StoreID, id string) error {
	_, err := s.Directory().Mutate(context.Background(), change(shard, "user.create", "user:"+id), func(tx directory.Tx) error {
		err := tx.Insert(&directory.User{Tenant: tenant.Platform, ID: id, Name: id, State: directory.Active, Created: time.Unix(1, 0).UTC()})
		if err != nil {
			return err
		}
		return tx.WriteTuples(shard, []relation.Tuple{{Object: "system:" + tenant.Platform.String(), Relation: "auditor", Subject: "user:" + id}}, nil)
	})
	return err
}

// state is what a store holds of the load: every user has its tuple, its
// changelog entries and its event, and nothing has what the others lack.
func state(s *Store) (map[string]bool, error) {
	ctx := context.Background()
	var check string
	if err := s.row(ctx, "PRAGMA integrity_check", nil, &check); err != nil || check != "ok" {
		return nil, fmt.Errorf("integrity check: %q, %w", check, err)
	}
	users := map[string]bool{}
	list, err := s.Directory().Users(ctx, tenant.Platform, "", 1<<20)
	if err != nil {
		return nil, err
	}
	for _, u := range list {
		users[u.ID] = true
	}
	events, err := s.Outbox().Pending(ctx, 1<<20)
	if err != nil {
		return nil, err
	}
	var system relation.StoreID
	made, seqs := map[string]bool{}, int64(0)
	for i, e := range events {
		if e.Seq <= seqs {
			return nil, fmt.Errorf("event %d has the number %d after %d", i, e.Seq, seqs)
		}
		seqs = e.Seq
		if system = e.Event.Revision.Store; e.Event.Revision.Rev != uint64(i+1) {
			return nil, fmt.Errorf("event %d has the revision %d", i, e.Event.Revision.Rev)
		}
		if e.Event.Action == "user.create" {
			made[e.Event.Resource[len("user:"):]] = true
		}
	}
	if !maps.Equal(users, made) {
		return nil, fmt.Errorf("%d users and %d events of users", len(users), len(made))
	}
	if system == "" {
		return users, nil
	}
	head, err := s.Head(ctx, system)
	if err != nil || head.Rev != uint64(len(events)) {
		return nil, fmt.Errorf("the head is %d after %d events: %w", head.Rev, len(events), err)
	}
	batches, err := s.Changes(ctx, system, 0, 1<<20)
	if err != nil || len(batches) != len(events) {
		return nil, fmt.Errorf("%d batches for %d events: %w", len(batches), len(events), err)
	}
	tuples := 0
	_, err = s.Tuples().LoadGraph(ctx, system, func(relation.Tuple) error { tuples++; return nil })
	if err != nil || tuples != len(users) {
		return nil, fmt.Errorf("%d tuples for %d users: %w", tuples, len(users), err)
	}
	return users, nil
}

// blackout is a power cut and what had been acknowledged before it.
type blackout struct {
	image *powervfs.Image
	acked map[string]bool
}

// load writes users from several goroutines, in the spans between go and pause.
type load struct {
	gate  sync.RWMutex // held for writing while the load pauses
	mu    sync.Mutex
	acked map[string]bool
	ended bool
	wg    sync.WaitGroup
}

// start begins a load that pauses.
func start(t *testing.T, s *Store, shard relation.StoreID, acked map[string]bool) *load {
	l := &load{acked: acked}
	l.gate.Lock()
	for range 6 {
		l.wg.Go(func() {
			for l.one(t, s, shard) {
			}
		})
	}
	return l
}

func (l *load) one(t *testing.T, s *Store, shard relation.StoreID) bool {
	l.gate.RLock()
	defer l.gate.RUnlock()
	if l.ended {
		return false
	}
	id := tenant.RandomID()
	if err := addUser(s, shard, id); err != nil {
		t.Error(err)
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[id] = true
	return true
}

// stop ends a load that pauses.
func (l *load) stop() {
	l.ended = true
	l.gate.Unlock()
	l.wg.Wait()
}

// cuts runs the store under load on a disk and gives check one power cut after
// another. What check returns is a directory with what a cut left; the next
// life begins in the last one, and every third life anew.
func cuts(t *testing.T, name string, cfg Config, rng *rand.Rand, lives, rounds int, check func(blackout) string) {
	var shard relation.StoreID
	var acked map[string]bool
	var next string
	for life := range lives {
		vfs := fmt.Sprintf("%s-%d", name, life)
		disk, err := powervfs.New(vfs)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		fresh := life%3 == 0 || next == ""
		cfg.Path, cfg.VFS = filepath.Join(next, "bulwark.db"), vfs
		if fresh {
			cfg.Path, acked = place(t), map[string]bool{}
		}
		s := open(t, cfg)
		if fresh {
			shard = world(t, s)
		} else if acked, err = state(s); err != nil {
			t.Fatal(err)
		}
		l := start(t, s, shard, acked)
		for range rounds {
			dark := make(chan blackout, 1)
			disk.CutAfter(1+rng.Int64N(200), func(im *powervfs.Image) {
				l.mu.Lock()
				defer l.mu.Unlock()
				dark <- blackout{im, maps.Clone(l.acked)}
			})
			l.gate.Unlock()
			b := <-dark
			l.gate.Lock()
			if next = check(b); t.Failed() {
				break
			}
		}
		l.stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			return
		}
	}
}

// dead writes the image into a directory and opens the store in it.
func dead(t *testing.T, b blackout, loss powervfs.Loss, rng *rand.Rand) (dir string, have map[string]bool) {
	dir, err := os.MkdirTemp(t.TempDir(), "cut")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.image.WriteTo(dir, loss, rng); err != nil {
		t.Fatal(err)
	}
	s, err := Open(context.Background(), Config{Path: filepath.Join(dir, "bulwark.db")})
	if err != nil {
		t.Fatalf("loss %d: the store does not open: %v", loss, err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if have, err = state(s); err != nil {
		t.Fatalf("loss %d: %v", loss, err)
	}
	return dir, have
}

func lost(acked, have map[string]bool) (n int) {
	for id := range acked {
		if !have[id] {
			n++
		}
	}
	return n
}

// Everything acknowledged before a power cut is there after it, with its event,
// whatever the disk did with the writes since its last sync.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	round, more := 0, 0
	began := time.Now()
	cuts(t, "power", Config{checkpoint: 40}, rng, 10, 20, func(b blackout) string {
		round++
		dir, have := dead(t, b, powervfs.Losses()[round%4], rng)
		if n := lost(b.acked, have); n > 0 {
			t.Errorf("round %d: %d of %d acknowledged changes are lost", round, n, len(b.acked))
		}
		more += len(have) - len(b.acked)
		return dir
	})
	t.Logf("%d power cuts in %v; %d changes were durable before their answer", round, time.Since(began), more)
}

// The test above can fail: a store that does not sync its commits loses some.
func TestPowerLossIsSeen(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	missing := 0
	cuts(t, "normal", Config{unsafeSync: "NORMAL"}, rng, 1, 20, func(b blackout) string {
		_, have := dead(t, b, powervfs.All, rng)
		missing += lost(b.acked, have)
		return ""
	})
	if missing == 0 {
		t.Error("with synchronous=NORMAL no acknowledged change was lost: the disk forgets nothing")
	}
	t.Logf("%d acknowledged changes lost", missing)
}

// A power cut while the store is made leaves one that can be opened.
func TestPowerLossAtBirth(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(5, 6))
	for n, more := int64(1), true; more; n += 1 + rng.Int64N(20) {
		name := fmt.Sprintf("birth-%d", n)
		disk, err := powervfs.New(name)
		if err != nil {
			t.Fatal(err)
		}
		dark := make(chan *powervfs.Image, 1)
		disk.CutAfter(n, func(im *powervfs.Image) { dark <- im })
		s, err := Open(ctx, Config{Path: place(t), VFS: name})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		disk.Close()
		select {
		case im := <-dark:
			for _, loss := range powervfs.Losses() {
				dead(t, blackout{image: im}, loss, rng)
			}
		default:
			more = false
			t.Logf("a store is made in fewer than %d operations", n)
		}
	}
}

// A full disk fails the change cleanly; when there is space again the store
// goes on by itself.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	const full, ioWrite, ioSync = 13, 10 | 3<<8, 10 | 4<<8
	for name, f := range map[string]func(op powervfs.Op, n int) int32{
		"full at once": func(op powervfs.Op, _ int) int32 { return map[powervfs.Op]int32{powervfs.Write: full}[op] },
		"full midway":  func(op powervfs.Op, n int) int32 { return map[bool]int32{true: full}[op == powervfs.Write && n > 7] },
		"write error":  func(op powervfs.Op, n int) int32 { return map[bool]int32{true: ioWrite}[op == powervfs.Write && n > 3] },
		"sync error":   func(op powervfs.Op, _ int) int32 { return map[powervfs.Op]int32{powervfs.Sync: ioSync}[op] },
		"one in ten":   func(_ powervfs.Op, n int) int32 { return map[bool]int32{true: full}[n%10 == 9] },
		"sync, one of2": func(op powervfs.Op, n int) int32 {
			return map[bool]int32{true: ioSync}[op == powervfs.Sync && n%2 == 0]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vfs := "fault-" + strings.ReplaceAll(name, " ", "-")
			disk, err := powervfs.New(vfs)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(disk.Close)
			s := open(t, Config{Path: place(t), VFS: vfs, checkpoint: 30})
			shard := world(t, s)
			acked, delivered := map[string]bool{}, uint64(0)
			s.Subscribe(func(store.Batch) { delivered++ })
			write := func() error {
				id := tenant.RandomID()
				err := addUser(s, shard, id)
				if err == nil {
					acked[id] = true
				} else if fault.KindOf(err) != fault.Unavailable {
					t.Errorf("kind %v: %v", fault.KindOf(err), err)
				}
				return err
			}
			for range 20 {
				if err := write(); err != nil {
					t.Fatal(err)
				}
			}
			var n int
			var mu sync.Mutex
			disk.Fail(func(op powervfs.Op, _ string) int32 {
				mu.Lock()
				defer mu.Unlock()
				n++
				return f(op, n)
			})
			failed := 0
			for range 20 {
				if write() != nil {
					failed++
				}
			}
			if failed == 0 {
				t.Error("no change failed on a broken disk")
			}
			disk.Fail(nil)
			for range 20 {
				if err := write(); err != nil {
					t.Fatalf("the store does not recover: %v", err)
				}
			}
			have, err := state(s)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(acked, have) {
				t.Errorf("%d changes acknowledged, %d there", len(acked), len(have))
			}
			dark := make(chan *powervfs.Image, 1)
			disk.CutAfter(1, func(im *powervfs.Image) { dark <- im })
			if err := write(); err != nil {
				t.Fatal(err)
			}
			if _, have := dead(t, blackout{image: <-dark}, powervfs.All, nil); lost(acked, have) > 1 {
				t.Error("a power cut after the faults loses acknowledged changes")
			}
			if want := uint64(len(acked)); delivered != want {
				t.Errorf("%d batches delivered for %d changes", delivered, want)
			}
			if c := s.Counters(); c.Lost != uint64(failed) || c.Refused != 0 {
				t.Errorf("counters say %+v, %d failed", c, failed)
			}
		})
	}
}
