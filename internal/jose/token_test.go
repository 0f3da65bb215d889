package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/fault"
)

var b64 = base64.RawURLEncoding

// raw builds a compact token byte by byte, as an attacker does: header and
// payload are taken as they are, sign gets the signing input.
func raw(header, payload string, sign func(input string) []byte) string {
	input := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString([]byte(payload))
	return input + "." + b64.EncodeToString(sign(input))
}

// es256 signs honestly with key.
func es256(t *testing.T, key *ecdsa.PrivateKey) func(string) []byte {
	return func(input string) []byte {
		sum := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 64)
		r.FillBytes(out[:32])
		s.FillBytes(out[32:])
		return out
	}
}

func nothing(string) []byte { return nil }

func newKey(t *testing.T) PrivateKey {
	t.Helper()
	k, err := GenerateES256()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const goodClaims = `{"iss":"https://issuer.example","aud":"urn:x","exp":1900000000}`

func TestSignAndVerify(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	token, err := Sign(key, "at+jwt", map[string]any{"iss": "https://issuer.example", "aud": "urn:x", "exp": 1900000000, "html": "<&>"})
	if err != nil {
		t.Fatal(err)
	}
	u, err := Peek(token)
	if err != nil {
		t.Fatal(err)
	}
	if u.Header.Alg != ES256 || u.Header.KID != key.KID() || u.Header.Typ != "at+jwt" || u.Issuer != "https://issuer.example" || len(u.Audience) != 1 || u.Audience[0] != "urn:x" {
		t.Errorf("Peek gave %+v", u)
	}
	claims, err := Verify(token, key.Public(), []Alg{ES256})
	if err != nil {
		t.Fatal(err)
	}
	if s, ok, err := claims.Text("html"); s != "<&>" || !ok || err != nil {
		t.Errorf("html = %q %v %v", s, ok, err)
	}
	exp, ok, err := claims.Time("exp")
	if !exp.Equal(time.Unix(1900000000, 0)) || !ok || err != nil {
		t.Errorf("exp = %v %v %v", exp, ok, err)
	}
	if _, err := Verify(token, newKey(t).Public(), []Alg{ES256}); !errors.Is(err, ErrSignature) {
		t.Errorf("another key verified: %v", err)
	}
	if _, err := Verify(token, key.Public(), []Alg{RS256, EdDSA}); !errors.Is(err, ErrAlg) {
		t.Errorf("an algorithm that is not allowed verified: %v", err)
	}
	if _, err := Verify(token, key.Public(), nil); !errors.Is(err, ErrAlg) {
		t.Errorf("an empty list allows: %v", err)
	}
	if _, err := Sign(PrivateKey{}, "at+jwt", map[string]any{}); fault.KindOf(err) != fault.Internal {
		t.Errorf("the zero key signs: %v", err)
	}
	if _, err := Sign(key, "", map[string]any{}); err == nil {
		t.Error("signing without typ works: tokens of two kinds could be confused")
	}
	if _, err := Sign(key, "at+jwt", []string{"no object"}); err == nil {
		t.Error("signing claims that are no object works")
	}
}

// TestEveryBitCounts: any flipped bit of the signature and any other spelling
// of it is refused.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	token, err := Sign(key, "at+jwt", map[string]any{"sub": "x"})
	if err != nil {
		t.Fatal(err)
	}
	dot := strings.LastIndexByte(token, '.') + 1
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := dot; i < len(token); i++ {
		at := strings.IndexByte(alphabet, token[i])
		for bit := range 6 {
			other := token[:i] + string(alphabet[at^1<<bit]) + token[i+1:]
			if _, err := Verify(other, key.Public(), []Alg{ES256}); err == nil {
				t.Fatalf("the signature verifies with bit %d of character %d flipped", bit, i-dot)
			}
		}
	}
	for name, other := range map[string]string{
		"truncated": token[:len(token)-1], "padding": token + "=", "line break": token + "\n",
		"line break inside": token[:dot+3] + "\r\n" + token[dot+3:], "leading space": " " + token,
		"no signature": token[:dot], "extra part": token + ".",
	} {
		if _, err := Verify(other, key.Public(), []Alg{ES256}); err == nil {
			t.Errorf("%s: verifies", name)
		}
	}
}

