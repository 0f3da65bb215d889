package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pressure asks for everything at once, from several goroutines, and keeps
// what the answers promised.
type pressure struct {
	d    *dev
	stop chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	tuples  map[string]bool // objects
	denials map[string]bool // decision ids
	answers map[string]map[int]int
	slowest map[string]time.Duration
}

// answer is how often a kind of request got a status until now.
func (p *pressure) answer(kind string, status int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers[kind][status]
}

// more waits until the kind got the status another ten times.
func (p *pressure) more(kind string, status int) {
	p.d.t.Helper()
	enough := p.answer(kind, status) + 10
	p.d.await(fmt.Sprint(kind, " answered with ", status), func() bool { return p.answer(kind, status) >= enough })
}

// press begins. Each kind may be answered with its own status or with 503.
func press(d *dev, workers int) *pressure {
	p := &pressure{d: d, stop: make(chan struct{}), tuples: map[string]bool{}, denials: map[string]bool{},
		answers: map[string]map[int]int{}, slowest: map[string]time.Duration{}}
	alice, carol, admin := bearer(d.token("alice@acme", "gateway")), bearer(d.token("carol@acme", "gateway")), bearer(d.token("admin@acme", "admin"))
	roadmap := d.Gateway + "/documents/roadmap"
	for worker := range workers {
		p.ask("allow", 200, func(int) (reply, error) { return send(d.http, "GET", roadmap, "", alice...) }, nil)
		p.ask("reject", 401, func(int) (reply, error) { return send(d.http, "GET", roadmap, "") }, nil)
		p.ask("deny", 403, func(int) (reply, error) { return send(d.http, "PUT", roadmap, "x", carol...) }, func(_ int, r reply) {
			var told struct {
				DecisionID string `json:"decision_id"`
			}
			if err := json.Unmarshal([]byte(r.body), &told); err != nil || told.DecisionID == "" {
				d.t.Errorf("a denial without its decision: %s", r.body)
			}
			p.denials[told.DecisionID] = true
		})
		object := func(i int) string { return fmt.Sprintf("document:f%d-%d", worker, i) }
		p.ask("change", 200, func(i int) (reply, error) {
			body := `{"writes":[{"object":"` + object(i) + `","relation":"parent","user":"folder:plans"}]}`
			return send(d.http, "POST", d.API+"/admin/v1/tuples", body, append([]string{"Content-Type", "application/json"}, admin...)...)
		}, func(i int, _ reply) { p.tuples[object(i)] = true })
	}
	return p
}

func (p *pressure) ask(kind string, good int, do func(int) (reply, error), promised func(int, reply)) {
	p.wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-p.stop:
				return
			default:
			}
			began := time.Now()
			r, err := do(i)
			took := time.Since(began)
			if err != nil || r.status != good && r.status != http.StatusServiceUnavailable {
				p.d.t.Errorf("%s: %d %s, %v", kind, r.status, r.body, err)
				return
			}
			p.mu.Lock()
			if p.answers[kind] == nil {
				p.answers[kind] = map[int]int{}
			}
			p.answers[kind][r.status]++
			p.slowest[kind] = max(p.slowest[kind], took)
			if r.status == good && promised != nil {
				promised(i, r)
			}
			p.mu.Unlock()
		}
	})
}

// relief waits until everything is answered well again, which nobody helps
// along, and ends the pressure.
func (p *pressure) relief() {
	p.d.t.Helper()
	for kind, status := range map[string]int{"allow": 200, "deny": 403, "reject": 401, "change": 200} {
		p.more(kind, status)
	}
	close(p.stop)
	p.wg.Wait()
}

// exported is one event of an export.
type exported struct {
	ID, Action, Class, Subject, Reason string
	Count                              uint64
	Detail                             map[string]string
}

// export reads the events that the filter leaves.
func (d *dev) export(as string, filter ...string) []exported {
	d.t.Helper()
	var list []exported
	for line := range strings.Lines(d.cli(append([]string{"audit", "export", "--as", as}, filter...)...)) {
		var e exported
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			d.t.Fatalf("%v in %q", err, line)
		}
		list = append(list, e)
	}
	return list
}

// count adds up what the events of a class stand for.
func count(events []exported, class string) (n uint64) {
	for _, e := range events {
		if e.Class == class {
			n += max(e.Count, 1)
		}
	}
	return n
}

// changes counts the events of tuples that somebody wrote, not dev itself.
func changes(events []exported) (n int) {
	for _, e := range events {
		if e.Class == "mutation" && e.Action == "tuple.write" && e.Subject != "system" {
			n++
		}
	}
	return n
}

