// Package audit is the audit log: it makes events durable, provable, findable.
//
// One writer goroutine turns events into blocks (package ledger), appends them
// to segment files, which are the truth, and heads them with signed
// checkpoints. What must not be lost waits for the disk, grouped with whatever
// else waits; what may be lost is buffered, and every loss is stated by a gap
// record. Three rules make a power cut harmless:
//
//   - an event is acknowledged after all blocks up to its own are durable, so
//     that what a crash leaves is a prefix of the log with, at most, blocks
//     behind it that nobody was promised;
//   - a checkpoint is written after every block that it covers is durable;
//   - after a failed write or fdatasync the log goes back to the last point at
//     which everything was durable, and truncates what lies behind it.
package audit

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// VerifierFile is the name, in the log's directory, of the file that holds the
// line of the log's public key (C2SP signed-note): for offline verification.
// Who starts the log writes it.
const VerifierFile = "log.vkey"

// Config says where and how the log is kept. Zero fields have the stated
// defaults; Dir, Now, Signer and Verifier are required.
type Config struct {
	Dir      string // holds segments and, below log/, the outer tree; its parent must exist
	FS       FS     // default: the operating system's
	Now      func() time.Time
	Signer   note.Signer   // Ed25519; its name is the log's origin
	Verifier note.Verifier // of the same key
	Instance string        // id of the installation, stated in the log's own events
	Logger   *slog.Logger

	// Budgets bounds the bytes of sealed segments: check and allow share their
	// sum, reject has its own, and the other classes are dropped only when
	// each of them has a budget. A class without a budget is kept.
	Budgets map[ledger.Class]int64

	QueueLimit   int           // events that may wait, of buffered and of waiting classes each; 65536
	Linger       time.Duration // how long a buffered event may wait for its block; 20 ms
	Checkpoint   time.Duration // how often a head is signed under load; 1 s
	SegmentBytes int64         // a segment is sealed at that size; 64 MiB
	SegmentAge   time.Duration // or at that age; 1 h
	Reserve      int64         // free bytes below which classes are refused one after the other; 128 MiB
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Now == nil || c.Signer == nil || c.Verifier == nil {
		return c, fault.New(fault.Invalid, "the audit log needs a directory, a clock, a signer and its verifier")
	}
	if c.Signer.Name() != c.Verifier.Name() || c.Signer.KeyHash() != c.Verifier.KeyHash() {
		return c, fault.New(fault.Invalid, "the audit log's signer and verifier are of different keys")
	}
	if c.FS == nil {
		c.FS = OS()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.QueueLimit, 65536)
	setDefault(&c.Linger, 20*time.Millisecond)
	setDefault(&c.Checkpoint, time.Second)
	setDefault(&c.SegmentBytes, 64<<20)
	setDefault(&c.SegmentAge, time.Hour)
	setDefault(&c.Reserve, 128<<20)
	return c, nil
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Log is an open audit log. Its methods are safe for concurrent use.
type Log struct {
	cfg     Config
	lock    io.Closer
	queue   queue
	rejects rejects
	writer  *writer
	ended   chan struct{} // closed when the writer is gone

	committed atomic.Uint64 // blocks that are durable
	level     atomic.Int32  // the least urgent priority that the disk admits; see priority
	head      atomic.Pointer[[]byte]
	drain     chan struct{} // Wake
}

var errClosed = fault.New(fault.Unavailable, "the audit log is closed")

// Open recovers the log in cfg.Dir, or begins one, and starts its writer. A
// log that was not closed cleanly gets a system event that states what may be
// missing. The error has kind [fault.Integrity] when something is missing
// that the signed head covers: nothing is then changed, and `bulwark audit
// verify` names the defects. [fault.Conflict]: another process has it open.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := prepareDir(cfg); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the directory of the audit log cannot be used", err)
	}
	lock, err := cfg.FS.Lock(cfg.Dir + "/lock")
	if err != nil {
		if fault.KindOf(err) == fault.Conflict {
			return nil, err
		}
		return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be locked", err)
	}
	l := &Log{cfg: cfg, lock: lock, ended: make(chan struct{}), drain: make(chan struct{}, 1)}
	l.queue.init(cfg.QueueLimit)
	l.level.Store(priorityRest)
	found, err := recoverLog(cfg)
	if err == nil {
		l.writer = newWriter(l, found)
		err = l.begin(ctx, found)
	}
	if err != nil {
		if l.writer != nil {
			l.writer.closeFiles()
		}
		_ = lock.Close()
		return nil, err
	}
	return l, nil
}

// begin starts the writer and waits for the first event of this run.
func (l *Log) begin(ctx context.Context, found *recovered) error {
	go l.writer.run()
	events := []ledger.Event{l.systemEvent("log.open", "")}
	if found.rebuilt {
		events[0].Detail["tiles"] = "rebuilt"
	}
	if found.unclean {
		events = append(events, found.gapEvent(l))
	}
	if err := l.appendAll(ctx, events); err != nil {
		_ = l.Close(ctx)
		return err
	}
	return nil
}

