package sts

import (
	"context"
	"slices"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// PersonRequest asks for a token with a key that a person enrolled: the CLI's
// way in, a JWT bearer grant (RFC 7523 section 2.1).
type PersonRequest struct {
	Assertion string   // iss and sub "user:<id>", else as a client's assertion
	Audience  []string // exactly one surface: gateway, authz, kms, admin or audit
	Tenant    string   // empty, or the person's own
	Scope     string   // must be empty: what a person may do is decided by relations
	Origin    Origin
}

// PersonToken issues a token to the person whose key signed the assertion. The
// tenant is the person's own. Nothing is granted by scope.
//
// The error is a *Refusal, or kind Unavailable. A refusal after the signature
// held is an event of class deny in the person's tenant.
func (i *Issuer) PersonToken(ctx context.Context, r PersonRequest) (Token, error) {
	if !i.cfg.Directory.Fresh() {
		return Token{}, errStale
	}
	v, refusal := i.verifyOwnKey(r.Assertion, principal.User)
	if refusal != nil {
		return Token{}, i.reject(r.Origin, refusal)
	}
	u, err := i.cfg.Directory.User(ctx, v.tenant, v.subject.ID)
	if err != nil && fault.KindOf(err) != fault.NotFound {
		return Token{}, err
	}
	if err != nil || u.State != directory.Active || !i.cfg.Directory.TenantActive(v.tenant) {
		return Token{}, i.reject(r.Origin, refuse(InvalidGrant, "person_suspended", "the person may not be used"))
	}
	if err := i.remember(r.Origin, InvalidGrant, v); err != nil {
		return Token{}, err
	}
	urn, refusal := i.personTarget(v.tenant, r)
	if refusal != nil {
		return Token{}, i.denyPerson(ctx, r.Origin, v, refusal)
	}
	now := i.cfg.Now()
	p := &principal.Principal{
		Tenant: v.tenant, Subject: v.subject, ClientID: v.subject.String(),
		// RFC 8176: proof of possession of a key held in software, as far as
		// we can know.
		Assurance:  principal.Assurance{AMR: []string{"swk"}, AuthTime: v.issued},
		Credential: principal.Credential{Audience: urn, Expires: now.Add(i.cfg.TokenLife)},
	}
	return i.issue(ctx, r.Origin, p, map[string]string{"grant": "jwt_bearer", "client_kid": v.kid})
}

func (i *Issuer) personTarget(t tenant.ID, r PersonRequest) (string, *Refusal) {
	if r.Tenant != "" {
		if named, err := i.cfg.Directory.ResolveTenant(r.Tenant); err != nil || named.Tenant != t {
			return "", refuse(UnauthorizedClient, "tenant_foreign", "a person acts in the own tenant alone")
		}
	}
	if r.Scope != "" {
		return "", refuse(InvalidScope, "scope_exceeds", "a person's token carries no scope; leave it out")
	}
	switch {
	case len(r.Audience) == 0 || (len(r.Audience) == 1 && r.Audience[0] == ""):
		return "", refuse(InvalidRequest, "audience_missing", "name the audience")
	case len(r.Audience) > 1:
		return "", refuse(InvalidTarget, "audience_several", "a token has exactly one audience")
	}
	urn, err := i.cfg.Directory.ResolveAudience(t, r.Audience[0])
	// Not pep: a policy enforcement point is a service.
	if err != nil || !isSurface(i.cfg.Directory, urn, "gateway", "authz", "kms", "admin", "audit") {
		return "", refuse(InvalidTarget, "audience_unknown", "the audience must be gateway, authz, kms, admin or audit")
	}
	return urn, nil
}

func (i *Issuer) denyPerson(ctx context.Context, o Origin, v verified, r *Refusal) error {
	ev := i.event(o, ledger.Deny, "token.issue")
	ev.Tenant, ev.Subject, ev.ClientID = v.tenant, v.subject.String(), v.subject.String()
	ev.Decision, ev.Reason, ev.Detail = "deny", r.Reason, map[string]string{"grant": "jwt_bearer"}
	if err := i.cfg.Audit.Append(ctx, ev); err != nil {
		return unwritable(err)
	}
	return r
}

// MintRequest asks for a token without any proof, through dev's own socket.
type MintRequest struct {
	Tenant    tenant.ID
	Subject   principal.Subject
	ClientID  string // empty reads as the subject
	Audience  string // URN, id or alias in the tenant's view
	Scopes    []string
	Assurance principal.Assurance
	Life      time.Duration // zero reads as the configured life
}

// Mint issues a token for whom the caller says. Only `bulwark dev` may: kind
// Denied everywhere else. The event is that of any other token, with the grant
// "dev". Kinds Invalid and NotFound for a request that cannot be met.
func (i *Issuer) Mint(ctx context.Context, r MintRequest) (Token, error) {
	if !i.cfg.Dev {
		return Token{}, fault.New(fault.Denied, "tokens are minted in dev alone")
	}
	urn, err := i.cfg.Directory.ResolveAudience(r.Tenant, r.Audience)
	if err != nil {
		return Token{}, err
	}
	if r.Subject.IsZero() || !i.cfg.Directory.TenantActive(r.Tenant) || slices.ContainsFunc(r.Scopes, func(s string) bool { return !validScope(s) }) {
		return Token{}, fault.New(fault.Invalid, "a token needs an active tenant, a subject and sound scopes")
	}
	if !i.reachable(r.Tenant, urn) {
		return Token{}, fault.New(fault.NotFound, "the audience does not exist in this tenant")
	}
	if r.Life <= 0 || r.Life > i.cfg.TokenLife {
		r.Life = i.cfg.TokenLife
	}
	if r.ClientID == "" {
		r.ClientID = r.Subject.String()
	}
	p := &principal.Principal{
		Tenant: r.Tenant, Subject: r.Subject, ClientID: r.ClientID, Scopes: r.Scopes, Assurance: r.Assurance,
		Credential: principal.Credential{Audience: urn, Expires: i.cfg.Now().Add(r.Life)},
	}
	return i.issue(ctx, Origin{Route: "dev"}, p, map[string]string{"grant": "dev"})
}
