// Package storetest is the contract of a store, as a suite that every implementation passes.
//
// A store keeps the records of all engines, so the suite speaks to it through
// the engines' own interfaces and through [Core], what they share. It uses no
// other knowledge: PostgreSQL joins by passing the same [Open] function.
package storetest

import (
	"context"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/store"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// Core is what a store does for all engines alike.
type Core interface {
	CreateInstance(context.Context, store.Instance) error
	Instance(context.Context) (store.Instance, error)
	Subscribe(func(store.Batch))
	Changes(ctx context.Context, shard relation.StoreID, afterRev uint64, limit int) ([]store.Batch, error)
	Expired(ctx context.Context, now time.Time, limit int) ([]relation.Located, error)
	Counters() store.Counters
	Close() error
}

// Engines are the views that the engines have of a store.
type Engines interface {
	Directory() directory.Store
	Keys() kms.Store
	Tokens() sts.Store
	Releases() release.Store
	Outbox() audit.Outbox
}

// Graphs are the views that the decision engine has of a store.
type Graphs interface {
	Tuples() authz.Store
	Archive() authz.Archive
	Copies() authz.Copies
	Images() authz.Images
}

// Logs is the append-only list of audit logs.
type Logs interface {
	AddAuditLog(context.Context, store.AuditLog) error
	AddAuditHead(ctx context.Context, node string, size uint64, checkpoint []byte) error
	AuditLogs(context.Context) ([]store.AuditLog, error)
}

// Store is a store as the suite sees it.
type Store interface {
	Core
	Engines
	Graphs
	Logs
}

// Open opens the store in the place, a directory of the test's own, and makes
// it when it is not there yet. The suite closes it.
type Open func(t testing.TB, place string) Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, fn := range map[string]func(*testing.T, Open){
		"Instance":        testInstance,
		"RoundTrips":      testRoundTrips,
		"Users":           testUsers,
		"Unique":          testUnique,
		"References":      testReferences,
		"Shards":          testShards,
		"CrossTenant":     testCrossTenant,
		"AdminRoles":      testAdminRoles,
		"Enrolment":       testEnrolment,
		"Keys":            testKeys,
		"SigningKeys":     testSigningKeys,
		"Models":          testModels,
		"Rollouts":        testRollouts,
		"Releases":        testReleases,
		"TupleWrites":     testTupleWrites,
		"TupleNet":        testTupleNet,
		"TupleGuards":     testTupleGuards,
		"TupleIgnores":    testTupleIgnores,
		"Preconditions":   testPreconditions,
		"Expired":         testExpired,
		"Loads":           testLoads,
		"FreeStores":      testFreeStores,
		"FreeModels":      testFreeModels,
		"FreeStoreEnds":   testFreeStoreEnds,
		"ReadTuples":      testReadTuples,
		"ReadWhileWrites": testReadWhileWrites,
		"ReadChanges":     testReadChanges,
		"MixedChanges":    testMixedChanges,
		"Assertions":      testAssertions,
		"Own":             testOwn,
		"Copies":          testCopies,
		"Fills":           testFills,
		"Images":          testImages,
		"ImagesTorn":      testImagesTorn,
		"ImagesEnd":       testImagesEnd,
		"AuditLogs":       testAuditLogs,
		"Dense":           testDense,
		"GroupCommit":     testGroupCommit,
		"Atomic":          testAtomic,
		"Panic":           testPanic,
		"LateTransaction": testLateTransaction,
		"Contexts":        testContexts,
		"Subscribers":     testSubscribers,
		"Outbox":          testOutbox,
		"Snapshots":       testSnapshots,
		"Changes":         testChanges,
		"Reopen":          testReopen,
		"Closed":          testClosed,
		"Histories":       testHistories,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn(t, open)
		})
	}
}

// at is a time with all digits, so that a store which rounds is found out.
var at = time.Date(2026, 11, 24, 1, 2, 3, 123456789, time.UTC)

// world is a store with the platform and two tenants.
type world struct {
	Store
	t        *testing.T
	ctx      context.Context
	place    string
	platform directory.Tenant
	acme     directory.Tenant
	globex   directory.Tenant
	docs     relation.StoreID // acme's default store
}

func newWorld(t *testing.T, open Open) *world {
	t.Helper()
	w := &world{t: t, ctx: context.Background(), place: place(t)}
	w.Store = open(t, w.place)
	t.Cleanup(func() { _ = w.Close() })
	w.ok(w.CreateInstance(w.ctx, anInstance()))
	w.platform = w.tenant(tenant.Platform, "platform")
	w.acme, w.globex = w.tenant(tenant.New(), "acme"), w.tenant(tenant.New(), "globex")
	w.docs = newStore()
	w.must(w.acme.System, w.acme.Tenant, func(tx directory.Tx) error {
		return tx.Insert(&directory.Graph{Tenant: w.acme.Tenant, ID: w.docs, Kind: directory.DefaultGraph, Application: "docs"})
	})
	return w
}

