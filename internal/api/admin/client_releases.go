package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"bulwark.example/internal/fault"
)

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
