package principal

import (
	"encoding/json"
	"strings"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
)

const id = "01JDN3W8Z600000000000000J2"

// good are the claims of a token of ours, with changes; nil takes one away.
func good(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": "https://id.example", "sub": "user:" + id, "aud": "urn:bulwark:test:gateway", "client_id": "c", "tenant": id,
		"scope": "read write", "jti": "j", "root_jti": "r", "sid": "s", "acr": "phr", "amr": []string{"hwk"},
		"auth_time": 1, "iat": 2, "nbf": 2, "exp": 3, "act": map[string]any{"sub": "service:" + id, "jti": "x"},
	}
	for k, v := range change {
		c[k] = v
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

func read(t *testing.T, claims map[string]any) (*Principal, error) {
	t.Helper()
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	c, err := jose.ParseClaims(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Read(c)
}

// Every claim that we would not have written is refused.
func TestRead(t *testing.T) {
	t.Parallel()
	p, err := read(t, good(nil))
	if err != nil || p.Tenant.String() != id || p.Subject.String() != "user:"+id || p.Actors[0].Subject.String() != "service:"+id ||
		p.Credential.Audience != "urn:bulwark:test:gateway" || len(p.Scopes) != 2 || p.Credential.Expires.Unix() != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	act := func(n int) any {
		var a any
		for range n {
			next := map[string]any{"sub": "service:" + id, "jti": "x"}
			if a != nil {
				next["act"] = a
			}
			a = next
		}
		return a
	}
	for name, change := range map[string]map[string]any{
		"only what must be": {"client_id": nil, "scope": nil, "sid": nil, "acr": nil, "amr": nil, "auth_time": nil, "nbf": nil, "act": nil},
		"an empty scope":    {"scope": ""},
		"three actors":      {"act": act(MaxActors)},
	} {
		if _, err := read(t, good(change)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]map[string]any{
		"no issuer": {"iss": nil}, "no subject": {"sub": nil}, "no audience": {"aud": nil}, "no tenant": {"tenant": nil},
		"no jti": {"jti": nil}, "no root": {"root_jti": nil}, "no iat": {"iat": nil}, "no exp": {"exp": nil},
		"empty jti": {"jti": ""}, "empty audience": {"aud": ""}, "an array of one": {"aud": []string{"a"}}, "two audiences": {"aud": []string{"a", "b"}}, "audience a number": {"aud": 1},
		"a name for a tenant": {"tenant": "acme"}, "a path for a tenant": {"tenant": "../../x"}, "a mail address": {"sub": "alice@acme.test"},
		"another kind of subject": {"sub": "group:" + id}, "a client with a space": {"client_id": "a b"}, "a client with a line feed": {"client_id": "a\nb"},
		"a long name": {"sid": strings.Repeat("s", 257)}, "a session that is none": {"sid": ""}, "two spaces": {"scope": "a  b"}, "a quote": {"scope": `a"b`},
		"scope a list": {"scope": []string{"a"}}, "amr a string": {"amr": "pwd"}, "amr with an empty name": {"amr": []string{""}}, "acr a number": {"acr": 1},
		"exp a string": {"exp": "3"}, "nbf a string": {"nbf": "3"}, "auth_time a string": {"auth_time": "3"},
		"four actors": {"act": act(MaxActors + 1)}, "an actor without jti": {"act": map[string]any{"sub": "service:" + id}},
		"an actor without sub": {"act": map[string]any{"jti": "x"}}, "an empty actor": {"act": map[string]any{}}, "an actor that is a string": {"act": "service"},
		"a person who acts for another": {"act": map[string]any{"sub": "user:" + id, "jti": "x"}},
	} {
		if p, err := read(t, good(change)); err == nil || fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// What Read takes is complete.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"iss":"i","sub":"user:01JDN3W8Z600000000000000J2","aud":"a","client_id":"c","tenant":"01JDN3W8Z600000000000000J2","jti":"j","root_jti":"r","iat":1,"exp":2}`))
	f.Add([]byte(`{"act":{"sub":"service:01JDN3W8Z600000000000000J2","jti":"x","act":{}},"aud":["a","b"],"exp":1e400}`))
	f.Add([]byte(`{"sub":null,"tenant":"../..","scope":"a  b"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := jose.ParseClaims(raw)
		if err != nil {
			return
		}
		p, err := Read(c)
		if err != nil {
			return
		}
		cr := p.Credential
		if p.Tenant.IsZero() || p.Subject.IsZero() || cr.JTI == "" || cr.RootJTI == "" || cr.Audience == "" || len(p.Actors) > 3 {
			t.Fatalf("%s reads as %+v", raw, p)
		}
		for _, a := range p.Actors {
			if a.JTI == "" || a.Subject.IsZero() {
				t.Fatalf("%s reads as %+v", raw, p)
			}
		}
	})
}
