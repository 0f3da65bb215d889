package authz

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// loadTimeout bounds one load of a store. It does not end with the request that
// began it: others wait for the same load.
const loadTimeout = 30 * time.Second

// maxPending bounds the changes that a load in progress may have to catch up
// with. Beyond it the load starts again.
const maxPending = 4096

// registry holds the stores' entries. Reading takes no lock; adding copies one
// of the shards.
type registry struct {
	once   sync.Once
	seed   maphash.Seed
	mu     sync.Mutex
	shards [256]atomic.Pointer[map[relation.StoreID]*entry]
}

func (r *registry) shard(id relation.StoreID) *atomic.Pointer[map[relation.StoreID]*entry] {
	r.once.Do(func() { r.seed = maphash.MakeSeed() })
	return &r.shards[maphash.String(r.seed, string(id))%uint64(len(r.shards))]
}

func (r *registry) get(id relation.StoreID) *entry {
	if m := r.shard(id).Load(); m != nil {
		return (*m)[id]
	}
	return nil
}

// getOrAdd returns the store's one entry.
func (r *registry) getOrAdd(id relation.StoreID, app *application) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ent := r.get(id); ent != nil {
		return ent
	}
	shard := r.shard(id)
	next := map[relation.StoreID]*entry{}
	if m := shard.Load(); m != nil {
		next = maps.Clone(*m)
	}
	ent := &entry{id: id, app: app, assigning: make(chan struct{}, 1)}
	next[id] = ent
	shard.Store(&next)
	return ent
}

func (r *registry) remove(id relation.StoreID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.get(id) == nil {
		return
	}
	shard := r.shard(id)
	next := maps.Clone(*shard.Load())
	delete(next, id)
	shard.Store(&next)
}

// entry is one store. Readers take snap and nothing else; nil means that the
// store is not in memory and must be loaded before anything is answered.
type entry struct {
	id   relation.StoreID
	app  *application
	snap atomic.Pointer[snapshot]
	used atomic.Uint64 // how many loads there had been when a question came last

	assigning chan struct{} // holds one while somebody writes what leads to exclusive roles

	mu      sync.Mutex
	graph   *graph  // nil when snap is
	flight  *flight // the load in progress, if any
	pending []batch // what came while it ran
	missed  bool    // more came than pending may hold

	imaging imaging

	announced []ModelRecord // of a free store, for the revision that is told next
	own       *OwnPolicies  // the tenant's, for the same; nil: no change
}

type flight struct {
	done chan struct{}
	snap *snapshot // valid once done is closed; nil if changes overtook the load
	err  error     // valid once done is closed
}

type batch struct {
	rev             uint64
	writes, deletes []relation.Tuple
	models          []ModelRecord // of a free store
	own             *OwnPolicies
}

// counters are read by [Engine.Stats].
type counters struct {
	loads, resyncs, evictions                             atomic.Uint64
	imageLoads, imageRefusals, imageWrites, imageFailures atomic.Uint64
}

// Stats is a view of the engine's memory and work, for metrics.
type Stats struct {
	Stores  int    // in memory
	Tuples  int    // in memory
	Loads   uint64 // of a store from the database, since the start
	Resyncs uint64 // loads made necessary by a gap or a change that did not fit

	Evictions uint64 // of a store from memory, to make room for another

	ImageLoads    uint64 // loads that an image was enough for, with what changed since
	ImageRefusals uint64 // of an image that is damaged, another's or a newer version's
	ImageWrites   uint64
	ImageFailures uint64 // of writing one

	Bytes int64 // about what the stores take
}

// Stats walks all stores.
func (e *Engine) Stats() Stats {
	s := Stats{Loads: e.loads.Load(), Resyncs: e.resyncs.Load(), Evictions: e.evictions.Load(),
		ImageLoads: e.imageLoads.Load(), ImageRefusals: e.imageRefusals.Load(), ImageWrites: e.imageWrites.Load(), ImageFailures: e.imageFailures.Load()}
	for i := range e.stores.shards {
		m := e.stores.shards[i].Load()
		if m == nil {
			continue
		}
		for _, ent := range *m {
			if snap := ent.snap.Load(); snap != nil {
				s.Stores++
				s.Tuples += snap.tuples
				s.Bytes += ent.weight(snap)
			}
		}
	}
	return s
}

// snapshot returns the store's latest snapshot and loads the store if need be.
func (e *Engine) snapshot(ctx context.Context, id relation.StoreID) (*entry, *snapshot, error) {
	ent := e.stores.get(id)
	if ent == nil {
		app, ok := e.cfg.Application(id)
		if !ok {
			return nil, nil, fault.New(fault.NotFound, "there is no such store")
		}
		ent = e.stores.getOrAdd(id, e.application(app))
	}
	for range 4 {
		if snap := ent.snap.Load(); snap != nil {
			if now := e.loads.Load(); ent.used.Load() != now { // most questions write nothing
				ent.used.Store(now)
			}
			return ent, snap, nil
		}
		snap, err := e.load(ctx, ent)
		if err != nil {
			if fault.KindOf(err) == fault.NotFound {
				e.drop(id) // deleted since Application knew it
			}
			return nil, nil, err
		}
		if snap != nil {
			return ent, snap, nil // even if it has left memory again: somebody waited for it
		}
	}
	return nil, nil, fault.New(fault.Unavailable, "the store changes faster than it can be loaded; try again")
}

// drop forgets a deleted store. A question that holds its snapshot is answered
// still; a load in progress ends in an entry that nobody finds.
func (e *Engine) drop(id relation.StoreID) {
	e.stores.remove(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.applications, FreeApplication(id))
}

