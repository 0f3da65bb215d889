package admin

import (
	"context"
	"net/url"
)

// Self tells who the caller is.
func (c *Client) Self(ctx context.Context) (Self, error) { return get[Self](ctx, c, "/self") }

// CreateTenant makes a tenant. For operators.
func (c *Client) CreateTenant(ctx context.Context, in NewTenant) (Tenant, error) {
	return post[Tenant](ctx, c, "/tenants", in)
}

// Tenants lists the tenants by name. For operators.
func (c *Client) Tenants(ctx context.Context, p Paging) (Page[Tenant], error) {
	return pages[Tenant](ctx, c, "/tenants", url.Values{}, p)
}

// Tenant returns the tenant with the id or alias. For operators.
func (c *Client) Tenant(ctx context.Context, name string) (Tenant, error) {
	return get[Tenant](ctx, c, at("/tenants/", name))
}

// SuspendTenant ends all access of a tenant, at once. For operators.
func (c *Client) SuspendTenant(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/tenants/", name, "/suspend"))
}

// ResumeTenant lets a suspended tenant go on. For operators.
func (c *Client) ResumeTenant(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/tenants/", name, "/resume"))
}

// Invite makes a one-use code.
func (c *Client) Invite(ctx context.Context, in NewInvite) (Invite, error) {
	return post[Invite](ctx, c, "/invites", in)
}

// Enrol turns a code into a user with a key. It needs no token.
func (c *Client) Enrol(ctx context.Context, in Enrol) (Enrolled, error) {
	return post[Enrolled](ctx, c, "/enrolments", in)
}

// CreateUser makes a user.
func (c *Client) CreateUser(ctx context.Context, in NewUser) (User, error) {
	return post[User](ctx, c, "/users", in)
}

// Users lists the users by id.
func (c *Client) Users(ctx context.Context, p Paging) (Page[User], error) {
	return pages[User](ctx, c, "/users", url.Values{}, p)
}

// User returns the user with the id or alias, and the user's roles.
func (c *Client) User(ctx context.Context, name string) (User, error) {
	return get[User](ctx, c, at("/users/", name))
}

// SuspendUser ends all access of a user, at once.
func (c *Client) SuspendUser(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/users/", name, "/suspend"))
}

// ResumeUser lets a suspended user go on.
func (c *Client) ResumeUser(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/users/", name, "/resume"))
}

// AssignRole gives a user an admin role.
func (c *Client) AssignRole(ctx context.Context, user string, in Role) error {
	return c.roundtrip(ctx, "POST", at("/users/", user, "/roles"), in, nil)
}

// RevokeRole takes an admin role from a user.
func (c *Client) RevokeRole(ctx context.Context, user, role string) error {
	return c.do(ctx, "DELETE", at("/users/", user, "/roles/", role))
}

// CreateService makes a service of the tenant.
func (c *Client) CreateService(ctx context.Context, in NewService) (Service, error) {
	return post[Service](ctx, c, "/services", in)
}

// Services lists the tenant's services by name.
func (c *Client) Services(ctx context.Context, p Paging) (Page[Service], error) {
	return pages[Service](ctx, c, "/services", url.Values{}, p)
}

// Service returns the tenant's service with the id or alias.
func (c *Client) Service(ctx context.Context, name string) (Service, error) {
	return get[Service](ctx, c, at("/services/", name))
}

// SuspendService ends all access of a service, at once.
func (c *Client) SuspendService(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/services/", name, "/suspend"))
}

// ResumeService lets a suspended service go on.
func (c *Client) ResumeService(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/services/", name, "/resume"))
}

// AddKey registers a service's public key.
func (c *Client) AddKey(ctx context.Context, service string, in NewKey) (Key, error) {
	return post[Key](ctx, c, at("/services/", service, "/keys"), in)
}

// Keys lists a service's public keys by kid.
func (c *Client) Keys(ctx context.Context, service string, p Paging) (Page[Key], error) {
	return pages[Key](ctx, c, at("/services/", service, "/keys"), url.Values{}, p)
}

// RevokeKey ends a service's public key.
func (c *Client) RevokeKey(ctx context.Context, service, kid string) error {
	return c.do(ctx, "DELETE", at("/services/", service, "/keys/", kid))
}

// GrantAudience lets a service get tokens for an audience.
func (c *Client) GrantAudience(ctx context.Context, service string, in Grant) (Grant, error) {
	return post[Grant](ctx, c, at("/services/", service, "/audiences"), in)
}

// RevokeAudience takes a grant back.
func (c *Client) RevokeAudience(ctx context.Context, service, audience string) error {
	return c.do(ctx, "DELETE", at("/services/", service, "/audiences/", audience))
}

// Audiences lists what a service may get tokens for.
func (c *Client) Audiences(ctx context.Context, service string, p Paging) (Page[Grant], error) {
	return pages[Grant](ctx, c, at("/services/", service, "/audiences"), url.Values{}, p)
}

// Install lets a platform service act in the tenant.
func (c *Client) Install(ctx context.Context, in NewInstallation) (Installation, error) {
	return post[Installation](ctx, c, "/installations", in)
}

// Installations lists the platform services that may act in the tenant.
func (c *Client) Installations(ctx context.Context, p Paging) (Page[Installation], error) {
	return pages[Installation](ctx, c, "/installations", url.Values{}, p)
}

// Uninstall ends a platform service's right to act in the tenant, at once.
func (c *Client) Uninstall(ctx context.Context, service string) error {
	return c.do(ctx, "DELETE", at("/installations/", service))
}

// CreateConnection trusts an external issuer.
func (c *Client) CreateConnection(ctx context.Context, in NewConnection) (Connection, error) {
	return post[Connection](ctx, c, "/connections", in)
}

// Connections lists the trusted issuers by name.
func (c *Client) Connections(ctx context.Context, p Paging) (Page[Connection], error) {
	return pages[Connection](ctx, c, "/connections", url.Values{}, p)
}

// SuspendConnection refuses an issuer's tokens, at once.
func (c *Client) SuspendConnection(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/connections/", name, "/suspend"))
}

// ResumeConnection trusts a suspended issuer again.
func (c *Client) ResumeConnection(ctx context.Context, name string) error {
	return c.do(ctx, "POST", at("/connections/", name, "/resume"))
}

// Revoke ends tokens of the tenant before their time.
func (c *Client) Revoke(ctx context.Context, in NewRevocation) error {
	return c.roundtrip(ctx, "POST", "/revocations", in, nil)
}
