package kms_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

func TestScopeIsBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other, _ := w.addTenant()
	s := w.scope("documents")
	blob := w.encrypt(w.ring, s, "hello")
	w.opens(w.ring, s, blob, "hello")
	w.opens(w.open(), s, blob, "hello")
	w.encrypt(w.ring, kms.Scope{Tenant: other, Key: "documents", Purpose: "p"}, "x") // so that the key exists there too

	for what, bad := range map[string]kms.Scope{
		"another tenant":  {Tenant: other, Key: s.Key, Purpose: s.Purpose, Context: s.Context},
		"the platform":    {Tenant: tenant.Platform, Key: s.Key, Purpose: s.Purpose, Context: s.Context},
		"no tenant":       {Key: s.Key, Purpose: s.Purpose, Context: s.Context},
		"a new tenant":    {Tenant: tenant.New(), Key: s.Key, Purpose: s.Purpose, Context: s.Context},
		"another key":     {Tenant: s.Tenant, Key: "billing", Purpose: s.Purpose, Context: s.Context},
		"another purpose": {Tenant: s.Tenant, Key: s.Key, Purpose: "q", Context: s.Context},
		"no purpose":      {Tenant: s.Tenant, Key: s.Key, Context: s.Context},
		"no context":      {Tenant: s.Tenant, Key: s.Key, Purpose: s.Purpose},
		"another context": {Tenant: s.Tenant, Key: s.Key, Purpose: s.Purpose, Context: map[string]string{"row": "18"}},
	} {
		w.refused(what, w.ring, bad, blob)
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 0x40
		w.refused(fmt.Sprint("flipped byte ", i), w.ring, s, bad)
		w.refused(fmt.Sprint("first bytes ", i), w.ring, s, blob[:i])
	}
	// A version that does not exist, under a header that is otherwise right.
	key := secret.Random(envelope.KeySize)
	forged, err := envelope.Seal(key, envelope.Header{Env: "test", Tenant: w.tenant.String(), Key: s.Key, Version: 9}, s.Purpose, s.Context, nil)
	w.must(err)
	w.refused("a version that does not exist", w.ring, s, forged)
	foreign, err := envelope.Seal(key, envelope.Header{Env: "prod", Tenant: w.tenant.String(), Key: s.Key, Version: 1}, s.Purpose, s.Context, nil)
	w.must(err)
	w.refused("another environment", w.ring, s, foreign)
}

func TestInputOutOfForm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, before := t.Context(), w.store.mutations.Load()
	big := kms.Scope{Tenant: w.tenant, Key: "k", Purpose: "p", Context: map[string]string{"a": string(make([]byte, envelope.MaxContext))}}
	for _, c := range []struct {
		what  string
		scope kms.Scope
		kind  fault.Kind
	}{
		{"no tenant", kms.Scope{Key: "k", Purpose: "p"}, fault.Invalid},
		{"no key", kms.Scope{Tenant: w.tenant, Purpose: "p"}, fault.Invalid},
		{"key with a space", kms.Scope{Tenant: w.tenant, Key: "a b", Purpose: "p"}, fault.Invalid},
		{"no purpose", kms.Scope{Tenant: w.tenant, Key: "k"}, fault.Invalid},
		{"tenant without a KEK", kms.Scope{Tenant: tenant.New(), Key: "k", Purpose: "p"}, fault.NotFound},
	} {
		_, err := w.ring.Encrypt(ctx, c.scope, secret.Bytes{})
		wantKind(t, c.what, err, c.kind)
	}
	wantKind(t, "Rotate: no such key", w.ring.Rotate(ctx, w.tenant, "absent"), fault.NotFound)
	wantKind(t, "Rotate: no such tenant", w.ring.Rotate(ctx, tenant.New(), "absent"), fault.NotFound)
	wantKind(t, "Rotate: bad name", w.ring.Rotate(ctx, w.tenant, ""), fault.Invalid)
	wantKind(t, "CreateKEK: no tenant", w.ring.CreateKEK(ctx, tenant.ID{}, w.system), fault.Invalid)
	wantKind(t, "CreateKEK: no shard", w.ring.CreateKEK(ctx, w.tenant, ""), fault.Invalid)
	if n := w.store.mutations.Load(); n != before {
		t.Errorf("%d transactions were begun for refused input", n-before)
	}
	_, err := w.ring.Encrypt(ctx, big, secret.Bytes{})
	wantKind(t, "context too large", err, fault.TooLarge)
	_, err = w.ring.Encrypt(ctx, w.scope("k"), secret.New(make([]byte, envelope.MaxPlaintext+1)))
	wantKind(t, "plaintext too large", err, fault.TooLarge)
}

func TestOldVersionsDecryptAfterManyRotations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("signing")
	var blobs [][]byte
	for i := range 101 {
		blob := w.encrypt(w.ring, s, fmt.Sprint("message ", i))
		if v := version(t, blob); v != uint32(i+1) {
			t.Fatalf("after %d rotations version %d encrypts", i, v)
		}
		blobs = append(blobs, blob)
		w.must(w.ring.Rotate(t.Context(), w.tenant, s.Key))
	}
	fresh := w.open()
	for i, blob := range blobs { // more versions than stay in memory
		w.opens(w.ring, s, blob, fmt.Sprint("message ", i))
		w.opens(fresh, s, blob, fmt.Sprint("message ", i))
	}
}

func TestChangesHaveTheirEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := len(w.store.committed())
	subject := principal.Subject{Kind: principal.Service, ID: tenant.RandomID()}
	actor := principal.Subject{Kind: principal.Service, ID: tenant.RandomID()}
	ctx := principal.With(t.Context(), &principal.Principal{Subject: subject, ClientID: "client", Actors: []principal.Actor{{Subject: actor}}})

	blob, err := w.ring.Encrypt(ctx, w.scope("k"), secret.Bytes{})
	w.must(err)
	w.encrypt(w.ring, w.scope("k"), "again")
	w.opens(w.ring, w.scope("k"), blob, "")
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	w.must(w.ring.CreateKEK(t.Context(), w.tenant, w.system)) // idempotent
	_, err = w.ring.Derive(t.Context(), "x")
	w.must(err)
	id, system := w.addTenant()

	events := w.store.committed()[before:]
	if len(events) != 3 {
		t.Fatalf("%d events for 3 changes: %+v", len(events), events)
	}
	for i, want := range []ledger.Event{
		{Action: "key.create", Tenant: w.tenant, Resource: "key:k", Subject: subject.String(), ClientID: "client", Detail: map[string]string{"version": "1"}, Revision: relation.Revision{Store: w.system}},
		{Action: "key.rotate", Tenant: w.tenant, Resource: "key:k", Subject: "system", Detail: map[string]string{"version": "2"}, Revision: relation.Revision{Store: w.system}},
		{Action: "kek.create", Tenant: id, Resource: "kek", Subject: "system", Detail: map[string]string{"version": "1"}, Revision: relation.Revision{Store: system}},
	} {
		got := events[i]
		if got.Class != ledger.Mutation || got.Action != want.Action || got.Tenant != want.Tenant || got.Resource != want.Resource ||
			got.Subject != want.Subject || got.ClientID != want.ClientID || got.Detail["version"] != want.Detail["version"] ||
			!tenant.ValidID(got.ID) || !got.Time.Equal(w.clock.now()) || got.Revision.Store != want.Revision.Store {
			t.Errorf("event %d: %+v, want %+v", i, got, want)
		}
	}
	if got := events[0].Actors; len(got) != 1 || got[0] != actor.String() {
		t.Errorf("the actors are %v", got)
	}
}

func TestAFailedTransactionLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := len(w.store.committed())
	full := fault.New(fault.Unavailable, "the disk is full")
	w.store.set(func(s *seam) { s.onTx = func() error { return full } })
	if _, err := w.ring.Encrypt(t.Context(), w.scope("k"), secret.Bytes{}); !errors.Is(err, full) {
		t.Errorf("Encrypt: %v", err)
	}
	id, system := w.base.addTenant(t)
	if err := w.ring.CreateKEK(t.Context(), id, system); !errors.Is(err, full) {
		t.Errorf("CreateKEK: %v", err)
	}
	w.store.set(func(s *seam) { s.onTx = nil })
	if n := len(w.store.committed()); n != before {
		t.Errorf("%d events of failed transactions", n-before)
	}
	blob := w.encrypt(w.ring, w.scope("k"), "x")
	if v := version(t, blob); v != 1 {
		t.Errorf("version %d after a failed first try", v)
	}
	w.opens(w.open(), w.scope("k"), blob, "x")
	w.must(w.ring.CreateKEK(t.Context(), id, system))
}

func TestDerive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	derive := func(ring *kms.Keyring, purpose string) secret.Bytes {
		t.Helper()
		key, err := ring.Derive(t.Context(), purpose)
		w.must(err)
		if key.Len() != 32 {
			t.Errorf("%d bytes", key.Len())
		}
		return key
	}
	a := derive(w.ring, "revision-token")
	if !a.Equal(derive(w.open(), "revision-token")) {
		t.Error("another node derives another key")
	}
	if a.Equal(derive(w.ring, "enrolment-code")) || a.Equal(derive(newWorld(t).ring, "revision-token")) {
		t.Error("purpose or platform does not matter")
	}
	b := derive(w.ring, "revision-token")
	b.Destroy() // the caller's copy only
	if !a.Equal(derive(w.ring, "revision-token")) {
		t.Error("the caller's Destroy reached the keyring")
	}
	_, err := w.ring.Derive(t.Context(), "")
	wantKind(t, "no purpose", err, fault.Invalid)

	empty := newStore(t)
	ring, err := kms.Open(t.Context(), kms.Config{Root: w.root, Store: empty.keys(), Env: "test", Fingerprint: w.root.Fingerprint(), Now: w.clock.now})
	w.must(err)
	_, err = ring.Derive(t.Context(), "x")
	wantKind(t, "no platform KEK", err, fault.NotFound)
}

func BenchmarkEncrypt1KiB(b *testing.B) { benchmark(b, true) }

func BenchmarkDecrypt1KiB(b *testing.B) { benchmark(b, false) }

func benchmark(b *testing.B, encrypt bool) {
	base := newStore(b)
	root := newRoot(b, "bench", false)
	ring, err := kms.Open(b.Context(), kms.Config{Root: root, Store: base.keys(), Env: "bench", Fingerprint: root.Fingerprint(), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	id, system := base.addTenant(b)
	if err := ring.CreateKEK(b.Context(), id, system); err != nil {
		b.Fatal(err)
	}
	s := kms.Scope{Tenant: id, Key: "k", Purpose: "p", Context: map[string]string{"table": "users", "row": "17"}}
	plaintext := secret.Random(1024)
	blob, err := ring.Encrypt(b.Context(), s, plaintext)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		if encrypt {
			_, err = ring.Encrypt(b.Context(), s, plaintext)
		} else {
			_, err = ring.Decrypt(b.Context(), s, blob)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
