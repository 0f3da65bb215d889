package audit

import (
	"context"
	"sync"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// waiter is who waits for one or more events. Only the writer counts it down.
type waiter struct {
	left int
	err  error
	ch   chan error
}

func newWaiter(n int) *waiter { return &waiter{left: n, ch: make(chan error, 1)} }

// done answers for one event.
func (w *waiter) done(err error) {
	if w == nil {
		return
	}
	if err != nil && w.err == nil {
		w.err = err
	}
	if w.left--; w.left == 0 {
		w.ch <- w.err
	}
}

func (w *waiter) wait(ctx context.Context) error {
	select {
	case err := <-w.ch:
		return err
	case <-ctx.Done():
		return fault.Wrap(fault.Unavailable, "the audit event was not durable in time", ctx.Err())
	}
}

// item is an event in the queue.
type item struct {
	ev ledger.Event
	w  *waiter
}

// queue holds events between callers and the writer. Waiting and buffered
// events are kept apart: the first must be written now, the second may linger.
type queue struct {
	mu       sync.Mutex
	limit    int
	waiting  []item
	buffered []item
	since    time.Time // arrival of the oldest buffered event
	dropped  [9]uint64 // by class, since the writer last took them
	closed   bool
	wake     chan struct{}
}

func (q *queue) init(limit int) {
	q.limit = limit
	q.wake = make(chan struct{}, 1)
}

func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

var errFull = fault.New(fault.Unavailable, "too many audit events wait for the disk; try again")

func (q *queue) putWaiting(w *waiter, ev *ledger.Event) error {
	q.mu.Lock()
	if q.closed || len(q.waiting) >= q.limit {
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return errClosed
		}
		return errFull
	}
	q.waiting = append(q.waiting, item{*ev, w})
	first := len(q.waiting) == 1
	q.mu.Unlock()
	if first {
		q.nudge()
	}
	return nil
}

func (q *queue) putWaitingAll(w *waiter, events []ledger.Event) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	if len(q.waiting)+len(events) > q.limit {
		return errFull
	}
	for i := range events {
		q.waiting = append(q.waiting, item{events[i], w})
	}
	q.nudge()
	return nil
}

func (q *queue) putBuffered(ev *ledger.Event, now func() time.Time) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return errClosed
	}
	n := len(q.buffered)
	if n >= q.limit {
		q.dropped[ev.Class]++
		q.mu.Unlock()
		return nil
	}
	if n == 0 {
		q.since = now()
	}
	q.buffered = append(q.buffered, item{ev: *ev})
	q.mu.Unlock()
	if n == 0 || n+1 == ledger.MaxBlockEvents {
		q.nudge()
	}
	return nil
}

// take returns the waiting events, and the buffered ones when all is set, they
// fill a block or the oldest has waited long enough. It says how many buffered ones stay.
func (q *queue) take(all bool, linger time.Duration, into *round) (left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	into.closing = q.closed
	into.waiting, q.waiting = q.waiting, into.waiting[:0]
	if all || q.closed || len(q.buffered) >= ledger.MaxBlockEvents || into.at.Sub(q.since) >= linger {
		into.buffered, q.buffered = q.buffered, into.buffered[:0]
	}
	for c, n := range q.dropped {
		into.dropped[c] += n
		q.dropped[c] = 0
	}
	return len(q.buffered)
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// close refuses further events; false when it was closed before.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.closed = true
	q.nudge()
	return true
}

// Waiting returns how many events wait for the disk now.
func (l *Log) Waiting() int {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	return len(l.queue.waiting)
}
