package kms

import (
	"container/list"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"time"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

const (
	kekID          = "kek"
	purposeVersion = "key-version"

	maxAge   = 5 * time.Minute  // a missed invalidation lasts no longer
	maxLoad  = 30 * time.Second // a root or store that hangs frees the tenant's flight
	maxPlain = 64               // plaintext versions of one tenant
	maxTries = 100              // each lost one is a change that another process won
)

var (
	errOpen      = fault.New(fault.Invalid, "the ciphertext does not open")
	errNoKEK     = fault.New(fault.NotFound, "the tenant has no key-encryption key yet")
	errDestroyed = fault.New(fault.Denied, "the key is not enabled any more")

	errAbsent = fault.New(fault.NotFound, "there is no such key version")
	errLeft   = fault.New(fault.Internal, "the keys have left the memory") // never leaves the package
)

// tenantKeys is one tenant's keys as they were read. All but what mu guards is
// immutable.
type tenantKeys struct {
	tenant    tenant.ID
	flight    uint64 // the number of the reading
	read      time.Time
	store     relation.StoreID
	hasKEK    bool   // in whatever state
	newestKEK uint32 // the newest enabled version; 0 when there is none
	versions  map[string]*keyVersions

	mu    sync.Mutex
	left  bool // the plaintexts are overwritten
	keks  map[uint32]secret.Bytes
	plain map[versionRef]secret.Bytes
}

type keyVersions struct {
	newest  uint32 // the newest enabled version; 0 when there is none
	highest uint32 // in whatever state
	rows    map[uint32]Version
}

type versionRef struct {
	key     string
	version uint32
}

// flight is one reading of a tenant's rows, shared by all who wait for it.
type flight struct {
	number uint64
	done   chan struct{}
	keys   *tenantKeys
	err    error
}

// load returns the tenant's keys from memory, or reads them once for all who
// ask at the same time. Failures are not remembered.
func (k *Keyring) load(ctx context.Context, t tenant.ID) (*tenantKeys, error) {
	k.mu.Lock()
	if el, ok := k.tenants[t]; ok {
		have := el.Value.(*tenantKeys)
		if k.now().Sub(have.read) < maxAge {
			k.recent.MoveToFront(el)
			k.mu.Unlock()
			return have, nil
		}
		k.remove(el)
	}
	f, ok := k.flights[t]
	if !ok {
		f = &flight{number: k.flown.Add(1), done: make(chan struct{})}
		k.flights[t] = f
		// The others must not fail because the first one went away.
		go k.fly(context.WithoutCancel(ctx), t, f)
	}
	k.mu.Unlock()

	select {
	case <-f.done:
		return f.keys, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *Keyring) fly(ctx context.Context, t tenant.ID, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, maxLoad)
	defer cancel()
	f.keys, f.err = k.read(ctx, t, f.number)

	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(f.done)
	if k.flights[t] != f {
		return // invalidated while it read: good for those who wait, not to be kept
	}
	delete(k.flights, t)
	if f.err != nil || !f.keys.hasKEK {
		return
	}
	k.tenants[t] = k.recent.PushFront(f.keys)
	for k.recent.Len() > k.max {
		k.remove(k.recent.Back())
	}
}

// Apply takes one committed change of the kinds [KindKEK] and [KindVersion]:
// the tenant's keys are read again at their next use. Other kinds do nothing.
// The error has kind [fault.Integrity]: the entry names no tenant.
func (k *Keyring) Apply(kind, key string) error {
	if kind != KindKEK && kind != KindVersion {
		return nil
	}
	id, _, _ := strings.Cut(key, "/")
	t, err := tenant.Trusted(id)
	if err != nil {
		return fault.Wrap(fault.Integrity, "a change of a key names no tenant", err)
	}
	k.Invalidate(t)
	return nil
}

// Invalidate forgets the tenant's keys; the next use reads them again.
func (k *Keyring) Invalidate(t tenant.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.flights, t)
	if el, ok := k.tenants[t]; ok {
		k.remove(el)
	}
}

// leave forgets exactly these keys, not newer ones of the same tenant.
func (k *Keyring) leave(t tenant.ID, have *tenantKeys) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if el, ok := k.tenants[t]; ok && el.Value.(*tenantKeys) == have {
		k.remove(el)
	}
}

// remove is called with k.mu held.
func (k *Keyring) remove(el *list.Element) {
	have := k.recent.Remove(el).(*tenantKeys)
	delete(k.tenants, have.tenant)
	have.mu.Lock()
	defer have.mu.Unlock()
	have.left = true
	for _, key := range have.keks {
		key.Destroy()
	}
	for _, key := range have.plain {
		key.Destroy()
	}
	clear(have.keks)
	clear(have.plain)
}

