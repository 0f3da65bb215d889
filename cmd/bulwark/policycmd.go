package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // policies name time zones; a container may have none

	"go.yaml.in/yaml/v3"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
)

func policyCommands() []command {
	return []command{
		{"policy publish", "FILE... [--application A] [--claims FILE]", "put guard policies (Cedar) in force, in the place of all that are", publishPolicies()},
		{"policy list", "[--application A]", "list the files of policies in force", listPolicies()},
		{"policy remove", "[--application A]", "leave the application without guard policies", removePolicies()},
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

func publishPolicies() func(context.Context, *call) error {
	var app, claims string
	return verb[admin.Policies]{
		as: "olga@platform", least: 1, most: -1,
		flags: func(f *flag.FlagSet) {
			application(f, &app)
			f.StringVar(&claims, "claims", "", "YAML or JSON file that declares what callers may claim: context, types, principals, zone")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (out admin.Policies, err error) {
			var in admin.NewPolicies
			for _, path := range args {
				text, err := os.ReadFile(path)
				if err != nil {
					return out, fault.Wrap(fault.Invalid, "the policies cannot be read: "+path, err)
				}
				in.Files = append(in.Files, authz.PolicyFile{Name: filepath.Base(path), Text: string(text)})
			}
			if claims != "" {
				if in.Claims, err = readClaims(claims); err != nil {
					return out, err
				}
			}
			if app, err = pick(ctx, c, app); err != nil {
				return out, err
			}
			return c.PublishPolicies(ctx, app, in)
		},
		human: func(w io.Writer, p admin.Policies) {
			fmt.Fprintf(w, "policies %s of %s are in force\n", p.ID, p.Application)
		},
	}.run
}

// readClaims reads a file of YAML, which JSON is too.
func readClaims(path string) (authz.Claims, error) {
	var c authz.Claims
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fault.Wrap(fault.Invalid, "the claims cannot be read: "+path, err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err = dec.Decode(&c)
	if err == nil && dec.Decode(new(any)) != io.EOF {
		err = errors.New("there is more than one document")
	}
	if err != nil {
		return authz.Claims{}, fault.Wrap(fault.Invalid, "the claims in "+path+" are not like context: {ticket: string}: "+strings.Join(strings.Fields(err.Error()), " "), err)
	}
	return c, nil
}

func listPolicies() func(context.Context, *call) error {
	var app string
	return verb[admin.Policies]{
		as:    "olga@platform",
		flags: func(f *flag.FlagSet) { application(f, &app) },
		do: func(ctx context.Context, c *admin.Client, _ []string) (out admin.Policies, err error) {
			if app, err = pick(ctx, c, app); err != nil {
				return out, err
			}
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

func removePolicies() func(context.Context, *call) error {
	var app string
	return verb[admin.Policies]{
		as:    "olga@platform",
		flags: func(f *flag.FlagSet) { application(f, &app) },
		do: func(ctx context.Context, c *admin.Client, _ []string) (out admin.Policies, err error) {
			if app, err = pick(ctx, c, app); err != nil {
				return out, err
			}
			return c.PublishPolicies(ctx, app, admin.NewPolicies{Files: []authz.PolicyFile{}})
		},
		human: func(w io.Writer, p admin.Policies) { fmt.Fprintf(w, "%s has no policies any more\n", p.Application) },
	}.run
}
