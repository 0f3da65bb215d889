package audit_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/tenant"
)

// sample is a closed log of some segments, and the checkpoints kept of it.
type sample struct {
	cfg   audit.Config
	files map[string][]byte // segments by name
	heads [][]byte
	ids   []string
}

func newSample(t testing.TB) *sample {
	t.Helper()
	s := &sample{cfg: newConfig(t), files: map[string][]byte{}}
	s.cfg.SegmentBytes, s.cfg.Checkpoint = 2<<10, 5*time.Millisecond
	tenants := []tenant.ID{tenant.New(), tenant.New()}
	for range 2 {
		l := open(t, s.cfg)
		for i := range 12 {
			ev := deny(tenants[i%2])
			ev.ID = tenant.RandomID()
			s.ids = append(s.ids, ev.ID)
			if err := l.Append(context.Background(), ev); err != nil {
				t.Fatal(err)
			}
			ev.ID, ev.Class, ev.Decision = "", ledger.Allow, "allow"
			if err := l.Append(context.Background(), ev); err != nil {
				t.Fatal(err)
			}
			l.Reject(ledger.Event{Reason: "expired", Route: "documents"})
		}
		closeLog(t, l)
		s.heads = append(s.heads, l.Head())
	}
	for _, name := range segments(t, s.cfg.Dir) {
		b, err := os.ReadFile(filepath.Join(s.cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		s.files[name] = b
	}
	return s
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*-*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths
}

// write puts the segments as given in place of those of the log.
func (s *sample) write(t testing.TB, files map[string][]byte) {
	t.Helper()
	for _, name := range segments(t, s.cfg.Dir) {
		if err := os.Remove(filepath.Join(s.cfg.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(s.cfg.Dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *sample) verify(t testing.TB, since []byte) *audit.Report {
	t.Helper()
	r, err := audit.Verify(context.Background(), s.cfg.Dir, audit.VerifyOptions{Verifier: s.cfg.Verifier, Since: since})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// frames splits a segment into its blocks.
func frames(t testing.TB, seg []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for rest := seg[ledger.SegmentHead:]; len(rest) > 0; {
		n, err := ledger.FrameSize(rest[:ledger.FrameHead])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rest[:ledger.FrameHead+n])
		rest = rest[ledger.FrameHead+n:]
	}
	return out
}

func join(seg []byte, frames ...[]byte) []byte {
	return append(bytes.Clone(seg[:ledger.SegmentHead]), bytes.Join(frames, nil)...)
}

func blockNo(t testing.TB, frame []byte) uint64 {
	t.Helper()
	b, _, err := ledger.ParseHeader(frame[ledger.FrameHead:])
	if err != nil {
		t.Fatal(err)
	}
	return b.Leaf.Block
}

func has(r *audit.Report, kind string, block uint64) bool {
	return slices.ContainsFunc(r.Defects, func(d audit.Defect) bool {
		return d.Kind == kind && d.Block != nil && *d.Block == block
	})
}

func TestVerifyClean(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	if len(s.files) < 5 {
		t.Fatalf("only %d segments", len(s.files))
	}
	r := s.verify(t, nil)
	if !r.OK() || r.Anchored || !strings.HasPrefix(r.Summary(), "internally consistent, not anchored") || r.Events < 52 {
		t.Errorf("%s: %+v", r.Summary(), r)
	}
	for _, head := range s.heads {
		if r := s.verify(t, head); !r.OK() || !r.Anchored {
			t.Errorf("%s: %+v", r.Summary(), r)
		}
	}
	other, _ := newKey(t)
	forged, err := ledger.Checkpoint{Origin: origin, Size: 1}.Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(context.Background(), s.cfg.Dir, audit.VerifyOptions{Verifier: s.cfg.Verifier, Since: forged}); err == nil {
		t.Error("a checkpoint of another key was taken")
	}
}

func TestVerifyFlippedByte(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		orig := s.files[name]
		for i := 0; i < len(orig); i += 97 {
			bad := bytes.Clone(orig)
			bad[i] ^= 0x10
			if err := os.WriteFile(filepath.Join(s.cfg.Dir, name), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			r := s.verify(t, nil)
			named := slices.ContainsFunc(r.Defects, func(d audit.Defect) bool { return d.Segment == name })
			if r.OK() || !named {
				t.Errorf("byte %d of %s: %+v", i, name, r.Defects)
			}
		}
		if err := os.WriteFile(filepath.Join(s.cfg.Dir, name), orig, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	head := filepath.Join(s.cfg.Dir, "log", "checkpoint")
	b, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if err := os.WriteFile(head, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := s.verify(t, nil); r.OK() {
			t.Errorf("byte %d of the checkpoint", i)
		}
	}
}

// tampering is one way to falsify a log; it returns what must be named.
type tampering func(t *testing.T, s *sample, files map[string][]byte) (kind string, block uint64)

var tamperings = map[string]tampering{
	"block removed": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		name, fs := s.long(t)
		files[name] = join(files[name], slices.Concat(fs[:1], fs[2:])...)
		return audit.DefectMissing, blockNo(t, fs[1])
	},
	"neighbours swapped": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		name, fs := s.long(t)
		files[name] = join(files[name], slices.Concat([][]byte{fs[0], fs[2], fs[1]}, fs[3:])...)
		return audit.DefectOrder, blockNo(t, fs[1])
	},
	"distant blocks swapped": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		name, fs := s.long(t)
		last := len(fs) - 1
		files[name] = join(files[name], slices.Concat([][]byte{fs[last]}, fs[1:last], fs[:1])...)
		return audit.DefectOrder, blockNo(t, fs[0])
	},
	"block doubled": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		name, fs := s.long(t)
		files[name] = join(files[name], slices.Concat(fs[:2], fs[1:])...)
		return audit.DefectDuplicate, blockNo(t, fs[1])
	},
	"event changed, checksum made to fit": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		name, fs := s.long(t)
		codec := ledger.NewCodec()
		b, packed, err := ledger.ParseHeader(fs[1][ledger.FrameHead:])
		if err != nil {
			t.Fatal(err)
		}
		if err := codec.Unpack(b, packed); err != nil {
			t.Fatal(err)
		}
		b.Payload[bytes.Index(b.Payload, []byte("no_relation"))]++
		files[name] = join(files[name], slices.Concat(fs[:1], [][]byte{codec.AppendFrame(nil, b)}, fs[2:])...)
		return audit.DefectForged, b.Leaf.Block
	},
	"events gone, headers left": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		name, fs := s.long(t)
		codec := ledger.NewCodec()
		b, _, err := ledger.ParseHeader(fs[1][ledger.FrameHead:])
		if err != nil {
			t.Fatal(err)
		}
		files[name] = join(files[name], slices.Concat(fs[:1], [][]byte{codec.AppendFrame(nil, b)}, fs[2:])...)
		return audit.DefectForged, b.Leaf.Block
	},
	"log written anew with other events": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		other := newSample(t)
		clear(files)
		maps.Copy(files, other.files)
		return audit.DefectHead, ledger.NoBlock
	},
	"newest blocks cut": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		cut := s.cut(t, files, 3)
		return audit.DefectTail, cut
	},
	"a segment gone": func(t *testing.T, s *sample, files map[string][]byte) (string, uint64) {
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(n string) bool { return !strings.Contains(n, "-durable.seg") })
		name := names[1]
		first := blockNo(t, frames(t, files[name])[0])
		delete(files, name)
		return audit.DefectSegment, first
	},
}

