package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
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
	if rows, err = t.QueryContext(ctx, ownRolesQuery, string(id)); err != nil {
		return in, "", err
	}
	err = drain(rows, func(scan func(...any) error) error {
		r, err := scanRole(scan)
		in.Roles = append(in.Roles, r)
		return err
	})
	if err != nil {
		return in, "", err
	}
	if in.Own, err = ownPolicies(ctx, t, owner, id); err != nil {
		return in, "", err
	}
	err = t.QueryRowContext(ctx, "SELECT count(*) FROM tuples WHERE tenant_id = ? AND store_id = ?", owner, string(id)).Scan(&in.Tuples)
	return in, owner, err
}

// FillGraph implements authz.Copies.
func (c copies) FillGraph(ctx context.Context, change ledger.Change, in authz.Contents, tuples []relation.Tuple) (relation.Revision, error) {
	roles, own := in.Roles, in.Own
	payloads := make([][]byte, len(roles)+1)
	var err error
	for i, r := range roles {
		if payloads[i], err = json.Marshal(r); err != nil {
			return relation.Revision{}, fault.Wrap(fault.Internal, "a role does not encode", err)
		}
	}
	if own != nil {
		if own.Store != change.Store {
			return relation.Revision{}, errShard
		}
		if payloads[len(roles)], err = json.Marshal(own); err != nil {
			return relation.Revision{}, fault.Wrap(fault.Internal, "policies do not encode", err)
		}
	}
	return c.s.mutate(ctx, change, func(t *tx) error {
		if err := t.empty(change.Store); err != nil {
			return err
		}
		for i, r := range roles {
			if err := t.putOwnRole(r, payloads[i]); err != nil {
				return err
			}
		}
		if own != nil {
			if err := t.putOwnPolicies(change.Store, payloads[len(roles)]); err != nil {
				return err
			}
		}
		for _, model := range slices.Sorted(maps.Keys(in.Assertions)) {
			if err := t.putAssertions(change.Store, model, in.Assertions[model]); err != nil {
				return err
			}
		}
		return t.write(change.Store, authz.Write{Writes: tuples})
	})
}

// empty has kind Conflict for a store that holds something. Policies that were
// removed leave a record without files.
func (t *tx) empty(id relation.StoreID) error {
	owner, err := t.shardOwner(id)
	if err != nil {
		return err
	}
	var tuples, own bool
	err = t.row(`SELECT EXISTS (SELECT 1 FROM tuples WHERE tenant_id = ?1 AND store_id = ?2),
		EXISTS (SELECT 1 FROM store_roles WHERE tenant_id = ?1 AND store_id = ?2)
		OR EXISTS (SELECT 1 FROM store_policies WHERE tenant_id = ?1 AND store_id = ?2 AND coalesce(json_array_length(payload, '$.files'), 0) > 0)`,
		[]any{owner, string(id)}, &tuples, &own)
	switch {
	case err != nil:
		return translate(err, "the store")
	case tuples:
		return fault.New(fault.Conflict, "the store holds tuples; an archive is restored into an empty store")
	case own:
		return fault.New(fault.Conflict, "the store holds roles or policies of the tenant's own; an archive is restored into an empty store")
	}
	return nil
}
