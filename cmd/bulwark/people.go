package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
)

func directoryCommands() []command {
	return []command{
		{"tenant create", "NAME", "make a tenant (operators)", createTenant()},
		{"tenant list", "", "list the tenants (operators)", listTenants()},
		{"tenant suspend", "NAME", "end all access of a tenant, at once", act("olga@platform", "suspended", (*admin.Client).SuspendTenant)},
		{"tenant resume", "NAME", "let a suspended tenant go on", act("olga@platform", "resumed", (*admin.Client).ResumeTenant)},
		{"tenant show", "", "who am I, in which tenant, with which stores", showSelf()},
		{"invite", "--role ROLE [--tenant NAME] [--name ALIAS]", "make a one-use code that enrols a person", invite()},
		{"enrol", "CODE --api URL [--ca FILE] [--name ALIAS]", "redeem a code: make a key and a profile on this machine", runEnrol},
		{"user create", "NAME [--connection C --external SUBJECT]", "make a user", createUser()},
		{"user list", "", "list the users", listUsers()},
		{"user show", "NAME", "one user with roles", showUser()},
		{"user suspend", "NAME", "end all access of a user, at once", act("admin@acme", "suspended", (*admin.Client).SuspendUser)},
		{"user resume", "NAME", "let a suspended user go on", act("admin@acme", "resumed", (*admin.Client).ResumeUser)},
		{"user assign", "NAME ROLE", "give a user an admin role", assignRole()},
		{"user unassign", "NAME ROLE", "take an admin role from a user", unassignRole()},
		{"service create", "NAME", "make a service of the own tenant", createService()},
		{"service list", "", "list the services", listServices()},
		{"service suspend", "NAME", "end all access of a service, at once", act("admin@acme", "suspended", (*admin.Client).SuspendService)},
		{"service resume", "NAME", "let a suspended service go on", act("admin@acme", "resumed", (*admin.Client).ResumeService)},
		{"service grant", "NAME AUDIENCE [--direct] [--scope S]", "let a service get tokens for an audience", grantAudience()},
		{"service revoke-audience", "NAME AUDIENCE", "take the right to get tokens for an audience back", revokeAudience()},
		{"service key", "NAME --out FILE", "make a key pair: the private half into FILE, the public half registered", makeKey()},
		{"service keys", "NAME", "list a service's public keys", listKeys()},
		{"service revoke-key", "NAME KID", "end a service's key", revokeKey()},
		{"service install", "NAME [--expires DURATION] [--scope S]", "let a platform service act in the own tenant", install()},
		{"service uninstall", "NAME", "end a platform service's right to act here", act("admin@acme", "uninstalled", (*admin.Client).Uninstall)},
		{"service installed", "", "list the platform services that may act here", listInstallations()},
		{"idp create", "NAME --issuer URL --audience A [--kind K]", "trust an external issuer for the tenant's users", createConnection()},
		{"idp list", "", "list the trusted issuers", listConnections()},
		{"idp suspend", "NAME", "refuse an issuer's tokens, at once", act("admin@acme", "suspended", (*admin.Client).SuspendConnection)},
		{"idp resume", "NAME", "trust a suspended issuer again", act("admin@acme", "resumed", (*admin.Client).ResumeConnection)},
	}
}

// act is a command that does one thing to one name.
func act(as, word string, do func(*admin.Client, context.Context, string) error) func(context.Context, *call) error {
	return verb[done]{
		as: as, least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said(word+" "+args[0], do(c, ctx, args[0]))
		},
		human: printDone,
	}.run
}

// list is a command that prints all pages of something.
func list[T any](as, head string, get func(*admin.Client, context.Context, admin.Paging) (admin.Page[T], error), row func(T) []string) func(context.Context, *call) error {
	return verb[[]T]{
		as: as,
		do: func(ctx context.Context, c *admin.Client, _ []string) ([]T, error) {
			return all(func(p admin.Paging) (admin.Page[T], error) { return get(c, ctx, p) })
		},
		human: func(w io.Writer, items []T) { table(w, head, items, row) },
	}.run
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}

func createTenant() func(context.Context, *call) error {
	return verb[admin.Tenant]{
		as: "olga@platform", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Tenant, error) {
			return c.CreateTenant(ctx, admin.NewTenant{Name: args[0]})
		},
		human: func(w io.Writer, t admin.Tenant) { fmt.Fprintf(w, "tenant %s is %s\n", t.Name, t.ID) },
	}.run
}

func listTenants() func(context.Context, *call) error {
	return list("olga@platform", "NAME ID STATE CREATED", (*admin.Client).Tenants, func(t admin.Tenant) []string {
		return []string{t.Name, t.ID, t.State, when(t.Created)}
	})
}

func showSelf() func(context.Context, *call) error {
	return verb[admin.Self]{
		as: "admin@acme",
		do: func(ctx context.Context, c *admin.Client, _ []string) (admin.Self, error) { return c.Self(ctx) },
		human: func(w io.Writer, s admin.Self) {
			fmt.Fprintf(w, "%s in tenant %s (%s)\n", s.Subject, s.Tenant.Name, s.Tenant.ID)
			for _, g := range s.Tenant.Stores {
				fmt.Fprintf(w, "store %s for %s\n", g.ID, g.Application)
			}
		},
	}.run
}

