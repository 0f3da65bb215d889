package principal

import (
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/tenant"
)

// Read reads the claims that access tokens and assertions of ours have in
// common (docs/spec/tokens.md). c must come out of a token whose signature by a
// key of ours verified: what the claim tenant says is then trusted. Whom the
// token is addressed to, its times and its revocation are the caller's to check,
// as are the credential's kind and key.
//
// The error has kind [fault.Invalid], or [fault.Unauthenticated] from package
// jose: a claim that we would not have written is refused, whoever signed it. ClientID may be empty.
func Read(c jose.Claims) (*Principal, error) {
	r := jose.Reader{Claims: c}
	sub, of := r.Need("sub"), r.Need("tenant")
	p := &Principal{
		ClientID: r.May("client_id"), Scopes: r.Scopes("scope"),
		Assurance: Assurance{ACR: r.May("acr"), AMR: r.List("amr"), AuthTime: r.Time("auth_time")},
		Credential: Credential{
			Issuer: r.Need("iss"), JTI: r.Need("jti"), RootJTI: r.Need("root_jti"), SID: r.May("sid"),
			IssuedAt: r.Time("iat"), NotBefore: r.Time("nbf"), Expires: r.Time("exp"),
		},
	}
	if r.Err != nil {
		return nil, r.Err
	}
	if p.Credential.IssuedAt.IsZero() || p.Credential.Expires.IsZero() {
		return nil, fault.New(fault.Invalid, "a token of ours has iat and exp")
	}
	aud, single, err := c.Audience()
	if err != nil || !single || aud[0] == "" {
		return nil, fault.New(fault.Invalid, "a token of ours has one audience")
	}
	p.Credential.Audience = aud[0]
	if p.Subject, err = ParseSubject(sub); err != nil {
		return nil, err
	}
	// The string stands inside bytes that we signed: a verified credential.
	if p.Tenant, err = tenant.Trusted(of); err != nil {
		return nil, err
	}
	if p.Actors, err = readActors(c); err != nil {
		return nil, err
	}
	return p, nil
}

// readActors reads the chain of act claims, the outermost first: that is the
// actor nearest to us (RFC 8693 section 4.1).
func readActors(c jose.Claims) ([]Actor, error) {
	var actors []Actor
	for c.Has("act") {
		act, _, err := c.Object("act")
		if err != nil {
			return nil, err
		}
		if len(actors) == MaxActors {
			return nil, fault.New(fault.Invalid, "the actor chain is too long")
		}
		r := jose.Reader{Claims: act}
		sub, jti := r.Need("sub"), r.Need("jti")
		if r.Err != nil {
			return nil, r.Err
		}
		s, err := ParseSubject(sub)
		if err != nil {
			return nil, err
		}
		if s.Kind != Service {
			return nil, fault.New(fault.Invalid, "only a service acts for another")
		}
		actors = append(actors, Actor{Subject: s, JTI: jti})
		c = act
	}
	return actors, nil
}
