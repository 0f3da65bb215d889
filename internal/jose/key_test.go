package jose

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"flag"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The public example keys of RFC 7517 appendix A.1 (EC) and RFC 7638 section
// 3.1 (RSA, with its thumbprint), and of RFC 8037 appendix A.2 (Ed25519).
const (
	exampleEC  = `{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"}`
	exampleRSA = `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`
	exampleEd  = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"ed"}`
)

func TestPublicFormIsGolden(t *testing.T) {
	t.Parallel()
	set, err := ParseSet([]byte(`{"keys":[` + exampleEC + `,` + exampleRSA + `,` + exampleEd + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const file = "testdata/set.golden"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the published form changed (-want +got):\n%s", diff)
	}
	again, err := ParseSet(want)
	if err != nil {
		t.Fatal(err)
	}
	if again.Len() != 3 {
		t.Errorf("%d keys read back", again.Len())
	}
	for i, k := range again.Keys() {
		one, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParsePublicKey(one); err != nil || back.KID != k.KID || back.Alg != k.Alg {
			t.Errorf("key %d does not survive: %v", i, err)
		}
	}
}

func TestThumbprint(t *testing.T) {
	t.Parallel()
	k, err := ParsePublicKey([]byte(exampleRSA))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Thumbprint(); err != nil || got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%q %v, RFC 7638 has another", got, err)
	}
	if got, err := (PublicKey{Key: "x"}).Thumbprint(); fault.KindOf(err) != fault.Invalid {
		t.Errorf("%q %v", got, err)
	}
}

func TestPrivateKeyKeepsSilent(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	out, err := key.MarshalSecret()
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]string
	if err := json.Unmarshal(out.Reveal(), &members); err != nil {
		t.Fatal(err)
	}
	d := members["d"]
	if len(d) != 43 || members["kty"] != "EC" || members["crv"] != "P-256" || members["alg"] != "ES256" || members["kid"] != key.KID() || len(members) != 8 {
		t.Fatalf("the form changed: %d members", len(members))
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, v := range []any{key, &key, struct{ K PrivateKey }{key}} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, d) || strings.Contains(s, fmt.Sprint(key.signer.X)) {
				t.Errorf("%s prints the key: %s", verb, s)
			}
		}
	}
	if _, err := json.Marshal(key); err == nil {
		t.Error("a private key marshals")
	}
	back, err := ParsePrivateKey(out)
	if err != nil {
		t.Fatal(err)
	}
	token, err := Sign(back, "t", map[string]any{"a": 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(token, key.Public(), []Alg{ES256}); err != nil {
		t.Errorf("what came back is another key: %v", err)
	}
	if _, err := (PrivateKey{}).MarshalSecret(); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the zero key: %v", err)
	}

	change := func(name string, value any) string {
		m := map[string]any{}
		for k, v := range members {
			m[k] = v
		}
		if m[name] = value; value == nil {
			delete(m, name)
		}
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	var other map[string]string
	second, err := newKey(t).MarshalSecret()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(second.Reveal(), &other); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"empty": "", "null": "null", "public only": change("d", nil), "d of another key": change("d", other["d"]),
		"x off the curve": change("x", other["x"]), "kid of another": change("kid", other["kid"]), "alg": change("alg", "ES384"),
		"kty": change("kty", "RSA"), "d zero": change("d", strings.Repeat("A", 43)), "alg a number": change("alg", 1),
		"repeated": strings.Replace(string(out.Reveal()), "{", `{"kty":"EC",`, 1),
	} {
		_, err := ParsePrivateKey(secret.New([]byte(raw)))
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), d) {
			t.Errorf("%s: the error holds the key", name)
		}
	}
	if _, err := ParsePrivateKey(secret.New([]byte(change("kid", nil)))); err != nil {
		t.Errorf("without a kid: %v", err)
	}
}

func rsaJWK(t *testing.T, bits int, kid string) string {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0") // only to make the weak key that must be refused
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return `{"kty":"RSA","kid":"` + kid + `","n":"` + b64.EncodeToString(key.N.Bytes()) + `","e":"AQAB"}`
}

// Not parallel: the weak RSA keys of this test need GODEBUG.
func TestSetRefusesWeakRSA(t *testing.T) {
	for bits, good := range map[int]bool{1024: false, 2040: false, 2048: true} {
		_, err := ParseSet([]byte(`{"keys":[` + rsaJWK(t, bits, "a") + `]}`))
		if (err == nil) != good {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
	huge := `{"kty":"RSA","kid":"h","n":"` + b64.EncodeToString([]byte("\x01"+strings.Repeat("\xff", MaxRSA/8))) + `","e":"AQAB"}`
	if _, err := ParseSet([]byte(`{"keys":[` + huge + `]}`)); err == nil {
		t.Error("8,193 bits: accepted")
	}
}

func TestParseSet(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x, y := b64.EncodeToString(key.X.FillBytes(make([]byte, 32))), b64.EncodeToString(key.Y.FillBytes(make([]byte, 32)))
	ec := func(kid, more string) string {
		return `{"kty":"EC","crv":"P-256","kid":"` + kid + `","x":"` + x + `","y":"` + y + `"` + more + `}`
	}
	replace := func(old, new string) string { return strings.Replace(exampleRSA, old, new, 1) }
	for _, c := range []struct {
		name string
		keys string
		want int // keys kept; -1: refused
	}{
		{"none", ``, 0},
		{"one", ec("a", ``), 1},
		{"two", ec("a", ``) + `,` + ec("b", ``), 2},
		{"one kid, two keys", ec("a", ``) + `,` + ec("a", ``), -1},
		{"one kid, one of them for encryption", ec("a", ``) + `,` + ec("a", `,"use":"enc"`), 1},
		{"no kid", `{"kty":"EC","crv":"P-256","x":"` + x + `","y":"` + y + `"}`, 0},
		{"kid too long", ec(strings.Repeat("k", MaxKID+1), ``), -1},
		{"use enc", ec("a", `,"use":"enc"`), 0},
		{"key_ops sign", ec("a", `,"key_ops":["sign"]`), 0},
		{"key_ops verify", ec("a", `,"key_ops":["verify"]`), 1},
		{"key_ops odd", ec("a", `,"key_ops":"verify"`), -1},
		{"alg of another type", ec("a", `,"alg":"RS256"`), 0},
		{"alg HS256", ec("a", `,"alg":"HS256"`), 0},
		{"private part", ec("a", `,"d":"AQAB"`), -1},
		{"symmetric", `{"kty":"oct","kid":"a","k":"AQAB"}`, -1},
		{"unknown type", `{"kty":"AKP","kid":"a","alg":"ML-DSA-44","pub":"AA"}`, 0},
		{"unknown curve", `{"kty":"EC","crv":"P-521","kid":"a","x":"AA","y":"AA"}`, 0},
		{"off the curve", `{"kty":"EC","crv":"P-256","kid":"a","x":"` + x + `","y":"` + x + `"}`, -1},
		{"at infinity", `{"kty":"EC","crv":"P-256","kid":"a","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}`, -1},
		{"coordinate too short", `{"kty":"EC","crv":"P-256","kid":"a","x":"AQAB","y":"` + y + `"}`, -1},
		{"coordinate missing", `{"kty":"EC","crv":"P-256","kid":"a","x":"` + x + `"}`, -1},
		{"coordinate padded", `{"kty":"EC","crv":"P-256","kid":"a","x":"` + x + `=","y":"` + y + `"}`, -1},
		{"coordinate in another spelling", `{"kty":"EC","crv":"P-256","kid":"a","x":"` + respell(x) + `","y":"` + y + `"}`, -1},
		{"RSA", exampleRSA, 1},
		{"RSA exponent 1", replace(`"e":"AQAB"`, `"e":"AQ"`), -1},
		{"RSA exponent even", replace(`"e":"AQAB"`, `"e":"AQAC"`), -1},
		{"RSA exponent of 40 bits", replace(`"e":"AQAB"`, `"e":"AQAAAAE"`), -1},
		{"RSA modulus even", replace(`qDKgw"`, `qDKgg"`), -1},
		{"RSA for encryption", replace(`"alg":"RS256"`, `"alg":"RSA-OAEP"`), 0},
		{"Ed25519", exampleEd, 1},
		{"Ed25519 short", `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AQAB"}`, -1},
		{"certificate nonsense is ignored", ec("a", `,"x5c":["no certificate"],"x5u":"http://evil.example/"`), 1},
		{"repeated member", ec("a", `,"kid":"b"`), -1},
		{"a key is null", `null`, -1},
		{"a key is a list", `[]`, -1},
		{"kid a number", `{"kty":"EC","kid":1}`, -1},
		{"100 keys", many(ec, MaxKeys), MaxKeys},
		{"101 keys", many(ec, MaxKeys+1), -1},
	} {
		set, err := ParseSet([]byte(`{"keys":[` + c.keys + `]}`))
		switch {
		case c.want < 0 && fault.KindOf(err) != fault.Invalid, c.want < 0 && err == nil:
			t.Errorf("%s: accepted with %d keys, %v", c.name, set.Len(), err)
		case c.want >= 0 && (err != nil || set.Len() != c.want):
			t.Errorf("%s: %d keys, want %d; %v", c.name, set.Len(), c.want, err)
		}
	}
	for name, doc := range map[string]string{
		"empty": ``, "a list": `[]`, "no keys": `{}`, "keys null": `{"keys":null}`, "keys an object": `{"keys":{}}`,
		"keys twice": `{"keys":[],"keys":[]}`, "more behind": `{"keys":[]} x`,
		"5 MB": `{"keys":[],"x":"` + strings.Repeat("x", 5<<20) + `"}`,
	} {
		if _, err := ParseSet([]byte(doc)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	set, err := ParseSet([]byte(`{"keys":[` + exampleRSA + `,` + exampleEC + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	if k, ok := set.Key("1"); !ok || k.Alg != ES256 {
		t.Errorf("a P-256 key without alg is bound to %v", k.Alg)
	}
	if _, ok := set.Key(""); ok {
		t.Error("the empty kid finds a key")
	}
}

// respell sets one of the bits of the last character that stand for nothing.
func respell(coordinate string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(coordinate) - 1
	return coordinate[:last] + string(alphabet[strings.IndexByte(alphabet, coordinate[last])|1])
}

func many(ec func(kid, more string) string, n int) string {
	var list []string
	for i := range n {
		list = append(list, ec(fmt.Sprint("k", i), ``))
	}
	return strings.Join(list, ",")
}

func TestNewSet(t *testing.T) {
	t.Parallel()
	a, b := newKey(t).Public(), newKey(t).Public()
	if s, err := NewSet(a, b); err != nil || s.Len() != 2 {
		t.Errorf("%d %v", s.Len(), err)
	}
	if _, err := NewSet(a, a); err == nil {
		t.Error("one kid twice")
	}
	if _, err := NewSet(PublicKey{Alg: ES256, Key: a.Key}); err == nil {
		t.Error("no kid")
	}
	point := a.Key.(*ecdsa.PublicKey)
	//lint:ignore SA1019 only the raw coordinates can make a point that is off the curve
	off := &ecdsa.PublicKey{Curve: point.Curve, X: point.X, Y: point.X}
	if _, err := NewSet(PublicKey{KID: "x", Alg: ES256, Key: off}); fault.KindOf(err) != fault.Invalid || err == nil {
		t.Errorf("a point off the curve: %v", err)
	}
	huge := new(big.Int).Lsh(big.NewInt(1), MaxRSA)
	odd := func(bits uint) *big.Int { return new(big.Int).SetBit(new(big.Int).Lsh(big.NewInt(1), bits-1), 0, 1) }
	for name, k := range map[string]*rsa.PublicKey{
		"8,193 bits": {N: huge.SetBit(huge, 0, 1), E: 65537}, "2,047 bits": {N: odd(2047), E: 65537},
		"exponent 1": {N: odd(2048), E: 1}, "exponent 0": {N: odd(2048)}, "exponent 4": {N: odd(2048), E: 4},
		"exponent of 33 bits": {N: odd(2048), E: 1<<32 + 1}, "even": {N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537},
	} {
		if _, err := NewSet(PublicKey{KID: "x", Alg: RS256, Key: k}); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("RSA, %s: %v", name, err)
		}
	}
	if _, err := NewSet(PublicKey{KID: "x", Alg: RS256, Key: &rsa.PublicKey{N: odd(2048), E: 3}}); err != nil {
		t.Errorf("RSA, exponent 3: %v", err)
	}
	if _, err := NewSet(PublicKey{KID: "x", Alg: RS256, Key: a.Key}); err == nil {
		t.Error("a key with another type's algorithm")
	}
}
