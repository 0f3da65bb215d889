package sqlite

import (
	"database/sql"
	"encoding/json"
	"time"

	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/tenant"
)

// describe is the one place that maps the directory's records to columns. The
// times that it returns are the last columns; their arguments are left nil.
func describe(r directory.Record) (row, []time.Time) {
	t := r.Owner().String()
	switch r := r.(type) {
	case *directory.Tenant:
		return row{
			table: "tenants", what: "the tenant", keys: 2, // the system store never changes
			columns: []string{"tenant_id", "system_store", "name", "state", "created"},
			args:    []any{t, string(r.System), r.Name, string(r.State), nil},
		}, []time.Time{r.Created}
	case *directory.Graph:
		return row{
			table: "stores", what: "the store", keys: 2,
			columns: []string{"tenant_id", "id", "kind", "application", "name", "created"},
			args:    []any{t, string(r.ID), string(r.Kind), r.Application, r.Name, nil},
		}, []time.Time{r.Created}
	case *directory.User:
		return row{
			table: "users", what: "the user", keys: 2,
			columns: []string{"tenant_id", "id", "name", "state", "connection_id", "external", "created"},
			args:    []any{t, r.ID, r.Name, string(r.State), text(r.Connection), text(r.External), nil},
		}, []time.Time{r.Created}
	case *directory.Service:
		return row{
			table: "services", what: "the service", keys: 2,
			columns: []string{"tenant_id", "id", "name", "state", "created"},
			args:    []any{t, r.ID, r.Name, string(r.State), nil},
		}, []time.Time{r.Created}
	case *directory.ClientKey:
		var user, service any
		if r.Subject.Kind == principal.User {
			user = r.Subject.ID
		} else {
			service = r.Subject.ID
		}
		return row{
			table: "client_keys", what: "the client key", keys: 3,
			columns: []string{"tenant_id", "subject", "kid", "user_id", "service_id", "public", "created", "expires"},
			args:    []any{t, r.Subject.String(), r.KID, user, service, []byte(r.Public), nil, nil},
		}, []time.Time{r.Created, r.Expires}
	case *directory.AudienceGrant:
		return row{
			table: "audience_grants", what: "the audience grant", keys: 3,
			columns: []string{"tenant_id", "service_id", "audience", "scopes", "direct"},
			args:    []any{t, r.Service, r.Audience, list(r.Scopes), r.Direct},
		}, nil
	case *directory.Installation:
		return row{
			table: "installations", what: "the installation", keys: 2,
			columns: []string{"tenant_id", "service_id", "scopes", "expires", "created"},
			args:    []any{t, r.Service, list(r.Scopes), nil, nil},
		}, []time.Time{r.Expires, r.Created}
	case *directory.Connection:
		return row{
			table: "connections", what: "the connection", keys: 2,
			columns: []string{"tenant_id", "id", "name", "issuer", "audience", "kind", "algs", "jwks_uri", "state", "created"},
			args:    []any{t, r.ID, r.Name, r.Issuer, r.Audience, string(r.Kind), list(r.Algs), r.JWKSURI, string(r.State), nil},
		}, []time.Time{r.Created}
	default:
		return describeRest(r, t)
	}
}

func describeRest(r directory.Record, t string) (row, []time.Time) {
	switch r := r.(type) {
	case *directory.Enrolment:
		return row{
			table: "enrolments", what: "the enrolment", keys: 2,
			where:   " AND used_by = ''", // one use, whatever the caller checked
			columns: []string{"tenant_id", "id", "code_mac", "role", "name", "invited_by", "outside", "used_by", "expires"},
			args:    []any{t, r.ID, r.CodeMAC, r.Role, r.Name, r.InvitedBy, r.Outside, r.UsedBy, nil},
		}, []time.Time{r.Expires}
	case *directory.Revocation:
		return row{
			table: "revocations", what: "the revocation", keys: 3,
			columns: []string{"tenant_id", "kind", "value", "before", "expires"},
			args:    []any{t, string(r.Kind), r.Value, nil, nil},
		}, []time.Time{r.Before, r.Expires}
	}
	// The set of records is closed; a new one needs a table first.
	panic("sqlite: no table for a directory record of kind " + r.RecordKind())
}

