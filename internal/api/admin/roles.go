package admin

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// ObjectRole is a role on objects of a type: what an assignment of it writes. Not
// to be confused with a [Role], which is one of the tenant's administration.
type ObjectRole struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	Relations   []string `json:"relations"`
	Description string   `json:"description,omitempty"`
	Own         bool     `json:"own,omitempty"` // the tenant's own, not the application's
}

// ObjectRoles are the roles that can be assigned in the tenant's store of an
// application, the relations that nobody may hold together on one object, and, by
// type, the relations of which the tenant may make roles of its own.
type ObjectRoles struct {
	Roles     []ObjectRole        `json:"roles"`
	Exclusive []authz.Exclusive   `json:"exclusive"`
	Custom    map[string][]string `json:"custom"`
}

// NewObjectRole is a role of the tenant's own.
type NewObjectRole struct {
	Application string   `json:"application,omitempty"`
	Relations   []string `json:"relations"`
	Description string   `json:"description,omitempty"`
}

// Assignment gives a role on an object to a subject, or takes it away. It may end.
type Assignment struct {
	Application string    `json:"application,omitempty"`
	Role        string    `json:"role"`
	Object      string    `json:"object"`
	Subject     string    `json:"user"`
	Expires     time.Time `json:"expires,omitzero"`
}

// OwnPolicies are the tenant's own guard policies (Cedar) for an application,
// beside the operator's. They take the place of those that were.
type OwnPolicies struct {
	ID      string             `json:"id,omitempty"`
	Files   []authz.PolicyFile `json:"files"`
	Created time.Time          `json:"created,omitzero"`
}

func listObjectRoles(s *server, c *call) (answer, error) {
	q, _, err := c.query("application")
	if err != nil {
		return answer{}, err
	}
	store, err := s.storeOf(c, q.Get("application"))
	if err != nil {
		return answer{}, err
	}
	of, own, err := s.Authz.Roles(c.r.Context(), store)
	if err != nil {
		return answer{}, err
	}
	c.about("store:" + string(store))
	out := ObjectRoles{Roles: []ObjectRole{}, Exclusive: slices.Clip(of.Exclusive), Custom: of.Custom}
	if out.Exclusive == nil {
		out.Exclusive = []authz.Exclusive{}
	}
	if out.Custom == nil {
		out.Custom = map[string][]string{}
	}
	for _, r := range of.Roles {
		out.Roles = append(out.Roles, ObjectRole{r.Name, r.Type, r.Relations, r.Description, false})
	}
	for _, r := range own {
		out.Roles = append(out.Roles, ObjectRole{r.Name, r.Type, r.Relations, r.Description, true})
	}
	return ok(out), nil
}

func defineObjectRole(s *server, c *call) (answer, error) {
	req, err := in[NewObjectRole](c)
	if err != nil {
		return answer{}, err
	}
	store, err := s.storeOf(c, req.Application)
	if err != nil {
		return answer{}, err
	}
	if err := oneLine(req.Description); err != nil {
		return answer{}, err
	}
	r := authz.Role{Name: c.r.PathValue("role"), Type: c.r.PathValue("type"), Relations: req.Relations, Description: req.Description}
	change := s.change(c, store, "store:"+string(store))
	change.Event.Detail = map[string]string{"role": r.Name, "type": r.Type, "relations": strings.Join(r.Relations, " ")}
	if err := s.Authz.DefineRole(c.r.Context(), change, r); err != nil {
		return answer{}, err
	}
	return ok(ObjectRole{r.Name, r.Type, r.Relations, r.Description, true}), nil
}

func deleteObjectRole(s *server, c *call) (answer, error) {
	q, _, err := c.query("application")
	if err != nil {
		return answer{}, err
	}
	store, err := s.storeOf(c, q.Get("application"))
	if err != nil {
		return answer{}, err
	}
	typ, name := c.r.PathValue("type"), c.r.PathValue("role")
	change := s.change(c, store, "store:"+string(store))
	change.Event.Detail = map[string]string{"role": name, "type": typ}
	return done, s.Authz.DeleteRole(c.r.Context(), change, typ, name)
}

func assignObjectRole(s *server, c *call) (answer, error) {
	return s.assignment(c, (*authz.Engine).Assign)
}

func revokeObjectRole(s *server, c *call) (answer, error) {
	return s.assignment(c, (*authz.Engine).Revoke)
}

// assignment assigns or revokes.
func (s *server) assignment(c *call, do func(*authz.Engine, context.Context, ledger.Change, authz.Assignment) (relation.Revision, error)) (answer, error) {
	req, err := in[Assignment](c)
	if err != nil {
		return answer{}, err
	}
	store, err := s.storeOf(c, req.Application)
	if err != nil {
		return answer{}, err
	}
	end, err := ending(req.Expires)
	if err != nil {
		return answer{}, err
	}
	if end != 0 && end <= s.Now().UnixNano() {
		return answer{}, fault.New(fault.Invalid, "the assignment has expired already; name a time to come")
	}
	if req.Subject, err = s.subject(c, req.Subject); err != nil {
		return answer{}, err
	}
	_, err = do(s.Authz, c.r.Context(), s.change(c, store, "store:"+string(store)), authz.Assignment{
		Role: req.Role, Object: req.Object, Subject: req.Subject, Expires: end,
	})
	return ok(req), err
}