// systemEvent is an event of the log about itself.
func (l *Log) systemEvent(action, reason string) ledger.Event {
	ev := ledger.Event{Class: ledger.System, Action: action, Reason: reason, Tenant: tenant.Platform, Detail: map[string]string{}}
	if l.cfg.Instance != "" {
		ev.Detail["instance"] = l.cfg.Instance
	}
	l.complete(&ev)
	return ev
}

func (l *Log) complete(ev *ledger.Event) {
	if ev.ID == "" {
		ev.ID = tenant.RandomID()
	}
	if ev.Time.IsZero() {
		ev.Time = l.cfg.Now()
	}
	if ev.Tenant.IsZero() {
		ev.Tenant = tenant.Platform
	}
}

// Append puts an event into the log. For mutation, key-use, admin-read, deny
// and system it returns after the event is durable; an error means that the
// caller must refuse what the event tells of (it may be in the log all the
// same). For check and allow it returns at once, and what cannot be kept is
// counted into a gap record. A reject is passed to [Log.Reject].
//
// An empty ID, Time or Tenant is filled in (Tenant: the platform). The maps
// and slices of ev must not be changed afterwards. The error has kind
// [fault.Unavailable], or [fault.TooLarge] or [fault.Invalid] for an event
// that has no form.
func (l *Log) Append(ctx context.Context, ev ledger.Event) error {
	if ev.Class == ledger.Reject {
		l.Reject(ev)
		return nil
	}
	l.complete(&ev)
	if !ev.Class.Waits() {
		if ev.Class != ledger.Check && ev.Class != ledger.Allow {
			return fault.New(fault.Invalid, "an audit event needs a class")
		}
		return l.queue.putBuffered(&ev, l.cfg.Now)
	}
	w := newWaiter(1)
	if err := l.queue.putWaiting(w, &ev); err != nil {
		return err
	}
	return w.wait(ctx)
}

// appendAll appends events of waiting classes as one.
func (l *Log) appendAll(ctx context.Context, events []ledger.Event) error {
	w := newWaiter(len(events))
	for i := range events {
		l.complete(&events[i])
	}
	if err := l.queue.putWaitingAll(w, events); err != nil {
		return err
	}
	return w.wait(ctx)
}

// Reject counts a refusal without a verified principal. It never waits.
// Refusals of one second that agree in reason, route and source become one
// event; all join the platform's chain, whatever tenant ev names, because
// nothing that an unverified caller says may choose a chain.
func (l *Log) Reject(ev ledger.Event) {
	if ev.Time.IsZero() {
		ev.Time = l.cfg.Now()
	}
	l.rejects.add(&ev)
}

// Begin opens the record of one request: paragraph 1 of the guard. The error
// has kind [fault.Unavailable] when the log could not take the event, so that
// nothing is begun that cannot be recorded. An event without a class stands
// for a request that may end as a deny. A mutation that revokes or suspends may
// begin even then: its event commits with it, and waits in the outbox.
func (l *Log) Begin(ev ledger.Event) (*Record, error) {
	p := priority(&ev)
	if ev.Class == 0 {
		p = priorityDeny
	}
	if ev.Class == ledger.Reject || ev.Class == ledger.Allow || ev.Class == ledger.Check {
		p = priorityDeny // begun as buffered, and may still be refused
	}
	if l.queue.isClosed() {
		return nil, errClosed
	}
	if int32(p) > l.level.Load() {
		return nil, fault.New(fault.Unavailable, "the audit log cannot take events now; try again later")
	}
	l.complete(&ev)
	return &Record{Event: ev, log: l}, nil
}

// Record is one request's event while it is being filled in. It belongs to one
// goroutine.
type Record struct {
	Event ledger.Event
	log   *Log
	done  bool
}

// Close appends the event by its class. The second call, and a call after
// Take, do nothing. Errors are those of [Log.Append].
func (r *Record) Close(ctx context.Context) error {
	if r.done {
		return nil
	}
	r.done = true
	return r.log.Append(ctx, r.Event)
}

// Take hands the event over, to be committed inside a mutation's own
// transaction; Close then does nothing.
func (r *Record) Take() ledger.Event {
	r.done = true
	return r.Event
}

// Head returns the newest signed checkpoint that is durable: a C2SP signed
// note, to be kept elsewhere.
func (l *Log) Head() []byte {
	if p := l.head.Load(); p != nil {
		return *p
	}
	return nil
}

// Close writes what waits, a last event and a checkpoint, and stops. The
// error has kind [fault.Unavailable] when that was not possible, and the log
// then reads as ended by a crash. A second call returns nil.
func (l *Log) Close(ctx context.Context) error {
	if !l.queue.close() {
		return nil
	}
	select {
	case <-l.ended:
	case <-ctx.Done():
		return fault.Wrap(fault.Unavailable, "the audit log did not close in time", ctx.Err())
	}
	return errors.Join(l.writer.closeErr, l.lock.Close())
}
