package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	_ "time/tzdata" // policies name time zones; a container may have none

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
)

func policyCommands() []command {
	return []command{
		{"policy list", "[--application A]", "list the files of policies in force", listPolicies()},
	}
}

// application adds the flag that says whose policies they are.
func application(f *flag.FlagSet, name *string) {
	f.StringVar(name, "application", "", "name of the application; without it the only one")
}

// pick returns the named application, else the only one that there is.
func pick(ctx context.Context, c *admin.Client, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	self, err := c.Self(ctx)
	if err != nil {
		return "", err
	}
	if len(self.Tenant.Stores) != 1 {
		return "", fault.New(fault.Invalid, "name the application, with --application")
	}
	return self.Tenant.Stores[0].Application, nil
}

func listPolicies() func(context.Context, *call) error {
	return verb[admin.Policies]{
		as: "olga@platform",
		of: func(ctx context.Context, c *admin.Client, app string, _ []string) (admin.Policies, error) {
			return c.Policies(ctx, app)
		},
		human: func(w io.Writer, p admin.Policies) {
			if len(p.Files) == 0 {
				fmt.Fprintf(w, "%s has no policies\n", p.Application)
				return
			}
			fmt.Fprintf(w, "policies %s of %s, in force since %s\n\n", p.ID, p.Application, when(p.Created))
			table(w, "FILE BYTES", p.Files, func(f authz.PolicyFile) []string { return []string{f.Name, fmt.Sprint(len(f.Text))} })
			printClaims(w, p.Claims)
		},
	}.run
}

// printClaims lists what callers may claim, by the path where policies find it.
func printClaims(w io.Writer, c authz.Claims) {
	type claim struct{ path, kind string }
	var all []claim
	add := func(path string, kinds map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(kinds)) {
			all = append(all, claim{path + "." + name, kinds[name]})
		}
	}
	add("context.claimed", c.Context)
	for _, typ := range slices.Sorted(maps.Keys(c.Types)) {
		add(typ+".claimed", c.Types[typ])
	}
	if len(all) > 0 {
		fmt.Fprintln(w)
		table(w, "CLAIM KIND", all, func(c claim) []string { return []string{c.path, c.kind} })
	}
	fmt.Fprintf(w, "\ntime zone %s\n", cmp.Or(c.Zone, "UTC"))
}
