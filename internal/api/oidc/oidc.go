// Package oidc is the OAuth 2.0 protocol of the token service: discovery, key sets, token, introspection, revocation.
//
// Who gets which token is decided in package sts; this package reads requests
// strictly, lets luikyv/go-oidc v0.23.0 run the token endpoint's protocol, and
// writes answers. There is one signing path: sts signs, the engine hands the
// finished token out as an opaque one. The engine has no key, so it can neither
// sign nor verify anything (WithSigner of v0.23.0 writes ES256 signatures in
// DER form, which no verifier takes; nothing here meets that code).
//
// # Guards around the engine
//
// Every default of the engine that permits is closed. The test named after
// each guard proves it.
//
//  1. Signing: the engine's key set is an error (TestEngineHasNoKey); sts signs,
//     and verifies a probe with the published set at the start.
//  2. The exchange callback does not learn who the client is: the decision is
//     made in the grant handler, with the client that sts authenticated
//     (TestExchangeRefusals).
//  3. The engine does not carry audience into aud, and its resource list is
//     static: sts writes the claims, resource is refused (TestClaims,
//     TestExchangeRefusals).
//  4. Exchange without client authentication, on by default, is off, and the
//     engine knows a client only while sts has authenticated it for this very
//     request (TestEngineAloneGivesNothing).
//  5. Replay protection, off by default and called before exp and aud are
//     checked: sts remembers (client, jti) after all checks; the engine's hook
//     refuses (TestClientAssertions, TestEngineAloneGivesNothing).
//  6. Load-then-save without compare-and-swap, and no detection of reuse: no
//     code, refresh token or device code exists here (TestGrantsOffered).
//  7. The engine's grant and token storage is empty and takes nothing; it is no
//     zero value, which the engine would replace by a storage in memory
//     (TestEngineKeepsNothing). Introspection and revocation, which it can do
//     only on stored grants, are answered from sts: for a token of somebody
//     else it would say access_denied, where RFC 7662 section 2.2 wants
//     "active": false (TestIntrospection).
//  8. Client assertions with two audiences or without iat, which it accepts,
//     are refused: sts authenticates, the engine never sees the assertion
//     (TestClientAssertions).
//  9. Only what was checked reaches the engine: a new request with the checked
//     parameters, no header but the content type (TestEngineSeesCheckedFormOnly).
//     scope stays out too: sts narrows it, and "openid" is no scope here, so
//     that the engine never makes an ID token (TestScopes).
//  10. What the engine answers is compared: an answer of success without the
//     token that sts just issued is an internal error (TestAnswerIsOurs).
//  11. Discovery, key sets and all other routes of the engine are not mounted
//     (TestDiscoveryAdvertisesWhatWorks, TestNothingElseIsServed).
package oidc

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/web"
)

// The paths, as discovery names them.
const (
	PathDiscovery     = "/.well-known/openid-configuration"
	PathJWKS          = "/oauth2/jwks"
	PathToken         = "/oauth2/token"
	PathIntrospect    = "/oauth2/introspect"
	PathRevoke        = "/oauth2/revoke"
	PathAssertionJWKS = "/.well-known/bulwark-assertion/jwks.json"
)

// maxBody bounds a request, in bytes: a subject token of 16 KiB, an assertion
// and the rest fit.
const maxBody = 64 << 10

// Config is what the protocol needs.
type Config struct {
	Issuer string      // URL without path, the sts's own
	STS    *sts.Issuer // nil on a node that only publishes key sets
	Keys   *sts.Keys
	Logger *slog.Logger
}

// Server answers the protocol's requests. It is safe for concurrent use.
type Server struct {
	cfg    Config
	mux    *web.Mux
	engine *engine
}

