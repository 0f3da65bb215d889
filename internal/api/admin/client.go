package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/web"
)

// Doer sends a request; package outgoing makes them. The client makes none: it
// opens no connection of its own.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// ClientConfig says where the server is and how to reach it. Token returns an
// access token for the audience admin; it is asked before every request but
// [Client.Enrol], and may be nil for that one alone.
type ClientConfig struct {
	URL   string // of the API port, without a path
	HTTP  Doer
	Token func(context.Context) (string, error)
}

// Client calls the admin API. Its methods are the rows of the table. Their
// errors are the server's faults with the server's public text, and
// [web.DecisionID] names the audited decision; a server that does not answer,
// or answers in a strange form, gives kind [fault.Unavailable]. It is safe for
// concurrent use if Doer and Token are.
type Client struct{ cfg ClientConfig }

// NewClient returns a client.
func NewClient(cfg ClientConfig) *Client {
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	return &Client{cfg}
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 16 << 20

// roundtrip sends in, unless nil, and reads the answer into out, unless nil.
func (c *Client) roundtrip(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fault.Wrap(fault.Invalid, "the request does not encode", err)
		}
		body = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.cfg.URL+Base+path, body)
	if err != nil {
		return fault.Wrap(fault.Invalid, "the server's address is not a URL", err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if path != "/enrolments" {
		token, err := c.cfg.Token(ctx)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.cfg.HTTP.Do(r)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "the server cannot be reached", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil || len(answer) > maxAnswer {
		return fault.Wrap(fault.Unavailable, "the answer did not arrive whole", err)
	}
	switch {
	case resp.StatusCode >= 400:
		return web.ReadProblem(resp.StatusCode, answer)
	case resp.StatusCode/100 != 2:
		return fault.New(fault.Unavailable, "the server answered with status "+strconv.Itoa(resp.StatusCode))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fault.Wrap(fault.Unavailable, "the answer is not one of this API", err)
	}
	return nil
}

func post[Out any](ctx context.Context, c *Client, path string, in any) (out Out, err error) {
	err = c.roundtrip(ctx, http.MethodPost, path, in, &out)
	return out, err
}

func get[Out any](ctx context.Context, c *Client, path string) (out Out, err error) {
	err = c.roundtrip(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

func (c *Client) do(ctx context.Context, method, path string) error {
	return c.roundtrip(ctx, method, path, nil, nil)
}

func pages[Out any](ctx context.Context, c *Client, path string, q url.Values, p Paging) (Page[Out], error) {
	for name, values := range q {
		if values[0] == "" {
			delete(q, name)
		}
	}
	if p.Limit != 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	if p.Cursor != "" {
		q.Set("cursor", p.Cursor)
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return get[Page[Out]](ctx, c, path)
}

// at spells a path; odd parts are values.
func at(parts ...string) string {
	var b strings.Builder
	for i, p := range parts {
		if i%2 == 1 {
			p = url.PathEscape(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

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

// Application returns what is in force.
func (c *Client) Application(ctx context.Context, application string) (Application, error) {
	return get[Application](ctx, c, at("/applications/", application))
}

// ProposeRelease stores a release that waits for a second person. For policy
// authors of the platform.
func (c *Client) ProposeRelease(ctx context.Context, application string, in NewRelease) (Release, error) {
	return post[Release](ctx, c, at("/applications/", application, "/releases"), in)
}

// Releases lists an application's releases, the newest first.
func (c *Client) Releases(ctx context.Context, application string, p Paging) (Page[Release], error) {
	return pages[Release](ctx, c, at("/applications/", application, "/releases"), url.Values{}, p)
}

// Release returns one release with what it changes and how its tests go. The
// beginning of its id is enough, from eight characters on.
func (c *Client) Release(ctx context.Context, application, id string) (Release, error) {
	return get[Release](ctx, c, at("/applications/", application, "/releases/", id))
}

// ApproveRelease signs the whole digest of a release, which somebody else
// proposed. For approvers of the platform.
func (c *Client) ApproveRelease(ctx context.Context, application, digest string) (Release, error) {
	return post[Release](ctx, c, at("/applications/", application, "/releases/", digest, "/approve"), nil)
}

// RefuseRelease ends a proposal; its proposer withdraws it so.
func (c *Client) RefuseRelease(ctx context.Context, application, digest string) (Release, error) {
	return post[Release](ctx, c, at("/applications/", application, "/releases/", digest, "/refuse"), nil)
}

// ActivateRelease puts an approved release in force, for a wave of tenants or for
// all.
func (c *Client) ActivateRelease(ctx context.Context, application, id string, in Activation) (Release, error) {
	return post[Release](ctx, c, at("/applications/", application, "/releases/", id, "/activate"), in)
}

// RollBack ends a wave, or brings back what was in force before.
func (c *Client) RollBack(ctx context.Context, application string) (Application, error) {
	return post[Application](ctx, c, at("/applications/", application, "/rollback"), nil)
}

// Rehearse streams what a release or a proposal would change to found. The last
// line is the sum.
func (c *Client) Rehearse(ctx context.Context, application string, in NewRehearsal, found func(Finding) error) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return fault.Wrap(fault.Invalid, "the request does not encode", err)
	}
	resp, err := c.open(ctx, http.MethodPost, at("/applications/", application, "/rehearsals"), "application/json", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	dec := json.NewDecoder(resp.Body)
	for {
		var f Finding
		switch err := dec.Decode(&f); {
		case err != nil:
			return fault.Wrap(fault.Unavailable, "the rehearsal broke off; try again", err)
		case f.Error != "":
			return fault.New(fault.Unavailable, f.Error)
		}
		if err := found(f); err != nil || f.Sum != nil {
			return err
		}
	}
}

// Models lists the versions of the applications' models.
func (c *Client) Models(ctx context.Context, p Paging) (Page[Model], error) {
	return pages[Model](ctx, c, "/models", url.Values{}, p)
}

// Model returns one version with its source.
func (c *Client) Model(ctx context.Context, id string) (Model, error) {
	return get[Model](ctx, c, at("/models/", id))
}

// Policies returns an application's guard policies in force.
func (c *Client) Policies(ctx context.Context, application string) (Policies, error) {
	return get[Policies](ctx, c, at("/applications/", application, "/policies"))
}

// WriteTuples changes tuples of a default store, all or none.
func (c *Client) WriteTuples(ctx context.Context, in TupleChange) (TuplesChanged, error) {
	return post[TuplesChanged](ctx, c, "/tuples", in)
}

// Tuples lists tuples of a default store.
func (c *Client) Tuples(ctx context.Context, f TupleFilter, p Paging) (Page[Tuple], error) {
	return pages[Tuple](ctx, c, "/tuples", url.Values{
		"application": {f.Application}, "object": {f.Object}, "relation": {f.Relation}, "user": {f.Subject},
	}, p)
}

// Backup returns an archive of one of the tenant's stores, which [archive.NewReader]
// reads. The caller closes it; what comes is whole if the archive says so.
func (c *Client) Backup(ctx context.Context, store string) (io.ReadCloser, error) {
	resp, err := c.open(ctx, http.MethodGet, at("/stores/", store, "/backup"), "", nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Restore fills a store from an archive.
func (c *Client) Restore(ctx context.Context, archive io.Reader, into RestoreInto) (out Restored, err error) {
	q := url.Values{}
	if into.Name != "" {
		q.Set("name", into.Name)
	}
	if into.Application != "" {
		q.Set("application", into.Application)
	}
	resp, err := c.open(ctx, http.MethodPost, "/stores/restore?"+q.Encode(), archiveType, archive)
	if err != nil {
		return out, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, fault.Wrap(fault.Unavailable, "the answer is not one of this API", err)
	}
	return out, nil
}

// open sends a request whose body or answer is a stream. An answer that refuses
// is an error.
func (c *Client) open(ctx context.Context, method, path, kind string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.cfg.URL+Base+path, body)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the server's address is not a URL", err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	token, err := c.cfg.Token(ctx)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.cfg.HTTP.Do(r)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the server cannot be reached", err)
	}
	if resp.StatusCode/100 != 2 {
		defer func() { _ = resp.Body.Close() }()
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what came says enough
		return nil, web.ReadProblem(resp.StatusCode, answer)
	}
	return resp, nil
}

// Explain decides for a subject of the tenant and says why.
func (c *Client) Explain(ctx context.Context, in Question) (Explained, error) {
	return post[Explained](ctx, c, "/explain", in)
}

// Events lists the tenant's audit events, the newest first.
func (c *Client) Events(ctx context.Context, f EventFilter, p Paging) (Page[Event], error) {
	return pages[Event](ctx, c, "/audit/events", f.query(), p)
}

func (f EventFilter) query() url.Values {
	when := func(t time.Time) []string {
		if t.IsZero() {
			return []string{""}
		}
		return []string{t.UTC().Format(time.RFC3339Nano)}
	}
	return url.Values{
		"class": {f.Class}, "action": {f.Action}, "subject": {f.Subject}, "resource": {f.Resource}, "decision": {f.Decision},
		"reason": {f.Reason}, "request": {f.Request}, "since": when(f.Since), "until": when(f.Until),
	}
}

// Export writes the tenant's events to w as NDJSON, in the order of the log. With
// follow it goes on until ctx ends, which is then no error.
func (c *Client) Export(ctx context.Context, f EventFilter, follow bool, w io.Writer) error {
	q := f.query()
	for name, values := range q {
		if values[0] == "" {
			delete(q, name)
		}
	}
	if follow {
		q.Set("follow", "true")
	}
	for {
		more, err := c.exportPart(ctx, q, w)
		if follow && ctx.Err() != nil {
			return nil
		}
		if err != nil || !more {
			return err
		}
	}
}

// exportPart reads one answer and sets where the next one begins.
func (c *Client) exportPart(ctx context.Context, q url.Values, w io.Writer) (more bool, err error) {
	resp, err := c.open(ctx, http.MethodGet, "/audit/export?"+q.Encode(), "", nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return false, fault.Wrap(fault.Unavailable, "the export broke off; what was written is whole lines and not all", err)
	}
	next := resp.Trailer.Get(nextTrailer)
	if next == "" {
		return false, fault.New(fault.Unavailable, "the export broke off; what was written is whole lines and not all")
	}
	q.Set("from", next)
	return resp.Trailer.Get(moreTrailer) == "true", nil
}

// Prove returns the self-contained proof of an event, as JSON. `bulwark audit
// verify-proof` checks it with the log's public key alone.
func (c *Client) Prove(ctx context.Context, event string) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, at("/audit/proofs/", event))
}

// Checkpoint returns the log's newest signed head.
func (c *Client) Checkpoint(ctx context.Context) (Checkpoint, error) {
	return get[Checkpoint](ctx, c, "/audit/checkpoint")
}

// Revoke ends tokens of the tenant before their time.
func (c *Client) Revoke(ctx context.Context, in NewRevocation) error {
	return c.roundtrip(ctx, "POST", "/revocations", in, nil)
}
