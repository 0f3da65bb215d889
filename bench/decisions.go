package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
)

// decisions is the part that asks Bulwark and OpenFGA the same questions.
type decisions struct {
	*world
	peer    *peer
	ours    *asker
	dsl     string
	scales  []*scale
	empty   float64 // live heap before the first store
	wrong   int
	missed  []string // bars
	unasked []string // parts that were shortened
}

// scale is the drive in one size, on both sides.
type scale struct {
	drive                *drive
	all, hot             *pool
	bulwark, fga, cached *target
}

// sizes of the drive in units of about 11,000 tuples: 10k, 100k and 1M.
var sizes = []int{1, 9, 91}

// decide runs the part.
func (w *world) decide(ctx context.Context) error {
	d := &decisions{world: w}
	text, err := os.ReadFile("../docs/models/drive/model.fga")
	if err != nil {
		return err
	}
	d.dsl = string(text)
	if d.peer, err = openPeer(ctx, w); err != nil {
		return err
	}
	defer d.peer.close()
	if d.ours, err = dial(w.grpc, w.prodCA, w.pass("access_manager")); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{{"load", d.load}, {"check", d.compare}, {"kinds", d.byKind}, {"batch", d.others}, {"all", d.million}, {"writes", d.writers},
		{"memory", d.memory}, {"cold", d.cold}, {"random", d.random}, {"process", d.inProcess}}
	for _, step := range steps {
		if step.name != "load" && w.steps != "" && !slices.Contains(strings.Split(w.steps, ","), step.name) {
			d.unasked = append(d.unasked, "the step "+step.name+" was not run")
			continue
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return d.end()
}

// pass returns a living token of the profile for the decision API.
func (w *world) pass(profile string) func(context.Context) (string, error) {
	var mu sync.Mutex
	var s session
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(s.at) > 3*time.Minute {
			text, err := w.cli(ctx, profile, "token", "--audience", "authz")
			if err != nil {
				return "", err
			}
			s = session{strings.TrimSpace(string(text)), time.Now()}
		}
		return s.token, nil
	}
}

func (d *decisions) settings() {
	say := func(name, text string) { fmt.Printf("  %-12s %s\n", name, text) }
	fmt.Println("\nDecisions: Bulwark beside OpenFGA v1.22.1")
	say("both sides", "gRPC over TLS 1.3 with a bearer token, one connection, loopback; the client is this process, whose CPU does not count")
	say("data", "docs/models/drive, ids of 36 bytes; the same questions in the same order; a quarter each direct, inherited, group-nested, denied")
	say("bulwark", "serve as init makes it: SQLite, audit on (an event for each answer), no memo of answers; token: ES256, verified, cached")
	say("openfga", "preshared key; PostgreSQL 15 over loopback without TLS, "+strings.Join(postgresSettings, " ")+", fsync on; 30 connections (default)")
	say("", "HTTP, metrics and logs below error are off, which spares it work; data copied by SQL and analysed, changelog empty")
	say("- default", "no further flags")
	say("- cached", strings.Join(cacheFlags, " "))
	say("", "cold: each question once; hot: a pool of 1,000 questions, asked before the row begins")
	say("CPU", "user and system time of all of a side's processes (openfga and PostgreSQL with its backends; bulwark), over the answers")
}

// load makes the stores of all sizes on both sides.
func (d *decisions) load(ctx context.Context) error {
	d.settings()
	if d.steps == "random" || d.steps == "process" {
		return nil // needs no drive
	}
	var err error
	if d.empty, err = d.liveHeap(ctx); err != nil {
		return err
	}
	for i, units := range sizes {
		if d.quick && i == len(sizes)-1 {
			units = 28
			d.unasked = append(d.unasked, "-quick: the largest graph has 300k tuples and not 1M")
		}
		began := time.Now()
		s := &scale{drive: newDrive(units, uint64(i+1))}
		n := 1 << 20
		if d.quick {
			n = 1 << 17
			if i == 0 {
				d.unasked = append(d.unasked, "-quick: 131,072 questions of each graph and not a million")
			}
		}
		s.all = &pool{list: s.drive.questions(n, uint64(i+1))}
		s.hot = &pool{list: slices.Clone(s.all.list[len(s.all.list)-1000:])} // the cold row asks from the begin
		store, model, err := d.ours.store(ctx, fmt.Sprint("drive ", units), d.dsl)
		if err != nil {
			return fmt.Errorf("bulwark: %w", err)
		}
		made := time.Now()
		if err := d.ours.write(ctx, store, s.drive.each); err != nil {
			return fmt.Errorf("bulwark: %w", err)
		}
		wrote := time.Now()
		s.bulwark = &target{name: "bulwark", asker: d.ours, store: store, model: model, drive: s.drive, cpu: d.bulwark.cpu}
		if store, model, err = d.peer.plain.store(ctx, fmt.Sprint("drive ", units), d.dsl); err != nil {
			return fmt.Errorf("openfga: %w", err)
		}
		if err := d.peer.load(ctx, store, s.drive.each); err != nil {
			return err
		}
		s.fga = &target{name: "openfga, default", asker: d.peer.plain.asker, store: store, model: model, drive: s.drive, cpu: d.peer.cpu(d.peer.plain)}
		s.cached = &target{name: "openfga, cached", asker: d.peer.cached.asker, store: store, model: model, drive: s.drive, cpu: d.peer.cpu(d.peer.cached)}
		d.scales = append(d.scales, s)
		fmt.Printf("  %-12s %s, %d different questions; made in %.0f s, written to bulwark by its API in %.0f s (100 tuples a call, 8 callers), copied to openfga in %.0f s\n",
			"loaded", s.drive, len(s.all.list), made.Sub(began).Seconds(), wrote.Sub(made).Seconds(), time.Since(wrote).Seconds())
	}
	return nil
}

// line is a row of a table, over the rounds.
type line struct {
	name string
	list []tally
}

func (l *line) median(get func(tally) float64) float64 {
	var list []float64
	for _, t := range l.list {
		list = append(list, get(t))
	}
	return median(list)
}

func (l *line) cpu() float64 { return l.median(tally.each) }

// ratio is the median over the rounds of the other's CPU over this one's.
func (l *line) ratio(other *line) float64 {
	var list []float64
	for i := range l.list {
		list = append(list, other.list[i].each()/l.list[i].each())
	}
	return median(list)
}

// take runs a row of a round. A wrong answer is counted and fails the run.
func (d *decisions) take(ctx context.Context, l *line, t *target, p *pool, how load) error {
	got, err := t.run(ctx, p, how)
	if err != nil {
		return err
	}
	d.wrong += got.Wrong
	l.list = append(l.list, got)
	return nil
}

func table(title string) *tabwriter.Writer {
	fmt.Printf("\n%s\n", title)
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "\tCPU µs/answer\tratio\tanswers/s\tp50 ms\tp99 ms\tanswers\twrong\terrors\tload")
	return tw
}

