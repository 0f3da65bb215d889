package sts

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// KindSigningKey is the changelog's kind of signing keys.
const KindSigningKey = "signing_key"

// What a signing key signs.
const (
	PurposeToken     = "token"     // access tokens; the private half is a sealed row
	PurposeAssertion = "assertion" // the gateway's assertions; the private half is never stored
)

// SigningKey is one row. Its times decide alone what a node does with it:
// published from PublishAt, signing from ActiveAt, replaced at RetireAt,
// removed at RemoveAt. Zero RetireAt and RemoveAt mean: no successor yet.
type SigningKey struct {
	KID       string          `json:"kid"`
	Purpose   string          `json:"purpose"`
	Public    json.RawMessage `json:"public"`            // JWK
	Wrapped   []byte          `json:"wrapped,omitempty"` // private JWK sealed by the keyring; nil for assertions
	PublishAt time.Time       `json:"publish_at"`
	ActiveAt  time.Time       `json:"active_at"`
	RetireAt  time.Time       `json:"retire_at,omitzero"`
	RemoveAt  time.Time       `json:"remove_at,omitzero"`
}

// EncodeSigningKey returns the changelog's payload. The error has kind Internal.
func EncodeSigningKey(k SigningKey) ([]byte, error) {
	raw, err := json.Marshal(k)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "a signing key does not encode", err)
	}
	return raw, nil
}

// DecodeSigningKey reads what [EncodeSigningKey] wrote. The error has kind Integrity.
func DecodeSigningKey(raw []byte) (SigningKey, error) {
	var k SigningKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return SigningKey{}, fault.Wrap(fault.Integrity, "a signing key does not decode", err)
	}
	_, err := k.public()
	return k, err
}

// public parses the public half, which must be the key that KID names.
func (k SigningKey) public() (jose.PublicKey, error) {
	p, err := jose.ParsePublicKey(k.Public)
	if err != nil {
		return jose.PublicKey{}, fault.Wrap(fault.Integrity, "a signing key's row is damaged", err)
	}
	if sum, err := p.Thumbprint(); err != nil || sum != k.KID || p.KID != k.KID || p.Alg != jose.ES256 {
		return jose.PublicKey{}, fault.New(fault.Integrity, "a signing key's row names another key")
	}
	return p, nil
}

// Sealer seals the private halves; *kms.Keyring is one.
type Sealer interface {
	Encrypt(ctx context.Context, s kms.Scope, plaintext secret.Bytes) ([]byte, error)
	Decrypt(ctx context.Context, s kms.Scope, blob []byte) (secret.Bytes, error)
}

func scopeOf(kid string) kms.Scope {
	return kms.Scope{
		Tenant: tenant.Platform, Key: "token-signing", Purpose: "signing-key",
		Context: map[string]string{"kid": kid},
	}
}

// KeysConfig is what Keys needs.
type KeysConfig struct {
	Store    Store
	Sealer   Sealer           // nil on a node that only verifies
	Platform relation.StoreID // the platform's system store: the shard of the rows
	// Overlap is how long a key is published before it signs, so that every
	// verifier has it by then. Zero reads as 24 h.
	Overlap time.Duration
	// Period is how long a key signs. Zero reads as 30 days. It must be longer
	// than Overlap.
	Period time.Duration
	Now    func() time.Time
}

// Keys are the signing keys that this node knows. Reading them takes no lock.
type Keys struct {
	cfg   KeysConfig
	state atomic.Pointer[keyState]

	mu      sync.Mutex // serializes writers of state and guards private
	private map[string]jose.PrivateKey
}

// keyState is immutable.
type keyState struct{ byKID map[string]*knownKey }

type knownKey struct {
	row    SigningKey
	public jose.PublicKey
}

// published allows for the clock of the node that made the key.
func (k *knownKey) published(now time.Time) bool {
	return !now.Before(k.row.PublishAt.Add(-Skew)) && (k.row.RemoveAt.IsZero() || now.Before(k.row.RemoveAt))
}

