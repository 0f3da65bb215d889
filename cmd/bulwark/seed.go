package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

//go:embed docs.fga
var docsModel string

// dev's people by tenant, with the admin roles that they hold. In dev alone
// one person may hold several.
var devPeople = []struct {
	name, tenant string
	roles        []string
}{
	{"alice", "acme", nil}, {"bob", "acme", nil}, {"carol", "acme", nil}, {"dave", "acme", nil},
	{"mallory", "globex", nil},
	{"admin", "acme", []string{"administrator", "access_manager", "auditor", "approver", "key_administrator"}},
	{"admin2", "acme", []string{"administrator", "access_manager", "auditor", "approver", "key_administrator"}},
	{"olga", "platform", []string{"operator", "policy_author", "approver", "auditor", "administrator"}},
	{"oscar", "platform", []string{"operator", "policy_author", "approver", "auditor", "administrator"}},
}

// devGrants says which audiences dev's platform services may get tokens for.
var devGrants = []struct {
	service, audience string
	direct            bool
}{
	{"notes", "billing", true}, {"notes", "authz", true}, {"notes", "gateway", true},
	{"billing", "authz", true}, {"billing", "gateway", true},
}

// seeder fills in what is missing, so that a start after a stop at any point
// ends in the same state.
type seeder struct {
	n     *node
	event ledger.Event
}

// seed makes dev's tenants, people, services, model and tuples.
func seed(ctx context.Context, n *node) (*devState, error) {
	s := &seeder{n: n, event: ledger.Event{Subject: "system"}}
	state := &devState{Tenants: map[string]devTenant{}, Users: map[string]devUser{}, Services: map[string]devService{}}
	for _, name := range []string{"acme", "globex"} {
		t, err := s.tenant(ctx, name)
		if err != nil {
			return nil, err
		}
		graph, err := n.directory.DefaultGraph(t.Tenant, devApplication)
		if err != nil {
			return nil, err
		}
		state.Tenants[name] = devTenant{ID: t.Tenant.String(), Store: string(graph)}
	}
	for _, p := range devPeople {
		id, err := s.user(ctx, p.name, p.tenant, p.roles)
		if err != nil {
			return nil, err
		}
		state.Users[p.name+"@"+p.tenant] = devUser{ID: id}
	}
	for _, name := range []string{"notes", "billing"} {
		svc, err := s.service(ctx, name)
		if err != nil {
			return nil, err
		}
		state.Services[name] = svc
	}
	for _, g := range devGrants {
		if err := s.grant(ctx, g.service, g.audience, g.direct); err != nil {
			return nil, err
		}
	}
	return state, s.graph(ctx, state)
}

// ignore treats what is there already as done.
func ignore(err error) error {
	if err != nil && fault.KindOf(err) == fault.Conflict {
		return nil
	}
	return err
}

func (s *seeder) tenant(ctx context.Context, name string) (*directory.Tenant, error) {
	t, err := s.n.directory.ResolveTenant(name)
	if err != nil {
		if t, err = s.n.directory.CreateTenant(ctx, s.event, name); err != nil {
			return nil, err
		}
	}
	return t, s.n.ensureKEK(ctx, t.Tenant)
}

func (s *seeder) user(ctx context.Context, name, of string, roles []string) (string, error) {
	t, err := s.n.directory.ResolveTenant(of)
	if err != nil {
		return "", err
	}
	u, err := s.n.directory.ResolveUser(ctx, t.Tenant, name)
	if err != nil {
		if u, err = s.n.directory.CreateUser(ctx, s.event, t.Tenant, name, "", ""); err != nil {
			return "", err
		}
	}
	for _, role := range roles {
		if err := ignore(s.n.directory.AssignRole(ctx, s.event, t.Tenant, u.ID, role)); err != nil {
			return "", err
		}
	}
	return u.ID, nil
}