// New returns a server. Kind Invalid for a configuration that cannot work.
func New(cfg Config) (*Server, error) {
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fault.New(fault.Invalid, "the issuer must be an https URL without a path, such as https://id.example.com")
	}
	if cfg.Keys == nil || cfg.Logger == nil {
		return nil, fault.New(fault.Invalid, "the token protocol is not configured completely")
	}
	s := &Server{cfg: cfg}
	s.mux = web.NewMux(web.Config{Logger: cfg.Logger, MaxBody: maxBody, Timeout: 15 * time.Second, Refuse: refuse})
	s.mux.Handle("GET "+PathJWKS, s.keySet(cfg.Keys.JWKS))
	s.mux.Handle("GET "+PathAssertionJWKS, s.keySet(cfg.Keys.AssertionJWKS))
	if cfg.STS == nil {
		return s, nil
	}
	if s.engine, err = newEngine(cfg.Issuer, cfg.STS); err != nil {
		return nil, err
	}
	s.mux.Handle("GET "+PathDiscovery, s.discovery)
	s.mux.Handle("POST "+PathToken, s.token)
	s.mux.Handle("POST "+PathIntrospect, s.introspect)
	s.mux.Handle("POST "+PathRevoke, s.revoke)
	return s, nil
}

// ServeHTTP answers one request. Mount it at /oauth2/ and at the two
// well-known paths.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// metadata is the discovery document (OpenID Connect Discovery 1.0, RFC 8414):
// what works here, and nothing else. There is no authorization endpoint, so the
// list of response types is empty.
type metadata struct {
	Issuer             string   `json:"issuer"`
	TokenEndpoint      string   `json:"token_endpoint"`
	JWKSURI            string   `json:"jwks_uri"`
	IntrospectEndpoint string   `json:"introspection_endpoint"`
	RevokeEndpoint     string   `json:"revocation_endpoint"`
	GrantTypes         []string `json:"grant_types_supported"`
	ResponseTypes      []string `json:"response_types_supported"`
	AuthMethods        []string `json:"token_endpoint_auth_methods_supported"`
	AuthAlgs           []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectMethods  []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectAlgs     []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
	RevokeMethods      []string `json:"revocation_endpoint_auth_methods_supported"`
	RevokeAlgs         []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
}

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request) error {
	var algs []string
	for _, a := range sts.ClientAlgs() {
		algs = append(algs, string(a))
	}
	methods := []string{"private_key_jwt"}
	cacheable(w)
	return web.Send(w, http.StatusOK, metadata{
		Issuer: s.cfg.Issuer, TokenEndpoint: s.cfg.Issuer + PathToken, JWKSURI: s.cfg.Issuer + PathJWKS,
		IntrospectEndpoint: s.cfg.Issuer + PathIntrospect, RevokeEndpoint: s.cfg.Issuer + PathRevoke,
		GrantTypes: grantTypes(), ResponseTypes: []string{}, AuthMethods: methods, AuthAlgs: algs,
		IntrospectMethods: methods, IntrospectAlgs: algs, RevokeMethods: methods, RevokeAlgs: algs,
	})
}

func (s *Server) keySet(set func() (jose.Set, error)) web.Handler {
	return func(w http.ResponseWriter, _ *http.Request) error {
		keys, err := set()
		if err != nil {
			return err
		}
		cacheable(w)
		return web.Send(w, http.StatusOK, keys)
	}
}

// cacheable lets clients keep public metadata for five minutes, which is less
// than any key is published before it signs.
func cacheable(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
}

// oauthError is the body of a refusal (RFC 6749 section 5.2).
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// refuse answers an error in OAuth's form.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	status, body := http.StatusBadRequest, oauthError{Error: "invalid_request", Description: ascii(fault.Public(err))}
	var r *sts.Refusal
	if errors.As(err, &r) {
		body.Error = string(r.Code)
		if r.Code == sts.InvalidClient {
			status = http.StatusUnauthorized
		}
	} else if status = web.Status(err); status >= http.StatusInternalServerError || status == http.StatusTooManyRequests {
		body.Error = "server_error"
		if status != http.StatusInternalServerError {
			body.Error = "temporarily_unavailable"
		}
	}
	web.Hint(w.Header(), status)
	_ = web.Send(w, status, body)
}

// ascii keeps a description in the characters that RFC 6749 section 5.2 allows.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, s)
}
