package kms

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/envelope"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// Config is what a [Keyring] needs. Env, Fingerprint and Dev come from the
// store's instance row; they say which root key the data was made under.
type Config struct {
	Root        Root
	Store       Store
	Env         string
	Fingerprint string
	Dev         bool
	Now         func() time.Time
	MaxTenants  int // tenants whose keys stay in memory; 0 is 4096
}

// Keyring uses the keys of all tenants. It is safe for concurrent use.
//
// Plaintext keys stay in memory for at most five minutes after their rows were
// read, of at most MaxTenants tenants, and at most 64 versions of each; they
// are overwritten when they leave.
type Keyring struct {
	root  Root
	store Store
	env   string
	now   func() time.Time
	max   int

	mu      sync.Mutex
	tenants map[tenant.ID]*list.Element // of *tenantKeys
	recent  *list.List                  // front: used last
	flights map[tenant.ID]*flight
	flown   atomic.Uint64 // readings begun so far; each one's number

	// writers lets one goroutine at a time add to the keys of a tenant. Other
	// processes are held off by the store's primary keys.
	writers [64]chan struct{}
}

// Scope says whose key is used, and what for. A ciphertext opens only in the
// scope in which it was made.
type Scope struct {
	Tenant  tenant.ID
	Key     string // [envelope.ValidKey]
	Purpose string
	Context map[string]string
}

// Open returns a keyring. It writes nothing.
//
// A root key of another installation or environment, and a dev root for data
// that is not dev's or the reverse, give kind [fault.Denied]. A root that does
// not open the platform's KEK gives [fault.Integrity]; one that cannot be
// reached, [fault.Unavailable].
func Open(ctx context.Context, c Config) (*Keyring, error) {
	if c.Root == nil || c.Store == nil || c.Now == nil || !envelope.ValidEnv(c.Env) || c.Fingerprint == "" {
		return nil, fault.New(fault.Internal, "the keyring needs a root, a store, a clock and the instance's environment and fingerprint")
	}
	if err := belongs(c); err != nil {
		return nil, err
	}
	k := newKeyring(c)
	// The fingerprint is a row that anyone with the database can edit: the
	// proof is that the root opens the platform's KEK. Before the first start
	// there is none.
	if _, err := k.load(ctx, tenant.Platform); err != nil {
		return nil, err
	}
	return k, nil
}

func newKeyring(c Config) *Keyring {
	k := &Keyring{
		root: c.Root, store: c.Store, env: c.Env, now: c.Now, max: c.MaxTenants,
		tenants: map[tenant.ID]*list.Element{}, recent: list.New(), flights: map[tenant.ID]*flight{},
	}
	if k.max <= 0 {
		k.max = 4096
	}
	for i := range k.writers {
		k.writers[i] = make(chan struct{}, 1)
	}
	return k
}

func belongs(c Config) error {
	kind := map[bool]string{true: "a dev", false: "a production"}
	if c.Root.Dev() != c.Dev {
		return fault.New(fault.Denied, fmt.Sprintf("this is %s root key, and the data was made under %s root key", kind[c.Root.Dev()], kind[c.Dev]))
	}
	if c.Root.Env() != c.Env || c.Root.Fingerprint() != c.Fingerprint {
		return fault.New(fault.Denied, fmt.Sprintf(
			"root key %s of environment %q does not belong to this data, which needs root key %s of environment %q",
			c.Root.Fingerprint(), c.Root.Env(), c.Fingerprint, c.Env))
	}
	return nil
}

// CreateKEK gives the tenant its KEK, with the mutation's event in the shard
// system. When the tenant has one it does nothing.
//
// A tenant whose KEK was destroyed gives kind [fault.Denied]: what was shredded
// stays shredded.
func (k *Keyring) CreateKEK(ctx context.Context, t tenant.ID, system relation.StoreID) error {
	if t.IsZero() || system == "" {
		return fault.New(fault.Invalid, "a KEK belongs to a tenant and its system store")
	}
	return k.change(ctx, t, func(have *tenantKeys) (bool, error) {
		if have.hasKEK {
			if have.newestKEK == 0 {
				return true, errDestroyed
			}
			return true, nil
		}
		row := KEK{Tenant: t, ID: kekID, Version: 1, Store: system, Created: k.now(), State: StateEnabled}
		key := secret.Random(envelope.KeySize)
		defer key.Destroy()
		var err error
		if row.Wrapped, err = k.root.Wrap(ctx, key, kekContext(k.env, row)); err != nil {
			return true, err
		}
		event := k.event(ctx, t, "kek.create", kekID, 1)
		_, err = k.store.Mutate(ctx, ledger.Change{Store: system, Event: event}, func(tx Tx) error { return tx.PutKEK(row) })
		return true, err
	})
}

