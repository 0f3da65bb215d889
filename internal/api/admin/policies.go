package admin

import (
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

func publishPolicies(s *server, c *call) (answer, error) {
	req, err := in[NewPolicies](c)
	if err != nil {
		return answer{}, err
	}
	if req.Files == nil { // whoever forgets them does not mean to remove them all
		return answer{}, fault.New(fault.Invalid, "files is missing; an empty list removes all policies")
	}
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	system, err := s.Directory.SystemGraph(tenant.Platform)
	if err != nil {
		return answer{}, err
	}
	id, _, err := s.Authz.PublishPolicies(c.r.Context(), s.change(c, system, "application:"+app), app, req.Files, req.Claims)
	if err != nil {
		return answer{}, err
	}
	out := policiesOf(s.Authz, app)
	if out.ID != id { // none, or another's came into force since
		out = Policies{ID: id, Application: app, Files: req.Files, Claims: req.Claims}
	}
	return ok(out), nil
}

func readPolicies(s *server, c *call) (answer, error) {
	app, err := s.application(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	c.about("application:" + app)
	return ok(policiesOf(s.Authz, app)), nil
}

// policiesOf returns what is in force; without any, no files and no id.
func policiesOf(e *authz.Engine, app string) Policies {
	rec, _ := e.Policies(app)
	out := Policies{ID: rec.ID, Application: app, Files: rec.Files, Claims: rec.Claims, Created: rec.Created}
	if out.Files == nil {
		out.Files = []authz.PolicyFile{}
	}
	return out
}
