package admin

import (
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
)

func (s *server) serviceOf(v *directory.Service) Service {
	return Service{ID: v.ID, Name: v.Name, State: string(v.State), Audience: s.Directory.ServiceAudience(v.ID), Created: v.Created}
}

func createService(s *server, c *call) (answer, error) {
	req, err := in[NewService](c)
	if err != nil {
		return answer{}, err
	}
	v, err := s.Directory.CreateService(c.r.Context(), c.event(), c.tenant, req.Name)
	if err != nil {
		return answer{}, err
	}
	return created(s.serviceOf(v)), nil
}

func listServices(s *server, c *call) (answer, error) {
	return list(c, s.Directory.Services(c.tenant), func(v *directory.Service) string { return v.Name }, s.serviceOf)
}

// service finds the service that the path names by id or alias, in the own tenant.
func (s *server) service(c *call) (*directory.Service, error) {
	return s.Directory.ResolveService(c.tenant, c.r.PathValue("service"))
}

func getService(s *server, c *call) (answer, error) {
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	c.about("service:" + v.ID)
	return ok(s.serviceOf(v)), nil
}

func suspendService(s *server, c *call) (answer, error) {
	return setService(s, c, directory.Suspended)
}
func resumeService(s *server, c *call) (answer, error) { return setService(s, c, directory.Active) }

func setService(s *server, c *call, state directory.State) (answer, error) {
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	return done, s.Directory.SetServiceState(c.r.Context(), c.event(), c.tenant, v.ID, state)
}

func addKey(s *server, c *call) (answer, error) {
	req, err := in[NewKey](c)
	if err != nil {
		return answer{}, err
	}
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	kid, public, err := publicKey(req.Key)
	if err != nil {
		return answer{}, err
	}
	now := s.Now()
	if !req.Expires.IsZero() && !req.Expires.After(now) {
		return answer{}, fault.New(fault.Invalid, "the key would be expired already")
	}
	who := principal.Subject{Kind: principal.Service, ID: v.ID}
	if err := s.Directory.AddClientKey(c.r.Context(), c.event(), c.tenant, who, kid, public, req.Expires); err != nil {
		return answer{}, err
	}
	k, err := s.Directory.ClientKey(who, kid)
	if err != nil {
		return answer{}, err
	}
	return created(keyOf(k)), nil
}

func keyOf(k *directory.ClientKey) Key {
	return Key{KID: k.KID, Key: k.Public, Created: k.Created, Expires: k.Expires}
}

func listKeys(s *server, c *call) (answer, error) {
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	c.about("service:" + v.ID)
	all := s.Directory.ClientKeys(principal.Subject{Kind: principal.Service, ID: v.ID})
	return list(c, all, func(k *directory.ClientKey) string { return k.KID }, keyOf)
}

func revokeKey(s *server, c *call) (answer, error) {
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	who := principal.Subject{Kind: principal.Service, ID: v.ID}
	return done, s.Directory.RemoveClientKey(c.r.Context(), c.event(), c.tenant, who, c.r.PathValue("kid"))
}

func grantAudience(s *server, c *call) (answer, error) {
	req, err := in[Grant](c)
	if err != nil {
		return answer{}, err
	}
	if err := scopes(req.Scopes); err != nil {
		return answer{}, err
	}
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	urn, err := s.Directory.ResolveAudience(c.tenant, req.Audience)
	if err != nil {
		return answer{}, err
	}
	if err := s.Directory.GrantAudience(c.r.Context(), c.event(), c.tenant, v.ID, urn, req.Scopes, req.Direct); err != nil {
		return answer{}, err
	}
	return created(Grant{Audience: urn, Scopes: req.Scopes, Direct: req.Direct}), nil
}

func revokeAudience(s *server, c *call) (answer, error) {
	return done, s.Directory.RevokeAudience(c.r.Context(), c.event(), c.tenant, c.r.PathValue("service"), c.r.PathValue("audience"))
}

func listAudiences(s *server, c *call) (answer, error) {
	v, err := s.service(c)
	if err != nil {
		return answer{}, err
	}
	c.about("service:" + v.ID)
	return list(c, s.Directory.Grants(v.ID), func(g *directory.AudienceGrant) string { return g.Audience },
		func(g *directory.AudienceGrant) Grant {
			return Grant{Audience: g.Audience, Scopes: g.Scopes, Direct: g.Direct}
		})
}

func installationOf(i *directory.Installation) Installation {
	return Installation{Service: i.Service, Scopes: i.Scopes, Expires: i.Expires, Created: i.Created}
}

func install(s *server, c *call) (answer, error) {
	req, err := in[NewInstallation](c)
	if err != nil {
		return answer{}, err
	}
	if err := scopes(req.Scopes); err != nil {
		return answer{}, err
	}
	if !req.Expires.IsZero() && !req.Expires.After(s.Now()) {
		return answer{}, fault.New(fault.Invalid, "the installation would be expired already")
	}
	i, err := s.Directory.Install(c.r.Context(), c.event(), c.tenant, req.Service, req.Scopes, req.Expires)
	if err != nil {
		return answer{}, err
	}
	return created(installationOf(i)), nil
}

func listInstallations(s *server, c *call) (answer, error) {
	return list(c, s.Directory.Installations(c.tenant), func(i *directory.Installation) string { return i.Service }, installationOf)
}

func uninstall(s *server, c *call) (answer, error) {
	return done, s.Directory.Uninstall(c.r.Context(), c.event(), c.tenant, c.r.PathValue("service"))
}