func listAssignments(s *server, c *call) (answer, error) {
	q, p, err := c.query("application", "object", "role")
	if err != nil {
		return answer{}, err
	}
	if !relation.ValidObject(q.Get("object")) {
		return answer{}, fault.New(fault.Invalid, "object must be type:id")
	}
	store, err := s.storeOf(c, q.Get("application"))
	if err != nil {
		return answer{}, err
	}
	after, err := parseCursor(p.Cursor)
	if err != nil {
		return answer{}, err
	}
	all, err := s.Authz.Assignments(c.r.Context(), store, q.Get("object"))
	if err != nil {
		return answer{}, err
	}
	c.about(q.Get("object"))
	key := func(a authz.Assignment) string { return a.Subject + "\n" + a.Role } // a subject has no white space
	all = slices.DeleteFunc(all, func(a authz.Assignment) bool {
		return q.Has("role") && q.Get("role") != "" && a.Role != q.Get("role") || after != "" && key(a) <= after
	})
	return page(all, p.Limit, key, func(a authz.Assignment) Assignment {
		out := Assignment{Role: a.Role, Object: a.Object, Subject: a.Subject}
		if a.Expires != 0 {
			out.Expires = time.Unix(0, a.Expires).UTC()
		}
		return out
	}), nil
}

func publishOwnPolicies(s *server, c *call) (answer, error) {
	req, err := in[OwnPolicies](c)
	if err != nil {
		return answer{}, err
	}
	if req.Files == nil || req.ID != "" || !req.Created.IsZero() { // whoever forgets them does not mean to remove them all
		return answer{}, fault.New(fault.Invalid, "send files alone; an empty list removes all own policies")
	}
	store, err := s.storeOf(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	rec, err := s.Authz.PublishOwnPolicies(c.r.Context(), s.change(c, store, "store:"+string(store)), req.Files)
	return ok(OwnPolicies{ID: rec.ID, Files: req.Files, Created: rec.Created}), err
}

func readOwnPolicies(s *server, c *call) (answer, error) {
	store, err := s.storeOf(c, c.r.PathValue("application"))
	if err != nil {
		return answer{}, err
	}
	c.about("store:" + string(store))
	rec, err := s.Authz.OwnPolicies(c.r.Context(), store)
	out := OwnPolicies{ID: rec.ID, Files: rec.Files, Created: rec.Created}
	if out.Files == nil {
		out.Files = []authz.PolicyFile{}
	}
	return ok(out), err
}

// asked adds a parameter to a path, if it has a value.
func asked(path, name, value string) string {
	if value == "" {
		return path
	}
	return path + "?" + url.Values{name: {value}}.Encode()
}

// ObjectRoles lists the roles on objects of an application; "" is the only one.
func (c *Client) ObjectRoles(ctx context.Context, application string) (ObjectRoles, error) {
	return get[ObjectRoles](ctx, c, asked("/roles", "application", application))
}

// DefineObjectRole makes or changes a role of the tenant's own.
func (c *Client) DefineObjectRole(ctx context.Context, typ, name string, in NewObjectRole) (out ObjectRole, err error) {
	err = c.roundtrip(ctx, http.MethodPut, at("/roles/", typ, "/", name), in, &out)
	return out, err
}

// DeleteObjectRole removes a role of the tenant's own. What was assigned stays.
func (c *Client) DeleteObjectRole(ctx context.Context, application, typ, name string) error {
	return c.do(ctx, http.MethodDelete, asked(at("/roles/", typ, "/", name), "application", application))
}

// Assign gives a role on an object to a subject.
func (c *Client) Assign(ctx context.Context, in Assignment) (Assignment, error) {
	return post[Assignment](ctx, c, "/assignments", in)
}

// Unassign takes a role on an object from a subject.
func (c *Client) Unassign(ctx context.Context, in Assignment) (Assignment, error) {
	return post[Assignment](ctx, c, "/assignments/revoke", in)
}

// Assignments lists who was assigned which role on an object; "" is any role.
func (c *Client) Assignments(ctx context.Context, application, object, role string, p Paging) (Page[Assignment], error) {
	return pages[Assignment](ctx, c, "/assignments", url.Values{"application": {application}, "object": {object}, "role": {role}}, p)
}

// PublishOwnPolicies puts the tenant's own guard policies in force, in the place of
// all that were.
func (c *Client) PublishOwnPolicies(ctx context.Context, application string, files []authz.PolicyFile) (out OwnPolicies, err error) {
	err = c.roundtrip(ctx, http.MethodPut, at("/applications/", application, "/own-policies"), OwnPolicies{Files: files}, &out)
	return out, err
}

// OwnPolicies returns the tenant's own guard policies in force.
func (c *Client) OwnPolicies(ctx context.Context, application string) (OwnPolicies, error) {
	return get[OwnPolicies](ctx, c, at("/applications/", application, "/own-policies"))
}
