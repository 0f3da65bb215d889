package directory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// DefaultFreeGraphs is how many free stores a tenant may have if nothing else
// is said.
const DefaultFreeGraphs = 10_000

func compareGraphs(a, b *Graph) int {
	rank := func(g *Graph) int { return slices.Index([]GraphKind{SystemGraph, DefaultGraph, FreeGraph}, g.Kind) }
	if c := cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Application, b.Application)); c != 0 {
		return c
	}
	if a.Kind == FreeGraph {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
	}
	return cmp.Compare(a.ID, b.ID)
}

// putGraph takes a store into the view, perhaps again. The caller holds mu.
func (d *Directory) putGraph(g *Graph) {
	d.removeGraph(g.ID)
	d.graphs[g.ID] = g
	if g.Kind == DefaultGraph {
		d.defaults[defaultOf{g.Tenant, g.Application}] = g
	}
	list := d.owned[g.Tenant]
	at, _ := slices.BinarySearchFunc(list, g, compareGraphs)
	d.owned[g.Tenant] = slices.Insert(list, at, g)
}

func (d *Directory) removeGraph(id relation.StoreID) {
	old := d.graphs[id]
	if old == nil {
		return
	}
	delete(d.graphs, id)
	if old.Kind == DefaultGraph {
		delete(d.defaults, defaultOf{old.Tenant, old.Application})
	}
	list := d.owned[old.Tenant]
	if at, ok := slices.BinarySearchFunc(list, old, compareGraphs); ok {
		d.owned[old.Tenant] = slices.Delete(list, at, at+1)
	}
}

// SystemGraph returns the id of the tenant's system store, which is also the
// shard of its directory. Kind NotFound if there is no such tenant.
func (d *Directory) SystemGraph(t tenant.ID) (relation.StoreID, error) {
	r, err := d.Tenant(t)
	if err != nil {
		return "", err
	}
	return r.System, nil
}

// DefaultGraph returns the id of the tenant's default store for the
// application, kind NotFound if there is none.
func (d *Directory) DefaultGraph(t tenant.ID, application string) (relation.StoreID, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if g := d.defaults[defaultOf{t, application}]; g != nil {
		return g.ID, nil
	}
	return "", fault.New(fault.NotFound, "no such store")
}

// Graph returns the store with the id as its own tenant may see it: a store of
// another tenant is NotFound like one that does not exist.
func (d *Directory) Graph(t tenant.ID, id relation.StoreID) (*Graph, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if g := d.graphs[id]; g != nil && g.Tenant == t {
		return g, nil
	}
	return nil, fault.New(fault.NotFound, "no such store")
}

// GraphByID returns a store of any tenant: for engines that map a store to its
// model, never for a caller's id. Kind NotFound if there is none.
func (d *Directory) GraphByID(id relation.StoreID) (*Graph, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if g := d.graphs[id]; g != nil {
		return g, nil
	}
	return nil, fault.New(fault.NotFound, "no such store")
}

// Graphs lists the tenant's stores: the system store, the default stores in
// order of application, the free ones from the oldest to the newest.
func (d *Directory) Graphs(t tenant.ID) []*Graph {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.owned[t])
}

// EnsureGraphs gives every tenant the default store of every application that
// came since the tenant was made.
func (d *Directory) EnsureGraphs(ctx context.Context) error {
	for _, t := range d.Tenants() {
		for _, app := range d.cfg.Applications {
			if _, err := d.DefaultGraph(t.Tenant, app); err == nil {
				continue
			}
			g := &Graph{Tenant: t.Tenant, ID: relation.StoreID(tenant.RandomID()), Kind: DefaultGraph, Application: app, Created: d.cfg.Now()}
			ev := ledger.Event{Action: "store.create", Subject: "system", Resource: "store:" + string(g.ID)}
			if _, err := d.mutate(ctx, ev, t.Tenant, func(tx Tx) error { return tx.Insert(g) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// ValidGraphName reports whether a free store can have the name: 3 to 64
// letters, digits, spaces and . - / ^ _ & @, as OpenFGA has it, but of white
// space the plain one alone.
func ValidGraphName(name string) bool {
	return len(name) >= 3 && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(" .-/^_&@", r)
	})
}

// CreateGraph makes a free store. Its name need not be unique. Kinds Invalid,
// NotFound for no such tenant, Exhausted when the tenant has as many as it may.
func (d *Directory) CreateGraph(ctx context.Context, ev ledger.Event, t tenant.ID, name string) (*Graph, error) {
	if !ValidGraphName(name) {
		return nil, fault.New(fault.Invalid, "a store's name has 3 to 64 letters, digits, spaces and . - / ^ _ & @")
	}
	most := cmp.Or(d.cfg.FreeGraphs, DefaultFreeGraphs)
	g := &Graph{Tenant: t, ID: relation.StoreID(tenant.RandomID()), Kind: FreeGraph, Name: name, Created: d.cfg.Now()}
	ev.Action, ev.Resource = "store.create", "store:"+string(g.ID)
	_, err := d.mutate(ctx, ev, t, func(tx Tx) error {
		n, err := tx.FreeGraphs(t)
		if err != nil {
			return err
		}
		if n >= most {
			return fault.New(fault.Exhausted, fmt.Sprintf("the tenant has %d stores, as many as it may; delete one first", n))
		}
		return tx.Insert(g)
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// DeleteGraph deletes a free store with all that it holds. Kinds NotFound, also
// for another tenant's, and Denied for the stores that are not the tenant's to
// delete.
func (d *Directory) DeleteGraph(ctx context.Context, ev ledger.Event, t tenant.ID, id relation.StoreID) error {
	g, err := d.Graph(t, id)
	if err != nil {
		return err
	}
	if g.Kind != FreeGraph {
		return fault.New(fault.Denied, "this store belongs to an application; only stores that the tenant made itself can be deleted")
	}
	ev.Action, ev.Resource = "store.delete", "store:"+string(id)
	_, err = d.mutate(ctx, ev, t, func(tx Tx) error { return tx.Delete(g) })
	return err
}
