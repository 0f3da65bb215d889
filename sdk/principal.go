package sdk

import (
	"context"
	"slices"
	"time"
)

// Principal is who asks. It was verified; treat it as read-only.
type Principal struct {
	Tenant   string   // id of the customer whose data may be touched
	Subject  string   // "user:<id>" or "service:<id>"
	Actors   []string // services that act for the subject, nearest first
	ClientID string
	Scopes   []string

	ACR      string    // how well the subject was authenticated
	AMR      []string  // and by which methods (RFC 8176)
	AuthTime time.Time // zero when unknown

	// What the gateway decided; empty for a token that came without it, and on
	// routes that need authentication alone. See [Principal.Decided].
	Route, Relation, Object string

	// AtLeast is the newest revision of the tenant's decisions that the session has
	// seen; [Client.Check] asks for answers no older. Who changes tuples answers with
	// the token that it got, as the header Bulwark-Revision: the gateway keeps it
	// for the session.
	AtLeast string

	ID      string    // of the assertion or token (jti)
	Expires time.Time // of the assertion or token

	// What was received, for Exchange. It is behind a function because fmt
	// prints the fields of a struct, unexported ones too.
	token func() string
	typ   string
}

// HasScope reports whether the principal was granted the scope.
func (p *Principal) HasScope(scope string) bool { return slices.Contains(p.Scopes, scope) }

// Decided reports whether the gateway decided, for this very request, that the
// subject has the relation to the object. It is false for a caller with a token
// for this service, which came past the gateway: ask [Client.Check] then, or
// refuse.
func (p *Principal) Decided(relation, object string) bool {
	return p != nil && relation != "" && p.Relation == relation && p.Object == object
}

type contextKey struct{}

// FromContext returns the principal that [Verifier.Middleware] verified. It is
// nil outside of the middleware: code that needs one must not go on without.
func FromContext(ctx context.Context) *Principal {
	p, _ := ctx.Value(contextKey{}).(*Principal)
	return p
}
