package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/release"
	"bulwark.example/internal/trial"
)

// applied is what apply prints: what DIR describes, beside what is.
type applied struct {
	Applications []appliedApplication `json:"applications"`
	Services     []serviceChange      `json:"services"`
	Differs      bool                 `json:"differs"`         // what is in force is not what DIR describes
	Failed       int                  `json:"failed"`          // assertions of tests that do not hold
	Error        string               `json:"error,omitempty"` // why it ended after the steps above
}

type appliedApplication struct {
	Application string            `json:"application"`
	State       string            `json:"state"` // in_force, or of the release: new, proposed, approved, wave, active, refused
	Release     string            `json:"release,omitempty"`
	Diff        string            `json:"diff,omitempty"`
	Outcomes    []trial.Outcome   `json:"outcomes"`
	Sum         release.Rehearsal `json:"sum"`
	Orphans     []release.Orphan  `json:"orphans"`
	Flips       []release.Flip    `json:"flips"`
}

// serviceChange is one call that makes a service what DIR says.
type serviceChange struct {
	Service string `json:"service"`
	Change  string `json:"change"`
	do      func(context.Context) error
}

type applyOptions struct {
	dir, note, tenants          string
	plan, drift, markdown, full bool
	decisions                   int
}

func (o *applyOptions) flags(f *flag.FlagSet) {
	f.StringVar(&o.dir, "f", "", "folder with a "+manifestName+"")
	f.BoolVar(&o.plan, "plan", false, "change nothing: show what would change, with the tuples it orphans and the recorded decisions it flips")
	f.BoolVar(&o.drift, "drift", false, "with --plan: exit 1 also when what is in force differs from DIR")
	f.BoolVar(&o.markdown, "markdown", false, "print the plan as Markdown, for a pull request")
	f.BoolVar(&o.full, "full", false, "list every orphan and flip, not the first ones")
	f.IntVar(&o.decisions, "decisions", 100_000, "how many recorded decisions are asked again, the newest first")
	f.StringVar(&o.note, "note", "", "why, in one line, for who approves")
	waveTenants(f, &o.tenants)
}

// applyTime bounds one run of apply.
const applyTime = 15 * time.Minute

func runApply(ctx context.Context, c *call) error {
	var o applyOptions
	client, _, err := c.client("olga@platform", 0, 0, o.flags)
	if err != nil {
		return err
	}
	if o.dir == "" {
		return usageError("apply needs -f DIR, the folder with a " + manifestName)
	}
	dir, err := openDescribed(o.dir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.root.Close() }() // it was only read
	m, err := dir.manifest()
	if err != nil {
		return err
	}
	in, err := dir.releases(m, o.note)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	out, err := o.take(ctx, client, m, in, c.stderr)
	if err != nil {
		if !o.plan && len(out.Applications)+len(out.Services) > 0 {
			// Whoever repairs this has to know what is changed already.
			out.Error = fault.Public(err)
			_ = c.show(out, func(w io.Writer) { out.print(w, &o) }) // err says more
		}
		return err
	}
	if err := c.show(out, func(w io.Writer) { out.print(w, &o) }); err != nil {
		return err
	}
	if out.Failed > 0 || o.plan && o.drift && out.Differs {
		return errNo
	}
	return nil
}

// take takes the next steps, or plans them. With an error it returns those that it
// took before.
func (o *applyOptions) take(ctx context.Context, c *admin.Client, m *manifest, in map[string]admin.NewRelease, progress io.Writer) (applied, error) {
	out := applied{Applications: []appliedApplication{}, Services: []serviceChange{}}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		a, err := planApplication(ctx, c, name, in[name], o, progress)
		out.Differs = out.Differs || err == nil && a.State != "in_force"
		if err == nil && !o.plan {
			err = carryOut(ctx, c, &a, in[name], o)
		}
		if err != nil {
			return out, fault.Wrap(fault.KindOf(err), "application "+name+": "+fault.Public(err), err)
		}
		for _, t := range a.Outcomes {
			_, failed := t.Count()
			out.Failed += failed
		}
		out.Applications = append(out.Applications, a)
	}
	services, err := planServices(ctx, c, m.Services)
	if err != nil {
		return out, err
	}
	out.Differs = out.Differs || len(services) > 0
	for _, s := range services {
		if !o.plan {
			if err := s.do(ctx); err != nil {
				return out, fault.Wrap(fault.KindOf(err), "service "+s.Service+": "+s.Change+": "+fault.Public(err), err)
			}
		}
		out.Services = append(out.Services, s)
	}
	return out, nil
}

