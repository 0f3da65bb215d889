package authz

import (
	"errors"

	"bulwark.example/internal/condition"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
)

// caveat returns a caveat of the graph, or of a contextual tuple.
func (ev *evaluator) caveat(id uint32) *caveat {
	if id >= contextualCaveat {
		return &ev.over.guards[id-contextualCaveat]
	}
	return ev.snap.guards.get(id)
}

// holds returns the value of a caveat. A condition that fails to evaluate is
// unknown, whatever the failure: an error is never an allow.
func (ev *evaluator) holds(c *caveat) truth {
	if c.expires != 0 {
		if ev.at == 0 {
			ev.at = ev.now().UnixNano()
		}
		if ev.at >= c.expires {
			return no
		}
	}
	if c.condition == "" || ev.generous {
		return yes
	}
	ok, err := ev.evaluate(c)
	switch {
	case err != nil && !ev.model.fits(c):
		return no // written under another model: as if it were not there, as in OpenFGA
	case err != nil:
		if ev.cause == nil {
			ev.cause = fault.Wrap(fault.Invalid, "the condition "+clip(c.condition)+" cannot be evaluated: "+fault.Public(err), errors.Join(ErrCondition, err))
		}
		return unknown
	case ok:
		return yes
	}
	return no
}

func (ev *evaluator) evaluate(c *caveat) (bool, error) {
	compiled, err := ev.model.condition(c)
	if err != nil {
		return false, err
	}
	return compiled.Eval(ev.ctx, ev.asked, c.stored)
}

// fits reports whether the stored context is one that the model's condition takes.
func (b *bound) fits(c *caveat) bool {
	compiled, err := b.condition(c)
	return err == nil && compiled.Check(c.stored) == nil
}

// inline compiles the tuple's own condition, once: it takes a hundred times as
// long as to evaluate it.
func (c *caveat) inline() (*condition.Condition, error) {
	if known := c.own.Load(); known != nil {
		return known, nil
	}
	compiled, err := condition.Inline(c.stored)
	if err == nil {
		c.own.Store(compiled)
	}
	return compiled, err
}

// condition returns the compiled condition of a caveat.
func (b *bound) condition(c *caveat) (*condition.Condition, error) {
	if c.condition == schema.Inline {
		return c.inline()
	}
	compiled := b.conditions[c.condition]
	if compiled == nil {
		return nil, fault.New(fault.Invalid, "the model has no such condition")
	}
	return compiled, nil
}
