package authz

import (
	"fmt"
	"slices"
	"strings"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// Trace says why a decision is what it is. It holds ids of objects, relations
// and subjects only, and has a JSON form for machines, [Trace.String] for people.
type Trace struct {
	Store    relation.StoreID `json:"store"`
	Revision uint64           `json:"revision"`
	Model    string           `json:"model"`
	Object   string           `json:"object"`
	Relation string           `json:"relation"`
	Subject  string           `json:"user"`
	Allowed  bool             `json:"allowed"`
	Path     []Grant          `json:"path,omitempty"`    // of an allow: from the question to the subject
	Tried    *Branch          `json:"tried,omitempty"`   // of a deny
	Omitted  int              `json:"omitted,omitempty"` // branches left out of Tried for their number
}

// Grant is one hop of an allow: whoever holds what Tuple's subject side says,
// holds Relation on Object.
type Grant struct {
	Object   string         `json:"object"`
	Relation string         `json:"relation"`
	Includes []string       `json:"includes,omitempty"` // the relations that Relation takes over, down to the one that grants
	Reason   Reason         `json:"reason"`
	Tuple    relation.Tuple `json:"tuple,omitzero"` // none when the reason is [Itself]
}

// Branch is one object and relation that a deny asked.
type Branch struct {
	Object   string `json:"object"`
	Relation string `json:"relation"`
	Tries    []Try  `json:"tries"`
}

// Try is one way in which a branch could have granted, and why it did not.
type Try struct {
	Includes []string `json:"includes,omitempty"`
	From     string   `json:"from,omitempty"` // the tupleset, of "Asked from From"
	Asked    string   `json:"asked,omitempty"`
	Reason   Reason   `json:"reason"`
	Tuples   int      `json:"tuples,omitempty"` // tuples that stand there
	Branches []Branch `json:"branches,omitempty"`
}

// Reason is a code of a closed set.
type Reason string

// Reasons of a [Grant], then of a [Try].
const (
	ByTuple    Reason = "tuple"    // the tuple names the subject
	ByEveryone Reason = "everyone" // the tuple names everyone of the subject's type
	ByUserset  Reason = "userset"  // the next grant shows membership
	ByParent   Reason = "parent"   // the next grant is on the object that the tuple names
	Itself     Reason = "itself"   // the subject asked is this very userset

	NoTuple       Reason = "no_tuple"       // nothing stands there
	OtherSubjects Reason = "other_subjects" // tuples stand there, none for the subject
	Followed      Reason = "followed"       // the branches below were asked
	TriedAlready  Reason = "tried_already"  // leads only to what was asked elsewhere
)

// maxNotes bounds the tries of one trace.
const maxNotes = 200

// recorder collects what the evaluator tries.
type recorder struct {
	notes   []note
	omitted int
}

type note struct{ item, step, led, tuples int }

func (r *recorder) note(ev *evaluator, at, n int, own edges, led int) {
	if len(r.notes) >= maxNotes {
		r.omitted++
		return
	}
	st := &ev.queue[at].prog.steps[n]
	tuples := 0
	own.all(func(key, _ uint32) bool {
		if keyRelation(key) == st.rel {
			tuples++
		}
		return true
	})
	r.notes = append(r.notes, note{at, n, led, tuples})
}

// chain spells the relations between the program's own and an include.
func (p *program) chain(n int) []string {
	var out []string
	for ; n > 0; n = p.includes[n].by {
		out = append(out, p.includes[n].name)
	}
	slices.Reverse(out)
	return out
}

// objectOf returns the item's object; the question's own at the root, which the
// graph may not know.
func (ev *evaluator) objectOf(i int, q *Query) string {
	if i == 0 {
		return q.Object
	}
	return ev.snap.name(ev.queue[i].object)
}

// path spells the grants from the root to g.
func (ev *evaluator) path(g grant, q *Query) []Grant {
	it := ev.queue[g.item]
	last := Grant{Object: ev.objectOf(g.item, q), Relation: it.prog.name}
	switch g.how {
	case byItself:
		last.Reason, last.Includes = Itself, it.prog.chain(g.include)
	default:
		st := &it.prog.steps[g.step]
		last.Reason, last.Includes = ByTuple, it.prog.chain(st.include)
		last.Tuple = relation.Tuple{Object: last.Object, Relation: st.relName, Subject: q.Subject}
		if g.how == byEveryone {
			typ, _, _ := relation.SplitObject(q.Subject)
			last.Reason, last.Tuple.Subject = ByEveryone, typ+":*"
		}
	}
	grants := []Grant{last}
	for i := g.item; ev.queue[i].parent >= 0; i = int(ev.queue[i].parent) {
		child, at := ev.queue[i], int(ev.queue[i].parent)
		p := ev.queue[at].prog
		st := &p.steps[child.step]
		object := ev.objectOf(at, q)
		t := relation.Tuple{Object: object, Relation: st.relName, Subject: ev.objectOf(i, q)}
		reason := ByParent
		if st.op == schema.Direct {
			reason = ByUserset
			t.Subject += "#" + child.prog.name
		}
		grants = append(grants, Grant{object, p.name, p.chain(st.include), reason, t})
	}
	slices.Reverse(grants)
	return grants
}

// tried spells the recorded notes as a tree.
func (ev *evaluator) tried(q *Query) *Branch {
	tries := map[int][]note{}
	for _, n := range ev.rec.notes {
		tries[n.item] = append(tries[n.item], n)
	}
	children := map[[2]int][]int{}
	for i := 1; i < len(ev.queue); i++ {
		at := [2]int{int(ev.queue[i].parent), int(ev.queue[i].step)}
		children[at] = append(children[at], i)
	}
	var spell func(i int) Branch
	spell = func(i int) Branch {
		p := ev.queue[i].prog
		b := Branch{Object: ev.objectOf(i, q), Relation: p.name, Tries: []Try{}}
		for _, n := range tries[i] {
			st := &p.steps[n.step]
			t := Try{Includes: p.chain(st.include), Tuples: n.tuples}
			if st.op == schema.FromTuple {
				t.From, t.Asked = st.relName, st.hops[0].next.name
			}
			switch {
			case n.tuples == 0:
				t.Reason = NoTuple
			case n.led > 0:
				t.Reason = Followed
			case st.op == schema.FromTuple:
				t.Reason = TriedAlready
			default:
				t.Reason = OtherSubjects
			}
			for _, c := range children[[2]int{i, n.step}] {
				if len(tries[c]) > 0 {
					t.Branches = append(t.Branches, spell(c))
				}
			}
			b.Tries = append(b.Tries, t)
		}
		return b
	}
	b := spell(0)
	return &b
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
	indent := ""
	for i, g := range t.Path {
		line := g.Object + "#" + g.Relation
		if len(g.Includes) > 0 {
			line += "  ⊇ " + strings.Join(g.Includes, " ⊇ ")
		}
		fmt.Fprintln(&b, indent+line)
		end := ""
		if i == len(t.Path)-1 {
			end = "  ✓"
		}
		if g.Reason == Itself {
			fmt.Fprintf(&b, "%s└─ is %s itself%s\n", indent, t.Subject, end)
		} else {
			fmt.Fprintf(&b, "%s└─ %s%s\n", indent, g.Tuple, end)
		}
		indent += "   "
	}
	if t.Tried != nil {
		t.Tried.draw(&b, "", t.Subject)
	}
	if t.Omitted > 0 {
		fmt.Fprintf(&b, "… %d more tries are not shown\n", t.Omitted)
	}
	return b.String()
}

func (br *Branch) draw(b *strings.Builder, indent, subject string) {
	fmt.Fprintf(b, "%s%s#%s\n", indent, br.Object, br.Relation)
	for i, t := range br.Tries {
		arm, below := "├─ ", "│  "
		if i == len(br.Tries)-1 {
			arm, below = "└─ ", "   "
		}
		fmt.Fprintf(b, "%s%s%s: %s\n", indent, arm, t.label(br.Relation), t.because(subject))
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
	case NoTuple:
		return "no tuple"
	case TriedAlready:
		return count + ", nothing there that is not tried elsewhere"
	case Followed:
		if t.From != "" {
			return count
		}
		return count + ", none names " + subject + "; in the groups:"
	}
	return count + ", none names " + subject
}
