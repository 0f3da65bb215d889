package kms_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/kms"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

func TestTheWrongRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.encrypt(w.ring, w.scope("k"), "x")
	before, events := w.store.mutations.Load(), len(w.store.committed())
	other := newRoot(t, "test", false)
	for _, c := range []struct {
		what   string
		change func(*kms.Config)
		kind   fault.Kind
		says   string
	}{
		{"another installation", func(c *kms.Config) { c.Root = other }, fault.Denied, other.Fingerprint()},
		{"another environment", func(c *kms.Config) { c.Root = newRoot(t, "prod", false) }, fault.Denied, `"prod"`},
		{"data of another environment", func(c *kms.Config) { c.Env = "other" }, fault.Denied, `"other"`},
		{"a dev root", func(c *kms.Config) { c.Root = newRoot(t, "test", true) }, fault.Denied, "a dev root key"},
		{"dev data", func(c *kms.Config) { c.Dev = true }, fault.Denied, "a dev root key"},
		// The instance row was edited to fit: the KEK tells.
		{"an edited fingerprint", func(c *kms.Config) { c.Root, c.Fingerprint = other, other.Fingerprint() }, fault.Integrity, "does not open"},
		{"no fingerprint", func(c *kms.Config) { c.Fingerprint = "" }, fault.Internal, "fingerprint"},
	} {
		c2 := w.config()
		c.change(&c2)
		ring, err := kms.Open(t.Context(), c2)
		wantKind(t, c.what, err, c.kind)
		if err != nil && !bytes.Contains([]byte(err.Error()), []byte(c.says)) {
			t.Errorf("%s: %q does not say %q", c.what, err, c.says)
		}
		if ring != nil {
			t.Errorf("%s: a keyring came with the error", c.what)
		}
	}
	if w.store.mutations.Load() != before || len(w.store.committed()) != events {
		t.Error("something was written")
	}
}

func TestMovedAndEditedRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	old := w.encrypt(w.ring, s, "old")
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	blob := w.encrypt(w.ring, s, "new")
	w.encrypt(w.ring, w.scope("other"), "x")
	foreignTenant, _ := w.addTenant()
	w.encrypt(w.ring, kms.Scope{Tenant: foreignTenant, Key: "k", Purpose: "p"}, "x")
	foreign, err := w.base.keys().LoadTenantKeys(t.Context(), foreignTenant)
	w.must(err)
	find := func(keys *kms.TenantKeys, key string, version uint32) *kms.Version {
		for i := range keys.Versions {
			if v := &keys.Versions[i]; v.Key == key && v.Version == version {
				return v
			}
		}
		t.Fatalf("no row %s %d", key, version)
		return nil
	}
	for what, spoil := range map[string]func(*kms.TenantKeys){
		"another tenant's KEK":           func(k *kms.TenantKeys) { k.KEKs[0].Wrapped = foreign.KEKs[0].Wrapped },
		"another tenant's KEK row":       func(k *kms.TenantKeys) { k.KEKs = foreign.KEKs },
		"another tenant's version":       func(k *kms.TenantKeys) { find(k, "k", 2).Wrapped = foreign.Versions[0].Wrapped },
		"another tenant's version row":   func(k *kms.TenantKeys) { k.Versions = append(k.Versions, foreign.Versions...) },
		"another key's version":          func(k *kms.TenantKeys) { find(k, "k", 2).Wrapped = find(k, "other", 1).Wrapped },
		"an older version under its no.": func(k *kms.TenantKeys) { find(k, "k", 2).Wrapped = find(k, "k", 1).Wrapped },
		"a KEK for another number":       func(k *kms.TenantKeys) { k.KEKs[0].Version = 2 },
		"a KEK of another name":          func(k *kms.TenantKeys) { k.KEKs[0].ID = "x" },
		"a KEK for another shard":        func(k *kms.TenantKeys) { k.KEKs[0].Store = "x" },
		"a flipped bit of the KEK":       func(k *kms.TenantKeys) { flip(&k.KEKs[0].Wrapped) },
		"a flipped bit of the version":   func(k *kms.TenantKeys) { flip(&find(k, "k", 2).Wrapped) },
		"no KEK bytes":                   func(k *kms.TenantKeys) { k.KEKs[0].Wrapped = nil },
		"no version bytes":               func(k *kms.TenantKeys) { find(k, "k", 2).Wrapped = nil },
		"a ciphertext as a version":      func(k *kms.TenantKeys) { find(k, "k", 2).Wrapped = blob },
	} {
		w.ring.Invalidate(w.tenant)
		w.store.set(func(s *seam) { s.spoil = spoil })
		got, err := w.ring.Decrypt(t.Context(), s, blob)
		wantKind(t, what, err, fault.Integrity)
		if got.Len() != 0 {
			t.Errorf("%s: bytes came with the error", what)
		}
		_, err = w.ring.Encrypt(t.Context(), s, secret.Bytes{})
		wantKind(t, what+": Encrypt", err, fault.Integrity)
	}

	// A row that somebody removed is like one that never was.
	w.ring.Invalidate(w.tenant)
	w.store.set(func(s *seam) { s.spoil = func(k *kms.TenantKeys) { k.Versions = nil } })
	w.refused("no versions", w.ring, s, blob)

	// What is left of one version does not hurt the others.
	w.ring.Invalidate(w.tenant)
	w.store.set(func(s *seam) { s.spoil = func(k *kms.TenantKeys) { flip(&find(k, "k", 2).Wrapped) } })
	w.opens(w.ring, s, old, "old")

	w.ring.Invalidate(w.tenant)
	w.store.set(func(s *seam) { s.spoil = nil })
	w.opens(w.ring, s, blob, "new")
}

