package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
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

// LoadTuples implements authz.Store. The rows come in order of object, relation
// and subject. Kind NotFound for an unknown store.
func (g graphStore) LoadTuples(ctx context.Context, id relation.StoreID) ([]relation.Tuple, relation.Revision, error) {
	rev := relation.Revision{Epoch: g.s.epoch.Load(), Store: id}
	var all []relation.Tuple
	err := g.s.snapshot(ctx, func(t *sql.Tx) error {
		var owner string
		var count int
		err := t.QueryRowContext(ctx, `SELECT tenant_id, rev, (SELECT count(*) FROM tuples t WHERE t.tenant_id = h.tenant_id AND t.store_id = h.store_id)
			FROM head h WHERE store_id = ?`, string(id)).Scan(&owner, &rev.Rev, &count)
		if err != nil {
			return err
		}
		all = make([]relation.Tuple, 0, count)
		// One column is read much faster than three: what a row costs is its
		// crossing of database/sql.
		rows, err := t.QueryContext(ctx, `SELECT object || '#' || relation || '@' || subject FROM tuples
			WHERE tenant_id = ? AND store_id = ? ORDER BY object, relation, subject`, owner, string(id))
		if err != nil {
			return err
		}
		share := interner{}
		var last relation.Tuple
		var key string
		into := []any{&key}
		return drain(rows, func(scan func(...any) error) error {
			if err := scan(into...); err != nil {
				return err
			}
			r, ok := cutTuple(key)
			if !ok {
				return fault.New(fault.Integrity, "the store holds a damaged tuple")
			}
			if r.Object == last.Object {
				r.Object = last.Object // one string for all rows of an object
			} else {
				r.Object = strings.Clone(r.Object)
			}
			r.Relation, r.Subject = share.one(r.Relation), share.one(r.Subject)
			last = r
			all = append(all, r)
			return nil
		})
	})
	if err != nil {
		return nil, relation.Revision{}, translate(err, "the store")
	}
	return all, rev, nil
}

// interner gives equal strings one memory of their own: a graph names few
// relations and the same subjects again and again.
type interner map[string]string

func (i interner) one(s string) string {
	if known, ok := i[s]; ok {
		return known
	}
	s = strings.Clone(s)
	i[s] = s
	return s
}

// WriteTuples implements authz.Store: deletes come first.
func (g graphStore) WriteTuples(ctx context.Context, change ledger.Change, writes, deletes []relation.Tuple) (relation.Revision, error) {
	return g.s.mutate(ctx, change, func(t *tx) error { return t.WriteTuples(change.Store, writes, deletes) })
}

// LoadModels implements authz.Store.
func (g graphStore) LoadModels(ctx context.Context) ([]authz.ModelRecord, error) {
	var all []authz.ModelRecord
	err := g.s.rows(ctx, "SELECT application, id, source, active, created FROM models ORDER BY application, id", nil, func(scan func(...any) error) error {
		var r authz.ModelRecord
		var created sql.NullInt64
		err := scan(&r.Application, &r.ID, &r.Source, &r.Active, &created)
		r.Created = moment(created)
		all = append(all, r)
		return err
	})
	return all, translate(err, "the models")
}

// PutModel implements authz.Store. Models are the operator's: the change must
// be the platform's.
func (g graphStore) PutModel(ctx context.Context, change ledger.Change, m authz.ModelRecord) (relation.Revision, error) {
	created, err := nanos(m.Created)
	if err != nil {
		return relation.Revision{}, err
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return relation.Revision{}, fault.Wrap(fault.Internal, "a model does not encode", err)
	}
	return g.s.mutate(ctx, change, func(t *tx) error {
		if err := t.own(tenant.Platform); err != nil {
			return err
		}
		if m.Active {
			if _, err := t.exec("UPDATE models SET active = 0 WHERE application = ? AND active = 1 AND id <> ?", m.Application, m.ID); err != nil {
				return translate(err, "the model")
			}
		}
		_, err := t.exec(`INSERT INTO models (application, id, source, active, created) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (application, id) DO UPDATE SET source = excluded.source, active = excluded.active, created = excluded.created`,
			m.Application, m.ID, m.Source, m.Active, created)
		if err != nil {
			return translate(err, "the model")
		}
		t.put(authz.KindModel, store.Put, m.Application+"/"+m.ID, payload)
		return nil
	})
}
