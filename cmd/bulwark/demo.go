package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"bulwark.example/internal/jose"
)

// demo is dev's upstream: it verifies the assertion that it was handed, as any
// service would (the sdk does it in one line), and shows it.
type demo struct {
	name     string
	audience string
	key      func(kid string) (jose.PublicKey, bool)
	now      func() time.Time
}

// seen is what the demo upstream answers.
type seen struct {
	Service   string          `json:"service"`
	Method    string          `json:"method"`
	Path      string          `json:"path"`
	Tenant    string          `json:"tenant"`
	Subject   string          `json:"subject"`
	Relation  string          `json:"relation,omitempty"`
	Object    string          `json:"object,omitempty"`
	RequestID string          `json:"request_id"`
	Assertion json.RawMessage `json:"assertion"`         // the verified claims
	Raw       string          `json:"bulwark_assertion"` // as it arrived, to try exchange with; no real service shows it
	Headers   http.Header     `json:"headers"`           // everything that arrived
	Body      string          `json:"body,omitempty"`
}

// ServeHTTP answers 401 to whatever does not come from the gateway.
func (d *demo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	claims, err := d.verify(r)
	if err != nil {
		http.Error(w, "this service answers to Bulwark's gateway only", http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<10))
	if err != nil {
		http.Error(w, "the body did not arrive", http.StatusBadRequest)
		return
	}
	text := func(name string) string { s, _, _ := claims.Text(name); return s } // absent reads as empty
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	_ = out.Encode(seen{ // the client may be gone
		Service: d.name, Method: r.Method, Path: r.URL.EscapedPath(),
		Tenant: text("tenant"), Subject: text("sub"), Relation: text("relation"), Object: text("object"),
		RequestID: r.Header.Get("Bulwark-Request-Id"), Assertion: claims.Raw(), Raw: r.Header.Get("Bulwark-Assertion"), Headers: r.Header, Body: string(body),
	})
}

var errAssertion = errors.New("the assertion is not for this request")

func (d *demo) verify(r *http.Request) (jose.Claims, error) {
	values := r.Header.Values("Bulwark-Assertion")
	if len(values) != 1 {
		return jose.Claims{}, errAssertion
	}
	u, err := jose.Peek(values[0])
	if err != nil || !u.Header.Is("bulwark-assertion+jwt") {
		return jose.Claims{}, errAssertion
	}
	key, ok := d.key(u.Header.KID)
	if !ok {
		return jose.Claims{}, errAssertion
	}
	claims, err := jose.Verify(values[0], key, []jose.Alg{jose.ES256})
	if err != nil {
		return jose.Claims{}, err
	}
	aud, single, err := claims.Audience()
	exp, ok, errExp := claims.Time("exp")
	method, _, errMethod := claims.Text("htm")
	path, _, errPath := claims.Text("path")
	if err := errors.Join(err, errExp, errMethod, errPath); err != nil {
		return jose.Claims{}, err
	}
	if !single || aud[0] != d.audience || !ok || !d.now().Before(exp) || method != r.Method || path != r.URL.EscapedPath() {
		return jose.Claims{}, errAssertion
	}
	return claims, nil
}
