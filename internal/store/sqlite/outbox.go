package sqlite

import (
	"context"

	"bulwark.example/internal/ledger"
)

// pending is an event that waits for the audit log.
type pending struct {
	seq   int64
	event ledger.Event
}

// pending returns the oldest events that no segment has yet, at most limit.
func (s *Store) pending(ctx context.Context, limit int) ([]pending, error) {
	var all []pending
	err := s.rows(ctx, "SELECT id, event FROM outbox ORDER BY id LIMIT ?", []any{max(limit, 0)}, func(scan func(...any) error) error {
		var p pending
		var raw []byte
		if err := scan(&p.seq, &raw); err != nil {
			return err
		}
		var err error
		p.event, err = ledger.DecodeEvent(raw)
		all = append(all, p)
		return err
	})
	if err != nil {
		return nil, translate(err, "the outbox")
	}
	return all, nil
}

// drained forgets events that are durable in a segment. Numbers that are gone
// already are no error, so that a drain can be repeated after a crash.
func (s *Store) drained(ctx context.Context, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	return s.keep(ctx, func(t *tx) error {
		for _, seq := range seqs {
			if _, err := t.exec("DELETE FROM outbox WHERE id = ?", seq); err != nil {
				return translate(err, "the outbox")
			}
		}
		return nil
	})
}
