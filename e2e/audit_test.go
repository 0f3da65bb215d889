package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// defect is one that `bulwark audit verify --json` names.
type defect struct {
	Kind, Segment, Text string
	Block               *uint64
}

// verifyLog verifies the log in dir through the CLI.
func verifyLog(t *testing.T, dir string, more ...string) (defects []defect, text string, code int) {
	t.Helper()
	args := append([]string{"audit", "verify", "--data", dir}, more...)
	out, errs, code := run(t, args...)
	raw, _, again := run(t, append(args, "--json")...)
	if again != code {
		t.Errorf("exit %d, and %d with --json: %s%s", code, again, out, errs)
	}
	var report struct{ Defects []defect }
	if err := json.Unmarshal([]byte(raw), &report); code < 2 && err != nil {
		t.Errorf("%v in %q", err, raw)
	}
	return report.Defects, out + errs, code
}

// frames are the offsets at which the blocks of a segment begin, and its end
// (docs/spec/audit.md, section 4).
func frames(t *testing.T, segment []byte) (at []int) {
	t.Helper()
	for off := 46; off < len(segment); {
		at = append(at, off)
		off += 8 + int(binary.BigEndian.Uint32(segment[off:]))
	}
	if at = append(at, len(segment)); len(at) < 8 {
		t.Fatalf("only %d blocks: too few to damage", len(at)-1)
	}
	return at
}

// blockAt is the number of the block whose frame begins there.
func blockAt(segment []byte, off int) uint64 { return binary.BigEndian.Uint64(segment[off+8+1:]) }

// damaged is a case: how a copy of the log is changed and what must be named.
type damaged struct {
	name    string
	do      func(t *testing.T, audit string) // the copy's folder
	kinds   []string                         // one of them is named
	segment bool                             // with the segment's file
	block   *uint64                          // and the block's number, where that can be said
	more    []string
}

// aLog is a log of several runs with events of every group, and what belongs
// to it: a copy of its folder from earlier, and a checkpoint from later.
type aLog struct {
	dir, earlier, checkpoint string
	segment                  string // name of the largest durable one
	content                  []byte
}

