// Package principal is who is asking: a user or a service, in one tenant.
package principal

import (
	"context"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

// Kind tells a person from a machine.
type Kind string

// The kinds of subject.
const (
	User    Kind = "user"
	Service Kind = "service"
)

// Subject names a user or a service for good: its id is random and never
// reused. The zero Subject names nobody. Subjects compare with ==.
type Subject struct {
	Kind Kind
	ID   string
}

// ParseSubject reads "user:<id>" or "service:<id>", the form of the claim sub
// (DESIGN section 5). The error has kind [fault.Invalid].
func ParseSubject(s string) (Subject, error) {
	kind, id, _ := strings.Cut(s, ":")
	if (kind != string(User) && kind != string(Service)) || !tenant.ValidID(id) {
		return Subject{}, fault.New(fault.Invalid, "a subject is user:<id> or service:<id>")
	}
	return Subject{Kind(kind), id}, nil
}

// String returns "user:<id>" or "service:<id>", the empty string for nobody.
func (s Subject) String() string {
	if s.ID == "" {
		return ""
	}
	return string(s.Kind) + ":" + s.ID
}

// IsZero reports whether s names nobody.
func (s Subject) IsZero() bool { return s.ID == "" }

// Actor is one link of the actor chain (RFC 8693 section 4.1): a service that
// acts for the subject, with the id of the token that it exchanged. That id
// lets a derived token die with any of its ancestors.
type Actor struct {
	Subject Subject
	JTI     string
}

// MaxActors bounds the chain (DESIGN 6.2).
const MaxActors = 3

// CredentialKind says how a principal proved itself.
type CredentialKind string

// The kinds of credential.
const (
	AccessToken   CredentialKind = "at+jwt"    // issued by us (RFC 9068)
	Assertion     CredentialKind = "assertion" // our gateway's word to one upstream
	ExternalToken CredentialKind = "external"  // issued by a connection's issuer
)

// Credential is what was verified, with what is needed to check it again.
// Every field comes from inside the verified bytes or from our own store.
type Credential struct {
	Kind       CredentialKind
	Issuer     string
	Connection string // the connection's id for external tokens, else empty
	KeyID      string // the kid that verified it
	Audience   string
	JTI        string
	RootJTI    string // the first token of the chain; equals JTI for a first token
	SID        string // the session, empty when there is none
	IssuedAt   time.Time
	NotBefore  time.Time // zero when the token has none
	Expires    time.Time
}

// Assurance says how well the subject was authenticated (OpenID Connect Core
// section 2: acr, amr, auth_time).
type Assurance struct {
	ACR      string
	AMR      []string
	AuthTime time.Time
}

// Principal is an authenticated asker. It is immutable after authn made it and
// may be shared between goroutines.
type Principal struct {
	Tenant     tenant.ID
	Subject    Subject
	Actors     []Actor // nearest first; empty when the subject itself asks
	ClientID   string  // the service, or enrolled client, that got the token
	Scopes     []string
	Assurance  Assurance
	Credential Credential
}

// HasScope reports whether the token carries the scope.
func (p *Principal) HasScope(scope string) bool { return slices.Contains(p.Scopes, scope) }

type contextKey struct{}

// With returns a context that carries p.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// From returns the principal that ctx carries, nil if none.
func From(ctx context.Context) *Principal {
	p, _ := ctx.Value(contextKey{}).(*Principal)
	return p
}
