package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"strconv"
	"strings"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// Tuples returns the store as the decision engine sees it.
func (s *Store) Tuples() authz.Store { return graphStore{s} }

type graphStore struct{ s *Store }

// LoadGraph implements authz.Store. The tuples come in order of object, relation
// and subject. Their objects and subjects share memory with those around them:
// who keeps one and not all clones it. An error of each is returned as it is.
func (g graphStore) LoadGraph(ctx context.Context, id relation.StoreID, each func(relation.Tuple) error) (authz.Loaded, error) {
	var loaded authz.Loaded
	var refused error
	err := g.s.snapshot(ctx, func(t *sql.Tx) error {
		var owner string
		var err error
		if owner, loaded.Revision, err = g.s.locate(ctx, t, id); err != nil {
			return err
		}
		if loaded.Models, err = freeModels(ctx, t, owner, id); err != nil {
			return err
		}
		if loaded.Own, err = ownPolicies(ctx, t, owner, id); err != nil {
			return err
		}
		return loadTuples(ctx, t, owner, id, func(r relation.Tuple) error {
			refused = each(r)
			return refused
		})
	})
	switch {
	case refused != nil:
		return authz.Loaded{}, refused
	case err != nil:
		return authz.Loaded{}, translate(err, "the store")
	}
	return loaded, nil
}

// What a tuple costs is its crossing of database/sql. So many cross together,
// as one text:
//
//	object#relation@subject [unit condition unit expires unit context] record ...
//
// No field holds the separators: names have no control characters, and JSON
// writes them escaped.
const (
	loadRows = 512
	record   = "\x1e"
	unit     = "\x1f"

	loadQuery = `SELECT group_concat(line, char(30)) FROM (
		SELECT object || '#' || relation || '@' || subject
			|| iif(condition = '' AND expires = 0, '', char(31) || condition || char(31) || expires || char(31) || context) AS line
		FROM tuples WHERE tenant_id = ? AND store_id = ? AND (object, relation, subject) > (?, ?, ?)
		ORDER BY object, relation, subject LIMIT ?)`
)

var errTuple = fault.New(fault.Integrity, "the store holds a damaged tuple")

func loadTuples(ctx context.Context, t *sql.Tx, owner string, id relation.StoreID, each func(relation.Tuple) error) error {
	st, err := t.PrepareContext(ctx, loadQuery) // ends with the transaction
	if err != nil {
		return err
	}
	share := interner{}
	var last relation.Tuple
	for {
		var chunk sql.NullString
		if err := st.QueryRowContext(ctx, owner, string(id), last.Object, last.Relation, last.Subject, loadRows).Scan(&chunk); err != nil {
			return err
		}
		if !chunk.Valid {
			return nil
		}
		count := 0
		for rest, more := chunk.String, true; more; count++ {
			var text string
			text, rest, more = strings.Cut(rest, record)
			r, ok := readTuple(text, share)
			// The order of an aggregate is SQLite's habit and not its promise,
			// and the next chunk begins after the last tuple of this one.
			if !ok || !follows(r, last) {
				return errTuple
			}
			if r.Object == last.Object {
				r.Object = last.Object // one string for all tuples of an object
			}
			last = r
			if err := each(r); err != nil {
				return err
			}
		}
		if count < loadRows {
			return nil
		}
	}
}

func follows(a, b relation.Tuple) bool {
	if c := strings.Compare(a.Object, b.Object); c != 0 {
		return c > 0
	}
	if c := strings.Compare(a.Relation, b.Relation); c != 0 {
		return c > 0
	}
	return a.Subject > b.Subject
}

// readTuple reads one tuple of a chunk.
func readTuple(text string, share interner) (relation.Tuple, bool) {
	key, rest, guarded := strings.Cut(text, unit)
	r, ok := cutTuple(key)
	r.Relation = share.one(r.Relation)
	if !guarded {
		return r, ok
	}
	condition, rest, ok2 := strings.Cut(rest, unit)
	expires, document, ok3 := strings.Cut(rest, unit)
	n, err := strconv.ParseInt(expires, 10, 64)
	r.Condition, r.Context, r.Expires = share.one(condition), strings.Clone(document), n
	return r, ok && ok2 && ok3 && err == nil
}

// interner gives equal strings one memory of their own: a graph names few
// relations and conditions again and again.
type interner map[string]string

