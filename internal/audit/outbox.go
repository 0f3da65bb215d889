package audit

import (
	"context"
	"errors"
	"io"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Outbox is where mutations leave their events, in their own transaction.
type Outbox interface {
	// Pending returns the oldest entries, in the order of Seq.
	Pending(ctx context.Context, limit int) ([]OutboxEntry, error)
	// Done removes entries that are in the log.
	Done(ctx context.Context, seqs []int64) error
}

// OutboxEntry is one event of a committed mutation, its Revision filled in.
type OutboxEntry struct {
	Seq   int64
	Event ledger.Event
}

const (
	drainBatch = 256
	drainPoll  = time.Second
	clockSlack = 10 * time.Minute
)

// Wake tells [Log.Drain] that the outbox has entries. It never blocks.
func (l *Log) Wake() {
	select {
	case l.drain <- struct{}{}:
	default:
	}
}

// Drain moves events from the outbox to the log until ctx ends; it then
// returns nil. An entry is removed from the outbox after it is durable in the
// log. After a crash in between, the entry is found in the log by its store
// and revision and not written twice. One Drain runs at a time.
func (l *Log) Drain(ctx context.Context, box Outbox) error {
	d := drainer{log: l, box: box}
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		for {
			n, err := d.step(ctx)
			if err != nil && ctx.Err() == nil {
				l.cfg.Logger.Error("the audit outbox cannot be drained now", "error", err.Error())
			}
			if err != nil || n < drainBatch {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.drain:
		case <-poll.C:
		}
	}
}

// drainer remembers what it wrote and could not yet remove.
type drainer struct {
	log     *Log
	box     Outbox
	scanned bool
	written map[string]bool // keys of entries that are in the log
}

func outboxKey(ev *ledger.Event) string {
	if ev.Revision.Rev == 0 {
		return ev.ID
	}
	return string(ev.Revision.Store) + "@" + revString(ev.Revision)
}

func (d *drainer) step(ctx context.Context) (int, error) {
	entries, err := d.box.Pending(ctx, drainBatch)
	if err != nil || len(entries) == 0 {
		return 0, err
	}
	if !d.scanned {
		if d.written, err = d.log.alreadyWritten(ctx, entries); err != nil {
			return 0, err
		}
		d.scanned = true
	}
	var events []ledger.Event
	seqs := make([]int64, len(entries))
	keys := make(map[string]bool, len(entries))
	for i := range entries {
		seqs[i] = entries[i].Seq
		key := outboxKey(&entries[i].Event)
		if !d.written[key] && !keys[key] {
			ev := entries[i].Event
			if !ev.Class.Waits() {
				ev.Class = ledger.Mutation
			}
			events = append(events, ev)
		}
		keys[key] = true
	}
	if len(events) > 0 {
		// Not under ctx: whether it was written must be known before the next
		// step, or it would be written twice.
		if err := d.log.appendAll(context.WithoutCancel(ctx), events); err != nil {
			d.scanned = false // what is durable now, only the segments know
			return 0, err
		}
	}
	d.written = keys
	if err := d.box.Done(ctx, seqs); err != nil {
		return 0, err
	}
	return len(entries), nil
}

// alreadyWritten looks for the entries' events at the end of the log: those
// that a run wrote and did not live to remove from the outbox. Blocks from
// before the oldest entry, less a slack for the clock, need no look.
func (l *Log) alreadyWritten(ctx context.Context, entries []OutboxEntry) (map[string]bool, error) {
	wanted := map[string]bool{}
	oldest := entries[0].Event.Time
	for i := range entries {
		wanted[outboxKey(&entries[i].Event)] = true
		if t := entries[i].Event.Time; t.Before(oldest) {
			oldest = t
		}
	}
	limit := oldest.Add(-clockSlack).UnixNano()
	found := map[string]bool{}
	// Only committed blocks count: behind them a failed write may have left
	// blocks that are about to be cut off.
	until := l.committed.Load()
	files, err := listSegments(l.cfg.FS, l.cfg.Dir)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
	}
	back := backwards(l.cfg.FS, l.cfg.Dir, files, 1<<groupDurable)
	back.until = until
	defer back.close()
	for ctx.Err() == nil {
		fr, err := back.next()
		if err == io.EOF || err == nil && fr.block.Leaf.Settled < limit {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		if len(fr.packed) == 0 {
			continue
		}
		if err := back.codec.Unpack(fr.block, fr.packed); err != nil {
			return nil, err
		}
		raws, err := fr.block.Events()
		if err != nil {
			return nil, err
		}
		for _, raw := range raws {
			ev, err := ledger.DecodeEvent(raw)
			if err != nil {
				return nil, err
			}
			if key := outboxKey(&ev); ev.Class.Waits() && wanted[key] && isMutation(&ev, entries) {
				found[key] = true
			}
		}
	}
	return nil, errors.Join(fault.New(fault.Unavailable, "the audit log was not read in time"), ctx.Err())
}

// isMutation tells an outbox event from a decision that names the same
// revision: only the first has the entry's id.
func isMutation(ev *ledger.Event, entries []OutboxEntry) bool {
	if ev.Class == ledger.Mutation {
		return true
	}
	for i := range entries {
		if entries[i].Event.ID == ev.ID {
			return true
		}
	}
	return false
}

func revString(r relation.Revision) string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 33)
	for _, n := range [...]uint64{r.Epoch, r.Rev} {
		for shift := 60; shift >= 0; shift -= 4 {
			b = append(b, digits[n>>shift&15])
		}
	}
	return string(b)
}
