package sts

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// ordered returns the keys by time of use, then kid.
func (s *keyState) ordered() []*knownKey {
	var list []*knownKey
	for _, e := range s.byKID {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *knownKey) int { return order(a.row, b.row) })
	return list
}

func order(a, b SigningKey) int {
	return cmp.Or(a.ActiveAt.Compare(b.ActiveAt), cmp.Compare(a.KID, b.KID))
}

// active returns the token key that signs at now, nil if none may.
//
// It is the last in use whose publication is at least overlap old, whatever
// its ActiveAt says: no node may sign with what a verifier cannot have yet. Only
// the first key of all, before which nothing was signed, is exempt. A key that
// would be removed before its token expires does not sign.
func (s *keyState) active(now time.Time, overlap time.Duration) *knownKey {
	var first, best *knownKey
	for _, e := range s.ordered() {
		if e.row.Purpose == PurposeToken && (first == nil || e.row.PublishAt.Before(first.row.PublishAt)) {
			first = e
		}
	}
	for _, e := range s.ordered() {
		if e.row.Purpose != PurposeToken || now.Before(e.row.ActiveAt) || now.Before(e.row.PublishAt) {
			continue
		}
		if e != first && now.Before(e.row.PublishAt.Add(overlap)) {
			continue
		}
		if !e.row.RemoveAt.IsZero() && now.Add(MaxTokenLife).After(e.row.RemoveAt) {
			continue
		}
		best = e
	}
	return best
}

// plan is what is due, decided on rows and the time alone.
type plan struct {
	create  bool       // a key is to be made
	next    SigningKey // its times
	retire  SigningKey // the row that it replaces; empty for the first
	removed []string   // kids
}

func (p plan) empty() bool { return !p.create && len(p.removed) == 0 }

// due decides. Two nodes with the same rows decide the same; after one has
// acted, nothing is due.
func (k *Keys) due(rows []SigningKey, now time.Time) plan {
	var p plan
	var last *SigningKey
	for _, row := range rows {
		if !row.RemoveAt.IsZero() && !now.Before(row.RemoveAt) {
			p.removed = append(p.removed, row.KID)
			continue
		}
		if row.Purpose == PurposeToken && (last == nil || order(*last, row) < 0) {
			last = &row
		}
	}
	slices.Sort(p.removed)
	switch {
	case k.cfg.Sealer == nil: // a node that only verifies makes no keys
	case last == nil:
		p.create, p.next = true, SigningKey{PublishAt: now, ActiveAt: now}
	case !now.Before(last.ActiveAt.Add(k.cfg.Period - k.cfg.Overlap)):
		use := last.ActiveAt.Add(k.cfg.Period)
		if earliest := now.Add(k.cfg.Overlap); use.Before(earliest) {
			use = earliest
		}
		p.create, p.next, p.retire = true, SigningKey{PublishAt: now, ActiveAt: use}, *last
		p.retire.RetireAt = use
		p.retire.RemoveAt = use.Add(MaxTokenLife + Skew)
	}
	return p
}

// errNothingDue ends a transaction in which another node was faster.
var errNothingDue = errors.New("nothing is due")

// Rotate does what is due: it makes the first key, publishes the next one
// before it is used, removes what no living token needs. It is idempotent, and
// any number of nodes may call it at any time; once a minute is enough. first
// reports that this call made the first key of all. Errors are the store's and
// the keyring's.
func (k *Keys) Rotate(ctx context.Context) (first bool, err error) {
	now := k.cfg.Now().UTC().Truncate(time.Second)
	rows, err := k.cfg.Store.LoadSigningKeys(ctx)
	if err != nil {
		return false, err
	}
	p := k.due(rows, now)
	if p.empty() {
		return false, nil
	}
	if p.create {
		if err := k.fill(ctx, &p.next); err != nil {
			return false, err
		}
	}
	ev := ledger.Event{
		ID: tenant.RandomID(), Time: k.cfg.Now(), Class: ledger.Mutation, Action: "signing_key.rotate",
		Tenant: tenant.Platform, Subject: "system", Resource: "signing_key:" + p.next.KID, Count: uint64(max(1, len(p.removed))),
	}
	_, err = k.cfg.Store.Mutate(ctx, ledger.Change{Store: k.cfg.Platform, Event: ev}, func(tx Tx) error {
		rows, err := tx.SigningKeys()
		if err != nil {
			return err
		}
		again := k.due(rows, now)
		if again.create != p.create || again.retire.KID != p.retire.KID || !slices.Equal(again.removed, p.removed) {
			return errNothingDue
		}
		return write(tx, p)
	})
	if errors.Is(err, errNothingDue) {
		return false, k.Reload(ctx)
	}
	if err != nil {
		return false, err
	}
	return p.create && p.retire.KID == "", k.Reload(ctx)
}

func write(tx Tx, p plan) error {
	for _, kid := range p.removed {
		if err := tx.DeleteSigningKey(kid); err != nil {
			return err
		}
	}
	if !p.create {
		return nil
	}
	if err := tx.PutSigningKey(p.next); err != nil {
		return err
	}
	if p.retire.KID == "" {
		return nil
	}
	return tx.PutSigningKey(p.retire)
}

// fill makes the key pair of a new row.
func (k *Keys) fill(ctx context.Context, row *SigningKey) error {
	key, err := jose.GenerateES256()
	if err != nil {
		return err
	}
	private, err := key.MarshalSecret()
	if err != nil {
		return err
	}
	defer private.Destroy()
	row.KID, row.Purpose = key.KID(), PurposeToken
	if row.Public, err = key.Public().MarshalJSON(); err != nil {
		return err
	}
	row.Wrapped, err = k.cfg.Sealer.Encrypt(ctx, scopeOf(row.KID), private)
	return err
}

// SelfTest signs a probe and verifies it with the key set as others read it. A
// signature in a form that verifiers refuse, or a key that is not published,
// must be found before a client finds it. Kind Integrity.
func (i *Issuer) SelfTest(ctx context.Context) error {
	key, err := i.cfg.Keys.signer(ctx)
	if err != nil {
		return err
	}
	probe, err := jose.Sign(key, "bulwark-selftest+jwt", map[string]string{"iss": i.cfg.Issuer})
	if err != nil {
		return err
	}
	set, err := i.cfg.Keys.JWKS()
	if err != nil {
		return err
	}
	raw, err := set.MarshalJSON()
	if err != nil {
		return err
	}
	published, err := jose.ParseSet(raw)
	if err != nil {
		return fault.Wrap(fault.Integrity, "the published key set cannot be read", err)
	}
	public, ok := published.Key(key.KID())
	if !ok {
		return fault.New(fault.Integrity, "the signing key in use is not published")
	}
	if _, err := jose.Verify(probe, public, []jose.Alg{jose.ES256}); err != nil {
		return fault.Wrap(fault.Integrity, "our own signature does not verify with the published key", err)
	}
	return nil
}