// row prints a line; ratio: how often the base's CPU holds the row's, 0 for none.
func (l *line) row(tw *tabwriter.Writer, ratio float64) {
	var answers, wrong, errs int
	for _, t := range l.list {
		answers, wrong, errs = answers+t.Answers, wrong+t.Wrong, errs+t.Errors
	}
	text := ""
	if ratio != 0 {
		text = fmt.Sprintf("%.1f", ratio)
	}
	fmt.Fprintf(tw, "%s\t%.1f\t%s\t%.0f\t%.3f\t%.3f\t%d\t%d\t%d\t%s\n", l.name, l.cpu(), text,
		l.median(func(t tally) float64 { return float64(t.Answers) / t.Elapsed.Seconds() }),
		l.median(func(t tally) float64 { return float64(t.P50.Microseconds()) / 1000 }),
		l.median(func(t tally) float64 { return float64(t.P99.Microseconds()) / 1000 }), answers, wrong, errs, loadAverage())
}

// loadAverage is the machine's, over the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// bar says what the issue asks for beside what came out.
func (d *decisions) bar(name string, got float64, unit string, ok bool, want string) {
	verdict := "holds"
	if !ok {
		verdict = "MISSED"
		d.missed = append(d.missed, name)
	}
	fmt.Printf("  bar: %s: %.2f%s (%s): %s\n", name, got, unit, want, verdict)
}

