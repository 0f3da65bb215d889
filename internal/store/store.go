// Package store is the vocabulary that every store of the product shares.
//
// A store keeps the engines' records under one discipline (DESIGN 7): a shard,
// which is a graph of tuples, orders its changes; every change bumps the
// shard's revision as its last step and commits together with its audit event,
// its changelog entries and its effect, or not at all.
package store

import (
	"time"

	"bulwark.example/internal/relation"
)

// Instance is the one row that says whose data this is.
type Instance struct {
	ID              string // random, [tenant.RandomID]
	Env             string // environment, part of every audience URN
	Issuer          string // URL
	Epoch           uint64 // part of every revision; 1 at creation, higher after a restore
	RootFingerprint string // of the root key that wraps this store's keys
	Dev             bool   // made by dev; serve refuses it
	Created         time.Time
}

// Op says what happened to a record. Values are persisted.
type Op string

// The operations.
const (
	Put    Op = "put"
	Delete Op = "delete"
)

// Entry is what one change did to one record. The engine that owns the kind
// knows how to read the payload.
type Entry struct {
	Kind    string
	Op      Op
	Key     string
	Payload []byte // nil for kinds whose rows must exist once only, as wrapped keys
}

// Batch is everything that one revision of a shard did, in order. A batch
// without entries is a change without an effect that others must see.
// Receivers share it and must not change it.
type Batch struct {
	Store   relation.StoreID
	Rev     uint64
	Entries []Entry
	// Writes and Deletes are the net effect on the shard's tuples. A key that got
	// another condition, context or end is in both: deletes come first. Deletes
	// are only keys.
	Writes  []relation.Tuple
	Deletes []relation.Tuple
}

// AuditLog is one node's audit log, as the list of logs names it (DESIGN 6.5).
type AuditLog struct {
	Node      string // random id of the node
	Origin    string // the checkpoint's origin line
	PublicKey string // verifier key in the form of golang.org/x/mod/sumdb/note
	Created   time.Time
	Size      uint64 // of the newest recorded head
	Head      []byte // the newest recorded checkpoint, signed; nil before the first
}

// Counters says what a store has done since it was opened.
type Counters struct {
	Mutations uint64 // committed, each with a revision of its own
	Refused   uint64 // rolled back alone because their function failed
	Lost      uint64 // rolled back because the commit of their group failed
	Commits   uint64 // transactions that reached the disk
	Largest   uint64 // most callers that shared a transaction
}
