// Package transfer brings a store over from a live OpenFGA, by OpenFGA's HTTP API on both sides.
//
// [Import] copies models and tuples and then follows the changes, until an
// application asks us instead. [Compare] puts the same questions to both. Neither
// knows which of its servers is Bulwark: what the one says in JSON goes to the
// other as it is.
package transfer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"bulwark.example/internal/fault"
)

// Doer sends a request; package outgoing makes them.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Store is one store on a server that speaks OpenFGA's HTTP API. It is safe for
// concurrent use if Doer and Token are.
type Store struct {
	URL   string // of the server, without a path
	ID    string
	HTTP  Doer
	Token func(context.Context) (string, error) // nil: the server wants none

	Patience time.Duration // for one answer, to its end; 0: a minute
}

// Key is a tuple as OpenFGA spells it.
type Key struct {
	User      string     `json:"user"`
	Relation  string     `json:"relation"`
	Object    string     `json:"object"`
	Condition *Condition `json:"condition,omitempty"`
}

// String returns "object#relation@user", fit for a terminal whatever the other
// server put into it.
func (k Key) String() string { return printable(k.Object + "#" + k.Relation + "@" + k.User) }

// bare is what identifies the tuple.
func (k Key) bare() Key { return Key{User: k.User, Relation: k.Relation, Object: k.Object} }

// Condition is that of a tuple.
type Condition struct {
	Name    string          `json:"name"`
	Context json.RawMessage `json:"context,omitempty"`
}

// maxAnswer bounds what is read of an answer, in bytes, and maxModels what is
// kept of all models.
const (
	maxAnswer = 16 << 20
	maxModels = 64 << 20
)

// attempts is how often a request that may be repeated is made, and firstWait
// the time before the second one; it doubles.
const (
	attempts  = 6
	firstWait = 200 * time.Millisecond
)

// ask sends a request that may be repeated, as often as the other side has a
// passing trouble.
func (s *Store) ask(ctx context.Context, method, path string, in, out any) error {
	wait := firstWait
	for try := 1; ; try++ {
		_, err := s.once(ctx, method, path, in, out)
		if kind := fault.KindOf(err); err == nil || try == attempts || kind != fault.Unavailable && kind != fault.Exhausted {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// once sends a request below the store, or with a path from the root on, and
// returns the headers of the answer.
func (s *Store) once(ctx context.Context, method, path string, in, out any) (http.Header, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, "a request does not encode", err)
		}
		body = bytes.NewReader(raw)
	}
	if path != "/stores" {
		path = "/stores/" + url.PathEscape(s.ID) + path
	}
	waits, cancel := context.WithTimeout(ctx, cmp.Or(s.Patience, time.Minute))
	defer cancel()
	r, err := http.NewRequestWithContext(waits, method, strings.TrimSuffix(s.URL, "/")+path, body)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the address of the server is not a URL", err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if s.Token != nil {
		token, err := s.Token(ctx)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.HTTP.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fault.Wrap(fault.KindOf(err), s.host()+" cannot be reached: "+fault.Public(err), err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil || len(raw) > maxAnswer {
		return nil, fault.Wrap(fault.Unavailable, "an answer of "+s.host()+" did not arrive whole", err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, s.refusal(resp.StatusCode, raw)
	}
	if out == nil {
		return resp.Header, nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "what "+s.host()+" answers is not OpenFGA's API", err)
	}
	return resp.Header, nil
}

// host names the server in messages.
func (s *Store) host() string {
	if u, err := url.Parse(s.URL); err == nil && u.Host != "" {
		return u.Host
	}
	return "the server"
}

// refusal turns an answer into an error with the server's words.
func (s *Store) refusal(status int, body []byte) error {
	kind := fault.Unavailable
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		kind = fault.Invalid
	case http.StatusUnauthorized, http.StatusForbidden:
		kind = fault.Denied
	case http.StatusNotFound:
		kind = fault.NotFound
	case http.StatusConflict:
		kind = fault.Conflict
	case http.StatusTooManyRequests:
		kind = fault.Exhausted
	}
	var said struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	text := s.host() + " answered " + strconv.Itoa(status)
	if json.Unmarshal(body, &said) == nil && said.Message != "" {
		text += ": " + printable(said.Message)
	}
	if said.Code == "write_failed_due_to_invalid_input" { // OpenFGA's 400 for what stands already
		kind = fault.Conflict
	}
	return fault.New(kind, text)
}

