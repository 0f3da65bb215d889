package sqlite

import (
	"context"
	"encoding/json"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/release"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// LoadRollouts implements authz.Store.
func (g graphStore) LoadRollouts(ctx context.Context) ([]authz.Rollout, error) {
	var all []authz.Rollout
	err := g.s.rows(ctx, "SELECT application, serial, payload FROM rollouts ORDER BY application", nil, func(scan func(...any) error) error {
		var application, payload string
		var serial uint64
		if err := scan(&application, &serial, &payload); err != nil {
			return err
		}
		var r authz.Rollout
		if err := json.Unmarshal([]byte(payload), &r); err != nil || r.Application != application || r.Serial != serial {
			return fault.New(fault.Integrity, "the store holds a damaged rollout")
		}
		all = append(all, r)
		return nil
	})
	return all, translate(err, "the rollouts")
}

// PutRollout implements authz.Store. Applications are the operator's: the change
// must be the platform's.
func (g graphStore) PutRollout(ctx context.Context, change ledger.Change, r authz.Rollout, c authz.Content) (relation.Revision, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return relation.Revision{}, fault.Wrap(fault.Internal, "a rollout does not encode", err)
	}
	return g.s.mutate(ctx, change, func(t *tx) error {
		if err := t.putContent(c); err != nil {
			return err
		}
		var last uint64
		if err := t.row("SELECT coalesce(max(serial), 0) FROM rollouts WHERE application = ?", []any{r.Application}, &last); err != nil {
			return translate(err, "the rollout")
		}
		if r.Serial != last+1 {
			return fault.New(fault.Conflict, "the application's rollout has changed meanwhile; look at it again")
		}
		_, err := t.exec(`INSERT INTO rollouts (application, serial, payload) VALUES (?, ?, ?)
			ON CONFLICT (application) DO UPDATE SET serial = excluded.serial, payload = excluded.payload`,
			r.Application, r.Serial, string(payload))
		if err != nil {
			return translate(err, "the rollout")
		}
		t.put(authz.KindRollout, store.Put, r.Application, payload)
		return nil
	})
}

func (t *tx) putContent(c authz.Content) error {
	if err := t.own(tenant.Platform); err != nil {
		return err
	}
	for _, m := range c.Models {
		if err := t.putModel(m); err != nil {
			return err
		}
	}
	for _, p := range c.Policies {
		if err := t.putPolicies(p); err != nil {
			return err
		}
	}
	return nil
}

// Releases returns the store as changes of applications are proposed in it.
func (s *Store) Releases() release.Store { return releaseStore{s} }

type releaseStore struct{ s *Store }

// LoadReleases implements release.Store.
func (r releaseStore) LoadReleases(ctx context.Context) ([]release.Release, error) {
	var all []release.Release
	err := r.s.rows(ctx, "SELECT application, id, payload FROM releases ORDER BY application, id", nil, func(scan func(...any) error) error {
		var application, id, payload string
		if err := scan(&application, &id, &payload); err != nil {
			return err
		}
		var rel release.Release
		if err := json.Unmarshal([]byte(payload), &rel); err != nil || rel.Application != application || rel.ID != id {
			return fault.New(fault.Integrity, "the store holds a damaged release")
		}
		all = append(all, rel)
		return nil
	})
	return all, translate(err, "the releases")
}

// PutRelease implements release.Store.
func (r releaseStore) PutRelease(ctx context.Context, change ledger.Change, rel release.Release, c authz.Content, forget ...string) error {
	payload, err := json.Marshal(rel)
	if err != nil {
		return fault.Wrap(fault.Internal, "a release does not encode", err)
	}
	_, err = r.s.mutate(ctx, change, func(t *tx) error {
		if err := t.putContent(c); err != nil {
			return err
		}
		_, err := t.exec(`INSERT INTO releases (application, id, payload) VALUES (?, ?, ?)
			ON CONFLICT (application, id) DO UPDATE SET payload = excluded.payload`, rel.Application, rel.ID, string(payload))
		if err != nil {
			return translate(err, "the release")
		}
		t.put(release.KindRelease, store.Put, rel.Application+"/"+rel.ID, payload)
		for _, id := range forget {
			n, err := t.exec("DELETE FROM releases WHERE application = ? AND id = ?", rel.Application, id)
			if err != nil {
				return translate(err, "the release")
			}
			if n > 0 {
				t.put(release.KindRelease, store.Delete, rel.Application+"/"+id, nil)
			}
		}
		return nil
	})
	return err
}