// load waits for the load in progress, or starts one. It returns nil and no error
// when there is something to look for in the entry again.
func (e *Engine) load(ctx context.Context, ent *entry) (*snapshot, error) {
	ent.mu.Lock()
	if ent.graph != nil {
		ent.mu.Unlock()
		return nil, nil
	}
	f := ent.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		ent.flight = f
		go e.fly(context.WithoutCancel(ctx), ent, f)
	}
	ent.mu.Unlock()
	select {
	case <-f.done:
		return f.snap, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fly is the one goroutine that loads a store.
func (e *Engine) fly(ctx context.Context, ent *entry, f *flight) {
	defer e.evict(ent)
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	e.loads.Add(1)
	g, loaded, im, err := e.read(ctx, ent)
	ent.mu.Lock()
	defer ent.mu.Unlock()
	pending, missed := ent.pending, ent.missed
	ent.pending, ent.missed, ent.flight = nil, false, nil
	if err == nil {
		g.cur.layer = newLayer(loaded.Own)
		err = ent.app.reset(loaded.Models)
	}
	if err == nil {
		for _, b := range pending {
			if err := ent.follow(g, b); err != nil {
				missed = true
				break
			}
		}
		if missed {
			e.resyncs.Add(1) // nothing is published; who waits loads again
		} else {
			ent.graph = g
			ent.snap.Store(g.cur)
			f.snap = g.cur
			im.queued = ent.imaging.queued
			ent.imaging = im
			e.outdate(ent, 0)
		}
	}
	var ours *fault.Error
	if err != nil && !errors.As(err, &ours) {
		err = fault.Wrap(fault.Unavailable, "the store cannot be loaded; try again", err)
	}
	f.err = err
	close(f.done)
}

// evict makes room after a load: the stores that were not asked for the longest
// leave memory until the others fit. The one that was just loaded stays, however
// large it is: somebody waits for it.
func (e *Engine) evict(loaded *entry) {
	if e.cfg.Memory == 0 {
		return
	}
	var all []*entry
	var total int64
	for i := range e.stores.shards {
		if m := e.stores.shards[i].Load(); m != nil {
			for _, ent := range *m {
				if snap := ent.snap.Load(); snap != nil {
					total += ent.weight(snap)
					all = append(all, ent)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	for _, ent := range all {
		if total <= e.cfg.Memory {
			return
		}
		if ent == loaded {
			continue
		}
		ent.mu.Lock()
		if snap := ent.snap.Load(); snap != nil {
			total -= ent.weight(snap)
			ent.graph = nil
			ent.snap.Store(nil)
			e.evictions.Add(1)
			ent.app.forget()
		}
		ent.mu.Unlock()
	}
}

// weight is about what the store takes, in bytes: with its own models, if it has
// some.
func (ent *entry) weight(s *snapshot) int64 { return s.weight() + ent.app.weight() }

// weight is about what the snapshot and its writer's side take, in bytes.
func (s *snapshot) weight() int64 {
	names := len(s.arena)*arenaChunk + len(s.at)*entityChunk*8 + len(s.table.s)*16
	return int64(names + int(s.n)*16 + s.tuples*24 + 4096)
}

// follow applies the batch if it is the next one, and ignores it if the graph
// holds it already. A gap has kind [fault.Integrity].
func (ent *entry) follow(g *graph, b batch) error {
	switch {
	case b.rev <= g.cur.rev:
		return nil
	case b.rev != g.cur.rev+1:
		return fault.New(fault.Integrity, "a revision is missing")
	}
	if err := ent.app.takeAll(b.models); err != nil {
		return err
	}
	layer := g.cur.layer
	if b.own != nil {
		layer = newLayer(b.own)
	}
	if err := g.apply(b.rev, b.writes, b.deletes); err != nil {
		return err
	}
	g.cur.layer = layer // it is nobody else's yet
	return nil
}

// lose leaves the store to be loaded again: something of it could not be taken
// over. A load in progress may not have seen it. Called with the lock held.
func (ent *entry) lose() {
	ent.graph = nil
	ent.snap.Store(nil)
	ent.missed = ent.missed || ent.flight != nil
}

// announce takes the model of a free store, for the revision that is told next.
// One that cannot be read leaves the store to be loaded again.
func (ent *entry) announce(rec ModelRecord, err error) {
	ent.mu.Lock()
	defer ent.mu.Unlock()
	if err != nil {
		ent.lose()
		return
	}
	ent.announced = append(ent.announced, rec)
}

// Apply takes one committed revision of a store over. The wiring calls it for
// every revision of every store, in order, also for those that change no tuple:
// revisions are dense, and a gap means that something was missed. Then, or when
// the change does not fit the graph, the store leaves memory and the next
// question loads it again ([Stats.Resyncs] counts). The slices are not changed
// and must not be changed afterwards.
//
// When Apply returns, every Check that begins sees the revision.
func (e *Engine) Apply(store relation.StoreID, rev uint64, writes, deletes []relation.Tuple) {
	ent := e.stores.get(store)
	if ent == nil {
		return // never asked for: the first question will load it
	}
	ent.mu.Lock()
	defer ent.mu.Unlock()
	b := batch{rev, writes, deletes, ent.announced, ent.own}
	ent.announced, ent.own = nil, nil
	switch {
	case ent.flight != nil && len(ent.pending) < maxPending:
		ent.pending = append(ent.pending, b)
	case ent.flight != nil:
		ent.pending, ent.missed = nil, true
	case ent.graph != nil:
		if err := ent.follow(ent.graph, b); err != nil {
			e.resyncs.Add(1)
			ent.graph = nil
			ent.snap.Store(nil)
			return
		}
		ent.snap.Store(ent.graph.cur)
		e.outdate(ent, len(writes)+len(deletes))
	}
}