// compare is Check in all sizes, interleaved.
func (d *decisions) compare(ctx context.Context) error {
	how := load{callers: 16, length: d.length}
	again := how
	again.repeat = true
	for _, s := range d.scales {
		ours, plain, cold, hot := &line{name: "bulwark"}, &line{name: "openfga, default"}, &line{name: "openfga, cached, cold"}, &line{name: "openfga, cached, hot"}
		rows := []struct {
			line *line
			t    *target
			p    *pool
			how  load
		}{ // each asks the list from its begin; only Bulwark may come to its end, and then asks again
			{plain, s.fga, &pool{list: s.all.list}, how}, {ours, s.bulwark, &pool{list: s.all.list}, again},
			{cold, s.cached, &pool{list: s.all.list}, how}, {hot, s.cached, s.hot, again},
		}
		if _, err := s.bulwark.run(ctx, s.hot, load{callers: 16, length: time.Second, repeat: true}); err != nil { // the store comes into memory
			return err
		}
		if _, err := s.fga.run(ctx, s.hot, load{callers: 16, length: 2 * time.Second, repeat: true}); err != nil { // and connections are made
			return err
		}
		for round := range d.rounds {
			fmt.Fprintf(os.Stderr, "%s: round %d of %d\n", s.drive, round+1, d.rounds)
			for _, r := range rows {
				if r.line == hot { // each of the pool once, and once more
					s.hot.next.Store(0)
					for range 2 {
						s.hot.next.Store(0)
						if _, err := s.cached.run(ctx, s.hot, load{callers: 16}); err != nil {
							return err
						}
					}
				}
				if err := d.take(ctx, r.line, r.t, r.p, r.how); err != nil {
					return err
				}
			}
		}
		tw := table(fmt.Sprintf("Check, %s, 16 callers, %d rounds of %s", s.drive, d.rounds, d.length))
		ours.row(tw, 0)
		for _, l := range []*line{plain, cold, hot} {
			l.row(tw, ours.ratio(l))
		}
		_ = tw.Flush() // the terminal may be gone
		d.bar("Check, CPU of the default over ours", ours.ratio(plain), "x", ours.ratio(plain) >= 50, "at least 50")
		d.bar("Check, CPU of the hot cache over ours", ours.ratio(hot), "x", ours.ratio(hot) >= 2.5, "at least 2.5")
	}
	return nil
}

// byKind asks each kind apart, at 100k tuples.
func (d *decisions) byKind(ctx context.Context) error {
	s := d.scales[1]
	pools := make([]*pool, len(kinds))
	for k := range kinds {
		pools[k] = &pool{}
		for _, q := range s.all.list {
			if q.kind == kind(k) {
				pools[k].list = append(pools[k].list, q)
			}
		}
	}
	how := load{callers: 16, length: d.length / 2, repeat: true}
	ours, plain := make([]*line, len(kinds)), make([]*line, len(kinds))
	for k, name := range kinds {
		ours[k], plain[k] = &line{name: "bulwark, " + name}, &line{name: "openfga, default, " + name}
	}
	for range d.rounds {
		for k := range kinds {
			if err := d.take(ctx, ours[k], s.bulwark, pools[k], how); err != nil {
				return err
			}
			if err := d.take(ctx, plain[k], s.fga, pools[k], how); err != nil {
				return err
			}
		}
	}
	tw := table(fmt.Sprintf("Check by kind, %s, 16 callers, %d rounds of %s", s.drive, d.rounds, how.length))
	for k := range kinds {
		ours[k].row(tw, 0)
	}
	for k := range kinds {
		plain[k].row(tw, ours[k].ratio(plain[k]))
	}
	_ = tw.Flush()
	// Allowed is what the three other kinds come to, in each round.
	over := func(get func(tally) float64) float64 {
		var list []float64
		for i := range ours[denied].list {
			var sum float64
			for k := direct; k < denied; k++ {
				sum += get(ours[k].list[i]) / 3
			}
			list = append(list, get(ours[denied].list[i])/sum)
		}
		return median(list)
	}
	for _, m := range []struct {
		name string
		get  func(tally) float64
	}{{"CPU", tally.each}, {"p50", func(t tally) float64 { return t.P50.Seconds() }}, {"p99", func(t tally) float64 { return t.P99.Seconds() }}} {
		r := over(m.get)
		d.bar("denied over allowed, "+m.name, r, "x", r <= 1.5, "at most 1.5")
	}
	return nil
}

