package sts

import (
	"context"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// ClientAssertionType is the one client_assertion_type (RFC 7523 section 2.2).
const ClientAssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// ClientAlgs are the algorithms of clients' keys, the strongest choice first.
// Each key verifies with its own alone.
func ClientAlgs() []jose.Alg { return []jose.Alg{jose.ES256, jose.EdDSA, jose.PS256, jose.RS256} }

// ClientAuth is what a client sends to prove who it is (private_key_jwt).
type ClientAuth struct {
	ClientID      string // optional; must agree with the assertion
	AssertionType string
	Assertion     string
	Origin        Origin
}

// Client is a service that has proved who it is. Only
// [Issuer.AuthenticateClient] makes one; the zero Client is refused everywhere.
type Client struct {
	service *directory.Service
	kid     string
	origin  Origin
}

// ID returns the client_id, which is the service's id.
func (c *Client) ID() string {
	if c == nil || c.service == nil {
		return ""
	}
	return c.service.ID
}

func (c *Client) subject() principal.Subject {
	return principal.Subject{Kind: principal.Service, ID: c.service.ID}
}

func (c *Client) platform() bool { return c.service.Tenant == tenant.Platform }

// errNoClient is a defect of the caller: a protocol that skipped authentication.
var errNoClient = fault.New(fault.Internal, "the client was not authenticated")

// AuthenticateClient verifies a client assertion (RFC 7523, read as strictly as
// rfc7523bis): iss and sub are the client id; aud is our issuer, as one string;
// iat, exp and jti are there; it lives five minutes at most, is dated a second
// ahead at most, was issued after this process started and was not used before; its kid names a key of that
// very client.
//
// The error is a *Refusal with [InvalidClient], whose event is of class reject,
// or kind Unavailable.
func (i *Issuer) AuthenticateClient(ctx context.Context, a ClientAuth) (*Client, error) {
	if !i.cfg.Directory.Fresh() {
		return nil, errStale
	}
	if a.AssertionType != ClientAssertionType || a.Assertion == "" {
		return nil, i.reject(a.Origin, refuse(InvalidClient, "client_missing", "authenticate with private_key_jwt: client_assertion_type and client_assertion"))
	}
	v, r := i.verifyOwnKey(a.Assertion, principal.Service)
	if r != nil {
		return nil, i.reject(a.Origin, r)
	}
	if a.ClientID != "" && a.ClientID != v.subject.ID {
		return nil, i.reject(a.Origin, refuse(InvalidClient, "client_conflict", "client_id and client_assertion name different clients"))
	}
	service, err := i.cfg.Directory.Service(v.subject.ID)
	if err != nil || service.State != directory.Active || !i.cfg.Directory.TenantActive(service.Tenant) {
		return nil, i.reject(a.Origin, refuse(InvalidClient, "client_suspended", "the client may not be used"))
	}
	if err := i.remember(a.Origin, InvalidClient, v); err != nil {
		return nil, err
	}
	return &Client{service: service, kid: v.kid, origin: a.Origin}, nil
}

var errStale = fault.New(fault.Unavailable, "this node has lost its store; try again")

// verified is an assertion whose signature and claims hold, not yet remembered.
type verified struct {
	subject principal.Subject
	tenant  tenant.ID // of the key's record
	id      string    // iss and sub as written
	kid     string
	jti     string
	issued  time.Time
	expires time.Time
}

// remember refuses a replay, and fails when the memory is full.
func (i *Issuer) remember(o Origin, code Code, v verified) error {
	switch i.replays.remember(v.id, v.jti, i.cfg.Now(), v.expires) {
	case fresh:
		return nil
	case full:
		return fault.New(fault.Unavailable, "too many assertions are in flight; try again later")
	}
	return i.reject(o, refuse(code, "assertion_replayed", "the assertion was used before; sign a new one for each request"))
}

// verifyOwnKey verifies an assertion that the subject signed with a key of its
// own. Until the signature holds, all refusals read the same: they would tell
// which clients and keys exist.
func (i *Issuer) verifyOwnKey(token string, kind principal.Kind) (verified, *Refusal) {
	code := InvalidClient
	if kind == principal.User {
		code = InvalidGrant
	}
	no := func(reason string) (verified, *Refusal) {
		return verified{}, refuse(code, reason, "the assertion does not verify")
	}
	u, err := jose.Peek(token)
	if err != nil {
		return no("assertion_malformed")
	}
	// A token made for another purpose is no assertion, whoever signed it.
	if u.Header.Typ != "" && !u.Header.Is("JWT") && !u.Header.Is("client-authentication+jwt") {
		return no("assertion_type")
	}
	subject, ok := assertionSubject(u.Issuer, kind)
	if !ok || u.Header.KID == "" {
		return no("assertion_unknown")
	}
	key, err := i.cfg.Directory.ClientKey(subject, u.Header.KID)
	if err != nil {
		return no("assertion_unknown")
	}
	public, err := jose.ParsePublicKey(key.Public)
	if err != nil {
		return no("assertion_unknown")
	}
	claims, err := jose.Verify(token, public, ClientAlgs())
	if err != nil {
		return no("assertion_signature")
	}
	v := verified{subject: subject, tenant: key.Tenant, id: u.Issuer, kid: u.Header.KID}
	if reason, text := i.readAssertion(claims, &v); reason != "" {
		return verified{}, refuse(code, reason, text)
	}
	return v, nil
}

// assertionSubject reads iss: a service's client_id is its bare id, a person is
// "user:<id>". The two forms cannot be taken for each other.
func assertionSubject(iss string, kind principal.Kind) (principal.Subject, bool) {
	if kind == principal.Service {
		return principal.Subject{Kind: principal.Service, ID: iss}, tenant.ValidID(iss)
	}
	s, err := principal.ParseSubject(iss)
	return s, err == nil && s.Kind == kind
}

// readAssertion checks the claims of an assertion whose signature holds.
func (i *Issuer) readAssertion(c jose.Claims, v *verified) (reason, text string) {
	now := i.cfg.Now()
	if sub, _, err := c.Text("sub"); err != nil || sub != v.id {
		return "assertion_subject", "iss and sub must both be the client's id"
	}
	// A token endpoint's URL, or an array, is how an assertion for one server
	// is played to another (rfc7523bis).
	if aud, single, err := c.Audience(); err != nil || !single || aud[0] != i.cfg.Issuer {
		return "assertion_audience", "aud must be the issuer, as a single string"
	}
	iat, okIAT, err1 := c.Time("iat")
	exp, okEXP, err2 := c.Time("exp")
	nbf, okNBF, err3 := c.Time("nbf")
	jti, okJTI, err4 := c.Text("jti")
	switch {
	case err1 != nil || err2 != nil || err3 != nil || err4 != nil:
		return "assertion_malformed", "iat, exp and nbf are whole seconds, jti is a string"
	case !okIAT || !okEXP:
		return "assertion_times", "iat and exp are required"
	case !okJTI || jti == "" || len(jti) > 256:
		return "assertion_jti", "jti is required, with at most 256 bytes"
	case exp.Sub(iat) > MaxClientLife || !exp.After(iat):
		return "assertion_life", "the assertion may live five minutes at most"
	case !now.Before(exp):
		return "assertion_expired", "the assertion has expired"
	case iat.After(now.Add(ahead)) || (okNBF && nbf.After(now.Add(ahead))):
		return "assertion_not_yet", "the assertion is not valid yet; check the clock"
	case iat.Before(i.notBefore):
		return "assertion_before_start", "the assertion was issued before this server started; sign a new one"
	}
	v.issued, v.expires, v.jti = iat, exp, jti
	return "", ""
}
