// Package kms is the key hierarchy: a root key wraps tenants' KEKs, which wrap the versions of their keys.
//
// Every wrap is an authenticated ciphertext bound to environment, tenant, key
// and version, so a row that was moved, swapped or edited in the database does
// not open. What is written here holds wrapped keys only; plaintext keys live
// in the memory of a [Keyring], bounded in number and in time.
// docs/spec/envelope.md is the specification of the bytes.
package kms

import (
	"context"
	"time"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// Root wraps and unwraps tenant KEKs and nothing else. Its key is outside of
// the store: in a sealed file (package local), an HSM or another KMS. Methods
// are safe for concurrent use.
type Root interface {
	// Wrap seals a KEK, bound to aad. An unreachable root gives kind
	// [fault.Unavailable].
	Wrap(ctx context.Context, plaintext secret.Bytes, aad map[string]string) ([]byte, error)
	// Unwrap opens what Wrap gave for the same aad. Anything else gives an
	// error of any kind but [fault.Unavailable], which means: try again.
	Unwrap(ctx context.Context, wrapped []byte, aad map[string]string) (secret.Bytes, error)
	// Fingerprint names the root key for good. It is not secret.
	Fingerprint() string
	// Env is the environment that the root key was made for.
	Env() string
	// Dev reports whether the root key was made by `bulwark dev`.
	Dev() bool
}

// The states of a row. A row in any other state than enabled, known or not,
// neither encrypts nor decrypts.
const (
	StateEnabled   = "enabled"
	StateDestroyed = "destroyed" // the wrapped bytes are gone; nothing under it ever opens
)

// The changelog's kinds of wrapped keys. The key of an entry is
// "<tenant>/<key>/<version>". There is no payload: whoever cares reads the row,
// which stays the only copy.
const (
	KindKEK     = "kek"
	KindVersion = "key_version"
)

// KEK is a version of a tenant's key-encryption key, wrapped by the root.
type KEK struct {
	Tenant  tenant.ID
	ID      string // "kek": a tenant has one, in versions
	Version uint32 // from 1
	Wrapped []byte
	// Store is the tenant's system store: the shard that orders the changes of
	// this tenant's keys.
	Store   relation.StoreID
	Created time.Time
	State   string
}

// Version is one version of one key, wrapped by the KEK that its header names.
type Version struct {
	Tenant  tenant.ID
	Key     string
	Version uint32 // from 1
	Wrapped []byte
	Created time.Time
	State   string
}

// TenantKeys is everything that the store has of one tenant, in any order.
type TenantKeys struct {
	KEKs     []KEK
	Versions []Version
}

// Store keeps wrapped keys. Methods are safe for concurrent use.
type Store interface {
	// LoadTenantKeys returns one consistent state, empty for an unknown
	// tenant. It sees every Mutate that returned before it was called.
	LoadTenantKeys(ctx context.Context, t tenant.ID) (TenantKeys, error)
	// Mutate runs fn in a transaction that commits with the change's event.
	// When fn fails nothing is written and fn's error is returned.
	Mutate(ctx context.Context, change ledger.Change, fn func(Tx) error) (relation.Revision, error)
}

// Tx adds rows. Both methods insert: a row with the same (tenant, id or key,
// version) gives kind [fault.Conflict] and changes nothing.
type Tx interface {
	PutKEK(KEK) error
	PutVersion(Version) error
}