func flip(b *[]byte) {
	*b = bytes.Clone(*b)
	(*b)[len(*b)-1] ^= 1
}

func TestRowsThatAreNotEnabled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	first := w.encrypt(w.ring, s, "first")
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	second := w.encrypt(w.ring, s, "second")
	with := func(spoil func(*kms.TenantKeys)) {
		w.ring.Invalidate(w.tenant)
		w.store.set(func(s *seam) { s.spoil = spoil })
	}
	for _, state := range []string{kms.StateDestroyed, "", "of a later release"} {
		// The tenant's KEK is gone: nothing opens, nothing new is made.
		with(func(k *kms.TenantKeys) { k.KEKs[0].State, k.KEKs[0].Wrapped = state, nil })
		before := w.store.mutations.Load()
		w.refused("KEK "+state, w.ring, s, first)
		w.refused("KEK "+state, w.ring, s, second)
		_, err := w.ring.Encrypt(t.Context(), s, secret.Bytes{})
		wantKind(t, "Encrypt, KEK "+state, err, fault.Denied)
		_, err = w.ring.Encrypt(t.Context(), w.scope("fresh"), secret.Bytes{})
		wantKind(t, "Encrypt with a new key, KEK "+state, err, fault.Denied)
		wantKind(t, "Rotate, KEK "+state, w.ring.Rotate(t.Context(), w.tenant, "k"), fault.Denied)
		wantKind(t, "CreateKEK, KEK "+state, w.ring.CreateKEK(t.Context(), w.tenant, w.system), fault.Denied)
		if n := w.store.mutations.Load() - before; n != 0 {
			t.Errorf("KEK %q: %d transactions", state, n)
		}

		// One version is gone: the others work, and the newest enabled encrypts.
		with(func(k *kms.TenantKeys) {
			for i := range k.Versions {
				if k.Versions[i].Version == 2 {
					k.Versions[i].State = state
				}
			}
		})
		w.opens(w.ring, s, first, "first")
		w.refused("version "+state, w.ring, s, second)
		if v := version(t, w.encrypt(w.ring, s, "x")); v != 1 {
			t.Errorf("version %d encrypts where 2 is %q", v, state)
		}

		// All versions are gone: the key is not made anew behind the back of
		// whoever disabled it.
		with(func(k *kms.TenantKeys) {
			for i := range k.Versions {
				k.Versions[i].State = state
			}
		})
		_, err = w.ring.Encrypt(t.Context(), s, secret.Bytes{})
		wantKind(t, "Encrypt, versions "+state, err, fault.Denied)
		w.refused("versions "+state, w.ring, s, first)
	}
	with(func(k *kms.TenantKeys) { // and the other way: a rotation brings the key back
		for i := range k.Versions {
			if k.Versions[i].Version <= 2 {
				k.Versions[i].State = kms.StateDestroyed
			}
		}
	})
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	if v := version(t, w.encrypt(w.ring, s, "x")); v != 3 {
		t.Errorf("version %d after 1 and 2 were destroyed", v)
	}
}

