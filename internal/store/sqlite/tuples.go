package sqlite

import (
	"database/sql"
	"encoding/json"
	"errors"
	"strings"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// tupleSet is the net effect of a transaction on its shard's tuples, by key.
type tupleSet struct {
	order []relation.Tuple // keys in order of first change
	state map[relation.Tuple]effect
}

// effect is what a key had before the transaction and has now; the zero tuple
// is none.
type effect struct{ before, now relation.Tuple }

func (s *tupleSet) note(key, old, now relation.Tuple) {
	if s.state == nil {
		s.state = map[relation.Tuple]effect{}
	}
	e, seen := s.state[key]
	if !seen {
		s.order = append(s.order, key)
		e.before = old
	}
	e.now = now
	s.state[key] = e
}

// net returns the effect. A key that got another guard is in both.
func (s *tupleSet) net() (writes, deletes []relation.Tuple) {
	for _, key := range s.order {
		e := s.state[key]
		if e.before == e.now {
			continue
		}
		if e.before != (relation.Tuple{}) {
			deletes = append(deletes, key)
		}
		if e.now != (relation.Tuple{}) {
			writes = append(writes, e.now)
		}
	}
	return writes, deletes
}

// guard is the changelog's payload of a tuple that has one.
type guard struct {
	Condition string `json:"condition,omitempty"`
	Context   string `json:"context,omitempty"`
	Expires   int64  `json:"expires,omitempty"`
}

// guardOf returns nil for a tuple that counts always.
func guardOf(t relation.Tuple) []byte {
	if t == t.Key() {
		return nil
	}
	b, _ := json.Marshal(guard{t.Condition, t.Context, t.Expires}) // strings and a number always encode
	return b
}

// parseTuple reads what [relation.Tuple.String] and guardOf wrote.
func parseTuple(key string, payload []byte) (relation.Tuple, bool) {
	t, ok := cutTuple(key)
	if !ok {
		return relation.Tuple{}, false
	}
	if payload != nil {
		var g guard
		if json.Unmarshal(payload, &g) != nil {
			return relation.Tuple{}, false
		}
		t.Condition, t.Context, t.Expires = g.Condition, g.Context, g.Expires
	}
	return t, t.Validate() == nil
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
	return t.write(id, authz.Write{Writes: writes, Deletes: deletes})
}

// write does what authz.Store.WriteTuples promises.
func (t *tx) write(id relation.StoreID, w authz.Write) error {
	owner, err := t.shardOwner(id)
	if err != nil {
		return err
	}
	for _, p := range w.Must {
		if err := t.must(owner, id, p); err != nil {
			return err
		}
	}
	for _, d := range w.Deletes {
		if err := t.deleteTuple(owner, id, d, w.IgnoreMissing); err != nil {
			return err
		}
	}
	for _, p := range w.Writes {
		if err := t.insertTuple(owner, id, p, w.IgnoreDuplicate); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) must(owner string, id relation.StoreID, p authz.Precondition) error {
	w := tuplesOf(owner, id, p.Filter)
	var found bool
	if err := t.row("SELECT EXISTS (SELECT 1"+w.from()+")", w.args, &found); err != nil {
		return translate(err, "the precondition")
	}
	switch {
	case found && p.Absent:
		return fault.New(fault.Conflict, "a tuple exists that must not for the change to be made")
	case !found && !p.Absent:
		return fault.New(fault.Conflict, "a tuple that must exist for the change to be made does not")
	}
	return nil
}

const byKey = " WHERE tenant_id = ? AND store_id = ? AND object = ? AND relation = ? AND subject = ?"

// deleteTuple deletes by key. A delete that names an end means the tuple with
// that end alone: whoever collects what has ended must not take away what was
// granted anew meanwhile.
func (t *tx) deleteTuple(owner string, id relation.StoreID, d relation.Tuple, ignore bool) error {
	old := d.Key()
	err := t.row("DELETE FROM tuples"+byKey+" AND (? = 0 OR expires = ?) RETURNING condition, context, expires",
		[]any{owner, string(id), d.Object, d.Relation, d.Subject, d.Expires, d.Expires}, &old.Condition, &old.Context, &old.Expires)
	switch {
	case errors.Is(err, sql.ErrNoRows) && ignore:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fault.New(fault.Conflict, "there is no tuple "+d.String()+" to delete")
	case err != nil:
		return translate(err, "the tuple")
	}
	t.changed(old, relation.Tuple{})
	return nil
}

func (t *tx) insertTuple(owner string, id relation.StoreID, w relation.Tuple, ignore bool) error {
	if err := w.Validate(); err != nil {
		return err
	}
	at, err := nanos(t.when())
	if err != nil {
		return err
	}
	n, err := t.exec(`INSERT INTO tuples (tenant_id, store_id, object, relation, subject, condition, context, expires, written)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		owner, string(id), w.Object, w.Relation, w.Subject, w.Condition, w.Context, w.Expires, at)
	if err != nil {
		return translate(err, "the tuple")
	}
	if n > 0 {
		t.changed(relation.Tuple{}, w)
		return nil
	}
	if !ignore {
		return fault.New(fault.Conflict, "the tuple "+w.String()+" exists already")
	}
	there := w.Key()
	err = t.row("SELECT condition, context, expires FROM tuples"+byKey,
		[]any{owner, string(id), w.Object, w.Relation, w.Subject}, &there.Condition, &there.Context, &there.Expires)
	if err != nil {
		return translate(err, "the tuple")
	}
	if there != w {
		return fault.New(fault.Conflict, "the tuple "+w.String()+" exists already with another condition, context or end")
	}
	return nil
}

func (t *tx) changed(old, now relation.Tuple) {
	key := old.Key()
	if key == (relation.Tuple{}) {
		key = now.Key()
	}
	t.bytes += len(key.Object) + len(key.Relation) + len(key.Subject) + len(now.Condition) + len(now.Context)
	t.tuples.note(key, old, now)
}

// Tuples implements directory.Tx. An empty field matches all.
func (t *tx) Tuples(id relation.StoreID, match relation.Tuple) ([]relation.Tuple, error) {
	owner, err := t.shardOwner(id)
	if err != nil {
		return nil, err
	}
	w := ofStore("tuples", owner, id)
	for _, f := range []struct{ column, value string }{
		{"object", match.Object}, {"relation", match.Relation}, {"subject", match.Subject},
	} {
		if f.value != "" {
			w.and(f.column+" = ?", f.value)
		}
	}
	var found []relation.Tuple
	err = t.rows("SELECT object, relation, subject, condition, context, expires"+w.from(), w.args, func(scan func(...any) error) error {
		var r relation.Tuple
		err := scan(&r.Object, &r.Relation, &r.Subject, &r.Condition, &r.Context, &r.Expires)
		found = append(found, r)
		return err
	})
	return found, translate(err, "the tuples")
}
