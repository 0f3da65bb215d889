package authn

import (
	"errors"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
)

// Reason says why a credential was refused. The set is closed and becomes the
// reason of audit events; callers see it where [Reason.Told].
type Reason string

// The reasons.
const (
	Missing             Reason = "missing"              // no credential at all
	Scheme              Reason = "scheme"               // another scheme than Bearer
	MultipleCredentials Reason = "multiple_credentials" // two Authorization headers
	Malformed           Reason = "malformed"            // not a token, or one with odd claims
	TooLarge            Reason = "too_large"
	Algorithm           Reason = "alg"         // none, HS*, unknown, or not this key's or connection's
	UnknownKey          Reason = "unknown_key" // no kid, or no published key of that name
	Signature           Reason = "signature"
	NoExpiry            Reason = "no_expiry"
	NoIssueTime         Reason = "no_issue_time"
	Expired             Reason = "expired"
	NotYetValid         Reason = "not_yet_valid"
	LongLived           Reason = "long_lived"  // would outlive what is kept about revocations
	Issuer              Reason = "issuer"      // neither ours nor, with its audience, a connection's
	Audience            Reason = "audience"    // for somebody else, or for several
	TokenType           Reason = "token_type"  // not an access token of the kind that is expected here
	BoundToken          Reason = "bound_token" // asks for a proof of possession, which a bearer is not
	Revoked             Reason = "revoked"
	TenantInactive      Reason = "tenant_inactive"
	UnknownSubject      Reason = "unknown_subject" // nobody is linked to the connection's subject
	SubjectSuspended    Reason = "subject_suspended"
	ConnectionDisabled  Reason = "connection_disabled"

	// With these nobody is refused for good: the kind is Unavailable.
	KeysUnavailable      Reason = "keys_unavailable"      // the connection's keys cannot be had
	StaleDirectory       Reason = "stale_directory"       // no word from the store for too long
	DirectoryUnavailable Reason = "directory_unavailable" // the store does not answer
)

// Reasons lists the closed set, for tests and documentation.
func Reasons() []Reason {
	return []Reason{
		Missing, Scheme, MultipleCredentials, Malformed, TooLarge, Algorithm, UnknownKey, Signature,
		NoExpiry, NoIssueTime, Expired, NotYetValid, LongLived, Issuer, Audience, TokenType, BoundToken, Revoked,
		TenantInactive, UnknownSubject, SubjectSuspended, ConnectionDisabled,
		KeysUnavailable, StaleDirectory, DirectoryUnavailable,
	}
}

// Kind returns how a protocol answers: Unauthenticated, or Unavailable where
// the failure is ours or the issuer's and the credential may be good.
func (r Reason) Kind() fault.Kind {
	switch r {
	case KeysUnavailable, StaleDirectory, DirectoryUnavailable:
		return fault.Unavailable
	}
	return fault.Unauthenticated
}

// Told reports whether the caller may be told the reason: there was no
// credential, or it was found after the signature had verified, so that only who
// holds a token of a login that is connected here learns of it. The others would
// list those logins to anybody.
func (r Reason) Told() bool {
	switch r {
	case Missing, NoExpiry, NoIssueTime, Expired, NotYetValid, LongLived, TokenType, BoundToken, Revoked, UnknownSubject, SubjectSuspended, TenantInactive:
		return true
	}
	return false
}

// Refusal is the error of [Authenticator.Authenticate]. Its public text is the
// same for every reason, so that it helps nobody to guess; nothing of the
// credential is in it.
type Refusal struct {
	Reason Reason
	err    *fault.Error
}

const publicText = "the credential is not valid"

func refuse(r Reason, cause error) *Refusal {
	return &Refusal{r, fault.Wrap(r.Kind(), publicText, cause)}
}

// Error returns the reason and the private cause: for logs, never for answers.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.err.Error() }

// Unwrap returns the [fault.Error] that carries kind and public text.
func (r *Refusal) Unwrap() error { return r.err }

// refuseToken names the reason of an error of package jose.
func refuseToken(err error) *Refusal {
	switch {
	case errors.Is(err, jose.ErrTooLarge):
		return refuse(TooLarge, err)
	case errors.Is(err, jose.ErrAlg):
		return refuse(Algorithm, err)
	case errors.Is(err, jose.ErrSignature):
		return refuse(Signature, err)
	}
	return refuse(Malformed, err)
}
