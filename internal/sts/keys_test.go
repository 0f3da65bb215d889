package sts_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

const day = 24 * time.Hour

// signedBy issues a token and returns the kid that signed it.
func signedBy(t testing.TB, w *world, i *sts.Issuer) (kid, token string) {
	t.Helper()
	w.dir.Confirm()
	tok, err := i.Mint(context.Background(), sts.MintRequest{
		Tenant: tenant.Platform, Audience: "gateway", Subject: principal.Subject{Kind: principal.User, ID: tenant.RandomID()},
	})
	must(t, err)
	u, err := jose.Peek(tok.Value)
	must(t, err)
	return u.Header.KID, tok.Value
}

// A key's whole life, seen by two nodes of which one only verifies.
func TestRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	k, reader := w.node(w.seal), w.node(nil)
	i, err := w.issuer(k)
	must(t, err)
	rotate := func() {
		t.Helper()
		for range 2 { // idempotent
			_, err := k.Rotate(ctx)
			must(t, err)
			_, err = reader.Rotate(ctx)
			must(t, err)
		}
	}
	published := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, kids(t, k.JWKS)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, kids(t, reader.JWKS)); diff != "" {
			t.Errorf("the reader publishes (-want +got):\n%s", diff)
		}
	}
	first, token := signedBy(t, w, i)
	published(first)

	w.add(29*day - time.Second)
	rotate()
	published(first)
	w.add(time.Second) // a day before its period ends: the next one is published
	rotate()
	set := kids(t, k.JWKS)
	if len(set) != 2 || set[0] != first {
		t.Fatalf("published %v", set)
	}
	next := set[1]
	w.add(day - time.Second)
	rotate()
	if kid, _ := signedBy(t, w, i); kid != first {
		t.Error("a key signs before it was published for the overlap")
	}
	w.add(time.Second)
	kid, _ := signedBy(t, w, i)
	if kid != next {
		t.Error("the next key does not sign when its time has come")
	}
	// The retired key verifies while a token of it can live, then it is gone.
	w.add(sts.MaxTokenLife + sts.Skew - time.Second)
	rotate()
	published(first, next)
	if key, ok := reader.PublicKey(first); !ok {
		t.Error("the retired key went too early")
	} else if _, err := jose.Verify(token, key, []jose.Alg{jose.ES256}); err != nil {
		t.Error(err)
	}
	w.add(time.Second)
	published(next) // by the time alone
	if _, ok := reader.PublicKey(first); ok {
		t.Error("a removed key verifies")
	}
	rotate()
	rows, err := w.store.Tokens().LoadSigningKeys(ctx)
	must(t, err)
	if len(rows) != 1 || rows[0].KID != next {
		t.Errorf("rows %+v", rows)
	}
	if err := i.SelfTest(ctx); err != nil {
		t.Error(err)
	}
}

// After a long stop no key was published in time: the old one goes on signing,
// the next one waits for its overlap all the same.
func TestRotationAfterLongStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.node(w.seal)
	i, err := w.issuer(k)
	must(t, err)
	first, _ := signedBy(t, w, i)
	w.add(100 * day)
	k = w.node(w.seal)
	i, err = w.issuer(k) // rotates at its start
	must(t, err)
	if kid, _ := signedBy(t, w, i); kid != first {
		t.Error("a new key signs without having been published")
	}
	set := kids(t, k.JWKS)
	if len(set) != 2 {
		t.Fatalf("published %v", set)
	}
	w.add(day)
	if kid, _ := signedBy(t, w, i); kid != set[1] {
		t.Error("the next key does not sign after its overlap")
	}
}

