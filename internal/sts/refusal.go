package sts

import (
	"context"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// Code is an OAuth 2.0 error code.
type Code string

// The codes that this package gives: RFC 6749 section 5.2, and invalid_target
// of RFC 8693 section 2.2.2.
const (
	InvalidRequest     Code = "invalid_request"
	InvalidClient      Code = "invalid_client"
	InvalidGrant       Code = "invalid_grant"
	InvalidScope       Code = "invalid_scope"
	InvalidTarget      Code = "invalid_target"
	UnauthorizedClient Code = "unauthorized_client"
	UnsupportedGrant   Code = "unsupported_grant_type"
)

// Refusal is a decided no. Its event is written before it is returned.
type Refusal struct {
	Code   Code
	Reason string // code of a closed set, the audit event's
	cause  *fault.Error
}

// Error returns the public text with its reason.
func (r *Refusal) Error() string { return string(r.Code) + " (" + r.Reason + "): " + r.cause.Error() }

// Unwrap returns the fault: Unauthenticated for invalid_client and an invalid
// grant, Invalid for a malformed request, Unsupported for a grant that is not
// offered, else Denied.
func (r *Refusal) Unwrap() error { return r.cause }

func refuse(code Code, reason, text string) *Refusal {
	kind := fault.Denied
	switch code {
	case InvalidClient, InvalidGrant:
		kind = fault.Unauthenticated
	case InvalidRequest:
		kind = fault.Invalid
	case UnsupportedGrant:
		kind = fault.Unsupported
	}
	return &Refusal{Code: code, Reason: reason, cause: fault.New(kind, text)}
}

// reject records the refusal of a caller that did not prove who it is. What it
// says about itself chooses no chain and is not kept (DESIGN 6.5).
func (i *Issuer) reject(o Origin, r *Refusal) error {
	ev := i.event(o, ledger.Reject, "token.authenticate")
	ev.Tenant, ev.Decision, ev.Reason, ev.Source = tenant.Platform, "deny", r.Reason, o.Source
	i.cfg.Audit.Reject(ev)
	return r
}

// RejectRequest refuses, with its event of class reject, a request whose form
// is wrong before anybody was authenticated. The error is a *Refusal.
func (i *Issuer) RejectRequest(o Origin, code Code, reason, text string) error {
	return i.reject(o, refuse(code, reason, text))
}

// DenyRequest refuses, with its event of class deny, what the protocol found
// wrong with an authenticated client's request. The error is a *Refusal, or
// kind Unavailable.
func (i *Issuer) DenyRequest(ctx context.Context, c *Client, code Code, reason, text string) error {
	if c.ID() == "" {
		return errNoClient
	}
	return i.deny(ctx, c, denial{action: "token.issue"}, refuse(code, reason, text))
}

// denial is what is known for sure when an authenticated client is refused.
type denial struct {
	action  string
	tenant  tenant.ID            // whose chain; zero reads as the client's owner
	subject *principal.Principal // of a subject token that verified
	detail  map[string]string
}

// deny records the refusal of an authenticated client. When the event cannot be
// written the answer is not the refusal but kind Unavailable: 503.
func (i *Issuer) deny(ctx context.Context, c *Client, d denial, r *Refusal) error {
	ev := i.event(c.origin, ledger.Deny, d.action)
	ev.Tenant, ev.Subject = c.service.Tenant, c.subject().String()
	if !d.tenant.IsZero() {
		ev.Tenant = d.tenant
	}
	if p := d.subject; p != nil {
		ev.Tenant, ev.Subject = p.Tenant, p.Subject.String()
		ev.Actors = append([]string{c.subject().String()}, actorNames(p.Actors)...)
	}
	ev.ClientID, ev.Decision, ev.Reason, ev.Detail = c.service.ID, "deny", r.Reason, d.detail
	if err := i.cfg.Audit.Append(ctx, ev); err != nil {
		return unwritable(err)
	}
	return r
}

func unwritable(err error) error {
	return fault.Wrap(fault.Unavailable, "the decision could not be recorded; try again", err)
}

func actorNames(actors []principal.Actor) []string {
	var names []string
	for _, a := range actors {
		names = append(names, a.Subject.String())
	}
	return names
}
