package authz

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"bulwark.example/internal/relation"
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
	Tuple      tracedTuple    `json:"tuple,omitzero"`       // none when the reason is "itself", "all" or "except"
	Contextual bool           `json:"contextual,omitempty"` // the tuple came with the question
	Inputs     map[string]any `json:"inputs,omitempty"`     // what the tuple's condition read
	Operands   []Operand      `json:"operands,omitempty"`   // of "all" and "except"
}

// tracedTuple is a tuple that has the JSON form of the APIs: its end as a time of
// RFC 3339, its context as an object.
type tracedTuple struct{ relation.Tuple }

// tupleText takes the place of members of a tuple.
type tupleText struct {
	*relation.Tuple
	Context json.RawMessage `json:"context,omitempty"`
	Expires time.Time       `json:"expires,omitzero"`
}

func (t tracedTuple) MarshalJSON() ([]byte, error) {
	out := tupleText{Tuple: &t.Tuple, Context: json.RawMessage(t.Context)}
	if t.Expires != 0 {
		out.Expires = time.Unix(0, t.Expires).UTC()
	}
	return json.Marshal(out)
}

func (t *tracedTuple) UnmarshalJSON(raw []byte) error {
	*t = tracedTuple{}
	in := tupleText{Tuple: &t.Tuple}
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	if !in.Expires.IsZero() {
		t.Expires = in.Expires.UnixNano()
	}
	var b bytes.Buffer
	if len(in.Context) > 0 {
		if err := json.Compact(&b, in.Context); err != nil {
			return err
		}
	}
	t.Context = b.String()
	return nil
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
