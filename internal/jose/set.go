package jose

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"slices"

	gojose "github.com/go-jose/go-jose/v4"

	"bulwark.example/internal/fault"
)

// Limits on a JWK Set: bytes and number of keys, skipped ones included. The
// largest public issuers publish about twenty keys in 40 KiB.
const (
	MaxSet  = 1 << 20
	MaxKeys = 100
)

// Set is a JWK Set's usable keys, each under its own kid. The zero Set is
// empty. A Set is immutable.
type Set struct {
	keys map[string]PublicKey
	ids  []string // in the order of the document
}

// NewSet makes a Set of keys that we made ourselves. The error has kind
// [fault.Invalid]: a key without kid, two keys with one kid, an unsound key.
func NewSet(keys ...PublicKey) (Set, error) {
	s := Set{keys: make(map[string]PublicKey, len(keys))}
	for _, k := range keys {
		if err := k.fit(); err != nil {
			return Set{}, err
		}
		if err := s.add(k); err != nil {
			return Set{}, err
		}
	}
	return s, nil
}

func (s *Set) add(k PublicKey) error {
	if k.KID == "" || len(k.KID) > MaxKID {
		return fault.New(fault.Invalid, "a key of the set has no usable kid")
	}
	if _, taken := s.keys[k.KID]; taken {
		return fault.New(fault.Invalid, "two keys of the set share a kid")
	}
	s.keys[k.KID] = k
	s.ids = append(s.ids, k.KID)
	return nil
}

// Key returns the key with that kid.
func (s Set) Key(kid string) (PublicKey, bool) {
	k, ok := s.keys[kid]
	return k, ok
}

// Len returns the number of usable keys.
func (s Set) Len() int { return len(s.ids) }

// Keys returns the usable keys in the document's order.
func (s Set) Keys() []PublicKey {
	out := make([]PublicKey, len(s.ids))
	for i, id := range s.ids {
		out[i] = s.keys[id]
	}
	return out
}

// MarshalJSON writes the set as RFC 7517 section 5 has it. The error has kind
// [fault.Invalid].
func (s Set) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Keys []PublicKey `json:"keys"`
	}{s.Keys()})
}

// ParseSet reads a JWK Set that somebody else wrote.
//
// Skipped, as RFC 7517 section 5 asks: keys of a type, curve or algorithm that
// we do not know, keys for encryption, keys without kid. Refused, the whole
// set: more than [MaxSet] bytes or [MaxKeys] keys, a private or symmetric part,
// an RSA key outside [MinRSA] to [MaxRSA] bits, a point that is not on its
// curve, two keys with one kid. A key without alg is bound to its type's
// default: RSA to RS256, P-256 to ES256, Ed25519 to EdDSA. Certificates are
// ignored and no URL is followed.
//
// The error has kind [fault.Invalid].
func ParseSet(raw []byte) (Set, error) {
	if len(raw) > MaxSet {
		return Set{}, fault.New(fault.Invalid, "the JWK set is too large")
	}
	members, err := object(raw, maxDepth)
	if err != nil {
		return Set{}, fault.Wrap(fault.Invalid, "not a JWK set", err)
	}
	var list []json.RawMessage
	if json.Unmarshal(members["keys"], &list) != nil || list == nil {
		return Set{}, fault.New(fault.Invalid, "a JWK set needs an array of keys")
	}
	if len(list) > MaxKeys {
		return Set{}, fault.New(fault.Invalid, "the JWK set has too many keys")
	}
	s := Set{keys: make(map[string]PublicKey, len(list))}
	for _, entry := range list {
		var members map[string]json.RawMessage
		if json.Unmarshal(entry, &members) != nil || members == nil {
			return Set{}, fault.New(fault.Invalid, "a key of the set is not an object")
		}
		k, ok, err := parseKey(Claims{entry, members})
		if err != nil {
			return Set{}, err
		}
		if !ok || k.KID == "" {
			continue
		}
		if err := s.add(k); err != nil {
			return Set{}, err
		}
	}
	return s, nil
}

// parseKey reads one public JWK; ok is false when it is to be skipped. Only the
// members that make up the key reach go-jose.
func parseKey(c Claims) (k PublicKey, ok bool, err error) {
	var text struct{ kty, crv, use, alg, kid string }
	for _, f := range []struct {
		name string
		to   *string
	}{{"kty", &text.kty}, {"crv", &text.crv}, {"use", &text.use}, {"alg", &text.alg}, {"kid", &text.kid}} {
		if *f.to, _, err = c.Text(f.name); err != nil {
			return PublicKey{}, false, fault.Wrap(fault.Invalid, "a key of the set is malformed", err)
		}
	}
	for _, private := range [...]string{"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"} {
		if c.Has(private) {
			return PublicKey{}, false, fault.New(fault.Invalid, "the JWK set shows private key material; that key must be replaced")
		}
	}
	if text.use != "" && text.use != "sig" {
		return PublicKey{}, false, nil
	}
	if c.Has("key_ops") {
		ops, _, err := c.Texts("key_ops")
		if err != nil {
			return PublicKey{}, false, fault.Wrap(fault.Invalid, "a key of the set is malformed", err)
		}
		if !slices.Contains(ops, "verify") {
			return PublicKey{}, false, nil
		}
	}
	var names []string
	var fits []Alg // the first is the default
	switch {
	case text.kty == "EC" && text.crv == "P-256":
		names, fits = []string{"kty", "crv", "x", "y"}, []Alg{ES256}
	case text.kty == "OKP" && text.crv == "Ed25519":
		names, fits = []string{"kty", "crv", "x"}, []Alg{EdDSA}
	case text.kty == "RSA":
		names, fits = []string{"kty", "n", "e"}, []Alg{RS256, PS256}
	default:
		return PublicKey{}, false, nil
	}
	if text.alg == "" {
		text.alg = string(fits[0])
	}
	if !slices.Contains(fits, Alg(text.alg)) {
		return PublicKey{}, false, nil
	}
	key, err := material(c, names)
	if err != nil {
		return PublicKey{}, false, err
	}
	k = PublicKey{KID: text.kid, Alg: Alg(text.alg), Key: key}
	if err := k.fit(); err != nil {
		return PublicKey{}, false, err
	}
	return k, true, nil
}

func material(c Claims, names []string) (crypto.PublicKey, error) {
	bad := fault.New(fault.Invalid, "a key of the set is malformed")
	only := map[string]json.RawMessage{}
	for _, name := range names {
		only[name] = c.Member(name)
		if name == "kty" || name == "crv" {
			continue
		}
		text, _, err := c.Text(name)
		if err != nil || text == "" || len(text) > 2*MaxRSA/8 {
			return nil, bad
		}
		if _, err := base64.RawURLEncoding.Strict().DecodeString(text); err != nil {
			return nil, bad
		}
	}
	minimal, err := json.Marshal(only)
	if err != nil {
		return nil, bad
	}
	var jwk gojose.JSONWebKey
	if err := jwk.UnmarshalJSON(minimal); err != nil {
		return nil, fault.Wrap(fault.Invalid, "a key of the set is malformed", err)
	}
	return jwk.Key, nil
}
