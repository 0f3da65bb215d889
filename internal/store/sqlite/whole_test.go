package sqlite

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"path/filepath"
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

// whole is a process with a store and an audit log that drains its outbox,
// each on a disk of its own that loses power at the same moment.
type whole struct {
	store *Store
	log   *audit.Log
	disk  *powervfs.Disk
	drain sync.WaitGroup
	end   context.CancelFunc
}

func (p *whole) stop() {
	p.end()
	p.drain.Wait()
	_ = p.log.Close(context.Background()) // its disk is gone
	_ = p.store.Close()
	p.disk.Close()
}

// inLog returns how often the log has each revision of the shard.
func inLog(t *testing.T, fs audit.FS, shard relation.StoreID) map[uint64]int {
	t.Helper()
	have := map[uint64]int{}
	err := audit.Query(context.Background(), "/audit", audit.QueryOptions{FS: fs}, func(s ledger.Stored) bool {
		if s.Event.Revision.Store == shard {
			have[s.Event.Revision.Rev]++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// One power cut over the store and the audit log: every acknowledged change is
// there, every change has its event in the log once, when the outbox is drained,
// and no event is of a change that was lost.
func TestPowerLossWithAuditLog(t *testing.T) {
	t.Parallel()
	key, public, err := note.GenerateKey(rand.Reader, "log.example/node")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	rng := mathrand.New(mathrand.NewPCG(11, 12))
	segments := powerloss.New()
	start := func(path string, life int) *whole {
		t.Helper()
		vfs := fmt.Sprint("whole-", life)
		disk, err := powervfs.New(vfs)
		if err != nil {
			t.Fatal(err)
		}
		p := &whole{disk: disk, store: open(t, Config{Path: path, VFS: vfs, checkpoint: 60})}
		p.log, err = audit.Open(context.Background(), audit.Config{Dir: "/audit", FS: segments.FS(), Now: time.Now, Signer: signer, Verifier: verifier, Instance: "test", Linger: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		p.end = cancel
		p.store.Subscribe(func(store.Batch) { p.log.Wake() })
		p.drain.Go(func() {
			if err := p.log.Drain(ctx, p.store.Outbox()); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	drained := func(p *whole) {
		t.Helper()
		for {
			left, err := p.store.Outbox().Pending(context.Background(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) == 0 {
				return
			}
			p.log.Wake()
		}
	}

	var shard relation.StoreID
	acked := map[string]bool{}
	p := start(place(t), 0)
	shard = world(t, p.store)
	const lives = 25
	for life := 1; life <= lives; life++ {
		var load sync.WaitGroup
		var mu sync.Mutex
		dark := make(chan blackout, 1)
		p.disk.CutAfter(1+rng.Int64N(500), func(im *powervfs.Image) {
			segments.PowerCut(rng)
			p.disk.Fail(func(powervfs.Op, string) int32 { return 10 }) // the process is no more
			mu.Lock()
			defer mu.Unlock()
			dark <- blackout{im, maps.Clone(acked)}
		})
		for range 6 {
			load.Go(func() {
				for {
					id := tenant.RandomID()
					if addUser(p.store, shard, id) != nil {
						return
					}
					mu.Lock()
					acked[id] = true
					mu.Unlock()
				}
			})
		}
		b := <-dark
		load.Wait()
		p.stop()

		dir := t.TempDir()
		if err := b.image.WriteTo(dir, powervfs.Losses()[life%4], rng); err != nil {
			t.Fatal(err)
		}
		p = start(filepath.Join(dir, "bulwark.db"), life)
		drained(p)
		have := map[string]bool{}
		list, err := p.store.Directory().Users(context.Background(), tenant.Platform, "", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range list {
			have[u.ID] = true
		}
		if n := lost(b.acked, have); n > 0 {
			t.Fatalf("cut %d: %d of %d acknowledged changes are lost", life, n, len(b.acked))
		}
		head, err := p.store.Head(context.Background(), shard)
		if err != nil || head.Rev != uint64(1+len(have)) {
			t.Fatalf("cut %d: revision %d with %d users: %v", life, head.Rev, len(have), err)
		}
		events := inLog(t, segments.FS(), shard)
		for rev := uint64(1); rev <= head.Rev; rev++ {
			if events[rev] != 1 {
				t.Errorf("cut %d: revision %d is in the log %d times", life, rev, events[rev])
			}
		}
		if len(events) != int(head.Rev) {
			t.Errorf("cut %d: the log has %d revisions, the store %d", life, len(events), head.Rev)
		}
		report, err := audit.Verify(context.Background(), "/audit", audit.VerifyOptions{FS: segments.FS(), Verifier: verifier})
		if err != nil || !report.OK() {
			t.Errorf("cut %d: the log does not verify: %+v, %v", life, report, err)
		}
		if t.Failed() {
			break
		}
		acked = have
	}
	p.stop()
	t.Logf("%d changes and their events survived %d power cuts of the whole process", len(acked), lives)
}
