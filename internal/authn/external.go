package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// MaxExternalLife bounds the life of a connection's tokens. The directory must
// keep revocations for as long, or a revoked token would come back to life.
// Entra's longest access tokens, for clients that evaluate continuously, live
// 28 hours; most live one.
const MaxExternalLife = 30 * time.Hour

// verifyExternal reads a token of a connection's issuer. Such tokens count at
// the gateway alone: elsewhere only our own tokens do, which they can be
// exchanged for.
func (a *Authenticator) verifyExternal(ctx context.Context, token string, u jose.Unverified, audience string, now time.Time) (*verified, *Refusal) {
	if len(u.Audience) > 1 {
		return nil, refuse(Audience, nil)
	}
	var aud string
	if len(u.Audience) == 1 {
		aud = u.Audience[0]
	}
	// What stands unverified in the token only picks a row of our own.
	conn, refusal := a.connection(u.Issuer, aud)
	if refusal != nil {
		return nil, refusal
	}
	if audience != a.external {
		return nil, refuse(Audience, nil)
	}
	allowed := make([]jose.Alg, len(conn.Algs))
	for i, alg := range conn.Algs {
		allowed[i] = jose.Alg(alg)
	}
	if !slices.Contains(allowed, u.Header.Alg) {
		return nil, refuse(Algorithm, nil)
	}
	src := a.sources.of(conn, now)
	key, set, refusal := src.key(ctx, u.Header.KID, now)
	if refusal != nil {
		return nil, refusal
	}
	c, err := jose.Verify(token, key, allowed)
	if err != nil {
		return nil, refuseToken(err)
	}
	p := &principal.Principal{Credential: principal.Credential{
		Kind: principal.ExternalToken, Issuer: conn.Issuer, Connection: conn.ID, KeyID: key.KID, Audience: conn.Audience,
	}}
	from, to, refusal := a.times(c, &p.Credential, now)
	if refusal != nil {
		return nil, refusal
	}
	if p.Credential.Expires.Sub(p.Credential.IssuedAt) > MaxExternalLife {
		return nil, refuse(LongLived, nil)
	}
	// A bound token asks for a proof; an actor that we cannot name would vanish.
	if c.Has("cnf") {
		return nil, refuse(BoundToken, nil)
	}
	if c.Has("act") {
		return nil, refuse(TokenType, nil)
	}
	shape, refusal := read(conn, u.Header, c)
	if refusal != nil {
		return nil, refusal
	}
	p.Scopes = shape.scopes
	// The issuer may call its clients as it likes; ours have names of their own.
	p.ClientID = conn.ID + "/" + shape.client
	p.Credential.JTI = shape.id
	if p.Credential.JTI == "" {
		// Something must name the token for those derived from it. Without the
		// signature, which can be written in more than one way.
		sum := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')]))
		p.Credential.JTI = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	p.Credential.RootJTI = p.Credential.JTI
	// acr, amr and auth_time stay empty: what they mean at this issuer nobody
	// has said yet, and taken blindly they would satisfy policies of ours.
	if p.Tenant, p.Subject, refusal = a.user(ctx, conn, shape.subject); refusal != nil {
		return nil, refusal
	}
	v := &verified{
		principal: p, key: key, expires: to, notBefore: from, audience: audience,
		connection: conn, source: src, subject: shape.subject,
	}
	v.keys.Store(set)
	return v, nil
}

// connection returns the enabled connection of the issuer and audience.
func (a *Authenticator) connection(issuer, audience string) (*directory.Connection, *Refusal) {
	c, ok := a.cfg.Directory.Connection(issuer, []string{audience})
	switch {
	case ok && c.Issuer == issuer && c.Audience == audience && issuer != "" && audience != "" && c.ID != "":
		return &c, nil
	case c.ID != "" && !ok:
		return nil, refuse(ConnectionDisabled, nil)
	}
	return nil, refuse(Issuer, nil)
}

// sameConnection reports whether a verification under b would have gone the
// same way under a.
func sameConnection(a, b *directory.Connection) bool {
	return a.ID == b.ID && a.Tenant == b.Tenant && a.Kind == b.Kind && a.JWKSURI == b.JWKSURI && slices.Equal(a.Algs, b.Algs)
}

// user maps the connection's subject to a user of the connection's own tenant.
func (a *Authenticator) user(ctx context.Context, conn *directory.Connection, subject string) (tenant.ID, principal.Subject, *Refusal) {
	t, s, err := a.cfg.Directory.ExternalUser(ctx, conn.ID, subject)
	switch {
	case err == nil && t == conn.Tenant && !s.IsZero():
		return t, s, nil
	case err == nil:
		return tenant.ID{}, principal.Subject{}, refuse(UnknownSubject, nil)
	}
	switch fault.KindOf(err) {
	case fault.NotFound:
		return tenant.ID{}, principal.Subject{}, refuse(UnknownSubject, err)
	case fault.Denied:
		return tenant.ID{}, principal.Subject{}, refuse(SubjectSuspended, err)
	}
	return tenant.ID{}, principal.Subject{}, refuse(DirectoryUnavailable, err)
}

// shape is what the kinds of connection have in common.
type shape struct {
	subject, client, id string
	scopes              []string
}

// read checks the positive marks of an access token of the connection's kind
// and takes out what a principal needs. A token without all of the marks is
// refused: an ID token is signed with the same key, and is for a browser's
// client to read, never for an API to accept.
func read(conn *directory.Connection, h jose.Header, c jose.Claims) (shape, *Refusal) {
	// OpenID Connect Core section 2 and 3.3.2.11: only ID tokens have these.
	if c.Has("nonce") || c.Has("at_hash") || c.Has("c_hash") {
		return shape{}, refuse(TokenType, nil)
	}
	r := jose.Reader{Claims: c}
	var s shape
	var ok bool
	switch conn.Kind {
	case directory.RFC9068:
		s, ok = readRFC9068(&r, h)
	case directory.Okta:
		s, ok = readOkta(&r, h)
	case directory.Entra:
		s, ok = readEntra(&r, h)
		if ok && r.Err == nil && !ofTenant(conn.Issuer, r.Need("tid")) {
			return shape{}, refuse(Issuer, nil)
		}
	case directory.Google:
		s, ok = readGoogle(&r, h)
	}
	if !ok {
		return shape{}, refuse(TokenType, r.Err)
	}
	if r.Err != nil {
		return shape{}, refuse(Malformed, r.Err)
	}
	return s, nil
}

// readRFC9068: the header's typ is the mark.
func readRFC9068(r *jose.Reader, h jose.Header) (shape, bool) {
	if !h.Is("at+jwt") {
		return shape{}, false
	}
	return shape{r.Need("sub"), r.Need("client_id"), r.Need("jti"), r.Scopes("scope")}, true
}

// plain reports whether the header calls the token a JWT or nothing.
func plain(h jose.Header) bool { return h.Typ == "" || h.Is("JWT") }

// readOkta: custom authorization servers write cid and the array scp into
// access tokens alone. uid is the person's immutable id; sub is the login,
// which can change and is often an e-mail address, so it counts only for a
// client that acts for itself, where it equals cid.
func readOkta(r *jose.Reader, h jose.Header) (shape, bool) {
	c := r.Claims
	if !(plain(h) || h.Is("at+jwt")) || !c.Has("cid") || !c.Has("scp") || strings.HasPrefix(r.May("jti"), "ID.") {
		return shape{}, false
	}
	s := shape{client: r.Need("cid"), id: r.May("jti"), scopes: r.List("scp")}
	if c.Has("uid") {
		s.subject = r.Need("uid")
	} else if s.subject = r.Need("sub"); s.subject != s.client {
		return shape{}, false
	}
	return s, true
}

// readEntra: access tokens name the client that got them and how it proved
// itself (azp, azpacr; appid, appidacr in version 1), and scp or roles. ID tokens
// have no azpacr. oid is the person's immutable id in the directory tid.
func readEntra(r *jose.Reader, h jose.Header) (shape, bool) {
	c := r.Claims
	client, proof := "azp", "azpacr"
	if r.Need("ver") == "1.0" {
		client, proof = "appid", "appidacr"
	} else if r.May("ver") != "2.0" {
		return shape{}, false
	}
	if !plain(h) || !c.Has(client) || !c.Has(proof) || !(c.Has("scp") || c.Has("roles")) {
		return shape{}, false
	}
	s := shape{subject: r.Need("oid"), client: r.Need(client), id: r.May("uti"), scopes: r.Scopes("scp")}
	if c.Has("roles") && !c.Has("scp") { // an application's own permissions
		s.scopes = r.List("roles")
	}
	return s, true
}

// ofTenant reports whether the issuer URL is that of the directory tid:
// https://login.microsoftonline.com/<tid>/v2.0 or https://sts.windows.net/<tid>/.
func ofTenant(issuer, tid string) bool {
	u, err := url.Parse(issuer)
	if err != nil || tid == "" {
		return false
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return first == tid
}

// readGoogle: the ID tokens by which Google's service accounts call services.
// There the account is its own authorized party, azp = sub; in a person's ID
// token azp is the client ID of an application, and hd may name a domain.
func readGoogle(r *jose.Reader, h jose.Header) (shape, bool) {
	c := r.Claims
	if !plain(h) || !c.Has("azp") || c.Has("hd") || r.Need("azp") != r.Need("sub") {
		return shape{}, false
	}
	return shape{subject: r.Need("sub"), client: r.Need("azp")}, true
}
