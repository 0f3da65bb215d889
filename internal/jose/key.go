package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	gojose "github.com/go-jose/go-jose/v4"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
)

// PublicKey verifies signatures of exactly one algorithm.
type PublicKey struct {
	KID string
	Alg Alg
	Key crypto.PublicKey // *ecdsa.PublicKey (P-256), *rsa.PublicKey or ed25519.PublicKey
}

// Size limits of RSA keys, in bits. Below, they can be factored some day soon;
// above, one verification costs a denial of service.
const (
	MinRSA = 2048
	MaxRSA = 8192
)

// fit reports whether the key is of the algorithm's type and a sound one. The
// error has kind [fault.Invalid].
func (k PublicKey) fit() error {
	switch key := k.Key.(type) {
	case *ecdsa.PublicKey:
		if k.Alg != ES256 || key.Curve != elliptic.P256() {
			return fault.New(fault.Invalid, "the key does not fit its algorithm")
		}
		if _, err := key.ECDH(); err != nil { // checks that the point is on the curve, not at infinity
			return fault.New(fault.Invalid, "the key is not a point on its curve")
		}
	case ed25519.PublicKey:
		if k.Alg != EdDSA || len(key) != ed25519.PublicKeySize {
			return fault.New(fault.Invalid, "the key does not fit its algorithm")
		}
	case *rsa.PublicKey:
		if k.Alg != RS256 && k.Alg != PS256 {
			return fault.New(fault.Invalid, "the key does not fit its algorithm")
		}
		if bits := key.N.BitLen(); bits < MinRSA || bits > MaxRSA || key.N.Bit(0) == 0 {
			return fault.New(fault.Invalid, "an RSA key must have 2048 to 8192 bits")
		}
		if key.E < 3 || key.E&1 == 0 || key.E > 1<<31-1 {
			return fault.New(fault.Invalid, "the RSA key's exponent is not sound")
		}
	default:
		return fault.New(fault.Invalid, "the key's type is not supported")
	}
	return nil
}