// read loads a tenant's rows and opens its enabled KEKs.
func (k *Keyring) read(ctx context.Context, t tenant.ID, number uint64) (*tenantKeys, error) {
	have := &tenantKeys{
		tenant: t, flight: number, read: k.now(), versions: map[string]*keyVersions{},
		keks: map[uint32]secret.Bytes{}, plain: map[versionRef]secret.Bytes{},
	}
	rows, err := k.store.LoadTenantKeys(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, row := range rows.KEKs {
		if row.Tenant != t || row.ID != kekID {
			return nil, fault.New(fault.Integrity, "a stored key-encryption key belongs elsewhere")
		}
		have.hasKEK, have.store = true, row.Store
		if row.State != StateEnabled {
			continue
		}
		key, err := k.root.Unwrap(ctx, row.Wrapped, kekContext(k.env, row))
		if err != nil && (fault.KindOf(err) == fault.Unavailable || ctx.Err() != nil) {
			return nil, fault.Wrap(fault.Unavailable, "the root key does not answer; try again", err)
		}
		if err != nil || key.Len() != envelope.KeySize {
			return nil, fault.Wrap(fault.Integrity, "the root key does not open the key-encryption key of tenant "+t.String(), err)
		}
		have.keks[row.Version] = key
		have.newestKEK = max(have.newestKEK, row.Version)
	}
	for _, row := range rows.Versions {
		if row.Tenant != t {
			return nil, fault.New(fault.Integrity, "a stored key version belongs elsewhere")
		}
		versions, ok := have.versions[row.Key]
		if !ok {
			versions = &keyVersions{rows: map[uint32]Version{}}
			have.versions[row.Key] = versions
		}
		versions.rows[row.Version] = row
		versions.highest = max(versions.highest, row.Version)
		if row.State == StateEnabled {
			versions.newest = max(versions.newest, row.Version)
		}
	}
	return have, nil
}

// highest returns the highest version that the key has in whatever state.
func (have *tenantKeys) highest(key string) uint32 {
	if versions, ok := have.versions[key]; ok {
		return versions.highest
	}
	return 0
}

// open returns a copy of a key version. The errors of this package's own:
// errAbsent, errDestroyed, errLeft; [fault.Integrity] for a row that does not
// open although its KEK is there.
func (have *tenantKeys) open(env, key string, version uint32) (secret.Bytes, error) {
	var row Version
	if versions, ok := have.versions[key]; ok {
		row = versions.rows[version]
	}
	if row.Version == 0 {
		return secret.Bytes{}, errAbsent
	}
	if row.State != StateEnabled {
		return secret.Bytes{}, errDestroyed
	}
	have.mu.Lock()
	defer have.mu.Unlock()
	if have.left {
		return secret.Bytes{}, errLeft
	}
	ref := versionRef{key, version}
	if plain, ok := have.plain[ref]; ok {
		return clone(plain), nil
	}
	h, err := envelope.Parse(row.Wrapped)
	if err != nil || h.Env != env || h.Tenant != have.tenant.String() || h.Key != kekID {
		return secret.Bytes{}, fault.New(fault.Integrity, "a stored key version is damaged")
	}
	kek, ok := have.keks[h.Version]
	if !ok {
		return secret.Bytes{}, errDestroyed
	}
	plain, err := envelope.Open(kek, purposeVersion, versionContext(row), row.Wrapped)
	if err != nil || plain.Len() != envelope.KeySize {
		return secret.Bytes{}, fault.New(fault.Integrity, "a stored key version is damaged")
	}
	for old, key := range have.plain { // any one: which key comes next is not known
		if len(have.plain) < maxPlain {
			break
		}
		key.Destroy()
		delete(have.plain, old)
	}
	have.plain[ref] = plain
	return clone(plain), nil
}

// wrap seals a fresh key version under the newest enabled KEK.
func (have *tenantKeys) wrap(env string, row Version, fresh secret.Bytes) ([]byte, error) {
	have.mu.Lock()
	defer have.mu.Unlock()
	if have.left {
		return nil, errLeft
	}
	kek, ok := have.keks[have.newestKEK]
	if !ok {
		return nil, errDestroyed
	}
	h := envelope.Header{Env: env, Tenant: have.tenant.String(), Key: kekID, Version: have.newestKEK}
	return envelope.Seal(kek, h, purposeVersion, versionContext(row), fresh.Reveal())
}

func (have *tenantKeys) derive(env, purpose string) (secret.Bytes, error) {
	have.mu.Lock()
	defer have.mu.Unlock()
	if have.left {
		return secret.Bytes{}, errLeft
	}
	kek, ok := have.keks[have.newestKEK]
	if !ok {
		return secret.Bytes{}, errDestroyed
	}
	return deriveMAC(kek, env, purpose)
}

// deriveMAC is HKDF-SHA-256 without salt. Envelopes have random salts and an
// info that begins with "BWE", so the two uses of a KEK never meet.
func deriveMAC(kek secret.Bytes, env, purpose string) (secret.Bytes, error) {
	info := []byte("BWD\x01")
	for _, s := range []string{env, purpose} {
		info = binary.BigEndian.AppendUint32(info, uint32(len(s)))
		info = append(info, s...)
	}
	key, err := hkdf.Key(sha256.New, kek.Reveal(), nil, string(info), envelope.KeySize)
	if err != nil {
		return secret.Bytes{}, fault.Wrap(fault.Internal, "key derivation failed", err)
	}
	return secret.New(key), nil
}

// kekContext binds a wrapped KEK to the whole of its row that has a meaning.
func kekContext(env string, row KEK) map[string]string {
	return map[string]string{
		"env": env, "tenant": row.Tenant.String(), "kek": row.ID,
		"version": strconv.FormatUint(uint64(row.Version), 10), "store": string(row.Store),
	}
}

// versionContext binds a wrapped key version to its key and number; tenant,
// environment and KEK are in the header of the wrap.
func versionContext(row Version) map[string]string {
	return map[string]string{"key": row.Key, "version": strconv.FormatUint(uint64(row.Version), 10)}
}
