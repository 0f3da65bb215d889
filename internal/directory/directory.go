package directory

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// StaleAfter is how long a node answers without word from its store (DESIGN 6.2).
const StaleAfter = 30 * time.Second

// Skew is how far clocks may differ: verifiers take a token so long after its
// end, and one that another's clock dates so far ahead.
const Skew = time.Minute

// Config is what a Directory needs.
type Config struct {
	Store        Store
	Env          string
	Dev          bool     // in dev alone a person may hold several admin roles
	Applications []string // every tenant has one default graph for each
	// CodeMAC gives the key under which enrolment codes are stored. It is asked
	// for when needed: the first tenant comes before the first key.
	CodeMAC  func(context.Context) (secret.Bytes, error)
	MaxToken time.Duration // longest life of a token, whoever issues it: most revocations are kept that long
	// FreeGraphs is the most free stores that a tenant may have; 0 is
	// [DefaultFreeGraphs].
	FreeGraphs int
	Now        func() time.Time
}

// Directory is the view of all records but users in memory, with the rules by
// which they change. It is safe for concurrent use.
type Directory struct {
	cfg Config

	// generation counts changes that can make a verified credential invalid.
	// The hot path reads it alone.
	generation atomic.Uint64
	confirmed  atomic.Int64 // unix nanoseconds of the last word from the store

	mu            sync.RWMutex // guards the maps; records in them are never written to
	tenants       map[tenant.ID]*Tenant
	tenantNames   map[string]*Tenant
	graphs        map[relation.StoreID]*Graph
	defaults      map[defaultOf]*Graph   // of graphs: every request asks
	owned         map[tenant.ID][]*Graph // of graphs, in order of [Directory.Graphs]
	services      map[string]*Service
	keys          map[principal.Subject]map[string]*ClientKey
	grants        map[string][]*AudienceGrant
	installations map[string]*Installation
	connections   map[string]*Connection
	issuers       map[trusted]*Connection // of connections: every foreign token asks, before its signature counts
	enrolments    map[string]*Enrolment
	revocations   map[string]*Revocation
}

// defaultOf names a tenant's default graph, trusted what a connection trusts:
// (issuer, audience) is unique over the installation.
type (
	defaultOf struct {
		tenant      tenant.ID
		application string
	}
	trusted struct{ issuer, audience string }
)

// New loads the directory. Subscribe [Directory.Apply] to the store's changes
// before the first mutation. Errors are the store's.
func New(ctx context.Context, cfg Config) (*Directory, error) {
	d := &Directory{
		cfg:           cfg,
		tenants:       map[tenant.ID]*Tenant{},
		tenantNames:   map[string]*Tenant{},
		graphs:        map[relation.StoreID]*Graph{},
		defaults:      map[defaultOf]*Graph{},
		owned:         map[tenant.ID][]*Graph{},
		services:      map[string]*Service{},
		keys:          map[principal.Subject]map[string]*ClientKey{},
		grants:        map[string][]*AudienceGrant{},
		installations: map[string]*Installation{},
		connections:   map[string]*Connection{},
		issuers:       map[trusted]*Connection{},
		enrolments:    map[string]*Enrolment{},
		revocations:   map[string]*Revocation{},
	}
	records, err := cfg.Store.LoadDirectory(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		d.put(r)
	}
	d.Confirm()
	return d, nil
}

// Confirm notes that the store answered just now.
func (d *Directory) Confirm() { d.confirmed.Store(d.cfg.Now().UnixNano()) }

// Fresh reports whether the store was heard of within [StaleAfter]. A node
// that is not fresh stops allowing.
func (d *Directory) Fresh() bool {
	return d.cfg.Now().UnixNano()-d.confirmed.Load() < int64(StaleAfter)
}

// Generation changes whenever a verified credential may have become invalid.
func (d *Directory) Generation() uint64 { return d.generation.Load() }

