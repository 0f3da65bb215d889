package sts

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// AssertionClaims is what the gateway tells one upstream about one request.
type AssertionClaims struct {
	Audience  string               // the upstream's service, a URN
	Principal *principal.Principal // who asks
	Method    string
	Path      string // normalized: what was matched and is forwarded
	Route     string // id of the route
	Relation  string // what was decided; empty where a route needs authentication alone
	Object    string
	RequestID string // of the request that mints; an equal request shortly after gets the same assertion
}

// AssertionConfig is what an AssertionSigner needs.
type AssertionConfig struct {
	Issuer   string
	Store    Store
	Platform relation.StoreID // the platform's system store: the shard of the rows
	Life     time.Duration    // zero, or more than MaxAssertionLife, reads as MaxAssertionLife
	Reuse    time.Duration    // how long one assertion serves equal requests; zero reads as 30 s, the most
	Period   time.Duration    // how long a key signs; zero reads as 24 h
	Overlap  time.Duration    // how long the next key is published before it signs; zero reads as 10 min
	CacheMax int              // assertions kept; zero reads as 16384
	Now      func() time.Time
}

// maxAssertionKeys bounds the published set, whose readers take 100 keys at
// most. A process that starts again and again, and leaves a row each time, must
// not make the set unreadable for all.
const maxAssertionKeys = 48

// maxCached bounds what a kept assertion states, in bytes.
const maxCached = 2 << 10

// maxReuse bounds Reuse: what an upstream is told is never older.
const maxReuse = 30 * time.Second

// AssertionSigner makes assertions with a key that never leaves the memory of
// this process: only the public half becomes a row, so a process that only
// plays the gateway needs neither a root key nor the token-signing key.
//
// It is safe for concurrent use; [AssertionSigner.Sign] takes one short lock.
type AssertionSigner struct {
	cfg   AssertionConfig
	state atomic.Pointer[assertionState]
	mu    sync.Mutex // serializes Rotate
	next  *assertionState
}

// assertionState is one key with the assertions that it signed: a new key
// begins with an empty cache.
type assertionState struct {
	key      jose.PrivateKey
	row      SigningKey
	activeAt time.Time
	retireAt time.Time
	cache    *assertionCache
}

// NewAssertionSigner makes a key, registers its public half and returns the
// signer. Kind Invalid for a wrong configuration, else the store's.
func NewAssertionSigner(ctx context.Context, cfg AssertionConfig) (*AssertionSigner, error) {
	if cfg.Issuer == "" || cfg.Store == nil || cfg.Platform == "" || cfg.Now == nil {
		return nil, fault.New(fault.Invalid, "the assertion signer is not configured completely")
	}
	if cfg.Life <= 0 || cfg.Life > MaxAssertionLife {
		cfg.Life = MaxAssertionLife
	}
	if cfg.Reuse <= 0 || cfg.Reuse > maxReuse {
		cfg.Reuse = maxReuse
	}
	if cfg.Period <= 0 {
		cfg.Period = 24 * time.Hour
	}
	if cfg.Overlap <= 0 {
		cfg.Overlap = 10 * time.Minute
	}
	if cfg.CacheMax <= 0 {
		cfg.CacheMax = 16384
	}
	if cfg.Period <= cfg.Overlap {
		return nil, fault.New(fault.Invalid, "an assertion key must be used for longer than it is published before use")
	}
	s := &AssertionSigner{cfg: cfg}
	// The first key of a process signs at once: verifiers fetch the key set
	// again when they meet a key that they do not know.
	first, err := s.register(ctx, cfg.Now())
	if err != nil {
		return nil, err
	}
	s.state.Store(first)
	return s, nil
}

// Rotate publishes the next key when it is due, takes it into use when it was
// published for long enough, and publishes the key in use again if its row is
// gone. Call it every minute or so. Errors are the store's; the key in use
// stays until it retires.
func (s *AssertionSigner) Rotate(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if s.next != nil && !now.Before(s.next.activeAt) {
		s.state.Store(s.next)
		s.next = nil
	}
	current := s.state.Load()
	if err := s.keepPublished(ctx, current.row); err != nil {
		return err
	}
	if s.next != nil || now.Before(current.retireAt.Add(-s.cfg.Overlap)) {
		return nil
	}
	next, err := s.register(ctx, now.Add(s.cfg.Overlap))
	if err != nil {
		return err
	}
	s.next = next
	return nil
}

// register makes a key pair and publishes the public half.
func (s *AssertionSigner) register(ctx context.Context, activeAt time.Time) (*assertionState, error) {
	key, err := jose.GenerateES256()
	if err != nil {
		return nil, err
	}
	public, err := key.Public().MarshalJSON()
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now().UTC().Truncate(time.Second)
	activeAt = activeAt.UTC().Truncate(time.Second)
	row := SigningKey{
		KID: key.KID(), Purpose: PurposeAssertion, Public: public,
		PublishAt: now, ActiveAt: activeAt, RetireAt: activeAt.Add(s.cfg.Period),
	}
	row.RemoveAt = row.RetireAt.Add(s.cfg.Life + Skew)
	if err := s.publish(ctx, row); err != nil {
		return nil, err
	}
	return &assertionState{key: key, row: row, activeAt: activeAt, retireAt: row.RetireAt, cache: newAssertionCache(s.cfg.CacheMax)}, nil
}

