package sqlite

import (
	"context"
	"encoding/json"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/store"
)

// LoadPolicies implements authz.Store.
func (g graphStore) LoadPolicies(ctx context.Context) ([]authz.PolicyRecord, error) {
	var all []authz.PolicyRecord
	err := g.s.rows(ctx, "SELECT application, id, payload FROM policies ORDER BY application, id", nil, func(scan func(...any) error) error {
		var application, id, payload string
		if err := scan(&application, &id, &payload); err != nil {
			return err
		}
		var r authz.PolicyRecord
		if err := json.Unmarshal([]byte(payload), &r); err != nil || r.Application != application || r.ID != id {
			return fault.New(fault.Integrity, "the store holds damaged policies")
		}
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, translate(err, "the policies")
	}
	return all, nil
}

func (t *tx) putPolicies(p authz.PolicyRecord) error {
	created, err := nanos(p.Created)
	if err != nil {
		return err
	}
	payload, err := json.Marshal(p)
	if err != nil {
		return fault.Wrap(fault.Internal, "policies do not encode", err)
	}
	_, err = t.exec(`INSERT INTO policies (application, id, payload, created) VALUES (?, ?, ?, ?)
		ON CONFLICT (application, id) DO UPDATE SET payload = excluded.payload, created = excluded.created`,
		p.Application, p.ID, string(payload), created)
	if err != nil {
		return translate(err, "the policies")
	}
	t.put(authz.KindPolicies, store.Put, p.Application+"/"+p.ID, payload)
	return nil
}
