package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

func decisionCommands() []command {
	write := func(t relation.Tuple) admin.TupleChange { return admin.TupleChange{Writes: []relation.Tuple{t}} }
	remove := func(t relation.Tuple) admin.TupleChange { return admin.TupleChange{Deletes: []relation.Tuple{t}} }
	return []command{
		{"check", "SUBJECT RELATION OBJECT", "may the subject? exit 0 yes, 1 no", ask(printAnswer)},
		{"explain", "SUBJECT RELATION OBJECT", "the path of grants, or the branches that were tried", ask(printReason)},
		{"tuple write", "OBJECT RELATION SUBJECT", "grant: add a relation tuple", changeTuple(write)},
		{"tuple delete", "OBJECT RELATION SUBJECT", "take a relation tuple away", changeTuple(remove)},
		{"tuple read", "[--object O] [--relation R] [--subject S]", "list relation tuples", readTuples()},
		{"model publish", "FILE", "put a model (OpenFGA language) in force", publishModel()},
		{"model list", "", "list the versions of the model", listModels()},
		{"model show", "ID", "print one version", showModel()},
	}
}

// subjectName lets people write alice for user:@alice, the alias of a user.
func subjectName(s string) string {
	if strings.ContainsAny(s, ":#") {
		return s
	}
	return "user:@" + strings.TrimPrefix(s, "@")
}

func ask(human func(io.Writer, admin.Explained)) func(context.Context, *call) error {
	return verb[admin.Explained]{
		as: "admin@acme", least: 3, most: 3,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Explained, error) {
			return c.Explain(ctx, admin.Question{Subject: subjectName(args[0]), Relation: args[1], Object: args[2]})
		},
		human: human,
		no:    func(e admin.Explained) bool { return !e.Allowed },
	}.run
}

func printAnswer(w io.Writer, e admin.Explained) {
	fmt.Fprintln(w, map[bool]string{true: "yes", false: "no"}[e.Allowed])
}

func printReason(w io.Writer, e admin.Explained) {
	verdict := "ALLOW"
	if !e.Allowed {
		verdict = "DENY (" + e.Reason + ")"
	}
	_, drawing, _ := strings.Cut(e.Drawing, "\n") // its first line says what ours says
	fmt.Fprintf(w, "%s: %s %s %s\n%s\n\nconsistency token %s\n", verdict, e.Subject, e.Relation, e.Object, strings.TrimRight(drawing, "\n"), e.Revision)
}

func changeTuple(of func(relation.Tuple) admin.TupleChange) func(context.Context, *call) error {
	return verb[admin.TuplesChanged]{
		as: "admin@acme", least: 3, most: 3,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.TuplesChanged, error) {
			return c.WriteTuples(ctx, of(relation.Tuple{Object: args[0], Relation: args[1], Subject: subjectName(args[2])}))
		},
		human: func(w io.Writer, out admin.TuplesChanged) {
			for _, t := range out.Writes {
				fmt.Fprintln(w, "written", t)
			}
			for _, t := range out.Deletes {
				fmt.Fprintln(w, "deleted", t)
			}
		},
	}.run
}

func readTuples() func(context.Context, *call) error {
	var filter admin.TupleFilter
	return verb[[]relation.Tuple]{
		as: "admin@acme",
		flags: func(f *flag.FlagSet) {
			f.StringVar(&filter.Object, "object", "", "type:id, or a type with its colon")
			f.StringVar(&filter.Relation, "relation", "", "name of a relation")
			f.StringVar(&filter.Subject, "subject", "", "type:id, or a type with its colon")
		},
		do: func(ctx context.Context, c *admin.Client, _ []string) ([]relation.Tuple, error) {
			return all(func(p admin.Paging) (admin.Page[relation.Tuple], error) { return c.Tuples(ctx, filter, p) })
		},
		human: func(w io.Writer, items []relation.Tuple) {
			table(w, "OBJECT RELATION SUBJECT", items, func(t relation.Tuple) []string { return []string{t.Object, t.Relation, t.Subject} })
		},
	}.run
}

func publishModel() func(context.Context, *call) error {
	return verb[admin.Model]{
		as: "olga@platform", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Model, error) {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return admin.Model{}, fault.Wrap(fault.Invalid, "the model cannot be read: "+args[0], err)
			}
			return c.PublishModel(ctx, admin.NewModel{DSL: string(text)})
		},
		human: func(w io.Writer, m admin.Model) { fmt.Fprintf(w, "model %s of %s is in force\n", m.ID, m.Application) },
	}.run
}

func listModels() func(context.Context, *call) error {
	return verb[[]admin.Model]{
		as: "olga@platform",
		do: func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Model, error) {
			return all(func(p admin.Paging) (admin.Page[admin.Model], error) { return c.Models(ctx, p) })
		},
		human: func(w io.Writer, items []admin.Model) {
			table(w, "ID APPLICATION ACTIVE CREATED", items, func(m admin.Model) []string {
				return []string{m.ID, m.Application, fmt.Sprint(m.Active), when(m.Created)}
			})
		},
	}.run
}

func showModel() func(context.Context, *call) error {
	return verb[admin.Model]{
		as: "olga@platform", least: 1, most: 1,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Model, error) {
			return c.Model(ctx, args[0])
		},
		human: func(w io.Writer, m admin.Model) { fmt.Fprint(w, m.DSL) },
	}.run
}
