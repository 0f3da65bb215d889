package authzen

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
)

// What an event holds of questions beside its own fields, in bytes: an event
// has a size ([ledger.MaxEvent]).
const (
	maxRecorded = 10 << 10 // questions of a batch
	maxTrace    = 6 << 10
)

// decision is the answer to one evaluation.
type decision struct {
	Decision bool    `json:"decision"`
	Context  grounds `json:"context"`
}

// grounds are what a decision says beside itself.
type grounds struct {
	Reason   string       `json:"reason"`
	Revision string       `json:"revision"`
	Error    *problem     `json:"error,omitempty"`
	Trace    *authz.Trace `json:"trace,omitempty"`
}

// problem is why an evaluation among others has no answer.
type problem struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

// reason is the code of an answer.
func reason(allowed bool) string {
	if allowed {
		return "relation"
	}
	return "no_relation"
}

// query makes a question one for the engine.
func (c *call) query(q question) (out authz.Query, err error) {
	out = authz.Query{Store: c.store.ID, Explain: c.explain}
	if out.Subject, err = subjectOf(q.subject); err != nil {
		return out, err
	}
	if out.Relation, err = actionOf(q.action); err != nil {
		return out, err
	}
	if out.Object, err = resourceOf(q.resource); err != nil {
		return out, err
	}
	out.Context, err = q.attributes()
	return out, err
}

func evaluation(ctx context.Context, c *call, m members) (any, error) {
	q, err := m.question("")
	if err != nil {
		return nil, err
	}
	return c.evaluate(ctx, q)
}

func (c *call) evaluate(ctx context.Context, asked question) (any, error) {
	q, err := c.query(asked)
	if err != nil {
		return nil, err
	}
	c.asking(q.Object, q.Relation, q.Subject, q.Context)
	d, err := c.api.Authz.Check(ctx, q)
	if err != nil {
		return nil, c.wrong(err)
	}
	c.tell(d.Revision, d.Model)
	e := &c.record.Event
	e.Decision, e.Reason = "deny", reason(d.Allowed)
	if d.Allowed {
		e.Decision = "allow"
	}
	if d.Trace != nil {
		raw, err := json.Marshal(d.Trace)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "a trace does not encode", err)
		}
		if e.Detail["trace"] = string(raw); len(raw) > maxTrace {
			e.Detail["trace"] = "omitted"
		}
	}
	return decision{d.Allowed, grounds{Reason: reason(d.Allowed), Revision: c.api.Authz.Token(d.Revision), Trace: d.Trace}}, nil
}

func evaluations(ctx context.Context, c *call, m members) (any, error) {
	b, err := m.boxcar()
	if err != nil {
		return nil, err
	}
	if len(b.items) == 0 {
		return c.evaluate(ctx, b.defaults)
	}
	c.asking("", "", "", nil)
	answers := make([]outcome, len(b.items))
	var queries []authz.Query
	var at []int // of the queries among the items
	for i, item := range b.items {
		if answers[i].asked, answers[i].err = c.query(item); answers[i].err == nil {
			queries, at = append(queries, answers[i].asked), append(at, i)
		}
	}
	// All at once even where the first denial ends it: one revision for all is
	// worth more than the few questions that are then asked for nothing.
	rev, model, err := c.api.Authz.CheckBatch(ctx, c.store.ID, "", queries, func(n int, d authz.Decision, err error) {
		answers[at[n]].Decision, answers[at[n]].err = d, err
	})
	if err != nil {
		return nil, c.wrong(err)
	}
	c.tell(rev, model)
	for i, o := range answers {
		if b.semantics == stopAtDeny && !o.Allowed || b.semantics == stopAtAllow && o.Allowed {
			answers = answers[:i+1]
			break
		}
	}
	c.recordAll(answers)
	token := c.api.Authz.Token(rev)
	out := make([]decision, len(answers))
	for i := range answers {
		out[i] = answers[i].spell(token)
	}
	return struct {
		Evaluations []decision `json:"evaluations"`
	}{out}, nil
}

// outcome is what became of one evaluation among others.
type outcome struct {
	asked authz.Query
	authz.Decision
	err error
}

func (o *outcome) spell(revision string) decision {
	if o.err != nil {
		return decision{false, grounds{Reason: fault.KindOf(o.err).String(), Revision: revision, Error: &problem{statusOf(o.err), fault.Public(o.err)}}}
	}
	return decision{o.Allowed, grounds{Reason: reason(o.Allowed), Revision: revision, Trace: o.Trace}}
}

// recordAll writes into the event what a replay needs of each evaluation that was
// answered, separated by spaces, which no name holds: "+" allowed, "-" denied or
// "!" no answer, then "~" if it brought attributes along, and the question, none
// for what is no question.
func (c *call) recordAll(answers []outcome) {
	var named strings.Builder
	var allowed, denied, failures, unnamed int
	for i := range answers {
		o, mark := &answers[i], "-"
		switch {
		case o.err != nil:
			failures++
			mark = "!"
		case o.Allowed:
			allowed++
			mark = "+"
		default:
			denied++
		}
		if o.asked.Context != nil {
			mark += "~"
		}
		text := mark
		if q := &o.asked; q.Object != "" { // the last of the three names that a query gets
			text += q.Object + "#" + q.Relation + "@" + q.Subject
		}
		if named.Len()+len(text) >= maxRecorded {
			unnamed++
			continue
		}
		if i > 0 {
			named.WriteByte(' ')
		}
		named.WriteString(text)
	}
	e := &c.record.Event
	e.Decision, e.Reason = "", "batch"
	e.Detail["batch"] = named.String()
	for name, n := range map[string]int{"allowed": allowed, "denied": denied, "failed": failures} {
		e.Detail[name] = strconv.Itoa(n)
	}
	if unnamed > 0 {
		c.note("unnamed", unnamed)
	}
	if c.explain {
		e.Detail["trace"] = "omitted"
	}
}