// unwrap returns a version's key by the specification, with the KEK that the
// recorder saw.
func (w *world) unwrap(v kms.Version) secret.Bytes {
	w.t.Helper()
	for _, kek := range w.root.seen {
		key, err := envelope.Open(secret.New(kek), "key-version", map[string]string{"key": v.Key, "version": fmt.Sprint(v.Version)}, v.Wrapped)
		if err == nil {
			return key
		}
	}
	w.t.Fatal("no KEK opens the version")
	return secret.Bytes{}
}

// Even whoever has a key's bytes cannot pass off a blob of another header.
func TestTheHeaderIsJudged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	w.encrypt(w.ring, s, "x")
	keys, err := w.base.keys().LoadTenantKeys(t.Context(), w.tenant)
	w.must(err)
	key := w.unwrap(keys.Versions[0])
	seal := func(h envelope.Header) []byte {
		t.Helper()
		blob, err := envelope.Seal(key, h, s.Purpose, s.Context, []byte("forged"))
		w.must(err)
		return blob
	}
	id := w.tenant.String()
	w.opens(w.ring, s, seal(envelope.Header{Env: "test", Tenant: id, Key: "k", Version: 1}), "forged")
	w.refused("environment", w.ring, s, seal(envelope.Header{Env: "prod", Tenant: id, Key: "k", Version: 1}))
	w.refused("tenant", w.ring, s, seal(envelope.Header{Env: "test", Tenant: tenant.New().String(), Key: "k", Version: 1}))
	w.refused("key", w.ring, s, seal(envelope.Header{Env: "test", Tenant: id, Key: "other", Version: 1}))
	w.refused("version", w.ring, s, seal(envelope.Header{Env: "test", Tenant: id, Key: "k", Version: 2}))
}

func TestNoPlaintextKeyLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.scope("k")
	var out bytes.Buffer
	out.Write(w.encrypt(w.ring, s, "x"))
	w.must(w.ring.Rotate(t.Context(), w.tenant, "k"))
	blob := w.encrypt(w.ring, s, "x")
	out.Write(blob)
	mac, err := w.ring.Derive(t.Context(), "mac")
	w.must(err)

	secrets := [][]byte{mac.Reveal()}
	for _, id := range []tenant.ID{tenant.Platform, w.tenant} {
		keys, err := w.base.keys().LoadTenantKeys(t.Context(), id)
		w.must(err)
		for _, kek := range keys.KEKs {
			out.Write(kek.Wrapped)
		}
		for _, v := range keys.Versions {
			out.Write(v.Wrapped)
			secrets = append(secrets, w.unwrap(v).Reveal())
		}
		fmt.Fprintf(&out, "%v %+v %#v\n", keys, keys, keys)
	}
	secrets = append(secrets, w.root.seen...)
	if len(secrets) != 1+2+2 {
		t.Fatalf("%d secrets known, want the MAC key, two KEKs and two versions", len(secrets))
	}
	fmt.Fprintf(&out, "%v %+v %#v\n", w.ring, w.ring, w.ring)
	fmt.Fprintf(&out, "%v %+v %#v\n", w.root.Root, w.root.Root, w.root.Root)
	fmt.Fprintf(&out, "%v %+v %#v\n", w.store.committed(), s, s)
	blob[len(blob)-1] ^= 1
	for _, spoil := range []func(*kms.TenantKeys){
		nil,
		func(k *kms.TenantKeys) { flip(&k.KEKs[0].Wrapped) },
		func(k *kms.TenantKeys) { flip(&k.Versions[0].Wrapped); flip(&k.Versions[1].Wrapped) },
	} {
		w.ring.Invalidate(w.tenant)
		w.store.set(func(s *seam) { s.spoil = spoil })
		_, err := w.ring.Decrypt(t.Context(), s, blob)
		fmt.Fprintf(&out, "%v %+v %#v\n", err, err, err)
	}
	w.base.files(t, &out)

	for i, key := range secrets {
		for _, shape := range []string{
			string(key[:16]), hex.EncodeToString(key[:8]), fmt.Sprintf("%X", key[:8]),
			base64.StdEncoding.EncodeToString(key[:9]), base64.URLEncoding.EncodeToString(key[:9]),
			strings.Trim(fmt.Sprint(key[:6]), "[]"), strings.Trim(fmt.Sprintf("%#v", key[:6])[6:], "{}"),
		} {
			if bytes.Contains(out.Bytes(), []byte(shape)) {
				t.Errorf("secret %d left as %q", i, shape)
			}
		}
	}
}
