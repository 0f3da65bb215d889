package admin

import (
	"encoding/json"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

func (s *server) tenantOf(t *directory.Tenant) Tenant {
	out := Tenant{ID: t.Tenant.String(), Name: t.Name, State: string(t.State), Created: t.Created}
	for _, g := range s.Directory.Graphs(t.Tenant) {
		if g.Kind == directory.DefaultGraph { // a system store is nobody's to name
			out.Stores = append(out.Stores, Graph{ID: string(g.ID), Application: g.Application})
		}
	}
	return out
}

func getSelf(s *server, c *call) (answer, error) {
	t, err := s.Directory.Tenant(c.tenant)
	if err != nil {
		return answer{}, err
	}
	return ok(Self{Subject: c.who.Subject.String(), Tenant: s.tenantOf(t)}), nil
}

func createTenant(s *server, c *call) (answer, error) {
	req, err := in[NewTenant](c)
	if err != nil {
		return answer{}, err
	}
	t, err := s.Directory.CreateTenant(c.r.Context(), c.event(), req.Name)
	if err != nil {
		return answer{}, err
	}
	c.record.Take() // committed: what follows is an event of its own
	if err := s.Keys.CreateKEK(principal.With(c.r.Context(), c.who), t.Tenant, t.System); err != nil {
		return answer{}, fault.Wrap(fault.Unavailable, "the tenant exists, its key does not yet; resume the tenant to make it", err)
	}
	return created(s.tenantOf(t)), nil
}

func listTenants(s *server, c *call) (answer, error) {
	return list(c, s.Directory.Tenants(), func(t *directory.Tenant) string { return t.Name }, s.tenantOf)
}

func getTenant(s *server, c *call) (answer, error) {
	t, err := s.Directory.ResolveTenant(c.r.PathValue("tenant"))
	if err != nil {
		return answer{}, err
	}
	c.about("tenant:" + t.Tenant.String())
	return ok(s.tenantOf(t)), nil
}

func suspendTenant(s *server, c *call) (answer, error) {
	t, err := s.Directory.ResolveTenant(c.r.PathValue("tenant"))
	if err != nil {
		return answer{}, err
	}
	return done, s.Directory.SetTenantState(c.r.Context(), c.event(), t.Tenant, directory.Suspended)
}

func resumeTenant(s *server, c *call) (answer, error) {
	t, err := s.Directory.ResolveTenant(c.r.PathValue("tenant"))
	if err != nil {
		return answer{}, err
	}
	if err := s.Keys.CreateKEK(principal.With(c.r.Context(), c.who), t.Tenant, t.System); err != nil {
		return answer{}, err
	}
	return done, s.Directory.SetTenantState(c.r.Context(), c.event(), t.Tenant, directory.Active)
}

func createInvite(s *server, c *call) (answer, error) {
	req, err := in[NewInvite](c)
	if err != nil {
		return answer{}, err
	}
	into := c.tenant
	if req.Tenant != "" {
		t, err := s.Directory.ResolveTenant(req.Tenant)
		if err != nil || (t.Tenant != c.tenant && c.tenant != tenant.Platform) {
			return answer{}, fault.New(fault.NotFound, "no such tenant")
		}
		into = t.Tenant
	}
	code, e, err := s.Directory.Invite(c.r.Context(), c.event(), directory.Inviter{Tenant: c.tenant, Subject: c.who.Subject}, into, req.Role, req.Name)
	if err != nil {
		return answer{}, err
	}
	return created(Invite{ID: e.ID, Code: code, Tenant: into.String(), Role: e.Role, Expires: e.Expires}), nil
}

func enrol(s *server, c *call) (answer, error) {
	req, err := in[Enrol](c)
	if err != nil {
		return answer{}, err
	}
	kid, public, err := publicKey(req.Key)
	if err != nil {
		return answer{}, err
	}
	u, err := s.Directory.Enrol(c.r.Context(), c.event(), req.Code, req.Name, kid, public)
	if err != nil {
		return answer{}, err
	}
	return created(Enrolled{Tenant: u.Tenant.String(), User: u.ID, Name: u.Name, KID: kid}), nil
}

// publicKey reads a public JWK and returns its thumbprint with its canonical
// form. What else the caller wrote into it, a kid too, is dropped.
func publicKey(raw json.RawMessage) (kid string, public json.RawMessage, err error) {
	k, err := jose.ParsePublicKey(raw)
	if err != nil {
		return "", nil, err
	}
	if k.KID, err = k.Thumbprint(); err != nil {
		return "", nil, err
	}
	public, err = json.Marshal(k)
	return k.KID, public, err
}
