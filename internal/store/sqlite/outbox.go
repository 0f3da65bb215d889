package sqlite

import (
	"context"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/ledger"
)

// Outbox returns the events of committed changes that wait for the audit log.
func (s *Store) Outbox() audit.Outbox { return outbox{s} }

type outbox struct{ s *Store }

// Pending implements audit.Outbox.
func (o outbox) Pending(ctx context.Context, limit int) ([]audit.OutboxEntry, error) {
	var all []audit.OutboxEntry
	err := o.s.rows(ctx, "SELECT id, event FROM outbox ORDER BY id LIMIT ?", []any{max(limit, 0)}, func(scan func(...any) error) error {
		var e audit.OutboxEntry
		var raw []byte
		if err := scan(&e.Seq, &raw); err != nil {
			return err
		}
		var err error
		e.Event, err = ledger.DecodeEvent(raw)
		all = append(all, e)
		return err
	})
	if err != nil {
		return nil, translate(err, "the outbox")
	}
	return all, nil
}

// Done implements audit.Outbox. Numbers that are gone already are no error, so
// that a drain can be repeated after a crash.
func (o outbox) Done(ctx context.Context, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	return o.s.keep(ctx, func(t *tx) error {
		for _, seq := range seqs {
			if _, err := t.exec("DELETE FROM outbox WHERE id = ?", seq); err != nil {
				return translate(err, "the outbox")
			}
		}
		return nil
	})
}
