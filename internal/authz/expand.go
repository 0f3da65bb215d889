package authz

import (
	"context"
	"slices"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// ExpandQuery asks how a relation of an object comes about, one level deep.
type ExpandQuery struct {
	Store    relation.StoreID
	Object   string
	Relation string
	Asked
}

// Expansion answers an [ExpandQuery].
type Expansion struct {
	Root     Expanded
	Revision relation.Revision
	Model    string
}

// Expanded is a node of the tree that the relation's definition is.
type Expanded struct {
	Name     string // "document:roadmap#viewer"
	Op       schema.Op
	Users    []string   // Direct: the subjects of the tuples, ascending
	Computed []string   // Computed, FromTuple: "type:id#relation", ascending
	Tupleset string     // FromTuple: "document:roadmap#parent"
	Operands []Expanded // Union, All; Except: what is left and what is taken away
}

// Expand returns the tree of the relation's definition with the tuples of the
// object, and of no other. Conditions and expiries are not looked at, except that
// a tuple which the model does not allow is left out. Kinds: those of
// [Engine.Check].
func (e *Engine) Expand(ctx context.Context, q ExpandQuery) (Expansion, error) {
	ev, err := e.ask(ctx, q.Store, &q.Asked)
	if err != nil {
		return Expansion{}, err
	}
	defer ev.release()
	object, typ, err := ev.objectOf(q.Object)
	if err != nil {
		return Expansion{}, err
	}
	if _, err := typ.program(q.Relation); err != nil {
		return Expansion{}, err
	}
	r, _ := ev.model.model.Relation(typ.name, q.Relation)
	x := expander{ev: ev, object: object, name: q.Object, rel: r}
	return Expansion{Root: x.node(&r.Rewrite), Revision: e.revision(q.Store, ev.snap), Model: ev.model.model.ID()}, nil
}

type expander struct {
	ev     *evaluator
	object uint32
	name   string
	rel    *schema.Relation
}

func (x *expander) node(r *schema.Rewrite) Expanded {
	out := Expanded{Name: x.name + "#" + x.rel.Name, Op: r.Op}
	switch r.Op {
	case schema.Direct:
		out.Users = x.subjects(x.rel.Name)
	case schema.Computed:
		out.Computed = []string{x.name + "#" + r.Relation}
	case schema.FromTuple:
		out.Tupleset = x.name + "#" + r.Tupleset
		for _, s := range x.subjects(r.Tupleset) {
			name, _, _ := relation.SplitObject(s)
			if typ := x.ev.model.types[name]; typ != nil && typ.programs[r.Relation] != nil {
				out.Computed = append(out.Computed, s+"#"+r.Relation)
			}
		}
	}
	for i := range r.Operands {
		out.Operands = append(out.Operands, x.node(&r.Operands[i]))
	}
	return out
}

// subjects returns who stands in the object's tuples of a relation.
func (x *expander) subjects(rel string) []string {
	ev := x.ev
	read, _ := ev.model.model.Relation(x.rel.Type, rel)
	st := &step{rel: ev.model.types[x.rel.Type].programs[rel].userset}
	var out []string
	for _, form := range read.Restrictions {
		subject, suffix := form.Type+":x", ""
		switch {
		case form.Wildcard:
			subject = form.Type + ":" + everyone
		case form.Relation != "":
			suffix = "#" + form.Relation
		}
		key := ev.model.key(st, subject+suffix)
		if form.Condition == "" {
			words, _ := ev.out(x.object).group(key)
			for _, w := range words {
				out = append(out, ev.name(w)+suffix)
			}
		}
		words, caveats := ev.out(x.object).group(key | guarded)
		for n, w := range words {
			if ev.caveat(caveats[n]).condition == form.Condition {
				out = append(out, ev.name(w)+suffix)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
