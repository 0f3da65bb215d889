package admin

import (
	"bulwark.example/internal/authz"
)

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