func invite() func(context.Context, *call) error {
	var in admin.NewInvite
	return verb[admin.Invite]{
		as: "admin@acme",
		flags: func(f *flag.FlagSet) {
			f.StringVar(&in.Role, "role", "", "the role that the code gives: "+strings.Join(directory.Roles, ", "))
			f.StringVar(&in.Tenant, "tenant", "", "for operators: the tenant whose first administrator is invited")
			f.StringVar(&in.Name, "name", "", "the person's alias; empty lets the person choose")
		},
		do: func(ctx context.Context, c *admin.Client, _ []string) (admin.Invite, error) {
			if !slices.Contains(directory.Roles, in.Role) {
				return admin.Invite{}, usageError("--role takes one of " + strings.Join(directory.Roles, ", "))
			}
			return c.Invite(ctx, in)
		},
		human: func(w io.Writer, i admin.Invite) {
			fmt.Fprintf(w, "%s\n\nGive this code to the person, by a way that you trust. It works once, until %s:\n  bulwark enrol %[1]s --api URL\n", i.Code, when(i.Expires))
		},
	}.run
}

// runEnrol makes a key on this machine, registers its public half with the
// code, and keeps the private half in a profile.
func runEnrol(ctx context.Context, c *call) error {
	var api, caFile, name, profileName string
	f := c.flags()
	f.StringVar(&api, "api", "", "URL of the API port, e.g. https://localhost:8444")
	f.StringVar(&caFile, "ca", "", "PEM file with the CA of the API's certificate; without it, the system's CAs")
	f.StringVar(&name, "name", "", "your alias, where the code does not fix it")
	f.StringVar(&profileName, "profile", defaultProfile, "name of the profile to make")
	args, err := c.parse(f, 1, 1)
	if err != nil {
		return err
	}
	if api == "" {
		return usageError("--api URL is needed, e.g. --api https://localhost:8444")
	}
	api = strings.TrimSuffix(api, "/")
	var ca []byte
	if caFile != "" {
		if ca, err = os.ReadFile(caFile); err != nil {
			return fault.Wrap(fault.Invalid, "the CA file cannot be read: "+caFile, err)
		}
	}
	if _, err := unusedProfile(profileName); err != nil {
		return err // before the code is used up
	}
	client, err := dial(api, ca)
	if err != nil {
		return err
	}
	key, private, public, err := newKeyPair()
	if err != nil {
		return err
	}
	issuer, err := discoverIssuer(ctx, client, api)
	if err != nil {
		return err
	}
	out, err := admin.NewClient(admin.ClientConfig{URL: api, HTTP: client}).Enrol(ctx, admin.Enrol{Code: args[0], Name: name, Key: public})
	if err != nil && name == "" && fault.KindOf(err) == fault.Invalid {
		return usageError("this code lets you choose your alias: give one with --name (" + fault.Public(err) + ")")
	}
	if err != nil {
		return err
	}
	p := &profile{API: api, Issuer: issuer, CA: string(ca), Tenant: out.Tenant, User: out.User, Key: private}
	path, err := p.write(profileName)
	if err != nil {
		return err
	}
	return c.show(map[string]string{"user": out.User, "tenant": out.Tenant, "kid": key.KID(), "profile": profileName}, func(w io.Writer) {
		fmt.Fprintf(w, "enrolled as %s (user:%s); the key is in %s\n", out.Name, out.User, path)
	})
}

func newKeyPair() (key jose.PrivateKey, private, public json.RawMessage, err error) {
	if key, err = jose.GenerateES256(); err != nil {
		return key, nil, nil, err
	}
	text, err := key.MarshalSecret()
	if err != nil {
		return key, nil, nil, err
	}
	public, err = key.Public().MarshalJSON()
	return key, text.Reveal(), public, err
}

func createUser() func(context.Context, *call) error {
	var in admin.NewUser
	return verb[admin.User]{
		as: "admin@acme", least: 1, most: 1,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&in.Connection, "connection", "", "the trusted issuer that vouches for the person")
			f.StringVar(&in.External, "external", "", "the person's subject there; never an e-mail address")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.User, error) {
			in.Name = args[0]
			return c.CreateUser(ctx, in)
		},
		human: func(w io.Writer, u admin.User) { fmt.Fprintf(w, "user %s is user:%s\n", u.Name, u.ID) },
	}.run
}

func listUsers() func(context.Context, *call) error {
	return list("admin@acme", "NAME ID STATE CREATED", (*admin.Client).Users, func(u admin.User) []string {
		return []string{u.Name, u.ID, u.State, when(u.Created)}
	})
}

func showUser() func(context.Context, *call) error {
	return verb[admin.User]{
		as: "admin@acme", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.User, error) {
			return c.User(ctx, args[0])
		},
		human: func(w io.Writer, u admin.User) {
			fmt.Fprintf(w, "%s  user:%s  %s  roles: %s\n", u.Name, u.ID, u.State, strings.Join(u.Roles, " "))
		},
	}.run
}

func assignRole() func(context.Context, *call) error {
	return verb[done]{
		as: "admin@acme", least: 2, most: 2,
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said(args[0]+" is now "+args[1], c.AssignRole(ctx, args[0], admin.Role{Role: args[1]}))
		},
		human: printDone,
	}.run
}

func unassignRole() func(context.Context, *call) error {
	return verb[done]{
		as: "admin@acme", least: 2, most: 2,
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said(args[0]+" is no longer "+args[1], c.RevokeRole(ctx, args[0], args[1]))
		},
		human: printDone,
	}.run
}
