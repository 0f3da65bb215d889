package sdk

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // as encoding/json, but for repeated members and the case of names: it is exact
)

// atLeastHeader carries a revision token: from the gateway to the service, and from
// the service to the check API.
const atLeastHeader = "Bulwark-At-Least"

// AssertionHeader carries the gateway's assertion.
const AssertionHeader = "Bulwark-Assertion"

const (
	typAssertion = "bulwark-assertion+jwt"
	typAccess    = "at+jwt"
	maxToken     = 16 << 10 // bytes
	maxHeader    = 2 << 10  // bytes of a token's header
	maxActors    = 3
)

// VerifierConfig says who speaks to this service and what the service is called.
type VerifierConfig struct {
	Issuer   string // URL of Bulwark's API, as its discovery document spells it
	Audience string // this service's own URN: urn:bulwark:<env>:svc:<id>

	// Routes lists the ids of the gateway's routes that lead to the wrapped
	// handlers. Empty takes any route to this service. It says nothing about
	// callers with a token for this service: they come without a route.
	Routes []string

	// Introspect asks Bulwark about each access token that is taken otherwise,
	// with this service's own client, and refuses what was ended before its
	// time: an answer is kept for 5 seconds. When Bulwark cannot be asked, such
	// callers get 503. Nil verifies offline: a token whose session, root or
	// subject was revoked then serves here until its exp, 5 minutes at most.
	//
	// Assertions are never asked about. They serve until their exp, 60 seconds
	// at most.
	Introspect *Client

	HTTP *http.Client     // fetches key sets, without redirects; nil: a client with TLS 1.3 and a time limit
	Now  func() time.Time // nil: time.Now
}

// Verifier verifies what reaches a service.
type Verifier struct {
	cfg        VerifierConfig
	assertions *keySet
	tokens     *keySet
	ended      *introspection // nil: offline
}

// NewVerifier returns a verifier. It fetches nothing yet. The error tells what
// the configuration misses.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	base, err := base(cfg.Issuer)
	if err != nil {
		return nil, err
	}
	urn := strings.Split(cfg.Audience, ":")
	if len(urn) != 5 || urn[0] != "urn" || urn[1] != "bulwark" || urn[2] == "" || urn[3] != "svc" || urn[4] == "" {
		return nil, errors.New("bulwark: Audience must be this service's own URN, urn:bulwark:<env>:svc:<id>")
	}
	cfg.Routes = slices.Clone(cfg.Routes)
	cfg.HTTP = direct(cfg.HTTP)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	v := &Verifier{
		cfg:        cfg,
		assertions: &keySet{url: base + "/.well-known/bulwark-assertion/jwks.json", http: cfg.HTTP, now: cfg.Now},
		tokens:     &keySet{url: base + "/oauth2/jwks", http: cfg.HTTP, now: cfg.Now},
	}
	if c := cfg.Introspect; c != nil {
		// Another issuer must not be shown our callers' tokens, and another
		// service would be told that none of them is good.
		if c.cfg.Issuer != cfg.Issuer || c.cfg.ClientID != urn[4] {
			return nil, errors.New("bulwark: Introspect must be this service's own client: of the same Issuer, with the id in Audience")
		}
		v.ended = &introspection{client: c, now: cfg.Now, answers: map[[sha256.Size]byte]*answer{}}
	}
	return v, nil
}

// base is what paths of Bulwark's API are appended to.
func base(issuer string) (string, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.ContainsAny(issuer, "?#") {
		return "", errors.New("bulwark: Issuer must be the https URL of Bulwark's API")
	}
	return strings.TrimSuffix(issuer, "/"), nil
}

// Errors of [Verifier.Verify]. Both mean that nothing is known about the asker.
var (
	ErrUnauthenticated = errors.New("bulwark: the request does not come from the gateway or a caller with a token for this service")
	ErrUnavailable     = errors.New("bulwark: what the request is verified with cannot be had from Bulwark now")
)

// Middleware lets through what [Verifier.Verify] takes, with the [Principal] in
// the context, and answers everything else with 401, or with 503 when Bulwark
// is needed for the answer and cannot be asked.
//
// The gateway's plain headers (Bulwark-Tenant and the like) prove nothing.
// Handlers that read them anyway get what was verified, whatever was sent.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := v.Verify(r)
		switch {
		case errors.Is(err, ErrUnavailable):
			w.Header().Set("Retry-After", "5")
			http.Error(w, "try again later", http.StatusServiceUnavailable)
		case err != nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "not authenticated", http.StatusUnauthorized)
		default:
			r = r.WithContext(context.WithValue(r.Context(), contextKey{}, p))
			r.Header = verifiedHeader(r.Header, p)
			next.ServeHTTP(w, r)
		}
	})
}

