package audit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// Filter says which events are meant; empty fields mean any.
type Filter struct {
	Tenant    string
	Class     ledger.Class
	Action    string
	Subject   string
	Resource  string
	Decision  string
	Reason    string
	RequestID string
	After     time.Time // not before it
	Before    time.Time // before it, not at it
}

func (f *Filter) match(ev *ledger.Event) bool {
	return (f.Tenant == "" || f.Tenant == ev.Tenant.String()) &&
		(f.Class == 0 || f.Class == ev.Class) &&
		(f.Action == "" || f.Action == ev.Action) &&
		(f.Subject == "" || f.Subject == ev.Subject) &&
		(f.Resource == "" || f.Resource == ev.Resource) &&
		(f.Decision == "" || f.Decision == ev.Decision) &&
		(f.Reason == "" || f.Reason == ev.Reason) &&
		(f.RequestID == "" || f.RequestID == ev.RequestID || f.RequestID == ev.DecisionID) &&
		(f.After.IsZero() || !ev.Time.Before(f.After)) &&
		(f.Before.IsZero() || ev.Time.Before(f.Before))
}

// inBlock reports whether a block can hold a match, by its header alone.
func (f *Filter) inBlock(b *ledger.Block, tag *ledger.Tag) bool {
	if f.Class != 0 && b.Leaf.Classes&(1<<(f.Class&15)) == 0 ||
		!f.After.IsZero() && b.Leaf.Last < f.After.UnixNano() ||
		!f.Before.IsZero() && b.Leaf.First >= f.Before.UnixNano() {
		return false
	}
	return tag == nil || slices.ContainsFunc(b.Subs, func(s ledger.SubRoot) bool { return s.Tag == *tag })
}

// QueryOptions says what to read and in which order.
type QueryOptions struct {
	FS          FS // default: the operating system's
	Filter      Filter
	Limit       int // 0: all
	NewestFirst bool
}

// Query gives the matching events to yield, block by block, each block's in
// the order of time; it stops after Limit events or when yield returns false.
// It reads a log offline or beside its writer, and passes over what is not
// complete at the end. It does not verify. The error has kind
// [fault.Integrity] where the log does not parse and [fault.Unavailable] where
// it cannot be read.
func Query(ctx context.Context, dir string, opts QueryOptions, yield func(ledger.Stored) bool) error {
	r, err := newReading(opts.FS, dir, opts.Filter)
	if err != nil {
		return err
	}
	var next func() (frame, error)
	if opts.NewestFirst {
		b := backwards(r.fsys, dir, r.files, 1<<groupCount-1)
		defer b.close()
		next = b.next
	} else {
		m := mergeFrom(r.fsys, dir, r.files, 0)
		defer m.close()
		next = m.next
	}
	n := 0
	for {
		if ctx.Err() != nil {
			return fault.Wrap(fault.Unavailable, "the query was ended", ctx.Err())
		}
		fr, err := next()
		if err == io.EOF || err == errTorn {
			return nil
		}
		if err != nil {
			return readError(err)
		}
		events, err := r.events(fr)
		if err != nil {
			return err
		}
		if opts.NewestFirst {
			slices.Reverse(events)
		}
		for _, ev := range events {
			if !yield(ev) {
				return nil
			}
			if n++; n == opts.Limit {
				return nil
			}
		}
	}
}

func readError(err error) error {
	if k := fault.KindOf(err); k == fault.Integrity || k == fault.Unsupported {
		return err
	}
	return fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
}

// reading is what all readers of events share.
type reading struct {
	fsys   FS
	files  []segFile
	codec  *ledger.Codec
	filter Filter
	tag    *ledger.Tag
}

func newReading(fsys FS, dir string, f Filter) (*reading, error) {
	if fsys == nil {
		fsys = OS()
	}
	r := &reading{fsys: fsys, codec: ledger.NewCodec(), filter: f}
	if f.Tenant != "" {
		// The tag of the tenant lets whole blocks be passed over. The head's
		// first line names the log; unverified, it can only cost time.
		if head, err := readHead(fsys, dir); err == nil {
			origin, _, _ := strings.Cut(string(head), "\n")
			tag := ledger.TagOf(origin, f.Tenant)
			r.tag = &tag
		}
	}
	files, err := listSegments(fsys, dir)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the audit log cannot be read", err)
	}
	r.files = files
	return r, nil
}

