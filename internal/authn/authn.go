// Package authn turns a bearer credential into a principal.
//
// Two families of tokens are known: our own access tokens, and those of the
// issuers that a tenant's connections trust. The claim iss decides which
// verifier reads a token; it never decides what is fetched: the only URLs that
// are followed belong to a connection. The tenant is in the verified token, or
// is that of the user to whom the connection's subject is linked; an e-mail
// address is never looked at.
//
// A verification is remembered by the exact token. Everything that can change
// is checked again at each use: times, audience, whether the key is still
// published, the connection, the tenant, revocations, and whether we have heard
// of our own store lately.
package authn

import (
	"context"
	"crypto"
	"strings"
	"sync/atomic"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// KeySource is the set of keys that our own issuer publishes for access tokens.
type KeySource interface {
	// PublicKey returns the key with that kid while it is published. It is
	// called on every request and must neither wait nor allocate.
	PublicKey(kid string) (jose.PublicKey, bool)
}

// Directory is what authn asks about tenants, connections and people. All but
// ExternalUser answer from memory. [directory.Directory] implements it.
type Directory interface {
	// TenantActive reports whether the tenant exists and is not suspended.
	TenantActive(tenant.ID) bool

	// Connection returns the one connection of the issuer and audience. False
	// means that there is none, or, when the connection has an ID, that it is
	// suspended.
	Connection(issuer string, audiences []string) (directory.Connection, bool)

	// ExternalUser returns who the connection's subject is. Kind NotFound if
	// nobody is linked, Denied if the person is suspended.
	ExternalUser(ctx context.Context, connection, subject string) (tenant.ID, principal.Subject, error)

	// Revoked reports whether the principal's credential was ended.
	Revoked(*principal.Principal) bool

	// Generation changes whenever any of the above may answer anew.
	Generation() uint64

	// Fresh reports whether the store was heard of lately (DESIGN 6.2: 30 s).
	Fresh() bool
}

// Config is what an Authenticator needs. All fields but Skew and CacheSize are
// required; without Fetch no connection can be used.
type Config struct {
	Env       string // names our audiences
	Issuer    string // our own issuer URL
	Keys      KeySource
	Directory Directory

	// Fetch gets a document of at most max bytes over https. It bounds time,
	// refuses internal addresses and follows no redirect: package outgoing.
	Fetch func(ctx context.Context, url string, max int64) ([]byte, error)

	Now       func() time.Time
	Skew      time.Duration // tolerated difference of clocks, both ways; 0: 60 s
	CacheSize int           // verified tokens remembered; 0: 16,384
}

// DefaultSkew is the tolerated difference of clocks.
const DefaultSkew = 60 * time.Second

const defaultCacheSize = 16 << 10

// recheck is the longest time for which answers of the directory are reused
// while its generation stands: an installation ends by the clock alone.
const recheck = time.Second

// Authenticator verifies credentials. It is safe for concurrent use. It starts
// no goroutine and needs no closing.
type Authenticator struct {
	cfg      Config
	external string // the one audience of ours at which connections' tokens count
	cache    *cache
	sources  sources
}

// New returns an Authenticator with an empty cache.
func New(cfg Config) *Authenticator {
	if cfg.Skew == 0 {
		cfg.Skew = DefaultSkew
	}
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = defaultCacheSize
	}
	return &Authenticator{
		cfg:      cfg,
		external: "urn:bulwark:" + cfg.Env + ":gateway",
		cache:    newCache(cfg.CacheSize),
		sources:  newSources(cfg.Fetch),
	}
}

// Input is the credential of one request, as received.
type Input struct {
	Authorization []string // every value of the header
	Audience      string   // the only audience that counts here, one of ours
}

// verified is one cached verification.
type verified struct {
	token     string
	hash      uint64 // of the token, the cache's
	principal *principal.Principal
	expires   int64  // Unix nanoseconds, skew included
	notBefore int64  // the same
	audience  string // ours, at which it counts
	key       jose.PublicKey

	// Of a connection's token; nil for our own.
	connection *directory.Connection
	source     *source
	subject    string                 // at the connection
	keys       atomic.Pointer[keySet] // the set in which key was seen last

	generation atomic.Uint64 // of the directory, when it was asked last
	checked    atomic.Int64  // when that was, Unix nanoseconds
}

// Authenticate returns the principal that the credential proves, or a
// [*Refusal]: of kind Unauthenticated, or Unavailable where the credential may
// be good and we cannot tell. It does I/O only for a token that was not seen
// before, or when a connection's keys are due.
//
// The principal is shared: it must not be changed.
func (a *Authenticator) Authenticate(ctx context.Context, in Input) (*principal.Principal, error) {
	token, refusal := bearer(in.Authorization)
	if refusal != nil {
		return nil, refusal
	}
	if !a.cfg.Directory.Fresh() {
		return nil, refuse(StaleDirectory, nil)
	}
	now := a.cfg.Now()
	if v := a.cache.get(token); v != nil {
		if refusal, again := a.recheck(ctx, v, in.Audience, now); refusal != nil {
			return nil, refusal
		} else if !again {
			return v.principal, nil
		}
	}
	v, refusal := a.verify(ctx, token, in.Audience, now)
	if refusal != nil {
		return nil, refusal
	}
	a.cache.put(v)
	return v.principal, nil
}