// planApplication rehearses what DIR says of an application.
func planApplication(ctx context.Context, c *admin.Client, name string, in admin.NewRelease, o *applyOptions, progress io.Writer) (appliedApplication, error) {
	a := appliedApplication{Application: name, State: "in_force", Orphans: []release.Orphan{}, Flips: []release.Flip{}}
	ask := admin.NewRehearsal{Proposal: &in, Tenants: splitList(o.tenants), Decisions: o.decisions}
	if !o.plan {
		ask.Decisions = 1 // the proposal's own rehearsal is --plan's
	}
	found, told := 0, time.Now()
	err := c.Rehearse(ctx, name, ask, func(f admin.Finding) error {
		switch {
		case f.Plan != nil:
			a.Release, a.Outcomes = f.Plan.Release, f.Plan.Outcomes
			a.Diff = draftDiff(f.Plan.Before, f.Plan.After)
			if f.Plan.Changes {
				a.State = "new"
			}
		case f.Orphan != nil:
			found++
			a.Orphans = append(a.Orphans, *f.Orphan)
		case f.Flip != nil:
			found++
			a.Flips = append(a.Flips, *f.Flip)
		case f.Sum != nil:
			a.Sum = *f.Sum
		}
		if time.Since(told) > time.Second {
			told = time.Now()
			fmt.Fprintf(progress, "%s: %d findings so far\n", name, found)
		}
		return nil
	})
	if err != nil || a.State == "in_force" {
		return a, err
	}
	known, err := all(func(p admin.Paging) (admin.Page[admin.Release], error) { return c.Releases(ctx, name, p) })
	for _, r := range known {
		if r.ID == a.Release {
			a.State = r.State
		}
	}
	return a, err
}

// carryOut takes the next step of a release: its proposal, or once a second
// person has approved it, its activation.
func carryOut(ctx context.Context, c *admin.Client, a *appliedApplication, in admin.NewRelease, o *applyOptions) error {
	tenants := splitList(o.tenants)
	switch a.State {
	case "new", "refused", "superseded":
		r, err := c.ProposeRelease(ctx, a.Application, in)
		if err != nil {
			return err
		}
		a.State, a.Release = r.State, r.ID
	case "approved", "wave":
		r, err := c.ActivateRelease(ctx, a.Application, a.Release, admin.Activation{Tenants: tenants})
		if err != nil {
			return err
		}
		a.State = r.State
	}
	return nil
}

// planServices compares the platform's services with what DIR says of them. All are
// made before any is granted another's audience.
func planServices(ctx context.Context, c *admin.Client, want []manifestService) ([]serviceChange, error) {
	out := []serviceChange{}
	if len(want) == 0 {
		return out, nil
	}
	have, err := all(func(p admin.Paging) (admin.Page[admin.Service], error) { return c.Services(ctx, p) })
	if err != nil {
		return nil, err
	}
	var grant []serviceChange
	for _, s := range want {
		i := slices.IndexFunc(have, func(h admin.Service) bool { return h.Name == s.Name })
		var grants []admin.Grant
		if i < 0 {
			out = append(out, serviceChange{s.Name, "create", func(ctx context.Context) error {
				_, err := c.CreateService(ctx, admin.NewService{Name: s.Name})
				return err
			}})
		} else if grants, err = all(func(p admin.Paging) (admin.Page[admin.Grant], error) { return c.Audiences(ctx, s.Name, p) }); err != nil {
			return nil, err
		}
		if s.Audiences != nil {
			grant = append(grant, planAudiences(c, s.Name, *s.Audiences, have, grants)...)
		}
	}
	return append(out, grant...), nil
}

func planAudiences(c *admin.Client, service string, want []manifestAudience, services []admin.Service, have []admin.Grant) (out []serviceChange) {
	// A grant's audience is a URN; the manifest may say the name of a service, or
	// of one of Bulwark's own surfaces, with which such a URN ends.
	named := func(g admin.Grant, name string) bool {
		return g.Audience == name || strings.HasSuffix(g.Audience, ":"+name) ||
			slices.ContainsFunc(services, func(x admin.Service) bool { return x.Name == name && x.Audience == g.Audience })
	}
	for _, g := range have {
		if !slices.ContainsFunc(want, func(w manifestAudience) bool { return named(g, w.Audience) }) {
			out = append(out, serviceChange{service, "take away audience " + g.Audience, func(ctx context.Context) error {
				return c.RevokeAudience(ctx, service, g.Audience)
			}})
		}
	}
	for _, w := range want {
		i := slices.IndexFunc(have, func(g admin.Grant) bool { return named(g, w.Audience) })
		if i >= 0 && have[i].Direct == w.Direct && slices.Equal(have[i].Scopes, w.Scopes) {
			continue
		}
		change := "grant audience " + w.Audience
		if i >= 0 {
			change = "change the grant of audience " + w.Audience
		}
		out = append(out, serviceChange{service, change, func(ctx context.Context) error {
			_, err := c.GrantAudience(ctx, service, admin.Grant{Audience: w.Audience, Scopes: w.Scopes, Direct: w.Direct})
			return err
		}})
	}
	return out
}

