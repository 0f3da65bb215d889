package directory

import (
	"context"
	"slices"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// Revoked reports whether p's credential, or anything it was derived from, has
// been ended: by a revocation, by a suspended service in its chain, or because
// a platform service is no longer installed in p's tenant.
//
// A derived token names its ancestors' ids and the services that acted, not the
// client of the first token. Where that client is neither an actor nor the
// subject (a login application, a person's own key), [RevokeClient] ends what it
// got and leaves what others derived from that, five minutes at most: the root,
// the session or the subject reaches those.
func (d *Directory) Revoked(p *principal.Principal) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	c := &p.Credential
	named := func(kind RevocationKind, value string) bool {
		return value != "" && d.revocations[revocationKey(p.Tenant, kind, value)] != nil
	}
	// An external issuer's clock may be ahead: what it issued before the epoch
	// may be dated that much after it. A new login of the first minute after a
	// revocation is refused for that.
	issued := c.IssuedAt
	if c.Kind == principal.ExternalToken {
		issued = issued.Add(-Skew)
	}
	epoch := func(kind RevocationKind, value string) bool {
		r := d.revocations[revocationKey(p.Tenant, kind, value)]
		return r != nil && !issued.After(r.Before)
	}
	if named(RevokeToken, c.JTI) || named(RevokeRoot, c.RootJTI) || named(RevokeToken, c.RootJTI) || named(RevokeSession, c.SID) {
		return true
	}
	if epoch(RevokeSubject, p.Subject.String()) || epoch(RevokeClient, p.ClientID) || epoch(RevokeTenant, p.Tenant.String()) {
		return true
	}
	// A service that acts, or that the chain began with, was the client of an
	// ancestor: its epoch as a client reaches what was derived from that.
	service := func(s principal.Subject) bool { return epoch(RevokeClient, s.ID) || !d.mayAct(p.Tenant, s.ID) }
	if p.Subject.Kind == principal.Service && service(p.Subject) {
		return true
	}
	for _, a := range p.Actors {
		if named(RevokeToken, a.JTI) || epoch(RevokeSubject, a.Subject.String()) || service(a.Subject) {
			return true
		}
	}
	return false
}

func revocationKey(t tenant.ID, kind RevocationKind, value string) string {
	return t.String() + "/" + string(kind) + "/" + value
}

// mayAct reports whether the service is active and at home or installed in t.
func (d *Directory) mayAct(t tenant.ID, service string) bool {
	s := d.services[service]
	if s == nil || s.State != Active {
		return false
	}
	if s.Tenant == t {
		return true
	}
	_, err := d.installed(t, service)
	return err == nil && s.Tenant == tenant.Platform
}

// Revoke ends what the kind and value name in the tenant. Epoch kinds end
// everything issued until now; issuing goes on, where external issuers do it
// after a minute, by which their clocks may be ahead. Revoking twice is no error.
// Errors are the store's.
func (d *Directory) Revoke(ctx context.Context, ev ledger.Event, t tenant.ID, kind RevocationKind, value string) error {
	switch kind {
	case RevokeToken, RevokeRoot, RevokeSession, RevokeSubject, RevokeClient, RevokeTenant:
	default:
		return fault.New(fault.Invalid, "a revocation names a token, root, session, subject, client or tenant")
	}
	if value == "" || len(value) > 256 {
		return fault.New(fault.Invalid, "a revocation needs the id that it ends")
	}
	now := d.cfg.Now()
	r := &Revocation{Tenant: t, Kind: kind, Value: value, Before: now, Expires: d.longest(now)}
	if kind == RevokeSession {
		r.Expires = now.Add(400 * 24 * time.Hour) // a session may outlive many tokens
	}
	return d.revoke(ctx, ev, r)
}

