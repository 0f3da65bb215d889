package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
)

// ownPolicies returns what a tenant added to the policies of the store; nil for
// nothing.
func ownPolicies(ctx context.Context, t *sql.Tx, owner string, id relation.StoreID) (*authz.OwnPolicies, error) {
	var payload string
	err := t.QueryRowContext(ctx, "SELECT payload FROM store_policies WHERE tenant_id = ? AND store_id = ?", owner, string(id)).Scan(&payload)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	}
	p := new(authz.OwnPolicies)
	if err := json.Unmarshal([]byte(payload), p); err != nil || p.Store != id {
		return nil, fault.New(fault.Integrity, "the store holds damaged policies of a tenant")
	}
	return p, nil
}

// PutOwnPolicies implements authz.Store.
func (g graphStore) PutOwnPolicies(ctx context.Context, change ledger.Change, p authz.OwnPolicies) (relation.Revision, error) {
	payload, err := json.Marshal(p)
	if err != nil {
		return relation.Revision{}, fault.Wrap(fault.Internal, "policies do not encode", err)
	}
	return g.s.mutate(ctx, change, func(t *tx) error { return t.putOwnPolicies(p.Store, payload) })
}

func (t *tx) putOwnPolicies(id relation.StoreID, payload []byte) error {
	owner, err := t.shardOwner(id)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO store_policies (tenant_id, store_id, payload) VALUES (?, ?, ?)
		ON CONFLICT (tenant_id, store_id) DO UPDATE SET payload = excluded.payload`, owner, string(id), string(payload))
	if err != nil {
		return translate(err, "the policies")
	}
	t.put(authz.KindOwnPolicies, store.Put, string(id), payload)
	return nil
}

const ownRolesQuery = `SELECT r.type, r.name, r.payload FROM stores s JOIN store_roles r ON r.tenant_id = s.tenant_id AND r.store_id = s.id
	WHERE s.id = ? ORDER BY r.type, r.name`

// OwnRoles implements authz.Archive.
func (a archive) OwnRoles(ctx context.Context, id relation.StoreID) ([]authz.Role, error) {
	all := []authz.Role{}
	err := a.s.rows(ctx, ownRolesQuery, []any{string(id)}, func(scan func(...any) error) error {
		r, err := scanRole(scan)
		all = append(all, r)
		return err
	})
	return all, translate(err, "the roles")
}

func scanRole(scan func(...any) error) (r authz.Role, err error) {
	var typ, name, payload string
	if err := scan(&typ, &name, &payload); err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(payload), &r); err != nil || r.Type != typ || r.Name != name {
		return r, fault.New(fault.Integrity, "the store holds a damaged role")
	}
	return r, nil
}

// PutOwnRole implements authz.Archive.
func (a archive) PutOwnRole(ctx context.Context, change ledger.Change, r authz.Role) (relation.Revision, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return relation.Revision{}, fault.Wrap(fault.Internal, "a role does not encode", err)
	}
	return a.s.mutate(ctx, change, func(t *tx) error { return t.putOwnRole(r, payload) })
}

func (t *tx) putOwnRole(r authz.Role, payload []byte) error {
	owner, err := t.shardOwner(t.change.Store)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO store_roles (tenant_id, store_id, type, name, payload) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (tenant_id, store_id, type, name) DO UPDATE SET payload = excluded.payload`, owner, string(t.change.Store), r.Type, r.Name, string(payload))
	if err != nil {
		return translate(err, "the role")
	}
	t.put(authz.KindOwnRole, store.Put, r.Type+"/"+r.Name, payload)
	return nil
}

// DeleteOwnRole implements authz.Archive.
func (a archive) DeleteOwnRole(ctx context.Context, change ledger.Change, typ, name string) (relation.Revision, error) {
	return a.s.mutate(ctx, change, func(t *tx) error {
		owner, err := t.shardOwner(change.Store)
		if err != nil {
			return err
		}
		n, err := t.exec("DELETE FROM store_roles WHERE tenant_id = ? AND store_id = ? AND type = ? AND name = ?", owner, string(change.Store), typ, name)
		switch {
		case err != nil:
			return translate(err, "the role")
		case n == 0:
			return fault.New(fault.NotFound, "there is no such role of the tenant's own")
		}
		t.put(authz.KindOwnRole, store.Delete, typ+"/"+name, nil)
		return nil
	})
}