// long returns a segment of four blocks or more in sequence.
func (s *sample) long(t testing.TB) (string, [][]byte) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if fs := frames(t, s.files[name]); strings.Contains(name, "-durable.seg") && len(fs) >= 4 {
			return name, fs
		}
	}
	t.Fatal("no segment of four blocks")
	return "", nil
}

// cut removes the n newest blocks, wherever they are, and returns the first of them.
func (s *sample) cut(t testing.TB, files map[string][]byte, n int) uint64 {
	t.Helper()
	var first uint64
	for range n {
		newest, in := uint64(0), ""
		for name, b := range files {
			fs := frames(t, b)
			if no := blockNo(t, fs[len(fs)-1]); no >= newest {
				newest, in = no, name
			}
		}
		fs := frames(t, files[in])
		if files[in] = join(files[in], fs[:len(fs)-1]...); len(fs) == 1 {
			delete(files, in)
		}
		first = newest
	}
	return first
}

func TestVerifyNamesTampering(t *testing.T) {
	t.Parallel()
	for name, tamper := range tamperings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSample(t)
			files := maps.Clone(s.files)
			kind, block := tamper(t, s, files)
			s.write(t, files)
			r := s.verify(t, nil)
			if block == ledger.NoBlock { // shorter or longer, it is not the log that was signed
				if r.OK() || r.Defects[0].Kind != kind && r.Defects[0].Kind != audit.DefectTail {
					t.Errorf("want %s: %+v", kind, r)
				}
			} else if !has(r, kind, block) {
				t.Errorf("want %s of block %d: %+v", kind, block, r)
			}
			if !strings.HasPrefix(r.Summary(), "violated") {
				t.Error(r.Summary())
			}
		})
	}
}

