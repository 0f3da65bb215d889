package kms_test

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// seam is a real store that tests can watch, stop and spoil on its way.
type seam struct {
	kms.Store
	loads, mutations atomic.Int64
	mu               sync.Mutex
	events           []ledger.Event              // of changes that committed
	onLoad           func(context.Context) error // before a load
	spoil            func(*kms.TenantKeys)       // after a load
	onTx             func() error                // at the end of a transaction
}

func (s *seam) set(fn func(*seam)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(s)
}

func (s *seam) LoadTenantKeys(ctx context.Context, t tenant.ID) (kms.TenantKeys, error) {
	s.loads.Add(1)
	s.mu.Lock()
	onLoad, spoil := s.onLoad, s.spoil
	s.mu.Unlock()
	if onLoad != nil {
		if err := onLoad(ctx); err != nil {
			return kms.TenantKeys{}, err
		}
	}
	keys, err := s.Store.LoadTenantKeys(ctx, t)
	if spoil != nil {
		spoil(&keys)
	}
	return keys, err
}

func (s *seam) Mutate(ctx context.Context, c ledger.Change, fn func(kms.Tx) error) (relation.Revision, error) {
	s.mutations.Add(1)
	s.mu.Lock()
	onTx := s.onTx
	s.mu.Unlock()
	rev, err := s.Store.Mutate(ctx, c, func(tx kms.Tx) error {
		if err := fn(tx); err != nil || onTx == nil {
			return err
		}
		return onTx()
	})
	if err == nil {
		c.Event.Revision = rev
		s.set(func(s *seam) { s.events = append(s.events, c.Event) })
	}
	return rev, err
}

func (s *seam) committed() []ledger.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// recorder is a real root that remembers the KEKs that it saw in clear.
type recorder struct {
	kms.Root
	mu   sync.Mutex
	seen [][]byte
}

func (r *recorder) Wrap(ctx context.Context, plaintext secret.Bytes, aad map[string]string) ([]byte, error) {
	r.mu.Lock()
	r.seen = append(r.seen, bytes.Clone(plaintext.Reveal()))
	r.mu.Unlock()
	return r.Root.Wrap(ctx, plaintext, aad)
}

type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(1_800_000_000, c.ns.Load()).UTC() }

func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

type world struct {
	t      *testing.T
	root   *recorder
	base   *testStore
	store  *seam
	clock  *clock
	ring   *kms.Keyring
	tenant tenant.ID
	system relation.StoreID
}

func newRoot(t testing.TB, env string, dev bool) *local.Root {
	t.Helper()
	root, err := local.Create(filepath.Join(t.TempDir(), "root"), secret.Random(16), local.Config{Env: env, Dev: dev, WorkFactor: 1})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// newWorld has a platform and one tenant, each with its KEK.

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, root: &recorder{Root: newRoot(t, "test", false)}, base: newStore(t), clock: &clock{}}
	w.store = &seam{Store: w.base.keys()}
	w.ring = w.open()
	w.must(w.ring.CreateKEK(t.Context(), tenant.Platform, w.base.platform))
	w.tenant, w.system = w.addTenant()
	return w
}

func (w *world) addTenant() (tenant.ID, relation.StoreID) {
	w.t.Helper()
	id, system := w.base.addTenant(w.t)
	w.must(w.ring.CreateKEK(w.t.Context(), id, system))
	return id, system
}

func (w *world) config() kms.Config {
	return kms.Config{Root: w.root, Store: w.store, Env: "test", Fingerprint: w.root.Fingerprint(), Now: w.clock.now}
}

// open opens a further keyring on the same store, as another process would.

func (w *world) open() *kms.Keyring {
	w.t.Helper()
	ring, err := kms.Open(w.t.Context(), w.config())
	w.must(err)
	return ring
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) scope(key string) kms.Scope {
	return kms.Scope{Tenant: w.tenant, Key: key, Purpose: "p", Context: map[string]string{"row": "17"}}
}

func (w *world) encrypt(ring *kms.Keyring, s kms.Scope, plaintext string) []byte {
	w.t.Helper()
	blob, err := ring.Encrypt(w.t.Context(), s, secret.New([]byte(plaintext)))
	w.must(err)
	return blob
}

func (w *world) opens(ring *kms.Keyring, s kms.Scope, blob []byte, plaintext string) {
	w.t.Helper()
	got, err := ring.Decrypt(w.t.Context(), s, blob)
	if err != nil || string(got.Reveal()) != plaintext {
		w.t.Errorf("Decrypt = %q, %v; want %q", got.Reveal(), err, plaintext)
	}
}

func (w *world) refused(what string, ring *kms.Keyring, s kms.Scope, blob []byte) {
	w.t.Helper()
	got, err := ring.Decrypt(w.t.Context(), s, blob)
	if err == nil || fault.KindOf(err) != fault.Invalid || err.Error() != "the ciphertext does not open" || got.Len() != 0 {
		w.t.Errorf("%s: %v: not the one error", what, err)
	}
}

func version(t *testing.T, blob []byte) uint32 {
	t.Helper()
	h, err := envelope.Parse(blob)
	if err != nil {
		t.Fatal(err)
	}
	return h.Version
}

func wantKind(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("%s: %v, want kind %v", what, err, kind)
	}
}

// Every change is a mutation with one event, and nothing else is.

// A transaction that fails leaves neither row nor event, and no key in memory

// that is not in the store: what it encrypted could never be read again.

// Keys that were read before a change must not be kept after it.

// The database is not trusted: a row in another place, or edited, does not open.
