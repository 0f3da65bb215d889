package sts

import (
	"context"
	"encoding/json"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
)

// Introspection is the answer of RFC 7662 section 2.2. The zero value says
// "not active" and nothing else.
type Introspection struct {
	Active    bool            `json:"active"`
	TokenType string          `json:"token_type,omitempty"`
	Issuer    string          `json:"iss,omitempty"`
	Subject   string          `json:"sub,omitempty"`
	Audience  string          `json:"aud,omitempty"`
	ClientID  string          `json:"client_id,omitempty"`
	Tenant    string          `json:"tenant,omitempty"`
	Scope     string          `json:"scope,omitempty"`
	Act       json.RawMessage `json:"act,omitempty"`
	SID       string          `json:"sid,omitempty"`
	JTI       string          `json:"jti,omitempty"`
	RootJTI   string          `json:"root_jti,omitempty"`
	ACR       string          `json:"acr,omitempty"`
	AMR       []string        `json:"amr,omitempty"`
	AuthTime  int64           `json:"auth_time,omitempty"`
	IssuedAt  int64           `json:"iat,omitempty"`
	Expires   int64           `json:"exp,omitempty"`
}

// Introspect tells a client about an access token that is addressed to it or
// was issued to it. To anybody else a good token reads like a bad one: not
// active (RFC 7662 section 2.2), with an event of class deny. Errors have kind
// Unavailable.
func (i *Issuer) Introspect(ctx context.Context, c *Client, token string) (Introspection, error) {
	if c.ID() == "" {
		return Introspection{}, errNoClient
	}
	if !i.cfg.Directory.Fresh() {
		return Introspection{}, errStale
	}
	t, reason := i.read(token, TypAccess)
	if reason != "" {
		return Introspection{}, i.answered(ctx, c, nil, reason)
	}
	p := t.principal
	if !i.concerns(c, p) {
		d := denial{action: "token.introspect", subject: p, detail: map[string]string{"jti": p.Credential.JTI}}
		err := i.deny(ctx, c, d, refuse(UnauthorizedClient, "introspect_foreign", "not this client's token"))
		if _, decided := err.(*Refusal); !decided {
			return Introspection{}, err
		}
		return Introspection{}, nil
	}
	if !i.cfg.Directory.TenantActive(p.Tenant) || i.cfg.Directory.Revoked(p) {
		return Introspection{}, i.answered(ctx, c, p, "token_revoked")
	}
	a := accessClaimsOf(p)
	act, err := ActJSON(p.Actors)
	if err != nil {
		return Introspection{}, fault.Wrap(fault.Internal, "the actor chain does not encode", err)
	}
	if err := i.answered(ctx, c, p, ""); err != nil {
		return Introspection{}, err
	}
	return Introspection{
		Active: true, TokenType: "Bearer", Issuer: a.Issuer, Subject: a.Subject, Audience: a.Audience,
		ClientID: a.ClientID, Tenant: a.Tenant, Scope: strings.Join(p.Scopes, " "), Act: act, SID: a.SID,
		JTI: a.JTI, RootJTI: a.RootJTI, ACR: a.ACR, AMR: a.AMR, AuthTime: a.AuthTime,
		IssuedAt: a.IssuedAt, Expires: a.Expires,
	}, nil
}

// concerns reports whether the token is addressed to the client or was issued
// to it.
func (i *Issuer) concerns(c *Client, p *principal.Principal) bool {
	return p.Credential.Audience == i.cfg.Directory.ServiceAudience(c.service.ID) || p.ClientID == c.service.ID
}

// answered records an answer to an asking client: class check, like any
// question to the PDP. The tenant's chain is the token's if it verified.
func (i *Issuer) answered(ctx context.Context, c *Client, p *principal.Principal, reason string) error {
	ev := i.event(c.origin, ledger.Check, "token.introspect")
	ev.Tenant, ev.ClientID, ev.Subject = c.service.Tenant, c.service.ID, c.subject().String()
	ev.Decision, ev.Reason = "allow", reason
	if p != nil {
		ev.Tenant, ev.Resource = p.Tenant, "token:"+p.Credential.JTI
	}
	if reason != "" {
		ev.Decision = "deny"
	}
	if err := i.cfg.Audit.Append(ctx, ev); err != nil {
		return unwritable(err)
	}
	return nil
}

// Revoke ends an access token before its time (RFC 7009), and with it all that
// was derived from it. Only the client that it was issued to may. A token that
// is unknown, expired or revoked already is no error. The change and its event
// commit together.
//
// The error is a *Refusal, or the store's kind.
func (i *Issuer) Revoke(ctx context.Context, c *Client, token string) error {
	if c.ID() == "" {
		return errNoClient
	}
	t, reason := i.read(token, TypAccess)
	if reason != "" {
		return nil
	}
	p := t.principal
	if p.ClientID != c.service.ID {
		d := denial{action: "token.revoke", subject: p, detail: map[string]string{"jti": p.Credential.JTI}}
		return i.deny(ctx, c, d, refuse(UnauthorizedClient, "revoke_foreign", "the token was not issued to this client"))
	}
	if i.cfg.Directory.Revoked(p) {
		return nil
	}
	ev := i.event(c.origin, ledger.Mutation, "")
	ev.Subject, ev.ClientID = c.subject().String(), c.service.ID
	return i.cfg.Directory.RevokeOwn(ctx, ev, p)
}
