package authn

import (
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// maxName bounds ids and names inside a token, in bytes.
const maxName = 256

// verifyOwn reads an access token that claims to be ours (RFC 9068, DESIGN
// section 5).
func (a *Authenticator) verifyOwn(token string, u jose.Unverified, audience string, now time.Time) (*verified, *Refusal) {
	key, ok := a.cfg.Keys.PublicKey(u.Header.KID)
	if !ok || u.Header.KID == "" {
		return nil, refuse(UnknownKey, nil)
	}
	c, err := jose.Verify(token, key, []jose.Alg{jose.ES256, jose.EdDSA})
	if err != nil {
		return nil, refuseToken(err)
	}
	// Other tokens that we sign have another typ, assertions for one.
	if !u.Header.Is("at+jwt") {
		return nil, refuse(TokenType, nil)
	}
	p := &principal.Principal{Credential: principal.Credential{
		Kind: principal.AccessToken, Issuer: u.Issuer, KeyID: key.KID, Audience: audience,
	}}
	from, to, refusal := a.times(c, &p.Credential, now)
	if refusal != nil {
		return nil, refusal
	}
	aud, single, err := c.Audience()
	if err != nil || !single || audience == "" || aud[0] != audience {
		return nil, refuse(Audience, err)
	}
	if c.Has("cnf") {
		return nil, refuse(BoundToken, nil)
	}
	if err := readOwn(c, p); err != nil {
		return nil, refuse(Malformed, err)
	}
	return &verified{principal: p, key: key, expires: to, notBefore: from, audience: audience}, nil
}

// readOwn fills p with the claims of our own token. The error has kind Invalid.
func readOwn(c jose.Claims, p *principal.Principal) error {
	r := reader{claims: c}
	sub, id := r.need("sub"), r.need("tenant")
	p.ClientID = r.need("client_id")
	p.Credential.JTI, p.Credential.RootJTI = r.need("jti"), r.need("root_jti")
	p.Credential.SID = r.may("sid")
	p.Assurance.ACR = r.may("acr")
	p.Assurance.AMR = r.list("amr")
	p.Assurance.AuthTime = r.time("auth_time")
	p.Scopes = r.scopes("scope")
	if r.err != nil {
		return r.err
	}
	var err error
	if p.Subject, err = principal.ParseSubject(sub); err != nil {
		return err
	}
	// The string stands inside bytes that we signed: a verified credential.
	if p.Tenant, err = tenant.Trusted(id); err != nil {
		return err
	}
	p.Actors, err = readActors(c)
	return err
}

// readActors reads the chain of act claims, the outermost first: that is the
// actor nearest to us (RFC 8693 section 4.1).
func readActors(c jose.Claims) ([]principal.Actor, error) {
	var actors []principal.Actor
	for c.Has("act") {
		act, _, err := c.Object("act")
		if err != nil {
			return nil, err
		}
		if len(actors) == principal.MaxActors {
			return nil, fault.New(fault.Invalid, "the actor chain is too long")
		}
		r := reader{claims: act}
		sub, jti := r.need("sub"), r.need("jti")
		if r.err != nil {
			return nil, r.err
		}
		s, err := principal.ParseSubject(sub)
		if err != nil {
			return nil, err
		}
		if s.Kind != principal.Service {
			return nil, fault.New(fault.Invalid, "only a service acts for another")
		}
		actors = append(actors, principal.Actor{Subject: s, JTI: jti})
		c = act
	}
	return actors, nil
}

// reader reads claims and keeps the first error.
type reader struct {
	claims jose.Claims
	err    error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// may returns an optional string of visible ASCII: these values end up in
// headers, logs and keys of maps.
func (r *reader) may(name string) string {
	s, ok, err := r.claims.Text(name)
	if err != nil {
		r.fail(err)
	} else if ok && !visible(s) {
		r.fail(fault.New(fault.Invalid, "the claim "+name+" is not a name"))
	}
	return s
}

// need is may for a claim that must be there.
func (r *reader) need(name string) string {
	if !r.claims.Has(name) {
		r.fail(fault.New(fault.Invalid, "the claim "+name+" is missing"))
	}
	return r.may(name)
}

func (r *reader) list(name string) []string {
	list, _, err := r.claims.Texts(name)
	if err != nil {
		r.fail(err)
	}
	for _, s := range list {
		if !visible(s) {
			r.fail(fault.New(fault.Invalid, "the claim "+name+" is not a list of names"))
		}
	}
	return list
}

func (r *reader) time(name string) time.Time {
	t, _, err := r.claims.Time(name)
	if err != nil {
		r.fail(err)
	}
	return t
}

// scopes reads a space-delimited list (RFC 6749 section 3.3). Absent and empty
// give none.
func (r *reader) scopes(name string) []string {
	s, _, err := r.claims.Text(name)
	if err != nil {
		r.fail(err)
	}
	if s == "" {
		return nil
	}
	list := strings.Split(s, " ")
	for _, one := range list {
		if !visible(one) {
			r.fail(fault.New(fault.Invalid, "the claim "+name+" is not a list of scopes"))
		}
	}
	return list
}

// visible reports whether s is 1 to 256 bytes of the characters that RFC 6749
// allows in a scope: visible ASCII without quote and backslash.
func visible(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		if b := s[i]; b < 0x21 || b > 0x7e || b == '"' || b == '\\' {
			return false
		}
	}
	return true
}
