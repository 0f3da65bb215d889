package sts

import (
	"encoding/json"
	"slices"
	"strings"

	"bulwark.example/internal/jose"
	"bulwark.example/internal/principal"
)

// accessClaims are the claims of an access token, in the order of the bytes.
// docs/spec/tokens.md describes each; testdata holds golden files.
type accessClaims struct {
	Issuer   string    `json:"iss"`
	Subject  string    `json:"sub"`
	Audience string    `json:"aud"`
	ClientID string    `json:"client_id"`
	Tenant   string    `json:"tenant"`
	Scope    string    `json:"scope,omitempty"`
	Act      *actClaim `json:"act,omitempty"`
	SID      string    `json:"sid,omitempty"`
	JTI      string    `json:"jti"`
	RootJTI  string    `json:"root_jti"`
	ACR      string    `json:"acr,omitempty"`
	AMR      []string  `json:"amr,omitempty"`
	AuthTime int64     `json:"auth_time,omitempty"`
	IssuedAt int64     `json:"iat"`
	Expires  int64     `json:"exp"`
}

// actClaim is the actor chain, the nearest actor outermost (RFC 8693 4.1).
type actClaim struct {
	Subject string    `json:"sub"`
	JTI     string    `json:"jti"` // of the token that this actor exchanged
	Act     *actClaim `json:"act,omitempty"`
}

func actOf(actors []principal.Actor) *actClaim {
	var act *actClaim
	for _, a := range slices.Backward(actors) {
		act = &actClaim{Subject: a.Subject.String(), JTI: a.JTI, Act: act}
	}
	return act
}

func accessClaimsOf(p *principal.Principal) accessClaims {
	c := accessClaims{
		Issuer: p.Credential.Issuer, Subject: p.Subject.String(), Audience: p.Credential.Audience,
		ClientID: p.ClientID, Tenant: p.Tenant.String(), Scope: strings.Join(p.Scopes, " "), Act: actOf(p.Actors),
		SID: p.Credential.SID, JTI: p.Credential.JTI, RootJTI: p.Credential.RootJTI,
		ACR: p.Assurance.ACR, AMR: p.Assurance.AMR,
		IssuedAt: p.Credential.IssuedAt.Unix(), Expires: p.Credential.Expires.Unix(),
	}
	if !p.Assurance.AuthTime.IsZero() {
		c.AuthTime = p.Assurance.AuthTime.Unix()
	}
	return c
}

// subjectToken is a token of ours that verified.
type subjectToken struct {
	principal *principal.Principal
	// tokenJTI is what an actor entry names when this token is exchanged: the
	// token itself; for an assertion the access token that it was made from,
	// since that is what can be revoked.
	tokenJTI string
}

// read verifies a token of ours: signature, typ, issuer and times; not yet
// revocation, nor whom it is addressed to. reason is a code of a closed set.
func (i *Issuer) read(token, typ string) (t subjectToken, reason string) {
	u, err := jose.Peek(token)
	switch {
	case err != nil:
		return t, "token_malformed"
	case !u.Header.Is(typ):
		return t, "token_type"
	}
	lookup := i.cfg.Keys.PublicKey
	if typ == TypAssertion {
		lookup = i.cfg.Keys.AssertionKey
	}
	key, ok := lookup(u.Header.KID)
	if !ok {
		return t, "token_unknown_key"
	}
	claims, err := jose.Verify(token, key, []jose.Alg{jose.ES256})
	if err != nil {
		return t, "token_signature"
	}
	p, err := principal.Read(claims)
	if err != nil || (typ != TypAssertion && p.ClientID == "") {
		return t, "token_malformed"
	}
	now := i.cfg.Now()
	switch {
	case p.Credential.Issuer != i.cfg.Issuer:
		return t, "token_issuer"
	case !now.Before(p.Credential.Expires):
		return t, "token_expired"
	case p.Credential.IssuedAt.After(now.Add(Skew)):
		return t, "token_not_yet"
	}
	p.Credential.Kind, p.Credential.KeyID = principal.AccessToken, key.KID
	t = subjectToken{principal: p, tokenJTI: p.Credential.JTI}
	if typ == TypAssertion {
		p.Credential.Kind = principal.Assertion
		if id, _, err := claims.Text("token_jti"); err != nil {
			return subjectToken{}, "token_malformed"
		} else if id != "" {
			t.tokenJTI = id
		}
	}
	return t, ""
}

// Limits on the parameter scope.
const (
	maxScopes    = 64
	maxScopeText = 2 << 10
)

// parseScope reads a space-delimited list (RFC 6749 section 3.3). Repetitions
// are dropped. "openid" is refused: no ID token is made here.
func parseScope(s string) ([]string, bool) {
	if s == "" {
		return nil, true
	}
	if len(s) > maxScopeText {
		return nil, false
	}
	var list []string
	for token := range strings.SplitSeq(s, " ") {
		if !validScope(token) {
			return nil, false
		}
		if !slices.Contains(list, token) {
			list = append(list, token)
		}
	}
	return list, len(list) <= maxScopes
}

// validScope reports whether s is a scope that we put into tokens.
func validScope(s string) bool {
	for i := range len(s) {
		if b := s[i]; b < 0x21 || b > 0x7e || b == '"' || b == '\\' {
			return false
		}
	}
	return s != "" && s != "openid"
}

// narrow returns the granted scopes: those asked for, all allowed ones when
// none is asked for. ok is false when more is asked for than allowed.
func narrow(asked, allowed []string) (granted []string, ok bool) {
	if len(asked) == 0 {
		return allowed, true
	}
	for _, s := range asked {
		if !slices.Contains(allowed, s) {
			return nil, false
		}
	}
	return asked, true
}

// intersect keeps of a what is in b, in a's order.
func intersect(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

// ActJSON returns the claim act of the actors, nil for none: the form that
// introspection shows.
func ActJSON(actors []principal.Actor) (json.RawMessage, error) {
	if len(actors) == 0 {
		return nil, nil
	}
	return json.Marshal(actOf(actors))
}