// Many nodes that rotate at once make one key, not many.
func TestNodesAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var nodes []*sts.Keys
	for range 8 {
		nodes = append(nodes, w.node(w.seal))
	}
	all := func() {
		var wg sync.WaitGroup
		for _, k := range nodes {
			wg.Go(func() {
				if _, err := k.Rotate(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	for _, want := range []int{1, 2} {
		all()
		rows, err := w.store.Tokens().LoadSigningKeys(context.Background())
		must(t, err)
		if len(rows) != want {
			t.Fatalf("%d keys were made, want %d", len(rows), want)
		}
		for _, k := range nodes {
			if diff := cmp.Diff(kids(t, nodes[0].JWKS), kids(t, k.JWKS)); diff != "" {
				t.Errorf("nodes disagree:\n%s", diff)
			}
		}
		w.add(29 * day)
	}
}

// A row that claims to be in use before anybody could have fetched it is not
// used: somebody with the database, or a node with a wrong clock, wrote it.
func TestUnpublishedKeyDoesNotSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	k := w.node(w.seal)
	i, err := w.issuer(k)
	must(t, err)
	first, _ := signedBy(t, w, i)
	w.add(time.Hour)
	key, err := jose.GenerateES256()
	must(t, err)
	public, err := key.Public().MarshalJSON()
	must(t, err)
	row := sts.SigningKey{KID: key.KID(), Purpose: sts.PurposeToken, Public: public, Wrapped: []byte("x"), PublishAt: w.now(), ActiveAt: w.now()}
	_, err = w.store.Tokens().Mutate(ctx, ledger.Change{Store: w.platform, Event: ledger.Event{Class: ledger.Mutation, Action: "test.write", Tenant: tenant.Platform}}, func(tx sts.Tx) error { return tx.PutSigningKey(row) })
	must(t, err)
	if kid, _ := signedBy(t, w, i); kid != first {
		t.Error("a key signs that nobody can have fetched")
	}
	// Nor is one used before its own time, however long it was published.
	row.ActiveAt = w.now().Add(3 * day)
	_, err = w.store.Tokens().Mutate(ctx, ledger.Change{Store: w.platform, Event: ledger.Event{Class: ledger.Mutation, Action: "test.write", Tenant: tenant.Platform}}, func(tx sts.Tx) error { return tx.PutSigningKey(row) })
	must(t, err)
	w.add(2 * day)
	if kid, _ := signedBy(t, w, i); kid != first {
		t.Error("a key signs before its time")
	}
}

func TestDamagedRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	k := w.node(w.seal)
	_, err := w.issuer(k)
	must(t, err)
	rows, err := w.store.Tokens().LoadSigningKeys(ctx)
	must(t, err)
	good := rows[0]
	before := kids(t, k.JWKS)
	other, err := jose.GenerateES256()
	must(t, err)
	foreign, err := other.Public().MarshalJSON()
	must(t, err)
	for name, spoil := range map[string]func(*sts.SigningKey){
		"another public key": func(r *sts.SigningKey) { r.Public = foreign },
		"another kid":        func(r *sts.SigningKey) { r.KID = "x" },
		"a private key":      func(r *sts.SigningKey) { r.Public = json.RawMessage(`{"kty":"EC","d":"AAAA"}`) },
		"no key":             func(r *sts.SigningKey) { r.Public = json.RawMessage(`{}`) },
		"another kid inside": func(r *sts.SigningKey) { r.Public = bytes.Replace(r.Public, []byte(r.KID), []byte("x"), 1) },
	} {
		row := good
		spoil(&row)
		payload, err := sts.EncodeSigningKey(row)
		must(t, err)
		if err := k.Apply(sts.KindSigningKey, row.KID, payload); fault.KindOf(err) != fault.Integrity {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.Apply(sts.KindSigningKey, "x", []byte("{")); fault.KindOf(err) != fault.Integrity {
		t.Error(err)
	}
	if err := k.Apply("user", "x", []byte("{")); err != nil {
		t.Errorf("a foreign kind: %v", err)
	}
	if diff := cmp.Diff(before, kids(t, k.JWKS)); diff != "" {
		t.Errorf("a damaged row changed the set:\n%s", diff)
	}
	// A wrapped private half that was swapped does not open, and does not sign.
	bad := good
	bad.Wrapped = bytes.Clone(good.Wrapped)
	bad.Wrapped[len(bad.Wrapped)-1] ^= 1
	_, err = w.store.Tokens().Mutate(ctx, ledger.Change{Store: w.platform, Event: ledger.Event{Class: ledger.Mutation, Action: "test.write", Tenant: tenant.Platform}}, func(tx sts.Tx) error { return tx.PutSigningKey(bad) })
	must(t, err)
	if _, err := w.issuer(w.node(w.seal)); err == nil {
		t.Error("a server started with a signing key that does not open")
	}
}

// The self-test sees a key that signs and is not the published one.
func TestSelfTest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.node(w.seal)
	i, err := w.issuer(k)
	must(t, err)
	must(t, i.SelfTest(context.Background()))
	w.add(-time.Hour) // the clock fell back behind the publication
	if err := i.SelfTest(context.Background()); err == nil {
		t.Error("the self-test passed without a published key")
	}
	if _, err := w.issuer(w.node(nil)); err == nil {
		t.Error("an issuer started on a node that only verifies")
	}
}

// broken is a store whose transactions fail.
type broken struct{ sts.Store }

var errDown = errors.New("down")

// Mutate implements sts.Store.
func (broken) Mutate(context.Context, ledger.Change, func(sts.Tx) error) (relation.Revision, error) {
	return relation.Revision{}, errDown
}

func TestRotateFailsCleanly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k, err := sts.OpenKeys(context.Background(), sts.KeysConfig{Store: broken{w.store.Tokens()}, Sealer: w.seal, Platform: w.platform, Now: w.now})
	must(t, err)
	if _, err := k.Rotate(context.Background()); !errors.Is(err, errDown) {
		t.Error(err)
	}
	if got := kids(t, k.JWKS); len(got) != 0 {
		t.Errorf("published %v", got)
	}
}

func TestOpenKeysRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, cfg := range []sts.KeysConfig{
		{}, {Store: w.store.Tokens(), Now: w.now}, {Store: w.store.Tokens(), Platform: w.platform},
		{Store: w.store.Tokens(), Platform: w.platform, Now: w.now, Overlap: day, Period: day},
	} {
		if _, err := sts.OpenKeys(context.Background(), cfg); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
