package sqlite

import (
	"context"
	"database/sql"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/relation"
)

// Copies returns what archives of one store are made from.
func (s *Store) Copies() authz.Copies { return copies{s} }

type copies struct{ s *Store }

// CopyGraph implements authz.Copies.
func (c copies) CopyGraph(ctx context.Context, id relation.StoreID, begin func(authz.Contents) error, each func(relation.Tuple) error) error {
	var refused error
	err := c.s.snapshot(ctx, func(t *sql.Tx) error {
		in, owner, err := c.contents(ctx, t, id)
		if err != nil {
			return err
		}
		if refused = begin(in); refused != nil {
			return refused
		}
		return loadTuples(ctx, t, owner, id, func(r relation.Tuple) error {
			refused = each(r)
			return refused
		})
	})
	if refused != nil {
		return refused
	}
	return translate(err, "the store")
}

func (c copies) contents(ctx context.Context, t *sql.Tx, id relation.StoreID) (in authz.Contents, owner string, err error) {
	if owner, in.Revision, err = c.s.locate(ctx, t, id); err != nil {
		return in, "", err
	}
	if in.Models, err = freeModels(ctx, t, owner, id); err != nil {
		return in, "", err
	}
	rows, err := t.QueryContext(ctx, "SELECT model, payload FROM assertions WHERE tenant_id = ? AND store_id = ?", owner, string(id))
	if err != nil {
		return in, "", err
	}
	in.Assertions = map[string][]byte{}
	err = drain(rows, func(scan func(...any) error) error {
		var model string
		var payload []byte
		err := scan(&model, &payload)
		in.Assertions[model] = payload
		return err
	})
	if err != nil {
		return in, "", err
	}
	err = t.QueryRowContext(ctx, "SELECT count(*) FROM tuples WHERE tenant_id = ? AND store_id = ?", owner, string(id)).Scan(&in.Tuples)
	return in, owner, err
}
