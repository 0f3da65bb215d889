package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/aymanbagabas/go-udiff"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/release"
	"bulwark.example/internal/trial"
)

func releaseCommands() []command {
	return []command{
		{"apply", "-f DIR [--plan] [--tenants T,...]", "propose what DIR describes; once it is approved, put it in force", runApply},
		{"release list", "[--application A]", "list proposed changes of what decides, the newest first", listReleases()},
		{"release show", "ID [--application A]", "show what a release changes, and how its tests go", showRelease()},
		{"release approve", "DIGEST [--application A]", "sign a change that another person proposed", sayOfRelease((*admin.Client).ApproveRelease)},
		{"release refuse", "DIGEST [--application A]", "end a proposal, or withdraw an own one", sayOfRelease((*admin.Client).RefuseRelease)},
		{"release activate", "ID [--application A] [--tenants T,...]", "put an approved release in force, for some tenants first or for all", activateRelease()},
		{"release rollback", "[--application A]", "end a wave, or bring back what was in force before, at once", rollBack()},
	}
}

func listReleases() func(context.Context, *call) error {
	return verb[[]admin.Release]{
		as: "olga@platform",
		of: func(ctx context.Context, c *admin.Client, app string, _ []string) ([]admin.Release, error) {
			return all(func(p admin.Paging) (admin.Page[admin.Release], error) { return c.Releases(ctx, app, p) })
		},
		human: func(w io.Writer, items []admin.Release) {
			table(w, "ID STATE PROPOSED BY NOTE", items, func(r admin.Release) []string {
				return []string{r.ID[:12], r.State, when(r.Proposed.At), r.Proposed.By, cmp.Or(r.Note, "-")}
			})
		},
	}.run
}

func showRelease() func(context.Context, *call) error {
	return verb[admin.Release]{
		as: "olga@platform", least: 1, most: 1,
		of: func(ctx context.Context, c *admin.Client, app string, args []string) (admin.Release, error) {
			return c.Release(ctx, app, args[0])
		},
		human: func(w io.Writer, r admin.Release) {
			printRelease(w, r)
			fmt.Fprintln(w)
			_, _ = io.WriteString(w, draftDiff(*r.Before, *r.After)) // the terminal may be gone
			fmt.Fprintln(w)
			printOutcomes(w, r.Outcomes)
		},
	}.run
}

func printRelease(w io.Writer, r admin.Release) {
	fmt.Fprintf(w, "release %s\nof %s: %s\n", r.ID, r.Application, r.State)
	for _, m := range []struct {
		what string
		mark release.Mark
	}{{"proposed", r.Proposed}, {"approved", r.Approved}, {"refused", r.Refused}} {
		if m.mark.By != "" {
			fmt.Fprintf(w, "%s by %s at %s\n", m.what, m.mark.By, when(m.mark.At))
		}
	}
	if r.Note != "" {
		fmt.Fprintln(w, "note:", r.Note)
	}
}

// draftDiff shows all that differs between two versions as a unified diff.
func draftDiff(before, after admin.ReleaseDraft) string {
	var b strings.Builder
	part := func(name, old, now string) {
		b.WriteString(udiff.Unified("before/"+name, "after/"+name, old, now))
	}
	part("model.fga", before.Model, after.Model)
	seen := map[string]bool{}
	for _, list := range [][2]admin.ReleaseDraft{{before, after}, {after, before}} {
		for _, f := range list[0].Policies {
			if !seen[f.Name] {
				seen[f.Name] = true
				part("policies/"+f.Name, policyText(before, f.Name), policyText(after, f.Name))
			}
		}
	}
	part("claims.json", indented(before.Claims), indented(after.Claims))
	part("roles.json", indented(before.Roles), indented(after.Roles))
	part("routes.json", indented(before.Routes), indented(after.Routes))
	part("tests.json", indented(before.Tests), indented(after.Tests))
	return b.String()
}

func policyText(d admin.ReleaseDraft, name string) string {
	for _, f := range d.Policies {
		if f.Name == name {
			return f.Text
		}
	}
	return ""
}

func indented(v any) string {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil || string(raw) == "{}" || string(raw) == "null" {
		return ""
	}
	return string(raw) + "\n"
}

func printOutcomes(w io.Writer, all []trial.Outcome) {
	for _, o := range all {
		printOutcome(w, o.Name, o)
	}
}

// sayOfRelease is an approval or a refusal, which a second person says.
func sayOfRelease(say func(*admin.Client, context.Context, string, string) (admin.Release, error)) func(context.Context, *call) error {
	return verb[admin.Release]{
		as: "oscar@platform", least: 1, most: 1,
		of: func(ctx context.Context, c *admin.Client, app string, args []string) (admin.Release, error) {
			return say(c, ctx, app, args[0])
		},
		human: func(w io.Writer, r admin.Release) { printRelease(w, r) },
	}.run
}

// waveTenants is the flag of a wave.
func waveTenants(f *flag.FlagSet, tenants *string) {
	f.StringVar(tenants, "tenants", "", "names of tenants, with commas: a wave for them alone; without it for all")
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func activateRelease() func(context.Context, *call) error {
	var tenants string
	return verb[admin.Release]{
		as: "olga@platform", least: 1, most: 1,
		flags: func(f *flag.FlagSet) { waveTenants(f, &tenants) },
		of: func(ctx context.Context, c *admin.Client, app string, args []string) (admin.Release, error) {
			return c.ActivateRelease(ctx, app, args[0], admin.Activation{Tenants: splitList(tenants)})
		},
		human: func(w io.Writer, r admin.Release) { printRelease(w, r) },
	}.run
}

func rollBack() func(context.Context, *call) error {
	return verb[admin.Application]{
		as: "olga@platform",
		of: func(ctx context.Context, c *admin.Client, app string, _ []string) (admin.Application, error) {
			return c.RollBack(ctx, app)
		},
		human: func(w io.Writer, a admin.Application) {
			fmt.Fprintf(w, "in force in %s: model %s, policies %s\n", a.Name, a.Current.ModelID, cmp.Or(a.Current.PoliciesID, "none"))
		},
	}.run
}
