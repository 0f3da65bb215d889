package jose

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func seeds(f *testing.F) (good string, key PrivateKey) {
	f.Helper()
	key, err := GenerateES256()
	if err != nil {
		f.Fatal(err)
	}
	good, err = Sign(key, "at+jwt", map[string]any{"iss": "i", "aud": []string{"a", "b"}, "exp": 1, "act": map[string]any{"sub": "x"}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		good, "", "..", "a.b.c", strings.Repeat(".", 100),
		raw(`{"alg":"none"}`, `{}`, nothing), raw(`{"alg":"ES256","alg":"none"}`, `{"a":1,"a":2}`, nothing),
		raw(`{"alg":"RS256","kid":"x","jku":"https://evil.example"}`, `{"iss":1}`, nothing),
		raw(`{"alg":"ES256"}`, strings.Repeat("[", 50), nothing),
		// RFC 7515 A.3
		"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
	} {
		f.Add(s)
	}
	return good, key
}

// FuzzPeek: whatever Peek accepts has the form that it promises.
func FuzzPeek(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, token string) {
		u, err := Peek(token)
		if err != nil {
			return
		}
		if len(token) > MaxToken || strings.Count(token, ".") != 2 || !u.Header.Alg.Known() || len(u.Header.KID) > MaxKID {
			t.Errorf("accepted %q as %+v", token, u)
		}
	})
}

// FuzzVerify: no token but the one that was signed verifies.
func FuzzVerify(f *testing.F) {
	good, key := seeds(f)
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := Verify(token, key.Public(), []Alg{ES256})
		if err == nil && token != good {
			t.Errorf("forged: %q", token)
		}
		if err == nil && !json.Valid(claims.Raw()) {
			t.Errorf("claims are no JSON: %q", claims.Raw())
		}
	})
}

// FuzzParseSet: what is accepted writes and reads back the same.
func FuzzParseSet(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `{"keys":[]}`, `{"keys":[` + exampleEC + `]}`, `{"keys":[` + exampleRSA + `,` + exampleEd + `]}`,
		`{"keys":[{"kty":"oct","k":"AA","kid":"x"}]}`, `{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := ParseSet(doc)
		if err != nil {
			return
		}
		once, err := json.Marshal(set)
		if err != nil {
			t.Fatalf("accepted what cannot be written: %v", err)
		}
		again, err := ParseSet(once)
		if err != nil {
			t.Fatalf("written, not readable: %v\n%s", err, once)
		}
		if twice, err := json.Marshal(again); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s became %s, %v", once, twice, err)
		}
	})
}

// FuzzClaims: our reader accepts no more than encoding/json does, and the
// members that both see are the same.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,{"c":null}]}}`, `{"a":1,"a":2}`, `[`, `{"a":"\ud800"}`, `{"a":1}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := ParseClaims(doc)
		if err != nil {
			return
		}
		var std map[string]any
		if err := json.Unmarshal(doc, &std); err != nil || std == nil {
			t.Fatalf("accepted what encoding/json refuses: %q", doc)
		}
		for name := range std {
			if !c.Has(name) {
				t.Errorf("%q is missing", name)
			}
		}
		for name := range c.members {
			if _, ok := std[name]; !ok {
				t.Errorf("%q is invented", name)
			}
		}
	})
}
