package authz

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// String draws the trace as a tree, one line for each fact.
func (t *Trace) String() string {
	var b strings.Builder
	verdict := "deny"
	if t.Allowed {
		verdict = "allow"
	}
	fmt.Fprintf(&b, "%s  %s  %s  %s\n", verdict, t.Subject, t.Relation, t.Object)
	fmt.Fprintf(&b, "revision %d, model %s\n\n", t.Revision, t.Model)
	drawPath(&b, "", t.Path, t.Subject)
	if t.Tried != nil {
		t.Tried.draw(&b, "", t.Subject)
	}
	for _, p := range t.Policies {
		line := "policy " + p.Policy + " applies: " + p.Effect
		if p.Tenant {
			line = "the tenant's own " + line
		}
		if p.Error != "" {
			line += " (it could not be evaluated: " + p.Error + ")"
		}
		fmt.Fprintln(&b, line)
	}
	if o := t.Overlap; o != nil {
		fmt.Fprintf(&b, "roles exclude each other (%s): %s holds %s and %s\n", o.Set, o.Subject, o.Relations[0], o.Relations[1])
		for _, p := range o.Paths {
			drawPath(&b, "   ", p, t.Subject)
		}
	}
	if t.Omitted > 0 {
		fmt.Fprintf(&b, "… %d more tries are not shown\n", t.Omitted)
	}
	return b.String()
}

func drawPath(b *strings.Builder, indent string, path []Grant, subject string) {
	for i, g := range path {
		line := title(g.Object, g.Relation)
		if len(g.Includes) > 0 {
			line += "  ⊇ " + strings.Join(g.Includes, " ⊇ ")
		}
		fmt.Fprintln(b, indent+line)
		end := ""
		if i == len(path)-1 {
			end = "  ✓"
		}
		switch g.Reason {
		case reasonItself:
			fmt.Fprintf(b, "%s└─ is %s itself%s\n", indent, subject, end)
		case reasonAll, reasonExcept:
			fmt.Fprintf(b, "%s└─ %s%s\n", indent, operatorText(g.Reason), end)
			drawOperands(b, indent+"   ", g.Operands, subject)
		default:
			fmt.Fprintf(b, "%s└─ %s%s%s\n", indent, g.Tuple, g.guard(), end)
		}
		indent += "   "
	}
}

// title names what was asked; an operand has no name of its own.
func title(object, rel string) string {
	if rel == "" {
		return object
	}
	return object + "#" + rel
}

func operatorText(r Reason) string {
	if r == reasonAll || r == reasonNotAll {
		return "all of:"
	}
	return "the first but not the second of:"
}

func drawOperands(b *strings.Builder, indent string, operands []Operand, subject string) {
	for i, o := range operands {
		verdict := "no"
		if o.Allowed {
			verdict = "yes"
		}
		fmt.Fprintf(b, "%s%d. %s\n", indent, i+1, verdict)
		drawPath(b, indent+"   ", o.Path, subject)
		if o.Tried != nil {
			o.Tried.draw(b, indent+"   ", subject)
		}
	}
}

func (g *Grant) guard() string {
	s := ""
	if g.Contextual {
		s += "  (contextual)"
	}
	if g.Tuple.Condition != "" {
		s += "  with " + g.Tuple.Condition + inputText(g.Inputs)
	}
	if g.Tuple.Expires != 0 {
		s += "  until " + time.Unix(0, g.Tuple.Expires).UTC().Format(time.RFC3339)
	}
	return s
}

func inputText(inputs map[string]any) string {
	raw, err := json.Marshal(inputs)
	if err != nil || len(inputs) == 0 {
		return ""
	}
	return " " + string(raw)
}

func (br *Branch) draw(b *strings.Builder, indent, subject string) {
	fmt.Fprintln(b, indent+title(br.Object, br.Relation))
	for i, t := range br.Tries {
		arm, below := "├─ ", "│  "
		if i == len(br.Tries)-1 {
			arm, below = "└─ ", "   "
		}
		fmt.Fprintf(b, "%s%s%s: %s\n", indent, arm, t.label(br.Relation), t.because(subject))
		drawOperands(b, indent+below, t.Operands, subject)
		for _, g := range t.Guarded {
			fmt.Fprintf(b, "%s%s%s\n", indent+below, g.text(), inputText(g.Inputs))
		}
		for j := range t.Branches {
			t.Branches[j].draw(b, indent+below, subject)
		}
	}
}

// label names the way: "owner from parent", or the relations down to the one
// whose tuples were read.
func (t *Try) label(rel string) string {
	switch {
	case t.From != "":
		return t.Asked + " from " + t.From
	case len(t.Includes) > 0:
		return strings.Join(t.Includes, " ⊇ ")
	}
	return rel
}

func (t *Try) because(subject string) string {
	count := fmt.Sprintf("%d tuples", t.Tuples)
	if t.Tuples == 1 {
		count = "1 tuple"
	}
	switch t.Reason {
	case reasonNotAll, reasonExcluded:
		return operatorText(t.Reason)
	case reasonNoTuple:
		return "no tuple"
	case reasonNotCounted:
		return count + ", but:"
	case reasonTriedAlready:
		return count + ", nothing there that is not tried elsewhere"
	case reasonFollowed:
		if t.From != "" {
			return count
		}
		return count + ", none names " + subject + "; in the groups:"
	}
	return count + ", none names " + subject
}

func (g *Guarded) text() string {
	count := fmt.Sprintf("%d of them", g.Tuples)
	switch g.Reason {
	case reasonExpired:
		return count + " expired"
	case reasonNotKnown:
		return count + " with " + g.Condition + ", which cannot be evaluated"
	}
	return count + " with " + g.Condition + ", which is false"
}
