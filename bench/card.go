package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// costCard prints what Bulwark takes: on disk, to start, idle, and for each
// thing that it keeps. The slopes are live heap by /metrics, after a forced
// collection (GOGC is low in a second process, so that the live heap shows).
func (w *world) costCard(ctx context.Context) error {
	info, err := os.Stat(w.path("bulwark"))
	if err != nil {
		return err
	}
	fmt.Println("\nCost card")
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "  binary\t%.1f MiB\n", float64(info.Size())/(1<<20))
	fmt.Fprintf(tw, "  start to ready (serve, scrypt included)\t%.0f ms\n", float64(w.ready.Milliseconds()))
	fmt.Fprintf(tw, "  resident, idle (one tenant, %d people)\t%.1f MiB\n", w.tokens, w.idle/(1<<20))
	resident, err := w.metric(ctx, "process_resident_memory_bytes")
	if err != nil {
		return err
	}
	fmt.Fprintf(tw, "  resident after the runs above\t%.1f MiB\n", resident/(1<<20))
	for _, c := range []struct {
		name string
		n    int
		do   func(i int) error
	}{
		{"route", routes, func(i int) error {
			if i > 0 {
				return nil // all of them came with the first
			}
			return w.addRoutes(ctx)
		}},
		{"tuple", 3000, func(i int) error {
			return w.write(ctx, "document:card-"+strconv.Itoa(i), "parent", "folder:plans")
		}},
		{"service with a grant", 1000, func(i int) error {
			name := "card-" + strconv.Itoa(i)
			if err := w.call(ctx, "admin", "/services", map[string]string{"name": name}, nil); err != nil {
				return err
			}
			return w.call(ctx, "admin", "/services/"+name+"/audiences", map[string]any{"audience": "authz", "direct": true}, nil)
		}},
		{"revocation", 1000, func(i int) error {
			return w.call(ctx, "admin", "/revocations", map[string]string{"kind": "token", "value": "card-" + strconv.Itoa(i)}, nil)
		}},
		{"tenant", 200, func(i int) error {
			return w.call(ctx, "operator", "/tenants", map[string]string{"name": "card-" + strconv.Itoa(i)}, nil)
		}},
	} {
		before, err := w.liveHeap(ctx)
		if err != nil {
			return err
		}
		for i := range c.n {
			if err := c.do(i); err != nil {
				return err
			}
		}
		after, err := w.liveHeap(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(tw, "  each %s (slope over %d)\t%.0f bytes\n", c.name, c.n, (after-before)/float64(c.n))
	}
	return tw.Flush()
}

// routes is how many the card adds.
const routes = 2000

// addRoutes writes more routes into the configuration, has it read again and
// waits until the process says that it took them.
func (w *world) addRoutes(ctx context.Context) error {
	text, err := os.ReadFile(w.config)
	if err != nil {
		return err
	}
	before, after, ok := strings.Cut(string(text), "\nroutes:\n")
	if !ok {
		return errors.New("the configuration has no routes")
	}
	var b strings.Builder
	b.WriteString(before + "\nroutes:\n")
	for i := range routes {
		fmt.Fprintf(&b, "  - id: card-%d\n    methods: [GET]\n    path: /card-%d/{id}\n    upstream: main\n    require: {relation: can_view, object: \"document:{id}\", visible: can_view}\n", i, i)
	}
	if err := os.WriteFile(w.config, []byte(b.String()+after), 0o600); err != nil {
		return err
	}
	if err := w.bulwark.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	end := time.NewTimer(30 * time.Second)
	defer end.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err := os.ReadFile(w.path("serve.log"))
		if err != nil || bytes.Contains(log, []byte("the configuration was taken")) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return fmt.Errorf("the routes were not taken: %s", log)
		}
	}
}

// liveHeap returns the least of some readings: what the requests before left
// behind (connections, buffers) goes one collection after the other.
func (w *world) liveHeap(ctx context.Context) (float64, error) {
	least := math.Inf(1)
	for range 3 {
		now, err := w.collected(ctx)
		if err != nil {
			return 0, err
		}
		least = min(least, now)
	}
	return least, nil
}

// collected asks for the heap after the last collection: /gc/heap/live:bytes of
// runtime/metrics, which the Go collector exports. Requests are made until two
// collections have passed.
func (w *world) collected(ctx context.Context) (float64, error) {
	began, err := w.metric(ctx, "go_gc_duration_seconds_count")
	if err != nil {
		return 0, err
	}
	for {
		now, err := w.metric(ctx, "go_gc_duration_seconds_count")
		if err != nil {
			return 0, err
		}
		if now >= began+2 {
			return w.metric(ctx, "go_gc_heap_live_bytes")
		}
	}
}

func (w *world) metric(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.opsURL+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := w.ops.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, 1<<20)
	found, value := false, 0.0
	for s.Scan() {
		if text, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			found = true
			if value, err = strconv.ParseFloat(text, 64); err != nil {
				return 0, err
			}
		}
	}
	if !found {
		return 0, fmt.Errorf("/metrics has no %s", name)
	}
	return value, s.Err()
}
