package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// cpu returns the processor time of a process so far.
func (p *part) cpu() (time.Duration, error) { return processor(p.cmd.Process.Pid, false) }

// processor returns the time of a process, with that of its children that ended
// if so asked.
func processor(pid int, children bool) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	times := fields[11:13] // user and system
	if children {
		times = fields[11:15]
	}
	var sum int64
	for _, text := range times {
		ticks, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += ticks
	}
	return time.Duration(sum) * (time.Second / 100), nil // USER_HZ is 100 on Linux
}

// row is one way through.
type row struct {
	name, tokens, ca string
	proxy            *part
	results          []measured
}

type measured struct {
	result
	proxy, all float64 // µs of CPU per request: the proxy's alone, and of proxy, client and upstream
}

// gateway measures the gateway with everything on beside the bare proxy.
func (w *world) gateway(ctx context.Context) error {
	prodCA := w.path("prod/tls/ca.pem")
	one, many := w.path("token"), w.path("tokens")
	rows := []*row{
		{name: "bare ReverseProxy, one token", tokens: one, ca: w.caFile, proxy: w.bare},
		{name: "bulwark, one token", tokens: one, ca: prodCA, proxy: w.bulwark},
		{name: fmt.Sprintf("bare ReverseProxy, %d tokens", w.options.tokens), tokens: many, ca: w.caFile, proxy: w.bare},
		{name: fmt.Sprintf("bulwark, %d tokens", w.options.tokens), tokens: many, ca: prodCA, proxy: w.bulwark},
	}
	for _, r := range rows { // warm: connections, caches
		if _, err := w.measure(ctx, r, time.Second); err != nil {
			return err
		}
	}
	for round := range w.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, w.rounds)
		for _, r := range rows {
			m, err := w.measure(ctx, r, w.length)
			if err != nil {
				return err
			}
			r.results = append(r.results, m)
		}
	}
	w.printRows(rows)
	return w.reconcile(ctx)
}

// answers counts the 200s that Bulwark gave, for the reconciliation at the end.
var answers int64

func (w *world) measure(ctx context.Context, r *row, length time.Duration) (measured, error) {
	self, err := os.Executable()
	if err != nil {
		return measured{}, err
	}
	proxyBefore, err := r.proxy.cpu()
	if err != nil {
		return measured{}, err
	}
	upstreamBefore, err := w.upstream.cpu()
	if err != nil {
		return measured{}, err
	}
	cmd := exec.CommandContext(ctx, self, "load", "-to", r.proxy.url, "-ca", r.ca, "-tokens", r.tokens,
		"-connections", strconv.Itoa(w.connections), "-length", length.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return measured{}, fmt.Errorf("%s: %w", r.name, err)
	}
	var m measured
	if err := json.Unmarshal(out, &m.result); err != nil {
		return measured{}, err
	}
	if m.Failures > 0 || m.Requests == 0 {
		return measured{}, fmt.Errorf("%s: %d of %d answers were wrong", r.name, m.Failures, m.Requests)
	}
	proxyAfter, err := r.proxy.cpu()
	if err != nil {
		return measured{}, err
	}
	upstreamAfter, err := w.upstream.cpu()
	if err != nil {
		return measured{}, err
	}
	client := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(m.Requests) }
	m.proxy = per(proxyAfter - proxyBefore)
	m.all = per(proxyAfter - proxyBefore + upstreamAfter - upstreamBefore + client)
	if r.proxy == w.bulwark {
		answers += m.Requests
	}
	return m, nil
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

func (r *row) of(get func(measured) float64) float64 {
	var list []float64
	for _, m := range r.results {
		list = append(list, get(m))
	}
	return median(list)
}

func (w *world) printRows(rows []*row) {
	settings := func(name, text string) { fmt.Printf("  %-18s %s\n", name, text) }
	fmt.Println("\nThe gateway beside a bare, tuned httputil.ReverseProxy")
	settings("both sides", fmt.Sprintf("TLS 1.3 to the client (HTTP/1.1, %d connections, keep-alive) and to the upstream; loopback; %d-byte answers", w.connections, len(body)))
	settings("bare", "authentication none, decision none, audit none, access log none; 512 idle upstream connections, pooled buffers")
	settings("bulwark", "ES256 tokens of an external issuer, linked user, relation by folder (visible asked too), ES256 assertion,")
	settings("", "audit on (allow: buffered, zstd, fdatasync with each signed head ≤ 1 s), verified-token cache and assertion cache (reuse ≤ 30 s) on")
	settings("rounds", fmt.Sprintf("%d interleaved of %s; medians; ratio: median of the rounds' ratios to bare with the same tokens", w.rounds, w.length))
	fmt.Println()
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "\tproxy CPU µs/req\tratio\tall CPU µs/req\tratio\treq/s\tratio\tp50 ms\tp99 ms")
	for i, r := range rows {
		base := rows[i-i%2]
		ratio := func(get func(measured) float64) float64 {
			var list []float64
			for k := range r.results {
				list = append(list, get(r.results[k])/get(base.results[k]))
			}
			return median(list)
		}
		proxy := func(m measured) float64 { return m.proxy }
		all := func(m measured) float64 { return m.all }
		rate := func(m measured) float64 { return float64(m.Requests) / m.Elapsed.Seconds() }
		fmt.Fprintf(tw, "%s\t%.1f\t%.2f\t%.1f\t%.2f\t%.0f\t%.2f\t%.1f\t%.1f\n", r.name, r.of(proxy), ratio(proxy), r.of(all), ratio(all),
			r.of(rate), ratio(rate), r.of(func(m measured) float64 { return ms(m.P50) }), r.of(func(m measured) float64 { return ms(m.P99) }))
	}
	_ = tw.Flush() // the terminal may be gone
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// reconcile compares the audit log with the answers: every one must be there.
// An export ends at the signed head, which follows the answers by up to 1 s.
func (w *world) reconcile(ctx context.Context) error {
	var events int64
	for end := time.Now().Add(15 * time.Second); events < answers && time.Now().Before(end); {
		var err error
		if events, err = w.recorded(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("\nreconciled: %d answers, %d audit events\n", answers, events)
	if events != answers {
		return fmt.Errorf("%d answers have no event", answers-events)
	}
	return nil
}

// recorded counts the events of answers with 200.
func (w *world) recorded(ctx context.Context) (int64, error) {
	out, err := w.cli(ctx, "auditor", "audit", "export", "--class", "allow")
	if err != nil {
		return 0, err
	}
	var events int64
	for line := range bytes.Lines(out) {
		var e struct {
			Action string
			Status int
			Count  int64
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, err
		}
		if e.Action == "request" && e.Status == 200 {
			events += max(e.Count, 1)
		}
	}
	return events, nil
}
