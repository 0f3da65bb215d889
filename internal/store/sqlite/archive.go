package sqlite

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
)

// Archive returns what the decision engine reads here and not from its memory.
func (s *Store) Archive() authz.Archive { return archive{s} }

type archive struct{ s *Store }

// locate returns a store's owner and revision as the snapshot has them. The
// head of a deleted store is there still, and the store is not.
func (s *Store) locate(ctx context.Context, t *sql.Tx, id relation.StoreID) (owner string, rev relation.Revision, err error) {
	rev = relation.Revision{Epoch: s.epoch.Load(), Store: id}
	err = t.QueryRowContext(ctx, "SELECT h.tenant_id, h.rev FROM stores s JOIN head h ON h.tenant_id = s.tenant_id AND h.store_id = s.id WHERE s.id = ?",
		string(id)).Scan(&owner, &rev.Rev)
	return owner, rev, err
}

// where is a WHERE clause that grows, with the table that it is for.
type where struct {
	table string
	sql   string
	args  []any
}

func (w *where) and(condition string, args ...any) {
	w.sql += " AND " + condition
	w.args = append(w.args, args...)
}

// ofStore begins a clause for the rows of one store.
func ofStore(table, owner string, id relation.StoreID) *where {
	return &where{table, " WHERE tenant_id = ? AND store_id = ?", []any{owner, string(id)}}
}

// from returns the query's end from FROM on.
func (w *where) from() string { return " FROM " + w.table + w.sql }

// tuplesOf selects the tuples of a store that a filter does.
func tuplesOf(owner string, id relation.StoreID, f authz.Filter) *where {
	w := ofStore("tuples", owner, id)
	match := func(column, value string) {
		switch {
		case value == "":
		case isType(value):
			w.and(column+" >= ? AND "+column+" < ?", value, typeEnd(value))
		default:
			w.and(column+" = ?", value)
		}
	}
	match("object", f.Object)
	match("relation", f.Relation)
	switch {
	case isType(f.Subject):
		// The plus keeps the index by subject out: to sort all subjects of a
		// type for each page costs more than to read on in order.
		match("+subject", f.Subject)
	default:
		match("subject", f.Subject)
		if f.Subject != "" && (f.Object == "" || isType(f.Object)) {
			w.table = "tuples INDEXED BY tuples_subject" // SQLite guesses otherwise
		}
	}
	return w
}

// isType reports whether a filter's value is "type:". An object's id may hold
// colons, also at its end.
func isType(value string) bool { return value != "" && strings.IndexByte(value, ':') == len(value)-1 }

// typeEnd is the smallest string after all that begin with "type:".
func typeEnd(typ string) string { return typ[:len(typ)-1] + ";" }

// after adds that the key follows another one; false if none can. Columns that
// the filter fixes do not take part, so that the rest is a range of the index.
func (w *where) after(f authz.Filter, key relation.Tuple) bool {
	var columns []string
	var args []any
	op, equal := ">", true
	for _, c := range []struct{ column, filter, after string }{
		{"object", f.Object, key.Object}, {"relation", f.Relation, key.Relation}, {"subject", f.Subject, key.Subject},
	} {
		if c.filter == "" || isType(c.filter) {
			columns, args = append(columns, c.column), append(args, c.after)
			continue
		}
		if c.filter == c.after {
			continue
		}
		if c.filter > c.after {
			op = ">="
		}
		equal = false
		break
	}
	if len(columns) == 0 {
		return !equal && op == ">="
	}
	w.and("("+strings.Join(columns, ", ")+") "+op+" (?"+strings.Repeat(", ?", len(columns)-1)+")", args...)
	return true
}

// ReadTuples implements authz.Archive.
func (a archive) ReadTuples(ctx context.Context, id relation.StoreID, f authz.Filter, after relation.Tuple, limit int) ([]authz.StoredTuple, relation.Revision, error) {
	var rev relation.Revision
	var list []authz.StoredTuple
	err := a.s.snapshot(ctx, func(t *sql.Tx) error {
		var owner string
		var err error
		if owner, rev, err = a.s.locate(ctx, t, id); err != nil {
			return err
		}
		query, args, ok := pageQuery(owner, id, f, after, limit)
		if !ok {
			return nil
		}
		rows, err := t.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		return drain(rows, func(scan func(...any) error) error {
			var r authz.StoredTuple
			var written int64
			err := scan(&r.Object, &r.Relation, &r.Subject, &r.Condition, &r.Context, &r.Expires, &written)
			if written != 0 {
				r.Written = time.Unix(0, written).UTC()
			}
			list = append(list, r)
			return err
		})
	})
	if err != nil {
		return nil, relation.Revision{}, translate(err, "the store")
	}
	return list, rev, nil
}

func pageQuery(owner string, id relation.StoreID, f authz.Filter, after relation.Tuple, limit int) (query string, args []any, some bool) {
	w := tuplesOf(owner, id, f)
	if key := after.Key(); key != (relation.Tuple{}) && !w.after(f, key) {
		return "", nil, false
	}
	return "SELECT object, relation, subject, condition, context, expires, written" + w.from() +
		" ORDER BY object, relation, subject LIMIT ?", append(w.args, max(limit, 0)), true
}

