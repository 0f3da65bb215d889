package directory

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Surfaces are the audiences that Bulwark itself answers to. A service can
// never take one of these names (DESIGN section 5).
var surfaces = []string{"gateway", "authz", "kms", "admin", "audit", "pep"}

// reserved names could be mistaken for a part of Bulwark.
var reserved = append([]string{"bulwark", "platform", "system", "sts", "console", "svc", "service", "user", "tenant"}, surfaces...)

// ValidAlias reports whether name can be an alias of a tenant, user, service
// or connection: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit.
func ValidAlias(name string) bool {
	if name == "" || len(name) > 63 || tenant.ValidID(strings.ToUpper(name)) {
		return false // an alias that reads like an id would be taken for one
	}
	for i := range len(name) {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return false
		}
	}
	return true
}

var errAlias = fault.New(fault.Invalid, "a name has 1 to 63 characters of a-z 0-9 . _ - and begins with a letter or digit")

// Audience returns the URN of one of Bulwark's own surfaces.
func (d *Directory) Audience(surface string) string {
	return "urn:bulwark:" + d.cfg.Env + ":" + surface
}

// ServiceAudience returns the URN of a service.
func (d *Directory) ServiceAudience(id string) string {
	return "urn:bulwark:" + d.cfg.Env + ":svc:" + id
}

// ServiceOf returns the service that the URN names, kind NotFound if it names
// none.
func (d *Directory) ServiceOf(audience string) (*Service, error) {
	id, ok := strings.CutPrefix(audience, "urn:bulwark:"+d.cfg.Env+":svc:")
	if !ok {
		return nil, fault.New(fault.NotFound, "the audience is not a service")
	}
	return d.Service(id)
}

// ResolveAudience turns a URN, a surface, a service's id or an alias into the
// URN, in the view of a service owned by owner: its owner's services first,
// then the platform's. An alias that both have is refused, so that nobody can
// take the place of another. Kind NotFound or Invalid.
func (d *Directory) ResolveAudience(owner tenant.ID, name string) (string, error) {
	if slices.Contains(surfaces, name) {
		return d.Audience(name), nil
	}
	if rest, ok := strings.CutPrefix(name, "urn:bulwark:"+d.cfg.Env+":"); ok {
		if slices.Contains(surfaces, rest) {
			return name, nil
		}
		s, err := d.ServiceOf(name)
		if err != nil || (s.Tenant != owner && s.Tenant != tenant.Platform) {
			return "", fault.New(fault.NotFound, "no such audience")
		}
		return name, nil
	}
	if s, err := d.Service(name); err == nil && (s.Tenant == owner || s.Tenant == tenant.Platform) {
		return d.ServiceAudience(s.ID), nil
	}
	own, errOwn := d.ServiceByName(owner, name)
	shared, errShared := d.ServiceByName(tenant.Platform, name)
	switch {
	case errOwn == nil && errShared == nil && own.ID != shared.ID:
		return "", fault.New(fault.Invalid, "two services have this name; use the audience's URN")
	case errOwn == nil:
		return d.ServiceAudience(own.ID), nil
	case errShared == nil:
		return d.ServiceAudience(shared.ID), nil
	}
	return "", fault.New(fault.NotFound, "no such audience")
}

func cutURN(name, env, kind string) string {
	rest, _ := strings.CutPrefix(name, "urn:bulwark:"+env+":"+kind+":")
	return rest
}

