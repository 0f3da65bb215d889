package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// errShard is a defect of the caller, and the last line of defence between tenants.
var errShard = fault.New(fault.Internal, "a change of one shard touched a record of another")

// errDiscard tells database/sql to close a connection rather than reuse it.
var errDiscard = driver.ErrBadConn

// tx is one caller's part of the transaction, valid while its function runs.
// The engines' transactions are views of it.
type tx struct {
	w       *writer
	ctx     context.Context
	change  *ledger.Change
	over    bool  // the function returned
	broken  error // the transaction as a whole is lost
	entries []store.Entry
	tuples  tupleSet
	owners  map[tenant.ID]bool // tenants found to own change.Store's shard
	shard   string             // tenant of change.Store, once it was looked up
	at      time.Time          // of the change, once it was asked for
	bytes   int
}

// usable guards every statement: one on a lost transaction would commit alone.
func (t *tx) usable() error {
	if t.over {
		return fault.New(fault.Internal, "a transaction was used after its function returned")
	}
	return t.broken
}

func (t *tx) note(err error) error {
	if err != nil && !harmless(err) {
		t.broken = err
	}
	return err
}

// exec runs a statement and returns how many rows it changed. Errors are the
// driver's: callers translate them with a name for what they did.
func (t *tx) exec(query string, args ...any) (int64, error) {
	if err := t.usable(); err != nil {
		return 0, err
	}
	return t.raw(query, args...)
}

func (t *tx) raw(query string, args ...any) (int64, error) {
	s, err := t.w.stmt(t.ctx, query)
	if err != nil {
		return 0, t.note(err)
	}
	res, err := s.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, t.note(err)
	}
	return res.RowsAffected()
}

// row runs a query of at most one row.
func (t *tx) row(query string, args []any, into ...any) error {
	if err := t.usable(); err != nil {
		return err
	}
	return t.rawRow(query, args, into...)
}

func (t *tx) rawRow(query string, args []any, into ...any) error {
	s, err := t.w.stmt(t.ctx, query)
	if err != nil {
		return t.note(err)
	}
	return t.note(s.QueryRowContext(t.ctx, args...).Scan(into...))
}

// rows runs a query and calls each for every row.
func (t *tx) rows(query string, args []any, each func(scan func(...any) error) error) error {
	if err := t.usable(); err != nil {
		return err
	}
	s, err := t.w.stmt(t.ctx, query)
	if err != nil {
		return t.note(err)
	}
	rows, err := s.QueryContext(t.ctx, args...)
	if err != nil {
		return t.note(err)
	}
	return t.note(drain(rows, each))
}

// drain calls each for every row and closes rows.
func drain(rows *sql.Rows, each func(scan func(...any) error) error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// put adds a changelog entry.
func (t *tx) put(kind string, op store.Op, key string, payload []byte) {
	t.bytes += len(kind) + len(key) + len(payload)
	t.entries = append(t.entries, store.Entry{Kind: kind, Op: op, Key: key, Payload: payload})
}

// own fails unless the change's shard is the tenant's system store, which
// orders its records: without it, a change in one tenant's name could alter
// another's record. Kind NotFound if there is no such tenant.
func (t *tx) own(id tenant.ID) error {
	if t.owners[id] {
		return nil
	}
	var system string
	err := t.row("SELECT system_store FROM tenants WHERE tenant_id = ?", []any{id.String()}, &system)
	if err != nil {
		return translate(err, "the tenant")
	}
	if system != string(t.change.Store) {
		return errShard
	}
	if t.owners == nil {
		t.owners = map[tenant.ID]bool{}
	}
	t.owners[id] = true
	return nil
}

// finish bumps the head and writes what commits with it. It is the last thing
// that happens in the savepoint, so revisions are dense and visible in order.
func (t *tx) finish() (relation.Revision, error) {
	epoch := t.w.s.epoch.Load()
	if epoch == 0 {
		return relation.Revision{}, fault.New(fault.Internal, "the store has no instance yet")
	}
	if err := t.count(); err != nil {
		return relation.Revision{}, err
	}
	shard := string(t.change.Store)
	rev := relation.Revision{Epoch: epoch, Store: t.change.Store}
	var owner string
	err := t.rawRow("UPDATE head SET rev = rev + 1 WHERE store_id = ? RETURNING tenant_id, rev", []any{shard}, &owner, &rev.Rev)
	if err != nil {
		return relation.Revision{}, translate(err, "the store of the change")
	}
	if err := t.log(owner, rev.Rev); err != nil {
		return relation.Revision{}, err
	}
	event, err := t.event(rev)
	if err != nil {
		return relation.Revision{}, err
	}
	_, err = t.raw("INSERT INTO outbox (tenant_id, store_id, rev, event) VALUES (?, ?, ?, ?)", owner, shard, rev.Rev, event)
	return rev, translate(err, "the change's event")
}

// log writes the changelog of the revision. Its tuples come first: their
// ordinals are positions that readers of a store's history resume at.
func (t *tx) log(owner string, rev uint64) error {
	at, err := nanos(t.when())
	if err != nil {
		return err
	}
	ordinal := 0
	add := func(kind string, op store.Op, key string, payload []byte) error {
		_, err := t.raw("INSERT INTO changelog (tenant_id, store_id, rev, ordinal, kind, op, key, payload, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			owner, string(t.change.Store), rev, ordinal, kind, string(op), key, blob(payload), at)
		ordinal++
		return translate(err, "the changelog entry")
	}
	writes, deletes := t.tuples.net()
	for _, d := range deletes {
		if err := add(tupleKind, store.Delete, d.String(), nil); err != nil {
			return err
		}
	}
	for _, p := range writes {
		if err := add(tupleKind, store.Put, p.String(), guardOf(p)); err != nil {
			return err
		}
	}
	for _, e := range t.entries {
		if err := add(e.Kind, e.Op, e.Key, e.Payload); err != nil {
			return err
		}
	}
	return nil
}

// when is the time of the change: its event's, or now.
func (t *tx) when() time.Time {
	if t.at.IsZero() {
		if t.at = t.change.Event.Time; t.at.IsZero() {
			t.at = t.w.s.cfg.Now().UTC()
		}
	}
	return t.at
}

// event encodes the change's event with the revision that it made.
func (t *tx) event(rev relation.Revision) ([]byte, error) {
	ev := t.change.Event
	ev.Revision = rev
	if ev.ID == "" {
		ev.ID = tenant.RandomID()
	}
	ev.Time = t.when()
	b, err := encodeEvent(&ev)
	t.bytes += len(b)
	return b, err
}

// blob keeps nil apart from empty.
func blob(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// encodeEvent is the form in which events wait: the ledger's, without the salt
// that an event gets when it enters a block.
func encodeEvent(ev *ledger.Event) ([]byte, error) { return ledger.AppendEvent(nil, ev, nil) }

// nanos is the stored form of a time: nanoseconds since 1970, nil for the zero
// time. The error has kind Invalid for a time that does not fit (1678 to 2262).
func nanos(at time.Time) (any, error) {
	if at.IsZero() {
		return nil, nil
	}
	if y := at.UTC().Year(); y < 1678 || y > 2261 {
		return nil, fault.New(fault.Invalid, "a time is too far away to be stored")
	}
	return at.UnixNano(), nil
}

// moment reads what nanos wrote.
func moment(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.Unix(0, n.Int64).UTC()
}

// fit is the stored form of a number that SQLite keeps signed.
func fit(n uint64) (int64, error) {
	if n > math.MaxInt64 {
		return 0, fault.New(fault.Invalid, "a number is too large to be stored")
	}
	return int64(n), nil
}