// RevokeOwn ends a token of ours, whose claims were verified, and all that was
// derived from it. What is derived never outlives it, so the revocation is kept
// no longer than the token itself could be taken: clients may revoke as fast as
// they get tokens, and [Config.MaxToken] is made for what others issue. Errors
// are the store's.
func (d *Directory) RevokeOwn(ctx context.Context, ev ledger.Event, p *principal.Principal) error {
	c := &p.Credential
	return d.revoke(ctx, ev, &Revocation{
		Tenant: p.Tenant, Kind: RevokeToken, Value: c.JTI, Before: d.cfg.Now(), Expires: c.Expires.Add(Skew),
	})
}

func (d *Directory) revoke(ctx context.Context, ev ledger.Event, r *Revocation) error {
	ev.Action, ev.Resource = "revoke."+string(r.Kind), r.Value
	_, err := d.mutate(ctx, ev, r.Tenant, func(tx Tx) error { return d.upsertRevocation(tx, r) })
	return err
}

// longest returns when the last token that was issued until now ends for every
// verifier: it may be dated a skew ahead, and is taken for a skew after its end.
func (d *Directory) longest(now time.Time) time.Time {
	return now.Add(Skew + d.cfg.MaxToken + Skew)
}

// settling is how long after an epoch's transaction tokens may still be issued by
// who has not seen its commit: those end too. Longer commits are the disk's
// failure, and then nothing is issued either, because the event of a token waits
// for the same disk.
const settling = time.Second

func (d *Directory) upsertRevocation(tx Tx, r *Revocation) error {
	switch r.Kind {
	case RevokeSubject, RevokeClient, RevokeTenant:
		// Inside the transaction: it may have waited for others.
		r.Before = d.cfg.Now().Add(settling)
	}
	if err := tx.Update(r); fault.KindOf(err) != fault.NotFound || err == nil {
		return err
	}
	return tx.Insert(r)
}

// Expired lists revocations that no living token can need any more.
func (d *Directory) Expired() []*Revocation {
	d.mu.RLock()
	defer d.mu.RUnlock()
	now := d.cfg.Now()
	return sorted(d.revocations, func(r *Revocation) bool { return now.After(r.Expires) }, (*Revocation).RecordKey)
}

// maxCollect bounds what one transaction of Collect deletes: everybody else who
// writes waits for it.
const maxCollect = 1000

// Collect deletes expired revocations, those of each tenant in transactions of
// a thousand at most, between which others write. It is the leader's duty. What
// an error leaves is there for the next round.
func (d *Directory) Collect(ctx context.Context) error {
	byTenant := map[tenant.ID][]*Revocation{}
	for _, r := range d.Expired() {
		byTenant[r.Tenant] = append(byTenant[r.Tenant], r)
	}
	for t, all := range byTenant {
		if err := d.collect(ctx, t, all); err != nil {
			return err
		}
	}
	return nil
}

func (d *Directory) collect(ctx context.Context, t tenant.ID, all []*Revocation) error {
	for list := range slices.Chunk(all, maxCollect) {
		ev := ledger.Event{Action: "revocation.collect", Subject: "system", Count: uint64(len(list))}
		if _, err := d.mutate(ctx, ev, t, func(tx Tx) error {
			for _, r := range list {
				if err := tx.Delete(r); err != nil && fault.KindOf(err) != fault.NotFound {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// mutate completes the event and runs fn on the shard of t's directory.
func (d *Directory) mutate(ctx context.Context, ev ledger.Event, t tenant.ID, fn func(Tx) error) (relation.Revision, error) {
	system, err := d.SystemGraph(t)
	if err != nil {
		return relation.Revision{}, err
	}
	return d.mutateShard(ctx, ev, t, system, fn)
}

func (d *Directory) mutateShard(ctx context.Context, ev ledger.Event, t tenant.ID, shard relation.StoreID, fn func(Tx) error) (relation.Revision, error) {
	if ev.ID == "" {
		ev.ID = tenant.RandomID()
	}
	ev.Time, ev.Class, ev.Tenant = d.cfg.Now(), ledger.Mutation, t
	return d.cfg.Store.Mutate(ctx, ledger.Change{Store: shard, Event: ev}, fn)
}