// CreateTenant makes a tenant with its system store and a default store for
// each application. platform is the shard. Kinds Invalid and Conflict.
func (d *Directory) CreateTenant(ctx context.Context, ev ledger.Event, name string) (*Tenant, error) {
	if !ValidAlias(name) || slices.Contains(reserved, name) {
		return nil, errAlias
	}
	t := &Tenant{Tenant: tenant.New(), Name: name, State: Active, System: relation.StoreID(tenant.RandomID()), Created: d.cfg.Now()}
	ev.Action, ev.Resource = "tenant.create", "tenant:"+t.Tenant.String()
	_, err := d.mutate(ctx, ev, tenant.Platform, func(tx Tx) error { return d.insertTenant(tx, t) })
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (d *Directory) insertTenant(tx Tx, t *Tenant) error {
	if err := tx.Insert(t); err != nil {
		return err
	}
	if err := tx.Insert(&Graph{Tenant: t.Tenant, ID: t.System, Kind: SystemGraph, Created: t.Created}); err != nil {
		return err
	}
	for _, app := range d.cfg.Applications {
		g := &Graph{Tenant: t.Tenant, ID: relation.StoreID(tenant.RandomID()), Kind: DefaultGraph, Application: app, Created: t.Created}
		if err := tx.Insert(g); err != nil {
			return err
		}
	}
	return nil
}

// CreatePlatform makes tenant zero: once, at init. Kind Conflict if it exists.
func (d *Directory) CreatePlatform(ctx context.Context, ev ledger.Event) (*Tenant, error) {
	t := &Tenant{Tenant: tenant.Platform, Name: "platform", State: Active, System: relation.StoreID(tenant.RandomID()), Created: d.cfg.Now()}
	ev.Action, ev.Resource = "tenant.create", "tenant:"+t.Tenant.String()
	_, err := d.mutateShard(ctx, ev, tenant.Platform, t.System, func(tx Tx) error { return d.insertTenant(tx, t) })
	if err != nil {
		return nil, err
	}
	return t, nil
}

// SetTenantState suspends a tenant or lets it go on. Kind Invalid for the platform.
func (d *Directory) SetTenantState(ctx context.Context, ev ledger.Event, id tenant.ID, state State) error {
	if id == tenant.Platform {
		return fault.New(fault.Invalid, "the platform cannot be suspended")
	}
	old, err := d.Tenant(id)
	if err != nil {
		return err
	}
	changed := *old
	changed.State = state
	ev.Action, ev.Resource = verb(state)+".tenant", "tenant:"+id.String()
	_, err = d.mutate(ctx, ev, tenant.Platform, func(tx Tx) error { return tx.Update(&changed) })
	return err
}

// verb puts suspending under the name that the audit log's disk reserve knows.
func verb(s State) string {
	if s == Suspended {
		return "suspend"
	}
	return "resume"
}

// CreateUser makes a user. connection and external may be empty, or name a
// connection of the same tenant and the subject there. Kinds Invalid, Conflict.
func (d *Directory) CreateUser(ctx context.Context, ev ledger.Event, t tenant.ID, name, connection, external string) (*User, error) {
	if !ValidAlias(name) {
		return nil, errAlias
	}
	if (connection == "") != (external == "") || len(external) > 255 {
		return nil, fault.New(fault.Invalid, "a linked user needs both the connection and the subject there")
	}
	u := &User{Tenant: t, ID: tenant.RandomID(), Name: name, State: Active, Created: d.cfg.Now()}
	if connection != "" {
		c, err := d.ConnectionByName(t, connection)
		if err != nil {
			return nil, err
		}
		u.Connection, u.External = c.ID, external
	}
	ev.Action, ev.Resource = "user.create", "user:"+u.ID
	_, err := d.mutate(ctx, ev, t, func(tx Tx) error { return tx.Insert(u) })
	if err != nil {
		return nil, err
	}
	return u, nil
}

// SetUserState suspends a user, which also ends every token issued until now,
// or lets the user go on.
func (d *Directory) SetUserState(ctx context.Context, ev ledger.Event, t tenant.ID, id string, state State) error {
	old, err := d.User(ctx, t, id)
	if err != nil {
		return err
	}
	changed := *old
	changed.State = state
	now := d.cfg.Now()
	subject := principal.Subject{Kind: principal.User, ID: id}.String()
	r := &Revocation{Tenant: t, Kind: RevokeSubject, Value: subject, Before: now, Expires: d.longest(now)}
	ev.Action, ev.Resource = verb(state)+".user", subject
	_, err = d.mutate(ctx, ev, t, func(tx Tx) error {
		if err := tx.Update(&changed); err != nil || state == Active {
			return err
		}
		return d.upsertRevocation(tx, r)
	})
	return err
}

// CreateService makes a service owned by the tenant, or by the platform. The
// names of Bulwark's own surfaces are refused. Kinds Invalid, Conflict.
func (d *Directory) CreateService(ctx context.Context, ev ledger.Event, owner tenant.ID, name string) (*Service, error) {
	if !ValidAlias(name) {
		return nil, errAlias
	}
	if slices.Contains(reserved, name) {
		return nil, fault.New(fault.Invalid, "this name belongs to Bulwark itself; choose another")
	}
	s := &Service{Tenant: owner, ID: tenant.RandomID(), Name: name, State: Active, Created: d.cfg.Now()}
	ev.Action, ev.Resource = "service.create", "service:"+s.ID
	_, err := d.mutate(ctx, ev, owner, func(tx Tx) error { return tx.Insert(s) })
	if err != nil {
		return nil, err
	}
	return s, nil
}

// SetServiceState suspends a service or lets it go on.
func (d *Directory) SetServiceState(ctx context.Context, ev ledger.Event, owner tenant.ID, id string, state State) error {
	old, err := d.ownService(owner, id)
	if err != nil {
		return err
	}
	changed := *old
	changed.State = state
	ev.Action, ev.Resource = verb(state)+".service", "service:"+id
	_, err = d.mutate(ctx, ev, owner, func(tx Tx) error { return tx.Update(&changed) })
	return err
}

// ResolveService returns the owner's service with the id or alias; those of
// others are NotFound like absent ones.
func (d *Directory) ResolveService(owner tenant.ID, name string) (*Service, error) {
	if s, err := d.ownService(owner, name); err == nil {
		return s, nil
	}
	return d.ServiceByName(owner, name)
}

func (d *Directory) ownService(owner tenant.ID, id string) (*Service, error) {
	s, err := d.Service(id)
	if err != nil || s.Tenant != owner {
		return nil, fault.New(fault.NotFound, "no such service")
	}
	return s, nil
}

// AddClientKey registers a public JWK with which the subject authenticates
// itself. kid is its RFC 7638 thumbprint, which the caller has computed from
// the very same key. Kind Conflict if the subject has it already.
func (d *Directory) AddClientKey(ctx context.Context, ev ledger.Event, owner tenant.ID, s principal.Subject, kid string, public json.RawMessage, expires time.Time) error {
	if s.Kind == principal.Service {
		if _, err := d.ownService(owner, s.ID); err != nil {
			return err
		}
	} else if _, err := d.User(ctx, owner, s.ID); err != nil {
		return err
	}
	k := &ClientKey{Tenant: owner, Subject: s, KID: kid, Public: public, Created: d.cfg.Now(), Expires: expires}
	ev.Action, ev.Resource, ev.Detail = "client_key.add", s.String(), map[string]string{"kid": kid}
	_, err := d.mutate(ctx, ev, owner, func(tx Tx) error { return tx.Insert(k) })
	return err
}

// RemoveClientKey ends a key. Kind NotFound if the subject has none with the kid.
func (d *Directory) RemoveClientKey(ctx context.Context, ev ledger.Event, owner tenant.ID, s principal.Subject, kid string) error {
	k := &ClientKey{Tenant: owner, Subject: s, KID: kid}
	ev.Action, ev.Resource, ev.Detail = "revoke.client_key", s.String(), map[string]string{"kid": kid}
	_, err := d.mutate(ctx, ev, owner, func(tx Tx) error { return tx.Delete(k) })
	return err
}

// GrantAudience lets the owner's service get tokens for the audience, which is
// resolved in the owner's view. A tenant may grant only the audiences of its
// own and the platform's services and of the gateway and the check API; the
// operator's surfaces stay the platform's to give. Kinds Invalid, NotFound.
func (d *Directory) GrantAudience(ctx context.Context, ev ledger.Event, owner tenant.ID, service, audience string, scopes []string, direct bool) error {
	s, err := d.ResolveService(owner, service)
	if err != nil {
		return err
	}
	urn, err := d.ResolveAudience(owner, audience)
	if err != nil {
		return err
	}
	if owner != tenant.Platform && slices.Contains(surfaces, strings.TrimPrefix(urn, d.Audience(""))) &&
		urn != d.Audience("gateway") && urn != d.Audience("authz") {
		return fault.New(fault.Denied, "a tenant's service can be granted the gateway, authz and other services; the rest is the platform's to give")
	}
	g := &AudienceGrant{Tenant: owner, Service: s.ID, Audience: urn, Scopes: scopes, Direct: direct}
	ev.Action, ev.Resource, ev.Detail = "audience.grant", "service:"+s.ID, map[string]string{"audience": urn}
	_, err = d.mutate(ctx, ev, owner, func(tx Tx) error {
		if err := tx.Update(g); err == nil || fault.KindOf(err) != fault.NotFound {
			return err
		}
		return tx.Insert(g)
	})
	return err
}

// RevokeAudience takes a grant back: the service gets no more tokens for the
// audience. What it has lives on for the minutes that tokens live; revoking the
// service as a client ends that too. Kind NotFound.
func (d *Directory) RevokeAudience(ctx context.Context, ev ledger.Event, owner tenant.ID, service, audience string) error {
	s, err := d.ResolveService(owner, service)
	if err != nil {
		return err
	}
	urn, err := d.ResolveAudience(owner, audience)
	if err != nil {
		return err
	}
	ev.Action, ev.Resource, ev.Detail = "audience.revoke", "service:"+s.ID, map[string]string{"audience": urn}
	_, err = d.mutate(ctx, ev, owner, func(tx Tx) error {
		return tx.Delete(&AudienceGrant{Tenant: owner, Service: s.ID, Audience: urn})
	})
	return err
}

// Install lets a platform service act in the tenant until expires (zero: until
// it is removed). Kinds NotFound, Conflict.
func (d *Directory) Install(ctx context.Context, ev ledger.Event, t tenant.ID, service string, scopes []string, expires time.Time) (*Installation, error) {
	s, err := d.ResolveService(tenant.Platform, service)
	if err != nil || t == tenant.Platform {
		return nil, fault.New(fault.NotFound, "no such platform service")
	}
	i := &Installation{Tenant: t, Service: s.ID, Scopes: scopes, Expires: expires, Created: d.cfg.Now()}
	ev.Action, ev.Resource = "installation.create", "service:"+s.ID
	if _, err := d.mutate(ctx, ev, t, func(tx Tx) error { return tx.Insert(i) }); err != nil {
		return nil, err
	}
	return i, nil
}

// Uninstall ends a platform service's right to act in the tenant, at once.
func (d *Directory) Uninstall(ctx context.Context, ev ledger.Event, t tenant.ID, service string) error {
	s, err := d.ResolveService(tenant.Platform, service)
	if err != nil {
		return err
	}
	ev.Action, ev.Resource = "revoke.installation", "service:"+s.ID
	_, err = d.mutate(ctx, ev, t, func(tx Tx) error { return tx.Delete(&Installation{Tenant: t, Service: s.ID}) })
	return err
}

// CreateConnection trusts an external issuer for the tenant's users. A tenant's
// connection takes its keys from the issuer's own discovery document; only the
// operator, at init, may name another place. (issuer, audience) is unique over
// the installation. Kinds Invalid, Conflict.
func (d *Directory) CreateConnection(ctx context.Context, ev ledger.Event, c Connection) (*Connection, error) {
	if !ValidAlias(c.Name) {
		return nil, errAlias
	}
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(c.Issuer) > 512 {
		return nil, fault.New(fault.Invalid, "the issuer must be an https URL without query, fragment or user")
	}
	if c.Audience == "" || len(c.Audience) > 512 || strings.HasPrefix(c.Audience, "urn:bulwark:") {
		return nil, fault.New(fault.Invalid, "name the audience that the issuer writes into its access tokens")
	}
	if c.JWKSURI != "" {
		return nil, fault.New(fault.Denied, "keys come from the issuer's discovery document; a connection cannot name another place")
	}
	switch c.Kind {
	case RFC9068, Okta, Entra, Google:
	default:
		return nil, fault.New(fault.Invalid, "the kind must be at+jwt, okta, entra or google")
	}
	if len(c.Algs) == 0 {
		c.Algs = []string{"RS256"}
	}
	for _, alg := range c.Algs {
		if !slices.Contains([]string{"RS256", "PS256", "ES256", "EdDSA"}, alg) {
			return nil, fault.New(fault.Invalid, "algorithms are RS256, PS256, ES256 and EdDSA")
		}
	}
	c.ID, c.State, c.Created = tenant.RandomID(), Active, d.cfg.Now()
	ev.Action, ev.Resource = "connection.create", "connection:"+c.ID
	if _, err := d.mutate(ctx, ev, c.Tenant, func(tx Tx) error { return tx.Insert(&c) }); err != nil {
		return nil, err
	}
	return &c, nil
}

// SetConnectionState suspends a connection, which refuses its tokens at once,
// or lets it go on.
func (d *Directory) SetConnectionState(ctx context.Context, ev ledger.Event, t tenant.ID, name string, state State) error {
	old, err := d.ConnectionByName(t, name)
	if err != nil {
		return err
	}
	changed := *old
	changed.State = state
	ev.Action, ev.Resource = verb(state)+".connection", "connection:"+old.ID
	_, err = d.mutate(ctx, ev, t, func(tx Tx) error { return tx.Update(&changed) })
	return err
}