// publish writes the row and keeps the set within its bound. What goes first
// are the newest rows of others: those of a process that keeps dying, not those
// of gateways that have long been at work.
func (s *AssertionSigner) publish(ctx context.Context, row SigningKey) error {
	ev := ledger.Event{
		ID: tenant.RandomID(), Time: s.cfg.Now(), Class: ledger.Mutation, Action: "signing_key.register",
		Tenant: tenant.Platform, Subject: "system", Resource: "signing_key:" + row.KID,
	}
	_, err := s.cfg.Store.Mutate(ctx, ledger.Change{Store: s.cfg.Platform, Event: ev}, func(tx Tx) error {
		rows, err := tx.SigningKeys()
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(r SigningKey) bool { return r.Purpose != PurposeAssertion || r.KID == row.KID })
		slices.SortFunc(rows, func(a, b SigningKey) int { return cmp.Or(a.PublishAt.Compare(b.PublishAt), cmp.Compare(a.KID, b.KID)) })
		for n := maxAssertionKeys - 1; n < len(rows); n++ {
			if err := tx.DeleteSigningKey(rows[n].KID); err != nil {
				return err
			}
		}
		return tx.PutSigningKey(row)
	})
	return err
}

// keepPublished writes the row again if somebody removed it.
func (s *AssertionSigner) keepPublished(ctx context.Context, row SigningKey) error {
	if !s.cfg.Now().Before(row.RetireAt) {
		return nil
	}
	rows, err := s.cfg.Store.LoadSigningKeys(ctx)
	if err != nil || slices.ContainsFunc(rows, func(r SigningKey) bool { return r.KID == row.KID }) {
		return err
	}
	return s.publish(ctx, row)
}

// assertionClaims are the claims of an assertion, in the order of the bytes.
type assertionClaims struct {
	Issuer   string    `json:"iss"`
	Subject  string    `json:"sub"`
	Audience string    `json:"aud"`
	ClientID string    `json:"client_id,omitempty"`
	Tenant   string    `json:"tenant"`
	Scope    string    `json:"scope,omitempty"`
	Act      *actClaim `json:"act,omitempty"`
	SID      string    `json:"sid,omitempty"`
	JTI      string    `json:"jti"`
	TokenJTI string    `json:"token_jti,omitempty"`
	RootJTI  string    `json:"root_jti"`
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`
	AuthTime int64     `json:"auth_time,omitempty"`
	IssuedAt int64     `json:"iat"`
	Expires  int64     `json:"exp"`
	Method   string    `json:"htm"`
	Path     string    `json:"path"`
	Route    string    `json:"route"`
	Relation string    `json:"relation,omitempty"`
	Object   string    `json:"object,omitempty"`
	Request  string    `json:"rid"`
}

// Sign returns an assertion that states c. An equal one that was made up to
// Reuse ago is returned again; what is equal is everything that it states, the
// key included, except its own id, times and rid. It never outlives the
// principal's credential.
//
// Kind Unauthenticated when the credential has expired, Internal for claims
// that miss something, Unavailable when the key has retired.
func (s *AssertionSigner) Sign(_ context.Context, c AssertionClaims) (string, error) {
	p := c.Principal
	if p == nil || p.Tenant.IsZero() || p.Subject.IsZero() || c.Audience == "" || c.Method == "" || c.Path == "" || c.Route == "" {
		return "", fault.New(fault.Internal, "an assertion needs a principal, an audience and a request")
	}
	state, now := s.state.Load(), s.cfg.Now()
	if !now.Before(state.retireAt) {
		return "", fault.New(fault.Unavailable, "the assertion key has retired")
	}
	buf := state.cache.buffer()
	defer state.cache.release(buf)
	*buf = stated((*buf)[:0], state.key.KID(), &c)
	if token, ok := state.cache.get(*buf, now, p.Credential.Expires); ok {
		return token, nil
	}
	issued := now.UTC().Truncate(time.Second)
	expires := issued.Add(s.cfg.Life)
	if e := p.Credential.Expires; !e.IsZero() && e.Before(expires) {
		expires = e.UTC().Truncate(time.Second)
	}
	if !expires.After(now) {
		return "", fault.New(fault.Unauthenticated, "the credential has expired")
	}
	token, err := jose.Sign(state.key, TypAssertion, s.claims(&c, issued, expires))
	if err != nil {
		return "", err
	}
	until := now.Add(s.cfg.Reuse)
	if expires.Before(until) {
		until = expires
	}
	// The cache is bounded by number: whoever asks for long paths must not fill
	// it with megabytes.
	if len(*buf) <= maxCached {
		state.cache.put(string(*buf), cached{token: token, until: until, expires: expires}, now)
	}
	return token, nil
}

func (s *AssertionSigner) claims(c *AssertionClaims, issued, expires time.Time) assertionClaims {
	p := c.Principal
	a := assertionClaims{
		Issuer: s.cfg.Issuer, Subject: p.Subject.String(), Audience: c.Audience, ClientID: p.ClientID,
		Tenant: p.Tenant.String(), Scope: strings.Join(p.Scopes, " "), Act: actOf(p.Actors), SID: p.Credential.SID,
		JTI: tenant.RandomID(), TokenJTI: p.Credential.JTI, RootJTI: p.Credential.RootJTI,
		ACR: p.Assurance.ACR, AMR: p.Assurance.AMR, IssuedAt: issued.Unix(), Expires: expires.Unix(),
		Method: c.Method, Path: c.Path, Route: c.Route, Relation: c.Relation, Object: c.Object, Request: c.RequestID,
	}
	if a.RootJTI == "" {
		// An issuer that numbers its tokens not at all: the chain begins here.
		a.RootJTI = a.JTI
	}
	if !p.Assurance.AuthTime.IsZero() {
		a.AuthTime = p.Assurance.AuthTime.Unix()
	}
	return a
}
