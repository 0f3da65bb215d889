package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

func TestFirstUseByMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rings := []*kms.Keyring{w.ring, w.open(), w.open()}
	id, system := w.base.addTenant(t)
	s := kms.Scope{Tenant: id, Key: "k", Purpose: "p"}
	var wg sync.WaitGroup
	blobs := make([][]byte, 24)
	for i := range blobs {
		wg.Go(func() {
			ring := rings[i%len(rings)]
			if err := ring.CreateKEK(t.Context(), id, system); err != nil {
				t.Errorf("CreateKEK: %v", err)
			}
			var err error
			if blobs[i], err = ring.Encrypt(t.Context(), s, secret.New([]byte{byte(i)})); err != nil {
				t.Errorf("Encrypt: %v", err)
			}
		})
	}
	wg.Wait()
	keys, err := w.base.keys().LoadTenantKeys(t.Context(), id)
	w.must(err)
	if len(keys.KEKs) != 1 || len(keys.Versions) != 1 {
		t.Errorf("%d KEKs and %d versions after concurrent first use", len(keys.KEKs), len(keys.Versions))
	}
	for i, blob := range blobs {
		for _, ring := range rings {
			w.opens(ring, s, blob, string([]byte{byte(i)}))
		}
	}
}

// In one process the losers wait for the winner, without a transaction of their own.
func TestFirstUseIsOneTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.store.mutations.Load()
	var wg, begun sync.WaitGroup
	begun.Add(24)
	w.store.set(func(s *seam) {
		s.onTx = func() error { // hold the first one until the others stand before it
			begun.Wait()
			for range 1000 {
				runtime.Gosched()
			}
			return nil
		}
	})
	for range 24 {
		wg.Go(func() {
			begun.Done()
			if _, err := w.ring.Encrypt(t.Context(), w.scope("k"), secret.Bytes{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := w.store.mutations.Load() - before; n != 1 {
		t.Errorf("%d transactions for one new key", n)
	}
}

func TestRotateWhileEncrypting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	w.encrypt(w.ring, s, "first")
	other := w.open()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				text := fmt.Sprint(i)
				blob, err := w.ring.Encrypt(t.Context(), s, secret.New([]byte(text)))
				if err != nil {
					t.Error(err)
					return
				}
				w.opens(w.ring, s, blob, text)
				if i%10 == 0 {
					w.ring.Invalidate(w.tenant)
				}
			}
		})
	}
	for _, ring := range []*kms.Keyring{w.ring, other} {
		wg.Go(func() {
			for range 10 {
				if err := ring.Rotate(t.Context(), w.tenant, s.Key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if v := version(t, w.encrypt(w.open(), s, "last")); v != 21 {
		t.Errorf("20 rotations by two keyrings gave version %d", v)
	}
}

func TestOneLoadForAllWhoWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	blob := w.encrypt(w.ring, s, "x")
	w.ring.Invalidate(w.tenant)
	started, release := make(chan struct{}, 100), make(chan struct{})
	w.store.set(func(s *seam) {
		s.onLoad = func(ctx context.Context) error { started <- struct{}{}; <-release; return ctx.Err() }
	})
	before := w.store.loads.Load()

	// The one who began the load goes away; the others must not notice.
	first, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := w.ring.Decrypt(first, s, blob); gone <- err }()
	<-started
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a cancelled caller got %v", err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { w.opens(w.ring, s, blob, "x") })
	}
	close(release)
	wg.Wait()
	if n := w.store.loads.Load() - before; n != 1 {
		t.Errorf("%d loads for 17 callers at once", n)
	}
}

func TestInvalidateDuringALoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	blob := w.encrypt(w.ring, s, "x")
	other := w.open()
	w.ring.Invalidate(w.tenant)

	reached, release := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	w.store.set(func(s *seam) {
		s.spoil = func(*kms.TenantKeys) {
			if held.CompareAndSwap(false, true) {
				close(reached)
				<-release
			}
		}
	})
	done := make(chan struct{})
	go func() { defer close(done); w.opens(w.ring, s, blob, "x") }()
	<-reached // the old rows are read
	w.must(other.Rotate(t.Context(), w.tenant, "k"))
	w.ring.Invalidate(w.tenant) // as the tail does
	if v := version(t, w.encrypt(w.ring, s, "new")); v != 2 {
		t.Errorf("version %d while a stale load is under way", v)
	}
	close(release)
	<-done
	if v := version(t, w.encrypt(w.ring, s, "new")); v != 2 {
		t.Errorf("version %d after a stale load came back", v)
	}
}