func (i interner) one(s string) string {
	if known, ok := i[s]; ok {
		return known
	}
	s = strings.Clone(s)
	i[s] = s
	return s
}

// WriteTuples implements authz.Store. A delete that names an end deletes the
// tuple with that end alone.
func (g graphStore) WriteTuples(ctx context.Context, change ledger.Change, w authz.Write) (relation.Revision, error) {
	return g.s.mutate(ctx, change, func(t *tx) error { return t.write(change.Store, w) })
}

// LoadModels implements authz.Store.
func (g graphStore) LoadModels(ctx context.Context) ([]authz.ModelRecord, error) {
	var all []authz.ModelRecord
	err := g.s.rows(ctx, "SELECT application, id, source, created, proposer FROM models ORDER BY application, id", nil, func(scan func(...any) error) error {
		var r authz.ModelRecord
		var created sql.NullInt64
		err := scan(&r.Application, &r.ID, &r.Source, &created, &r.Proposer)
		r.Created = moment(created)
		all = append(all, r)
		return err
	})
	return all, translate(err, "the models")
}

// freeModels returns the models of a free store, oldest first; none of another.
func freeModels(ctx context.Context, t *sql.Tx, owner string, id relation.StoreID) ([]authz.ModelRecord, error) {
	rows, err := t.QueryContext(ctx, "SELECT id, source, active, created FROM store_models WHERE tenant_id = ? AND store_id = ? ORDER BY created, id", owner, string(id))
	if err != nil {
		return nil, err
	}
	var all []authz.ModelRecord
	err = drain(rows, func(scan func(...any) error) error {
		r := authz.ModelRecord{Application: authz.FreeApplication(id)}
		var created sql.NullInt64
		err := scan(&r.ID, &r.Source, &r.Active, &created)
		r.Created = moment(created)
		all = append(all, r)
		return err
	})
	return all, err
}

// PutModel implements authz.Store. Applications' models are the operator's: the
// change must be the platform's. That of a free store must be in its own shard.
func (g graphStore) PutModel(ctx context.Context, change ledger.Change, m authz.ModelRecord) (relation.Revision, error) {
	return g.s.mutate(ctx, change, func(t *tx) error {
		if strings.HasPrefix(m.Application, authz.FreeApplication("")) {
			return t.putFreeModel(m)
		}
		if err := t.own(tenant.Platform); err != nil {
			return err
		}
		return t.putModel(m)
	})
}

func (t *tx) putModel(m authz.ModelRecord) error {
	if m.Active {
		return fault.New(fault.Invalid, "a rollout puts a model in force")
	}
	created, err := nanos(m.Created)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO models (application, id, source, created, proposer) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (application, id) DO UPDATE SET source = excluded.source, created = excluded.created, proposer = excluded.proposer`,
		m.Application, m.ID, m.Source, created, m.Proposer)
	if err != nil {
		return translate(err, "the model")
	}
	return t.logModel(m)
}

func (t *tx) logModel(m authz.ModelRecord) error {
	payload, err := json.Marshal(m)
	if err != nil {
		return fault.Wrap(fault.Internal, "a model does not encode", err)
	}
	t.put(authz.KindModel, store.Put, m.Application+"/"+m.ID, payload)
	return nil
}

func (t *tx) putFreeModel(m authz.ModelRecord) error {
	created, err := nanos(m.Created)
	if err != nil {
		return err
	}
	id := t.change.Store
	if m.Application != authz.FreeApplication(id) {
		return errShard
	}
	var owner, kind string
	if err := t.row("SELECT tenant_id, kind FROM stores WHERE id = ?", []any{string(id)}, &owner, &kind); err != nil {
		return translate(err, "the store")
	}
	if kind != "free" {
		return errShard // its models are its application's, or fixed
	}
	if m.Active {
		_, err := t.exec("UPDATE store_models SET active = 0 WHERE tenant_id = ? AND store_id = ? AND active = 1 AND id <> ?", owner, string(id), m.ID)
		if err != nil {
			return translate(err, "the model")
		}
	}
	_, err = t.exec(`INSERT INTO store_models (tenant_id, store_id, id, source, active, created) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant_id, store_id, id) DO UPDATE SET source = excluded.source, active = excluded.active, created = excluded.created`,
		owner, string(id), m.ID, m.Source, m.Active, created)
	if err != nil {
		return translate(err, "the model")
	}
	return t.logModel(m)
}
