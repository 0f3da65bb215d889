package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

func roleCommands() []command {
	return []command{
		{"role list", "[OBJECT]", "list the roles that can be assigned on objects", listRoles()},
		{"role assign", "NAME OBJECT SUBJECT [--expires 1h]", "give a subject a role on an object", assignment("assigned", (*admin.Client).Assign)},
		{"role revoke", "NAME OBJECT SUBJECT", "take a role on an object from a subject", assignment("revoked", (*admin.Client).Unassign)},
		{"role who", "OBJECT [NAME]", "list who was assigned which role on an object", listAssignments()},
		{"role define", "TYPE NAME RELATION...", "make a role of the own tenant, of relations that the operator offers", defineRole()},
		{"role delete", "TYPE NAME", "remove a role of the own tenant; what was assigned stays", deleteRole()},
		{"policy publish", "FILE... [--application A]", "put the own tenant's guard policies (Cedar) in force beside the operator's, in the place of those before", publishPolicies()},
		{"policy own", "[--application A]", "print the own tenant's guard policies in force", ownPolicies()},
		{"policy remove", "[--application A]", "leave the application without guard policies of the own tenant", removePolicies()},
	}
}

func listRoles() func(context.Context, *call) error {
	var app, typ string
	return verb[admin.ObjectRoles]{
		as: "admin@acme", most: 1,
		flags: func(f *flag.FlagSet) { application(f, &app) },
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.ObjectRoles, error) {
			if len(args) == 1 {
				typ, _, _ = relation.SplitObject(args[0])
			}
			out, err := c.ObjectRoles(ctx, app)
			if typ != "" {
				out = rolesOf(out, typ)
			}
			return out, err
		},
		human: func(w io.Writer, r admin.ObjectRoles) {
			table(w, "TYPE NAME RELATIONS WHOSE DESCRIPTION", r.Roles, func(r admin.ObjectRole) []string {
				whose := "the application's"
				if r.Own {
					whose = "the tenant's own"
				}
				return []string{r.Type, r.Name, strings.Join(r.Relations, " "), whose, cmp.Or(r.Description, "-")}
			})
			for _, x := range r.Exclusive {
				fmt.Fprintf(w, "\n%s: nobody may hold two of %s on one %s", x.Name, strings.Join(x.Relations, ", "), x.Type)
			}
			if len(r.Exclusive) > 0 {
				fmt.Fprintln(w)
			}
		},
	}.run
}

// rolesOf leaves what is about objects of the type.
func rolesOf(all admin.ObjectRoles, typ string) admin.ObjectRoles {
	out := admin.ObjectRoles{Roles: []admin.ObjectRole{}, Exclusive: []authz.Exclusive{}, Custom: map[string][]string{}}
	for _, r := range all.Roles {
		if r.Type == typ {
			out.Roles = append(out.Roles, r)
		}
	}
	for _, x := range all.Exclusive {
		if x.Type == typ {
			out.Exclusive = append(out.Exclusive, x)
		}
	}
	if list := all.Custom[typ]; list != nil {
		out.Custom[typ] = list
	}
	return out
}

func assignment(word string, do func(*admin.Client, context.Context, admin.Assignment) (admin.Assignment, error)) func(context.Context, *call) error {
	var a admin.Assignment
	return verb[admin.Assignment]{
		as: "admin@acme", least: 3, most: 3,
		flags: func(f *flag.FlagSet) {
			application(f, &a.Application)
			if word == "assigned" {
				f.Func("expires", "when the assignment ends: a time (RFC 3339), or how long from now, e.g. 1h", ending(&a.Expires))
			}
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Assignment, error) {
			a.Role, a.Object, a.Subject = args[0], args[1], subjectName(args[2])
			return do(c, ctx, a)
		},
		human: func(w io.Writer, a admin.Assignment) {
			text := word + " " + a.Role + " on " + a.Object + ": " + a.Subject
			if !a.Expires.IsZero() {
				text += " until " + when(a.Expires)
			}
			fmt.Fprintln(w, text)
		},
	}.run
}