// Thumbprint returns the RFC 7638 thumbprint of the key, SHA-256 in base64url:
// 43 characters. It is our kid, so that a kid cannot name two keys. The error
// has kind [fault.Invalid].
func (k PublicKey) Thumbprint() (string, error) {
	sum, err := (&gojose.JSONWebKey{Key: k.Key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "the key has no thumbprint", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// MarshalJSON writes the key as a public JWK with kid, alg and use (RFC 7517).
// The error has kind [fault.Invalid].
func (k PublicKey) MarshalJSON() ([]byte, error) {
	if err := k.fit(); err != nil {
		return nil, err
	}
	raw, err := gojose.JSONWebKey{Key: k.Key, KeyID: k.KID, Algorithm: string(k.Alg), Use: "sig"}.MarshalJSON()
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the key cannot be written", err)
	}
	return raw, nil
}

// ParsePublicKey reads a public JWK by the rules of [ParseSet]; a key that a
// set would skip is an error here. The error has kind [fault.Invalid].
func ParsePublicKey(raw []byte) (PublicKey, error) {
	members, err := object(raw, maxDepth)
	if err != nil {
		return PublicKey{}, fault.Wrap(fault.Invalid, "not a JWK", err)
	}
	k, ok, err := parseKey(Claims{raw, members})
	if err != nil {
		return PublicKey{}, err
	}
	if !ok {
		return PublicKey{}, fault.New(fault.Invalid, "the key is not one that verifies signatures")
	}
	return k, nil
}

// PrivateKey signs. It never prints or marshals by accident: only
// [PrivateKey.MarshalSecret] gives it away. The zero PrivateKey signs nothing.
type PrivateKey struct {
	signer *ecdsa.PrivateKey
	public PublicKey
}

// GenerateES256 makes a P-256 key whose kid is its thumbprint. The error has
// kind [fault.Internal].
func GenerateES256() (PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return PrivateKey{}, fault.Wrap(fault.Internal, "no key could be made", err)
	}
	return newPrivateKey(key)
}

func newPrivateKey(key *ecdsa.PrivateKey) (PrivateKey, error) {
	public := PublicKey{Alg: ES256, Key: &key.PublicKey}
	if err := public.fit(); err != nil {
		return PrivateKey{}, err
	}
	kid, err := public.Thumbprint()
	if err != nil {
		return PrivateKey{}, err
	}
	public.KID = kid
	return PrivateKey{key, public}, nil
}

// Public returns the public half.
func (k PrivateKey) Public() PublicKey { return k.public }

// KID returns the thumbprint of the public half.
func (k PrivateKey) KID() string { return k.public.KID }

// IsZero reports whether there is no key.
func (k PrivateKey) IsZero() bool { return k.signer == nil }

// Format writes "[secret]" whatever the verb.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalJSON refuses, with kind [fault.Internal]: a private key in an encoder is a defect.
func (k PrivateKey) MarshalJSON() ([]byte, error) {
	return nil, fault.New(fault.Internal, "a private key cannot be marshalled")
}

// MarshalSecret writes the key as a private JWK (RFC 7517), to be sealed or to
// be written to a file of dev. The error has kind [fault.Invalid].
func (k PrivateKey) MarshalSecret() (secret.Bytes, error) {
	if k.IsZero() {
		return secret.Bytes{}, fault.New(fault.Invalid, "there is no key to write")
	}
	raw, err := gojose.JSONWebKey{Key: k.signer, KeyID: k.public.KID, Algorithm: string(ES256), Use: "sig"}.MarshalJSON()
	if err != nil {
		return secret.Bytes{}, fault.Wrap(fault.Invalid, "the key cannot be written", err)
	}
	return secret.New(raw), nil
}

// ParsePrivateKey reads what [PrivateKey.MarshalSecret] wrote: a P-256 key with
// alg ES256 or none. A kid inside must be the thumbprint. The error has kind
// [fault.Invalid] and holds nothing of the input.
func ParsePrivateKey(raw secret.Bytes) (PrivateKey, error) {
	bad := fault.New(fault.Invalid, "not a private P-256 JWK")
	members, err := object(raw.Reveal(), maxDepth)
	if err != nil {
		return PrivateKey{}, bad
	}
	// The members of an EC key alone: no certificate of it is parsed.
	only := map[string]json.RawMessage{}
	for _, name := range [...]string{"kty", "crv", "x", "y", "d"} {
		only[name] = members[name]
	}
	minimal, err := json.Marshal(only)
	if err != nil {
		return PrivateKey{}, bad
	}
	defer clear(minimal)
	var jwk gojose.JSONWebKey
	if err := jwk.UnmarshalJSON(minimal); err != nil {
		return PrivateKey{}, bad
	}
	key, ok := jwk.Key.(*ecdsa.PrivateKey)
	if !ok {
		return PrivateKey{}, bad
	}
	// ECDH computes the public point from d; a pair that does not belong
	// together would sign what nobody can verify.
	pair, err := key.ECDH()
	if err != nil {
		return PrivateKey{}, bad
	}
	stated, err := key.PublicKey.ECDH()
	if err != nil || !pair.PublicKey().Equal(stated) {
		return PrivateKey{}, bad
	}
	k, err := newPrivateKey(key)
	if err != nil {
		return PrivateKey{}, bad
	}
	c := Claims{members: members}
	kid, _, err := c.Text("kid")
	alg, _, err2 := c.Text("alg")
	if err != nil || err2 != nil || (kid != "" && kid != k.KID()) || (alg != "" && alg != string(ES256)) {
		return PrivateKey{}, bad
	}
	return k, nil
}

// Sign makes a compact JWS over the JSON of claims, with kid and the given typ
// in the header. The error has kind [fault.Internal].
func Sign(key PrivateKey, typ string, claims any) (string, error) {
	if key.IsZero() || typ == "" {
		return "", fault.New(fault.Internal, "signing needs a key and a typ")
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fault.Wrap(fault.Internal, "the claims cannot be written", err)
	}
	// What we would refuse to read we do not sign.
	if _, err := ParseClaims(payload); err != nil {
		return "", fault.Wrap(fault.Internal, "the claims cannot be written", err)
	}
	opts := (&gojose.SignerOptions{}).WithType(gojose.ContentType(typ))
	signer, err := gojose.NewSigner(gojose.SigningKey{
		Algorithm: gojose.ES256,
		Key:       gojose.JSONWebKey{Key: key.signer, KeyID: key.public.KID},
	}, opts)
	if err != nil {
		return "", fault.Wrap(fault.Internal, "the key cannot sign", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fault.Wrap(fault.Internal, "the key cannot sign", err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return "", fault.Wrap(fault.Internal, "the token cannot be written", err)
	}
	return token, nil
}

// Verify checks a token's form as [Peek] does, then that its algorithm is
// allowed and is the key's own, then its signature. It returns the claims that
// were signed; what they mean is the caller's to check: exp, aud, iss, typ.
//
// An ES256 signature is the raw 64 bytes r || s with neither zero (RFC 7518
// section 3.4); the DER form, which Go's crypto.Signer gives, is refused.
//
// The error wraps [ErrMalformed], [ErrTooLarge], [ErrAlg] or [ErrSignature].
func Verify(token string, key PublicKey, allowed []Alg) (Claims, error) {
	u, claims, sig, err := peek(token)
	if err != nil {
		return Claims{}, err
	}
	if !slices.Contains(allowed, u.Header.Alg) || u.Header.Alg != key.Alg {
		return Claims{}, ErrAlg
	}
	if err := key.fit(); err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if !plausible(u.Header.Alg, sig) {
		return Claims{}, fmt.Errorf("%w: form", ErrSignature)
	}
	jws, err := gojose.ParseSignedCompact(token, []gojose.SignatureAlgorithm{gojose.SignatureAlgorithm(key.Alg)})
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	payload, err := jws.Verify(key.Key)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	// Two parsers have read the token; that they read the same bytes is what
	// makes the pre-checks worth anything.
	if string(payload) != string(claims.raw) {
		return Claims{}, fmt.Errorf("%w: read differently", ErrMalformed)
	}
	return claims, nil
}

// plausible refuses signatures of another form before any arithmetic.
func plausible(alg Alg, sig []byte) bool {
	switch alg {
	case ES256:
		var zero [32]byte
		return len(sig) == 64 && string(sig[:32]) != string(zero[:]) && string(sig[32:]) != string(zero[:])
	case EdDSA:
		return len(sig) == ed25519.SignatureSize
	case RS256, PS256:
		return len(sig) >= MinRSA/8 && len(sig) <= MaxRSA/8
	}
	return false
}
