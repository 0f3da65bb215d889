package sqlite

import (
	"context"
	"database/sql"
	"strconv"

	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// Keys returns the store as the key hierarchy sees it.
func (s *Store) Keys() kms.Store { return keyStore{s} }

type keyStore struct{ s *Store }

// Mutate implements kms.Store.
func (k keyStore) Mutate(ctx context.Context, change ledger.Change, fn func(kms.Tx) error) (relation.Revision, error) {
	return k.s.mutate(ctx, change, func(t *tx) error { return fn(keyTx{t}) })
}

type keyTx struct{ *tx }

// PutKEK implements kms.Tx.
func (t keyTx) PutKEK(k kms.KEK) error {
	if k.Store != t.change.Store {
		return errShard
	}
	return t.insert(k.Tenant, kms.KindKEK, "the tenant's key",
		"INSERT INTO keks (tenant_id, id, version, wrapped, created, state) VALUES (?, ?, ?, ?, ?, ?)", kms.Version{
			Key: k.ID, Version: k.Version, Wrapped: k.Wrapped, Created: k.Created, State: k.State})
}

// PutVersion implements kms.Tx.
func (t keyTx) PutVersion(v kms.Version) error {
	return t.insert(v.Tenant, kms.KindVersion, "the key's version",
		"INSERT INTO key_versions (tenant_id, key, version, wrapped, created, state) VALUES (?, ?, ?, ?, ?, ?)", v)
}

func (t keyTx) insert(id tenant.ID, kind, what, query string, v kms.Version) error {
	if err := t.own(id); err != nil {
		return err
	}
	created, err := nanos(v.Created)
	if err != nil {
		return err
	}
	if _, err := t.exec(query, id.String(), v.Key, v.Version, v.Wrapped, created, v.State); err != nil {
		return translate(err, what)
	}
	t.put(kind, store.Put, id.String()+"/"+v.Key+"/"+strconv.FormatUint(uint64(v.Version), 10), nil)
	return nil
}

// LoadTenantKeys implements kms.Store.
func (k keyStore) LoadTenantKeys(ctx context.Context, id tenant.ID) (kms.TenantKeys, error) {
	var all kms.TenantKeys
	err := k.s.snapshot(ctx, func(t *sql.Tx) error {
		rows, err := t.QueryContext(ctx, `SELECT k.id, k.version, k.wrapped, k.state, k.created, t.system_store
			FROM keks k JOIN tenants t USING (tenant_id) WHERE k.tenant_id = ?`, id.String())
		if err != nil {
			return err
		}
		err = drain(rows, func(scan func(...any) error) error {
			r := kms.KEK{Tenant: id}
			var created sql.NullInt64
			err := scan(&r.ID, &r.Version, &r.Wrapped, &r.State, &created, &r.Store)
			r.Created = moment(created)
			all.KEKs = append(all.KEKs, r)
			return err
		})
		if err != nil {
			return err
		}
		rows, err = t.QueryContext(ctx, "SELECT key, version, wrapped, state, created FROM key_versions WHERE tenant_id = ?", id.String())
		if err != nil {
			return err
		}
		return drain(rows, func(scan func(...any) error) error {
			r := kms.Version{Tenant: id}
			var created sql.NullInt64
			err := scan(&r.Key, &r.Version, &r.Wrapped, &r.State, &created)
			r.Created = moment(created)
			all.Versions = append(all.Versions, r)
			return err
		})
	})
	if err != nil {
		return kms.TenantKeys{}, translate(err, "the tenant's keys")
	}
	return all, nil
}
