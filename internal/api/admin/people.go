package admin

import (
	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/principal"
)

func userOf(u *directory.User) User {
	return User{ID: u.ID, Name: u.Name, State: string(u.State), Connection: u.Connection, External: u.External, Created: u.Created}
}

func createUser(s *server, c *call) (answer, error) {
	req, err := in[NewUser](c)
	if err != nil {
		return answer{}, err
	}
	if err := oneLine(req.External); err != nil {
		return answer{}, err
	}
	u, err := s.Directory.CreateUser(c.r.Context(), c.event(), c.tenant, req.Name, req.Connection, req.External)
	if err != nil {
		return answer{}, err
	}
	return created(userOf(u)), nil
}

func listUsers(s *server, c *call) (answer, error) {
	_, p, err := c.query()
	if err != nil {
		return answer{}, err
	}
	after, err := parseCursor(p.Cursor)
	if err != nil {
		return answer{}, err
	}
	all, err := s.Directory.Users(c.r.Context(), c.tenant, after, p.Limit+1)
	if err != nil {
		return answer{}, err
	}
	return page(all, p.Limit, func(u *directory.User) string { return u.ID }, userOf), nil
}

// user finds the user that the path names by id or alias, in the own tenant.
func (s *server) user(c *call) (*directory.User, error) {
	return s.Directory.ResolveUser(c.r.Context(), c.tenant, c.r.PathValue("user"))
}

func getUser(s *server, c *call) (answer, error) {
	u, err := s.user(c)
	if err != nil {
		return answer{}, err
	}
	c.about("user:" + u.ID)
	out := userOf(u)
	system, err := s.Directory.SystemGraph(c.tenant)
	if err != nil {
		return answer{}, err
	}
	held, err := s.Authz.Read(c.r.Context(), system, authz.Filter{
		Object: directory.SystemObject(c.tenant), Subject: principal.Subject{Kind: principal.User, ID: u.ID}.String(),
	}, authz.MaxPage, "")
	if err != nil {
		return answer{}, err
	}
	for _, t := range held.Tuples {
		out.Roles = append(out.Roles, t.Relation)
	}
	return ok(out), nil
}

func suspendUser(s *server, c *call) (answer, error) {
	return setUser(s, c, directory.Suspended)
}
func resumeUser(s *server, c *call) (answer, error) { return setUser(s, c, directory.Active) }

func setUser(s *server, c *call, state directory.State) (answer, error) {
	u, err := s.user(c)
	if err != nil {
		return answer{}, err
	}
	return done, s.Directory.SetUserState(c.r.Context(), c.event(), c.tenant, u.ID, state)
}

func assignRole(s *server, c *call) (answer, error) {
	req, err := in[Role](c)
	if err != nil {
		return answer{}, err
	}
	return done, s.Directory.AssignRole(c.r.Context(), c.event(), c.tenant, c.r.PathValue("user"), req.Role)
}

func revokeRole(s *server, c *call) (answer, error) {
	return done, s.Directory.UnassignRole(c.r.Context(), c.event(), c.tenant, c.r.PathValue("user"), c.r.PathValue("role"))
}
