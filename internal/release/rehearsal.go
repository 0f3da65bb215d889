package release

import (
	"context"
	"strings"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// Question is one recorded decision: who asked for what, of which store.
type Question struct {
	Store    relation.StoreID `json:"store"`
	Object   string           `json:"object"`
	Relation string           `json:"relation"`
	Subject  string           `json:"subject"`
	Context  bool             `json:"context,omitempty"` // the caller sent context or contextual tuples, which are not recorded
}

// Flip is a recorded question that the release answers otherwise than what is in
// force, both asked now.
type Flip struct {
	Question
	Before string `json:"before"` // allow, deny, or why there is no answer
	After  string `json:"after"`
	Count  int    `json:"count"` // how many recorded decisions asked it
}

// Orphan is a stored tuple that what is in force can use and the release cannot.
type Orphan struct {
	Store relation.StoreID `json:"store"`
	Tuple string           `json:"tuple"`
	Why   string           `json:"why"`
}

// Rehearsal is what a release would do to the stores that it is meant for.
type Rehearsal struct {
	Stores    int `json:"stores"`
	Tuples    int `json:"tuples"`    // that were looked at
	Orphans   int `json:"orphans"`   // tuples that count today and would not
	Decisions int `json:"decisions"` // recorded ones that were asked again
	Questions int `json:"questions"` // different ones among them
	Flips     int `json:"flips"`     // decisions that would be others
	Open      int `json:"open"`      // decisions that neither answers without what the caller sent then
}

// Found takes what a rehearsal finds, as it finds it: one of the two is set. Its
// error ends the rehearsal.
type Found func(*Orphan, *Flip) error

// Rehearse asks what a version would change, if it came into force for the
// stores: which tuples it would orphan, and which recorded decisions it would
// flip. decisions gives the recorded ones to yield, and those of other stores
// are passed over. Nothing is changed. Both are asked without the context that
// a request may have brought: where neither answers without, it is counted as
// open.
func (g *Registry) Rehearse(ctx context.Context, application string, v authz.Version, content authz.Content, stores []relation.StoreID,
	decisions func(yield func(Question)) error, found Found) (Rehearsal, error) {
	sum := Rehearsal{Stores: len(stores)}
	after, err := g.cfg.Engine.Stage(application, v, content)
	if err != nil {
		return sum, err
	}
	meant := map[relation.StoreID]bool{}
	for _, id := range stores {
		meant[id] = true
		err := g.cfg.Engine.Orphans(ctx, id, after, func(t relation.Tuple, why error) error {
			sum.Tuples++
			if why == nil {
				return nil
			}
			sum.Orphans++
			return found(&Orphan{id, t.String(), fault.Public(why)}, nil)
		})
		if err != nil {
			return sum, err
		}
	}
	counts := map[Question]int{}
	var order []Question
	err = decisions(func(q Question) {
		if !meant[q.Store] {
			return
		}
		sum.Decisions++
		if counts[q]++; counts[q] == 1 {
			order = append(order, q)
		}
	})
	if err != nil {
		return sum, err
	}
	sum.Questions = len(order)
	for _, q := range order {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		f := Flip{Question: q, Count: counts[q]}
		query := authz.Query{Store: q.Store, Object: q.Object, Relation: q.Relation, Subject: q.Subject}
		var openBefore, openAfter bool
		f.Before, openBefore = answer(g.cfg.Engine.Check(ctx, query))
		f.After, openAfter = answer(g.cfg.Engine.CheckStaged(ctx, query, after))
		switch {
		case openBefore && openAfter:
			sum.Open += f.Count
		case f.Before != f.After:
			sum.Flips += f.Count
			if err := found(nil, &f); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

// answer says an answer in a word, and whether it hangs on what was not recorded.
func answer(d authz.Decision, err error) (string, bool) {
	switch {
	case err != nil:
		return fault.Public(err), authz.Unanswered(err)
	case d.Allowed:
		return "allow", false
	}
	return "deny", false
}

// Recorded gives the questions that an event records to yield: one of a check or
// of an enforced decision, many of a batch. Contexts are not recorded; a question
// that came with one is marked.
func Recorded(ev *ledger.Event, yield func(Question)) {
	store := ev.Revision.Store
	if store == "" || ev.Class != ledger.Check && ev.Class != ledger.Allow && ev.Class != ledger.Deny {
		return
	}
	for item := range strings.FieldsSeq(ev.Detail["batch"]) {
		rest, context := strings.CutPrefix(item[1:], "~")
		object, rest, ok := strings.Cut(rest, "#")
		rel, subject, ok2 := strings.Cut(rest, "@")
		if ok && ok2 {
			yield(Question{Store: store, Object: object, Relation: rel, Subject: subject, Context: context})
		}
	}
	if ev.Resource == "" || ev.Relation == "" || ev.Decision == "" {
		return
	}
	q := Question{Store: store, Object: ev.Resource, Relation: ev.Relation, Subject: ev.Subject}
	if asked := ev.Detail["asked"]; asked != "" {
		q.Subject = asked
	}
	q.Context = ev.Detail["context"] != "" || ev.Detail["contextual"] != ""
	yield(q)
}