// others are BatchCheck and ListObjects, at 100k tuples, by few callers and by
// more: a server that sleeps between calls pays for falling asleep.
func (d *decisions) others(ctx context.Context) error {
	s := d.scales[1]
	type group struct {
		title          string
		bulwark, plain load
		rows           [3]*line // bulwark, default, cached
		hot            bool
	}
	var all []*group
	for _, callers := range []int{2, 16} {
		ask := load{callers: callers, length: d.length, batch: 20, repeat: true}
		all = append(all, &group{title: fmt.Sprintf("BatchCheck of 20, %s, %d callers (openfga's default: 2; p50 and p99 of a call)", s.drive, callers),
			bulwark: ask, plain: load{callers: 2, length: d.length, batch: 20, repeat: true}, hot: true})
	}
	for _, callers := range []int{1, 4} {
		ask := load{callers: callers, length: d.length, lists: true}
		all = append(all, &group{title: fmt.Sprintf("ListObjects of 1,000, %s, %d callers (an answer is one list)", s.drive, callers), bulwark: ask, plain: ask})
	}
	for round := range d.rounds {
		for _, g := range all {
			if round == 0 {
				g.rows = [3]*line{{name: "bulwark"}, {name: "openfga, default"}, {name: "openfga, cached"}}
				if g.hot {
					g.rows[2].name = "openfga, cached, hot"
				}
			}
			if err := d.take(ctx, g.rows[0], s.bulwark, s.all, g.bulwark); err != nil {
				return err
			}
			if err := d.take(ctx, g.rows[1], s.fga, s.all, g.plain); err != nil {
				return err
			}
			p := s.all
			if g.hot {
				p = s.hot
				s.hot.next.Store(0)
				if _, err := s.cached.run(ctx, s.hot, load{callers: 2, batch: 20}); err != nil {
					return err
				}
				s.hot.next.Store(0)
			}
			if err := d.take(ctx, g.rows[2], s.cached, p, g.bulwark); err != nil {
				return err
			}
		}
	}
	for _, g := range all {
		tw := table(fmt.Sprintf("%s, %d rounds of %s", g.title, d.rounds, d.length))
		g.rows[0].row(tw, 0)
		g.rows[1].row(tw, g.rows[0].ratio(g.rows[1]))
		g.rows[2].row(tw, g.rows[0].ratio(g.rows[2]))
		_ = tw.Flush() // the terminal may be gone
		if cpu := g.rows[0].cpu(); g.hot {
			d.bar(fmt.Sprintf("BatchCheck of 20 with audit on, %d callers, CPU of an answer", g.bulwark.callers), cpu, " µs", cpu <= 5, "at most 5")
			continue
		}
		r := g.rows[0].ratio(g.rows[1])
		d.bar(fmt.Sprintf("ListObjects of 1,000, %d callers, CPU of the default over ours", g.bulwark.callers), r, "x", r >= 50, "at least 50")
	}
	return nil
}

// million asks Bulwark every question of the largest graph once, and OpenFGA as
// many of them, from the begin, as its time allows.
func (d *decisions) million(ctx context.Context) error {
	s := d.scales[len(d.scales)-1]
	s.all.next.Store(0)
	ours, plain := &line{name: "bulwark, each question once"}, &line{name: "openfga, default, as many as 60 s allow"}
	if err := d.take(ctx, ours, s.bulwark, s.all, load{callers: 16}); err != nil {
		return err
	}
	s.all.next.Store(0)
	length := time.Minute
	if d.quick {
		length = 10 * time.Second
		plain.name = "openfga, default, as many as 10 s allow"
	}
	if err := d.take(ctx, plain, s.fga, s.all, load{callers: 16, length: length}); err != nil {
		return err
	}
	tw := table(fmt.Sprintf("All different questions, %s, 16 callers", s.drive))
	ours.row(tw, 0)
	plain.row(tw, ours.ratio(plain))
	return tw.Flush()
}

// writers asks Bulwark while 100 tuples a second are written to the same store,
// one in ten to a group.
func (d *decisions) writers(ctx context.Context) error {
	s := d.scales[len(d.scales)-1]
	quiet, busy := &line{name: "bulwark, quiet"}, &line{name: "bulwark, 100 tuple writes/s"}
	how := load{callers: 16, length: d.length, repeat: true}
	var wrote, asked int
	for range d.rounds {
		if err := d.take(ctx, quiet, s.bulwark, s.all, how); err != nil {
			return err
		}
		stop := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			n, err := d.disturb(ctx, s, wrote, stop)
			wrote += n
			done <- err
		}()
		err := d.take(ctx, busy, s.bulwark, s.all, how)
		close(stop)
		if err := errors.Join(err, <-done); err != nil {
			return err
		}
		asked += int(busy.list[len(busy.list)-1].Elapsed.Seconds() * 100)
	}
	tw := table(fmt.Sprintf("Check under writes, %s, 16 callers, %d rounds of %s; CPU holds the writes' own", s.drive, d.rounds, d.length))
	quiet.row(tw, 0)
	busy.row(tw, 0)
	_ = tw.Flush()
	fmt.Printf("  %d tuples were written of %d due, in transactions of one\n", wrote, asked)
	cpu := 1 / busy.ratio(quiet)
	var tails []float64
	for i := range quiet.list {
		tails = append(tails, busy.list[i].P99.Seconds()/quiet.list[i].P99.Seconds())
	}
	d.bar("CPU under writes over quiet", cpu, "x", cpu <= 2, "at most 2")
	d.bar("p99 under writes over quiet", median(tails), "x", median(tails) <= 3, "at most 3")
	if wrote*10 < asked*9 {
		d.missed = append(d.missed, "100 writes a second")
	}
	return nil
}