// events returns the matching events of a block in the order of time.
func (r *reading) events(fr frame) ([]ledger.Stored, error) {
	b := fr.block
	if len(fr.packed) == 0 || !r.filter.inBlock(b, r.tag) {
		return nil, nil
	}
	if err := r.codec.Unpack(b, fr.packed); err != nil {
		return nil, err
	}
	raws, err := b.Events()
	if err != nil {
		return nil, err
	}
	var out []ledger.Stored
	i := 0
	for _, s := range b.Subs {
		for k := range s.Count {
			if i == len(raws) {
				return nil, fault.New(fault.Integrity, "a block states more events than it holds")
			}
			ev, err := ledger.DecodeEvent(raws[i])
			if err != nil {
				return nil, err
			}
			if r.filter.match(&ev) {
				out = append(out, ledger.Stored{Block: b.Leaf.Block, Seq: s.First + uint64(k), Raw: raws[i], Event: ev})
			}
			i++
		}
	}
	slices.SortStableFunc(out, func(a, b ledger.Stored) int { return a.Event.Time.Compare(b.Event.Time) })
	return out, nil
}

// Prove makes the proof of the event with that id against the stored signed
// head. A tenant's id bounds the search to that tenant's events; empty means
// all. The error has kind [fault.NotFound] when no block that the head covers
// holds it (a running log signs a head every second), [fault.Integrity] when
// the log does not fit its head.
func Prove(ctx context.Context, dir, of, id string, fsys FS, v note.Verifier) (*ledger.Proof, error) {
	if fsys == nil {
		fsys = OS()
	}
	var p *ledger.Proof
	var err error
	// The edge tiles of a head go when the next one is written: try again.
	for range 3 {
		if p, err = prove(ctx, dir, of, id, fsys, v); err == nil || !errors.Is(err, os.ErrNotExist) {
			return p, err
		}
	}
	return nil, err
}

func prove(ctx context.Context, dir, of, id string, fsys FS, v note.Verifier) (*ledger.Proof, error) {
	signed, err := readHead(fsys, dir)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the signed head cannot be read", err)
	}
	head, err := ledger.ParseCheckpoint(signed, v)
	if err != nil {
		return nil, err
	}
	r, err := newReading(fsys, dir, Filter{Tenant: of})
	if err != nil {
		return nil, err
	}
	back := backwards(fsys, dir, r.files, 1<<groupCount-1)
	back.until = head.Size
	defer back.close()
	for ctx.Err() == nil {
		fr, err := back.next()
		if err == io.EOF {
			return nil, fault.New(fault.NotFound, "no event of that id is in the part of the log that its signed head covers")
		}
		if err != nil {
			return nil, readError(err)
		}
		if len(fr.packed) == 0 || !r.filter.inBlock(fr.block, r.tag) {
			continue
		}
		if err := back.codec.Unpack(fr.block, fr.packed); err != nil {
			return nil, err
		}
		raws, err := fr.block.Events()
		if err != nil {
			return nil, err
		}
		for i, raw := range raws {
			ev, err := ledger.DecodeEvent(raw)
			if err != nil {
				return nil, err
			}
			if ev.ID == id && r.filter.match(&ev) {
				return proofOf(fsys, dir, fr.block, i, head, signed, v)
			}
		}
	}
	return nil, fault.Wrap(fault.Unavailable, "the search was ended", ctx.Err())
}

func proofOf(fsys FS, dir string, b *ledger.Block, i int, head ledger.Checkpoint, signed []byte, v note.Verifier) (*ledger.Proof, error) {
	path, err := ledger.ProveLeaf(head.Size, b.Leaf.Block, head.Root, func(path string) ([]byte, error) {
		return readFile(fsys, filepath.Join(dir, "log", path), 1<<16)
	})
	if err != nil {
		return nil, err
	}
	p, err := ledger.Prove(b, i, path, signed)
	if err != nil {
		return nil, err
	}
	if _, _, err := p.Verify(v); err != nil {
		return nil, err
	}
	return p, nil
}