// verifiedHeader returns a copy of h in which the headers that speak in
// Bulwark's name say what p says, as the gateway writes them.
func verifiedHeader(h http.Header, p *Principal) http.Header {
	const own, requestID = "Bulwark", "Bulwark-Request-Id" // the id is for logs, and proves nothing by its nature
	h = h.Clone()
	for name := range h {
		if len(name) >= len(own) && strings.EqualFold(name[:len(own)], own) && name != AssertionHeader && name != requestID {
			delete(h, name)
		}
	}
	h.Set("Bulwark-Tenant", p.Tenant)
	h.Set("Bulwark-Subject", p.Subject)
	if len(p.Actors) > 0 {
		h.Set("Bulwark-Actor", p.Actors[0])
	}
	if len(p.Scopes) > 0 {
		h.Set("Bulwark-Scope", strings.Join(p.Scopes, " "))
	}
	if p.AtLeast != "" {
		h.Set(atLeastHeader, p.AtLeast)
	}
	return h
}

// Verify returns who asks. An assertion must be for this service, this method
// and this very path, on a route of Config.Routes; a bearer token must be for
// this service, and not ended where Config.Introspect is set. A request with
// both, or with either twice, is refused.
//
// The error wraps [ErrUnauthenticated] or [ErrUnavailable]. It holds no part of
// a token.
func (v *Verifier) Verify(r *http.Request) (*Principal, error) {
	assertion, bearer := r.Header.Values(AssertionHeader), r.Header.Values("Authorization")
	switch {
	case len(assertion) == 1 && len(bearer) == 0:
		c, err := v.claims(r.Context(), assertion[0], typAssertion, v.assertions)
		if err != nil {
			return nil, err
		}
		if c.Method != r.Method || c.Path != pathOnWire(r) || (len(v.cfg.Routes) > 0 && !slices.Contains(v.cfg.Routes, c.Route)) {
			return nil, fmt.Errorf("%w: the assertion is for another request", ErrUnauthenticated)
		}
		p, err := c.principal(assertion[0], typAssertion)
		if seen := r.Header.Values(atLeastHeader); err == nil && len(seen) == 1 {
			p.AtLeast = seen[0]
		}
		return p, err
	case len(bearer) == 1 && len(assertion) == 0:
		scheme, token, _ := strings.Cut(bearer[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, fmt.Errorf("%w: the credential is no bearer token", ErrUnauthenticated)
		}
		c, err := v.claims(r.Context(), token, typAccess, v.tokens)
		if err != nil {
			return nil, err
		}
		c.Route, c.Relation, c.Object = "", "", "" // not the gateway's word
		p, err := c.principal(token, typAccess)
		if err != nil {
			return nil, err
		}
		if err := v.stillGood(r.Context(), token); err != nil {
			return nil, err
		}
		return p, nil
	case len(bearer)+len(assertion) == 0:
		return nil, fmt.Errorf("%w: there is no credential", ErrUnauthenticated)
	}
	return nil, fmt.Errorf("%w: there is more than one credential", ErrUnauthenticated)
}

// stillGood asks about a token that verified: strangers make us ask nothing.
func (v *Verifier) stillGood(ctx context.Context, token string) error {
	if v.ended == nil {
		return nil
	}
	active, err := v.ended.active(ctx, token)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !active {
		return fmt.Errorf("%w: the token was ended before its time", ErrUnauthenticated)
	}
	return nil
}

// pathOnWire returns the path as it was sent, escapes and all, which is what an
// assertion states. A handler before this one may have cut a prefix off r.URL.
func pathOnWire(r *http.Request) string {
	if r.RequestURI == "" { // no server of net/http made the request
		return r.URL.EscapedPath()
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return path
}

// claims are those of docs/spec/tokens.md. aud is a string: a list is refused
// by the decoder.
type claims struct {
	Issuer    string          `json:"iss"`
	Audience  string          `json:"aud"`
	Subject   string          `json:"sub"`
	Tenant    string          `json:"tenant"`
	ClientID  string          `json:"client_id"`
	Scope     string          `json:"scope"`
	Act       *actor          `json:"act"`
	ACR       string          `json:"acr"`
	AMR       []string        `json:"amr"`
	AuthTime  int64           `json:"auth_time"`
	JTI       string          `json:"jti"`
	IssuedAt  int64           `json:"iat"`
	NotBefore int64           `json:"nbf"`
	Expires   int64           `json:"exp"`
	Bound     json.RawMessage `json:"cnf"`
	Method    string          `json:"htm"`
	Path      string          `json:"path"`
	Route     string          `json:"route"`
	Relation  string          `json:"relation"`
	Object    string          `json:"object"`
}

type actor struct {
	Subject string `json:"sub"`
	Act     *actor `json:"act"`
}

// skew between the clocks of Bulwark and of this service.
const skew = 30 * time.Second

// claims verifies a token of the type with a key of the set.
func (v *Verifier) claims(ctx context.Context, token, typ string, keys *keySet) (*claims, error) {
	kid, err := keyID(token, typ)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	key, err := keys.key(ctx, kid)
	if errors.Is(err, errNoKey) {
		return nil, fmt.Errorf("%w: the token's key is not published", ErrUnauthenticated)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, errMalformed)
	}
	raw, err := jws.Verify(key)
	if err != nil {
		return nil, fmt.Errorf("%w: the signature is wrong", ErrUnauthenticated)
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("%w: the claims are not Bulwark's", ErrUnauthenticated)
	}
	if err := v.accept(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	return &c, nil
}

var errMalformed = errors.New("the token is malformed")

// forbidden are the header members that would change what a token means or
// where its key comes from.
var forbidden = [...]string{"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"}

// keyID reads a token's header, unverified, and returns the id of its key.
// Nothing is fetched for a token that is refused here.
func keyID(token, typ string) (kid string, err error) {
	head, _, _ := strings.Cut(token, ".")
	if len(token) > maxToken || len(head) > maxHeader || strings.Count(token, ".") != 2 {
		return "", errMalformed
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(head)
	if err != nil {
		return "", errMalformed
	}
	var members map[string]json.RawMessage
	var header struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
		KID string `json:"kid"`
	}
	if json.Unmarshal(raw, &members) != nil || json.Unmarshal(raw, &header) != nil || header.KID == "" {
		return "", errMalformed
	}
	for _, name := range forbidden {
		if _, ok := members[name]; ok {
			return "", errors.New("the token's header says " + name)
		}
	}
	if header.Alg != string(jose.ES256) {
		return "", errors.New("the token's algorithm is not ES256")
	}
	// RFC 7515 section 4.1.9: a media type, whose prefix may be left out.
	if got := strings.ToLower(header.Typ); strings.TrimPrefix(got, "application/") != typ {
		return "", errors.New("the token is of another type")
	}
	return header.KID, nil
}

// accept holds verified claims to this service and to now.
func (v *Verifier) accept(c *claims) error {
	now := v.cfg.Now()
	late := now.Add(skew)
	switch {
	case c.Issuer != v.cfg.Issuer:
		return errors.New("the issuer is another")
	case c.Audience != v.cfg.Audience:
		return errors.New("the audience is another")
	case c.Expires == 0 || !now.Before(time.Unix(c.Expires, 0)):
		return errors.New("it has expired")
	case c.IssuedAt == 0 || time.Unix(c.IssuedAt, 0).After(late) || time.Unix(c.NotBefore, 0).After(late):
		return errors.New("it is not valid yet")
	case c.Tenant == "" || c.Subject == "" || c.JTI == "":
		return errors.New("it names no tenant, no subject or not itself")
	case c.Bound != nil:
		return errors.New("it is bound to a key, and a proof of that key is not taken here")
	}
	return nil
}

func (c *claims) principal(token, typ string) (*Principal, error) {
	p := &Principal{
		Tenant: c.Tenant, Subject: c.Subject, ClientID: c.ClientID, Scopes: strings.Fields(c.Scope),
		ACR: c.ACR, AMR: c.AMR, Route: c.Route, Relation: c.Relation, Object: c.Object,
		ID: c.JTI, Expires: time.Unix(c.Expires, 0), token: func() string { return token }, typ: typ,
	}
	if c.AuthTime != 0 {
		p.AuthTime = time.Unix(c.AuthTime, 0)
	}
	for a := c.Act; a != nil; a = a.Act {
		if len(p.Actors) == maxActors {
			return nil, fmt.Errorf("%w: the actor chain is too long", ErrUnauthenticated)
		}
		p.Actors = append(p.Actors, a.Subject)
	}
	return p, nil
}
