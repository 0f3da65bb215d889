package authz_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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

// cold is a free store on SQLite, filled, and an engine for each load.
type cold struct {
	db    *sqlite.Store
	store relation.StoreID
	next  func(images bool) *authz.Engine
}

func newCold(tb testing.TB, tuples int) *cold {
	tb.Helper()
	ctx := context.Background()
	dir := tb.TempDir()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	must(os.Chmod(dir, 0o700))
	db, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(dir, "bulwark.db")})
	must(err)
	tb.Cleanup(func() { _ = db.Close() })
	must(db.CreateInstance(ctx, store.Instance{ID: tenant.RandomID(), Env: "test", Issuer: "https://i.example", Epoch: 1, RootFingerprint: "f", Created: time.Now()}))
	c := &cold{db: db, store: relation.StoreID(tenant.RandomID())}
	system := relation.StoreID(tenant.RandomID())
	change := func(id relation.StoreID) ledger.Change {
		return ledger.Change{Store: id, Event: ledger.Event{Class: ledger.Mutation, Tenant: tenant.Platform}}
	}
	_, err = db.Directory().Mutate(ctx, change(system), func(tx directory.Tx) error {
		return errors.Join(
			tx.Insert(&directory.Tenant{Tenant: tenant.Platform, Name: "platform", State: directory.Active, System: system}),
			tx.Insert(&directory.Graph{Tenant: tenant.Platform, ID: system, Kind: directory.SystemGraph}),
			tx.Insert(&directory.Graph{Tenant: tenant.Platform, ID: c.store, Kind: directory.FreeGraph, Name: "large"}))
	})
	must(err)
	mac := secret.Random(32)
	c.next = func(images bool) *authz.Engine {
		cfg := authz.Config{
			Store: db.Tuples(), Archive: db.Archive(), MAC: mac, Epoch: 1, Now: time.Now,
			Application: func(id relation.StoreID) (string, bool) { return authz.FreeApplication(id), id == c.store },
		}
		if images {
			cfg.Images = db.Images()
		}
		e, err := authz.New(ctx, cfg)
		must(err)
		return e
	}
	e := c.next(false)
	db.Subscribe(func(b store.Batch) {
		for _, x := range b.Entries {
			if err := e.ApplyEntry(x.Kind, x.Key, x.Payload); err != nil {
				tb.Error(err)
			}
		}
	})
	_, _, err = e.PublishModel(ctx, change(c.store), authz.FreeApplication(c.store), docs)
	must(err)
	c.write(tb, 0, tuples)
	return c
}

// write adds tuples of ids with 36 bytes.
func (c *cold) write(tb testing.TB, from, to int) {
	tb.Helper()
	var batch []relation.Tuple
	for i := from; i < to; i++ {
		batch = append(batch, relation.Tuple{Object: fmt.Sprintf("folder:%036d", i/3), Relation: "viewer", Subject: fmt.Sprintf("user:%036d", i*7919%50021)})
		if len(batch) == 1000 || i == to-1 {
			ev := ledger.Event{Class: ledger.Mutation, Tenant: tenant.Platform}
			if _, err := c.db.Tuples().WriteTuples(context.Background(), ledger.Change{Store: c.store, Event: ev}, authz.Write{Writes: batch}); err != nil {
				tb.Fatal(err)
			}
			batch = batch[:0]
		}
	}
}

// ask puts the first question.
func (c *cold) ask(tb testing.TB, e *authz.Engine, n int, want bool) {
	tb.Helper()
	d, err := e.Check(context.Background(), authz.Query{Store: c.store, Object: fmt.Sprintf("folder:%036d", n/3), Relation: "viewer", Subject: fmt.Sprintf("user:%036d", n*7919%50021)})
	if err != nil || d.Allowed != want {
		tb.Fatalf("%+v, %v", d, err)
	}
}

// A new process finds the image that another one left, over a real SQLite file;
// small stores have none.
func TestColdFromImage(t *testing.T) {
	t.Parallel()
	c := newCold(t, 21_000)
	first := c.next(true)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); first.KeepImages(ctx) }() // ends with ctx
	c.ask(t, first, 20_999, true)
	for deadline := time.Now().Add(time.Minute); first.Stats().ImageWrites == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("no image is written: %+v", first.Stats())
		}
		runtime.Gosched()
	}
	end()
	<-ended
	c.write(t, 21_000, 22_000)
	second := c.next(true)
	c.ask(t, second, 20_999, true)
	c.ask(t, second, 21_999, true)
	c.ask(t, second, 22_002, false)
	if s := second.Stats(); s.ImageLoads != 1 || s.Tuples != 22_000 || s.ImageRefusals != 0 {
		t.Errorf("%+v", s)
	}
	rows := c.next(false)
	c.ask(t, rows, 21_999, true)
	if err := c.db.Images().DropImage(context.Background(), c.store); err != nil {
		t.Fatal(err)
	}
	third := c.next(true)
	c.ask(t, third, 21_999, true)
	if s := third.Stats(); s.ImageLoads != 0 || s.ImageRefusals != 0 {
		t.Errorf("without an image: %+v", s)
	}
	if err := c.db.Images().DropImage(context.Background(), "none"); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
}

// BenchmarkCold is the first question about a store of a million tuples.
func BenchmarkCold(b *testing.B) {
	c := newCold(b, 1_000_000)
	first := c.next(true)
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go first.KeepImages(ctx) // ends with ctx
	c.ask(b, first, 999, true)
	for first.Stats().ImageWrites == 0 {
		runtime.Gosched()
	}
	for _, tail := range []int{0, 10_000} {
		c.write(b, 1_000_000, 1_000_000+tail)
		for name, images := range map[string]bool{"rows": false, "image": true} {
			b.Run(fmt.Sprint(name, "/tail=", tail), func(b *testing.B) {
				for b.Loop() {
					e := c.next(images)
					c.ask(b, e, 999, true)
					if s := e.Stats(); images != (s.ImageLoads == 1) {
						b.Fatalf("%+v", s)
					}
				}
			})
		}
	}
}
