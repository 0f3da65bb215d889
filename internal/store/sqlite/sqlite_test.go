package sqlite

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

func place(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "bulwark.db")
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func instance() store.Instance {
	return store.Instance{ID: tenant.RandomID(), Env: "test", Issuer: "https://i.example", Epoch: 1, RootFingerprint: "f", Created: time.Now()}
}

func TestDirectoryRunsOnIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := open(t, Config{Path: place(t)})
	if err := s.CreateInstance(ctx, instance()); err != nil {
		t.Fatal(err)
	}
	mac := secret.Random(32)
	d, err := directory.New(ctx, directory.Config{Store: s.Directory(), Env: "test", Applications: []string{"docs"}, CodeMAC: func(context.Context) (secret.Bytes, error) { return mac, nil }, MaxToken: time.Minute, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if err := d.Apply(e.Kind, e.Key, e.Payload); err != nil {
				t.Error(err)
			}
		}
	})
	platform, err := d.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	if err != nil {
		t.Fatal(err)
	}
	acme, err := d.CreateTenant(ctx, ledger.Event{Subject: "system"}, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateTenant(ctx, ledger.Event{Subject: "system"}, "acme"); fault.KindOf(err) != fault.Conflict {
		t.Fatal(err)
	}
	olga, err := d.CreateUser(ctx, ledger.Event{}, tenant.Platform, "olga", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.AssignRole(ctx, ledger.Event{}, tenant.Platform, olga.ID, "operator"); err != nil {
		t.Fatal(err)
	}
	by := directory.Inviter{Tenant: tenant.Platform, Subject: principal.Subject{Kind: principal.User, ID: olga.ID}}
	code, _, err := d.Invite(ctx, ledger.Event{}, by, acme.Tenant, "administrator", "admin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Enrol(ctx, ledger.Event{}, code, "", "kid", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Enrol(ctx, ledger.Event{}, code, "", "kid", []byte(`{}`)); fault.KindOf(err) != fault.Denied {
		t.Fatal(err)
	}
	if err := d.SetTenantState(ctx, ledger.Event{}, acme.Tenant, directory.Suspended); err != nil {
		t.Fatal(err)
	}
	r, err := s.Head(ctx, platform.System)
	if err != nil || r.Rev != 5 {
		t.Fatal(r, err)
	}
	b, err := s.Changes(ctx, acme.System, 0, 10)
	if err != nil || len(b) != 2 || len(b[1].Writes) != 1 {
		t.Fatal(b, err)
	}
	t.Log(s.Counters())
}