// Apply takes one committed change of the kind into the view. Payload is nil
// for a deletion. It must be called in the order of commits; unknown kinds are
// ignored, since they belong to others. The error has kind [fault.Integrity].
func (d *Directory) Apply(kind, key string, payload []byte) error {
	if !IsKind(kind) {
		return nil
	}
	var r Record
	if payload != nil {
		var err error
		if r, err = Decode(kind, payload); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r == nil {
		d.remove(kind, key)
	} else {
		d.put(r)
	}
	// A store says nothing about a credential. Were it to count, a tenant that
	// makes stores in a row would have everybody's credentials verified anew.
	if kind != (*Graph)(nil).RecordKind() {
		d.generation.Add(1)
	}
	return nil
}

func (d *Directory) put(r Record) {
	switch r := r.(type) {
	case *Tenant:
		if old := d.tenants[r.Tenant]; old != nil {
			delete(d.tenantNames, old.Name)
		}
		d.tenants[r.Tenant], d.tenantNames[r.Name] = r, r
	case *Graph:
		d.putGraph(r)
	case *Service:
		d.services[r.ID] = r
	case *ClientKey:
		if d.keys[r.Subject] == nil {
			d.keys[r.Subject] = map[string]*ClientKey{}
		}
		d.keys[r.Subject][r.KID] = r
	case *AudienceGrant:
		kept := slices.DeleteFunc(slices.Clone(d.grants[r.Service]), func(g *AudienceGrant) bool { return g.Audience == r.Audience })
		d.grants[r.Service] = append(kept, r)
	case *Installation:
		d.installations[r.RecordKey()] = r
	case *Connection:
		if old := d.connections[r.ID]; old != nil {
			delete(d.issuers, trusted{old.Issuer, old.Audience})
		}
		d.connections[r.ID], d.issuers[trusted{r.Issuer, r.Audience}] = r, r
	case *Enrolment:
		d.enrolments[r.ID] = r
	case *Revocation:
		d.revocations[r.RecordKey()] = r
	}
}

func (d *Directory) remove(kind, key string) {
	switch kind {
	case "client_key":
		for _, byKID := range d.keys {
			for kid, k := range byKID {
				if k.RecordKey() == key {
					delete(byKID, kid)
				}
			}
		}
	case "audience_grant":
		for id, list := range d.grants {
			d.grants[id] = slices.DeleteFunc(slices.Clone(list), func(g *AudienceGrant) bool { return g.RecordKey() == key })
		}
	case "installation":
		delete(d.installations, key)
	case "connection":
		if old := d.connections[key]; old != nil {
			delete(d.issuers, trusted{old.Issuer, old.Audience})
		}
		delete(d.connections, key)
	case "enrolment":
		delete(d.enrolments, key)
	case "revocation":
		delete(d.revocations, key)
	case "graph":
		d.removeGraph(relation.StoreID(key))
	}
	// Tenants and services are suspended, never deleted: their ids stay taken.
}

// TenantActive reports whether the tenant exists and is not suspended.
func (d *Directory) TenantActive(t tenant.ID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r := d.tenants[t]
	return r != nil && r.State == Active
}

// Tenant returns the tenant, kind NotFound if there is none.
func (d *Directory) Tenant(t tenant.ID) (*Tenant, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if r := d.tenants[t]; r != nil {
		return r, nil
	}
	return nil, fault.New(fault.NotFound, "no such tenant")
}

// ResolveTenant finds a tenant by URN, id or alias. It says only what exists;
// whether the caller may act there is for the caller of ResolveTenant to decide
// (DESIGN rule 2). Kind NotFound if there is none.
func (d *Directory) ResolveTenant(name string) (*Tenant, error) {
	name = cutURN(name, d.cfg.Env, "tenant")
	d.mu.RLock()
	defer d.mu.RUnlock()
	if r := d.tenantNames[name]; r != nil {
		return r, nil
	}
	for id, r := range d.tenants {
		if id.String() == name {
			return r, nil
		}
	}
	return nil, fault.New(fault.NotFound, "no such tenant")
}

// Tenants lists all tenants in order of name.
func (d *Directory) Tenants() []*Tenant {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return sorted(d.tenants, func(*Tenant) bool { return true }, func(r *Tenant) string { return r.Name })
}

// Service returns the service with the id, of any owner. Kind NotFound if none.
func (d *Directory) Service(id string) (*Service, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if s := d.services[id]; s != nil {
		return s, nil
	}
	return nil, fault.New(fault.NotFound, "no such service")
}

// ServiceByName returns the owner's service with the alias, kind NotFound if none.
func (d *Directory) ServiceByName(owner tenant.ID, name string) (*Service, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, s := range d.services {
		if s.Tenant == owner && s.Name == name {
			return s, nil
		}
	}
	return nil, fault.New(fault.NotFound, "no such service")
}

// Services lists the owner's services in order of name.
func (d *Directory) Services(owner tenant.ID) []*Service {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return sorted(d.services, func(s *Service) bool { return s.Tenant == owner }, func(s *Service) string { return s.Name })
}

// ClientKey returns the subject's public key with the kid, if it has not
// expired. Kind NotFound otherwise.
func (d *Directory) ClientKey(s principal.Subject, kid string) (*ClientKey, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if k := d.keys[s][kid]; k != nil && (k.Expires.IsZero() || d.cfg.Now().Before(k.Expires)) {
		return k, nil
	}
	return nil, fault.New(fault.NotFound, "no such key")
}

// ClientKeys lists the subject's public keys, expired ones too, in order of kid.
func (d *Directory) ClientKeys(s principal.Subject) []*ClientKey {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return sorted(d.keys[s], func(*ClientKey) bool { return true }, func(k *ClientKey) string { return k.KID })
}

// Grants lists what the service may get tokens for, in order of audience.
func (d *Directory) Grants(service string) []*AudienceGrant {
	d.mu.RLock()
	defer d.mu.RUnlock()
	list := slices.Clone(d.grants[service])
	slices.SortFunc(list, func(a, b *AudienceGrant) int { return cmp.Compare(a.Audience, b.Audience) })
	return list
}

// Installed returns the installation of the platform service in the tenant, if
// it has not expired. Kind Denied otherwise.
func (d *Directory) Installed(t tenant.ID, service string) (*Installation, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.installed(t, service)
}

func (d *Directory) installed(t tenant.ID, service string) (*Installation, error) {
	i := d.installations[t.String()+"/"+service]
	if i == nil || (!i.Expires.IsZero() && !d.cfg.Now().Before(i.Expires)) {
		return nil, fault.New(fault.Denied, "the service is not installed in this tenant")
	}
	return i, nil
}

// Installations lists the tenant's installations in order of service.
func (d *Directory) Installations(t tenant.ID) []*Installation {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return sorted(d.installations, func(i *Installation) bool { return i.Tenant == t }, func(i *Installation) string { return i.Service })
}

// Connection returns the one connection whose issuer and audience match, if it
// is active. Tokens name several audiences at most by mistake or on purpose;
// either way only an exact single match counts.
func (d *Directory) Connection(issuer string, audiences []string) (Connection, bool) {
	if len(audiences) != 1 {
		return Connection{}, false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if c := d.issuers[trusted{issuer, audiences[0]}]; c != nil {
		return *c, c.State == Active
	}
	return Connection{}, false
}

// ConnectionByName returns the tenant's connection with the alias or id.
// Kind NotFound if there is none.
func (d *Directory) ConnectionByName(t tenant.ID, name string) (*Connection, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, c := range d.connections {
		if c.Tenant == t && (c.Name == name || c.ID == name) {
			return c, nil
		}
	}
	return nil, fault.New(fault.NotFound, "no such connection")
}

// Connections lists the tenant's connections in order of name.
func (d *Directory) Connections(t tenant.ID) []*Connection {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return sorted(d.connections, func(c *Connection) bool { return c.Tenant == t }, func(c *Connection) string { return c.Name })
}

// ExternalUser returns who the connection's subject is here. Kind NotFound if
// nobody is linked, Denied if the person is suspended.
func (d *Directory) ExternalUser(ctx context.Context, connection, subject string) (tenant.ID, principal.Subject, error) {
	u, err := d.cfg.Store.UserByExternal(ctx, connection, subject)
	if err != nil {
		return tenant.ID{}, principal.Subject{}, err
	}
	if u.State != Active {
		return tenant.ID{}, principal.Subject{}, fault.New(fault.Denied, "the user is suspended")
	}
	return u.Tenant, principal.Subject{Kind: principal.User, ID: u.ID}, nil
}

// User returns the tenant's user with the id, kind NotFound if none.
func (d *Directory) User(ctx context.Context, t tenant.ID, id string) (*User, error) {
	return d.cfg.Store.User(ctx, t, id)
}

// ResolveUser returns the tenant's user with the id or alias, kind NotFound if none.
func (d *Directory) ResolveUser(ctx context.Context, t tenant.ID, name string) (*User, error) {
	if tenant.ValidID(name) {
		return d.cfg.Store.User(ctx, t, name)
	}
	return d.cfg.Store.UserByName(ctx, t, name)
}

// Users lists the tenant's users in order of id, from after, at most limit.
func (d *Directory) Users(ctx context.Context, t tenant.ID, after string, limit int) ([]*User, error) {
	return d.cfg.Store.Users(ctx, t, after, limit)
}

func sorted[K comparable, V any](m map[K]*V, keep func(*V) bool, by func(*V) string) []*V {
	var list []*V
	for _, v := range m {
		if keep(v) {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *V) int { return cmp.Compare(by(a), by(b)) })
	return list
}