// service makes a platform service with a key in a file, installed in acme.
func (s *seeder) service(ctx context.Context, name string) (devService, error) {
	d := s.n.directory
	svc, err := d.ServiceByName(tenant.Platform, name)
	if err != nil {
		if svc, err = d.CreateService(ctx, s.event, tenant.Platform, name); err != nil {
			return devService{}, err
		}
	}
	path, err := filepath.Abs(filepath.Join(s.n.plan.data, "dev", name+".jwk"))
	if err != nil {
		return devService{}, fault.Wrap(fault.Unavailable, "the data folder has no path", err)
	}
	key, err := readOrMakeKey(path)
	if err != nil {
		return devService{}, err
	}
	public, err := key.Public().MarshalJSON()
	if err != nil {
		return devService{}, err
	}
	subject := principal.Subject{Kind: principal.Service, ID: svc.ID}
	if _, err := d.ClientKey(subject, key.KID()); err != nil {
		if err := d.AddClientKey(ctx, s.event, tenant.Platform, subject, key.KID(), public, time.Time{}); err != nil {
			return devService{}, err
		}
	}
	acme, err := d.ResolveTenant("acme")
	if err != nil {
		return devService{}, err
	}
	if _, err := d.Installed(acme.Tenant, svc.ID); err != nil {
		if _, err := d.Install(ctx, s.event, acme.Tenant, svc.ID, nil, time.Time{}); err != nil {
			return devService{}, err
		}
	}
	return devService{ID: svc.ID, Owner: "platform", ClientID: svc.ID, Audience: d.ServiceAudience(svc.ID), Key: path}, nil
}

// readOrMakeKey keeps a private key of dev's in a file below DIR/dev.
func readOrMakeKey(path string) (jose.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return jose.ParsePrivateKey(secret.New(b))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return jose.PrivateKey{}, fault.Wrap(fault.Unavailable, "a key file cannot be read", err)
	}
	key, err := jose.GenerateES256()
	if err != nil {
		return jose.PrivateKey{}, err
	}
	text, err := key.MarshalSecret()
	if err != nil {
		return jose.PrivateKey{}, err
	}
	return key, writeDurable(path, text.Reveal())
}

func (s *seeder) grant(ctx context.Context, service, audience string, direct bool) error {
	d := s.n.directory
	svc, err := d.ServiceByName(tenant.Platform, service)
	if err != nil {
		return err
	}
	urn, err := d.ResolveAudience(tenant.Platform, audience)
	if err != nil {
		return err
	}
	for _, g := range d.Grants(svc.ID) {
		if g.Audience == urn {
			return nil
		}
	}
	return d.GrantAudience(ctx, s.event, tenant.Platform, svc.ID, urn, nil, direct)
}

// graph publishes the model and writes the demo tuples.
func (s *seeder) graph(ctx context.Context, state *devState) error {
	platform, err := s.n.directory.SystemGraph(tenant.Platform)
	if err != nil {
		return err
	}
	if _, ok := s.n.authz.ActiveModel(devApplication); !ok {
		ev := s.change("release.activate", tenant.Platform)
		if _, err := s.n.authz.Enforce(ctx, ledger.Change{Store: platform, Event: ev}, devApplication, authz.Draft{Model: docsModel}); err != nil {
			return err
		}
	}
	acme, err := s.n.directory.ResolveTenant("acme")
	if err != nil {
		return err
	}
	store := relation.StoreID(state.Tenants["acme"].Store)
	page, err := s.n.authz.Read(ctx, store, authz.Filter{Object: "document:roadmap"}, 1, "")
	if err != nil || len(page.Tuples) > 0 {
		return err
	}
	user := func(name string) string { return "user:" + state.Users[name+"@acme"].ID }
	_, err = s.n.authz.Write(ctx, ledger.Change{Store: store, Event: s.change("tuple.write", acme.Tenant)}, "", authz.Write{Writes: []relation.Tuple{
		{Object: "folder:plans", Relation: "owner", Subject: user("alice")},
		{Object: "folder:plans", Relation: "editor", Subject: user("bob")},
		{Object: "folder:plans", Relation: "viewer", Subject: user("carol")},
		{Object: "document:roadmap", Relation: "parent", Subject: "folder:plans"},
	}})
	return err
}

func (s *seeder) change(action string, t tenant.ID) ledger.Event {
	return ledger.Event{
		ID: tenant.RandomID(), Time: s.n.plan.now(), Class: ledger.Mutation, Action: action, Tenant: t, Subject: "system",
	}
}

// person resolves "alice@acme".
func (n *node) person(ctx context.Context, who string) (*directory.Tenant, *directory.User, error) {
	name, of, ok := strings.Cut(who, "@")
	if !ok {
		return nil, nil, fault.New(fault.Invalid, fmt.Sprintf("%q is not user@tenant, e.g. alice@acme", who))
	}
	t, err := n.directory.ResolveTenant(of)
	if err != nil {
		return nil, nil, err
	}
	u, err := n.directory.ResolveUser(ctx, t.Tenant, name)
	return t, u, err
}