func listAssignments() func(context.Context, *call) error {
	var app string
	return verb[[]admin.Assignment]{
		as: "admin@acme", least: 1, most: 2,
		flags: func(f *flag.FlagSet) { application(f, &app) },
		do: func(ctx context.Context, c *admin.Client, args []string) ([]admin.Assignment, error) {
			name := ""
			if len(args) == 2 {
				name = args[1]
			}
			return all(func(p admin.Paging) (admin.Page[admin.Assignment], error) {
				return c.Assignments(ctx, app, args[0], name, p)
			})
		},
		human: func(w io.Writer, items []admin.Assignment) {
			table(w, "SUBJECT ROLE EXPIRES", items, func(a admin.Assignment) []string { return []string{a.Subject, a.Role, when(a.Expires)} })
		},
	}.run
}

func defineRole() func(context.Context, *call) error {
	var in admin.NewObjectRole
	return verb[admin.ObjectRole]{
		as: "admin@acme", least: 3, most: -1,
		flags: func(f *flag.FlagSet) {
			application(f, &in.Application)
			f.StringVar(&in.Description, "description", "", "what the role is for")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.ObjectRole, error) {
			in.Relations = args[2:]
			return c.DefineObjectRole(ctx, args[0], args[1], in)
		},
		human: func(w io.Writer, r admin.ObjectRole) {
			fmt.Fprintf(w, "role %s on objects of the type %s: %s\n", r.Name, r.Type, strings.Join(r.Relations, " "))
		},
	}.run
}

func deleteRole() func(context.Context, *call) error {
	var app string
	return verb[done]{
		as: "admin@acme", least: 2, most: 2,
		flags: func(f *flag.FlagSet) { application(f, &app) },
		do: func(ctx context.Context, c *admin.Client, args []string) (done, error) {
			return said("deleted the role "+args[1], c.DeleteObjectRole(ctx, app, args[0], args[1]))
		},
		human: printDone,
	}.run
}

func publishPolicies() func(context.Context, *call) error {
	return verb[admin.OwnPolicies]{
		as: "admin@acme", least: 1, most: -1,
		of: func(ctx context.Context, c *admin.Client, app string, args []string) (admin.OwnPolicies, error) {
			files := []authz.PolicyFile{}
			for _, path := range args {
				text, err := os.ReadFile(path)
				if err != nil {
					return admin.OwnPolicies{}, fault.Wrap(fault.Invalid, "the policies cannot be read: "+path, err)
				}
				files = append(files, authz.PolicyFile{Name: filepath.Base(path), Text: string(text)})
			}
			return c.PublishOwnPolicies(ctx, app, files)
		},
		human: func(w io.Writer, p admin.OwnPolicies) {
			fmt.Fprintf(w, "the tenant's own policies %s are in force\n", p.ID)
		},
	}.run
}

func ownPolicies() func(context.Context, *call) error {
	return verb[admin.OwnPolicies]{
		as: "admin@acme",
		of: func(ctx context.Context, c *admin.Client, app string, _ []string) (admin.OwnPolicies, error) {
			return c.OwnPolicies(ctx, app)
		},
		human: func(w io.Writer, p admin.OwnPolicies) {
			for _, f := range p.Files {
				fmt.Fprintf(w, "// %s\n%s\n", f.Name, strings.TrimRight(f.Text, "\n"))
			}
			if len(p.Files) == 0 {
				fmt.Fprintln(w, "the tenant has no policies of its own")
			}
		},
	}.run
}

func removePolicies() func(context.Context, *call) error {
	return verb[admin.OwnPolicies]{
		as: "admin@acme",
		of: func(ctx context.Context, c *admin.Client, app string, _ []string) (admin.OwnPolicies, error) {
			return c.PublishOwnPolicies(ctx, app, []authz.PolicyFile{})
		},
		human: func(w io.Writer, _ admin.OwnPolicies) {
			fmt.Fprintln(w, "the tenant has no policies of its own any more")
		},
	}.run
}