// disturb writes a tuple each 10 ms, by 8 callers, for people whom no question is
// about, so that the oracle stays right.
func (d *decisions) disturb(ctx context.Context, s *scale, from int, stop chan struct{}) (wrote int, err error) {
	due := make(chan int)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for n := range due {
				if errs[i] == nil {
					errs[i] = d.writeOne(ctx, s, n)
				}
			}
		})
	}
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-stop:
			running = false
		case <-tick.C:
			for ; wrote < int(time.Since(began)/(10*time.Millisecond)); wrote++ { // a tick may have been missed
				due <- from + wrote
			}
		}
	}
	close(due)
	wg.Wait()
	return wrote, errors.Join(errs...)
}

func (d *decisions) writeOne(ctx context.Context, s *scale, n int) error {
	u := s.drive.units[n%len(s.drive.units)]
	t := &fga.TupleKey{Object: u.docs[n*7%docs], Relation: "viewer", User: fmt.Sprintf("user:%036d", n)}
	if n%10 == 0 {
		t.Object, t.Relation = u.groups[n/10%groups], "member"
	}
	_, err := d.ours.api.Write(ctx, &fga.WriteRequest{StoreId: s.bulwark.store, Writes: &fga.WriteRequestWrites{TupleKeys: []*fga.TupleKey{t}}})
	return err
}

// memory says what a tuple takes, after all that was asked above.
func (d *decisions) memory(ctx context.Context) error {
	live, err := d.liveHeap(ctx)
	if err != nil {
		return err
	}
	resident, err := d.metric(ctx, "process_resident_memory_bytes")
	if err != nil {
		return err
	}
	tuples := 0
	for _, s := range d.scales {
		tuples += s.drive.tuples
	}
	each := (live - d.empty) / float64(tuples)
	fmt.Printf("\nMemory: live heap %.1f MiB after collection, %.1f MiB when empty; %d tuples in %d stores; resident %.1f MiB (%.0f bytes a tuple, all that the process has)\n",
		live/(1<<20), d.empty/(1<<20), tuples, len(d.scales), resident/(1<<20), resident/float64(tuples))
	d.bar("live heap a tuple, after the mixed run", each, " bytes", each <= 150, "at most 150")
	return nil
}

// cold starts the process again and asks one question of the largest store, which
// is loaded for it: from the image that the process before left and what changed
// since. From rows alone it is BenchmarkCold of internal/authz, which measures both.
func (d *decisions) cold(ctx context.Context) error {
	s := d.scales[len(d.scales)-1]
	var took []float64
	for range 3 {
		if err := d.stop(); err != nil {
			return err
		}
		if err := d.serve(ctx); err != nil {
			return err
		}
		d.scales[0].hot.next.Store(0)
		if _, err := d.scales[0].bulwark.run(ctx, d.scales[0].hot, load{callers: 1, batch: 20}); err != nil { // connected and let in
			return err
		}
		got, err := s.bulwark.run(ctx, &pool{list: s.hot.list[:1]}, load{callers: 1})
		if err != nil {
			return err
		}
		d.wrong += got.Wrong
		took = append(took, got.Elapsed.Seconds())
		images, err := d.metric(ctx, `bulwark_decisions_loads_total{from="image"}`)
		if err != nil {
			return err
		}
		from := "an image and what changed since"
		if images == 0 {
			from = "its rows, for it has no image yet"
		}
		fmt.Printf("%scold: the first question of %s after a start took %.2f s (CPU %.2f s; load %s), from %s\n", map[bool]string{true: "\n"}[len(took) == 1],
			s.drive, got.Elapsed.Seconds(), got.CPU.Seconds(), loadAverage(), from)
	}
	d.bar(fmt.Sprintf("%d tuples cold, without a local file", s.drive.tuples), median(took), " s", median(took) <= 2, "at most 2")
	return nil
}

// end says what does not hold.
func (d *decisions) end() error {
	fmt.Println()
	for _, text := range d.unasked {
		fmt.Println("shortened:", text)
	}
	if len(d.missed) == 0 {
		fmt.Println("every bar holds")
	}
	for _, text := range d.missed {
		fmt.Println("missed:", text)
	}
	if d.wrong > 0 {
		return fmt.Errorf("%d answers were wrong", d.wrong)
	}
	return nil
}
