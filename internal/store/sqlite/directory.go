package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

// Directory returns the store as the directory sees it.
func (s *Store) Directory() directory.Store { return directoryStore{s} }

type directoryStore struct{ s *Store }

// Mutate implements directory.Store.
func (d directoryStore) Mutate(ctx context.Context, change ledger.Change, fn func(directory.Tx) error) (relation.Revision, error) {
	return d.s.mutate(ctx, change, func(t *tx) error { return fn(directoryTx{t}) })
}

type directoryTx struct{ *tx }

// Insert implements directory.Tx. Parents come before their children: the
// tenant before its store, the service before its grants.
func (t directoryTx) Insert(r directory.Record) error {
	row, err := rowOf(r)
	if err != nil {
		return err
	}
	if err := t.admit(r, true); err != nil {
		return err
	}
	if g, ok := r.(*directory.Graph); ok {
		// The shard's head outlives the store's row, so an id is never reused.
		_, err := t.exec("INSERT INTO head (tenant_id, store_id, kind) VALUES (?, ?, ?)", g.Tenant.String(), string(g.ID), string(g.Kind))
		if err != nil {
			return translate(err, row.what)
		}
	}
	if _, err := t.exec(row.insert(), row.args...); err != nil {
		return translate(err, row.what)
	}
	return t.log(r)
}

// Update implements directory.Tx. A store cannot be changed, and an enrolment
// that was used stays so: kinds Unsupported and Conflict.
func (t directoryTx) Update(r directory.Record) error {
	row, err := rowOf(r)
	if err != nil {
		return err
	}
	if err := t.admit(r, false); err != nil {
		return err
	}
	if _, ok := r.(*directory.Graph); ok {
		return fault.New(fault.Unsupported, "a store never changes")
	}
	n, err := t.exec(row.update(), row.updateArgs()...)
	if err != nil {
		return translate(err, row.what)
	}
	if n == 0 {
		if e, ok := r.(*directory.Enrolment); ok {
			if _, err := t.Enrolment(e.Tenant, e.ID); err == nil {
				return fault.New(fault.Conflict, "the code is used already")
			}
		}
		return fault.New(fault.NotFound, row.what+" does not exist")
	}
	return t.log(r)
}

// Delete implements directory.Tx: kind Conflict while something refers to the
// record.
func (t directoryTx) Delete(r directory.Record) error {
	row, err := rowOf(r)
	if err != nil {
		return err
	}
	if err := t.admit(r, false); err != nil {
		return err
	}
	if g, ok := r.(*directory.Graph); ok {
		if err := t.clear(g); err != nil {
			return err
		}
	}
	n, err := t.exec(row.delete(), row.args[:row.keys]...)
	if foreign(err) {
		return fault.New(fault.Conflict, row.what+" is still referred to")
	}
	if err != nil {
		return translate(err, row.what)
	}
	if n == 0 {
		return fault.New(fault.NotFound, row.what+" does not exist")
	}
	t.put(r.RecordKind(), store.Delete, r.RecordKey(), nil)
	return nil
}

// clear takes what a free store holds. The others keep theirs, and with it
// themselves.
func (t directoryTx) clear(g *directory.Graph) error {
	if err := t.clearImages(g.Tenant.String(), g.ID); err != nil { // of any: they follow from its tuples
		return err
	}
	for _, table := range []string{"tuples", "store_models", "store_roles", "store_policies", "assertions"} {
		n, err := t.exec("DELETE FROM "+table+" WHERE tenant_id = ? AND store_id = (SELECT id FROM stores WHERE tenant_id = ? AND id = ? AND kind = 'free')",
			g.Tenant.String(), g.Tenant.String(), string(g.ID))
		if err != nil {
			return translate(err, "the store's content")
		}
		if table == "tuples" {
			if err := t.uncount(g.Tenant.String(), n); err != nil {
				return err
			}
		}
	}
	return nil
}

// FreeGraphs implements directory.Tx.
func (t directoryTx) FreeGraphs(id tenant.ID) (n int, err error) {
	if err := t.own(id); err != nil {
		return 0, err
	}
	err = t.row("SELECT count(*) FROM stores WHERE tenant_id = ? AND kind = 'free'", []any{id.String()}, &n)
	return n, translate(err, "the stores")
}

func (t directoryTx) log(r directory.Record) error {
	payload, err := directory.Encode(r)
	if err != nil {
		return err
	}
	t.put(r.RecordKind(), store.Put, r.RecordKey(), payload)
	return nil
}

// admit decides whether the change's shard orders the record. Tenants belong
// to the platform's shard, stores to it or to their owner's, everything else
// to its owner's alone.
func (t directoryTx) admit(r directory.Record, insert bool) error {
	switch r := r.(type) {
	case *directory.Tenant:
		if insert && r.Tenant == tenant.Platform && r.System == t.change.Store {
			return nil // the very first record
		}
		return t.own(tenant.Platform)
	case *directory.Graph:
		if t.own(tenant.Platform) == nil {
			return nil
		}
	}
	return t.own(r.Owner())
}

// Enrolment implements directory.Tx.
func (t directoryTx) Enrolment(id tenant.ID, enrolment string) (*directory.Enrolment, error) {
	var e *directory.Enrolment
	err := t.rows(selectEnrolments+" WHERE tenant_id = ? AND id = ?", []any{id.String(), enrolment}, func(scan func(...any) error) (err error) {
		e, err = scanEnrolment(scan)
		return err
	})
	if err == nil && e == nil {
		err = sql.ErrNoRows
	}
	if err != nil {
		return nil, translate(err, "the enrolment")
	}
	return e, nil
}

