package audit

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// round is what the writer takes from the callers at a time.
type round struct {
	waiting  []item
	buffered []item
	rejected []item
	dropped  [9]uint64
	closing  bool
	at       time.Time // before the first of it was taken
}

// group is the open segment of one group.
type group struct {
	file    File // nil: the next block begins a file
	segFile      // of the open file
	created time.Time
	off     int64  // end of what was written
	durable int64  // end of what was written before the last commit
	last    uint64 // last block written
	kept    uint64 // last block at the last commit
	dirty   bool   // bytes since the last commit
	fresh   bool   // the directory's entry is not durable yet

	prevFirst, prevLast uint64    // of the group's segment before the open one
	sealed              []segFile // complete segments, oldest first
	bad                 []badFile // files whose end must be cut off before the log goes on
}

// writer is the one goroutine that writes. Nothing but the fields of Log is
// shared with other goroutines.
type writer struct {
	log    *Log
	cfg    Config
	chain  *ledger.Chain
	codec  *ledger.Codec
	outer  *outerLog
	groups [groupCount]group

	leaves []ledger.Leaf // of blocks written since the last commit
	since  [9]uint64     // buffered events in those blocks, by class
	broken bool          // a failure is not repaired yet
	rotate bool          // state is to be saved with the next checkpoint

	// settled is the time up to which nothing is open: what arrived before it,
	// less the linger, is in blocks or was stated as lost. A crash loses at
	// most what arrived later. kept is the same at the last commit.
	settled, keptSettled time.Time
	rejectsTaken         time.Time

	drops    map[string]*drop // by reason
	closeErr error

	arena []byte
	items []ledger.Item
	ends  []int
	buf   []byte
	salts [ledger.MaxBlockEvents * ledger.SaltSize]byte
}

func newWriter(l *Log, found *recovered) *writer {
	w := &writer{log: l, cfg: l.cfg, chain: found.chain, codec: ledger.NewCodec(), outer: found.outer,
		groups: found.groups, drops: map[string]*drop{}, rotate: true}
	w.settled = l.cfg.Now()
	w.keptSettled, w.rejectsTaken = w.settled, w.settled
	l.head.Store(&found.outer.signed)
	l.committed.Store(found.chain.Next())
	return w
}

// run serves the queue until it is closed.
func (w *writer) run() {
	defer close(w.log.ended)
	tick := time.NewTicker(w.cfg.Checkpoint)
	defer tick.Stop()
	linger := time.NewTimer(time.Hour)
	linger.Stop()
	armed := false
	var r round
	var waiting, buffered []item // the arrays that the queue and the writer swap
	for {
		due, ticked := false, false
		select {
		case <-w.log.queue.wake:
		case <-linger.C:
			due, armed = true, false
		case <-tick.C:
			ticked = true
		}
		r.waiting, r.buffered = waiting[:0], buffered[:0]
		r.at = w.cfg.Now()
		left := w.log.queue.take(due, w.cfg.Linger, &r)
		waiting, buffered = r.waiting, r.buffered
		if ticked || r.closing || r.at.Sub(w.rejectsTaken) >= w.cfg.Checkpoint {
			r.rejected = w.log.rejects.take()
			w.rejectsTaken = r.at
		}
		if r.closing {
			w.finish(&r)
			return
		}
		w.serve(&r, ticked)
		clear(waiting) // let go of what the events point to
		clear(buffered)
		if left > 0 && !armed {
			linger.Reset(w.cfg.Linger)
			armed = true
		}
	}
}

// serve writes one round.
func (w *writer) serve(r *round, ticked bool) {
	w.count("queue_full", r.dropped)
	clear(r.dropped[:])
	level := w.admit()
	if w.broken {
		if err := w.repair(); err != nil {
			w.refuse(r, err)
			return
		}
	}
	if err := w.writeRound(r, level, ticked); err != nil {
		w.fail(r, err)
	} else if len(w.drops) == 0 {
		w.settled = r.at
	}
	if ticked {
		w.checkpoint(false)
		w.retain()
	}
	w.publishLevel(level)
}

