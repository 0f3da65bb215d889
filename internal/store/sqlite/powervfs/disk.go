// Package powervfs is a disk for SQLite that forgets what was not synced, for tests of power loss.
//
// A [Disk] stands between SQLite and its VFS of the operating system. It lets
// every call through, except syncs, and keeps beside them what a real disk
// would promise: for each file the bytes that were synced and the writes since.
// At any call it can give an [Image]: the files as they may look after a power
// cut at that moment, with the writes since the last sync missing, partly there
// or torn.
package powervfs

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Op is what SQLite asks of the disk.
type Op string

// The operations that a cut can fall on and a fault can hit.
const (
	Write    Op = "write"
	Truncate Op = "truncate"
	Sync     Op = "sync"
	Remove   Op = "delete"
)

// change is one write or truncation since the last sync.
type change struct {
	data     []byte // nil for a truncation
	at       int64  // offset, or the new size
	truncate bool
}

// file is one inode.
type file struct {
	durable []byte
	pending []change
	linked  bool  // the directory's entry is durable
	entry   bool  // the next sync also syncs the directory
	removed bool  // the entry was deleted, not durably
	before  *file // what the name pointed to, as long as that may come back
}

// Disk is the model of one disk. It is safe for concurrent use. SQLite knows of
// it by addresses only, so its owner must hold it until Close.
type Disk struct {
	mu    sync.Mutex
	files map[string]*file // by path
	ops   int64
	cutAt int64
	cut   func(*Image)
	fault func(Op, string) int32
	keep  []any // functions that SQLite holds by address only
	undo  func()
}

// Ops returns how many operations there were.
func (d *Disk) Ops() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// CutAfter has fn called with the state of the disk once n further operations
// are done: on SQLite's own way, which stands still meanwhile, and without any
// lock held. A new call replaces an earlier one that has not happened yet.
func (d *Disk) CutAfter(n int64, fn func(*Image)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt, d.cut = d.ops+max(n, 1), fn
}

// Fail makes operations fail with the SQLite result code that fn gives for
// them; 0 lets one through. nil ends it. fn gets the file's path.
func (d *Disk) Fail(fn func(Op, string) int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fn
}

// begin counts an operation that is about to happen and returns the code with
// which it must fail.
func (d *Disk) begin(op Op, name string) int32 {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if fault == nil {
		return 0
	}
	return fault(op, name)
}

// done takes an operation that happened into the model, and cuts if it is time.
func (d *Disk) done(apply func()) {
	d.mu.Lock()
	apply()
	d.ops++
	fn := d.cut
	if fn == nil || d.ops < d.cutAt {
		d.mu.Unlock()
		return
	}
	d.cut = nil
	image := d.image()
	d.mu.Unlock()
	fn(image)
}

// open takes a file into the model: content that is there already is durable.
// entry says that SQLite's VFS will sync the directory with the file's first
// sync, as it does for journals.
func (d *Disk) open(name string, content []byte, exists, entry bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.files[name]
	switch {
	case old != nil && !old.removed:
	case old != nil:
		d.files[name] = &file{before: old}
	default:
		d.files[name] = &file{durable: content, linked: exists}
	}
	d.files[name].entry = d.files[name].entry || entry
}

func (d *Disk) record(name string, c change) func() {
	return func() {
		f := d.files[name]
		f.pending = append(f.pending, c)
	}
}

// synced makes the first n pending changes durable.
func (d *Disk) synced(name string, n int) func() {
	return func() {
		f := d.files[name]
		for _, c := range f.pending[:n] {
			f.durable = c.onto(f.durable, len(c.data))
		}
		f.pending = slices.Clone(f.pending[n:])
		if f.entry {
			f.entry = false
			d.syncDir()
		}
	}
}

// doomed takes a failed sync into the model: the kernel forgets the pages that
// it could not write, and a later sync succeeds without them.
func (d *Disk) doomed(name string) func() {
	return func() { d.files[name].pending = nil }
}

// syncDir makes all names durable, and all deletions. A database has one
// directory.
func (d *Disk) syncDir() {
	for name, f := range d.files {
		f.linked, f.before = true, nil
		if f.removed {
			delete(d.files, name)
		}
	}
}

func (d *Disk) waiting(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.files[name].pending)
}

func (d *Disk) removed(name string, durably bool) func() {
	return func() {
		if f := d.files[name]; f != nil {
			f.removed = true
		}
		if durably {
			d.syncDir()
		}
	}
}

// onto applies the first n bytes of the change.
func (c change) onto(b []byte, n int) []byte {
	if c.truncate {
		if int64(len(b)) > c.at {
			return b[:c.at]
		}
		return append(b, make([]byte, c.at-int64(len(b)))...)
	}
	if end := c.at + int64(n); int64(len(b)) < end {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[c.at:], c.data[:n])
	return b
}

// Image is the state of the disk at one moment. It does not change.
type Image struct{ files map[string]*file }

func (d *Disk) image() *Image {
	var clone func(f *file) *file
	clone = func(f *file) *file {
		if f == nil {
			return nil
		}
		c := *f
		c.durable, c.pending, c.before = slices.Clone(f.durable), slices.Clone(f.pending), clone(f.before)
		return &c
	}
	im := &Image{files: map[string]*file{}}
	for name, f := range d.files {
		im.files[name] = clone(f)
	}
	return im
}

// Loss says what happens to the writes since the last sync.
type Loss uint8

// The losses. A test tries all of them.
const (
	All     Loss = iota // none of them arrived
	Suffix              // a first part arrived, in order, the last of it torn
	Scatter             // any of them arrived, each perhaps torn
	Nothing             // all arrived
)

// Losses lists the losses.
func Losses() []Loss { return []Loss{All, Suffix, Scatter, Nothing} }

// WriteTo writes the files as they are after the power came back into dir,
// under their base names.
func (im *Image) WriteTo(dir string, loss Loss, rng *rand.Rand) error {
	for _, name := range slices.Sorted(maps.Keys(im.files)) {
		f := im.files[name].survivor(loss, rng)
		if f == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), f.after(loss, rng), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// survivor returns the inode that the name points to after the cut, nil for none.
func (f *file) survivor(loss Loss, rng *rand.Rand) *file {
	kept := loss == Nothing || loss != All && rng.IntN(2) == 0
	switch {
	case f.removed && kept: // the deletion arrived
		return nil
	case f.linked || kept || f.removed:
		return f
	case f.before != nil:
		return f.before.survivor(loss, rng)
	}
	return nil
}

func (f *file) after(loss Loss, rng *rand.Rand) []byte {
	b := slices.Clone(f.durable)
	switch loss {
	case Nothing:
		for _, c := range f.pending {
			b = c.onto(b, len(c.data))
		}
	case Suffix:
		for i, n := 0, rng.IntN(len(f.pending)+1); i < n; i++ {
			whole := len(f.pending[i].data)
			if i == n-1 {
				whole = rng.IntN(whole + 1)
			}
			b = f.pending[i].onto(b, whole)
		}
	case Scatter:
		// Of two writes to one place the older never arrives after the newer:
		// the kernel's cache holds one version. So the order stays.
		for _, c := range f.pending {
			if rng.IntN(2) == 0 {
				continue
			}
			whole := len(c.data)
			if rng.IntN(3) == 0 {
				whole = rng.IntN(whole + 1)
			}
			b = c.onto(b, whole)
		}
	case All:
	}
	return b
}
