package authz

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// Trace says why a decision is what it is. It holds ids of objects, relations
// and subjects and what conditions read, and has a JSON form for machines,
// [Trace.String] for people.
type Trace struct {
	Store    relation.StoreID `json:"store"`
	Revision uint64           `json:"revision"`
	Model    string           `json:"model"`
	Object   string           `json:"object"`
	Relation string           `json:"relation"`
	Subject  string           `json:"user"`
	Allowed  bool             `json:"allowed"`
	Path     []Grant          `json:"path,omitempty"`     // of an allow: from the question to the subject
	Tried    *Branch          `json:"tried,omitempty"`    // of a deny
	Omitted  int              `json:"omitted,omitempty"`  // branches left out of Tried for their number
	Policies []Decisive       `json:"policies,omitempty"` // guard policies that had a part; a forbid beats the path
	Overlap  *Overlap         `json:"overlap,omitempty"`  // roles that exclude each other; they beat the path, too
}

// Grant is one hop of an allow: whoever holds what Tuple's subject side says,
// holds Relation on Object.
type Grant struct {
	Object     string         `json:"object"`
	Relation   string         `json:"relation"`
	Includes   []string       `json:"includes,omitempty"` // the relations that Relation takes over, down to the one that grants
	Reason     Reason         `json:"reason"`
	Tuple      relation.Tuple `json:"tuple,omitzero"`       // none when the reason is "itself", "all" or "except"
	Contextual bool           `json:"contextual,omitempty"` // the tuple came with the question
	Inputs     map[string]any `json:"inputs,omitempty"`     // what the tuple's condition read
	Operands   []Operand      `json:"operands,omitempty"`   // of "all" and "except"
}

// Operand is one side of an "and" or "but not".
type Operand struct {
	Allowed bool    `json:"allowed"`
	Path    []Grant `json:"path,omitempty"`
	Tried   *Branch `json:"tried,omitempty"`
}

// Branch is one object and relation that a deny asked.
type Branch struct {
	Object   string `json:"object"`
	Relation string `json:"relation"`
	Tries    []Try  `json:"tries"`
}

// Try is one way in which a branch could have granted, and why it did not.
type Try struct {
	Includes []string  `json:"includes,omitempty"`
	From     string    `json:"from,omitempty"` // the tupleset, of "Asked from From"
	Asked    string    `json:"asked,omitempty"`
	Reason   Reason    `json:"reason"`
	Tuples   int       `json:"tuples,omitempty"` // tuples that stand there
	Guarded  []Guarded `json:"guarded,omitempty"`
	Operands []Operand `json:"operands,omitempty"`
	Branches []Branch  `json:"branches,omitempty"`
}

// Guarded is a condition, or an expiry, for which tuples did not count.
type Guarded struct {
	Condition string         `json:"condition,omitempty"` // "" for an expiry alone
	Inputs    map[string]any `json:"inputs,omitempty"`
	Reason    Reason         `json:"reason"` // "not_met", "not_known" or "expired"
	Tuples    int            `json:"tuples"`
}

// Reason is a code of a closed set, the constants below.
type Reason string

// Reasons of a [Grant], of a [Try], then of [Guarded].
const (
	reasonTuple    Reason = "tuple"    // the tuple names the subject
	reasonEveryone Reason = "everyone" // the tuple names everyone of the subject's type
	reasonUserset  Reason = "userset"  // the next grant shows membership
	reasonParent   Reason = "parent"   // the next grant is on the object that the tuple names
	reasonItself   Reason = "itself"   // the subject asked is this very userset
	reasonAll      Reason = "all"      // every operand grants
	reasonExcept   Reason = "except"   // the first operand grants, the second does not

	reasonNoTuple       Reason = "no_tuple"       // nothing stands there
	reasonOtherSubjects Reason = "other_subjects" // tuples stand there, none for the subject
	reasonFollowed      Reason = "followed"       // the branches below were asked
	reasonTriedAlready  Reason = "tried_already"  // leads only to what was asked elsewhere
	reasonNotAll        Reason = "not_all"        // an operand of "and" does not grant
	reasonExcluded      Reason = "excluded"       // the second operand of "but not" grants, or the first does not
	reasonNotCounted    Reason = "not_counted"    // tuples stand there that do not count, for what Guarded says

	reasonNotMet   Reason = "not_met"   // the condition is false
	reasonNotKnown Reason = "not_known" // the condition cannot be evaluated
	reasonExpired  Reason = "expired"
)

// maxNotes bounds the tries of one trace.
const maxNotes = 200

