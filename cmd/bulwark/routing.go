package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/gateway"
	"bulwark.example/internal/route"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/store"
)

// routing keeps the gateway on the routes of the release in force; on those of
// the configuration where releases bring none.
type routing struct {
	node    *node
	gateway *gateway.Gateway

	mu         sync.Mutex
	routesHere []route.Route // of the configuration
	upstreams  []gateway.Upstream
	loaded     json.RawMessage // what the gateway has; nil: the configuration's
	inForce    bool            // a version was in force once
}

// follow loads what is in force, and then what comes into force.
func (t *routing) follow(ctx context.Context) error {
	if err := t.reload(ctx, t.routesHere, t.upstreams); err != nil {
		return err
	}
	t.node.store.Subscribe(func(b store.Batch) {
		for _, e := range b.Entries {
			if e.Kind != authz.KindRollout || e.Key != t.node.plan.application {
				continue
			}
			t.changed(context.WithoutCancel(ctx))
		}
	})
	return nil
}

// reload takes over what the configuration says now, or keeps what runs.
func (t *routing) reload(ctx context.Context, routes []route.Route, upstreams []gateway.Upstream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	oldRoutes, oldUpstreams := t.routesHere, t.upstreams
	t.routesHere, t.upstreams = routes, upstreams
	err := t.load(ctx)
	if err != nil {
		t.routesHere, t.upstreams = oldRoutes, oldUpstreams
	}
	return err
}

// changed takes over what has come into force.
func (t *routing) changed(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, ok := t.node.authz.Rollout(t.node.plan.application)
	if ok && bytes.Equal(now.Current.Routes, t.loaded) {
		return
	}
	if err := t.load(ctx); err != nil {
		// The old routes may let through what the new ones were made to refuse.
		t.node.plan.log.Error("the routes in force cannot be used; the gateway refuses everything until a release brings others", "error", err)
		_ = t.gateway.Load(ctx, nil, t.upstreams) // no route cannot be wrong
		t.loaded = now.Current.Routes
	}
}

// load is called with the lock held.
func (t *routing) load(ctx context.Context) error {
	now, ok := t.node.authz.Rollout(t.node.plan.application)
	if t.inForce = t.inForce || ok; t.inForce && !ok { // the configuration's routes may let through what the release's refuse
		return fault.New(fault.Integrity, "what is in force cannot be read, and with it the routes")
	}
	routes, err := t.routes(now.Current.Routes)
	if err != nil {
		return err
	}
	if err := t.gateway.Load(ctx, routes, t.upstreams); err != nil {
		return err
	}
	if t.loaded = now.Current.Routes; t.loaded != nil {
		t.node.plan.log.Info("the routes are those of the release in force", "release", now.Current.Release, "routes", len(routes))
	}
	return nil
}

// routes is called with the lock held.
func (t *routing) routes(raw json.RawMessage) ([]route.Route, error) {
	if raw == nil {
		return t.routesHere, nil
	}
	list, err := config.ParseRoutes(raw)
	if err != nil {
		return nil, err
	}
	return routesOf(t.node.plan.application, list), nil
}

// fits reports whether the gateway can work by a draft: its routes compile, lead
// to upstreams that there are, and ask for relations that the model has. The
// error names the route.
func (t *routing) fits(d authz.Draft) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes, err := t.routes(d.Routes)
	if err != nil {
		return err
	}
	if _, err := route.Compile(routes); err != nil {
		return err
	}
	m, err := schema.Parse(d.Model)
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, typ := range m.Types() {
		for _, r := range m.Relations(typ) {
			has[typ+"#"+r.Name] = true
		}
	}
	up := map[string]bool{}
	for _, u := range t.upstreams {
		up[u.Name] = true
	}
	for _, r := range routes {
		if !up[r.Upstream] {
			return fault.New(fault.Invalid, "route "+r.ID+": there is no upstream "+r.Upstream+"; upstreams stand in the configuration")
		}
		if r.Require == nil {
			continue
		}
		typ, _, _ := strings.Cut(r.Require.Object, ":")
		for _, rel := range []string{r.Require.Relation, r.Require.Visible} {
			if rel != "" && !has[typ+"#"+rel] {
				return fault.New(fault.Invalid, "route "+r.ID+": the model has no relation "+rel+" of "+typ)
			}
		}
	}
	return nil
}
