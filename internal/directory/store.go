package directory

import (
	"context"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Store keeps the directory's records. Implementations are safe for
// concurrent use and return faults, never driver errors.
type Store interface {
	// LoadDirectory returns every record but users, at one point in time.
	LoadDirectory(ctx context.Context) ([]Record, error)

	// User returns the user with the id, kind NotFound if the tenant has none.
	User(ctx context.Context, t tenant.ID, id string) (*User, error)

	// UserByName returns the user with the alias, kind NotFound if none.
	UserByName(ctx context.Context, t tenant.ID, name string) (*User, error)

	// UserByExternal returns the user that the connection's subject is linked
	// to, kind NotFound if none.
	UserByExternal(ctx context.Context, connection, subject string) (*User, error)

	// Users lists the tenant's users in order of id, from after, at most limit.
	Users(ctx context.Context, t tenant.ID, after string, limit int) ([]*User, error)

	// Mutate runs fn in one transaction that commits the change's event and
	// bumps the revision of change.Store, or does nothing at all. fn runs on
	// the store's writer and must only use tx. When Mutate returns nil the
	// change is durable and every subscriber of this process has seen it.
	Mutate(ctx context.Context, change ledger.Change, fn func(Tx) error) (relation.Revision, error)
}

// Tx is one open transaction.
type Tx interface {
	// Insert adds a record; kind Conflict if its key or one of its unique
	// names is taken.
	Insert(Record) error

	// Update replaces the record with the same key; kind NotFound if absent.
	Update(Record) error

	// Delete removes the record with the same key; kind NotFound if absent. A
	// free store goes with all that it holds, and its id stays used.
	Delete(Record) error

	// Enrolment returns the enrolment as the transaction sees it.
	Enrolment(t tenant.ID, id string) (*Enrolment, error)

	// FreeGraphs counts the tenant's free stores as the transaction sees them.
	// The tenant is the change's own: kind Internal for any other.
	FreeGraphs(t tenant.ID) (int, error)

	// AdminRoles returns the relations that the subject has to the tenant's
	// system object, none while the subject is suspended or unknown. What has a
	// condition or has ended does not count. The tenant
	// is the change's own, or the platform: kind Internal for any other.
	AdminRoles(t tenant.ID, s principal.Subject) ([]string, error)

	// WriteTuples changes tuples of a store; kind Conflict on a duplicate
	// write or a missing delete.
	WriteTuples(store relation.StoreID, writes, deletes []relation.Tuple) error

	// Tuples returns the store's tuples that match; an empty field matches all.
	Tuples(store relation.StoreID, match relation.Tuple) ([]relation.Tuple, error)
}
