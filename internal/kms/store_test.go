package kms_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/tenant"
)

// testStore is the embedded store with a directory on it, so that tenants and
// their shards are real rows.
type testStore struct {
	dir       string
	sqlite    *sqlite.Store
	directory *directory.Directory
	platform  relation.StoreID
	tenants   atomic.Int64
}

func newStore(t testing.TB) *testStore {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &testStore{dir: t.TempDir()}
	must(os.Chmod(s.dir, 0o700))
	var err error
	s.sqlite, err = sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(s.dir, "bulwark.db"), Now: time.Now})
	must(err)
	t.Cleanup(func() {
		if err := s.sqlite.Close(); err != nil {
			t.Error(err)
		}
	})
	must(s.sqlite.CreateInstance(t.Context(), store.Instance{
		ID: tenant.RandomID(), Env: "test", Issuer: "https://issuer.example", Epoch: 1, RootFingerprint: "-", Created: time.Now(),
	}))
	mac := secret.Random(32)
	s.directory, err = directory.New(t.Context(), directory.Config{
		Store: s.sqlite.Directory(), Env: "test", Applications: []string{"docs"}, MaxToken: time.Minute, Now: time.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return mac, nil },
	})
	must(err)
	s.sqlite.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := s.directory.Apply(e.Kind, e.Key, e.Payload); err != nil {
				t.Error(err)
			}
		}
	})
	platform, err := s.directory.CreatePlatform(t.Context(), ledger.Event{})
	must(err)
	s.platform = platform.System
	return s
}

func (s *testStore) addTenant(t testing.TB) (tenant.ID, relation.StoreID) {
	t.Helper()
	made, err := s.directory.CreateTenant(t.Context(), ledger.Event{}, fmt.Sprint("tenant-", s.tenants.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return made.Tenant, made.System
}

func (s *testStore) keys() kms.Store { return s.sqlite.Keys() }

// files writes everything that the store has on disk.
func (s *testStore) files(t testing.TB, w io.Writer) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		n, _ := w.Write(b)
		total += n
	}
	if total == 0 {
		t.Fatal("the store has nothing on disk")
	}
}
