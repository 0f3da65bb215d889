package sqlite

import (
	"context"
	"database/sql"
	"math/rand/v2"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
)

// Images returns where the decision engine keeps images of large stores.
func (s *Store) Images() authz.Images { return images{s} }

type images struct{ s *Store }

var errParts = fault.New(fault.Integrity, "parts of the store's image are missing")

// LoadImage implements authz.Images.
func (m images) LoadImage(ctx context.Context, id relation.StoreID, part func(rev uint64, part []byte) error, change func(authz.TupleChange) error) (authz.Loaded, error) {
	var loaded authz.Loaded
	var refused error
	err := m.s.snapshot(ctx, func(t *sql.Tx) error {
		var owner string
		var image int64
		var rev uint64
		var parts int
		var err error
		if owner, loaded.Revision, err = m.s.locate(ctx, t, id); err != nil {
			return err
		}
		err = t.QueryRowContext(ctx, "SELECT image, rev, parts FROM store_images WHERE tenant_id = ? AND store_id = ?", owner, string(id)).Scan(&image, &rev, &parts)
		if err != nil {
			return err
		}
		if loaded.Models, err = freeModels(ctx, t, owner, id); err != nil {
			return err
		}
		if loaded.Own, err = ownPolicies(ctx, t, owner, id); err != nil {
			return err
		}
		rows, err := t.QueryContext(ctx, "SELECT part, content FROM store_image_parts WHERE tenant_id = ? AND store_id = ? AND image = ? ORDER BY part", owner, string(id), image)
		if err != nil {
			return err
		}
		n := 0
		err = drain(rows, func(scan func(...any) error) error {
			var number int
			var content []byte
			if err := scan(&number, &content); err != nil {
				return err
			}
			if number != n {
				return errParts
			}
			n++
			refused = part(rev, content)
			return refused
		})
		if err == nil && n != parts {
			err = errParts
		}
		if err != nil {
			return err
		}
		return m.changes(ctx, t, owner, id, rev, func(c authz.TupleChange) error {
			refused = change(c)
			return refused
		})
	})
	if refused != nil {
		return loaded, refused
	}
	return loaded, translate(err, "the store's image")
}

func (m images) changes(ctx context.Context, t *sql.Tx, owner string, id relation.StoreID, rev uint64, change func(authz.TupleChange) error) error {
	rows, err := t.QueryContext(ctx, `SELECT rev, ordinal, op, key, payload FROM changelog
		WHERE tenant_id = ? AND store_id = ? AND rev > ? AND kind = ? ORDER BY rev, ordinal`, owner, string(id), int64(rev), tupleKind)
	if err != nil {
		return err
	}
	return drain(rows, func(scan func(...any) error) error {
		var c authz.TupleChange
		var op, key string
		var payload []byte
		if err := scan(&c.Rev, &c.Ordinal, &op, &key, &payload); err != nil {
			return err
		}
		var ok bool
		if c.Tuple, ok = parseTuple(key, payload); !ok {
			return errChangelog
		}
		c.Delete = store.Op(op) == store.Delete
		return change(c)
	})
}

// PutImage implements authz.Images. Parts of an image that never became whole are
// deleted by the next one.
func (m images) PutImage(ctx context.Context, id relation.StoreID, rev uint64, write func(part func([]byte) error) error) error {
	at, err := fit(rev)
	if err != nil {
		return err
	}
	var owner string
	if err := m.s.row(ctx, "SELECT tenant_id FROM stores WHERE id = ?", []any{string(id)}, &owner); err != nil {
		return translate(err, "the store")
	}
	if err := m.clean(ctx, owner, id); err != nil {
		return err
	}
	image, n := rand.Int64(), 0
	failed := write(func(part []byte) error {
		if len(part) > authz.MaxImagePart {
			return fault.New(fault.TooLarge, "the part of an image is too large")
		}
		err := m.s.keep(ctx, func(t *tx) error {
			t.bytes += len(part)
			_, err := t.exec("INSERT INTO store_image_parts (tenant_id, store_id, image, part, content) VALUES (?, ?, ?, ?, ?)", owner, string(id), image, n, part)
			return translate(err, "the store")
		})
		n++
		return err
	})
	if failed != nil {
		return failed
	}
	err = m.s.keep(ctx, func(t *tx) error {
		var there int
		err := t.row("SELECT count(*) FROM store_image_parts WHERE tenant_id = ? AND store_id = ? AND image = ?", []any{owner, string(id), image}, &there)
		if err != nil {
			return translate(err, "the store's image")
		}
		if there != n || n == 0 {
			return fault.New(fault.Conflict, "parts of the image are gone again")
		}
		_, err = t.exec(`INSERT INTO store_images (tenant_id, store_id, image, rev, parts) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (tenant_id, store_id) DO UPDATE SET image = excluded.image, rev = excluded.rev, parts = excluded.parts`,
			owner, string(id), image, at, n)
		return translate(err, "the store")
	})
	if err != nil {
		return err
	}
	return m.clean(ctx, owner, id)
}

// clean deletes the parts of the store that belong to no image that counts, one by
// one: what is deleted is overwritten, too.
func (m images) clean(ctx context.Context, owner string, id relation.StoreID) error {
	for {
		var n int64
		err := m.s.keep(ctx, func(t *tx) (err error) {
			n, err = t.exec(`DELETE FROM store_image_parts WHERE rowid = (SELECT p.rowid FROM store_image_parts p
				WHERE p.tenant_id = ?1 AND p.store_id = ?2 AND p.image NOT IN (SELECT i.image FROM store_images i WHERE i.tenant_id = ?1 AND i.store_id = ?2) LIMIT 1)`,
				owner, string(id))
			t.bytes += authz.MaxImagePart // about what it may write
			return translate(err, "the store's image")
		})
		if err != nil || n == 0 {
			return err
		}
	}
}

// DropImage implements authz.Images.
func (m images) DropImage(ctx context.Context, id relation.StoreID) error {
	var owner string
	if err := m.s.row(ctx, "SELECT tenant_id FROM stores WHERE id = ?", []any{string(id)}, &owner); err != nil {
		return translate(err, "the store")
	}
	err := m.s.keep(ctx, func(t *tx) error {
		_, err := t.exec("DELETE FROM store_images WHERE tenant_id = ? AND store_id = ?", owner, string(id))
		return translate(err, "the store's image")
	})
	if err != nil {
		return err
	}
	return m.clean(ctx, owner, id)
}

// clearImages deletes what belongs to a store that goes.
func (t *tx) clearImages(owner string, id relation.StoreID) error {
	for _, table := range []string{"store_images", "store_image_parts"} {
		if _, err := t.exec("DELETE FROM "+table+" WHERE tenant_id = ? AND store_id = ?", owner, string(id)); err != nil {
			return translate(err, "the store's image")
		}
	}
	return nil
}
