package authn

import (
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
)

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
	var times principal.Credential
	from, to, refusal := a.times(c, &times, now)
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
	p, err := principal.Read(c)
	if err != nil {
		return nil, refuse(Malformed, err)
	}
	if p.ClientID == "" {
		return nil, refuse(Malformed, fault.New(fault.Invalid, "an access token names its client"))
	}
	p.Credential.Kind, p.Credential.KeyID = principal.AccessToken, key.KID
	return &verified{principal: p, key: key, expires: to, notBefore: from, audience: audience}, nil
}
