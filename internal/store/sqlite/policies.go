package sqlite

import (
	"context"
	"encoding/json"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// LoadPolicies implements authz.Store.
func (g graphStore) LoadPolicies(ctx context.Context) ([]authz.PolicyRecord, error) {
	var all []authz.PolicyRecord
	err := g.s.rows(ctx, "SELECT application, id, payload, active FROM policies ORDER BY application, id", nil, func(scan func(...any) error) error {
		var application, id, payload string
		var active bool
		if err := scan(&application, &id, &payload, &active); err != nil {
			return err
		}
		var r authz.PolicyRecord
		if err := json.Unmarshal([]byte(payload), &r); err != nil || r.Application != application || r.ID != id {
			return fault.New(fault.Integrity, "the store holds damaged policies")
		}
		r.Active = active // the payload says what it was when they came
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, translate(err, "the policies")
	}
	return all, nil
}

// PutPolicies implements authz.Store. Policies are the operator's: the change must
// be the platform's.
func (g graphStore) PutPolicies(ctx context.Context, change ledger.Change, p authz.PolicyRecord) (relation.Revision, error) {
	created, err := nanos(p.Created)
	if err != nil {
		return relation.Revision{}, err
	}
	payload, err := json.Marshal(p)
	if err != nil {
		return relation.Revision{}, fault.Wrap(fault.Internal, "policies do not encode", err)
	}
	return g.s.mutate(ctx, change, func(t *tx) error {
		if err := t.own(tenant.Platform); err != nil {
			return err
		}
		if p.Active {
			if _, err := t.exec("UPDATE policies SET active = 0 WHERE application = ? AND active = 1 AND id <> ?", p.Application, p.ID); err != nil {
				return translate(err, "the policies")
			}
		}
		_, err := t.exec(`INSERT INTO policies (application, id, payload, active, created) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (application, id) DO UPDATE SET payload = excluded.payload, active = excluded.active, created = excluded.created`,
			p.Application, p.ID, string(payload), p.Active, created)
		if err != nil {
			return translate(err, "the policies")
		}
		t.put(authz.KindPolicies, store.Put, p.Application+"/"+p.ID, payload)
		return nil
	})
}
