package sts_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

const env = "test"

// world is a real store and a real keyring, with a clock of its own.
type world struct {
	t        testing.TB
	store    *sqlite.Store
	platform relation.StoreID
	seal     *kms.Keyring
	dir      *directory.Directory

	mu sync.Mutex
	at time.Time
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, at: time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)}
	folder := t.TempDir()
	root, err := local.Create(filepath.Join(folder, "root"), secret.New([]byte("passphrase")), local.Config{Env: env, WorkFactor: 1})
	must(t, err)
	w.store, err = sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(folder, "bulwark.db"), Now: w.now})
	must(t, err)
	t.Cleanup(func() { _ = w.store.Close() })
	must(t, w.store.CreateInstance(ctx, store.Instance{ID: tenant.RandomID(), Env: env, Issuer: "https://id.example", Epoch: 1, RootFingerprint: root.Fingerprint(), Created: w.now()}))
	w.dir, err = directory.New(ctx, directory.Config{
		Store: w.store.Directory(), Env: env, MaxToken: sts.MaxTokenLife, Now: w.now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return secret.Random(32), nil },
	})
	must(t, err)
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := w.dir.Apply(e.Kind, e.Key, e.Payload); err != nil {
				t.Errorf("directory: %v", err)
			}
		}
	})
	platform, err := w.dir.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	must(t, err)
	w.platform = platform.System
	w.seal, err = kms.Open(ctx, kms.Config{Root: root, Store: w.store.Keys(), Env: env, Fingerprint: root.Fingerprint(), Now: w.now})
	must(t, err)
	must(t, w.seal.CreateKEK(ctx, tenant.Platform, w.platform))
	return w
}

// node opens the keys as one more process would, fed by the store's changes.
func (w *world) node(sealer sts.Sealer) *sts.Keys {
	w.t.Helper()
	k, err := sts.OpenKeys(context.Background(), sts.KeysConfig{Store: w.store.Tokens(), Sealer: sealer, Platform: w.platform, Now: w.now})
	must(w.t, err)
	w.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := k.Apply(e.Kind, e.Key, e.Payload); err != nil {
				w.t.Errorf("keys: %v", err)
			}
		}
	})
	return k
}

type quiet struct{}

// Append implements sts.Audit.
func (quiet) Append(context.Context, ledger.Event) error { return nil }

// Reject implements sts.Audit.
func (quiet) Reject(ledger.Event) {}

func (w *world) issuer(k *sts.Keys) (*sts.Issuer, error) {
	return sts.New(context.Background(), sts.Config{Issuer: "https://id.example", Dev: true, Directory: w.dir, Keys: k, Audit: quiet{}, Now: w.now})
}

// kids returns the published kids of a set, in order of use.
func kids(t testing.TB, set func() (jose.Set, error)) []string {
	t.Helper()
	s, err := set()
	must(t, err)
	var list []string
	for _, k := range s.Keys() {
		list = append(list, k.KID)
	}
	return list
}
