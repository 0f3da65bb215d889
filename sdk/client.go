package sdk

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // exact about repeated members and the case of names
)

// ClientConfig says who this service is to Bulwark.
type ClientConfig struct {
	Issuer   string // URL of Bulwark's API, as its discovery document spells it
	ClientID string // the service's id
	Key      []byte // private JWK (EC P-256), as `bulwark service key` writes it

	// Stores names, by tenant, the store that [Client.Check] asks. A tenant that is
	// not here must have one store alone; one that moves in has two for a while.
	Stores map[string]string

	HTTP *http.Client     // used without redirects; nil: a client with TLS 1.3 and a time limit
	Now  func() time.Time // nil: time.Now
}

// Client gets tokens and decisions for a service.
type Client struct {
	cfg    ClientConfig
	base   string
	signer jose.Signer

	mu     sync.Mutex
	tokens map[tokenKey]*cached // the service's own, never anybody's; pointers, for fmt prints what a map holds
	stores map[string]string    // by tenant: the one default store
}

type tokenKey struct{ tenant, audience string }

type cached struct {
	token   string
	expires time.Time
}

// maxCached bounds the tokens kept; beyond it the cache begins anew.
const maxCached = 1024

// NewClient returns a client. The error tells what the configuration misses,
// and holds no part of the key.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := base(cfg.Issuer)
	if err != nil {
		return nil, err
	}
	if cfg.ClientID == "" {
		return nil, errors.New("bulwark: ClientID is needed: the service's id")
	}
	var key jose.JSONWebKey
	// The cause of a failure could hold a part of the key, so it is dropped.
	if err := key.UnmarshalJSON(cfg.Key); err != nil || !key.Valid() || key.KeyID == "" {
		return nil, errors.New("bulwark: Key must be a private JWK with a kid")
	}
	if k, ok := key.Key.(*ecdsa.PrivateKey); !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("bulwark: Key must be a private JWK for ES256: EC, P-256")
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, errors.New("bulwark: Key cannot sign")
	}
	cfg.Key = nil // the signer has it; nothing else needs it
	cfg.HTTP = direct(cfg.HTTP)
	cfg.Stores = maps.Clone(cfg.Stores)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Client{cfg: cfg, base: base, signer: signer, tokens: map[tokenKey]*cached{}, stores: map[string]string{}}, nil
}

// direct returns c, or one to begin with, as it never follows a redirect: that
// would hand keys, tokens and client assertions to whom the issuer never named.
func direct(c *http.Client) *http.Client {
	if c == nil {
		c = &http.Client{
			Timeout:   10 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute},
		}
	}
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// OAuthError is a refusal of the token endpoint (RFC 6749 section 5.2).
type OAuthError struct {
	Code        string // "invalid_target", "invalid_grant", …
	Description string
}

// Error implements error.
func (e *OAuthError) Error() string { return "bulwark: " + e.Code + ": " + e.Description }

// Exchange trades what p came with for a token that the audience alone takes
// (RFC 8693): same tenant, same subject, this service as the actor. audience is
// a URN or a service's alias. scope narrows; nil keeps what there is. The token
// lives no longer than what it was exchanged for: call at once, do not keep it.
//
// The error is an *OAuthError when Bulwark refuses.
func (c *Client) Exchange(ctx context.Context, p *Principal, audience string, scope []string) (string, error) {
	if p == nil || p.token == nil {
		return "", errors.New("bulwark: there is no principal to exchange for; is the middleware missing?")
	}
	kind := "urn:ietf:params:oauth:token-type:access_token"
	if p.typ == typAssertion {
		kind = "urn:ietf:params:oauth:token-type:jwt"
	}
	if scope != nil && len(scope) == 0 {
		return "", errors.New("bulwark: the protocol cannot ask for a token without scopes; nil keeps what there is")
	}
	form := url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {p.token()}, "subject_token_type": {kind}, "audience": {audience},
	}
	if len(scope) > 0 {
		form.Set("scope", strings.Join(scope, " "))
	}
	t, err := c.request(ctx, form)
	return t.token, err
}

// Token returns a token for work of the service's own in a tenant
// (client_credentials with private_key_jwt). It is kept until shortly before
// its end.
//
// The error is an *OAuthError when Bulwark refuses.
func (c *Client) Token(ctx context.Context, tenant, audience string) (string, error) {
	key := tokenKey{tenant, audience}
	c.mu.Lock()
	kept := c.tokens[key]
	c.mu.Unlock()
	if kept != nil && c.cfg.Now().Add(30*time.Second).Before(kept.expires) {
		return kept.token, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}, "audience": {audience}}
	if tenant != "" {
		form.Set("tenant", tenant)
	}
	t, err := c.request(ctx, form)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) >= maxCached {
		clear(c.tokens)
	}
	c.tokens[key] = &t
	return t.token, nil
}

