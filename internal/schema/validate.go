package schema

import (
	"maps"
	"slices"
)

// validate applies the rules of OpenFGA's type system
// (pkg/typesystem of openfga/openfga, NewAndValidate) in a fixed order, so that
// one text always gives the same error. The Go version of the language package
// checks syntax and names only.
func (p *parser) validate() error {
	for _, typ := range p.types {
		for _, rel := range slices.Sorted(maps.Keys(p.defs[typ])) {
			d := p.defs[typ][rel]
			if err := p.validateRewrite(d, d.rewrite); err != nil {
				return err
			}
			if err := p.validateRestrictions(d); err != nil {
				return err
			}
		}
	}
	for _, typ := range p.types {
		if d := p.circular(typ); d != nil {
			return invalid(d.line, "%s#%s is defined by itself", typ, d.name)
		}
	}
	granted := p.grantable()
	for _, typ := range p.types {
		for _, rel := range slices.Sorted(maps.Keys(p.defs[typ])) {
			d := p.defs[typ][rel]
			if !granted[d] {
				return invalid(d.line, "%s#%s can never be granted: no tuple leads to it", typ, rel)
			}
		}
	}
	return nil
}

func (p *parser) validateRewrite(d *definition, r Rewrite) error {
	switch r.Op {
	case Computed:
		if r.Relation == d.name {
			return invalid(d.line, "%s#%s is defined by itself", d.typ, d.name)
		}
		if p.defs[d.typ][r.Relation] == nil {
			return invalid(d.line, "the type %s has no relation %s", d.typ, clip(r.Relation))
		}
	case FromTuple:
		set := p.defs[d.typ][r.Tupleset]
		if set == nil {
			return invalid(d.line, "the type %s has no relation %s", d.typ, clip(r.Tupleset))
		}
		if set.rewrite.Op != Direct {
			return invalid(d.line, "%s in '%s from %s' must be a direct relation and nothing else", clip(r.Tupleset), clip(r.Relation), clip(r.Tupleset))
		}
		found := false
		for _, allowed := range set.restrictions {
			if allowed.Relation != "" || allowed.Wildcard {
				return invalid(set.line, "%s#%s is used as 'from %s', so it accepts objects only and not %s", d.typ, set.name, set.name, allowed)
			}
			found = found || p.defs[allowed.Type][r.Relation] != nil
		}
		if !found {
			return invalid(d.line, "none of the types in %s#%s has a relation %s", d.typ, set.name, clip(r.Relation))
		}
	default:
		for _, operand := range r.Operands {
			if err := p.validateRewrite(d, operand); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *parser) validateRestrictions(d *definition) error {
	if has(d.rewrite, Direct) != (len(d.restrictions) > 0) {
		return invalid(d.line, "%s#%s needs the types that it accepts in brackets", d.typ, d.name)
	}
	for _, r := range d.restrictions {
		if p.defs[r.Type] == nil {
			return invalid(d.line, "the model has no type %s", clip(r.Type))
		}
		if r.Relation != "" && p.defs[r.Type][r.Relation] == nil {
			return invalid(d.line, "the type %s has no relation %s", r.Type, clip(r.Relation))
		}
		if r.Condition != "" && r.Condition != Inline && !slices.ContainsFunc(p.conditions, func(c Condition) bool { return c.Name == r.Condition }) {
			return invalid(d.line, "the model has no condition %s", clip(r.Condition))
		}
	}
	return nil
}

func has(r Rewrite, k Op) bool {
	return r.Op == k || slices.ContainsFunc(r.Operands, func(o Rewrite) bool { return has(o, k) })
}

// grantable returns the definitions that some set of tuples can grant to some
// object or wildcard: the least fixed point. Each one that joins wakes those
// that mention it.
func (p *parser) grantable() map[*definition]bool {
	mentioned := map[*definition][]*definition{}
	var waiting []*definition
	for _, relations := range p.defs {
		for _, d := range relations {
			waiting = append(waiting, d)
			p.mentions(d, d.rewrite, func(other *definition) { mentioned[other] = append(mentioned[other], d) })
		}
	}
	granted := map[*definition]bool{}
	for len(waiting) > 0 {
		d := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		if !granted[d] && p.grants(d, d.rewrite, granted) {
			granted[d] = true
			waiting = append(waiting, mentioned[d]...)
		}
	}
	return granted
}

// mentions calls f for each definition on which a grant of d may depend.
func (p *parser) mentions(d *definition, r Rewrite, f func(*definition)) {
	switch r.Op {
	case Direct:
		for _, a := range d.restrictions {
			if a.Relation != "" {
				f(p.defs[a.Type][a.Relation])
			}
		}
	case Computed:
		f(p.defs[d.typ][r.Relation])
	case FromTuple:
		for _, a := range p.defs[d.typ][r.Tupleset].restrictions {
			if next := p.defs[a.Type][r.Relation]; next != nil {
				f(next)
			}
		}
	}
	for _, operand := range r.Operands {
		p.mentions(d, operand, f)
	}
}

func (p *parser) grants(d *definition, r Rewrite, granted map[*definition]bool) bool {
	switch r.Op {
	case Direct:
		return slices.ContainsFunc(d.restrictions, func(a Restriction) bool {
			return a.Relation == "" || granted[p.defs[a.Type][a.Relation]]
		})
	case Computed:
		return granted[p.defs[d.typ][r.Relation]]
	case FromTuple:
		return slices.ContainsFunc(p.defs[d.typ][r.Tupleset].restrictions, func(a Restriction) bool {
			next := p.defs[a.Type][r.Relation]
			return next != nil && granted[next]
		})
	}
	grants := func(o Rewrite) bool { return p.grants(d, o, granted) }
	if r.Op == Union {
		return slices.ContainsFunc(r.Operands, grants)
	}
	// As OpenFGA does, also of an exclusion's second operand: what can never be
	// granted need not be subtracted.
	return !slices.ContainsFunc(r.Operands, func(o Rewrite) bool { return !grants(o) })
}

// circular returns a definition that a chain of computed relations leads back
// to; nil if there is none. The walk is depth first with the usual three colours.
func (p *parser) circular(typ string) *definition {
	const open, done = 1, 2
	colour := map[string]int{}
	var visit func(rel string) *definition
	var walk func(r Rewrite) *definition
	walk = func(r Rewrite) *definition {
		if r.Op == Computed {
			return visit(r.Relation)
		}
		for _, operand := range r.Operands {
			if d := walk(operand); d != nil {
				return d
			}
		}
		return nil
	}
	visit = func(rel string) *definition {
		switch colour[rel] {
		case open:
			return p.defs[typ][rel]
		case done:
			return nil
		}
		colour[rel] = open
		if d := walk(p.defs[typ][rel].rewrite); d != nil {
			return d
		}
		colour[rel] = done
		return nil
	}
	for _, rel := range slices.Sorted(maps.Keys(p.defs[typ])) {
		if d := visit(rel); d != nil {
			return d
		}
	}
	return nil
}