// tracer spells what a search left in its frame. It asks operands again, which
// is why the evaluator's level must be above the frame's.
type tracer struct {
	ev      *evaluator
	q       *Query
	notes   int
	omitted int
}

// trace is kept apart so that q escapes to the heap only when it is called for.
func (ev *evaluator) trace(asked *Query, d *Decision, f *frame) *Trace {
	q := *asked
	t := &Trace{
		Store: q.Store, Revision: d.Revision.Rev, Model: d.Model, Allowed: d.Allowed,
		Object: q.Object, Relation: q.Relation, Subject: q.Subject,
	}
	w := &tracer{ev: ev, q: &q}
	o := w.operand(d.Allowed, f)
	t.Path, t.Tried, t.Omitted = o.Path, o.Tried, w.omitted
	return t
}

// operand spells the search that the evaluator made last, in f.
func (w *tracer) operand(allowed bool, f *frame) Operand {
	w.ev.level++
	defer func() { w.ev.level-- }()
	o := Operand{Allowed: allowed}
	if allowed {
		o.Path = w.path(f)
	} else {
		b := w.tried(f)
		o.Tried = &b
	}
	return o
}

// operands asks an operator's operands again; nil if the trace is full.
func (w *tracer) operands(op *operator, object uint32) []Operand {
	if w.notes++; w.notes > maxNotes || w.ev.level > maxNested {
		w.omitted++
		return nil
	}
	var out []Operand
	for n, program := range op.operands {
		o := w.again(question{object, program, false})
		out = append(out, o)
		if !o.Allowed && n == 0 && op.except {
			break // nothing to subtract from
		}
	}
	return out
}

func (w *tracer) again(q question) Operand {
	if x := w.ev.fix; x != nil {
		before := x.below
		defer func() { x.below = before }()
		if x.value[q] == yes {
			x.below = x.rank[q]
		}
	}
	v, f := w.ev.search(q.object, q.prog, false)
	return w.operand(v == yes, f)
}

// chain spells the relations between the program's own and an include.
func (p *program) chain(n int) []string {
	var out []string
	for ; n > 0 || n == 0 && p.name == ""; n = p.includes[n].by {
		out = append(out, p.includes[n].name)
	}
	slices.Reverse(out)
	return out
}

func (p *program) operator(step int) *operator {
	i := slices.IndexFunc(p.operators, func(o operator) bool { return int(o.step) == step })
	return &p.operators[i]
}

// objectName returns the entity's name; the question's object when no tuple has it.
func (w *tracer) objectName(id uint32) string {
	if id == 0 {
		return w.q.Object
	}
	return w.ev.name(id)
}

// path spells the grants from the root to the frame's.
func (w *tracer) path(f *frame) []Grant {
	g := f.grant
	it := f.queue[g.item]
	last := Grant{Object: w.objectName(it.object), Relation: it.prog.name}
	if g.how == byItself {
		last.Reason, last.Includes = reasonItself, it.prog.chain(g.step)
	} else {
		st := &it.prog.steps[g.step]
		last.Includes = it.prog.chain(st.include)
		switch g.how {
		case byOperator:
			op := it.prog.operator(g.step)
			if last.Reason = reasonAll; op.except {
				last.Reason = reasonExcept
			}
			// The frame is no longer needed: asking again takes the levels above it.
			last.Operands = w.operands(op, it.object)
		case byEveryone:
			typ, _, _ := relation.SplitObject(w.q.Subject)
			w.stand(&last, reasonEveryone, st, typ+":*", g.caveat)
		default:
			w.stand(&last, reasonTuple, st, w.q.Subject, g.caveat)
		}
	}
	grants := []Grant{last}
	for i := g.item; f.queue[i].parent >= 0; i = int(f.queue[i].parent) {
		child, at := f.queue[i], f.queue[f.queue[i].parent]
		st := &at.prog.steps[child.step]
		hop := Grant{Object: w.objectName(at.object), Relation: at.prog.name, Includes: at.prog.chain(st.include)}
		if subject := w.objectName(child.object); st.op == schema.Direct {
			w.stand(&hop, reasonUserset, st, subject+"#"+child.prog.name, 0)
		} else {
			w.stand(&hop, reasonParent, st, subject, 0)
		}
		grants = append(grants, hop)
	}
	slices.Reverse(grants)
	return grants
}

