package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/luikyv/go-oidc/pkg/goidc"
	"github.com/luikyv/go-oidc/pkg/provider"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/sts"
)

// The grant types that are offered.
const (
	grantClient   = string(goidc.GrantClientCredentials)
	grantExchange = string(goidc.GrantTokenExchange)
	grantPerson   = string(goidc.GrantJWTBearer)
)

func grantTypes() []string { return []string{grantClient, grantExchange, grantPerson} }

// call is one token request on its way through the engine. What the engine's
// callbacks decide about is in here, not in the engine's own reading.
type call struct {
	grant  string
	client *sts.Client // nil for a person's grant
	form   form
	origin sts.Origin

	token sts.Token // what sts issued; zero until then
	err   error     // why it did not
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// engine runs the token endpoint's protocol.
type engine struct {
	sts     *sts.Issuer
	handler http.Handler
}

// errClosed answers every callback of the engine that has no business here.
var errClosed = errors.New("not offered")

func newEngine(issuer string, s *sts.Issuer) (*engine, error) {
	e, storage := &engine{sts: s}, newEmptyStorage()
	p, err := provider.New(issuer, storage,
		func(context.Context) (goidc.JSONWebKeySet, error) { return goidc.JSONWebKeySet{}, errClosed },
		provider.WithTokenEndpoint(PathToken),
		provider.WithClientCredentialsGrant(),
		provider.WithTokenExchangeGrant(func(context.Context, goidc.TokenExchangeRequest) (goidc.TokenExchangeResult, error) {
			return goidc.TokenExchangeResult{}, nil // decided in the grant handler, which knows the client
		}),
		provider.WithTokenExchangeClientAuthnRequired(),
		provider.WithJWTBearerGrant(func(context.Context, string) (goidc.JWTBearerResult, error) {
			return goidc.JWTBearerResult{}, nil // likewise: errors from here would all be invalid_grant
		}),
		// sts has authenticated the client; emptyStorage knows it for this
		// request alone. The engine is asked for no second opinion.
		provider.WithNoneAuthn(),
		provider.WithDCR(storage),
		provider.WithDCRInitialTokenValidator(func(context.Context, string) error { return errClosed }),
		provider.WithDCRClientHandler(func(context.Context, string, *goidc.ClientMeta) error { return errClosed }),
		provider.WithGrantHandler(e.decide),
		provider.WithOpaqueTokens(storage),
		provider.WithOpaqueTokenFunc(func(ctx context.Context, _ *goidc.Grant) string {
			if c := callOf(ctx); c != nil {
				return c.token.Value
			}
			return ""
		}),
		provider.WithTokenOptions(func(ctx context.Context, _ *goidc.Grant, _ *goidc.Client) goidc.TokenOptions {
			var life int
			if c := callOf(ctx); c != nil {
				life = int(c.token.Life.Seconds())
			}
			return goidc.NewOpaqueTokenOptions(life)
		}),
		provider.WithJTIConsumer(func(context.Context, string) error { return errClosed }),
		provider.WithClientSecretVerifier(func(context.Context, string, string) error { return errClosed }),
		provider.WithHTTPClientFunc(func(context.Context) *http.Client { return nil }),
	)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "the protocol engine does not start", err)
	}
	e.handler = p.Handler()
	return e, nil
}

// decide is the one place where a grant becomes a token.
func (e *engine) decide(ctx context.Context, typ goidc.GrantType, grant *goidc.Grant) error {
	c := callOf(ctx)
	if c == nil || string(typ) != c.grant || grant.ClientID != c.client.ID() {
		return goidc.NewError(goidc.ErrorCodeAccessDenied, "denied")
	}
	f := c.form
	switch c.grant {
	case grantClient:
		c.token, c.err = e.sts.ClientCredentials(ctx, c.client, sts.ClientRequest{
			Audience: f["audience"], Tenant: f.get("tenant"), Scope: f.get("scope"),
		})
	case grantExchange:
		c.token, c.err = e.sts.Exchange(ctx, c.client, sts.ExchangeRequest{
			SubjectToken: f.get("subject_token"), SubjectTokenType: f.get("subject_token_type"),
			RequestedTokenType: f.get("requested_token_type"), ActorToken: f.get("actor_token"),
			Audience: f["audience"], Resource: f["resource"], Tenant: f.get("tenant"), Scope: f.get("scope"),
		})
	case grantPerson:
		c.token, c.err = e.sts.PersonToken(ctx, sts.PersonRequest{
			Assertion: f.get("assertion"), Audience: f["audience"], Tenant: f.get("tenant"),
			Scope: f.get("scope"), Origin: c.origin,
		})
	default:
		return goidc.NewError(goidc.ErrorCodeAccessDenied, "denied")
	}
	if c.err != nil {
		return c.err
	}
	grant.Scopes = strings.Join(c.token.Scopes, " ")
	return nil
}

