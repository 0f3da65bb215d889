package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"

	"github.com/pressly/goose/v3"

	"bulwark.example/internal/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the file as ours (PRAGMA application_id): "Bulw".
const applicationID = 0x42756c77

// migrate brings the file to the newest format, on connections of its own. The
// caller holds the lock.
func (s *Store) migrate(ctx context.Context) (err error) {
	if err := s.recognize(ctx); err != nil {
		return err
	}
	db, err := connect(s.cfg.dsn(false), 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	p, err := migrator(db)
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return translate(err, "the store")
	}
	if current > target {
		return fault.New(fault.Unsupported, "a newer version wrote the store; run that one")
	}
	if current == target {
		return nil
	}
	if _, err := p.Up(ctx); err != nil {
		return translate(err, "the store")
	}
	s.cfg.Logger.InfoContext(ctx, "store migrated", "from", current, "to", target)
	return nil
}

// migrator runs each migration in a transaction of its own, which also notes
// that it ran.
func migrator(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
}

// recognize refuses a file that is not ours before anything in it changes.
func (s *Store) recognize(ctx context.Context) (err error) {
	db, err := connect(s.cfg.dsn(true), 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var id, tables int
	// goose's own table stands alone when the first migration was cut short.
	const shape = `SELECT (SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema
		WHERE tbl_name <> 'goose_db_version' AND tbl_name NOT LIKE 'sqlite~_%' ESCAPE '~')`
	if err := db.QueryRowContext(ctx, shape).Scan(&id, &tables); err != nil {
		return translate(err, "the store")
	}
	if id != applicationID && tables > 0 {
		return fault.New(fault.Invalid, "the file is a database, and not a store of ours")
	}
	return nil
}
