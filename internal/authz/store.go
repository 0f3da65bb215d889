package authz

import (
	"context"
	"time"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Store is what the engine needs of a database. Every method is safe for
// concurrent use.
type Store interface {
	// LoadGraph reads a store from one consistent view: each tuple goes to each,
	// whose error ends the reading. Kind [fault.NotFound] for an unknown store.
	LoadGraph(_ context.Context, _ relation.StoreID, each func(relation.Tuple) error) (Loaded, error)
	// WriteTuples commits the changes with their event, deletes first. The batch
	// reaches [Engine.Apply] before WriteTuples returns. Errors: see [Write].
	WriteTuples(context.Context, ledger.Change, Write) (relation.Revision, error)
	// LoadModels returns the models of all applications, without those of free
	// stores, which LoadGraph returns.
	LoadModels(context.Context) ([]ModelRecord, error)
	// PutModel stores the record, new or known; an active one, which only a free
	// store has, ends the turn of the store's active record in the same transaction.
	PutModel(context.Context, ledger.Change, ModelRecord) (relation.Revision, error)
	LoadPolicies(context.Context) ([]PolicyRecord, error)
	LoadRollouts(context.Context) ([]Rollout, error)
	// PutRollout stores the content, new or known, with the rollout, in one
	// transaction. All of it reaches [Engine.ApplyEntry] in this order before it
	// returns. Kind [fault.Conflict] if the serial does not follow the stored one.
	PutRollout(context.Context, ledger.Change, Rollout, Content) (relation.Revision, error)
	// PutOwnPolicies stores a tenant's policies in the place of those of the store,
	// which is the change's. They reach [Engine.ApplyEntry] before it returns.
	PutOwnPolicies(context.Context, ledger.Change, OwnPolicies) (relation.Revision, error)
}

// Loaded is what [Store.LoadGraph] returns beside the tuples.
type Loaded struct {
	Revision relation.Revision
	Models   []ModelRecord // of a free store, oldest first
	Own      *OwnPolicies  // of a default store; nil for none
}

// Archive is what the engine reads from the database and not from memory. Every
// method is safe for concurrent use.
type Archive interface {
	// ReadTuples returns the tuples that the filter selects and whose key comes
	// after the key of after, in byte order of object, relation, subject; at most
	// limit. after is zero at the beginning.
	ReadTuples(_ context.Context, _ relation.StoreID, _ Filter, after relation.Tuple, limit int) ([]StoredTuple, relation.Revision, error)
	// ReadChanges returns the tuple changes that come after the position, oldest
	// first, at most limit, and the newest revision of the store. typ is a type of
	// object or "" for all; since a time before which nothing is returned, or zero.
	ReadChanges(_ context.Context, _ relation.StoreID, typ string, since time.Time, after Position, limit int) ([]TupleChange, relation.Revision, error)
	// Assertions returns what PutAssertions stored last for the model; nil if
	// nothing was.
	Assertions(_ context.Context, _ relation.StoreID, model string) ([]byte, error)
	PutAssertions(_ context.Context, _ ledger.Change, model string, payload []byte) (relation.Revision, error)
	// OwnRoles returns the roles that a tenant made for the store, by type and name.
	OwnRoles(context.Context, relation.StoreID) ([]Role, error)
	PutOwnRole(context.Context, ledger.Change, Role) (relation.Revision, error)
	// DeleteOwnRole has kind [fault.NotFound] if there is no such role.
	DeleteOwnRole(_ context.Context, _ ledger.Change, typ, name string) (relation.Revision, error)
}

// StoredTuple is a tuple with the time of its write.
type StoredTuple struct {
	relation.Tuple
	Written time.Time
}

// Position is a place in a store's history of changes.
type Position struct {
	Rev     uint64
	Ordinal int // within the revision, from 0
}

// TupleChange is one write or delete. The tuple of a delete is only a key.
type TupleChange struct {
	Position
	Tuple  relation.Tuple
	Delete bool
	Time   time.Time
}

// Write is one change of a store's tuples. A write of a key that exists and a
// delete of one that does not have kind [fault.Conflict] and change nothing,
// unless they are to be ignored. A duplicate is ignored only if condition,
// context and expiry are the same too. A delete with an expiry means the tuple
// with that expiry alone, for [Engine.Expire]; those of [Engine.Write] have none.
type Write struct {
	Writes, Deletes []relation.Tuple
	IgnoreDuplicate bool // OpenFGA's on_duplicate: ignore
	IgnoreMissing   bool // OpenFGA's on_missing: ignore
	Must            []Precondition
}

// Precondition must hold in the transaction of a [Write], before its deletes;
// kind [fault.Conflict] otherwise.
type Precondition struct {
	Filter Filter
	Absent bool // no tuple matches; else at least one does
}
