// Package jose is the strict reader of signed tokens: compact JWS with asymmetric keys only.
//
// It stands before go-jose and is stricter: sizes, characters, member names
// and algorithms are checked before anything is parsed; a key verifies with
// its own algorithm and no other; a JSON object with a repeated member is no
// object; a time is a whole number. What the header of a token may say about
// keys (jwk, jku, x5u, x5c) is refused, never followed: a token cannot bring
// its own key. Sources: RFC 7515, 7517, 7518, 7638, and RFC 8725 (best
// practices) throughout.
//
// Everything here is pure and safe for concurrent use.
package jose

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"bulwark.example/internal/fault"
)

// Alg is a signature algorithm by its JOSE name (RFC 7518 section 3.1, RFC 8037).
type Alg string

// The algorithms. There is deliberately no HS*, no none, no RSA with SHA-1.
// We sign with ES256; external issuers may use what their connection lists.
const (
	ES256 Alg = "ES256"
	EdDSA Alg = "EdDSA"
	RS256 Alg = "RS256"
	PS256 Alg = "PS256"
)

// Known reports whether a is one of the algorithms above.
func (a Alg) Known() bool {
	switch a {
	case ES256, EdDSA, RS256, PS256:
		return true
	}
	return false
}

// Limits on a token, in bytes of its compact form. Real tokens of large
// directories stay below 8 KiB; HTTP servers refuse headers soon after.
const (
	MaxToken  = 16 << 10
	MaxHeader = 2 << 10
	MaxKID    = 256
	maxDepth  = 16 // levels of JSON nesting
)

// The ways in which a token is refused. All have kind [fault.Unauthenticated].
// Errors of this package wrap one of them: ask with errors.Is.
var (
	ErrMalformed = fault.New(fault.Unauthenticated, "the token is malformed")
	ErrTooLarge  = fault.New(fault.Unauthenticated, "the token is too large")
	ErrAlg       = fault.New(fault.Unauthenticated, "the token's algorithm is not allowed")
	ErrSignature = fault.New(fault.Unauthenticated, "the token's signature does not verify")
)

// Header is what the protected header says, within what we understand.
type Header struct {
	Alg Alg
	KID string // empty when absent
	Typ string // as written; empty when absent
}

// Is reports whether the header's typ is the media type "application/"+typ,
// with or without the prefix and in any case (RFC 7515 section 4.1.9).
func (h Header) Is(typ string) bool {
	const prefix = "application/"
	got := h.Typ
	if len(got) > len(prefix) && strings.EqualFold(got[:len(prefix)], prefix) {
		got = got[len(prefix):]
	}
	return strings.EqualFold(got, typ)
}

// Unverified is what a token says before its signature was verified. It may
// choose which key verifies the token, and nothing else.
type Unverified struct {
	Header   Header
	Issuer   string   // the claim iss, empty when absent
	Audience []string // the claim aud as a list, empty when absent
}

// Peek checks the form of a token and returns what it says, unverified. It
// refuses, in this order and before any parser sees the bytes: more than
// [MaxToken] bytes, anything but three non-empty parts of base64url, a header
// over [MaxHeader] bytes. Then: a header or payload that is no JSON object, that
// repeats a member or nests too deep; an algorithm that is not one of ours; the
// header members crit, b64, zip, enc, jwk, jku, x5u and x5c.
//
// The error wraps [ErrMalformed], [ErrTooLarge] or [ErrAlg].
func Peek(token string) (Unverified, error) {
	u, _, _, err := peek(token)
	return u, err
}

// peek is Peek that also hands back the claims and the signature.
func peek(token string) (Unverified, Claims, []byte, error) {
	head, body, sig, err := split(token)
	if err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	header, err := parseHeader(head)
	if err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	raw, err := decode(body)
	if err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	claims, err := ParseClaims(raw)
	if err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	signature, err := decode(sig)
	if err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	u := Unverified{Header: header}
	if u.Issuer, _, err = claims.Text("iss"); err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	if u.Audience, _, err = claims.Audience(); err != nil {
		return Unverified{}, Claims{}, nil, err
	}
	return u, claims, signature, nil
}

// split cuts the compact form in one pass. It stops at the third dot, so that
// a token of a thousand dots costs what a good one costs.
func split(token string) (head, body, sig string, err error) {
	if len(token) > MaxToken {
		return "", "", "", ErrTooLarge
	}
	var dots [2]int
	n := 0
	for i := range len(token) {
		switch c := token[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.':
			if n == 2 {
				return "", "", "", fmt.Errorf("%w: more than three parts", ErrMalformed)
			}
			dots[n] = i
			n++
		default:
			return "", "", "", fmt.Errorf("%w: not base64url", ErrMalformed)
		}
	}
	if n != 2 {
		return "", "", "", fmt.Errorf("%w: fewer than three parts", ErrMalformed)
	}
	head, body, sig = token[:dots[0]], token[dots[0]+1:dots[1]], token[dots[1]+1:]
	if len(head) > MaxHeader {
		return "", "", "", fmt.Errorf("%w: header", ErrTooLarge)
	}
	if head == "" || body == "" {
		return "", "", "", fmt.Errorf("%w: empty part", ErrMalformed)
	}
	return head, body, sig, nil
}

// decode reads base64url strictly: the unused bits of the last character must
// be zero, or one signature would have several spellings. Line breaks, which
// encoding/base64 skips, were refused by split.
func decode(part string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64url", ErrMalformed)
	}
	return raw, nil
}

// forbidden are the header members that would change what a token means or
// where its key comes from. enc makes it a JWE.
var forbidden = [...]string{"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"}

func parseHeader(part string) (Header, error) {
	raw, err := decode(part)
	if err != nil {
		return Header{}, err
	}
	c, err := ParseClaims(raw)
	if err != nil {
		return Header{}, err
	}
	// The algorithm first: a token without a signature is called by its name.
	var alg string
	if json.Unmarshal(c.members["alg"], &alg) != nil || !Alg(alg).Known() {
		return Header{}, ErrAlg
	}
	for _, name := range forbidden {
		if c.Has(name) {
			return Header{}, fmt.Errorf("%w: header member %s", ErrMalformed, name)
		}
	}
	h := Header{Alg: Alg(alg)}
	if h.KID, _, err = c.Text("kid"); err != nil {
		return Header{}, err
	}
	if len(h.KID) > MaxKID {
		return Header{}, fmt.Errorf("%w: kid", ErrTooLarge)
	}
	if h.Typ, _, err = c.Text("typ"); err != nil {
		return Header{}, err
	}
	return h, nil
}