// ExportOptions says what to export.
type ExportOptions struct {
	FS     FS // default: the operating system's
	Filter Filter
	From   uint64        // first block
	Follow bool          // go on until the context ends
	Poll   time.Duration // how often a followed log is looked at; 200 ms
}

// Export writes matching events as NDJSON, one event a line, in the order of
// blocks, and returns the block to go on from. It stops at the signed head:
// what is not signed for may still be taken back by a failed write. With
// Follow it goes on as the log grows and ends, without error, with ctx.
// Errors are those of [Query], and what w returns.
func Export(ctx context.Context, dir string, opts ExportOptions, w io.Writer) (uint64, error) {
	if opts.FS == nil {
		opts.FS = OS()
	}
	setDefault(&opts.Poll, 200*time.Millisecond)
	poll := time.NewTicker(opts.Poll)
	defer poll.Stop()
	ends := map[string]int64{} // where reading goes on in each file
	from := opts.From
	for {
		size, err := headSize(opts.FS, dir)
		if err != nil {
			return from, err
		}
		if from < size {
			if from, err = exportRange(ctx, dir, opts, from, size, ends, w); err != nil {
				return from, err
			}
		}
		if !opts.Follow {
			return from, nil
		}
		select {
		case <-ctx.Done():
			return from, nil
		case <-poll.C:
		}
	}
}

func headSize(fsys FS, dir string) (uint64, error) {
	head, err := readHead(fsys, dir)
	if err != nil {
		return 0, fault.Wrap(fault.Unavailable, "the signed head cannot be read", err)
	}
	return ledger.HeadSize(head)
}

func exportRange(ctx context.Context, dir string, opts ExportOptions, from, to uint64, ends map[string]int64, w io.Writer) (uint64, error) {
	r, err := newReading(opts.FS, dir, opts.Filter)
	if err != nil {
		return from, err
	}
	for i := range r.files {
		r.files[i].skip = ends[r.files[i].name]
	}
	m := mergeFrom(r.fsys, dir, r.files, from)
	defer m.close()
	for from < to && ctx.Err() == nil {
		fr, err := m.next()
		if err != nil {
			if err == io.EOF || err == errTorn {
				err = fault.New(fault.Integrity, "the audit log ends before its signed head; run `bulwark audit verify`")
			}
			return from, readError(err)
		}
		no := fr.block.Leaf.Block
		if no < from {
			ends[fr.file.name] = fr.end
			continue
		}
		if no != from {
			return from, fault.New(fault.Integrity, "a block of the audit log is missing; run `bulwark audit verify`")
		}
		events, err := r.events(fr)
		if err != nil {
			return from, err
		}
		if err := writeLines(w, events); err != nil {
			return from, err
		}
		ends[fr.file.name] = fr.end
		from++
	}
	return from, nil
}

func writeLines(w io.Writer, events []ledger.Stored) error {
	for i := range events {
		line, err := json.Marshal(events[i])
		if err != nil {
			return fault.Wrap(fault.Internal, "an event cannot be written as JSON", err)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// Tail writes the newest n matching events, oldest first, and with
// opts.Follow goes on like [Export]. opts.From is not used.
func Tail(ctx context.Context, dir string, n int, opts ExportOptions, w io.Writer) error {
	if opts.FS == nil {
		opts.FS = OS()
	}
	size, err := headSize(opts.FS, dir)
	if err != nil {
		return err
	}
	var last []ledger.Stored
	if n > 0 {
		err = Query(ctx, dir, QueryOptions{FS: opts.FS, Filter: opts.Filter, NewestFirst: true}, func(ev ledger.Stored) bool {
			if ev.Block < size {
				last = append(last, ev)
			}
			return len(last) < n
		})
		if err != nil {
			return err
		}
	}
	slices.Reverse(last)
	if err := writeLines(w, last); err != nil || !opts.Follow {
		return err
	}
	opts.From = size
	_, err = Export(ctx, dir, opts, w)
	return err
}
