package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"bulwark.example/internal/api/admin"
)

func decisionCommands() []command {
	return []command{
		{"check", "SUBJECT RELATION OBJECT", "may the subject? exit 0 yes, 1 no", ask(printAnswer)},
		{"explain", "SUBJECT RELATION OBJECT", "the path of grants, or the branches that were tried", ask(printReason)},
		{"tuple write", "OBJECT RELATION SUBJECT", "grant: add a relation tuple", writeTuple()},
		{"tuple delete", "OBJECT RELATION SUBJECT", "take a relation tuple away", deleteTuple()},
		{"tuple read", "[--object O] [--relation R] [--subject S]", "list relation tuples", readTuples()},
		{"model test", "FILE...", "run model tests (.fga.yaml) without a server: exit 0 all hold, 1 not", runModelTest},
		{"model validate", "FILE", "look at a model without publishing it: exit 0 good, 1 bad", runModelValidate},
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
	var q admin.Question
	return verb[admin.Explained]{
		as: "admin@acme", least: 3, most: 3,
		flags: func(f *flag.FlagSet) {
			f.Func("context", "a JSON object that conditions read", object(&q.Context))
			f.Func("contextual", "a tuple, object#relation@subject, that counts for this question; may be repeated", func(s string) error {
				t, err := parseTuple(s)
				q.Contextual = append(q.Contextual, t)
				return err
			})
			f.StringVar(&q.Model, "model", "", "id of the version to answer by; without it the one in force")
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.Explained, error) {
			q.Subject, q.Relation, q.Object = subjectName(args[0]), args[1], args[2]
			return c.Explain(ctx, q)
		},
		human: human,
		no:    func(e admin.Explained) bool { return !e.Allowed },
	}.run
}

// object reads a flag whose value is a JSON object.
func object(into *map[string]any) func(string) error {
	return func(s string) error {
		if json.Unmarshal([]byte(s), into) != nil || *into == nil {
			return errors.New("not a JSON object")
		}
		return nil
	}
}

// parseTuple reads object#relation@subject. An object has no '#' and a relation
// no '@'.
func parseTuple(s string) (admin.Tuple, error) {
	object, rest, ok := strings.Cut(s, "#")
	rel, subject, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 {
		return admin.Tuple{}, errors.New("not object#relation@subject")
	}
	return admin.Tuple{Object: object, Relation: rel, Subject: subjectName(subject)}, nil
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

func writeTuple() func(context.Context, *call) error {
	var t admin.Tuple
	return verb[admin.TuplesChanged]{
		as: "admin@acme", least: 3, most: 3,
		flags: func(f *flag.FlagSet) {
			f.Func("expires", "when the grant ends: a time (RFC 3339), or how long from now, e.g. 1h", ending(&t.Expires))
			f.StringVar(&t.Condition, "condition", "", "name of the model's condition under which the grant counts")
			f.Func("context", "a JSON object: values of the condition's parameters", object(&t.Context))
		},
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.TuplesChanged, error) {
			t.Object, t.Relation, t.Subject = args[0], args[1], subjectName(args[2])
			return c.WriteTuples(ctx, admin.TupleChange{Writes: []admin.Tuple{t}})
		},
		human: printChange,
	}.run
}

// ending reads when a grant ends.
func ending(t *time.Time) func(string) error {
	return func(s string) (err error) {
		if *t, err = time.Parse(time.RFC3339, s); err == nil {
			return nil
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New("neither a time like 2026-01-31T12:00:00Z nor a duration like 1h")
		}
		*t = time.Now().Add(d).UTC()
		return nil
	}
}

func deleteTuple() func(context.Context, *call) error {
	return verb[admin.TuplesChanged]{
		as: "admin@acme", least: 3, most: 3,
		do: func(ctx context.Context, c *admin.Client, args []string) (admin.TuplesChanged, error) {
			return c.WriteTuples(ctx, admin.TupleChange{Deletes: []admin.Tuple{{Object: args[0], Relation: args[1], Subject: subjectName(args[2])}}})
		},
		human: printChange,
	}.run
}

func printChange(w io.Writer, out admin.TuplesChanged) {
	for _, t := range out.Writes {
		text := t.String()
		if t.Condition != "" {
			text += " with " + t.Condition
		}
		if !t.Expires.IsZero() {
			text += " until " + when(t.Expires)
		}
		fmt.Fprintln(w, "written", text)
	}
	for _, t := range out.Deletes {
		fmt.Fprintln(w, "deleted", t)
	}
}

func readTuples() func(context.Context, *call) error {
	var filter admin.TupleFilter
	return verb[[]admin.Tuple]{
		as: "admin@acme",
		flags: func(f *flag.FlagSet) {
			f.StringVar(&filter.Object, "object", "", "type:id, or a type with its colon")
			f.StringVar(&filter.Relation, "relation", "", "name of a relation")
			f.StringVar(&filter.Subject, "subject", "", "type:id, or a type with its colon")
		},
		do: func(ctx context.Context, c *admin.Client, _ []string) ([]admin.Tuple, error) {
			return all(func(p admin.Paging) (admin.Page[admin.Tuple], error) { return c.Tuples(ctx, filter, p) })
		},
		human: func(w io.Writer, items []admin.Tuple) {
			table(w, "OBJECT RELATION SUBJECT CONDITION EXPIRES", items, func(t admin.Tuple) []string {
				return []string{t.Object, t.Relation, t.Subject, cmp.Or(t.Condition, "-"), when(t.Expires)}
			})
		},
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