func newLog(t *testing.T) *aLog {
	t.Helper()
	l := &aLog{dir: t.TempDir(), earlier: filepath.Join(t.TempDir(), "earlier"), checkpoint: filepath.Join(t.TempDir(), "checkpoint")}
	begun := 0 // blocks of the runs before
	for range 2 {
		d := startDev(t, l.dir)
		alice, carol := bearer(d.token("alice@acme", "gateway")), bearer(d.token("carol@acme", "gateway"))
		for range 20 {
			d.do("GET", d.Gateway+"/documents/roadmap", "", alice...)
			d.do("PUT", d.Gateway+"/documents/roadmap", "x", carol...)
			d.do("GET", d.Gateway+"/documents/roadmap", "")
		}
		// Kept elsewhere: a head that covers blocks of this run.
		var head string
		d.await("a new head", func() bool {
			head = d.cli("audit", "checkpoint")
			return covers(t, head) > begun
		})
		if err := os.WriteFile(l.checkpoint, []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
		d.stop()
		begun = covers(t, readFile(t, filepath.Join(l.dir, "audit", "log", "checkpoint")))
		if _, err := os.Stat(l.earlier); err != nil {
			copyTree(t, l.dir, l.earlier)
		}
	}
	list, err := filepath.Glob(filepath.Join(l.dir, "audit", "*-durable.seg"))
	if err != nil || len(list) == 0 {
		t.Fatal("no segment", err)
	}
	for _, name := range list {
		if b := []byte(readFile(t, name)); len(b) > len(l.content) {
			l.segment, l.content = filepath.Base(name), b
		}
	}
	return l
}

// covers is the number of blocks that a checkpoint covers: its second line.
func covers(t *testing.T, checkpoint string) int {
	t.Helper()
	_, rest, _ := strings.Cut(checkpoint, "\n")
	size, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(size)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cases are the ways in which a stranger with the disk in hand can damage the
// segment, beside flipping bytes.
func (l *aLog) cases(t *testing.T) []damaged {
	t.Helper()
	at := frames(t, l.content)
	no := func(i int) *uint64 { n := blockAt(l.content, at[i]); return &n }
	put := func(b ...[]byte) func(*testing.T, string) {
		return func(t *testing.T, audit string) {
			if err := os.WriteFile(filepath.Join(audit, l.segment), slices.Concat(b...), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, string) {
		return func(t *testing.T, audit string) {
			if err := os.Remove(filepath.Join(audit, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	part := func(from, to int) []byte { return l.content[at[from]:at[to]] }
	last := len(at) - 1
	return []damaged{
		{name: "a block removed", do: put(l.content[:at[3]], l.content[at[4]:]), kinds: []string{"missing"}, block: no(3)},
		{name: "the first block removed", do: put(l.content[:at[0]], l.content[at[1]:]), kinds: []string{"missing", "order", "damaged"}, block: no(0)},
		{name: "two blocks swapped", do: put(l.content[:at[3]], part(4, 5), part(3, 4), l.content[at[5]:]), kinds: []string{"order"}, segment: true, block: no(3)},
		{name: "two blocks far apart swapped", do: put(l.content[:at[1]], part(last-1, last), part(2, last-1), part(1, 2)), kinds: []string{"order"}, segment: true, block: no(1)},
		{name: "a block twice", do: put(l.content[:at[4]], l.content[at[3]:]), kinds: []string{"duplicate", "order"}, segment: true, block: no(3)},
		{name: "the tail cut below the newest head", do: put(l.content[:at[last-1]]), kinds: []string{"missing", "tail"}, block: no(last - 1)},
		{name: "the tail cut inside a block", do: put(l.content[:at[last]-9]), kinds: []string{"missing", "tail", "damaged"}, block: no(last - 1)},
		{name: "all blocks cut", do: put(l.content[:at[0]]), kinds: []string{"missing", "segment"}, block: no(0)},
		{name: "the segment gone", do: remove(l.segment), kinds: []string{"segment", "missing"}, block: no(0)},
		{name: "the head gone", do: remove("log/checkpoint"), kinds: []string{"head"}},
		{name: "bytes of another format behind the end", do: put(l.content, []byte("more")), kinds: []string{"damaged", "tail"}, segment: true},
		{name: "the log set back to an earlier day, below a checkpoint kept elsewhere", do: func(t *testing.T, audit string) {
			if err := os.RemoveAll(audit); err != nil {
				t.Fatal(err)
			}
			copyTree(t, filepath.Join(l.earlier, "audit"), audit)
		}, kinds: []string{"tail"}, more: []string{"--since", l.checkpoint}},
	}
}

// TestDamageIsNamed damages copies of a real log in every way that the issue
// names. Each is named, and the exit code is 1.
func TestDamageIsNamed(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	if _, text, code := verifyLog(t, l.dir); code != 0 || !strings.Contains(text, "internally consistent, not anchored") {
		t.Fatalf("the log as it is: exit %d, %s", code, text)
	}
	if _, text, code := verifyLog(t, l.dir, "--since", l.checkpoint); code != 0 || !strings.Contains(text, "consistent and anchored") {
		t.Fatalf("the log with a checkpoint kept elsewhere: exit %d, %s", code, text)
	}
	// Without that checkpoint nobody can see that a log was set back.
	if _, text, code := verifyLog(t, l.earlier); code != 0 || !strings.Contains(text, "not anchored") {
		t.Errorf("the log of an earlier day: exit %d, %s", code, text)
	}
	for _, c := range l.cases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			copied := filepath.Join(t.TempDir(), "copy")
			copyTree(t, l.dir, copied)
			c.do(t, filepath.Join(copied, "audit"))
			defects, text, code := verifyLog(t, copied, c.more...)
			named := slices.ContainsFunc(defects, func(d defect) bool {
				return slices.Contains(c.kinds, d.Kind) && strings.Contains(text, d.Text) &&
					(!c.segment || d.Segment == l.segment && strings.Contains(d.Text, l.segment)) &&
					(c.block == nil || d.Block != nil && *d.Block == *c.block && (strings.Contains(d.Text, fmt.Sprint("block ", *c.block)) ||
						strings.Contains(d.Text, fmt.Sprint("blocks ", *c.block, " to "))))
			})
			if code != 1 || !named {
				t.Errorf("exit %d, %s%+v", code, text, defects)
			}
		})
	}
}

// TestFlippedBits flips one bit in places all over each segment and its head.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	copied := filepath.Join(t.TempDir(), "copy")
	copyTree(t, l.dir, copied)
	files, err := filepath.Glob(filepath.Join(copied, "audit", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]bool{}
	for _, name := range append(files, filepath.Join(copied, "audit", "log", "checkpoint")) {
		whole := []byte(readFile(t, name))
		_, group, _ := strings.Cut(filepath.Base(name), "-")
		step := 1 + len(whole)/4
		if !groups[group] {
			step = 1 + len(whole)/24 // the first of each group closely
		}
		groups[group] = true
		for i := 0; i < len(whole); i += step {
			b := bytes.Clone(whole)
			b[i] ^= 1 << (i % 8)
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			out, errs, code := run(t, "audit", "verify", "--data", copied)
			if code != 1 || group != "" && !strings.Contains(out, filepath.Base(name)) || group == "" && !strings.Contains(out, "head") {
				t.Errorf("%s, bit %d of byte %d: exit %d, %s%s", filepath.Base(name), i%8, i, code, out, errs)
			}
		}
		if err := os.WriteFile(name, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(groups) != 4 {
		t.Errorf("a log of all groups has other files: %v", groups)
	}
	// And a node does not go on with a log that is not whole.
	if err := os.Truncate(files[len(files)-1], 100); err != nil {
		t.Fatal(err)
	}
	out, errs, code := run(t, "dev", "--data", copied, "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ops", "127.0.0.1:0")
	if code == 0 || !strings.Contains(errs, "bulwark audit verify") {
		t.Errorf("dev over a damaged log: exit %d, %s%s", code, out, errs)
	}
}

// TestForeignCheckpoint: an anchor or a key of another log is no anchor.
func TestForeignCheckpoint(t *testing.T) {
	t.Parallel()
	one, other := t.TempDir(), t.TempDir()
	d := startDev(t, one)
	d.stop()
	e := startDev(t, other)
	foreign := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(foreign, []byte(e.cli("audit", "checkpoint")), 0o600); err != nil {
		t.Fatal(err)
	}
	e.stop()
	if _, text, code := verifyLog(t, one, "--since", foreign); code == 0 {
		t.Errorf("another log's checkpoint: exit 0, %s", text)
	}
	key := strings.TrimSpace(readFile(t, filepath.Join(other, "audit", "log.vkey")))
	if _, text, code := verifyLog(t, one, "--key", key); code != 1 {
		t.Errorf("another log's key: exit %d, %s", code, text)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
