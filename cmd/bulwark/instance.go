package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/kms/local"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/store"
	"bulwark.example/internal/store/sqlite"
	"bulwark.example/internal/tenant"
)

// ensureRoot opens the sealed root key, or makes it when no installation was
// begun: a store without its root must not get another one.
func ensureRoot(path, data string, passphrase secret.Bytes, c local.Config) (kms.Root, error) {
	if _, err := os.Stat(path); err == nil {
		return local.Open(path, passphrase)
	}
	if _, err := os.Stat(databasePath(data)); err == nil {
		return nil, fault.New(fault.Integrity, "the data is there and its root key file is not: restore "+path)
	}
	return local.Create(path, passphrase, c)
}

// ensureInstance writes the instance row if there is none. A stop between the
// root key and the row is healed by running again.
func ensureInstance(ctx context.Context, p plan) error {
	if err := os.MkdirAll(p.data, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, "the data folder cannot be made", err)
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Path: databasePath(p.data), Now: p.now, Logger: p.log})
	if err != nil {
		return err
	}
	_, err = s.Instance(ctx)
	if err != nil && fault.KindOf(err) == fault.NotFound {
		err = s.CreateInstance(ctx, store.Instance{
			ID: tenant.RandomID(), Env: p.env, Issuer: p.issuer, Epoch: 1,
			RootFingerprint: p.root.Fingerprint(), Dev: p.dev, Created: p.now(),
		})
	}
	return errors.Join(err, s.Close())
}

// refuseForeign refuses a data folder of the other kind before anything in it
// is touched: one with a root key file or a database, and without dev's marks.
func refuseForeign(data string) error {
	_, errDB := os.Stat(databasePath(data))
	_, errPass := os.Stat(filepath.Join(data, "dev", "root.pass"))
	if errDB == nil && errors.Is(errPass, fs.ErrNotExist) {
		return fault.New(fault.Denied, "the data in "+data+" was not made by `bulwark dev`; dev refuses it")
	}
	return nil
}
