package authz

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

// KindOwnRole is the changelog's kind of the roles that a tenant made for its
// store: the key is "<type>/<name>", the payload the JSON of a [Role].
const KindOwnRole = "own_role"

// Roles returns the roles that can be assigned in a default store: those of the
// application's version that answers for it, and the tenant's own. Kinds:
// [fault.NotFound] for an unknown store or an application without a version,
// [fault.Denied] for another kind of store, and the store's.
func (e *Engine) Roles(ctx context.Context, store relation.StoreID) (of Roles, own []Role, err error) {
	if err := e.protected(store); err != nil {
		return Roles{}, nil, err
	}
	named, _ := e.cfg.Application(store)
	s := e.application(named).standing.Load()
	if s == nil {
		return Roles{}, nil, fault.New(fault.NotFound, "the application has no active model")
	}
	own, err = e.cfg.Archive.OwnRoles(ctx, store)
	return s.of(store).version.Roles, own, err
}

// DefineRole stores a tenant's own role, in the place of one of the same type and
// name: change.Store. Assignments stay as they are. Kinds: [Roles.Allow]'s,
// [fault.Exhausted] beyond [MaxRoles], and [Engine.Roles]'s.
func (e *Engine) DefineRole(ctx context.Context, change ledger.Change, r Role) error {
	of, own, err := e.Roles(ctx, change.Store)
	if err != nil {
		return err
	}
	if err := of.Allow(r); err != nil {
		return err
	}
	known := slices.ContainsFunc(own, func(o Role) bool { return o.Type == r.Type && o.Name == r.Name })
	if len(own) >= MaxRoles && !known {
		return fault.New(fault.Exhausted, fmt.Sprintf("the store has %d roles of its own already; delete some", MaxRoles))
	}
	_, err = e.cfg.Archive.PutOwnRole(ctx, change, r)
	return err
}

// DeleteRole removes a tenant's own role. Assignments stay as they are. Kinds:
// [fault.NotFound] if there is none, and [Engine.Roles]'s.
func (e *Engine) DeleteRole(ctx context.Context, change ledger.Change, typ, name string) error {
	if err := e.protected(change.Store); err != nil {
		return err
	}
	_, err := e.cfg.Archive.DeleteOwnRole(ctx, change, typ, name)
	return err
}

// Assignment gives a role on an object to a subject.
type Assignment struct {
	Role, Object, Subject string
	Expires               int64 // nanoseconds since 1970; 0: never
}

// role finds the role that an assignment names; the application's come first.
func (e *Engine) role(ctx context.Context, store relation.StoreID, object, name string, assigning bool) (Role, error) {
	of, own, err := e.Roles(ctx, store)
	if err != nil {
		return Role{}, err
	}
	typ, _, _ := relation.SplitObject(object)
	if r, ok := of.Find(typ, name); ok {
		return r, nil
	}
	if r, ok := (Roles{Roles: own}).Find(typ, name); ok {
		if assigning {
			err = of.Allow(r) // the operator may offer less than when it was made
		}
		return r, err
	}
	return Role{}, fault.New(fault.NotFound, "there is no role "+clip(name)+" on objects of the type "+clip(typ))
}

// Assign writes the tuples of a role: change.Store. Those that stand already
// stay. Kinds: [fault.NotFound] for an unknown role, and [Engine.Write]'s.
func (e *Engine) Assign(ctx context.Context, change ledger.Change, a Assignment) (relation.Revision, error) {
	r, err := e.role(ctx, change.Store, a.Object, a.Role, true)
	if err != nil {
		return relation.Revision{}, err
	}
	w := Write{IgnoreDuplicate: true}
	for _, rel := range r.Relations {
		w.Writes = append(w.Writes, relation.Tuple{Object: a.Object, Relation: rel, Subject: a.Subject, Expires: a.Expires})
	}
	change.Event.Detail = detailed(change.Event.Detail)
	change.Event.Detail["role"] = r.Name
	return e.Write(ctx, change, "", w)
}

// Revoke deletes the tuples of a role, also those that another role or a tuple
// write brought: change.Store. Kinds: [fault.NotFound] for an unknown role or if
// none of its tuples stands, and [Engine.Write]'s.
func (e *Engine) Revoke(ctx context.Context, change ledger.Change, a Assignment) (relation.Revision, error) {
	r, err := e.role(ctx, change.Store, a.Object, a.Role, false)
	if err != nil {
		return relation.Revision{}, err
	}
	held, err := e.assigned(ctx, change.Store, Filter{Object: a.Object, Subject: a.Subject})
	if err != nil {
		return relation.Revision{}, err
	}
	var w Write
	for _, t := range held {
		if slices.Contains(r.Relations, t.Relation) {
			w.Deletes = append(w.Deletes, t.Key())
		}
	}
	if len(w.Deletes) == 0 {
		return relation.Revision{}, fault.New(fault.NotFound, a.Subject+" does not have the role "+clip(a.Role)+" on "+a.Object)
	}
	change.Event.Detail = detailed(change.Event.Detail)
	change.Event.Detail["role"] = r.Name
	return e.Write(ctx, change, "", w)
}

// maxAssigned bounds the tuples of an object that are looked at for its roles.
const maxAssigned = 10_000

// assigned reads all tuples that a filter selects.
func (e *Engine) assigned(ctx context.Context, store relation.StoreID, f Filter) ([]relation.Tuple, error) {
	var out []relation.Tuple
	for after := ""; ; {
		page, err := e.Read(ctx, store, f, 1000, after)
		if err != nil {
			return nil, err
		}
		for _, t := range page.Tuples {
			out = append(out, t.Tuple)
		}
		switch after = page.Next; {
		case after == "":
			return out, nil
		case len(out) >= maxAssigned:
			return nil, fault.New(fault.TooLarge, fmt.Sprintf("more than %d tuples stand on this; list its tuples instead", maxAssigned))
		}
	}
}

// Assignments returns which roles of an object are held by whom: by tuples on it,
// of all relations of the role, that have not ended. Who holds one through a group
// or a parent is for [Engine.ListUsers] to say. In the order of subjects, then
// roles. Kinds as [Engine.Roles]'s; [fault.TooLarge] if too many tuples stand on it.
func (e *Engine) Assignments(ctx context.Context, store relation.StoreID, object string) ([]Assignment, error) {
	of, own, err := e.Roles(ctx, store)
	if err != nil {
		return nil, err
	}
	tuples, err := e.assigned(ctx, store, Filter{Object: object})
	if err != nil {
		return nil, err
	}
	typ, _, _ := relation.SplitObject(object)
	now := e.cfg.Now().UnixNano()
	held := map[string]map[string]int64{} // subject, relation: the end
	for _, t := range tuples {
		if t.Condition != "" || t.Expires != 0 && t.Expires <= now {
			continue
		}
		if held[t.Subject] == nil {
			held[t.Subject] = map[string]int64{}
		}
		held[t.Subject][t.Relation] = t.Expires
	}
	out := []Assignment{}
	for subject, rels := range held {
		for _, r := range slices.Concat(of.Roles, own) {
			if r.Type != typ {
				continue
			}
			a, has := Assignment{Role: r.Name, Object: object, Subject: subject}, true
			for _, rel := range r.Relations {
				end, ok := rels[rel]
				has = has && ok
				if end != 0 && (a.Expires == 0 || end < a.Expires) {
					a.Expires = end
				}
			}
			if has {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, func(a, b Assignment) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Role, b.Role))
	})
	return out, nil
}
