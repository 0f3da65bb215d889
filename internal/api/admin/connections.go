package admin

import "bulwark.example/internal/directory"

func connectionOf(v *directory.Connection) Connection {
	return Connection{
		ID: v.ID, Name: v.Name, Issuer: v.Issuer, Audience: v.Audience,
		Kind: string(v.Kind), Algs: v.Algs, State: string(v.State), Created: v.Created,
	}
}

func createConnection(s *server, c *call) (answer, error) {
	req, err := in[NewConnection](c)
	if err != nil {
		return answer{}, err
	}
	if err := oneLine(req.Issuer, req.Audience); err != nil {
		return answer{}, err
	}
	v, err := s.Directory.CreateConnection(c.r.Context(), c.event(), directory.Connection{
		Tenant: c.tenant, Name: req.Name, Issuer: req.Issuer, Audience: req.Audience,
		Kind: directory.ConnectionKind(req.Kind), Algs: req.Algs,
	})
	if err != nil {
		return answer{}, err
	}
	return created(connectionOf(v)), nil
}

func listConnections(s *server, c *call) (answer, error) {
	return list(c, s.Directory.Connections(c.tenant), func(v *directory.Connection) string { return v.Name }, connectionOf)
}

func suspendConnection(s *server, c *call) (answer, error) {
	return setConnection(s, c, directory.Suspended)
}

func resumeConnection(s *server, c *call) (answer, error) {
	return setConnection(s, c, directory.Active)
}

func setConnection(s *server, c *call, state directory.State) (answer, error) {
	return done, s.Directory.SetConnectionState(c.r.Context(), c.event(), c.tenant, c.r.PathValue("connection"), state)
}
