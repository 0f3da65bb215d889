package sqlite

import (
	"database/sql"
	"errors"
	"strconv"

	"bulwark.example/internal/fault"
)

// count keeps how many tuples the tenant has in its stores, and refuses those
// beyond its quota. Those of system stores do not count: a tenant at its limit
// must still be able to change who administers it.
func (t *tx) count() error {
	writes, deletes := t.tuples.net()
	more := len(writes) - len(deletes)
	if more == 0 {
		return nil
	}
	var n int
	err := t.rawRow(`INSERT INTO tuple_counts (tenant_id, tuples)
		SELECT tenant_id, max(?, 0) FROM stores WHERE id = ? AND kind <> 'system'
		ON CONFLICT (tenant_id) DO UPDATE SET tuples = tuples + ? RETURNING tuples`, []any{more, string(t.change.Store), more}, &n)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return translate(err, "the number of tuples")
	}
	if limit := t.w.s.cfg.MaxTuples; more > 0 && limit > 0 && n > limit {
		return fault.New(fault.Exhausted, "the tenant may have "+strconv.Itoa(limit)+
			" relation tuples in all its stores together; delete some, or ask the operator for more (limits.tuples)")
	}
	return nil
}

// uncount is count for the tuples of a store that goes.
func (t *tx) uncount(owner string, n int64) error {
	_, err := t.exec("UPDATE tuple_counts SET tuples = tuples - ? WHERE tenant_id = ?", n, owner)
	return translate(err, "the number of tuples")
}