// bearer takes the token out of the header (RFC 6750 section 2.1). The scheme's
// case does not count (RFC 9110 section 11.1); all else does.
func bearer(values []string) (string, *Refusal) {
	switch len(values) {
	case 0:
		return "", refuse(Missing, nil)
	case 1:
	default:
		return "", refuse(MultipleCredentials, nil)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	switch {
	case values[0] == "":
		return "", refuse(Missing, nil)
	case !strings.EqualFold(scheme, "Bearer"):
		return "", refuse(Scheme, nil)
	case !ok || token == "":
		return "", refuse(Missing, nil)
	case len(token) > jose.MaxToken:
		return "", refuse(TooLarge, nil)
	}
	return token, nil
}

// recheck decides whether a remembered verification still holds. again asks
// for a new verification: something about the connection has changed.
func (a *Authenticator) recheck(ctx context.Context, v *verified, audience string, now time.Time) (r *Refusal, again bool) {
	nanos := now.UnixNano()
	switch {
	case nanos >= v.expires:
		return refuse(Expired, nil), false
	case nanos < v.notBefore:
		return refuse(NotYetValid, nil), false
	case v.audience != audience:
		return refuse(Audience, nil), false
	}
	if v.source == nil {
		if key, ok := a.cfg.Keys.PublicKey(v.key.KID); !ok || !same(key, v.key) {
			return refuse(UnknownKey, nil), false
		}
	} else {
		set, refusal := v.source.usable(ctx, now)
		if refusal != nil {
			return refusal, false
		}
		if set != v.keys.Load() {
			key, ok := set.keys.Key(v.key.KID)
			if !ok || !same(key, v.key) {
				return refuse(UnknownKey, nil), false
			}
			v.keys.Store(set)
		}
	}
	generation := a.cfg.Directory.Generation()
	if generation == v.generation.Load() && nanos-v.checked.Load() < int64(recheck) {
		return nil, false
	}
	if v.connection != nil {
		c, r := a.connection(v.connection.Issuer, v.connection.Audience)
		if r != nil {
			return r, false
		}
		if !sameConnection(c, v.connection) {
			return nil, true
		}
		if generation != v.generation.Load() {
			t, s, r := a.user(ctx, c, v.subject)
			if r != nil {
				return r, false
			}
			if t != v.principal.Tenant || s != v.principal.Subject {
				return nil, true
			}
		}
	}
	if r := a.standing(v.principal); r != nil {
		return r, false
	}
	// The generation was read before the questions: a change in between makes
	// the next request ask again.
	v.generation.Store(generation)
	v.checked.Store(nanos)
	return nil, false
}

// same reports whether two keys are one: kid and algorithm alone could hide a
// key that was exchanged under its name.
func same(a, b jose.PublicKey) bool {
	if a.Alg != b.Alg || a.KID != b.KID {
		return false
	}
	if a.Key == b.Key { // pointers, mostly; an ed25519 key would not compare
		return true
	}
	k, ok := a.Key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b.Key)
}

// standing asks the directory whether tenant and principal may still act.
func (a *Authenticator) standing(p *principal.Principal) *Refusal {
	if !a.cfg.Directory.TenantActive(p.Tenant) {
		return refuse(TenantInactive, nil)
	}
	if a.cfg.Directory.Revoked(p) {
		return refuse(Revoked, nil)
	}
	return nil
}

// verify reads a token that is not in the cache.
func (a *Authenticator) verify(ctx context.Context, token, audience string, now time.Time) (*verified, *Refusal) {
	u, err := jose.Peek(token)
	if err != nil {
		return nil, refuseToken(err)
	}
	// Before any question, so that a change during the verification is seen.
	generation := a.cfg.Directory.Generation()
	var v *verified
	var refusal *Refusal
	if u.Issuer == a.cfg.Issuer {
		v, refusal = a.verifyOwn(token, u, audience, now)
	} else {
		v, refusal = a.verifyExternal(ctx, token, u, audience, now)
	}
	if refusal != nil {
		return nil, refusal
	}
	if refusal := a.standing(v.principal); refusal != nil {
		return nil, refusal
	}
	v.token = strings.Clone(token) // not the header that it was cut from
	v.generation.Store(generation)
	v.checked.Store(now.UnixNano())
	return v, nil
}

// times reads and checks exp, iat and nbf, and returns the first and last
// moment of the token with the skew included.
func (a *Authenticator) times(c jose.Claims, cr *principal.Credential, now time.Time) (from, to int64, r *Refusal) {
	exp, ok, err := c.Time("exp")
	if err != nil {
		return 0, 0, refuse(Malformed, err)
	}
	if !ok {
		return 0, 0, refuse(NoExpiry, nil)
	}
	iat, ok, err := c.Time("iat")
	if err != nil {
		return 0, 0, refuse(Malformed, err)
	}
	if !ok {
		return 0, 0, refuse(NoIssueTime, nil)
	}
	nbf, _, err := c.Time("nbf")
	if err != nil {
		return 0, 0, refuse(Malformed, err)
	}
	cr.IssuedAt, cr.NotBefore, cr.Expires = iat, nbf, exp
	first := iat
	if nbf.After(first) {
		first = nbf
	}
	last := exp.Add(a.cfg.Skew)
	first = first.Add(-a.cfg.Skew)
	switch {
	case !now.Before(last):
		return 0, 0, refuse(Expired, nil)
	case now.Before(first):
		return 0, 0, refuse(NotYetValid, nil)
	}
	return nanos(first), nanos(last), nil
}

// nanos is UnixNano held within its range: a token may say that it expires in
// the year 30000.
func nanos(t time.Time) int64 {
	const limit = int64(1<<63-1) / int64(time.Second)
	return max(-limit, min(t.Unix(), limit)) * int64(time.Second)
}