const selectEnrolments = "SELECT tenant_id, id, code_mac, role, name, invited_by, outside, used_by, expires FROM enrolments"

// loaders read everything but users, parents first.
var loaders = []struct {
	query string
	scan  func(scan func(...any) error) (directory.Record, error)
}{
	{"SELECT tenant_id, name, state, system_store, created FROM tenants", func(scan func(...any) error) (directory.Record, error) {
		var r directory.Tenant
		return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Created}, &r.Name, &r.State, &r.System)
	}},
	{"SELECT tenant_id, id, kind, application, name, created FROM stores", func(scan func(...any) error) (directory.Record, error) {
		var r directory.Graph
		return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Created}, &r.ID, &r.Kind, &r.Application, &r.Name)
	}},
	{"SELECT tenant_id, id, name, state, created FROM services", func(scan func(...any) error) (directory.Record, error) {
		var r directory.Service
		return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Created}, &r.ID, &r.Name, &r.State)
	}},
	{"SELECT tenant_id, subject, kid, public, created, expires FROM client_keys", func(scan func(...any) error) (directory.Record, error) {
		var r directory.ClientKey
		var subject string
		err := scanRow(scan, &r.Tenant, []*time.Time{&r.Created, &r.Expires}, &subject, &r.KID, (*[]byte)(&r.Public))
		if err != nil {
			return nil, err
		}
		if r.Subject, err = principal.ParseSubject(subject); err != nil {
			return nil, fault.Wrap(fault.Integrity, "a client key of the store has no subject", err)
		}
		return &r, nil
	}},
	{"SELECT tenant_id, service_id, audience, scopes, direct FROM audience_grants", func(scan func(...any) error) (directory.Record, error) {
		var r directory.AudienceGrant
		return &r, scanRow(scan, &r.Tenant, nil, &r.Service, &r.Audience, strs{&r.Scopes}, &r.Direct)
	}},
	{"SELECT tenant_id, service_id, scopes, expires, created FROM installations", func(scan func(...any) error) (directory.Record, error) {
		var r directory.Installation
		return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Expires, &r.Created}, &r.Service, strs{&r.Scopes})
	}},
	{"SELECT tenant_id, id, name, issuer, audience, kind, algs, jwks_uri, state, created FROM connections", func(scan func(...any) error) (directory.Record, error) {
		var r directory.Connection
		return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Created}, &r.ID, &r.Name, &r.Issuer, &r.Audience, &r.Kind, strs{&r.Algs}, &r.JWKSURI, &r.State)
	}},
	{selectEnrolments, func(scan func(...any) error) (directory.Record, error) { return scanEnrolment(scan) }},
	{"SELECT tenant_id, kind, value, before, expires FROM revocations", func(scan func(...any) error) (directory.Record, error) {
		var r directory.Revocation
		return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Before, &r.Expires}, &r.Kind, &r.Value)
	}},
}

func scanEnrolment(scan func(...any) error) (*directory.Enrolment, error) {
	var r directory.Enrolment
	return &r, scanRow(scan, &r.Tenant, []*time.Time{&r.Expires}, &r.ID, &r.CodeMAC, &r.Role, &r.Name, &r.InvitedBy, &r.Outside, &r.UsedBy)
}

// scanRow reads a row whose first column is the tenant and whose last are times.
func scanRow(scan func(...any) error, t *tenant.ID, times []*time.Time, into ...any) error {
	var id string
	all := append([]any{&id}, into...)
	stamps := make([]sql.NullInt64, len(times))
	for i := range stamps {
		all = append(all, &stamps[i])
	}
	if err := scan(all...); err != nil {
		return err
	}
	for i, at := range times {
		*at = moment(stamps[i])
	}
	var err error
	*t, err = owner(id)
	return err
}

// strs scans a JSON array; an empty one reads as nil.
type strs struct{ into *[]string }

// Scan implements sql.Scanner.
func (s strs) Scan(src any) error {
	b, ok := src.(string)
	if !ok {
		return fault.New(fault.Integrity, "a list of the store is damaged")
	}
	if b == "[]" {
		return nil
	}
	if err := json.Unmarshal([]byte(b), s.into); err != nil {
		return fault.Wrap(fault.Integrity, "a list of the store is damaged", err)
	}
	return nil
}
