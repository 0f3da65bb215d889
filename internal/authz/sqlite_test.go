package authz_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/tenant"
)

const docs = `model
  schema 1.1
type user
type folder
  relations
    define viewer: [user]
type document
  relations
    define parent: [folder]
    define can_view: viewer from parent
`

// house is the real wiring: store, directory, engine.
type house struct {
	db     *sqlite.Store
	dir    *directory.Directory
	engine *authz.Engine
}

func build(t *testing.T, path string, mac secret.Bytes) *house {
	t.Helper()
	ctx := context.Background()
	db, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	h := &house{db: db}
	if _, err := db.Instance(ctx); fault.KindOf(err) == fault.NotFound {
		err = db.CreateInstance(ctx, store.Instance{ID: tenant.RandomID(), Env: "test", Issuer: "https://i.example", Epoch: 1, RootFingerprint: "f", Created: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
	}
	h.dir, err = directory.New(ctx, directory.Config{
		Store: db.Directory(), Env: "test", Applications: []string{"docs"}, MaxToken: time.Minute, Now: time.Now,
		CodeMAC: func(context.Context) (secret.Bytes, error) { return mac, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.engine, err = authz.New(ctx, authz.Config{
		Store: db.Tuples(), Archive: db.Archive(), MAC: mac, Epoch: 1, Now: time.Now,
		Application: func(id relation.StoreID) (string, bool) {
			g, err := h.dir.GraphByID(id)
			if err != nil {
				return "", false
			}
			if g.Kind == directory.FreeGraph {
				return authz.FreeApplication(id), true
			}
			return g.Application, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			err := errors.Join(h.engine.ApplyEntry(e.Kind, e.Key, e.Payload), h.dir.Apply(e.Kind, e.Key, e.Payload))
			if err != nil {
				t.Error(err)
			}
		}
		h.engine.Apply(b.Store, b.Rev, b.Writes, b.Deletes)
	})
	return h
}

// The engine over a real SQLite file: what is written is decided at once, also
// with many writers, and is there again after a restart, with the model and the
// tokens.
func TestOnSQLite(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, mac := filepath.Join(dir, "bulwark.db"), secret.Random(32)
	h := build(t, path, mac)
	platform, err := h.dir.CreatePlatform(ctx, ledger.Event{Subject: "system"})
	if err != nil {
		t.Fatal(err)
	}
	acme, err := h.dir.CreateTenant(ctx, ledger.Event{Subject: "system"}, "acme")
	if err != nil {
		t.Fatal(err)
	}
	graph, err := h.dir.DefaultGraph(acme.Tenant, "docs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.engine.Enforce(ctx, ledger.Change{Store: platform.System, Event: ledger.Event{Class: ledger.Mutation, Tenant: tenant.Platform}}, "docs", authz.Draft{Model: docs}); err != nil {
		t.Fatal(err)
	}
	change := ledger.Change{Store: graph, Event: ledger.Event{Class: ledger.Mutation, Action: "tuple.write", Tenant: acme.Tenant}}
	write := func(h *house, writes, deletes []relation.Tuple) (relation.Revision, error) {
		return h.engine.Write(ctx, change, "", authz.Write{Writes: writes, Deletes: deletes})
	}
	check := func(h *house, object, subject string) (bool, relation.Revision) {
		t.Helper()
		d, err := h.engine.Check(ctx, authz.Query{Store: graph, Object: object, Relation: "can_view", Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		return d.Allowed, d.Revision
	}
	viewer := func(i, j int) relation.Tuple {
		return relation.Tuple{Object: fmt.Sprintf("folder:%d", i), Relation: "viewer", Subject: fmt.Sprintf("user:%d", j)}
	}
	for i := range 4 {
		if _, err := write(h, []relation.Tuple{{Object: fmt.Sprintf("document:%d", i), Relation: "parent", Subject: fmt.Sprintf("folder:%d", i)}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				rev, err := write(h, []relation.Tuple{viewer(i, j)}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				allowed, at := check(h, fmt.Sprintf("document:%d", i), fmt.Sprintf("user:%d", j))
				if !allowed || at.Rev < rev.Rev {
					t.Errorf("user %d at document %d: %v at %v, written at %v", j, i, allowed, at, rev)
				}
			}
		})
	}
	wg.Wait()
	if _, err := write(h, []relation.Tuple{viewer(9, 9), viewer(0, 0)}, nil); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a duplicate: %v", err)
	}
	if _, err := write(h, nil, []relation.Tuple{viewer(9, 9)}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a missing delete: %v", err)
	}
	rev, err := write(h, nil, []relation.Tuple{viewer(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	token := h.engine.Token(rev)
	if s := h.engine.Stats(); s.Resyncs != 0 {
		t.Errorf("revisions are not dense: %+v", s)
	}
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	again := build(t, path, mac)
	if allowed, at := check(again, "document:0", "user:0"); allowed || at != rev {
		t.Errorf("the deleted right after a restart: %v at %v, want %v", allowed, at, rev)
	}
	if allowed, _ := check(again, "document:3", "user:9"); !allowed {
		t.Error("a right is gone after a restart")
	}
	if got, err := again.engine.ParseToken(ctx, graph, token); err != nil || got != rev {
		t.Errorf("the token after a restart: %v, %v", got, err)
	}
	page, err := again.engine.Read(ctx, graph, authz.Filter{}, 1000, "")
	if err != nil || len(page.Tuples) != 43 {
		t.Errorf("%d tuples, %v", len(page.Tuples), err)
	}
}

// A store that is deleted while it is asked, written and given models answers
// nobody any more, and nothing of it stays in memory.
func TestDeletedStore(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h := build(t, filepath.Join(dir, "bulwark.db"), secret.Random(32))
	if _, err := h.dir.CreatePlatform(ctx, ledger.Event{Subject: "system"}); err != nil {
		t.Fatal(err)
	}
	acme, err := h.dir.CreateTenant(ctx, ledger.Event{Subject: "system"}, "acme")
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		g, err := h.dir.CreateGraph(ctx, ledger.Event{Subject: "system"}, acme.Tenant, "mine")
		if err != nil {
			t.Fatal(err)
		}
		app := authz.FreeApplication(g.ID)
		change := ledger.Change{Store: g.ID, Event: ledger.Event{Class: ledger.Mutation, Tenant: acme.Tenant}}
		publish := func() error {
			_, _, err := h.engine.PublishModel(ctx, change, app, docs)
			return err
		}
		n := 0
		write := func() error {
			n++
			_, err := h.engine.Write(ctx, change, "", authz.Write{Writes: []relation.Tuple{{Object: "folder:a", Relation: "viewer", Subject: fmt.Sprint("user:", n)}}})
			return err
		}
		check := func() error {
			d, err := h.engine.Check(ctx, authz.Query{Store: g.ID, Object: "folder:a", Relation: "viewer", Subject: "user:1"})
			if err == nil && !d.Allowed {
				err = errors.New("a right is not there")
			}
			return err
		}
		if err := errors.Join(publish(), write(), check()); err != nil {
			t.Fatal(err)
		}
		if s := h.engine.Stats(); s.Stores != 1 || s.Tuples != 1 {
			t.Errorf("before: %+v", s)
		}
		var wg sync.WaitGroup
		var ready sync.WaitGroup
		for _, do := range []func() error{publish, write, check} {
			ready.Add(1)
			wg.Go(func() {
				err := do()
				for ready.Done(); err == nil; err = do() {
				}
				if fault.KindOf(err) != fault.NotFound {
					t.Errorf("a deleted store is refused with %v", err)
				}
			})
		}
		ready.Wait()
		if err := h.dir.DeleteGraph(ctx, ledger.Event{Subject: "system"}, acme.Tenant, g.ID); err != nil {
			t.Fatal(err)
		}
		if err := check(); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a check after the deletion: %v", err)
		}
		if _, err := h.engine.Read(ctx, g.ID, authz.Filter{}, 10, ""); fault.KindOf(err) != fault.NotFound {
			t.Errorf("a read after the deletion: %v", err)
		}
		wg.Wait()
		if s := h.engine.Stats(); s.Stores != 0 || s.Tuples != 0 {
			t.Errorf("after: %+v", s)
		}
		if _, ok := h.engine.ActiveModel(app); ok || h.engine.Models(app) != nil {
			t.Error("the models of a deleted store are known still")
		}
	}
}