// Bytes between blocks that no block is missing for were put there. At the end
// of a group's newest segment they are what a crash leaves.
func TestVerifyInserted(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	junk := make([]byte, ledger.FrameHead+300)
	binary.BigEndian.PutUint32(junk, 300)
	newest := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		newest[name[strings.IndexByte(name, '-'):]] = name
	}
	for name, seg := range s.files {
		all := frames(t, seg)
		for i := range len(all) + 1 {
			files := maps.Clone(s.files)
			files[name] = join(seg, slices.Insert(slices.Clone(all), i, junk)...)
			s.write(t, files)
			r := s.verify(t, s.heads[1])
			end := i == len(all) && newest[name[strings.IndexByte(name, '-'):]] == name
			if r.OK() != end || end && len(r.Notes) == 0 {
				t.Errorf("%s, before block %d of %d: %+v", name, i, len(all), r)
			}
		}
	}
}

// Who can sign and cut is shown only by a checkpoint kept elsewhere.
func TestVerifySince(t *testing.T) {
	t.Parallel()
	s := newSample(t)
	head := func(b []byte) uint64 {
		n, err := ledger.HeadSize(b)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	files := maps.Clone(s.files)
	s.cut(t, files, int(head(s.heads[1])-head(s.heads[0])))
	s.write(t, files)
	if err := os.WriteFile(filepath.Join(s.cfg.Dir, "log", "checkpoint"), s.heads[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.verify(t, nil); !r.OK() || r.Anchored {
		t.Errorf("a log set back to an older head is consistent by itself: %+v", r)
	}
	r := s.verify(t, s.heads[1])
	if !has(r, audit.DefectTail, head(s.heads[0])) || r.Anchored {
		t.Errorf("%+v", r)
	}
}

// Open refuses what the signed head says is not whole, and changes nothing.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"block removed", "newest blocks cut", "a segment gone"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSample(t)
			files := maps.Clone(s.files)
			tamperings[name](t, s, files)
			s.write(t, files)
			if name == "block removed" { // in a sealed segment: only without the saved state is it read
				if err := os.Remove(filepath.Join(s.cfg.Dir, "state")); err != nil {
					t.Fatal(err)
				}
			}
			s.refused(t, files)
		})
	}
	t.Run("head gone", func(t *testing.T) {
		t.Parallel()
		s := newSample(t)
		if err := os.Remove(filepath.Join(s.cfg.Dir, "log", "checkpoint")); err != nil {
			t.Fatal(err)
		}
		s.refused(t, s.files)
	})
	t.Run("another key", func(t *testing.T) {
		t.Parallel()
		s := newSample(t)
		s.cfg.Signer, s.cfg.Verifier = newKey(t)
		s.refused(t, s.files)
	})
}