// stated adds up what the log says that it lost of a class.
func stated(system []exported, class string) (n uint64) {
	for _, e := range system {
		if lost, err := strconv.ParseUint(e.Detail[class], 10, 64); err == nil && e.Action == "log.gap" {
			n += lost
		}
	}
	return n
}

// judge holds the store and the log against what was promised: changes and
// denials are there, what was refused is not, and what is missing of the
// buffered classes is stated to the last event.
func (p *pressure) judge() {
	d, t := p.d, p.d.t
	t.Helper()
	var tuples []struct{ Object string }
	if err := json.Unmarshal([]byte(d.cli("tuple", "read", "--object", "document:", "--json")), &tuples); err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	for _, tuple := range tuples {
		stored[tuple.Object] = strings.HasPrefix(tuple.Object, "document:f")
	}
	delete(stored, "document:roadmap")
	for object := range p.tuples {
		if !stored[object] {
			t.Errorf("an acknowledged tuple is lost: %s", object)
		}
	}
	if len(stored) != len(p.tuples) {
		t.Errorf("%d tuples are stored, %d were acknowledged: a change that failed is there", len(stored), len(p.tuples))
	}
	allowed, rejected := uint64(p.answers["allow"][200]), uint64(p.answers["reject"][401])
	var acme, platform []exported
	d.await("the last event of the pressure", func() bool {
		acme, platform = d.export("admin@acme"), d.export("olga@platform")
		return count(acme, "allow")+stated(platform, "allow") >= allowed && count(platform, "reject")+stated(platform, "reject") >= rejected
	})
	if kept, lost := count(acme, "allow"), stated(platform, "allow"); kept+lost != allowed {
		t.Errorf("%d requests were allowed: %d events and %d stated as lost", allowed, kept, lost)
	}
	if kept, lost := count(platform, "reject"), stated(platform, "reject"); kept+lost != rejected {
		t.Errorf("%d requests were rejected: events of %d and %d stated as lost", rejected, kept, lost)
	}
	seen := map[string]bool{}
	for _, e := range acme {
		if seen[e.ID] {
			t.Errorf("an event is there twice: %+v", e)
		}
		seen[e.ID] = true
	}
	for id := range p.denials {
		if !seen[id] {
			t.Errorf("an enforced deny is not in the log: %s", id)
		}
	}
	if writes := changes(acme); writes != len(stored) {
		t.Errorf("%d events for %d stored tuples", writes, len(stored))
	}
	d.stop()
	if out, errs, code := run(t, "audit", "verify", "--data", d.dir); code != 0 {
		t.Errorf("audit verify: exit %d, %s%s", code, out, errs)
	}
	t.Logf("answers %v, slowest %v; of %d allows %d are stated as lost", p.answers, p.slowest, allowed, stated(platform, "allow"))
}

// suspend ends dave's access and returns the status of the answer.
func (d *dev) suspend(admin []string) int {
	d.t.Helper()
	return d.do("POST", d.API+"/admin/v1/users/"+d.Users["dave@acme"].ID+"/suspend", "", admin...).status
}

// A process that may not write past a certain size of file (RLIMIT_FSIZE, which
// works everywhere) is a process on a full disk: writes fail, in the middle too.
func TestFileLimit(t *testing.T) {
	t.Parallel()
	size := func(name string) uint64 {
		t.Helper()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(info.Size())
	}
	for name, limit := range map[string]func(dir string) uint64{
		// SQLite's journal is much larger than the log's segments here.
		"store": func(dir string) uint64 { return size(filepath.Join(dir, "bulwark.db-wal")) + 3000 },
		"both": func(dir string) uint64 {
			list, err := filepath.Glob(filepath.Join(dir, "audit", "*-durable.seg"))
			if err != nil || len(list) == 0 {
				t.Fatal("no segment", err)
			}
			return size(list[len(list)-1]) + 5000
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDev(t, t.TempDir())
			limits := func(bytes uint64) {
				t.Helper()
				l := unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}
				if err := unix.Prlimit(d.cmd.Process.Pid, unix.RLIMIT_FSIZE, &l, nil); err != nil {
					t.Fatal(err)
				}
			}
			p := press(d, 2)
			p.more("deny", 403)
			p.more("change", 200)
			limits(limit(d.dir))
			p.more("change", 503)
			if name == "both" {
				p.more("deny", 503)
			} else {
				p.more("deny", 403)
				p.more("allow", 200)
			}
			limits(unix.RLIM_INFINITY)
			p.relief()
			p.judge()
		})
	}
}

// mount puts a file system of its own, in memory, on dir until the test ends.
// It reports whether this machine permits that.
func mount(t *testing.T, dir string, mib int) bool {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib)); err != nil {
		t.Logf("no file system can be mounted here (%v): the file limit is the only full disk of this run", err)
		return false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return true
}