// request asks the token endpoint for a token.
func (c *Client) request(ctx context.Context, form url.Values) (cached, error) {
	now := c.cfg.Now()
	var out struct {
		Token       string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	status, err := c.authenticated(ctx, "/oauth2/token", form, &out)
	switch {
	case err != nil:
		return cached{}, err
	case out.Error != "":
		return cached{}, &OAuthError{out.Error, out.Description}
	case status != http.StatusOK || out.Token == "":
		return cached{}, fmt.Errorf("bulwark: the token endpoint answered %d without a token", status)
	}
	return cached{out.Token, now.Add(time.Duration(out.ExpiresIn) * time.Second)}, nil
}

// active asks whether an access token for this service is still good (RFC
// 7662). What is no clear answer is an error.
func (c *Client) active(ctx context.Context, token string) (bool, error) {
	var out struct {
		Active      *bool  `json:"active"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	status, err := c.authenticated(ctx, "/oauth2/introspect", url.Values{"token": {token}}, &out)
	switch {
	case err != nil:
		return false, err
	case out.Error != "":
		return false, &OAuthError{out.Error, out.Description}
	case status != http.StatusOK || out.Active == nil:
		return false, fmt.Errorf("bulwark: the introspection endpoint answered %d without an answer", status)
	}
	return *out.Active, nil
}

// authenticated posts the form with proof of who we are: private_key_jwt (RFC
// 7523), made anew for each request, for each is good once.
func (c *Client) authenticated(ctx context.Context, path string, form url.Values, out any) (status int, err error) {
	now := c.cfg.Now()
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	payload, err := json.Marshal(map[string]any{
		"iss": c.cfg.ClientID, "sub": c.cfg.ClientID, "aud": c.cfg.Issuer, "jti": hex.EncodeToString(id[:]),
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	if err != nil {
		return 0, err
	}
	jws, err := c.signer.Sign(payload)
	if err != nil {
		return 0, err
	}
	assertion, err := jws.CompactSerialize()
	if err != nil {
		return 0, err
	}
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", assertion)
	return c.post(ctx, c.base+path, "application/x-www-form-urlencoded", "", []byte(form.Encode()), out)
}

// Check asks whether the subject has the relation to the object in the tenant;
// take both from the principal. An empty tenant is the service's own. An error
// is never an allow: treat it as a no.
func (c *Client) Check(ctx context.Context, tenant, subject, relation, object string) (bool, error) {
	allowed, _, err := c.checkAt(ctx, tenant, subject, relation, object)
	return allowed, err
}

// checkAt is Check with the revision that answered.
func (c *Client) checkAt(ctx context.Context, tenant, subject, relation, object string) (bool, string, error) {
	allowed, revision, status, err := c.check(ctx, tenant, subject, relation, object)
	if status == http.StatusUnauthorized || status == http.StatusNotFound {
		// What was kept is not good any more: the token was revoked, for
		// instance. Once more with fresh ones.
		c.mu.Lock()
		delete(c.tokens, tokenKey{tenant, authz})
		delete(c.stores, tenant)
		c.mu.Unlock()
		allowed, revision, _, err = c.check(ctx, tenant, subject, relation, object)
	}
	return allowed && err == nil, revision, err
}

// authz is the audience of the check API.
const authz = "authz"

// check asks once. status is 0 when the check API was not reached.
func (c *Client) check(ctx context.Context, tenant, subject, relation, object string) (allowed bool, revision string, status int, err error) {
	token, err := c.Token(ctx, tenant, authz)
	if err != nil {
		return false, "", 0, err
	}
	store, status, err := c.store(ctx, tenant, token)
	if err != nil {
		return false, "", status, err
	}
	body, err := json.Marshal(map[string]any{"tuple_key": map[string]string{"user": subject, "relation": relation, "object": object}})
	if err != nil {
		return false, "", 0, err
	}
	var out struct {
		Allowed bool   `json:"allowed"`
		Message string `json:"message"`
	}
	atLeast := ""
	if p := FromContext(ctx); p != nil && p.Tenant == tenant {
		atLeast = p.AtLeast
	}
	r, err := c.exchange(ctx, http.MethodPost, c.base+"/stores/"+url.PathEscape(store)+"/check", "application/json", token, atLeast, body, &out)
	if err != nil {
		return false, "", r.status, err
	}
	if r.status != http.StatusOK {
		return false, "", r.status, fmt.Errorf("bulwark: the check was refused with %d: %s", r.status, out.Message)
	}
	return out.Allowed, r.revision, r.status, nil
}

// store finds the tenant's one store.
func (c *Client) store(ctx context.Context, tenant, token string) (id string, status int, err error) {
	if id, ok := c.cfg.Stores[tenant]; ok {
		return id, 0, nil
	}
	c.mu.Lock()
	id, ok := c.stores[tenant]
	c.mu.Unlock()
	if ok {
		return id, 0, nil
	}
	var out struct {
		Stores []struct {
			ID string `json:"id"`
		} `json:"stores"`
	}
	status, err = c.send(ctx, http.MethodGet, c.base+"/stores", "", token, nil, &out)
	if err != nil {
		return "", status, err
	}
	if status != http.StatusOK || len(out.Stores) != 1 || out.Stores[0].ID == "" {
		return "", status, fmt.Errorf("bulwark: the tenant's store cannot be told (%d, %d stores); name it in ClientConfig.Stores", status, len(out.Stores))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.stores) >= maxCached {
		clear(c.stores)
	}
	c.stores[tenant] = out.Stores[0].ID
	return out.Stores[0].ID, status, nil
}

func (c *Client) post(ctx context.Context, u, kind, token string, body []byte, out any) (int, error) {
	return c.send(ctx, http.MethodPost, u, kind, token, body, out)
}

const maxAnswer = 1 << 20 // bytes

func (c *Client) send(ctx context.Context, method, u, kind, token string, body []byte, out any) (int, error) {
	r, err := c.exchange(ctx, method, u, kind, token, "", body, out)
	return r.status, err
}

// reply is what an answer says beside its body.
type reply struct {
	status   int
	revision string
}

func (c *Client) exchange(ctx context.Context, method, u, kind, token, atLeast string, body []byte, out any) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if atLeast != "" {
		req.Header.Set(atLeastHeader, atLeast)
	}
	res, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return reply{}, fmt.Errorf("bulwark: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // nothing was written; a failed close loses nothing
	r := reply{res.StatusCode, res.Header.Get("Bulwark-Revision")}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		return r, fmt.Errorf("bulwark: the answer (%d) is not readable: %w", res.StatusCode, err)
	}
	return r, nil
}
