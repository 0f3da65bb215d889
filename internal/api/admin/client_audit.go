package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"time"

	"bulwark.example/internal/fault"
)

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
