// Package sts issues, exchanges, introspects, revokes tokens: whose they are is decided here alone.
//
// Three things are kept apart. [Keys] holds the published signing keys, whose
// rotation is decided by times stored in their rows, so that all nodes agree.
// [Issuer] decides who gets which access token (RFC 9068) and signs it.
// [AssertionSigner] makes the short-lived assertion by which the gateway tells
// one upstream who asks for what. docs/spec/tokens.md is the specification of
// the bytes, and golden files hold them.
//
// Rules that everything here keeps (DESIGN 2, 5 and 6.2):
//
//   - A token has one tenant and one audience. The tenant of a client's token
//     is its owner's, or one where it is installed; of an exchanged token, the
//     subject token's. Nothing that a caller writes changes it.
//   - Exchange takes only what was addressed to the caller, and gives never
//     more: scope, life and assurance shrink, the actor chain grows to three.
//   - Every issue, refusal and revocation is an audit event. An event that
//     cannot be written means no token.
//   - A node that has not heard from its store for 30 s issues nothing.
//
// Everything here is safe for concurrent use.
package sts

import (
	"context"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Limits that no configuration can widen.
const (
	MaxTokenLife     = 5 * time.Minute  // of an access token
	MaxAssertionLife = 60 * time.Second // of the gateway's assertion
	MaxClientLife    = 5 * time.Minute  // of a client's own assertion (exp - iat)
	Skew             = 60 * time.Second // between the clocks of our nodes
)

// ahead is how far in the future a client's own assertion may be dated. A
// process that starts refuses all that an earlier one may have taken, whose
// replay memory is gone: that reaches so far beyond the start, and until then
// nobody with a right clock is served. Hence one second and not a minute. An
// assertion has whole seconds, so a clock that is a second ahead is taken always.
const ahead = time.Second

// Types of the tokens that are made here, as the header typ has them.
const (
	TypAccess    = "at+jwt"                // RFC 9068 section 2.1
	TypAssertion = "bulwark-assertion+jwt" // DESIGN section 5
)

// Audit takes events. Append returns after the event is where its class wants
// it, or an error; Reject never waits.
type Audit interface {
	Append(ctx context.Context, ev ledger.Event) error
	Reject(ev ledger.Event)
}

// Store keeps signing keys. Methods are safe for concurrent use.
type Store interface {
	// LoadSigningKeys returns all rows of one moment, in any order. It sees
	// every Mutate that returned before it was called.
	LoadSigningKeys(ctx context.Context) ([]SigningKey, error)

	// Mutate runs fn in one transaction that commits with the change's event,
	// or does nothing and returns fn's error.
	Mutate(ctx context.Context, change ledger.Change, fn func(Tx) error) (relation.Revision, error)
}

// Tx changes rows of signing keys. Each change is a changelog entry of the
// kind [KindSigningKey] with the key's id and [EncodeSigningKey]'s bytes.
type Tx interface {
	// SigningKeys returns all rows as the transaction sees them: what is due
	// is decided on them, so that two nodes do not both make the next key.
	SigningKeys() ([]SigningKey, error)

	// PutSigningKey adds the row, or replaces the one with the same KID.
	PutSigningKey(SigningKey) error

	// DeleteSigningKey removes the row; one that is gone already is no error.
	DeleteSigningKey(kid string) error
}

// Config is what an Issuer needs.
type Config struct {
	Issuer    string // URL; the iss of every token and the aud of client assertions
	Dev       bool   // allows [Issuer.Mint]
	Directory *directory.Directory
	Keys      *Keys // with a Sealer, since the Issuer signs
	Audit     Audit
	TokenLife time.Duration // of access tokens; zero or more than MaxTokenLife reads as MaxTokenLife
	ReplayMax int           // client assertions remembered at once; zero reads as 1<<19
	Now       func() time.Time
}

// Issuer decides about tokens.
type Issuer struct {
	cfg     Config
	replays *replays
	// notBefore refuses client assertions that an earlier run of this process
	// may have accepted, whose replay memory is gone.
	notBefore time.Time
}

// New makes an issuer: it makes the first signing key if there is none, signs
// a probe and verifies it with the key set as it is published. Kind Invalid
// for a configuration that misses something, Integrity when the probe fails,
// else the store's or keyring's kinds.
func New(ctx context.Context, cfg Config) (*Issuer, error) {
	if cfg.Issuer == "" || cfg.Directory == nil || cfg.Keys == nil || cfg.Audit == nil || cfg.Now == nil {
		return nil, fault.New(fault.Invalid, "the token service is not configured completely")
	}
	if cfg.TokenLife <= 0 || cfg.TokenLife > MaxTokenLife {
		cfg.TokenLife = MaxTokenLife
	}
	if cfg.ReplayMax <= 0 {
		cfg.ReplayMax = 1 << 19
	}
	first, err := cfg.Keys.Rotate(ctx)
	if err != nil {
		return nil, err
	}
	i := &Issuer{cfg: cfg, replays: newReplays(cfg.ReplayMax)}
	if !first {
		// With the first key of all, nobody can have run before us. Times in
		// assertions are whole seconds: one of the second in which we start, or
		// dated ahead of it, may have been used before.
		i.notBefore = cfg.Now().Truncate(time.Second).Add(time.Second + ahead)
	}
	if err := i.SelfTest(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

// ReadyAt returns from when on client assertions can be accepted: two seconds
// after the start at most, zero at the first start of all. A server that says
// it is ready earlier refuses the first clients.
func (i *Issuer) ReadyAt() time.Time { return i.notBefore }

// Keys returns the keys that the issuer signs with.
func (i *Issuer) Keys() *Keys { return i.cfg.Keys }

// Origin says where a request came from, for the audit log.
type Origin struct {
	RequestID string
	Route     string // "token", "introspect", "revoke"
	Source    string // the peer's network, not its address: "192.0.2.0/24"
}

// event begins an audit event of a request.
func (i *Issuer) event(o Origin, class ledger.Class, action string) ledger.Event {
	return ledger.Event{
		ID: tenant.RandomID(), Time: i.cfg.Now(), Class: class, Action: action,
		Route: o.Route, RequestID: o.RequestID,
	}
}