// printable keeps another server's words from writing on the terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > 400 {
		s = strings.ToValidUTF8(s[:400], "") + "…"
	}
	return s
}

// Info returns the store's name and the server's clock.
func (s *Store) Info(ctx context.Context) (name string, now time.Time, err error) {
	var out struct {
		Name string `json:"name"`
	}
	head, err := s.once(ctx, http.MethodGet, "", nil, &out)
	if err != nil {
		return "", time.Time{}, err
	}
	now, _ = http.ParseTime(head.Get("Date")) // zero without one
	return out.Name, now, nil
}

// Create makes the store, which gets an id.
func (s *Store) Create(ctx context.Context, name string) error {
	var out struct {
		ID string `json:"id"`
	}
	if _, err := s.once(ctx, http.MethodPost, "/stores", map[string]string{"name": name}, &out); err != nil {
		return err
	}
	if out.ID == "" {
		return fault.New(fault.Unavailable, "what "+s.host()+" answers is not OpenFGA's API")
	}
	s.ID = out.ID
	return nil
}

// Delete deletes the store with all that it holds.
func (s *Store) Delete(ctx context.Context) error {
	_, err := s.once(ctx, http.MethodDelete, "", nil, nil)
	return err
}

// model is one version, as JSON but for its id.
type model struct {
	ID         string          `json:"id,omitempty"`
	Schema     string          `json:"schema_version"`
	Types      json.RawMessage `json:"type_definitions"`
	Conditions json.RawMessage `json:"conditions,omitempty"`
}

// circle notices a server that leads through the same pages again. It keeps one
// token, a later one after twice as many steps: Brent's way.
type circle struct {
	mark        string
	steps, most int
}

// closed reports whether the token was there before.
func (c *circle) closed(token string) bool {
	if token == c.mark {
		return true
	}
	if c.steps++; c.steps > c.most {
		c.mark, c.steps, c.most = token, 0, 2*c.most+1
	}
	return false
}

func (s *Store) errCircle() error {
	return fault.New(fault.Unavailable, s.host()+" gives the same pages again and again")
}

// modelsPage keeps a page of models, each of which may have 256 KiB, four times
// that in JSON, below maxAnswer.
const modelsPage = 10

// models returns the versions of the model, the newest first, at most limit.
func (s *Store) models(ctx context.Context, limit int) ([]model, error) {
	var all []model
	var way circle
	size := 0
	for token := ""; ; {
		var out struct {
			Models []model `json:"authorization_models"`
			Next   string  `json:"continuation_token"`
		}
		q := url.Values{"page_size": {strconv.Itoa(min(limit, modelsPage))}}
		if token != "" {
			q.Set("continuation_token", token)
		}
		if err := s.ask(ctx, http.MethodGet, "/authorization-models?"+q.Encode(), nil, &out); err != nil {
			return nil, err
		}
		for _, m := range out.Models {
			size += len(m.ID) + len(m.Schema) + len(m.Types) + len(m.Conditions)
		}
		if size > maxModels {
			return nil, fault.New(fault.TooLarge, s.host()+" has more models than can be kept: 64 MiB together")
		}
		all = append(all, out.Models...)
		if out.Next == "" || len(out.Models) == 0 || len(all) >= limit {
			return all[:min(limit, len(all))], nil
		}
		if way.closed(out.Next) {
			return nil, s.errCircle()
		}
		token = out.Next
	}
}

// putModel writes a version and returns the id that it has here.
func (s *Store) putModel(ctx context.Context, m model) (string, error) {
	var out struct {
		ID string `json:"authorization_model_id"`
	}
	m.ID = ""
	if string(m.Conditions) == "null" {
		m.Conditions = nil
	}
	err := s.ask(ctx, http.MethodPost, "/authorization-models", m, &out)
	return out.ID, err
}

// pageSize is the largest page that OpenFGA gives, and the most tuples that one
// write takes.
const pageSize = 100

