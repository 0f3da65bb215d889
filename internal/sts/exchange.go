package sts

import (
	"context"

	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// Token types of RFC 8693 section 3 that are taken or given here.
const (
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token" // a token that we issued
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"          // our gateway's assertion
)

// ExchangeRequest asks for a token for another audience (RFC 8693).
type ExchangeRequest struct {
	SubjectToken       string
	SubjectTokenType   string // [TypeAccessToken] or [TypeJWT]
	RequestedTokenType string // empty or [TypeAccessToken]
	ActorToken         string // must be empty: the actor is the authenticated client
	Audience           []string
	Resource           []string // must be empty: audiences have names, see docs/spec/tokens.md
	Tenant             string   // empty, or the subject token's
	Scope              string
}

// Exchange gives the client a token with which it calls the next service on
// behalf of whom it was called. The subject token must be addressed to the
// client: an access token with its audience, or the assertion that the gateway
// sent to it. The tenant stays, the subject stays, scope, life and assurance
// only shrink, and the client joins the actor chain with the id of the token
// that it exchanged.
//
// The error is a *Refusal, or kind Unavailable. As RFC 8693 section 2.2.2
// wants, an unacceptable subject token is invalid_request.
func (i *Issuer) Exchange(ctx context.Context, c *Client, r ExchangeRequest) (Token, error) {
	if c.ID() == "" {
		return Token{}, errNoClient
	}
	if !i.cfg.Directory.Fresh() {
		return Token{}, errStale
	}
	d := denial{action: "token.issue", detail: map[string]string{"grant": "token_exchange"}}
	typ, refusal := exchangeForm(r)
	if refusal != nil {
		return Token{}, i.deny(ctx, c, d, refusal)
	}
	subject, reason := i.read(r.SubjectToken, typ)
	if reason != "" {
		return Token{}, i.deny(ctx, c, d, refuse(InvalidRequest, reason, "the subject token is not one that can be exchanged"))
	}
	d.subject, d.detail["subject_jti"] = subject.principal, subject.principal.Credential.JTI
	if refusal := i.mayExchange(c, r.Tenant, subject); refusal != nil {
		return Token{}, i.deny(ctx, c, d, refusal)
	}
	s := subject.principal
	urn, allowed, refusal := i.target(c, s.Tenant, r.Audience, false)
	if refusal != nil {
		return Token{}, i.deny(ctx, c, d, refusal)
	}
	d.detail["audience"] = urn
	asked, ok := parseScope(r.Scope)
	if ok {
		asked, ok = narrow(asked, intersect(s.Scopes, allowed))
	}
	if !ok {
		return Token{}, i.deny(ctx, c, d, errScope())
	}
	p := &principal.Principal{
		Tenant: s.Tenant, Subject: s.Subject, ClientID: c.service.ID, Scopes: asked,
		Actors:    append([]principal.Actor{{Subject: c.subject(), JTI: subject.tokenJTI}}, s.Actors...),
		Assurance: s.Assurance,
		Credential: principal.Credential{
			Audience: urn, RootJTI: s.Credential.RootJTI, SID: s.Credential.SID,
			Expires: i.cfg.Now().Add(i.cfg.TokenLife),
		},
	}
	if s.Credential.Expires.Before(p.Credential.Expires) {
		p.Credential.Expires = s.Credential.Expires
	}
	return i.issue(ctx, c.origin, p, d.detail)
}

// exchangeForm checks the parameters that do not depend on who asks, and
// returns the typ that the subject token must have. An assertion is never given
// out: only the gateway makes one, for the upstream that it calls.
func exchangeForm(r ExchangeRequest) (typ string, refusal *Refusal) {
	switch {
	case r.RequestedTokenType != "" && r.RequestedTokenType != TypeAccessToken:
		return "", refuse(InvalidRequest, "requested_type", "only access tokens are issued")
	case r.ActorToken != "":
		return "", refuse(InvalidRequest, "actor_token", "the actor is the authenticated client; an actor_token is not taken")
	case len(r.Resource) > 0:
		return "", refuse(InvalidTarget, "resource", "name the target by audience; resource is not taken")
	case r.SubjectToken == "":
		return "", refuse(InvalidRequest, "subject_missing", "subject_token is required")
	}
	switch r.SubjectTokenType {
	case TypeAccessToken:
		return TypAccess, nil
	case TypeJWT:
		return TypAssertion, nil
	}
	return "", refuse(InvalidRequest, "subject_type", "subject_token_type must be access_token, or jwt for the gateway's assertion")
}

// mayExchange decides whether this client may use this verified subject token.
func (i *Issuer) mayExchange(c *Client, named string, subject subjectToken) *Refusal {
	dir, s := i.cfg.Directory, subject.principal
	// An assertion's own id is never revoked: what can be is the token that it
	// was made from, and the link of the new token will name that one.
	link := *s
	link.Credential.JTI = subject.tokenJTI
	switch {
	case s.Credential.Audience != dir.ServiceAudience(c.service.ID):
		return refuse(InvalidRequest, "subject_audience", "the subject token is not addressed to this client")
	case !dir.TenantActive(s.Tenant) || dir.Revoked(s) || dir.Revoked(&link):
		return refuse(InvalidRequest, "subject_revoked", "the subject token has been revoked")
	case len(s.Actors)+1 > principal.MaxActors:
		return refuse(InvalidRequest, "chain_too_long", "the actor chain may have three links at most")
	}
	if named != "" {
		if t, err := dir.ResolveTenant(named); err != nil || t.Tenant != s.Tenant {
			return refuse(InvalidRequest, "tenant_foreign", "an exchange never changes the tenant")
		}
	}
	if c.platform() {
		if _, err := dir.Installed(s.Tenant, c.service.ID); err != nil {
			return refuse(UnauthorizedClient, "not_installed", "the service is not installed in that tenant")
		}
	} else if c.service.Tenant != s.Tenant || s.Tenant == tenant.Platform {
		return refuse(UnauthorizedClient, "tenant_foreign", "a tenant's own service acts in that tenant alone")
	}
	return nil
}