// shown is how many findings are listed unless all are asked for.
const shown = 20

func (p *applied) print(w io.Writer, o *applyOptions) {
	if o.markdown {
		p.printMarkdown(w, o)
		return
	}
	for i := range p.Applications {
		a := &p.Applications[i]
		fmt.Fprintf(w, "application %s: %s\n", a.Application, a.sentence())
		if a.State == "in_force" {
			continue
		}
		if a.Diff != "" {
			fmt.Fprintf(w, "\n%s\n", a.Diff)
		}
		printOutcomes(w, a.Outcomes)
		if o.plan {
			fmt.Fprintf(w, "%s\n", a.effect())
			for _, line := range a.findings(o) {
				fmt.Fprintln(w, "  "+line)
			}
		}
	}
	for _, s := range p.Services {
		fmt.Fprintf(w, "service %s: %s\n", s.Service, s.Change)
	}
}

// sentence says what is to do next.
func (a *appliedApplication) sentence() string {
	switch a.State {
	case "in_force":
		return "in force as described"
	case "new", "superseded", "refused":
		return "differs; apply proposes it as " + a.Release[:12]
	case "proposed":
		return "proposed; a second person approves with: bulwark release approve " + a.Release
	case "approved":
		return "approved; apply puts it in force"
	case "wave":
		return "in force for a wave of tenants; apply puts it in force for all"
	}
	return a.State
}

func (a *appliedApplication) effect() string {
	s := a.Sum
	text := fmt.Sprintf("%d tuples of %d stores looked at: %d would count for nothing. %d recorded decisions asked again: %d would flip",
		s.Tuples, s.Stores, s.Orphans, s.Decisions, s.Flips)
	if s.Open > 0 {
		text += fmt.Sprintf(", %d hang on a context that is not recorded", s.Open)
	}
	return text
}

func (a *appliedApplication) findings(o *applyOptions) (lines []string) {
	for i, x := range a.Orphans {
		if i == shown && !o.full {
			lines = append(lines, fmt.Sprintf("... %d more orphaned tuples (--full)", len(a.Orphans)-shown))
			break
		}
		lines = append(lines, fmt.Sprintf("orphan %s: %s", x.Tuple, x.Why))
	}
	for i, x := range a.Flips {
		if i == shown && !o.full {
			lines = append(lines, fmt.Sprintf("... %d more questions that flip (--full)", len(a.Flips)-shown))
			break
		}
		lines = append(lines, fmt.Sprintf("flip %s %s %s: %s, would be %s (%d times)", x.Subject, x.Relation, x.Object, x.Before, x.After, x.Count))
	}
	return lines
}

func (p *applied) printMarkdown(w io.Writer, o *applyOptions) {
	fmt.Fprintln(w, "## Bulwark plan")
	for i := range p.Applications {
		a := &p.Applications[i]
		fmt.Fprintf(w, "\n### %s: %s\n", a.Application, a.sentence())
		if a.State == "in_force" {
			continue
		}
		total, failed := 0, 0
		for _, t := range a.Outcomes {
			n, bad := t.Count()
			total, failed = total+n, failed+bad
		}
		fmt.Fprintf(w, "\n| | |\n|---|---|\n| digest | `%s` |\n| assertions | %d, of which %d fail |\n| orphaned tuples | %d of %d |\n| flipped decisions | %d of %d recorded |\n",
			a.Release, total, failed, a.Sum.Orphans, a.Sum.Tuples, a.Sum.Flips, a.Sum.Decisions)
		if lines := a.findings(o); len(lines) > 0 {
			fmt.Fprintf(w, "\n```\n%s\n```\n", fenced(strings.Join(lines, "\n")))
		}
		if a.Diff != "" {
			fmt.Fprintf(w, "\n```diff\n%s```\n", fenced(a.Diff))
		}
	}
	if len(p.Services) > 0 {
		fmt.Fprintln(w, "\n### Services")
		for _, s := range p.Services {
			fmt.Fprintf(w, "- `%s`: %s\n", s.Service, s.Change)
		}
	}
}

// fenced keeps a text from ending the block that it stands in.
func fenced(s string) string { return strings.ReplaceAll(s, "```", "` ` `") }