// read returns one page of tuples.
func (s *Store) read(ctx context.Context, token string) (keys []Key, next string, err error) {
	var out struct {
		Tuples []struct {
			Key Key `json:"key"`
		} `json:"tuples"`
		Next string `json:"continuation_token"`
	}
	in := map[string]any{"page_size": pageSize}
	if token != "" {
		in["continuation_token"] = token
	}
	if err := s.ask(ctx, http.MethodPost, "/read", in, &out); err != nil {
		return nil, "", err
	}
	for _, t := range out.Tuples {
		keys = append(keys, t.Key)
	}
	return keys, out.Next, nil
}

// tuples calls each for every page of the store's tuples.
func (s *Store) tuples(ctx context.Context, each func([]Key) error) error {
	var way circle
	for token := ""; ; {
		keys, next, err := s.read(ctx, token)
		if err != nil {
			return err
		}
		if err := each(keys); err != nil {
			return err
		}
		if next == "" {
			return nil
		}
		if way.closed(next) {
			return s.errCircle()
		}
		token = next
	}
}

// change is one entry of a store's history.
type change struct {
	Key       Key    `json:"tuple_key"`
	Operation string `json:"operation"`
}

const (
	written = "TUPLE_OPERATION_WRITE"
	deleted = "TUPLE_OPERATION_DELETE"
)

// changes returns what came after the token, or, without one, since a time.
func (s *Store) changes(ctx context.Context, token string, since time.Time) (list []change, next string, err error) {
	var out struct {
		Changes []change `json:"changes"`
		Next    string   `json:"continuation_token"`
	}
	q := url.Values{"page_size": {strconv.Itoa(pageSize)}}
	if token != "" {
		q.Set("continuation_token", token)
	} else if !since.IsZero() {
		q.Set("start_time", since.UTC().Format(time.RFC3339))
	}
	err = s.ask(ctx, http.MethodGet, "/changes?"+q.Encode(), nil, &out)
	return out.Changes, out.Next, err
}

// write brings tuples about. What stands already and what is gone already is as
// it shall be.
func (s *Store) write(ctx context.Context, writes, deletes []Key) error {
	in := map[string]any{}
	if len(writes) > 0 {
		in["writes"] = map[string]any{"tuple_keys": writes, "on_duplicate": "ignore"}
	}
	if len(deletes) > 0 {
		bare := make([]Key, len(deletes))
		for i, k := range deletes {
			bare[i] = k.bare()
		}
		in["deletes"] = map[string]any{"tuple_keys": bare, "on_missing": "ignore"}
	}
	return s.ask(ctx, http.MethodPost, "/write", in, nil)
}

// Answer is what a server says to a question.
type Answer struct {
	Allowed bool   `json:"allowed"`
	Error   string `json:"error,omitempty"` // why there is no answer

	Resolution string `json:"-"` // in the server's words, where it was asked for
}

// String says yes, no or why not.
func (a Answer) String() string {
	switch {
	case a.Error != "":
		return "no answer: " + a.Error
	case a.Allowed:
		return "yes"
	}
	return "no"
}

// Check puts a question. That the question is refused is an answer; that the
// server cannot be asked is an error.
func (s *Store) Check(ctx context.Context, q Question) (Answer, error) { return s.check(ctx, q, false) }

// check is Check, with the reason if trace says so.
func (s *Store) check(ctx context.Context, q Question, trace bool) (Answer, error) {
	in := map[string]any{"tuple_key": q.Key.bare()}
	if len(q.Context) > 0 {
		in["context"] = q.Context
	}
	if trace {
		in["trace"] = true
	}
	var out struct {
		Allowed    bool   `json:"allowed"`
		Resolution string `json:"resolution"`
	}
	err := s.ask(ctx, http.MethodPost, "/check", in, &out)
	switch kind := fault.KindOf(err); {
	case err == nil:
		return Answer{Allowed: out.Allowed, Resolution: out.Resolution}, nil
	case kind == fault.Invalid, kind == fault.Conflict:
		return Answer{Error: fault.Public(err)}, nil
	case errors.Is(err, ctx.Err()) && ctx.Err() != nil:
		return Answer{}, ctx.Err()
	}
	return Answer{}, fault.Wrap(fault.KindOf(err), fmt.Sprintf("%s could not be asked %s: %s", s.host(), q.Key, fault.Public(err)), err)
}