// ballast is a file that takes the space of others.
type ballast struct {
	t    *testing.T
	file *os.File
}

func newBallast(t *testing.T, dir string) *ballast {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // its file system goes anyway
	return &ballast{t, f}
}

// leave takes or gives back space until so many bytes are free.
func (b *ballast) leave(free int64) {
	b.t.Helper()
	var st syscall.Statfs_t
	info, err := b.file.Stat()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := syscall.Statfs(b.file.Name(), &st); err != nil {
		b.t.Fatal(err)
	}
	size := info.Size() + int64(st.Bavail)*st.Bsize - free
	if err := b.file.Truncate(min(size, info.Size())); err != nil {
		b.t.Fatal(err)
	}
	// Others write meanwhile: take what can be had.
	for ; size > info.Size(); size -= st.Bsize {
		if err := syscall.Fallocate(int(b.file.Fd()), 0, 0, size); err == nil {
			return
		}
	}
}

// TestDiskFull fills real file systems, the log's and the store's, to their
// last byte under load.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if !mount(t, filepath.Join(dir, "audit"), 300) {
			return
		}
		weight := newBallast(t, filepath.Join(dir, "audit"))
		d := startDev(t, dir)
		admin := bearer(d.token("admin@acme", "admin"))
		p := press(d, 1)
		p.more("deny", 403)
		weight.leave(0)
		p.more("deny", 503)
		p.more("change", 503)
		p.more("reject", 503) // nothing begins that could end as a deny
		if status := d.suspend(admin); status != 204 {
			t.Errorf("suspending with a full disk of the log: %d", status)
		}
		weight.leave(200 << 20)
		p.relief()
		p.judge()
	})
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if !mount(t, dir, 32) || !mount(t, filepath.Join(dir, "audit"), 300) {
			return
		}
		weight := newBallast(t, dir)
		d := startDev(t, dir)
		admin := bearer(d.token("admin@acme", "admin"))
		p := press(d, 1)
		p.more("change", 200)
		weight.leave(0)
		p.more("change", 503)
		p.more("deny", 403)
		p.more("allow", 200)
		if status := d.suspend(admin); status != 503 {
			t.Errorf("suspending with a full disk of the store: %d", status)
		}
		if e := p.answer("deny", 503); e > 0 {
			t.Errorf("%d denials failed although the log had space", e)
		}
		weight.leave(16 << 20)
		p.relief()
		p.judge()
	})
}

// TestDiskFills takes the space away step by step: what is least urgent is
// refused first, and what ends somebody's access last.
func TestDiskFills(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if !mount(t, filepath.Join(dir, "audit"), 300) {
		return
	}
	weight := newBallast(t, filepath.Join(dir, "audit"))
	d := startDev(t, dir)
	admin, carol := bearer(d.token("admin@acme", "admin")), bearer(d.token("carol@acme", "gateway"))
	n := 0
	probes := []struct {
		name string
		do   func() bool
	}{
		{"admin read", func() bool { return d.do("GET", d.API+"/admin/v1/users", "", admin...).status == 200 }},
		{"deny", func() bool { return d.do("PUT", d.Gateway+"/documents/roadmap", "x", carol...).status == 403 }},
		{"key use", func() bool {
			_, _, code := run(t, "token", "--as", "alice@acme", "--data", dir)
			return code == 0
		}},
		{"change", func() bool {
			n++
			body := fmt.Sprintf(`{"writes":[{"object":"document:%d","relation":"parent","user":"folder:plans"}]}`, n)
			return d.do("POST", d.API+"/admin/v1/tuples", body, append([]string{"Content-Type", "application/json"}, admin...)...).status == 200
		}},
		{"suspend", func() bool { return d.suspend(admin) == 204 }},
	}
	const reserve = 128 << 20 // the log's default
	for quarter := range 5 {
		weight.leave(max(reserve*int64(5-quarter)/4-reserve/8, 0))
		if quarter > 0 {
			d.await("the next class to be refused", func() bool { return !probes[quarter-1].do() })
		}
		for i, probe := range probes {
			if got, want := probe.do(), i >= quarter; got != want {
				t.Errorf("%d/4 of the reserve are used: %s is answered well: %v", quarter, probe.name, got)
			}
		}
	}
	weight.leave(2 * reserve)
	for _, probe := range probes {
		d.await(probe.name, probe.do)
	}
	d.stop()
	if out, errs, code := run(t, "audit", "verify", "--data", d.dir); code != 0 {
		t.Errorf("audit verify: exit %d, %s%s", code, out, errs)
	}
}