// writeRound writes what the round holds, answers who waits, and leaves in the
// round what is not written: on an error all of that is lost.
func (w *writer) writeRound(r *round, level int32, ticked bool) error {
	if err := w.rotateIfDue(); err != nil {
		return err
	}
	if level < priorityRest {
		w.countItems("disk_full", r.buffered)
		w.countItems("disk_full", r.rejected)
		r.buffered, r.rejected = nil, nil
	}
	var err error
	if r.buffered, err = w.writeGroup(groupAllow, r.buffered); err != nil {
		return err
	}
	if r.rejected, err = w.writeGroup(groupReject, r.rejected); err != nil {
		return err
	}
	admitted := r.waiting[:0:len(r.waiting)]
	for _, it := range r.waiting {
		if int32(priority(&it.ev)) <= level {
			admitted = append(admitted, it)
		} else {
			it.w.done(errNoSpace)
		}
	}
	if ticked {
		admitted = append(admitted, w.gapItems()...)
	}
	if r.closing {
		admitted = append(admitted, item{ev: w.log.systemEvent("log.close", "")})
	}
	r.waiting = admitted
	if len(admitted) == 0 {
		return nil
	}
	if _, err := w.writeGroup(groupDurable, admitted); err != nil {
		return err
	}
	if err := w.commit(); err != nil {
		return err
	}
	if ticked {
		clear(w.drops) // stated by the gap records just committed
	}
	for i := range admitted {
		admitted[i].w.done(nil)
	}
	r.waiting = admitted[:0]
	return nil
}

var (
	errNoSpace = fault.New(fault.Unavailable, "the disk of the audit log is nearly full; free space and try again")
	errBroken  = "the audit log cannot be written now; try again later"
)

// writeGroup writes items as blocks and returns those that a failure left out.
// What has no form is answered and passed over.
func (w *writer) writeGroup(g int, items []item) ([]item, error) {
	for len(items) > 0 {
		w.arena, w.items, w.ends = w.arena[:0], w.items[:0], w.ends[:0]
		_, _ = rand.Read(w.salts[:min(len(items), ledger.MaxBlockEvents)*ledger.SaltSize])
		n := 0
		for ; n < len(items) && len(w.items) < ledger.MaxBlockEvents && len(w.arena) < ledger.MaxPayload/2; n++ {
			ev := &items[n].ev
			salt := w.salts[len(w.items)*ledger.SaltSize:][:ledger.SaltSize]
			arena, err := ledger.AppendEvent(w.arena, ev, salt)
			if err != nil {
				w.formless(&items[n], err)
				continue
			}
			w.arena = arena
			w.ends = append(w.ends, len(arena))
			w.items = append(w.items, w.chain.ItemOf(ev, nil))
		}
		start := 0
		for i, end := range w.ends {
			w.items[i].Raw = w.arena[start:end]
			start = end
		}
		if len(w.items) > 0 {
			if err := w.writeBlock(&w.groups[g], g); err != nil {
				return items, err
			}
		}
		items = items[n:]
	}
	return items, nil
}

func (w *writer) formless(it *item, err error) {
	if it.w != nil {
		it.w.done(err)
		it.w = nil
		return
	}
	w.countItems("no_form", []item{*it})
}

func (w *writer) writeBlock(g *group, id int) error {
	if g.file == nil {
		if err := w.createSegment(g, id); err != nil {
			return err
		}
	}
	b := w.chain.Seal(w.items, w.settled)
	w.buf = w.codec.AppendFrame(w.buf[:0], b)
	g.dirty = true
	if _, err := g.file.WriteAt(w.buf, g.off); err != nil {
		return err
	}
	g.off += int64(len(w.buf))
	g.last = b.Leaf.Block
	w.leaves = append(w.leaves, b.Leaf)
	for i := range w.items {
		if c := w.items[i].Class; !c.Waits() {
			w.since[c]++
		}
	}
	return nil
}

func (w *writer) createSegment(g *group, id int) error {
	g.segFile = segFile{name: segName(w.chain.Next(), id, false), first: w.chain.Next(), group: id}
	g.off, g.durable, g.fresh, g.dirty = 0, 0, true, true
	g.created = w.cfg.Now()
	f, err := w.cfg.FS.OpenFile(filepath.Join(w.cfg.Dir, g.name), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		if !errors.Is(err, os.ErrExist) { // else it is not ours to remove
			g.bad = append(g.bad, badFile{g.segFile, 0})
		}
		return err
	}
	g.file = f
	head := ledger.Segment{Group: uint8(id), First: g.first, PrevFirst: g.prevFirst, PrevLast: g.prevLast, Created: g.created.UnixNano()}
	if _, err := f.WriteAt(head.Marshal(), 0); err != nil {
		return err
	}
	g.off = ledger.SegmentHead
	return nil
}

