package sqlite

import (
	"context"
	"database/sql"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/store"
)

// AddAuditLog adds a node's log to the list. Adding the same one again does
// nothing; kind Conflict if the node or the origin stands there with other
// particulars. The list is append-only: the database itself refuses changes.
func (s *Store) AddAuditLog(ctx context.Context, l store.AuditLog) error {
	if l.Node == "" || l.Origin == "" || l.PublicKey == "" {
		return fault.New(fault.Invalid, "an audit log needs a node, an origin and a public key")
	}
	created, err := nanos(l.Created)
	if err != nil {
		return err
	}
	return s.keep(ctx, func(t *tx) error {
		var key string
		err := t.row("SELECT public_key FROM audit_logs WHERE node = ? AND origin = ?", []any{l.Node, l.Origin}, &key)
		if err == nil && key == l.PublicKey {
			return nil
		}
		_, err = t.exec("INSERT INTO audit_logs (node, origin, public_key, created) VALUES (?, ?, ?, ?)", l.Node, l.Origin, l.PublicKey, created)
		return translate(err, "the audit log")
	})
}

// AddAuditHead records that the node's log reached a size with the signed
// checkpoint. Kind NotFound if the log is not in the list, Conflict if it was
// that large before: a head can only grow.
func (s *Store) AddAuditHead(ctx context.Context, node string, size uint64, checkpoint []byte) error {
	n, err := fit(size)
	if err != nil {
		return err
	}
	return s.keep(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO audit_heads (node, size, checkpoint) VALUES (?, ?, ?)", node, n, checkpoint)
		return translate(err, "the audit head")
	})
}

// AuditLogs lists the logs with their newest heads, in order of node.
func (s *Store) AuditLogs(ctx context.Context) ([]store.AuditLog, error) {
	var all []store.AuditLog
	err := s.rows(ctx, `SELECT l.node, l.origin, l.public_key, l.created, h.size, h.checkpoint FROM audit_logs l
		LEFT JOIN audit_heads h ON h.node = l.node AND h.size = (SELECT max(size) FROM audit_heads m WHERE m.node = l.node)
		ORDER BY l.node`, nil, func(scan func(...any) error) error {
		var l store.AuditLog
		var created, size sql.NullInt64
		err := scan(&l.Node, &l.Origin, &l.PublicKey, &created, &size, &l.Head)
		l.Created, l.Size = moment(created), uint64(size.Int64)
		all = append(all, l)
		return err
	})
	return all, translate(err, "the audit logs")
}
