package sqlite

import (
	"context"
	"database/sql"
	"time"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// Tokens returns the store as the token service sees it.
func (s *Store) Tokens() sts.Store { return tokenStore{s} }

type tokenStore struct{ s *Store }

// Mutate implements sts.Store.
func (k tokenStore) Mutate(ctx context.Context, change ledger.Change, fn func(sts.Tx) error) (relation.Revision, error) {
	return k.s.mutate(ctx, change, func(t *tx) error { return fn(tokenTx{t}) })
}

const selectSigningKeys = "SELECT kid, purpose, public, wrapped, publish_at, active_at, retire_at, remove_at FROM signing_keys"

// LoadSigningKeys implements sts.Store.
func (k tokenStore) LoadSigningKeys(ctx context.Context) ([]sts.SigningKey, error) {
	var all []sts.SigningKey
	err := k.s.rows(ctx, selectSigningKeys, nil, collectSigningKeys(&all))
	return all, translate(err, "the signing keys")
}

func collectSigningKeys(all *[]sts.SigningKey) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var r sts.SigningKey
		var at [4]sql.NullInt64
		err := scan(&r.KID, &r.Purpose, (*[]byte)(&r.Public), &r.Wrapped, &at[0], &at[1], &at[2], &at[3])
		r.PublishAt, r.ActiveAt, r.RetireAt, r.RemoveAt = moment(at[0]), moment(at[1]), moment(at[2]), moment(at[3])
		*all = append(*all, r)
		return err
	}
}

// tokenTx changes signing keys, which are the platform's: its shard alone
// orders them.
type tokenTx struct{ *tx }

// SigningKeys implements sts.Tx.
func (t tokenTx) SigningKeys() ([]sts.SigningKey, error) {
	var all []sts.SigningKey
	err := t.rows(selectSigningKeys, nil, collectSigningKeys(&all))
	return all, translate(err, "the signing keys")
}

// PutSigningKey implements sts.Tx.
func (t tokenTx) PutSigningKey(k sts.SigningKey) error {
	if err := t.own(tenant.Platform); err != nil {
		return err
	}
	args := []any{k.KID, k.Purpose, []byte(k.Public), blob(k.Wrapped)}
	for _, at := range []time.Time{k.PublishAt, k.ActiveAt, k.RetireAt, k.RemoveAt} {
		v, err := nanos(at)
		if err != nil {
			return err
		}
		args = append(args, v)
	}
	payload, err := sts.EncodeSigningKey(k)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO signing_keys (kid, purpose, public, wrapped, publish_at, active_at, retire_at, remove_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (kid) DO UPDATE SET purpose = excluded.purpose, public = excluded.public, wrapped = excluded.wrapped,
		publish_at = excluded.publish_at, active_at = excluded.active_at, retire_at = excluded.retire_at, remove_at = excluded.remove_at`, args...)
	if err != nil {
		return translate(err, "the signing key")
	}
	t.put(sts.KindSigningKey, store.Put, k.KID, payload)
	return nil
}

// DeleteSigningKey implements sts.Tx.
func (t tokenTx) DeleteSigningKey(kid string) error {
	if err := t.own(tenant.Platform); err != nil {
		return err
	}
	n, err := t.exec("DELETE FROM signing_keys WHERE kid = ?", kid)
	if err == nil && n > 0 {
		t.put(sts.KindSigningKey, store.Delete, kid, nil)
	}
	return translate(err, "the signing key")
}
