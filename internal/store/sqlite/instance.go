package sqlite

import (
	"context"
	"database/sql"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/store"
)

// Instance returns the row that says whose data this is, kind NotFound before
// [Store.CreateInstance].
func (s *Store) Instance(ctx context.Context) (store.Instance, error) {
	var in store.Instance
	var created sql.NullInt64
	err := s.row(ctx, "SELECT id, env, issuer, epoch, root_fingerprint, dev, created FROM instance", nil,
		&in.ID, &in.Env, &in.Issuer, &in.Epoch, &in.RootFingerprint, &in.Dev, &created)
	if err != nil {
		return store.Instance{}, translate(err, "the instance")
	}
	in.Created = moment(created)
	return in, nil
}

// CreateInstance writes the instance row, once: kind Conflict if there is one.
// No change is possible before it.
func (s *Store) CreateInstance(ctx context.Context, in store.Instance) error {
	if in.ID == "" || in.Env == "" || in.Issuer == "" || in.RootFingerprint == "" || in.Epoch == 0 {
		return fault.New(fault.Invalid, "the instance needs an id, an environment, an issuer, a root key and an epoch")
	}
	epoch, err := fit(in.Epoch)
	if err != nil {
		return err
	}
	created, err := nanos(in.Created)
	if err != nil {
		return err
	}
	err = s.keep(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO instance (one, id, env, issuer, epoch, root_fingerprint, dev, created) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
			in.ID, in.Env, in.Issuer, epoch, in.RootFingerprint, in.Dev, created)
		return translate(err, "the instance")
	})
	if err == nil {
		s.epoch.Store(in.Epoch)
	}
	return err
}
