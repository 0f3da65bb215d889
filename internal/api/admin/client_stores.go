package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"bulwark.example/internal/fault"
)

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

// Explain decides for a subject of the tenant and says why.
func (c *Client) Explain(ctx context.Context, in Question) (Explained, error) {
	return post[Explained](ctx, c, "/explain", in)
}
