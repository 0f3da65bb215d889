package main

import (
	"context"
	"slices"
	"time"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/tenant"
)

const (
	expiryBatch = 1000             // tuples read at once
	expiryRetry = 5 * time.Second  // after a failure
	expiryLook  = time.Minute      // at the latest: a timer does not follow a clock that was set, or a machine that slept
	expirySoon  = time.Millisecond // after a change that came in between
)

// lastMoment is after all ends that a tuple can have.
var lastMoment = time.Date(2261, 12, 31, 0, 0, 0, 0, time.UTC)

// expire deletes the tuples that have ended, each when its time has come. The
// decisions do not wait for it: they stop counting a tuple at its end.
func (n *node) expire(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := n.collectExpired(ctx)
		if err != nil && ctx.Err() == nil {
			n.plan.log.Error("expired grants cannot be deleted now; that is tried again", "error", err)
			wait = expiryRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-n.ends:
		}
		timer.Stop()
	}
}

// watchEnds has expire look again when a tuple was written that ends.
func (n *node) watchEnds(b store.Batch) {
	if !slices.ContainsFunc(b.Writes, func(t relation.Tuple) bool { return t.Expires != 0 }) {
		return
	}
	select {
	case n.ends <- struct{}{}:
	default: // it will look anyway
	}
}

// collectExpired deletes what has ended and returns how long nothing will end.
func (n *node) collectExpired(ctx context.Context) (time.Duration, error) {
	for {
		ended, err := n.store.Expired(ctx, n.plan.now(), expiryBatch)
		if err != nil {
			return 0, err
		}
		if len(ended) == 0 {
			break
		}
		var order []relation.StoreID // by who waits longest
		of := map[relation.StoreID][]relation.Tuple{}
		for _, l := range ended {
			if of[l.Store] == nil {
				order = append(order, l.Store)
			}
			of[l.Store] = append(of[l.Store], l.Tuple)
		}
		var failed error
		again := false
		for _, id := range order {
			for some := range slices.Chunk(of[id], authz.MaxWrite) {
				switch err := n.deleteExpired(ctx, id, some); {
				case err == nil:
				case fault.KindOf(err) == fault.Conflict || fault.KindOf(err) == fault.NotFound:
					again = true // deleted, granted anew, or the whole store is gone
				default:
					failed = err
				}
			}
		}
		if failed != nil || again {
			return expirySoon, failed
		}
	}
	next, err := n.store.Expired(ctx, lastMoment, 1)
	if err != nil || len(next) == 0 {
		return expiryLook, err
	}
	return min(max(time.Unix(0, next[0].Tuple.Expires).Sub(n.plan.now()), 0), expiryLook), nil
}

func (n *node) deleteExpired(ctx context.Context, id relation.StoreID, tuples []relation.Tuple) error {
	g, err := n.directory.GraphByID(id)
	if err != nil {
		return err
	}
	_, err = n.authz.Expire(ctx, ledger.Change{Store: id, Event: ledger.Event{
		ID: tenant.RandomID(), Time: n.plan.now(), Class: ledger.Mutation, Action: "tuple.expire",
		Tenant: g.Tenant, Subject: "system", Resource: "store:" + string(id),
	}}, tuples)
	return err
}
