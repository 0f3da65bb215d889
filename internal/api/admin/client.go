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
