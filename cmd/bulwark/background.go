package main

import (
	"context"
	"sync"
	"time"
)

// background runs what a node does by itself, and returns what ends it.
func (n *node) background(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { n.drain(ctx) })
	wg.Go(func() { n.expire(ctx) })
	wg.Go(func() { n.authz.KeepImages(ctx) })
	wg.Go(func() { n.every(ctx, 5*time.Second, n.heartbeat) })
	wg.Go(func() { n.every(ctx, time.Minute, n.leader) })
	wg.Go(func() { n.every(ctx, 10*time.Minute, n.recordHead) })
	return func() { cancel(); wg.Wait() }
}

// drain moves the events of mutations from the store's outbox into the log.
func (n *node) drain(ctx context.Context) {
	if err := n.audit.Drain(ctx, n.store.Outbox()); err != nil && ctx.Err() == nil {
		n.plan.log.Error("the audit outbox is not drained any more", "error", err)
	}
}

// heartbeat tells the engines that the store answers: a node that has not
// heard from it for 30 s stops allowing.
func (n *node) heartbeat(ctx context.Context) error {
	if _, err := n.store.Instance(ctx); err != nil {
		return err
	}
	n.directory.Confirm()
	return nil
}

// leader does what one node does for all: with one node it is always this one.
func (n *node) leader(ctx context.Context) error {
	if _, err := n.keys.Rotate(ctx); err != nil {
		return err
	}
	if err := n.signer.Rotate(ctx); err != nil {
		return err
	}
	return n.directory.Collect(ctx)
}

func (n *node) every(ctx context.Context, d time.Duration, do func(context.Context) error) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := do(ctx); err != nil && ctx.Err() == nil {
				n.plan.log.Error("background work failed and is tried again", "error", err)
			}
		}
	}
}

// awaitReady waits until a client's assertion of this very moment is taken:
// those of the second in which the process started could be replays of what an
// earlier run took, whose memory is gone.
func (n *node) awaitReady(ctx context.Context) {
	timer := time.NewTimer(n.issuer.ReadyAt().Sub(n.plan.now()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
