package kms

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

var update = flag.Bool("update", false, "write the golden files anew")

const goldenVersion = "testdata/version1.golden"

func counting() secret.Bytes {
	key := make([]byte, envelope.KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	return secret.New(key)
}

func goldenKeys(t *testing.T, row Version) *tenantKeys {
	t.Helper()
	return &tenantKeys{
		tenant: row.Tenant, hasKEK: true, newestKEK: 3,
		versions: map[string]*keyVersions{row.Key: {newest: row.Version, highest: row.Version, rows: map[uint32]Version{row.Version: row}}},
		keks:     map[uint32]secret.Bytes{3: counting()}, plain: map[versionRef]secret.Bytes{},
	}
}

// All later versions must open a version that was wrapped like this one. The
// KEK, version 3, is the bytes 0 to 31; the version is 32 times 0x56.
func TestGoldenVersion(t *testing.T) {
	t.Parallel()
	row := Version{Tenant: tenant.Platform, Key: "token-signing", Version: 7, State: StateEnabled}
	if *update {
		wrapped, err := goldenKeys(t, row).wrap("golden", row, secret.New(bytes.Repeat([]byte{0x56}, envelope.KeySize)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenVersion, []byte(hex.EncodeToString(wrapped)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(goldenVersion)
	if err != nil {
		t.Fatal(err)
	}
	if row.Wrapped, err = hex.DecodeString(strings.TrimSpace(string(text))); err != nil {
		t.Fatal(err)
	}
	key, err := goldenKeys(t, row).open("golden", row.Key, row.Version)
	if err != nil || !bytes.Equal(key.Reveal(), bytes.Repeat([]byte{0x56}, envelope.KeySize)) {
		t.Errorf("open: %v", err)
	}
}

// Revision tokens that clients hold depend on this derivation.
func TestGoldenDerivation(t *testing.T) {
	t.Parallel()
	key, err := deriveMAC(counting(), "golden", "revision-token")
	if err != nil || hex.EncodeToString(key.Reveal()) != "b3700f24ec3b5218fdb28bd92933c3f552f818f96fdb83d933286bea96f66090" {
		t.Errorf("%x, %v", key.Reveal(), err)
	}
}

// Keys that leave the memory are overwritten, and what callers hold is not.
func TestKeysThatLeaveAreOverwritten(t *testing.T) {
	t.Parallel()
	row := Version{Tenant: tenant.Platform, Key: "k", Version: 1, State: StateEnabled}
	have := goldenKeys(t, row)
	var err error
	if row.Wrapped, err = have.wrap("test", row, secret.Random(envelope.KeySize)); err != nil {
		t.Fatal(err)
	}
	have.versions["k"].rows[1] = row
	held, err := have.open("test", "k", 1)
	if err != nil {
		t.Fatal(err)
	}
	kek, plain := have.keks[3], have.plain[versionRef{"k", 1}]
	if !held.Equal(plain) {
		t.Fatal("the version is not kept")
	}

	k := newKeyring(Config{MaxTenants: 1})
	k.tenants[row.Tenant] = k.recent.PushFront(have)
	k.Invalidate(row.Tenant)
	zero := secret.New(make([]byte, envelope.KeySize))
	if !kek.Equal(zero) || !plain.Equal(zero) || len(have.keks)+len(have.plain) != 0 {
		t.Error("a key stays in memory after it left")
	}
	if held.Equal(zero) {
		t.Error("the key was overwritten under its user's hands")
	}
	if _, err := have.open("test", "k", 1); err != errLeft {
		t.Errorf("open after leaving: %v", err)
	}
	if _, err := have.wrap("test", row, held); err != errLeft {
		t.Errorf("wrap after leaving: %v", err)
	}
	if _, err := have.derive("test", "p"); err != errLeft {
		t.Errorf("derive after leaving: %v", err)
	}
}

func TestFewVersionsInMemory(t *testing.T) {
	t.Parallel()
	have := goldenKeys(t, Version{Tenant: tenant.Platform, Key: "k"})
	rows := have.versions["k"].rows
	for n := range uint32(3 * maxPlain) {
		row := Version{Tenant: tenant.Platform, Key: "k", Version: n + 1, State: StateEnabled}
		var err error
		if row.Wrapped, err = have.wrap("test", row, secret.Random(envelope.KeySize)); err != nil {
			t.Fatal(err)
		}
		rows[n+1] = row
		if _, err := have.open("test", "k", n+1); err != nil {
			t.Fatal(err)
		}
		if len(have.plain) > maxPlain {
			t.Fatalf("%d versions in clear", len(have.plain))
		}
	}
}