func anInstance() store.Instance {
	return store.Instance{ID: tenant.RandomID(), Env: "test", Issuer: "https://bulwark.example", Epoch: 7, RootFingerprint: "fp", Dev: true, Created: at}
}

func newStore() relation.StoreID { return relation.StoreID(tenant.RandomID()) }

// tenant makes a tenant with its system store, in the platform's shard.
func (w *world) tenant(id tenant.ID, name string) directory.Tenant {
	w.t.Helper()
	r := directory.Tenant{Tenant: id, Name: name, State: directory.Active, System: newStore(), Created: at}
	shard := w.platform.System
	if id == tenant.Platform {
		shard = r.System
	}
	w.must(shard, tenant.Platform, func(tx directory.Tx) error {
		if err := tx.Insert(&r); err != nil {
			return err
		}
		return tx.Insert(&directory.Graph{Tenant: id, ID: r.System, Kind: directory.SystemGraph})
	})
	return r
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// kind fails the test unless err has the kind and is a fault.
func (w *world) kind(what string, err error, want fault.Kind) {
	w.t.Helper()
	if err == nil || fault.KindOf(err) != want {
		w.t.Errorf("%s: %v, want kind %v", what, err, want)
	}
}

func event(t tenant.ID, resource string) ledger.Event {
	return ledger.Event{ID: tenant.RandomID(), Time: at, Class: ledger.Mutation, Tenant: t, Action: "test.change", Resource: resource}
}

func (w *world) mutate(shard relation.StoreID, t tenant.ID, fn func(directory.Tx) error) (relation.Revision, error) {
	return w.Directory().Mutate(w.ctx, ledger.Change{Store: shard, Event: event(t, "")}, fn)
}

func (w *world) must(shard relation.StoreID, t tenant.ID, fn func(directory.Tx) error) relation.Revision {
	w.t.Helper()
	rev, err := w.mutate(shard, t, fn)
	w.ok(err)
	return rev
}

// insert adds records of one tenant in its own shard.
func (w *world) insert(t directory.Tenant, records ...directory.Record) error {
	_, err := w.mutate(t.System, t.Tenant, func(tx directory.Tx) error {
		for _, r := range records {
			if err := tx.Insert(r); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// load returns a store's tuples, in the order in which they came.
func (w *world) load(ctx context.Context, id relation.StoreID) ([]relation.Tuple, authz.Loaded, error) {
	var all []relation.Tuple
	loaded, err := w.Tuples().LoadGraph(ctx, id, func(t relation.Tuple) error {
		all = append(all, t)
		return nil
	})
	return all, loaded, err
}

// write changes the tuples of a store.
func (w *world) write(id relation.StoreID, t tenant.ID, change authz.Write) (relation.Revision, error) {
	return w.Tuples().WriteTuples(w.ctx, ledger.Change{Store: id, Event: event(t, "")}, change)
}

// free makes a free store of the tenant.
func (w *world) free(t directory.Tenant, name string) *directory.Graph {
	w.t.Helper()
	g := &directory.Graph{Tenant: t.Tenant, ID: newStore(), Kind: directory.FreeGraph, Name: name, Created: at}
	w.ok(w.insert(t, g))
	return g
}

// head returns the shard's newest revision, by the changelog.
func (w *world) head(shard relation.StoreID) uint64 {
	w.t.Helper()
	b, err := w.Changes(w.ctx, shard, 0, 1<<20)
	w.ok(err)
	return uint64(len(b))
}

// events returns everything in the outbox.
func (w *world) events() []audit.OutboxEntry {
	w.t.Helper()
	e, err := w.Outbox().Pending(w.ctx, 1<<20)
	w.ok(err)
	return e
}

func user(t directory.Tenant, name string) *directory.User {
	return &directory.User{Tenant: t.Tenant, ID: tenant.RandomID(), Name: name, State: directory.Active, Created: at}
}

func service(t directory.Tenant, name string) *directory.Service {
	return &directory.Service{Tenant: t.Tenant, ID: tenant.RandomID(), Name: name, State: directory.Active, Created: at}
}

func connection(t directory.Tenant, name, issuer string) *directory.Connection {
	return &directory.Connection{
		Tenant: t.Tenant, ID: tenant.RandomID(), Name: name, Issuer: issuer, Audience: "api", Kind: directory.Okta,
		Algs: []string{"RS256", "ES256"}, State: directory.Active, Created: at,
	}
}
