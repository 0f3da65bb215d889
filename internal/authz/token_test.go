package authz

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
)

func TestToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	rev := w.write(t, tuples("folder:plans#viewer@user:dave"), nil)
	token := w.Token(rev)
	ctx := context.Background()
	if got, err := w.ParseToken(ctx, w.store, token); err != nil || got != rev {
		t.Errorf("%v, %v; want %v", got, err, rev)
	}
	past := relation.Revision{Epoch: 1, Store: w.store, Rev: 1}
	if got, err := w.ParseToken(ctx, w.store, w.Token(past)); err != nil || got != past {
		t.Errorf("the past: %v, %v", got, err)
	}
	other := relation.StoreID("01ARZ3NDEKTSV4RRFFQ69G5FAV")
	for name, c := range map[string]struct {
		token string
		want  fault.Kind
	}{
		"empty":         {"", fault.Invalid},
		"another store": {w.Token(relation.Revision{Epoch: 1, Store: other, Rev: 1}), fault.Invalid},
		"another epoch": {w.Token(relation.Revision{Epoch: 2, Store: w.store, Rev: 1}), fault.Conflict},
		"the future":    {w.Token(relation.Revision{Epoch: 1, Store: w.store, Rev: 3}), fault.Unavailable},
		"no store":      {w.Token(relation.Revision{Epoch: 1, Rev: 1}), fault.Invalid},
		"padded":        {token + "=", fault.Invalid},
		"cut":           {token[:len(token)-1], fault.Invalid},
		"line feed":     {token[:4] + "\n" + token[5:], fault.Invalid},
		"another key":   {(&Engine{cfg: Config{MAC: secret.Random(32)}}).Token(rev), fault.Invalid},
	} {
		if got, err := w.ParseToken(ctx, w.store, c.token); err == nil || fault.KindOf(err) != c.want || got != (relation.Revision{}) {
			t.Errorf("%s: %v, %v, want kind %v", name, got, err, c.want)
		}
	}
	// Every bit of every byte is covered, the unused ones of the encoding too.
	for i := range len(token) {
		for _, c := range []byte("Ab0-_") {
			if forged := token[:i] + string(c) + token[i+1:]; forged != token {
				if _, err := w.ParseToken(ctx, w.store, forged); fault.KindOf(err) != fault.Invalid {
					t.Fatalf("byte %d: %v", i, err)
				}
			}
		}
	}
}

// Format 1 stays readable.
func TestTokenGolden(t *testing.T) {
	t.Parallel()
	e := &Engine{cfg: Config{MAC: secret.New(bytes.Repeat([]byte{7}, 32)), Epoch: 3}}
	rev := relation.Revision{Epoch: 3, Store: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Rev: 1<<40 + 5}
	token := e.Token(rev)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "token.golden", fmt.Sprintf("%s\n%x\n", token, raw))
	if got, err := e.openToken(token); err != nil || got != rev {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzParseToken(f *testing.F) {
	e := &Engine{cfg: Config{MAC: secret.New(bytes.Repeat([]byte{7}, 32)), Epoch: 3}}
	rev := relation.Revision{Epoch: 3, Store: "01ARZ3NDEKTSV4RRFFQ69G5FAV", Rev: 5}
	f.Add(e.Token(rev))
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, tokenBody+tokenMAC)))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := e.openToken(s)
		if err == nil && e.Token(got) != s {
			t.Errorf("%q opens as %v, whose token is another", s, got)
		}
		if err != nil && (fault.KindOf(err) != fault.Invalid || got != (relation.Revision{})) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	})
}
