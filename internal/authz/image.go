package authz

import (
	"context"
	"errors"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// Images keeps an image of each large store, from which a store is loaded in much
// less time than from its rows (docs/spec/image.md). Images follow from the rows: no
// revision orders them, nothing is lost with one, and what is wrong with one is the
// engine's to find. Every method is safe for concurrent use.
type Images interface {
	// LoadImage reads a store from one consistent view: what [Images.PutImage] kept
	// goes to part, piece by piece, with its revision, then each change of a tuple
	// after that revision to change, oldest first, without times. An error of theirs
	// ends the reading and comes back as it is. Kind [fault.NotFound] for an unknown
	// store and for one without an image.
	LoadImage(_ context.Context, _ relation.StoreID, part func(rev uint64, part []byte) error, change func(TupleChange) error) (Loaded, error)
	// PutImage keeps the parts that write gives, in the place of the image that there
	// is, once write has returned nil and all of them are stored; until then, and on
	// an error, that one stays. A part has at most [MaxImagePart] bytes and is
	// write's again when its call returns. Each is stored in a transaction of its own:
	// other writers come between. Kind [fault.NotFound] for an unknown store,
	// [fault.Conflict] if another was kept meanwhile.
	PutImage(_ context.Context, _ relation.StoreID, rev uint64, write func(part func([]byte) error) error) error
	// DropImage removes the store's image, if there is one.
	DropImage(context.Context, relation.StoreID) error
}

// MaxImagePart is how large a part of an image can be, in bytes.
const MaxImagePart = 1 << 20

const (
	imageTuples  = 20_000 // below it rows are as fast
	imageChanges = 1_000
	imageQueue   = 64
)

// imaging is what an entry knows of its image. The entry's lock guards it.
type imaging struct {
	changes int  // of tuples since the image that there is, or that could not be written
	queued  bool // in the engine's channel
	bad     bool // there is one of no use
}

// errStale means that the rows are read sooner than what changed since the image.
var errStale = fault.New(fault.Unsupported, "the store's image is too old")

// worth returns how many changes make a new image of a store worth its while.
func (e *Engine) worth(tuples int) int {
	slack := e.cfg.ImageChanges
	if slack == 0 {
		slack = imageChanges
	}
	return tuples/16 + slack
}

// large reports whether a store of so many tuples gets an image.
func (e *Engine) large(tuples int) bool {
	least := e.cfg.ImageTuples
	if least == 0 {
		least = imageTuples
	}
	return tuples >= least
}

// read loads a store: from its image and what changed since, or else from its rows.
func (e *Engine) read(ctx context.Context, ent *entry) (g *graph, l Loaded, im imaging, err error) {
	if e.cfg.Images == nil {
		g, l, err = e.readRows(ctx, ent)
		return g, l, im, err
	}
	g, l, im.changes, err = e.readImage(ctx, ent)
	if err == nil {
		e.imageLoads.Add(1)
		return g, l, im, nil
	}
	switch fault.KindOf(err) {
	case fault.NotFound:
	case fault.Integrity, fault.Unsupported:
		im.bad = true
		if !errors.Is(err, errStale) {
			e.imageRefusals.Add(1)
			e.cfg.Logger.Warn("the image of a store is of no use and is made anew", "store", string(ent.id), "error", err.Error())
		}
	}
	g, l, err = e.readRows(ctx, ent)
	if err == nil {
		im.changes = e.worth(g.cur.tuples) // as if everything were new
	}
	return g, l, im, err
}

func (e *Engine) readRows(ctx context.Context, ent *entry) (*graph, Loaded, error) {
	b := newBuilder(ent.app.syms)
	line := b.begin()
	loaded, err := e.cfg.Store.LoadGraph(ctx, ent.id, line.add)
	if built := line.end(); err == nil {
		err = built
	}
	if err != nil {
		return nil, loaded, err
	}
	g, err := b.graph(loaded.Revision.Rev)
	return g, loaded, err
}

// readImage loads a store from its image. The error has kind [fault.NotFound]
// without one, [fault.Integrity] or [fault.Unsupported] for one of no use.
func (e *Engine) readImage(ctx context.Context, ent *entry) (*graph, Loaded, int, error) {
	var r *imageReader
	var since tail
	part := func(rev uint64, b []byte) error {
		if r == nil {
			r = newImageReader(ent.id, rev)
			since.last.Rev, since.last.Ordinal = rev, -1
		}
		return r.part(b)
	}
	change := func(c TupleChange) error {
		if r == nil || since.n > 2*e.worth(len(r.list)) {
			return errStale
		}
		return since.add(c)
	}
	loaded, err := e.cfg.Images.LoadImage(ctx, ent.id, part, change)
	switch {
	case err != nil:
		return nil, loaded, 0, err
	case r == nil:
		return nil, loaded, 0, errImage
	case r.rev > loaded.Revision.Rev || since.last.Rev > loaded.Revision.Rev:
		return nil, loaded, 0, errFuture
	}
	g, err := r.graph(ent.app.syms)
	if err != nil {
		return nil, loaded, 0, err
	}
	writes, deletes := since.net()
	if err := g.apply(loaded.Revision.Rev, writes, deletes); err != nil {
		return nil, loaded, 0, err
	}
	return g, loaded, since.n, nil
}

var (
	errFuture = fault.New(fault.Integrity, "the store's image is of a revision that the store does not have yet")
	errTail   = fault.New(fault.Integrity, "the changes since the store's image do not follow from each other")
)

// tail is what changed since an image, folded to what it comes to.
type tail struct {
	last  Position
	n     int
	order []relation.Tuple // keys
	state map[relation.Tuple]tailed
}

// tailed is one key: whether the image has it, and the tuple that is there now;
// the zero tuple is none.
type tailed struct {
	before bool
	now    relation.Tuple
}

// add takes the next change. The tuples of a revision have its ordinals from 0 on;
// one that is missing there, or a change that cannot follow on the one before, has
// kind [fault.Integrity].
func (s *tail) add(c TupleChange) error {
	next := Position{Rev: s.last.Rev, Ordinal: s.last.Ordinal + 1}
	if c.Rev > s.last.Rev {
		next = Position{Rev: c.Rev}
	}
	if c.Position != next || next.Rev == s.last.Rev && s.n == 0 {
		return errTail
	}
	s.last = c.Position
	s.n++
	if s.state == nil {
		s.state = map[relation.Tuple]tailed{}
	}
	key := c.Tuple.Key()
	t, known := s.state[key]
	there := t.now != relation.Tuple{}
	switch {
	case known && there != c.Delete:
		return errTail
	case !known:
		s.order = append(s.order, key)
		t.before = c.Delete
	}
	t.now = relation.Tuple{}
	if !c.Delete {
		t.now = c.Tuple
	}
	s.state[key] = t
	return nil
}

func (s *tail) net() (writes, deletes []relation.Tuple) {
	for _, key := range s.order {
		t := s.state[key]
		if t.before {
			deletes = append(deletes, key)
		}
		if t.now != (relation.Tuple{}) {
			writes = append(writes, t.now)
		}
	}
	return writes, deletes
}

// outdate counts changes of the store, and has its image written when there are
// enough of them. Called with the entry's lock held.
func (e *Engine) outdate(ent *entry, changes int) {
	im := &ent.imaging
	im.changes += changes
	if e.cfg.Images == nil || im.queued || ent.graph == nil {
		return
	}
	tuples := ent.graph.cur.tuples
	if im.changes < e.worth(tuples) || !e.large(tuples) && !im.bad {
		return
	}
	select {
	case e.wanted <- ent:
		im.queued = true
	default: // the next change asks again
	}
}

// KeepImages writes the images of large stores when they are due, one at a time,
// until ctx ends. The wiring runs it once beside everything else. Nobody waits for
// an image, and one that cannot be written is tried again after as many changes.
func (e *Engine) KeepImages(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ent := <-e.wanted:
			e.keepImage(ctx, ent)
		}
	}
}

func (e *Engine) keepImage(ctx context.Context, ent *entry) {
	ent.mu.Lock()
	var snap *snapshot
	if ent.graph != nil {
		snap = ent.graph.cur
	}
	bad := ent.imaging.bad
	ent.imaging.queued, ent.imaging.changes = false, 0
	ent.mu.Unlock()
	if snap == nil {
		return // it left memory: the next load asks again if need be
	}
	var err error
	switch {
	case e.large(snap.tuples):
		err = e.cfg.Images.PutImage(ctx, ent.id, snap.rev, func(part func([]byte) error) error {
			return snap.image(ent.id, ent.app.syms.table().forms, part)
		})
	case bad:
		err = e.cfg.Images.DropImage(ctx, ent.id)
	}
	switch {
	case err == nil:
		e.imageWrites.Add(1)
		ent.mu.Lock()
		ent.imaging.bad = false
		ent.mu.Unlock()
	case ctx.Err() == nil && fault.KindOf(err) != fault.NotFound: // that is a store deleted meanwhile
		e.imageFailures.Add(1)
		e.cfg.Logger.Warn("the image of a store cannot be written and is tried again after more changes", "store", string(ent.id), "error", err.Error())
	}
}