// OpenKeys loads the keys. Subscribe [Keys.Apply] to the store's changes before
// the first mutation. Kind Invalid for a wrong configuration, else the store's.
func OpenKeys(ctx context.Context, cfg KeysConfig) (*Keys, error) {
	if cfg.Store == nil || cfg.Now == nil || cfg.Platform == "" {
		return nil, fault.New(fault.Invalid, "the signing keys are not configured completely")
	}
	if cfg.Overlap <= 0 {
		cfg.Overlap = 24 * time.Hour
	}
	if cfg.Period <= 0 {
		cfg.Period = 30 * 24 * time.Hour
	}
	if cfg.Period <= cfg.Overlap {
		return nil, fault.New(fault.Invalid, "a signing key must be used for longer than it is published before use")
	}
	k := &Keys{cfg: cfg, private: map[string]jose.PrivateKey{}}
	if err := k.Reload(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads all rows again: at the start, and after a gap in the changelog.
// Errors are the store's, or Integrity for a damaged row; the keys that were
// known stay in use then.
func (k *Keys) Reload(ctx context.Context) error {
	// The lock is held while reading: a change that commits meanwhile is
	// applied after, on top of what was read.
	k.mu.Lock()
	defer k.mu.Unlock()
	rows, err := k.cfg.Store.LoadSigningKeys(ctx)
	if err != nil {
		return err
	}
	next := &keyState{byKID: make(map[string]*knownKey, len(rows))}
	for _, row := range rows {
		p, err := row.public()
		if err != nil {
			return err
		}
		next.byKID[row.KID] = &knownKey{row, p}
	}
	k.publish(next)
	return nil
}

// Apply takes one committed change of the kind [KindSigningKey] into use.
// Payload is nil for a deletion. Other kinds are ignored. The error has kind
// Integrity: [Keys.Reload] then.
func (k *Keys) Apply(kind, key string, payload []byte) error {
	if kind != KindSigningKey {
		return nil
	}
	var entry *knownKey
	if payload != nil {
		row, err := DecodeSigningKey(payload)
		if err != nil {
			return err
		}
		p, err := row.public()
		if err != nil {
			return err
		}
		entry = &knownKey{row, p}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next := &keyState{byKID: maps.Clone(k.state.Load().byKID)}
	if entry == nil {
		delete(next.byKID, key)
	} else {
		next.byKID[entry.row.KID] = entry
	}
	k.publish(next)
	return nil
}

// publish makes next the state. The caller holds mu.
func (k *Keys) publish(next *keyState) {
	maps.DeleteFunc(k.private, func(kid string, _ jose.PrivateKey) bool { return next.byKID[kid] == nil })
	k.state.Store(next)
}

// PublicKey returns the key with that kid if it verifies access tokens and is
// published now.
func (k *Keys) PublicKey(kid string) (jose.PublicKey, bool) { return k.lookup(PurposeToken, kid) }

// AssertionKey returns the key with that kid if it verifies assertions and is
// published now.
func (k *Keys) AssertionKey(kid string) (jose.PublicKey, bool) {
	return k.lookup(PurposeAssertion, kid)
}

func (k *Keys) lookup(purpose, kid string) (jose.PublicKey, bool) {
	e := k.state.Load().byKID[kid]
	if e == nil || e.row.Purpose != purpose || !e.published(k.cfg.Now()) {
		return jose.PublicKey{}, false
	}
	return e.public, true
}

// JWKS returns the published keys of access tokens: next, active and retired.
func (k *Keys) JWKS() (jose.Set, error) { return k.set(PurposeToken) }

// AssertionJWKS returns the published keys of assertions.
func (k *Keys) AssertionJWKS() (jose.Set, error) { return k.set(PurposeAssertion) }

func (k *Keys) set(purpose string) (jose.Set, error) {
	now := k.cfg.Now()
	var keys []jose.PublicKey
	for _, e := range k.state.Load().ordered() {
		if e.row.Purpose == purpose && e.published(now) {
			keys = append(keys, e.public)
		}
	}
	return jose.NewSet(keys...)
}

// signer returns the private key that signs now. Kind Unavailable if no key may.
func (k *Keys) signer(ctx context.Context) (jose.PrivateKey, error) {
	e := k.state.Load().active(k.cfg.Now(), k.cfg.Overlap)
	if e == nil || k.cfg.Sealer == nil {
		return jose.PrivateKey{}, fault.New(fault.Unavailable, "there is no signing key in use")
	}
	k.mu.Lock()
	key, ok := k.private[e.row.KID]
	k.mu.Unlock()
	if ok {
		return key, nil
	}
	// Opening may ask a root key outside of this process: never under the lock.
	raw, err := k.cfg.Sealer.Decrypt(ctx, scopeOf(e.row.KID), e.row.Wrapped)
	if err != nil {
		return jose.PrivateKey{}, fault.Wrap(fault.Unavailable, "the signing key does not open", err)
	}
	defer raw.Destroy()
	key, err = jose.ParsePrivateKey(raw)
	if err != nil || key.KID() != e.row.KID {
		return jose.PrivateKey{}, fault.Wrap(fault.Integrity, "the signing key's row holds another key", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state.Load().byKID[e.row.KID] != nil { // not removed meanwhile
		k.private[e.row.KID] = key
	}
	return key, nil
}