// ReadChanges implements authz.Archive.
func (a archive) ReadChanges(ctx context.Context, id relation.StoreID, typ string, since time.Time, after authz.Position, limit int) ([]authz.TupleChange, relation.Revision, error) {
	rev, err := fit(after.Rev)
	if err != nil {
		return nil, relation.Revision{}, err
	}
	from, err := nanos(since)
	if err != nil {
		return nil, relation.Revision{}, err
	}
	var newest relation.Revision
	var list []authz.TupleChange
	err = a.s.snapshot(ctx, func(t *sql.Tx) error {
		var owner string
		var err error
		if owner, newest, err = a.s.locate(ctx, t, id); err != nil {
			return err
		}
		w := ofStore("changelog", owner, id)
		w.and("(rev, ordinal) > (?, ?)", rev, after.Ordinal)
		w.and("kind = ?", tupleKind)
		if typ != "" {
			w.and("key >= ? AND key < ?", typ+":", typeEnd(typ+":"))
		}
		if from != nil {
			w.and("at >= ?", from) // what has no time is older than the column
		}
		rows, err := t.QueryContext(ctx, "SELECT rev, ordinal, op, key, payload, at"+w.from()+" ORDER BY rev, ordinal LIMIT ?",
			append(w.args, max(limit, 0))...)
		if err != nil {
			return err
		}
		return drain(rows, func(scan func(...any) error) error {
			c, err := scanChange(scan)
			list = append(list, c)
			return err
		})
	})
	if err != nil {
		return nil, relation.Revision{}, translate(err, "the store")
	}
	return list, newest, nil
}

func scanChange(scan func(...any) error) (authz.TupleChange, error) {
	var c authz.TupleChange
	var op, key string
	var payload []byte
	var at sql.NullInt64
	if err := scan(&c.Rev, &c.Ordinal, &op, &key, &payload, &at); err != nil {
		return c, err
	}
	var ok bool
	c.Tuple, ok = parseTuple(key, payload)
	if !ok {
		return c, errChangelog
	}
	c.Delete, c.Time = store.Op(op) == store.Delete, moment(at)
	return c, nil
}

// assertionKind is the changelog's kind of assertions: only who asks reads them.
const assertionKind = "assertions"

// Assertions implements authz.Archive.
func (a archive) Assertions(ctx context.Context, id relation.StoreID, model string) ([]byte, error) {
	var there sql.NullBool
	var payload []byte
	err := a.s.row(ctx, `SELECT a.model IS NOT NULL, a.payload FROM stores s
		LEFT JOIN assertions a ON a.tenant_id = s.tenant_id AND a.store_id = s.id AND a.model = ? WHERE s.id = ?`,
		[]any{model, string(id)}, &there, &payload)
	if err != nil {
		return nil, translate(err, "the store")
	}
	if there.Bool && payload == nil {
		payload = []byte{}
	}
	return payload, nil
}

// PutAssertions implements authz.Archive.
func (a archive) PutAssertions(ctx context.Context, change ledger.Change, model string, payload []byte) (relation.Revision, error) {
	return a.s.mutate(ctx, change, func(t *tx) error { return t.putAssertions(change.Store, model, payload) })
}

func (t *tx) putAssertions(id relation.StoreID, model string, payload []byte) error {
	if payload == nil {
		payload = []byte{}
	}
	owner, err := t.shardOwner(id)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO assertions (tenant_id, store_id, model, payload) VALUES (?, ?, ?, ?)
		ON CONFLICT (tenant_id, store_id, model) DO UPDATE SET payload = excluded.payload`, owner, string(id), model, payload)
	if err != nil {
		return translate(err, "the assertions")
	}
	t.bytes += len(payload)
	t.put(assertionKind, store.Put, model, nil)
	return nil
}

// Expired returns tuples of all stores that have ended at now, those first that
// ended first, at most limit. Who deletes them passes them on as they are: a
// delete that names an end spares what was granted anew.
func (s *Store) Expired(ctx context.Context, now time.Time, limit int) ([]relation.Located, error) {
	if y := now.UTC().Year(); y < 1970 || y > 2261 {
		return nil, fault.New(fault.Invalid, "the time is too far away")
	}
	var list []relation.Located
	err := s.rows(ctx, `SELECT store_id, object, relation, subject, condition, context, expires FROM tuples
		WHERE expires > 0 AND expires <= ? ORDER BY expires LIMIT ?`, []any{now.UnixNano(), max(limit, 0)}, func(scan func(...any) error) error {
		var l relation.Located
		r := &l.Tuple
		err := scan(&l.Store, &r.Object, &r.Relation, &r.Subject, &r.Condition, &r.Context, &r.Expires)
		list = append(list, l)
		return err
	})
	return list, translate(err, "the expired tuples")
}