// Encrypt seals plaintext under the newest enabled version of the scope's key
// and returns the blob. On first use it makes the key's version 1.
//
// Errors: [fault.Invalid] for a scope out of form, [fault.TooLarge] for context
// or plaintext over the limits of package envelope, [fault.NotFound] for a
// tenant without a KEK, [fault.Denied] where all versions or the KEK are no
// longer enabled, [fault.Integrity] for a row that does not open,
// [fault.Unavailable] from store or root.
func (k *Keyring) Encrypt(ctx context.Context, s Scope, plaintext secret.Bytes) ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	key, version, err := k.newest(ctx, s)
	if err != nil {
		return nil, err
	}
	defer key.Destroy()
	h := envelope.Header{Env: k.env, Tenant: s.Tenant.String(), Key: s.Key, Version: version}
	return envelope.Seal(key, h, s.Purpose, s.Context, plaintext.Reveal())
}

// newest returns a copy of the newest enabled version, which the caller destroys.
func (k *Keyring) newest(ctx context.Context, s Scope) (secret.Bytes, uint32, error) {
	for {
		have, err := k.load(ctx, s.Tenant)
		if err != nil {
			return secret.Bytes{}, 0, err
		}
		if !have.hasKEK {
			return secret.Bytes{}, 0, errNoKEK
		}
		versions, exists := have.versions[s.Key]
		if !exists {
			if err := k.createKey(ctx, s.Tenant, s.Key); err != nil {
				return secret.Bytes{}, 0, err
			}
			continue
		}
		if versions.newest == 0 {
			return secret.Bytes{}, 0, errDestroyed
		}
		key, err := have.open(k.env, s.Key, versions.newest)
		if err == errLeft {
			continue
		}
		return key, versions.newest, err
	}
}

// Decrypt returns the plaintext of a blob that Encrypt made in the same scope,
// with whichever version.
//
// Whatever is wrong with blob, scope or key gives one error of kind
// [fault.Invalid]. [fault.Integrity] says that a stored row does not open,
// [fault.Unavailable] that store or root do not answer.
func (k *Keyring) Decrypt(ctx context.Context, s Scope, blob []byte) (secret.Bytes, error) {
	if s.validate() != nil {
		return secret.Bytes{}, errOpen
	}
	h, err := envelope.Parse(blob)
	if err != nil || h.Env != k.env || h.Tenant != s.Tenant.String() || h.Key != s.Key {
		return secret.Bytes{}, errOpen
	}
	key, err := k.exact(ctx, s, h.Version)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer key.Destroy()
	plaintext, err := envelope.Open(key, s.Purpose, s.Context, blob)
	if err != nil {
		return secret.Bytes{}, errOpen
	}
	return plaintext, nil
}

// exact returns a copy of one version, which the caller destroys. A version
// above those that are known may be another process's rotation of a moment
// ago, so rows that were read before this call began are read once more.
// Made-up versions cannot crowd the store: a tenant has one reading at a time,
// which all who wait share.
func (k *Keyring) exact(ctx context.Context, s Scope, version uint32) (secret.Bytes, error) {
	began := k.flown.Load()
	for {
		have, err := k.load(ctx, s.Tenant)
		if err != nil {
			return secret.Bytes{}, err
		}
		key, err := have.open(k.env, s.Key, version)
		switch {
		case err == errLeft:
			continue
		case err == errAbsent && have.flight <= began && version > have.highest(s.Key):
			k.leave(s.Tenant, have)
			continue
		case err == errAbsent || err == errDestroyed:
			return secret.Bytes{}, errOpen
		}
		return key, err
	}
}

// Rotate makes a new version of an existing key, which Encrypt uses from then
// on. Older versions go on decrypting.
//
// Errors: [fault.NotFound] for a key that does not exist, else those of Encrypt.
func (k *Keyring) Rotate(ctx context.Context, t tenant.ID, key string) error {
	if err := (Scope{Tenant: t, Key: key, Purpose: "rotate"}).validate(); err != nil {
		return err
	}
	return k.change(ctx, t, func(have *tenantKeys) (bool, error) {
		versions, exists := have.versions[key]
		switch {
		case !exists:
			return true, fault.New(fault.NotFound, "there is no such key")
		case versions.highest == 1<<32-1:
			return true, fault.New(fault.Exhausted, "the key has no further versions; make a new key")
		}
		return k.putVersion(ctx, have, t, key, versions.highest+1, "key.rotate")
	})
}