func TestChangesOfOtherProcesses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, other := w.scope("k"), w.open()
	blob := w.encrypt(w.ring, s, "one")
	first := bytes.Clone(blob)
	w.opens(other, s, blob, "one")
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))

	if v := version(t, w.encrypt(other, s, "x")); v != 1 {
		t.Fatalf("version %d before the invalidation: this test shows nothing", v)
	}
	w.must(other.Apply("user", w.tenant.String()+"/k/2"))
	if v := version(t, w.encrypt(other, s, "x")); v != 1 {
		t.Errorf("version %d after a change that is none of keys", v)
	}
	w.must(other.Apply(kms.KindVersion, w.tenant.String()+"/k/2"))
	if v := version(t, w.encrypt(other, s, "x")); v != 2 {
		t.Errorf("version %d after the change was taken over", v)
	}
	if err := other.Apply(kms.KindKEK, "kek/1"); fault.KindOf(err) != fault.Integrity {
		t.Errorf("an entry without a tenant: %v", err)
	}

	// A blob may be newer than the invalidation: the rows are read again. A
	// version below the highest, or a blob that is bad otherwise, is no reason.
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	blob = w.encrypt(w.ring, s, "three")
	w.opens(other, s, blob, "three")
	before := w.store.loads.Load()
	blob[len(blob)-1] ^= 1
	for range 20 {
		w.refused("a bad blob", other, s, blob)
	}
	if n := w.store.loads.Load() - before; n != 0 {
		t.Errorf("%d loads for bad blobs of known versions", n)
	}
	forged, err := envelope.Seal(secret.Random(envelope.KeySize), envelope.Header{Env: "test", Tenant: w.tenant.String(), Key: "k", Version: 99}, s.Purpose, s.Context, nil)
	w.must(err)
	for range 20 {
		w.refused("a made-up version", other, s, forged)
	}
	if n := w.store.loads.Load() - before; n > 20 {
		t.Errorf("%d loads for 20 made-up versions", n)
	}

	w.store.set(func(s *seam) {
		s.spoil = func(k *kms.TenantKeys) {
			k.Versions = slices.DeleteFunc(k.Versions, func(v kms.Version) bool { return v.Version == 1 })
		}
	})
	other.Invalidate(w.tenant)
	w.refused("a version that is gone", other, s, first)
	before = w.store.loads.Load()
	w.refused("a version that is gone", other, s, first)
	if n := w.store.loads.Load() - before; n != 0 {
		t.Errorf("%d loads for a version that is gone", n)
	}
	w.store.set(func(s *seam) { s.spoil = nil })
	other.Invalidate(w.tenant)

	// A change looks at the rows as they are, not at what is in memory.
	w.opens(other, s, first, "one")
	w.encrypt(w.ring, w.scope("fresh"), "x")
	w.must(other.Rotate(t.Context(), w.tenant, "fresh"))

	// A lost invalidation heals within five minutes.
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	w.clock.advance(5 * time.Minute)
	if v := version(t, w.encrypt(other, s, "x")); v != 4 {
		t.Errorf("version %d five minutes after a lost invalidation", v)
	}
}

func TestFailuresAreNotRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, system := w.base.addTenant(t)
	_, err := w.ring.Encrypt(t.Context(), kms.Scope{Tenant: id, Key: "k", Purpose: "p"}, secret.Bytes{})
	wantKind(t, "no KEK yet", err, fault.NotFound)
	w.must(w.open().CreateKEK(t.Context(), id, system))
	w.encrypt(w.ring, kms.Scope{Tenant: id, Key: "k", Purpose: "p"}, "x")

	s := w.scope("k")
	blob := w.encrypt(w.ring, s, "x")
	w.ring.Invalidate(w.tenant)
	w.store.set(func(s *seam) {
		s.onLoad = func(context.Context) error { return fault.New(fault.Unavailable, "no store") }
	})
	_, err = w.ring.Decrypt(t.Context(), s, blob)
	wantKind(t, "Decrypt", err, fault.Unavailable)
	_, err = w.ring.Encrypt(t.Context(), s, secret.Bytes{})
	wantKind(t, "Encrypt", err, fault.Unavailable)
	wantKind(t, "Rotate", w.ring.Rotate(t.Context(), w.tenant, "k"), fault.Unavailable)
	_, err = kms.Open(t.Context(), w.config())
	wantKind(t, "Open", err, fault.Unavailable)
	w.store.set(func(s *seam) { s.onLoad = nil })
	w.opens(w.ring, s, blob, "x")
}

func TestFewTenantsInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.config()
	c.MaxTenants = 2
	ring, err := kms.Open(t.Context(), c)
	w.must(err)
	blobs := map[tenant.ID][]byte{}
	for range 6 {
		id, _ := w.addTenant()
		blobs[id] = w.encrypt(ring, kms.Scope{Tenant: id, Key: "k", Purpose: "p"}, id.String())
	}
	before := w.store.loads.Load()
	for range 3 {
		for id, blob := range blobs {
			w.opens(ring, kms.Scope{Tenant: id, Key: "k", Purpose: "p"}, blob, id.String())
		}
	}
	if n := w.store.loads.Load() - before; n < 3*(6-2) {
		t.Errorf("%d loads for three rounds over 6 tenants: more than 2 stay in memory", n)
	}
	var wg sync.WaitGroup
	for id, blob := range blobs { // they push each other out all the time
		wg.Go(func() {
			for range 50 {
				w.opens(ring, kms.Scope{Tenant: id, Key: "k", Purpose: "p"}, blob, id.String())
			}
		})
	}
	wg.Wait()
}
