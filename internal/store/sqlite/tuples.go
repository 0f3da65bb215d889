package sqlite

import (
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// tupleSet is the net effect of a transaction on its shard's tuples. Each
// change toggles a tuple's presence, so two of the same tuple cancel out.
type tupleSet struct {
	order []relation.Tuple // in order of first change
	state map[relation.Tuple]toggle
}

type toggle uint8

const (
	same toggle = iota
	written
	deleted
)

func (s *tupleSet) note(t relation.Tuple, now toggle) {
	if s.state == nil {
		s.state = map[relation.Tuple]toggle{}
	}
	old, seen := s.state[t]
	if !seen {
		s.order = append(s.order, t)
	}
	if old != same {
		now = same
	}
	s.state[t] = now
}

func (s *tupleSet) net() (writes, deletes []relation.Tuple) {
	for _, t := range s.order {
		switch s.state[t] {
		case written:
			writes = append(writes, t)
		case deleted:
			deletes = append(deletes, t)
		}
	}
	return writes, deletes
}

// parseTuple reads what [relation.Tuple.String] wrote.
func parseTuple(s string) (relation.Tuple, bool) {
	t, ok := cutTuple(s)
	return t, ok && t.Validate() == nil
}

// cutTuple takes the string of a valid tuple apart. There is one way to do it:
// an object has no '#' and a relation no '@'.
func cutTuple(s string) (relation.Tuple, bool) {
	object, rest, ok := strings.Cut(s, "#")
	rel, subject, ok2 := strings.Cut(rest, "@")
	return relation.Tuple{Object: object, Relation: rel, Subject: subject}, ok && ok2
}

// shardOwner returns the tenant that owns the change's shard, if that is the
// store with the id: tuples are ordered by their own store's revision.
func (t *tx) shardOwner(id relation.StoreID) (string, error) {
	if id != t.change.Store {
		return "", errShard
	}
	if t.shard == "" {
		err := t.row("SELECT tenant_id FROM stores WHERE id = ?", []any{string(id)}, &t.shard)
		if err != nil {
			return "", translate(err, "the store")
		}
	}
	return t.shard, nil
}

// WriteTuples implements directory.Tx: deletes come first.
func (t *tx) WriteTuples(id relation.StoreID, writes, deletes []relation.Tuple) error {
	owner, err := t.shardOwner(id)
	if err != nil {
		return err
	}
	for _, d := range deletes {
		n, err := t.exec("DELETE FROM tuples WHERE tenant_id = ? AND store_id = ? AND object = ? AND relation = ? AND subject = ?",
			owner, string(id), d.Object, d.Relation, d.Subject)
		if err != nil {
			return translate(err, "the tuple")
		}
		if n == 0 {
			return fault.New(fault.Conflict, "there is no tuple "+d.String()+" to delete")
		}
		t.changed(d, deleted)
	}
	for _, w := range writes {
		if err := w.Validate(); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO tuples (tenant_id, store_id, object, relation, subject) VALUES (?, ?, ?, ?, ?)",
			owner, string(id), w.Object, w.Relation, w.Subject)
		err = translate(err, "the tuple")
		if err != nil && fault.KindOf(err) == fault.Conflict {
			return fault.Wrap(fault.Conflict, "the tuple "+w.String()+" exists already", err)
		}
		if err != nil {
			return err
		}
		t.changed(w, written)
	}
	return nil
}

func (t *tx) changed(tuple relation.Tuple, now toggle) {
	t.bytes += len(tuple.Object) + len(tuple.Relation) + len(tuple.Subject)
	t.tuples.note(tuple, now)
}

// Tuples implements directory.Tx. An empty field matches all.
func (t *tx) Tuples(id relation.StoreID, match relation.Tuple) ([]relation.Tuple, error) {
	owner, err := t.shardOwner(id)
	if err != nil {
		return nil, err
	}
	query := "SELECT object, relation, subject FROM tuples WHERE tenant_id = ? AND store_id = ?"
	args := []any{owner, string(id)}
	for _, f := range []struct{ column, value string }{
		{"object", match.Object}, {"relation", match.Relation}, {"subject", match.Subject},
	} {
		if f.value != "" {
			query += " AND " + f.column + " = ?"
			args = append(args, f.value)
		}
	}
	var found []relation.Tuple
	err = t.rows(query, args, func(scan func(...any) error) error {
		var r relation.Tuple
		if err := scan(&r.Object, &r.Relation, &r.Subject); err != nil {
			return err
		}
		found = append(found, r)
		return nil
	})
	return found, translate(err, "the tuples")
}
