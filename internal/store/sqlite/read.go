package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// prepared returns the statement of the reading pool for query.
func (s *Store) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.stmts[query]; ok {
		return st, nil
	}
	st, err := s.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s.stmts[query] = st
	return st, nil
}

// row runs a query of at most one row on the reading pool.
func (s *Store) row(ctx context.Context, query string, args []any, into ...any) error {
	st, err := s.prepared(ctx, query)
	if err != nil {
		return err
	}
	return st.QueryRowContext(ctx, args...).Scan(into...)
}

// rows runs a query on the reading pool and calls each for every row.
func (s *Store) rows(ctx context.Context, query string, args []any, each func(scan func(...any) error) error) error {
	st, err := s.prepared(ctx, query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	return drain(rows, each)
}

// snapshot runs fn on one point in time: the first query of the transaction
// fixes what all of them see.
func (s *Store) snapshot(ctx context.Context, fn func(*sql.Tx) error) (err error) {
	t, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() {
		// Nothing was written; ending is all that is left to do.
		if e := t.Rollback(); e != nil && !errors.Is(e, sql.ErrTxDone) {
			err = errors.Join(err, e)
		}
	}()
	return fn(t)
}

// owner reads a tenant's id from a row.
func owner(id string) (tenant.ID, error) {
	// Trusted: the string comes from our own store, which took it from a tenant.ID.
	t, err := tenant.Trusted(id)
	if err != nil {
		return tenant.ID{}, fault.Wrap(fault.Integrity, "a row of the store names no tenant", err)
	}
	return t, nil
}

// tupleKind is the changelog's kind of tuples. The key is [relation.Tuple]'s
// string and the payload its guard, which parseTuple reads back.
const tupleKind = "tuple"

// Changes returns the batches of a shard after the revision, oldest first, at
// most limit. It is what another process tails: the first has the revision
// afterRev+1, and none means that the caller is up to date. The error has kind
// NotFound for an unknown shard and Conflict when the shard is behind afterRev,
// which happens after a restore: the caller must load everything anew.
func (s *Store) Changes(ctx context.Context, shard relation.StoreID, afterRev uint64, limit int) ([]store.Batch, error) {
	var batches []store.Batch
	err := s.snapshot(ctx, func(t *sql.Tx) error {
		var owner string
		var head uint64
		err := t.QueryRowContext(ctx, "SELECT tenant_id, rev FROM head WHERE store_id = ?", string(shard)).Scan(&owner, &head)
		if err != nil {
			return err
		}
		if head < afterRev {
			return fault.New(fault.Conflict, "the store is behind the revision; load it anew")
		}
		last := min(head, afterRev+uint64(max(limit, 0)))
		for rev := afterRev + 1; rev <= last; rev++ {
			batches = append(batches, store.Batch{Store: shard, Rev: rev})
		}
		rows, err := t.QueryContext(ctx, `SELECT rev, kind, op, key, payload FROM changelog
			WHERE tenant_id = ? AND store_id = ? AND rev > ? AND rev <= ? ORDER BY rev, ordinal`, owner, string(shard), afterRev, last)
		if err != nil {
			return err
		}
		return drain(rows, func(scan func(...any) error) error {
			var e store.Entry
			var rev uint64
			if err := scan(&rev, &e.Kind, &e.Op, &e.Key, &e.Payload); err != nil {
				return err
			}
			return add(&batches[rev-afterRev-1], e)
		})
	})
	if err != nil {
		return nil, translate(err, "the store")
	}
	return batches, nil
}

var errChangelog = fault.New(fault.Integrity, "the changelog holds a damaged tuple")

// add puts a changelog row where its reader looks for it.
func add(b *store.Batch, e store.Entry) error {
	if e.Kind != tupleKind {
		b.Entries = append(b.Entries, e)
		return nil
	}
	t, ok := parseTuple(e.Key, e.Payload)
	switch {
	case !ok:
		return errChangelog
	case e.Op == store.Delete:
		b.Deletes = append(b.Deletes, t)
	default:
		b.Writes = append(b.Writes, t)
	}
	return nil
}

// Head returns the newest revision of a shard, kind NotFound if there is none
// such.
func (s *Store) Head(ctx context.Context, shard relation.StoreID) (relation.Revision, error) {
	r := relation.Revision{Epoch: s.epoch.Load(), Store: shard}
	err := s.row(ctx, "SELECT rev FROM head WHERE store_id = ?", []any{string(shard)}, &r.Rev)
	return r, translate(err, "the store")
}
