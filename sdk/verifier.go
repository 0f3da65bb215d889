package sdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// AssertionHeader carries the gateway's assertion.
const AssertionHeader = "Bulwark-Assertion"

const (
	typAssertion = "bulwark-assertion+jwt"
	typAccess    = "at+jwt"
	maxToken     = 16 << 10 // bytes
	maxActors    = 3
)

// VerifierConfig says who speaks to this service and what the service is called.
type VerifierConfig struct {
	Issuer   string // URL of Bulwark's API, as its discovery document spells it
	Audience string // this service's own URN: urn:bulwark:<env>:svc:<id>

	// Routes lists the ids of the gateway's routes that lead to the wrapped
	// handlers. Empty takes any route to this service.
	Routes []string

	HTTP *http.Client     // fetches key sets; nil: a client with TLS 1.3 and a time limit
	Now  func() time.Time // nil: time.Now
}

// Verifier verifies what reaches a service.
type Verifier struct {
	cfg        VerifierConfig
	assertions *keySet
	tokens     *keySet
}

// NewVerifier returns a verifier. It fetches nothing yet. The error tells what
// the configuration misses.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("bulwark: Issuer must be the https URL of Bulwark's API")
	}
	if !strings.HasPrefix(cfg.Audience, "urn:bulwark:") || !strings.Contains(cfg.Audience, ":svc:") {
		return nil, errors.New("bulwark: Audience must be this service's own URN, urn:bulwark:<env>:svc:<id>")
	}
	if cfg.HTTP == nil {
		cfg.HTTP = defaultHTTP()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	base := strings.TrimSuffix(cfg.Issuer, "/")
	return &Verifier{
		cfg:        cfg,
		assertions: &keySet{url: base + "/.well-known/bulwark-assertion/jwks.json", http: cfg.HTTP, now: cfg.Now},
		tokens:     &keySet{url: base + "/oauth2/jwks", http: cfg.HTTP, now: cfg.Now},
	}, nil
}

// Errors of [Verifier.Verify]. Both mean that nothing is known about the asker.
var (
	ErrUnauthenticated = errors.New("bulwark: the request does not come from the gateway or a caller with a token for this service")
	ErrUnavailable     = errors.New("bulwark: the keys to verify with cannot be fetched")
)

// Middleware lets through what [Verifier.Verify] takes, with the [Principal] in
// the context, and answers everything else with 401, or with 503 when keys
// cannot be fetched.
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
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, p)))
		}
	})
}

// Verify returns who asks. An assertion must be for this service, this method
// and this very path, on a route of Config.Routes; a bearer token must be for
// this service. A request with both, or with either twice, is refused.
func (v *Verifier) Verify(r *http.Request) (*Principal, error) {
	assertion, bearer := r.Header.Values(AssertionHeader), r.Header.Values("Authorization")
	switch {
	case len(assertion) == 1 && len(bearer) == 0:
		c, err := v.claims(r.Context(), assertion[0], typAssertion, v.assertions)
		if err != nil {
			return nil, err
		}
		if c.Method != r.Method || c.Path != r.URL.EscapedPath() || (len(v.cfg.Routes) > 0 && !slices.Contains(v.cfg.Routes, c.Route)) {
			return nil, fmt.Errorf("%w: the assertion is for another request", ErrUnauthenticated)
		}
		return c.principal(assertion[0], typAssertion)
	case len(bearer) == 1 && len(assertion) == 0:
		scheme, token, _ := strings.Cut(bearer[0], " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, ErrUnauthenticated
		}
		c, err := v.claims(r.Context(), token, typAccess, v.tokens)
		if err != nil {
			return nil, err
		}
		c.Route, c.Relation, c.Object = "", "", "" // not the gateway's word
		return c.principal(token, typAccess)
	}
	return nil, ErrUnauthenticated
}

// claims are those of docs/spec/tokens.md. aud is a string: a list is refused
// by the decoder.
type claims struct {
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	Subject  string   `json:"sub"`
	Tenant   string   `json:"tenant"`
	ClientID string   `json:"client_id"`
	Scope    string   `json:"scope"`
	Act      *actor   `json:"act"`
	ACR      string   `json:"acr"`
	AMR      []string `json:"amr"`
	AuthTime int64    `json:"auth_time"`
	JTI      string   `json:"jti"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	Method   string   `json:"htm"`
	Path     string   `json:"path"`
	Route    string   `json:"route"`
	Relation string   `json:"relation"`
	Object   string   `json:"object"`
}

type actor struct {
	Subject string `json:"sub"`
	Act     *actor `json:"act"`
}

// skew between the clocks of Bulwark and of this service.
const skew = 30 * time.Second

func (v *Verifier) claims(ctx context.Context, token, typ string, keys *keySet) (*claims, error) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return nil, fmt.Errorf("%w: the token is malformed", ErrUnauthenticated)
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, fmt.Errorf("%w: the token is malformed", ErrUnauthenticated)
	}
	header := jws.Signatures[0].Protected
	if got, _ := header.ExtraHeaders[jose.HeaderType].(string); !strings.EqualFold(strings.TrimPrefix(strings.ToLower(got), "application/"), typ) {
		return nil, fmt.Errorf("%w: the token is of another type", ErrUnauthenticated)
	}
	key, err := keys.key(ctx, header.KeyID)
	if errors.Is(err, errNoKey) {
		return nil, fmt.Errorf("%w: the token's key is not published", ErrUnauthenticated)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	raw, err := jws.Verify(key)
	if err != nil {
		return nil, fmt.Errorf("%w: the signature is wrong", ErrUnauthenticated)
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("%w: the claims are not Bulwark's", ErrUnauthenticated)
	}
	now := v.cfg.Now()
	switch {
	case c.Issuer != v.cfg.Issuer:
		err = errors.New("the issuer is another")
	case c.Audience != v.cfg.Audience:
		err = errors.New("the audience is another")
	case c.Expires == 0 || !now.Before(time.Unix(c.Expires, 0)):
		err = errors.New("it has expired")
	case time.Unix(c.IssuedAt, 0).After(now.Add(skew)):
		err = errors.New("it is not valid yet")
	case c.Tenant == "" || c.Subject == "":
		err = errors.New("it names no tenant or no subject")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	return &c, nil
}

func (c *claims) principal(token, typ string) (*Principal, error) {
	p := &Principal{
		Tenant: c.Tenant, Subject: c.Subject, ClientID: c.ClientID, Scopes: strings.Fields(c.Scope),
		ACR: c.ACR, AMR: c.AMR, Route: c.Route, Relation: c.Relation, Object: c.Object,
		ID: c.JTI, Expires: time.Unix(c.Expires, 0), token: token, typ: typ,
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