// AdminRoles implements directory.Tx. One writer for all shards makes what it
// reads of the platform's shard as good as of the change's own.
func (t directoryTx) AdminRoles(id tenant.ID, s principal.Subject) ([]string, error) {
	if id != tenant.Platform {
		if err := t.own(id); err != nil {
			return nil, err
		}
	}
	subjects := "users"
	if s.Kind == principal.Service {
		subjects = "services"
	}
	var roles []string
	err := t.rows("SELECT r.relation FROM tenants t JOIN "+subjects+" s ON s.tenant_id = t.tenant_id"+
		" JOIN tuples r ON r.tenant_id = t.tenant_id AND r.store_id = t.system_store"+
		" WHERE t.tenant_id = ? AND s.id = ? AND s.state = ? AND r.object = ? AND r.subject = ?"+
		" AND r.condition = '' AND (r.expires = 0 OR r.expires > ?)",
		[]any{id.String(), s.ID, string(directory.Active), directory.SystemObject(id), s.String(), t.w.s.cfg.Now().UnixNano()}, func(scan func(...any) error) error {
			var role string
			err := scan(&role)
			roles = append(roles, role)
			return err
		})
	return roles, translate(err, "the admin roles")
}

// LoadDirectory implements directory.Store.
func (d directoryStore) LoadDirectory(ctx context.Context) ([]directory.Record, error) {
	var all []directory.Record
	err := d.s.snapshot(ctx, func(t *sql.Tx) error {
		for _, k := range loaders {
			rows, err := t.QueryContext(ctx, k.query)
			if err != nil {
				return err
			}
			err = drain(rows, func(scan func(...any) error) error {
				r, err := k.scan(scan)
				if err == nil {
					all = append(all, r)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, translate(err, "the directory")
	}
	return all, nil
}

const selectUsers = "SELECT u.tenant_id, u.id, u.name, u.state, u.connection_id, u.external, u.created FROM users u"

// User implements directory.Store.
func (d directoryStore) User(ctx context.Context, t tenant.ID, id string) (*directory.User, error) {
	return d.user(ctx, " WHERE u.tenant_id = ? AND u.id = ?", t.String(), id)
}

// UserByName implements directory.Store.
func (d directoryStore) UserByName(ctx context.Context, t tenant.ID, name string) (*directory.User, error) {
	return d.user(ctx, " WHERE u.tenant_id = ? AND u.name = ?", t.String(), name)
}

// UserByExternal implements directory.Store.
func (d directoryStore) UserByExternal(ctx context.Context, connection, subject string) (*directory.User, error) {
	return d.user(ctx, ` JOIN connections c ON c.tenant_id = u.tenant_id AND c.id = u.connection_id
		WHERE c.id = ? AND u.external = ?`, connection, subject)
}

func (d directoryStore) user(ctx context.Context, where string, args ...any) (*directory.User, error) {
	list, err := d.users(ctx, where, args...)
	if err == nil && len(list) == 0 {
		err = sql.ErrNoRows
	}
	if err != nil {
		return nil, translate(err, "the user")
	}
	return list[0], nil
}

// Users implements directory.Store.
func (d directoryStore) Users(ctx context.Context, t tenant.ID, after string, limit int) ([]*directory.User, error) {
	list, err := d.users(ctx, " WHERE u.tenant_id = ? AND u.id > ? ORDER BY u.id LIMIT ?", t.String(), after, max(limit, 0))
	return list, translate(err, "the users")
}

func (d directoryStore) users(ctx context.Context, where string, args ...any) ([]*directory.User, error) {
	var list []*directory.User
	err := d.s.rows(ctx, selectUsers+where, args, func(scan func(...any) error) error {
		var u directory.User
		var id string
		var connection, external sql.NullString
		var created sql.NullInt64
		if err := scan(&id, &u.ID, &u.Name, &u.State, &connection, &external, &created); err != nil {
			return err
		}
		u.Connection, u.External, u.Created = connection.String, external.String, moment(created)
		var err error
		u.Tenant, err = owner(id)
		list = append(list, &u)
		return err
	})
	return list, err
}

// A record as a row: the key's columns stand first.
type row struct {
	table   string
	what    string // for the caller's eyes
	columns []string
	keys    int
	where   string // further condition of an update
	args    []any
}

func (r *row) insert() string {
	return "INSERT INTO " + r.table + " (" + strings.Join(r.columns, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(r.columns)-1) + ")"
}

func (r *row) update() string {
	return "UPDATE " + r.table + " SET " + strings.Join(r.columns[r.keys:], " = ?, ") + " = ?" + r.match() + r.where
}

func (r *row) updateArgs() []any {
	return append(append([]any{}, r.args[r.keys:]...), r.args[:r.keys]...)
}

func (r *row) delete() string { return "DELETE FROM " + r.table + r.match() }

func (r *row) match() string {
	return " WHERE " + strings.Join(r.columns[:r.keys], " = ? AND ") + " = ?"
}

// list is the stored form of strings: a JSON array, never null.
func list(values []string) string {
	if len(values) == 0 {
		return "[]"
	}
	b, _ := json.Marshal(values) // strings always encode
	return string(b)
}

// text is the stored form of an optional name.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func rowOf(r directory.Record) (row, error) {
	if r.Owner().IsZero() {
		return row{}, fault.New(fault.Internal, "a directory record names no tenant")
	}
	out, times := describe(r)
	for i, at := range times {
		v, err := nanos(at)
		if err != nil {
			return row{}, err
		}
		out.args[len(out.args)-len(times)+i] = v
	}
	return out, nil
}