// commit makes every block written so far durable. The durable group comes
// last: an acknowledged block never has a block before it that is not.
func (w *writer) commit() error {
	fresh := false
	for _, id := range [...]int{groupAllow, groupReject, groupDurable} {
		g := &w.groups[id]
		if !g.dirty {
			continue
		}
		if err := g.file.Sync(); err != nil {
			return err
		}
		fresh = fresh || g.fresh
	}
	if fresh {
		if err := w.cfg.FS.SyncDir(w.cfg.Dir); err != nil {
			return err
		}
	}
	for id := range w.groups {
		if g := &w.groups[id]; g.dirty {
			g.durable, g.kept, g.dirty, g.fresh = g.off, g.last, false, false
		}
	}
	w.chain.Commit()
	w.log.committed.Store(w.chain.Next())
	for _, leaf := range w.leaves {
		w.outer.append(leaf)
	}
	w.leaves = w.leaves[:0]
	clear(w.since[:])
	w.keptSettled = w.settled
	return nil
}

// rotateIfDue seals the segments that are full or old. It commits first, so
// that a sealed segment is durable.
func (w *writer) rotateIfDue() error {
	now := w.cfg.Now()
	for id := range w.groups {
		g := &w.groups[id]
		if g.file == nil || (g.off < w.cfg.SegmentBytes && now.Sub(g.created) < w.cfg.SegmentAge) {
			continue
		}
		if err := w.commit(); err != nil {
			return err
		}
		w.seal(g)
	}
	return nil
}

func (w *writer) seal(g *group) {
	_ = g.file.Close()
	g.size = g.off
	g.sealed = append(g.sealed, g.segFile)
	g.prevFirst, g.prevLast = g.first, g.last
	g.file = nil
	w.rotate = true
}

// checkpoint signs a head over all that is written.
func (w *writer) checkpoint(closing bool) {
	if w.broken || (w.chain.Next() == w.outer.head.Size && !w.rotate) {
		return
	}
	if len(w.leaves) > 0 {
		if err := w.commit(); err != nil {
			w.fail(&round{}, err)
			return
		}
	}
	if err := w.outer.checkpoint(); err != nil {
		w.cfg.Logger.Error("the audit log's head cannot be written", "error", err.Error())
		if closing {
			w.closeErr = fault.Wrap(fault.Unavailable, "the audit log's last head could not be written", err)
		}
		return
	}
	signed := w.outer.signed
	w.log.head.Store(&signed)
	if w.rotate || closing {
		saveState(w)
		w.rotate = false
	}
}

// finish writes the last round and ends the log.
func (w *writer) finish(r *round) {
	defer w.closeFiles()
	w.count("queue_full", r.dropped)
	var err error
	if w.broken {
		err = w.repair()
	}
	level := w.admit()
	if err == nil {
		err = w.writeRound(r, level, true)
	}
	if err != nil {
		w.fail(r, err)
		w.closeErr = fault.Wrap(fault.Unavailable, "the audit log could not be closed cleanly", err)
		return
	}
	w.checkpoint(true)
}

func (w *writer) closeFiles() {
	for id := range w.groups {
		if f := w.groups[id].file; f != nil {
			_ = f.Close()
			w.groups[id].file = nil
		}
	}
}

// admit asks the disk how much may still be written.
func (w *writer) admit() int32 {
	free, err := w.cfg.FS.Free(w.cfg.Dir)
	if err != nil {
		return priorityRest // the write itself will tell
	}
	return levelFor(free, w.cfg.Reserve)
}

func (w *writer) publishLevel(level int32) {
	if w.broken {
		// Only for what ends access, and whose event waits in the outbox: no
		// append of another event is acknowledged meanwhile.
		level = priorityRevoke
	}
	if w.log.level.Swap(level) > level {
		w.cfg.Logger.Warn("the audit log refuses the less urgent classes", "level", level)
	}
}