// TestBadTokens is research/identity.md section 5, items 18, 19, 21 and 22, as
// far as parsing and verification go. Each is signed as well as its attacker can.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	pub := key.Public()
	honest := es256(t, key.signer)
	mac := func(secret []byte) func(string) []byte {
		return func(input string) []byte {
			h := hmac.New(sha256.New, secret)
			h.Write([]byte(input))
			return h.Sum(nil)
		}
	}
	jwk, err := json.Marshal(pub)
	if err != nil {
		t.Fatal(err)
	}
	der := func(input string) []byte {
		sum := sha256.Sum256([]byte(input))
		sig, err := key.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	header := func(more string) string { return `{"alg":"ES256","kid":"` + key.KID() + `"` + more + `}` }
	deep := strings.Repeat(`{"a":`, 60) + `1` + strings.Repeat(`}`, 60)
	veryDeep := strings.Repeat(`[`, 5000)

	for _, c := range []struct {
		name  string
		token string
		want  error
	}{
		{"empty", "", ErrMalformed},
		{"no dots", "abc", ErrMalformed},
		{"one dot", "e30.e30", ErrMalformed},
		{"a dot at the end", "e30.", ErrMalformed},
		{"dots only", "..", ErrMalformed},
		{"thousands of dots", strings.Repeat(".", 10_000), ErrMalformed},
		{"1 MB", raw(header(""), `{"a":"`+strings.Repeat("x", 1<<20)+`"}`, honest), ErrTooLarge},
		{"one byte too many", strings.Repeat("a", MaxToken+1), ErrTooLarge},
		{"header too large", raw(header(`,"x":"`+strings.Repeat("x", MaxHeader)+`"`), goodClaims, honest), ErrTooLarge},
		{"kid of 10 kB", raw(`{"alg":"ES256","kid":"`+strings.Repeat("k", 10_000)+`"}`, goodClaims, honest), ErrTooLarge},
		{"kid of 300 bytes", raw(`{"alg":"ES256","kid":"`+strings.Repeat("k", 300)+`"}`, goodClaims, honest), ErrTooLarge},
		{"kid is a number", raw(`{"alg":"ES256","kid":1}`, goodClaims, honest), ErrMalformed},
		{"kid is null", raw(`{"alg":"ES256","kid":null}`, goodClaims, honest), ErrMalformed},
		{"alg none", raw(`{"alg":"none"}`, goodClaims, nothing), ErrAlg},
		{"alg None", raw(`{"alg":"None"}`, goodClaims, nothing), ErrAlg},
		{"alg nOnE, signed", raw(`{"alg":"nOnE"}`, goodClaims, honest), ErrAlg},
		{"alg null", raw(`{"alg":null}`, goodClaims, honest), ErrAlg},
		{"alg empty", raw(`{"alg":""}`, goodClaims, honest), ErrAlg},
		{"alg missing", raw(`{"typ":"JWT"}`, goodClaims, honest), ErrAlg},
		{"alg a list", raw(`{"alg":["ES256"]}`, goodClaims, honest), ErrAlg},
		{"alg in lower case", raw(`{"alg":"es256"}`, goodClaims, honest), ErrAlg},
		{"ALG member", raw(`{"ALG":"ES256"}`, goodClaims, honest), ErrAlg},
		{"HS256 with our public JWK", raw(`{"alg":"HS256"}`, goodClaims, mac(jwk)), ErrAlg},
		{"RS256 claimed for our key", raw(`{"alg":"RS256"}`, goodClaims, honest), ErrAlg},
		{"EdDSA claimed for our key", raw(`{"alg":"EdDSA"}`, goodClaims, honest), ErrAlg},
		{"ES384", raw(`{"alg":"ES384"}`, goodClaims, honest), ErrAlg},
		{"crit", raw(header(`,"crit":["exp"]`), goodClaims, honest), ErrMalformed},
		{"crit empty", raw(header(`,"crit":[]`), goodClaims, honest), ErrMalformed},
		{"b64 false", raw(header(`,"b64":false,"crit":["b64"]`), goodClaims, honest), ErrMalformed},
		{"b64 true", raw(header(`,"b64":true`), goodClaims, honest), ErrMalformed},
		{"zip", raw(header(`,"zip":"DEF"`), goodClaims, honest), ErrMalformed},
		{"jwk", raw(header(`,"jwk":`+string(jwk)), goodClaims, honest), ErrMalformed},
		{"jku", raw(header(`,"jku":"https://evil.example/jwks"`), goodClaims, honest), ErrMalformed},
		{"x5u", raw(header(`,"x5u":"https://evil.example/cert"`), goodClaims, honest), ErrMalformed},
		{"x5c", raw(header(`,"x5c":[]`), goodClaims, honest), ErrMalformed},
		{"JWE of five parts", "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AA.AA.AA.AA", ErrMalformed},
		{"JWE header in three parts", raw(header(`,"enc":"A256GCM"`), goodClaims, honest), ErrMalformed},
		{"PBES2 header", raw(`{"alg":"PBES2-HS256+A128KW","p2c":2147483647}`, goodClaims, honest), ErrAlg},
		{"JSON serialization", `{"payload":"e30","signatures":[]}`, ErrMalformed},
		{"repeated header member", raw(`{"alg":"none","alg":"ES256"}`, goodClaims, honest), ErrMalformed},
		{"repeated claim", raw(header(""), `{"sub":"a","sub":"b"}`, honest), ErrMalformed},
		{"repeated claim, escaped", raw(header(""), `{"sub":"a","s\u0075b":"b"}`, honest), ErrMalformed},
		{"repeated claim inside", raw(header(""), `{"act":{"sub":"a","sub":"b"}}`, honest), ErrMalformed},
		{"repeated claim inside a list", raw(header(""), `{"l":[{"a":1,"a":1}]}`, honest), ErrMalformed},
		{"deep claims", raw(header(""), deep, honest), ErrMalformed},
		{"deep list, unclosed", raw(header(""), veryDeep, honest), ErrMalformed},
		{"payload a list", raw(header(""), `[]`, honest), ErrMalformed},
		{"payload a string", raw(header(""), `"x"`, honest), ErrMalformed},
		{"payload null", raw(header(""), `null`, honest), ErrMalformed},
		{"payload empty", raw(header(""), ``, honest), ErrMalformed},
		{"payload with more behind", raw(header(""), `{}{}`, honest), ErrMalformed},
		{"payload not UTF-8", raw(header(""), "{\"a\":\"\xff\"}", honest), ErrMalformed},
		{"nested token", raw(header(`,"cty":"JWT"`), raw(header(""), goodClaims, honest), honest), ErrMalformed},
		{"iss a number", raw(header(""), `{"iss":1}`, honest), ErrMalformed},
		{"aud a number", raw(header(""), `{"aud":1}`, honest), ErrMalformed},
		{"aud a list with null", raw(header(""), `{"aud":["a",null]}`, honest), ErrMalformed},
		{"aud an object", raw(header(""), `{"aud":{}}`, honest), ErrMalformed},
		{"DER signature", raw(header(""), goodClaims, der), ErrSignature},
		{"r = 0", raw(header(""), goodClaims, func(in string) []byte { s := honest(in); clear(s[:32]); return s }), ErrSignature},
		{"s = 0", raw(header(""), goodClaims, func(in string) []byte { s := honest(in); clear(s[32:]); return s }), ErrSignature},
		{"r = s = 0", raw(header(""), goodClaims, func(string) []byte { return make([]byte, 64) }), ErrSignature},
		{"r of the curve's order", raw(header(""), goodClaims, func(in string) []byte {
			s := honest(in)
			elliptic.P256().Params().N.FillBytes(s[:32])
			return s
		}), ErrSignature},
		{"65 bytes", raw(header(""), goodClaims, func(in string) []byte { return append(honest(in), 0) }), ErrSignature},
		{"63 bytes", raw(header(""), goodClaims, func(in string) []byte { return honest(in)[:63] }), ErrSignature},
		{"no signature", raw(header(""), goodClaims, nothing), ErrSignature},
		{"signature over other claims", raw(header(""), goodClaims, func(string) []byte { return honest("x.y") }), ErrSignature},
	} {
		_, err := Verify(c.token, pub, []Alg{ES256})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("%s: kind %v", c.name, fault.KindOf(err))
		}
	}
	if _, err := Verify(raw(header(""), goodClaims, honest), pub, []Alg{ES256}); err != nil {
		t.Fatalf("the honest token of this table does not verify: %v", err)
	}
	// The DER form really is one that a careless verifier would take.
	sum := sha256.Sum256([]byte("x"))
	sig, _ := key.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	var form struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &form); err != nil || !ecdsa.Verify(&key.signer.PublicKey, sum[:], form.R, form.S) {
		t.Fatal("the DER case proves nothing")
	}
}

