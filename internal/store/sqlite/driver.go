package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strconv"

	"modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"bulwark.example/internal/fault"
)

// This file is the only one that knows which driver is behind database/sql.

// dsn names the database file with the settings of every connection.
func (c *Config) dsn(reader bool) string {
	q := url.Values{}
	pragma := func(name, value string) { q.Add("_pragma", name+"("+value+")") }
	pragma("busy_timeout", strconv.FormatInt(busyTimeout.Milliseconds(), 10))
	pragma("foreign_keys", "1")
	pragma("trusted_schema", "0")
	pragma("cell_size_check", "1")
	// A deleted wrapped key must not stay readable in a free page.
	pragma("secure_delete", "1")
	if reader {
		pragma("query_only", "1")
	} else {
		pragma("journal_mode", "WAL")
		// FULL syncs the WAL at every commit: NORMAL may lose acknowledged
		// commits to a power cut.
		pragma("synchronous", c.synchronous())
		pragma("wal_autocheckpoint", strconv.Itoa(c.checkpoint))
		pragma("journal_size_limit", strconv.Itoa(journalLimit))
	}
	q.Set("_dqs", "0")
	if c.VFS != "" {
		q.Set("vfs", c.VFS)
	}
	u := url.URL{Scheme: "file", OmitHost: true, Path: c.Path, RawQuery: q.Encode()}
	return u.String()
}

// synchronous is FULL but in the test which proves that it must be.
func (c *Config) synchronous() string {
	if c.unsafeSync != "" {
		return c.unsafeSync
	}
	return "FULL"
}

// connect returns a pool of at most n connections that stay open.
func connect(dsn string, n int) (*sql.DB, error) {
	// Both switches are the process's and change nothing but their purpose:
	// fdatasync spares the flush of a time stamp at each commit; locks of the
	// open file description survive somebody's close of the same file. Where
	// the system lacks one, the default serves.
	_, _ = sqlite.Fdatasync(true)
	_, _ = sqlite.OFDLocking(true)
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// code returns SQLite's extended result code, 0 if err is not SQLite's.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// harmless reports whether err leaves the transaction as it was: the statement
// alone was undone. After any other error SQLite may have rolled back the
// whole transaction, so that a further statement would commit on its own.
func harmless(err error) bool {
	var f *fault.Error
	return errors.As(err, &f) || errors.Is(err, sql.ErrNoRows) || code(err)&0xff == codes.SQLITE_CONSTRAINT
}

// foreign reports whether a foreign key was violated.
func foreign(err error) bool { return code(err) == codes.SQLITE_CONSTRAINT_FOREIGNKEY }

// translate turns a driver's error into a fault. what completes the sentence
// for the caller where the kind needs one. Causes are kept as text, so that
// nobody outside can depend on the driver's types.
func translate(err error, what string) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	cause := errors.New(err.Error())
	switch c := code(err); {
	case errors.Is(err, sql.ErrNoRows):
		return fault.New(fault.NotFound, what+" does not exist")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(fault.Unavailable, "the request was not finished in time; try again", cause)
	case c == codes.SQLITE_CONSTRAINT_UNIQUE, c == codes.SQLITE_CONSTRAINT_PRIMARYKEY,
		c == codes.SQLITE_CONSTRAINT_ROWID, c == codes.SQLITE_CONSTRAINT_TRIGGER:
		return fault.Wrap(fault.Conflict, what+" exists already or a name of it is taken", cause)
	case c == codes.SQLITE_CONSTRAINT_FOREIGNKEY:
		return fault.Wrap(fault.NotFound, what+" refers to something that does not exist", cause)
	case c&0xff == codes.SQLITE_CONSTRAINT, c&0xff == codes.SQLITE_MISMATCH, c == codes.SQLITE_TOOBIG:
		return fault.Wrap(fault.Invalid, what+" has a field that the store refuses", cause)
	case c&0xff == codes.SQLITE_CORRUPT, c&0xff == codes.SQLITE_NOTADB:
		return fault.Wrap(fault.Integrity, "the store is damaged", cause)
	case c&0xff == codes.SQLITE_FULL, c&0xff == codes.SQLITE_IOERR, c&0xff == codes.SQLITE_BUSY,
		c&0xff == codes.SQLITE_LOCKED, c&0xff == codes.SQLITE_CANTOPEN, c&0xff == codes.SQLITE_READONLY,
		c&0xff == codes.SQLITE_INTERRUPT, c&0xff == codes.SQLITE_NOMEM, c&0xff == codes.SQLITE_PROTOCOL:
		return fault.Wrap(fault.Unavailable, "the store does not answer; try again", cause)
	}
	return fault.Wrap(fault.Internal, "the store failed", cause)
}