func (s *sample) refused(t *testing.T, files map[string][]byte) {
	t.Helper()
	l, err := audit.Open(context.Background(), s.cfg)
	if err == nil {
		closeLog(t, l)
		t.Fatal("the log was opened")
	}
	if !strings.Contains(err.Error(), "bulwark audit verify") {
		t.Errorf("got %v", err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(s.cfg.Dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s was changed", name)
		}
	}
	if got := segments(t, s.cfg.Dir); len(got) != len(files) {
		t.Errorf("files %v", got)
	}
}

// Retention leaves headers, a record, and a log that verifies; without the
// record it does not.
func TestRetention(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.SegmentBytes, cfg.Checkpoint = 2<<10, 2*time.Millisecond
	cfg.Linger = time.Millisecond
	cfg.Budgets = map[ledger.Class]int64{ledger.Allow: 16 << 10}
	l := open(t, cfg)
	id := tenant.New()
	dropped := func() (n int) {
		for _, name := range segments(t, cfg.Dir) {
			if strings.HasSuffix(name, "-allow.hdr") {
				n++
			}
		}
		return n
	}
	waitFor(t, func() bool {
		for range 20 {
			ev := deny(id)
			ev.Class = ledger.Allow
			if err := l.Append(context.Background(), ev); err != nil {
				t.Fatal(err)
			}
		}
		return dropped() >= 3
	})
	closeLog(t, l)
	s := &sample{cfg: cfg}
	r := s.verify(t, l.Head())
	if !r.OK() || r.Dropped == 0 || !r.Anchored {
		t.Fatalf("%+v", r)
	}
	cfg.Budgets = nil
	closeLog(t, open(t, cfg))
	if r := s.verify(t, l.Head()); !r.OK() {
		t.Fatalf("after another run: %+v", r)
	}
	var records int
	query(t, cfg, audit.Filter{Action: "log.drop"}, func(ev ledger.Stored) { records++ })
	if records < dropped() {
		t.Errorf("%d records of %d dropped segments", records, dropped())
	}
	// Somebody imitates retention on one more segment.
	for _, name := range segments(t, cfg.Dir) {
		if !strings.HasSuffix(name, "-allow.seg") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		head, err := ledger.ParseSegment(b[:ledger.SegmentHead])
		if err != nil {
			t.Fatal(err)
		}
		head.Headers = true
		out := head.Marshal()
		for _, f := range frames(t, b) {
			block, _, err := ledger.ParseHeader(f[ledger.FrameHead:])
			if err != nil {
				t.Fatal(err)
			}
			out = ledger.NewCodec().AppendFrame(out, block)
		}
		path := filepath.Join(cfg.Dir, name)
		if err := os.WriteFile(strings.TrimSuffix(path, ".seg")+".hdr", out, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		r := s.verify(t, nil)
		if r.OK() || r.Defects[0].Kind != audit.DefectUnrecorded || r.Defects[0].Segment != name {
			t.Errorf("%+v", r)
		}
		return
	}
	t.Fatal("no segment left")
}

// waitFor asks until ok, for at most the test's patience.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass in 30 s")
		}
		<-tick.C
	}
}

func query(t testing.TB, cfg audit.Config, f audit.Filter, do func(ledger.Stored)) {
	t.Helper()
	err := audit.Query(context.Background(), cfg.Dir, audit.QueryOptions{FS: cfg.FS, Filter: f}, func(ev ledger.Stored) bool {
		do(ev)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A log of more blocks than a tile has: full tiles, and defects of them.
func TestVerifyTiles(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	l := open(t, cfg)
	for range 600 {
		if err := l.Append(context.Background(), deny(tenant.Platform)); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	closeLog(t, open(t, cfg)) // the edge comes from full tiles
	s := &sample{cfg: cfg}
	if r := s.verify(t, l.Head()); !r.OK() || r.Blocks < 600 {
		t.Fatalf("%+v", r)
	}
	for _, name := range []string{"tile/0/000", "tile/0/001"} {
		path := filepath.Join(cfg.Dir, "log", name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[77]++
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := s.verify(t, nil); r.OK() || !strings.Contains(fmt.Sprint(r.Defects), name) {
			t.Errorf("%+v", r)
		}
	}
	// Tiles are derived: the next start makes them anew and says so.
	closeLog(t, open(t, cfg))
	if r := s.verify(t, l.Head()); !r.OK() {
		t.Errorf("after the rebuild: %+v", r)
	}
	rebuilt := 0
	query(t, cfg, audit.Filter{Action: "log.open"}, func(ev ledger.Stored) {
		if ev.Event.Detail["tiles"] == "rebuilt" {
			rebuilt++
		}
	})
	if rebuilt != 1 {
		t.Errorf("%d starts tell that they made tiles anew", rebuilt)
	}
}

// A start reads the end of a long log only; that earlier segments are there it
// knows from the saved state and from what each segment says of the one before.
func TestOpenMissesEarlySegments(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	cfg.SegmentBytes = 8 << 10
	l := open(t, cfg)
	ev := deny(tenant.Platform)
	ev.Class = ledger.Allow
	if err := l.Append(context.Background(), ev); err != nil {
		t.Fatal(err)
	}
	for range 600 {
		if err := l.Append(context.Background(), deny(tenant.Platform)); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	closeLog(t, open(t, cfg))
	s := &sample{cfg: cfg, files: map[string][]byte{}}
	var durable, allow []string
	for _, name := range segments(t, cfg.Dir) {
		b, err := os.ReadFile(filepath.Join(cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		s.files[name] = b
		if strings.Contains(name, "-allow.") {
			allow = append(allow, name)
		} else {
			durable = append(durable, name)
		}
	}
	if len(allow) != 1 || len(durable) < 10 {
		t.Fatalf("segments: %v %v", allow, durable)
	}
	for _, name := range []string{allow[0], durable[0], durable[2]} {
		files := maps.Clone(s.files)
		delete(files, name)
		s.write(t, files)
		s.refused(t, files)
	}
	s.write(t, s.files)
	closeLog(t, open(t, cfg))
}
