package sts

import (
	"context"
	"slices"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// Token is an access token that was just issued.
type Token struct {
	Value   string
	JTI     string
	Scopes  []string
	Life    time.Duration // until it expires, whole seconds
	Expires time.Time
}

// ClientRequest asks for a token in the client's own name (RFC 6749 4.4).
type ClientRequest struct {
	Audience []string // exactly one: URN, id or alias
	Tenant   string   // URN, id or alias; required of platform services, else empty or the own
	Scope    string   // space-delimited; empty asks for all that is granted
}

// ClientCredentials issues a token to the client itself. A tenant's service
// gets one for its own tenant; a platform service must name a tenant where it
// is installed. The audience must be granted with Direct.
//
// The error is a *Refusal, or kind Unavailable.
func (i *Issuer) ClientCredentials(ctx context.Context, c *Client, r ClientRequest) (Token, error) {
	if c.ID() == "" {
		return Token{}, errNoClient
	}
	if !i.cfg.Directory.Fresh() {
		return Token{}, errStale
	}
	d := denial{action: "token.issue", detail: map[string]string{"grant": "client_credentials"}}
	t, refusal := i.tenantFor(c, r.Tenant)
	if refusal != nil {
		return Token{}, i.deny(ctx, c, d, refusal)
	}
	d.tenant = t
	urn, allowed, refusal := i.target(c, t, r.Audience, true)
	if refusal != nil {
		return Token{}, i.deny(ctx, c, d, refusal)
	}
	d.detail["audience"] = urn
	asked, ok := parseScope(r.Scope)
	if ok {
		asked, ok = narrow(asked, allowed)
	}
	if !ok {
		return Token{}, i.deny(ctx, c, d, errScope())
	}
	now := i.cfg.Now()
	p := &principal.Principal{
		Tenant: t, Subject: c.subject(), ClientID: c.service.ID, Scopes: asked,
		Credential: principal.Credential{Audience: urn, Expires: now.Add(i.cfg.TokenLife)},
	}
	return i.issue(ctx, c.origin, p, d.detail)
}

func errScope() *Refusal {
	return refuse(InvalidScope, "scope_exceeds", "the scope is malformed or more than what is granted")
}

// tenantFor decides in which tenant a client acts for itself. That a tenant
// exists is told to nobody who is not installed there.
func (i *Issuer) tenantFor(c *Client, name string) (tenant.ID, *Refusal) {
	home := c.service.Tenant
	if !c.platform() {
		if name == "" {
			return home, nil
		}
		if t, err := i.cfg.Directory.ResolveTenant(name); err == nil && t.Tenant == home {
			return home, nil
		}
		return tenant.ID{}, refuse(UnauthorizedClient, "tenant_foreign", "a tenant's own service acts in that tenant alone")
	}
	if name == "" {
		return tenant.ID{}, refuse(InvalidRequest, "tenant_missing", "a platform service must name the tenant in which it wants to act")
	}
	no := refuse(UnauthorizedClient, "not_installed", "the service is not installed in that tenant")
	t, err := i.cfg.Directory.ResolveTenant(name)
	if err != nil || t.State != directory.Active {
		return tenant.ID{}, no
	}
	if _, err := i.cfg.Directory.Installed(t.Tenant, c.service.ID); err != nil {
		return tenant.ID{}, no
	}
	return t.Tenant, nil
}

// target resolves the one audience that the client asks for, in the client's
// view, and returns what the client may have there at most. An audience that
// does not exist, is not granted or cannot be reached in the tenant reads the
// same to the caller.
func (i *Issuer) target(c *Client, t tenant.ID, audience []string, direct bool) (urn string, allowed []string, r *Refusal) {
	dir := i.cfg.Directory
	switch {
	case len(audience) == 0 || (len(audience) == 1 && audience[0] == ""):
		return "", nil, refuse(InvalidRequest, "audience_missing", "name the audience")
	case len(audience) > 1:
		return "", nil, refuse(InvalidTarget, "audience_several", "a token has exactly one audience")
	}
	no := func(reason string) (string, []string, *Refusal) {
		return "", nil, refuse(InvalidTarget, reason, "the audience is unknown or not granted to this client")
	}
	urn, err := dir.ResolveAudience(c.service.Tenant, audience[0])
	if fault.KindOf(err) == fault.Invalid {
		return "", nil, refuse(InvalidTarget, "audience_ambiguous", fault.Public(err))
	}
	if err != nil {
		return no("audience_unknown")
	}
	grants := dir.Grants(c.service.ID)
	n := slices.IndexFunc(grants, func(g *directory.AudienceGrant) bool { return g.Audience == urn })
	if n < 0 || grants[n].Tenant != c.service.Tenant {
		return no("audience_not_granted")
	}
	if direct && !grants[n].Direct {
		return no("audience_exchange_only")
	}
	if !i.reachable(t, urn) {
		return no("audience_not_installed")
	}
	// What an operator wrote into a grant and cannot be a scope is not one.
	allowed = slices.DeleteFunc(slices.Clone(grants[n].Scopes), func(s string) bool { return !validScope(s) })
	if c.platform() {
		in, err := dir.Installed(t, c.service.ID)
		if err != nil {
			return no("not_installed")
		}
		if len(in.Scopes) > 0 {
			allowed = intersect(allowed, in.Scopes)
		}
	}
	return urn, allowed, nil
}

// reachable reports whether the audience exists in the tenant: a surface of
// ours does, a tenant's service in its own, a platform service where it is
// installed.
func (i *Issuer) reachable(t tenant.ID, urn string) bool {
	s, err := i.cfg.Directory.ServiceOf(urn)
	if err != nil {
		return isSurface(i.cfg.Directory, urn, "gateway", "authz", "kms", "admin", "audit", "pep")
	}
	if s.State != directory.Active {
		return false
	}
	if s.Tenant != tenant.Platform {
		return s.Tenant == t
	}
	_, err = i.cfg.Directory.Installed(t, s.ID)
	return err == nil
}

// isSurface reports whether the URN is one of the named surfaces of ours.
func isSurface(d *directory.Directory, urn string, names ...string) bool {
	return slices.ContainsFunc(names, func(s string) bool { return d.Audience(s) == urn })
}

// issue completes the claims, signs them and records the event. Without the
// event there is no token: kind Unavailable.
func (i *Issuer) issue(ctx context.Context, o Origin, p *principal.Principal, detail map[string]string) (Token, error) {
	now := i.cfg.Now().UTC().Truncate(time.Second)
	cr := &p.Credential
	cr.Issuer, cr.JTI, cr.IssuedAt = i.cfg.Issuer, tenant.RandomID(), now
	cr.Expires = cr.Expires.UTC().Truncate(time.Second)
	if cr.RootJTI == "" {
		cr.RootJTI = cr.JTI
	}
	// The last fence, whatever the paths above decided.
	if life := cr.Expires.Sub(now); life <= 0 || life > MaxTokenLife || p.Tenant.IsZero() || cr.Audience == "" || len(p.Actors) > principal.MaxActors {
		return Token{}, fault.New(fault.Internal, "a token outside of the rules was not signed")
	}
	key, err := i.cfg.Keys.signer(ctx)
	if err != nil {
		return Token{}, err
	}
	value, err := jose.Sign(key, TypAccess, accessClaimsOf(p))
	if err != nil {
		return Token{}, err
	}
	ev := i.event(o, ledger.KeyUse, "token.issue")
	ev.Tenant, ev.Subject, ev.Actors, ev.ClientID = p.Tenant, p.Subject.String(), actorNames(p.Actors), p.ClientID
	ev.Decision, ev.Resource = "allow", "token:"+cr.JTI
	ev.Detail = map[string]string{"audience": cr.Audience, "root_jti": cr.RootJTI, "kid": key.KID()}
	for k, v := range detail {
		ev.Detail[k] = v
	}
	if err := i.cfg.Audit.Append(ctx, ev); err != nil {
		return Token{}, unwritable(err)
	}
	return Token{Value: value, JTI: cr.JTI, Scopes: p.Scopes, Life: cr.Expires.Sub(now), Expires: cr.Expires}, nil
}
