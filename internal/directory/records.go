// Package directory knows who exists: tenants, people, services, what they may reach.
package directory

import (
	"encoding/json"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// State says whether a tenant, user, service or connection may be used.
type State string

// The states.
const (
	Active    State = "active"
	Suspended State = "suspended"
)

// Record is one row of the directory. The set of implementations is closed:
// the stores switch over it.
type Record interface {
	// RecordKind is the stable name of the kind in the changelog.
	RecordKind() string
	// RecordKey is the row's key within its kind, unique over all tenants.
	RecordKey() string
	// Owner is the tenant that the record belongs to.
	Owner() tenant.ID
	setOwner(tenant.ID)
}

// Tenant is a customer, or the platform.
type Tenant struct {
	Tenant  tenant.ID        `json:"-"`
	Name    string           `json:"name"` // alias, unique over the installation
	State   State            `json:"state"`
	System  relation.StoreID `json:"system"` // the store that holds admin rights
	Created time.Time        `json:"created"`
}

// GraphKind tells the stores of a tenant apart.
type GraphKind string

// The kinds of graph.
const (
	SystemGraph  GraphKind = "system"  // admin rights; unreachable through the check API
	DefaultGraph GraphKind = "default" // one for each application
	FreeGraph    GraphKind = "free"    // the tenant's own, with models of its own
)

// Graph is a store of tuples that a tenant has.
type Graph struct {
	Tenant      tenant.ID        `json:"-"`
	ID          relation.StoreID `json:"id"`
	Kind        GraphKind        `json:"kind"`
	Application string           `json:"application,omitempty"` // of a default graph
	Name        string           `json:"name,omitempty"`        // of a free graph; need not be unique
	Created     time.Time        `json:"created,omitzero"`      // zero for those older than the field
}

// User is a person in one tenant.
type User struct {
	Tenant     tenant.ID `json:"-"`
	ID         string    `json:"id"`
	Name       string    `json:"name"` // alias, unique in the tenant
	State      State     `json:"state"`
	Connection string    `json:"connection,omitempty"` // id of the connection that vouches for the person
	External   string    `json:"external,omitempty"`   // the subject at that connection; never an e-mail address
	Created    time.Time `json:"created"`
}

// Service is a program, owned by a tenant or by the platform.
type Service struct {
	Tenant  tenant.ID `json:"-"` // the owner
	ID      string    `json:"id"`
	Name    string    `json:"name"` // alias, unique for its owner, never a surface's name
	State   State     `json:"state"`
	Created time.Time `json:"created"`
}

// ClientKey is a public key with which a service, or an enrolled user's CLI,
// authenticates itself (private_key_jwt, RFC 7523).
type ClientKey struct {
	Tenant  tenant.ID         `json:"-"`
	Subject principal.Subject `json:"subject"`
	KID     string            `json:"kid"` // RFC 7638 thumbprint
	Public  json.RawMessage   `json:"public"`
	Created time.Time         `json:"created"`
	Expires time.Time         `json:"expires,omitzero"`
}

// AudienceGrant lets a service get tokens for an audience.
type AudienceGrant struct {
	Tenant   tenant.ID `json:"-"` // the service's owner
	Service  string    `json:"service"`
	Audience string    `json:"audience"` // URN
	Scopes   []string  `json:"scopes,omitempty"`
	// Direct allows client_credentials; without it the service may only
	// exchange what somebody sent to it.
	Direct bool `json:"direct,omitempty"`
}

// Installation lets a platform service act in a tenant.
type Installation struct {
	Tenant  tenant.ID `json:"-"`
	Service string    `json:"service"`
	Scopes  []string  `json:"scopes,omitempty"` // upper bound; empty means none beyond the grant's
	Expires time.Time `json:"expires,omitzero"`
	Created time.Time `json:"created"`
}

// ConnectionKind is the shape of an external issuer's tokens.
type ConnectionKind string

// The kinds of connection. The first three give access tokens.
const (
	RFC9068 ConnectionKind = "at+jwt"
	Okta    ConnectionKind = "okta"
	Entra   ConnectionKind = "entra"
	Google  ConnectionKind = "google" // ID tokens that Google's service accounts use for API calls
)

// Connection is a trusted external issuer. (Issuer, Audience) is unique over
// the installation, so that no tenant can claim the tokens of another.
type Connection struct {
	Tenant   tenant.ID      `json:"-"`
	ID       string         `json:"id"`
	Name     string         `json:"name"` // alias, unique in the tenant
	Issuer   string         `json:"issuer"`
	Audience string         `json:"audience"`
	Kind     ConnectionKind `json:"kind"`
	Algs     []string       `json:"algs"`
	// JWKSURI overrides the issuer's discovery document. Only the operator may
	// set it: a tenant that could would sign as anybody's issuer.
	JWKSURI string    `json:"jwks_uri,omitempty"`
	State   State     `json:"state"`
	Created time.Time `json:"created"`
}

// Enrolment is a one-use code that makes a user with a role. Only a MAC of the
// code is stored.
type Enrolment struct {
	Tenant  tenant.ID `json:"-"`
	ID      string    `json:"id"`
	CodeMAC []byte    `json:"code_mac"`
	Role    string    `json:"role"`
	Name    string    `json:"name,omitempty"` // the user's alias; empty lets the enrolling person choose
	// InvitedBy is who made the code; it is worth nothing once that one may not
	// invite any more. Empty for the first operator's, which init prints.
	InvitedBy string `json:"invited_by,omitempty"`
	// Outside marks a code that an operator made for a tenant's first
	// administrator. It is worth nothing once there is one.
	Outside bool      `json:"outside,omitempty"`
	Expires time.Time `json:"expires"`
	UsedBy  string    `json:"used_by,omitempty"`
}

// RevocationKind says what a revocation names.
type RevocationKind string

// The kinds of revocation. The first three name one thing; the others are
// epochs: everything issued at or before the time is dead.
const (
	RevokeToken   RevocationKind = "token"   // a jti; what was derived from it dies too
	RevokeRoot    RevocationKind = "root"    // a root_jti
	RevokeSession RevocationKind = "session" // a sid
	RevokeSubject RevocationKind = "subject" // "user:<id>" | "service:<id>"
	RevokeClient  RevocationKind = "client"  // a client id; reaches derived tokens that name it, see [Directory.Revoked]
	RevokeTenant  RevocationKind = "tenant"  // a tenant id
)

// Revocation ends tokens before their time.
type Revocation struct {
	Tenant  tenant.ID      `json:"-"`
	Kind    RevocationKind `json:"kind"`
	Value   string         `json:"value"`
	Before  time.Time      `json:"before"`  // epochs: issued at or before this
	Expires time.Time      `json:"expires"` // when no token that it names can live any more
}

// The names of kinds are persisted in the changelog.
func (*Tenant) RecordKind() string        { return "tenant" }
func (*Graph) RecordKind() string         { return "graph" }
func (*User) RecordKind() string          { return "user" }
func (*Service) RecordKind() string       { return "service" }
func (*ClientKey) RecordKind() string     { return "client_key" }
func (*AudienceGrant) RecordKind() string { return "audience_grant" }
func (*Installation) RecordKind() string  { return "installation" }
func (*Connection) RecordKind() string    { return "connection" }
func (*Enrolment) RecordKind() string     { return "enrolment" }
func (*Revocation) RecordKind() string    { return "revocation" }

func (r *Tenant) RecordKey() string        { return r.Tenant.String() }
func (r *Graph) RecordKey() string         { return string(r.ID) }
func (r *User) RecordKey() string          { return r.ID }
func (r *Service) RecordKey() string       { return r.ID }
func (r *ClientKey) RecordKey() string     { return r.Subject.String() + "/" + r.KID }
func (r *AudienceGrant) RecordKey() string { return r.Service + "/" + r.Audience }
func (r *Installation) RecordKey() string  { return r.Tenant.String() + "/" + r.Service }
func (r *Connection) RecordKey() string    { return r.ID }
func (r *Enrolment) RecordKey() string     { return r.ID }
func (r *Revocation) RecordKey() string {
	return r.Tenant.String() + "/" + string(r.Kind) + "/" + r.Value
}

func (r *Tenant) Owner() tenant.ID        { return r.Tenant }
func (r *Graph) Owner() tenant.ID         { return r.Tenant }
func (r *User) Owner() tenant.ID          { return r.Tenant }
func (r *Service) Owner() tenant.ID       { return r.Tenant }
func (r *ClientKey) Owner() tenant.ID     { return r.Tenant }
func (r *AudienceGrant) Owner() tenant.ID { return r.Tenant }
func (r *Installation) Owner() tenant.ID  { return r.Tenant }
func (r *Connection) Owner() tenant.ID    { return r.Tenant }
func (r *Enrolment) Owner() tenant.ID     { return r.Tenant }
func (r *Revocation) Owner() tenant.ID    { return r.Tenant }

func (r *Tenant) setOwner(t tenant.ID)        { r.Tenant = t }
func (r *Graph) setOwner(t tenant.ID)         { r.Tenant = t }
func (r *User) setOwner(t tenant.ID)          { r.Tenant = t }
func (r *Service) setOwner(t tenant.ID)       { r.Tenant = t }
func (r *ClientKey) setOwner(t tenant.ID)     { r.Tenant = t }
func (r *AudienceGrant) setOwner(t tenant.ID) { r.Tenant = t }
func (r *Installation) setOwner(t tenant.ID)  { r.Tenant = t }
func (r *Connection) setOwner(t tenant.ID)    { r.Tenant = t }
func (r *Enrolment) setOwner(t tenant.ID)     { r.Tenant = t }
func (r *Revocation) setOwner(t tenant.ID)    { r.Tenant = t }

// kinds makes an empty record of each kind.
var kinds = map[string]func() Record{
	"tenant":         func() Record { return new(Tenant) },
	"graph":          func() Record { return new(Graph) },
	"user":           func() Record { return new(User) },
	"service":        func() Record { return new(Service) },
	"client_key":     func() Record { return new(ClientKey) },
	"audience_grant": func() Record { return new(AudienceGrant) },
	"installation":   func() Record { return new(Installation) },
	"connection":     func() Record { return new(Connection) },
	"enrolment":      func() Record { return new(Enrolment) },
	"revocation":     func() Record { return new(Revocation) },
}

// IsKind reports whether the directory owns the changelog kind.
func IsKind(kind string) bool { _, ok := kinds[kind]; return ok }

// wire is the changelog's payload. The tenant stands apart because no decoder
// may make a tenant.ID: only [Decode] does, from our own store's bytes.
type wire struct {
	Tenant string          `json:"tenant"`
	Record json.RawMessage `json:"record"`
}

// Encode returns the changelog's payload of r. The error has kind [fault.Internal].
func Encode(r Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "a directory record does not encode", err)
	}
	return json.Marshal(wire{Tenant: r.Owner().String(), Record: body})
}

// Decode reads what [Encode] wrote. payload must come from our own store. The
// error has kind [fault.Integrity].
func Decode(kind string, payload []byte) (Record, error) {
	fresh, ok := kinds[kind]
	if !ok {
		return nil, fault.New(fault.Integrity, "the changelog names an unknown kind of record")
	}
	var w wire
	r := fresh()
	if err := json.Unmarshal(payload, &w); err != nil {
		return nil, fault.Wrap(fault.Integrity, "a directory record does not decode", err)
	}
	if err := json.Unmarshal(w.Record, r); err != nil {
		return nil, fault.Wrap(fault.Integrity, "a directory record does not decode", err)
	}
	t, err := tenant.Trusted(w.Tenant)
	if err != nil {
		return nil, fault.Wrap(fault.Integrity, "a directory record names no tenant", err)
	}
	r.setOwner(t)
	return r, nil
}
