package authz

import (
	"context"

	"bulwark.example/internal/relation"
)

// CheckBatch answers questions about one store, all at one revision and by one
// model, "" for the active one. answer is called for each with its index, in
// order, with what [Engine.Check] would return; Store and Model of a question
// are not read. The error is one of the whole batch: kinds as Check's of store
// and model.
func (e *Engine) CheckBatch(ctx context.Context, store relation.StoreID, model string, questions []Query, answer func(int, Decision, error)) (relation.Revision, string, error) {
	ent, snap, by, err := e.view(ctx, store, model)
	if err != nil {
		return relation.Revision{}, "", err
	}
	for i := range questions {
		q := &questions[i]
		q.Store = store
		ev, err := e.askIn(ctx, ent, snap, by, &q.Asked)
		if err != nil {
			answer(i, Decision{}, err)
			continue
		}
		d, err := e.decide(ev, q)
		ev.release()
		answer(i, d, err)
	}
	return e.revision(store, snap), by.model.model.ID(), nil
}