// stand completes a grant with its tuple, looked up for what guards it.
func (w *tracer) stand(g *Grant, reason Reason, st *step, subject string, _ uint32) {
	g.Reason = reason
	g.Tuple = relation.Tuple{Object: g.Object, Relation: st.relName, Subject: subject}
	if w.ev.over != nil {
		g.Contextual = slices.ContainsFunc(w.q.Contextual, func(t relation.Tuple) bool { return t.Key() == g.Tuple })
	}
	object, _ := relation.SplitSubject(subject)
	word := w.ev.find(object)
	key := w.ev.model.key(st, subject)
	words, caveats := w.ev.out(w.ev.find(g.Object)).group(key | guarded)
	if n, ok := place(words, word); ok {
		c := w.ev.caveat(caveats[n])
		g.Tuple.Condition, g.Tuple.Context, g.Tuple.Expires = c.condition, c.context, c.expires
		g.Inputs = w.inputs(c)
	}
}

// key returns the key of a step's tuple with the subject.
func (b *bound) key(st *step, subject string) uint32 {
	object, rel := relation.SplitSubject(subject)
	name, id, _ := relation.SplitObject(object)
	typ := b.types[name]
	switch {
	case rel != "":
		return edgeKey(st.rel, typ.programs[rel].userset)
	case id == everyone:
		return edgeKey(st.rel, typ.anybody)
	}
	return edgeKey(st.rel, typ.object)
}

func (w *tracer) inputs(c *caveat) map[string]any {
	if c.condition == "" {
		return nil
	}
	compiled, err := w.ev.model.condition(c)
	if err != nil {
		return nil
	}
	return compiled.Inputs(w.ev.asked, c.stored)
}

// tried spells everything that a search visited, as a tree.
func (w *tracer) tried(f *frame) Branch {
	queue := slices.Clone(f.queue) // operands are asked again meanwhile
	children := map[[2]int][]int{}
	for i := 1; i < len(queue); i++ {
		at := [2]int{int(queue[i].parent), int(queue[i].step)}
		children[at] = append(children[at], i)
	}
	var spell func(i int) Branch
	spell = func(i int) Branch {
		p := queue[i].prog
		b := Branch{Object: w.objectName(queue[i].object), Relation: p.name, Tries: []Try{}}
		for n := range p.steps {
			if w.notes++; w.notes > maxNotes {
				w.omitted++
				continue
			}
			below := children[[2]int{i, n}]
			t := w.try(queue[i].object, p, n, len(below) > 0)
			for _, c := range below {
				if w.notes >= maxNotes {
					w.omitted += len(queue[c].prog.steps)
					continue
				}
				t.Branches = append(t.Branches, spell(c))
			}
			b.Tries = append(b.Tries, t)
		}
		return b
	}
	return spell(0)
}

// try says why one step of a program did not grant on the object.
func (w *tracer) try(object uint32, p *program, n int, followed bool) Try {
	st := &p.steps[n]
	t := Try{Includes: p.chain(st.include)}
	if st.op == schema.All || st.op == schema.Except {
		op := p.operator(n)
		if t.Reason = reasonNotAll; op.except {
			t.Reason = reasonExcluded
		}
		t.Operands = w.operands(op, object)
		return t
	}
	if st.op == schema.FromTuple {
		t.From, t.Asked = st.relName, st.asked
	}
	for i, nd := 0, w.ev.out(object); i < len(nd); {
		key, words, caveats, after := nd.next(i)
		i = after
		if keyRelation(key) != st.rel {
			continue
		}
		t.Tuples += len(words)
		for _, c := range caveats {
			w.note(&t, w.ev.caveat(c))
		}
	}
	switch {
	case t.Tuples == 0:
		t.Reason = reasonNoTuple
	case followed:
		t.Reason = reasonFollowed
	case len(t.Guarded) > 0:
		t.Reason = reasonNotCounted
	case st.op == schema.FromTuple:
		t.Reason = reasonTriedAlready
	default:
		t.Reason = reasonOtherSubjects
	}
	return t
}

// maxGuarded bounds the different conditions that one try names.
const maxGuarded = 5

func (w *tracer) note(t *Try, c *caveat) {
	g := Guarded{Condition: c.condition, Reason: reasonNotMet, Tuples: 1}
	switch w.ev.holds(c) {
	case yes:
		return
	case unknown:
		g.Reason = reasonNotKnown
	default:
		if c.expires != 0 && c.expires <= w.ev.at {
			g = Guarded{Reason: reasonExpired, Tuples: 1}
		}
	}
	for i := range t.Guarded {
		if t.Guarded[i].Condition == g.Condition && t.Guarded[i].Reason == g.Reason {
			t.Guarded[i].Tuples++
			return
		}
	}
	if len(t.Guarded) < maxGuarded {
		if g.Condition != "" {
			g.Inputs = w.inputs(c)
		}
		t.Guarded = append(t.Guarded, g)
	}
}

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
