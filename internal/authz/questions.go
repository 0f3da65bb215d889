package authz

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// What a wrong question is wrong about: doors have codes of their own for these.
// All have kind [fault.Invalid].
var (
	ErrNoType     = errors.New("no such type")
	ErrNoRelation = errors.New("no such relation")
	ErrNoModel    = errors.New("no such model")
	ErrTuple      = errors.New("a tuple that the model does not allow")
	ErrCondition  = errors.New("a condition that cannot be evaluated")
	ErrCursor     = errors.New("not a cursor of this listing")
	ErrCursorType = errors.New("a cursor of changes of another type") // an [ErrCursor] too
)

func noType(what, typ string) error {
	return fault.Wrap(fault.Invalid, "the model has no type "+clip(typ)+" of "+what, ErrNoType)
}

func noRelation(typ, rel string) error {
	return fault.Wrap(fault.Invalid, "the type "+typ+" has no relation "+clip(rel), ErrNoRelation)
}

// clip shortens what a caller gave, for an error text.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// Subject-side rules of a question. An object that the graph knows is well
// formed, so only unknown ones are looked at closely.

// found is what the graph knows of a name; see [evaluator.lookup].
type found struct {
	id   uint32
	form sym
}

// objectOf finds the object of a question and its type.
func (ev *evaluator) objectOf(object string) (uint32, *boundType, error) {
	known := ev.lookup(object)
	typ, err := ev.objectType(object, known)
	return known.id, typ, err
}

func (ev *evaluator) objectType(object string, known found) (*boundType, error) {
	if typ := ev.model.typeOf(known.form); typ != nil {
		return typ, nil
	}
	if !relation.ValidObject(object) {
		return nil, fault.New(fault.Invalid, "the object must be type:id")
	}
	name, _, _ := relation.SplitObject(object)
	typ := ev.model.types[name]
	if typ == nil {
		return nil, noType("object", name)
	}
	return typ, nil
}

func (t *boundType) program(rel string) (*program, error) {
	if p := t.programs[rel]; p != nil {
		return p, nil
	}
	return nil, noRelation(t.name, rel)
}

// askerOf finds the subject of a question.
func (ev *evaluator) askerOf(subject string) (asker, error) {
	object, _, _ := strings.Cut(subject, "#")
	return ev.askerIs(subject, ev.lookup(object))
}

// askerIs makes the asker of a subject whose object is looked up already.
func (ev *evaluator) askerIs(subject string, known found) (asker, error) {
	object, rel, userset := strings.Cut(subject, "#")
	id, typ := known.id, ev.model.typeOf(known.form)
	if typ == nil {
		if !relation.ValidSubject(subject) {
			return asker{}, fault.New(fault.Invalid, "the user must be type:id, type:id#relation or type:*")
		}
		name, _, _ := relation.SplitObject(object)
		if typ = ev.model.types[name]; typ == nil {
			return asker{}, fault.New(fault.Invalid, "the model has no type "+clip(name)+" of user")
		}
		if strings.HasSuffix(object, ":"+everyone) && len(object) == len(name)+2 {
			return asker{object: id, form: typ.anybody}, nil
		}
	}
	if !userset {
		return asker{object: id, form: typ.object, every: typ.anybody}, nil
	}
	p := typ.programs[rel]
	if p == nil {
		return asker{}, fault.New(fault.Invalid, "the type "+typ.name+" has no relation "+clip(rel))
	}
	return asker{object: id, form: p.userset, set: true}, nil
}

// guardedOtherwise reports whether the model allows the tuple but for its condition.
func (b *bound) guardedOtherwise(t relation.Tuple) bool {
	typ, _, _ := relation.SplitObject(t.Object)
	r, ok := b.model.Relation(typ, t.Relation)
	if !ok {
		return false
	}
	object, rel := relation.SplitSubject(t.Subject)
	styp, id, _ := relation.SplitObject(object)
	return slices.ContainsFunc(r.Restrictions, func(f schema.Restriction) bool {
		return f.Type == styp && f.Relation == rel && f.Wildcard == (id == everyone)
	})
}

// accepts reports why the model does not allow the tuple; nil when it does. The
// error is [ErrTuple], and [ErrCondition] too if only the condition is wrong.
func (b *bound) accepts(t relation.Tuple) error {
	err := t.Validate()
	if err == nil {
		if err = b.model.Validate(t); err != nil && b.guardedOtherwise(t) {
			err = errors.Join(ErrCondition, err)
		}
	}
	if err == nil && t.Condition != "" {
		if err = b.guardFits(t); err != nil {
			err = fault.Wrap(fault.Invalid, fault.Public(err), errors.Join(ErrCondition, err))
		}
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, fault.Public(err), errors.Join(ErrTuple, err))
	}
	return nil
}

// guardFits holds the context of a tuple to the parameters of its condition.
func (b *bound) guardFits(t relation.Tuple) error {
	c, _, err := caveatOf(t)
	if err != nil {
		return err
	}
	compiled, err := b.condition(&c)
	if err != nil {
		return err
	}
	return compiled.Check(c.stored)
}

// Context reads a caller's JSON object; nil for none. The error has kind
// [fault.Invalid].
func Context(raw []byte) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fault.Wrap(fault.Invalid, "the context must be a JSON object", err)
	}
	return m, nil
}