// TestKeyBoundToItsAlgorithm: an RSA key that is published for PS256 does not
// verify RS256, and the other way round.
func TestKeyBoundToItsAlgorithm(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, MinRSA)
	if err != nil {
		t.Fatal(err)
	}
	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs := func(in string) []byte {
		sum := sha256.Sum256([]byte(in))
		sig, err := rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	pss := func(in string) []byte {
		sum := sha256.Sum256([]byte(in))
		sig, err := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	ed := func(in string) []byte { return ed25519.Sign(edKey, []byte(in)) }
	all := []Alg{ES256, EdDSA, RS256, PS256}
	asRS, asPS, asEd := PublicKey{"k", RS256, &rsaKey.PublicKey}, PublicKey{"k", PS256, &rsaKey.PublicKey}, PublicKey{"k", EdDSA, edPub}
	for _, c := range []struct {
		name   string
		header string
		sign   func(string) []byte
		key    PublicKey
		want   error
	}{
		{"RS256", "RS256", pkcs, asRS, nil},
		{"PS256", "PS256", pss, asPS, nil},
		{"EdDSA", "EdDSA", ed, asEd, nil},
		{"RS256 token, PS256 key", "RS256", pkcs, asPS, ErrAlg},
		{"PS256 token, RS256 key", "PS256", pss, asRS, ErrAlg},
		{"PSS signature under RS256", "RS256", pss, asRS, ErrSignature},
		{"PKCS1 signature under PS256", "PS256", pkcs, asPS, ErrSignature},
		{"EdDSA token, RSA key named EdDSA", "EdDSA", ed, PublicKey{"k", EdDSA, &rsaKey.PublicKey}, ErrSignature},
		{"RS256 token, private key given as public", "RS256", pkcs, PublicKey{"k", RS256, rsaKey}, ErrSignature},
		{"HMAC bytes as a key", "RS256", pkcs, PublicKey{"k", RS256, []byte("secret")}, ErrSignature},
		{"no key", "RS256", pkcs, PublicKey{}, ErrAlg},
	} {
		_, err := Verify(raw(`{"alg":"`+c.header+`"}`, goodClaims, c.sign), c.key, all)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestForeignVector verifies the example of RFC 7515 appendix A.3: somebody
// else's token, key and signature.
func TestForeignVector(t *testing.T) {
	t.Parallel()
	key, err := ParsePublicKey([]byte(`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`))
	if err != nil {
		t.Fatal(err)
	}
	const token = "eyJhbGciOiJFUzI1NiJ9" +
		".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ" +
		".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
	claims, err := Verify(token, key, []Alg{ES256})
	if err != nil {
		t.Fatal(err)
	}
	if iss, _, _ := claims.Text("iss"); iss != "joe" {
		t.Errorf("iss = %q", iss)
	}
}

func TestStrictTimes(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{
		`0`: true, `1900000000`: true, `999999999999`: true,
		`"1900000000"`: false, `1900000000.5`: false, `1900000000.0`: false, `1.9e9`: false, `1e400`: false,
		`-1`: false, `-0`: false, `1000000000000`: false, `null`: false, `true`: false, `[]`: false, `{}`: false,
		`99999999999999999999999`: false,
	} {
		c, err := ParseClaims([]byte(`{"exp":` + value + `}`))
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		_, ok, err := c.Time("exp")
		if ok != good || (err == nil) != good {
			t.Errorf("exp %s: ok %v, err %v", value, ok, err)
		}
	}
	var c Claims
	if _, ok, err := c.Time("exp"); ok || err != nil {
		t.Error("absent is no error here, and not a time")
	}
}

// TestNamesMatchExactly: encoding/json would take "EXP" for exp; we do not.
func TestNamesMatchExactly(t *testing.T) {
	t.Parallel()
	c, err := ParseClaims([]byte(`{"EXP":1,"Exp":2,"aud":["b","a"],"n":null}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Has("exp") {
		t.Error("EXP was read as exp")
	}
	if list, single, err := c.Audience(); err != nil || single || len(list) != 2 || list[0] != "b" {
		t.Errorf("aud = %v %v %v", list, single, err)
	}
	for _, read := range []func(string) error{
		func(n string) error { _, _, err := c.Text(n); return err },
		func(n string) error { _, _, err := c.Texts(n); return err },
		func(n string) error { _, _, err := c.Time(n); return err },
		func(n string) error { _, _, err := c.Object(n); return err },
	} {
		if err := read("n"); !errors.Is(err, ErrMalformed) {
			t.Errorf("null was read: %v", err)
		}
	}
}

func TestTypIsAMediaType(t *testing.T) {
	t.Parallel()
	for typ, want := range map[string]bool{
		"at+jwt": true, "AT+JWT": true, "application/at+jwt": true, "Application/AT+jwt": true,
		"": false, "JWT": false, "application/": false, "application/application/at+jwt": false, "at+jwt ": false,
	} {
		if got := (Header{Typ: typ}).Is("at+jwt"); got != want {
			t.Errorf("%q: %v", typ, got)
		}
	}
}

func BenchmarkVerifyES256(b *testing.B) {
	key, err := GenerateES256()
	if err != nil {
		b.Fatal(err)
	}
	token, err := Sign(key, "at+jwt", map[string]any{"iss": "https://issuer.example", "aud": "urn:x", "exp": 1900000000})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(token, key.Public(), []Alg{ES256}); err != nil {
			b.Fatal(err)
		}
	}
}