// answer is what the engine wrote.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements [http.ResponseWriter].
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements [http.ResponseWriter].
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// run takes a call through the engine and returns the body of success.
func (e *engine) run(ctx context.Context, c *call) (json.RawMessage, error) {
	a := &answer{header: http.Header{}}
	e.handler.ServeHTTP(a, request(context.WithValue(ctx, callKey{}, c), c))
	if c.err != nil {
		return nil, c.err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, e.refusal(ctx, c, a)
	}
	if err := ours(a.body.Bytes(), c.token); err != nil {
		return nil, err
	}
	return a.body.Bytes(), nil
}

// forwarded are the parameters that the engine reads for the grants offered.
func forwarded() []string {
	return []string{
		"grant_type", "assertion", "subject_token", "subject_token_type", "actor_token", "actor_token_type",
		"requested_token_type",
	}
}

// request is what the engine sees: checked parameters and the id of the client
// that was authenticated.
func request(ctx context.Context, c *call) *http.Request {
	values := url.Values{}
	for _, name := range forwarded() {
		if v := c.form.get(name); v != "" {
			values.Set(name, v)
		}
	}
	if id := c.client.ID(); id != "" {
		values.Set("client_id", id)
	}
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: PathToken}, RequestURI: PathToken,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		Body:   http.NoBody, Form: values, PostForm: values,
	}
	return r.WithContext(ctx)
}

// refusal records what the engine itself refused, before it came to a decision.
func (e *engine) refusal(ctx context.Context, c *call, a *answer) error {
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(a.body.Bytes(), &body) != nil {
		return fault.New(fault.Internal, "the protocol engine gave no answer")
	}
	code := sts.Code(body.Error)
	switch code {
	case sts.InvalidRequest, sts.InvalidGrant, sts.InvalidScope, sts.InvalidTarget, sts.UnauthorizedClient:
	default:
		return fault.Wrap(fault.Internal, "the protocol engine refused for a reason that it may not have", errors.New(a.body.String()))
	}
	const text = "the request does not have the form of its grant"
	if c.client.ID() == "" {
		return e.sts.RejectRequest(c.origin, code, "grant_form", text)
	}
	return e.sts.DenyRequest(ctx, c.client, code, "grant_form", text)
}

// ours compares an answer of success with what sts issued.
func ours(body []byte, t sts.Token) error {
	var a struct {
		AccessToken  string `json:"access_token"`
		TokenType    string `json:"token_type"`
		ExpiresIn    int    `json:"expires_in"`
		Scope        string `json:"scope"`
		RefreshToken string `json:"refresh_token"`
		IDToken      string `json:"id_token"`
	}
	if err := json.Unmarshal(body, &a); err != nil || t.Value == "" || a.AccessToken != t.Value || a.TokenType != "Bearer" ||
		a.ExpiresIn != int(t.Life.Seconds()) || a.Scope != strings.Join(t.Scopes, " ") || a.RefreshToken != "" || a.IDToken != "" {
		return fault.New(fault.Internal, "the protocol engine's answer is not what was issued")
	}
	return nil
}

// emptyStorage is the engine's storage: it keeps nothing, and knows one client,
// the one that was authenticated for the request at hand.
//
// It is a pointer to something on purpose: the engine replaces a manager that
// is a zero value, such as an empty struct, by a storage in memory, and says
// nothing.
type emptyStorage struct{ _ byte }

func newEmptyStorage() *emptyStorage { return &emptyStorage{} }

// Client implements goidc's managers.
func (*emptyStorage) Client(ctx context.Context, id string) (*goidc.Client, error) {
	c := callOf(ctx)
	if c == nil || id == "" || c.client.ID() != id {
		return nil, goidc.ErrNotFound
	}
	return &goidc.Client{ID: id, ClientMeta: goidc.ClientMeta{
		TokenAuthnMethod: goidc.AuthnMethodNone,
		GrantTypes:       []goidc.GrantType{goidc.GrantClientCredentials, goidc.GrantTokenExchange},
	}}, nil
}

// SaveClient implements goidc's managers: no client is ever registered here.
func (*emptyStorage) SaveClient(context.Context, *goidc.Client) error { return errClosed }

// DeleteClient implements goidc's managers.
func (*emptyStorage) DeleteClient(context.Context, string) error { return errClosed }

// SaveGrant implements goidc's managers: what was granted is in the token.
func (*emptyStorage) SaveGrant(context.Context, *goidc.Grant) error { return nil }

// Grant implements goidc's managers.
func (*emptyStorage) Grant(context.Context, string) (*goidc.Grant, error) {
	return nil, goidc.ErrNotFound
}

// SaveToken implements goidc's managers: tokens are not stored.
func (*emptyStorage) SaveToken(context.Context, *goidc.Token) error { return nil }

// Token implements goidc's managers.
func (*emptyStorage) Token(context.Context, string) (*goidc.Token, error) {
	return nil, goidc.ErrNotFound
}