func (k *Keyring) createKey(ctx context.Context, t tenant.ID, key string) error {
	return k.change(ctx, t, func(have *tenantKeys) (bool, error) {
		if _, exists := have.versions[key]; exists {
			return true, nil
		}
		return k.putVersion(ctx, have, t, key, 1, "key.create")
	})
}

// putVersion writes a fresh version under the tenant's newest KEK. It reports
// false when have is no longer current.
func (k *Keyring) putVersion(ctx context.Context, have *tenantKeys, t tenant.ID, key string, version uint32, action string) (bool, error) {
	if !have.hasKEK {
		return true, errNoKEK
	}
	row := Version{Tenant: t, Key: key, Version: version, Created: k.now(), State: StateEnabled}
	fresh := secret.Random(envelope.KeySize)
	defer fresh.Destroy()
	var err error
	if row.Wrapped, err = have.wrap(k.env, row, fresh); err != nil {
		return err != errLeft, err
	}
	change := ledger.Change{Store: have.store, Event: k.event(ctx, t, action, "key:"+key, version)}
	_, err = k.store.Mutate(ctx, change, func(tx Tx) error { return tx.PutVersion(row) })
	return true, err
}

// change runs fn on the tenant's keys as the store has them now, one change of
// the tenant at a time. When another process was faster it looks again.
func (k *Keyring) change(ctx context.Context, t tenant.ID, fn func(*tenantKeys) (done bool, err error)) error {
	id := t.String()
	writer := k.writers[int(id[len(id)-1])%len(k.writers)]
	select {
	case writer <- struct{}{}:
		defer func() { <-writer }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var err error
	for range maxTries {
		k.Invalidate(t)
		var have *tenantKeys
		if have, err = k.load(ctx, t); err != nil {
			return err
		}
		var done bool
		done, err = fn(have)
		// Also after an error: a commit whose answer was lost may have happened.
		k.Invalidate(t)
		if done && (err == nil || fault.KindOf(err) != fault.Conflict) {
			return err
		}
	}
	return err
}

// Derive returns a 32-byte key for MACs, derived from the platform's KEK for
// one purpose. It is the same on every node and after every restart; the caller
// owns it. Errors: [fault.Invalid] for a purpose out of form, else those of
// Encrypt.
func (k *Keyring) Derive(ctx context.Context, purpose string) (secret.Bytes, error) {
	if purpose == "" || len(purpose) > envelope.MaxPurpose {
		return secret.Bytes{}, fault.New(fault.Invalid, "a purpose has 1 to 64 bytes")
	}
	for {
		have, err := k.load(ctx, tenant.Platform)
		if err != nil {
			return secret.Bytes{}, err
		}
		if !have.hasKEK {
			return secret.Bytes{}, errNoKEK
		}
		key, err := have.derive(k.env, purpose)
		if err != errLeft {
			return key, err
		}
	}
}

// event is the record of a change to keys, on behalf of the context's
// principal where there is one.
func (k *Keyring) event(ctx context.Context, t tenant.ID, action, resource string, version uint32) ledger.Event {
	e := ledger.Event{
		ID: tenant.RandomID(), Time: k.now(), Class: ledger.Mutation, Action: action, Tenant: t,
		Resource: resource, Detail: map[string]string{"version": fmt.Sprint(version)},
		Subject: "system", // unless somebody asked for it
	}
	if p := principal.From(ctx); p != nil {
		e.Subject, e.ClientID = p.Subject.String(), p.ClientID
		for _, actor := range p.Actors {
			e.Actors = append(e.Actors, actor.Subject.String())
		}
	}
	return e
}

func (s Scope) validate() error {
	switch {
	case s.Tenant.IsZero():
		return fault.New(fault.Invalid, "a key belongs to a tenant")
	case !envelope.ValidKey(s.Key):
		return fault.New(fault.Invalid, "a key's name has 1 to 128 printable ASCII characters and no space")
	case s.Purpose == "" || len(s.Purpose) > envelope.MaxPurpose:
		return fault.New(fault.Invalid, "a purpose has 1 to 64 bytes")
	}
	return nil
}

// Format writes a fixed text: a keyring in a log line shows neither keys nor
// whose they are.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[keyring]")) }

// clone copies a key, so that what a caller holds is never overwritten under
// its hands: a message sealed under a cleared key would be readable by anyone.
func clone(s secret.Bytes) secret.Bytes { return secret.New(bytes.Clone(s.Reveal())) }
