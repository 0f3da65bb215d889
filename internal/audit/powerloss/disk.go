// Package powerloss is a disk that forgets what was not synced.
//
// It is test support: a whole file system in memory that keeps, beside what a
// process sees, what a disk would still hold after the power went: contents
// that were synced, and directory entries whose directory was synced. What was
// not may be there, in part, or not at all.
package powerloss

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
)

// The kinds of operation that a hook sees.
const (
	Create   = "create"
	Write    = "write"
	Truncate = "truncate"
	Rename   = "rename"
	Remove   = "remove"
	Mkdir    = "mkdir"
	Sync     = "sync"    // fdatasync of a file
	SyncDir  = "syncdir" // fsync of a directory
)

// Op is one operation that changes the disk.
type Op struct {
	Kind  string
	Path  string
	Calls []string // the lines that lead to it, innermost first, as function:line
}

// ErrStopped is what every operation returns after the process was stopped.
var ErrStopped = errors.New("powerloss: the process is gone")

// Disk is the disk. It is safe for concurrent use.
type Disk struct {
	mu       sync.Mutex
	root     *node
	process  int // operations of an older process fail
	ops      int
	stopAt   int // ops after which the process stops, 0 for never
	capacity int64
	used     int64
	hook     func(Op) error
	ignore   func(Op) bool
	locks    map[string]bool
}

// node is a file or a directory.
type node struct {
	dir bool

	data    []byte // what the process sees
	durable []byte // what is on the platter
	pending []change

	entries  map[string]*node
	kept     map[string]*node
	unsynced []entryChange
}

// change is a write, or a truncation when data is nil.
type change struct {
	off  int64
	data []byte
}

// entryChange is one atomic change of a directory: names to nodes, nil for gone.
type entryChange map[string]*node

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, kept: map[string]*node{}}
}

// New returns an empty disk of unlimited capacity.
func New() *Disk {
	return &Disk{root: newDir(), capacity: math.MaxInt64 / 2, locks: map[string]bool{}}
}

// FS returns the disk as the running process sees it. It ends with [Disk.Kill]
// or [Disk.PowerCut].
func (d *Disk) FS() audit.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fsys{d, d.process}
}

// Hook makes f decide about every operation that changes the disk: its error
// is the operation's, and [ErrStopped] stops the process before it. A sync that fails so loses the pages for good, although
// the process still sees them and a later sync succeeds, as on Linux.
func (d *Disk) Hook(f func(Op) error) { d.mu.Lock(); d.hook = f; d.mu.Unlock() }

// Ignore makes syncs for which f is true do nothing and succeed: a program
// without that line.
func (d *Disk) Ignore(f func(Op) bool) { d.mu.Lock(); d.ignore = f; d.mu.Unlock() }

// StopAfter stops the process after n more operations that change the disk.
func (d *Disk) StopAfter(n int) { d.mu.Lock(); d.stopAt = d.ops + n; d.mu.Unlock() }

// Stopped reports whether the running process was stopped.
func (d *Disk) Stopped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopAt > 0 && d.ops >= d.stopAt
}

// Ops returns how many operations changed the disk so far.
func (d *Disk) Ops() int { d.mu.Lock(); defer d.mu.Unlock(); return d.ops }

// SetCapacity bounds the bytes that all files take.
func (d *Disk) SetCapacity(n int64) { d.mu.Lock(); d.capacity = n; d.mu.Unlock() }

// Used returns the bytes that all files take.
func (d *Disk) Used() int64 { d.mu.Lock(); defer d.mu.Unlock(); return d.used }

// Kill ends the process as kill -9 does: the page cache survives.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
}

func (d *Disk) end() {
	d.process++
	d.stopAt = 0
	d.locks = map[string]bool{}
}

// PowerCut ends the process and leaves what a disk may hold then, chosen by r.
func (d *Disk) PowerCut(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.end()
	d.used = 0
	d.root = d.survive(d.root, r)
}

func (d *Disk) survive(n *node, r *rand.Rand) *node {
	if !n.dir {
		data := surviveFile(n, r)
		d.used += int64(len(data))
		return &node{data: data, durable: slices.Clone(data)}
	}
	out := newDir()
	for name, child := range n.kept {
		out.kept[name] = child
	}
	// A directory's changes reach the disk in order up to some point, as with
	// a journal, or each by itself, which is all that POSIX promises.
	until, ordered := r.IntN(len(n.unsynced)+1), r.IntN(2) == 0
	for i, c := range n.unsynced {
		if ordered && i < until || !ordered && r.IntN(2) == 0 {
			apply(out.kept, c)
		}
	}
	names := make([]string, 0, len(out.kept))
	for name := range out.kept {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed gives one image
	for _, name := range names {
		out.kept[name] = d.survive(out.kept[name], r)
		out.entries[name] = out.kept[name]
	}
	return out
}

func apply(entries map[string]*node, c entryChange) {
	for name, n := range c {
		if n == nil {
			delete(entries, name)
		} else {
			entries[name] = n
		}
	}
}

const page = 4096

func surviveFile(n *node, r *rand.Rand) []byte {
	switch r.IntN(4) {
	case 0: // nothing of it
		return slices.Clone(n.durable)
	case 1: // all of it
		return replay(n.durable, n.pending)
	case 2: // the first changes, and a part of the next
		k := r.IntN(len(n.pending) + 1)
		out := replay(n.durable, n.pending[:k])
		if k < len(n.pending) && len(n.pending[k].data) > 0 {
			c := n.pending[k]
			out = replay(out, []change{{c.off, c.data[:r.IntN(len(c.data))]}})
		}
		return out
	}
	// Any of the touched pages, in any order, old or new or garbage.
	whole := replay(n.durable, n.pending)
	if r.IntN(2) == 0 && len(whole) > len(n.durable) {
		whole = whole[:len(n.durable)+r.IntN(len(whole)-len(n.durable)+1)]
	}
	for _, c := range n.pending {
		for p := c.off / page * page; p < c.off+int64(len(c.data)); p += page {
			tearPage(whole, n.durable, p, r)
		}
	}
	return whole
}

func tearPage(whole, durable []byte, p int64, r *rand.Rand) {
	if p >= int64(len(whole)) {
		return
	}
	dst := whole[p:min(p+page, int64(len(whole)))]
	old := make([]byte, len(dst))
	if p < int64(len(durable)) {
		copy(old, durable[p:])
	}
	switch r.IntN(4) {
	case 0:
		copy(dst, old)
	case 1: // torn inside the page, but never in front of what was there
		at := r.IntN(len(dst) + 1)
		copy(dst[at:], old[at:])
	case 2:
		for i := range dst {
			if p+int64(i) >= int64(len(durable)) {
				dst[i] = byte(r.Uint32())
			}
		}
	}
}

func replay(base []byte, changes []change) []byte {
	out := slices.Clone(base)
	for _, c := range changes {
		out = put(out, c)
	}
	return out
}

func put(out []byte, c change) []byte {
	if c.data == nil {
		if c.off <= int64(len(out)) {
			return out[:c.off:c.off]
		}
		return append(out, make([]byte, c.off-int64(len(out)))...)
	}
	if end := c.off + int64(len(c.data)); end > int64(len(out)) {
		out = append(out, make([]byte, end-int64(len(out)))...)
	}
	copy(out[c.off:], c.data)
	return out
}

// Save writes what the process sees to a directory of the real disk.
func (d *Disk) Save(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return save(d.root, dir)
}

func save(n *node, name string) error {
	if !n.dir {
		return os.WriteFile(name, n.data, 0o600)
	}
	if err := os.MkdirAll(name, 0o700); err != nil {
		return err
	}
	for child, c := range n.entries {
		if err := save(c, filepath.Join(name, child)); err != nil {
			return err
		}
	}
	return nil
}

// begin decides about an operation; the caller holds the lock.
func (d *Disk) begin(process int, kind, name string) error {
	if process != d.process || (d.stopAt > 0 && d.ops >= d.stopAt) {
		return ErrStopped
	}
	d.ops++
	if d.hook == nil {
		return nil
	}
	err := d.hook(Op{kind, name, callers()})
	if err == ErrStopped {
		d.stopAt = d.ops
	}
	return err
}

func (d *Disk) ignored(kind, name string) bool {
	return d.ignore != nil && d.ignore(Op{kind, name, callers()})
}

// callers names the place in the program: the lines outside this package.
func callers() []string {
	pcs := make([]uintptr, 12)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var calls []string
	for {
		f, more := frames.Next()
		fn := f.Function[strings.LastIndexByte(f.Function, '/')+1:]
		if !strings.HasPrefix(fn, "powerloss.") && !strings.HasPrefix(fn, "runtime.") {
			calls = append(calls, fmt.Sprintf("%s:%d", fn, f.Line))
		}
		if !more {
			return calls
		}
	}
}

func (d *Disk) find(name string) (*node, error) {
	n := d.root
	for _, part := range split(name) {
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		child := n.entries[part]
		if child == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		n = child
	}
	return n, nil
}

func split(name string) []string {
	return strings.FieldsFunc(filepath.ToSlash(filepath.Clean(name)), func(r rune) bool { return r == '/' })
}

func (d *Disk) parent(name string) (*node, string, error) {
	n, err := d.find(filepath.Dir(name))
	if err != nil {
		return nil, "", err
	}
	if !n.dir {
		return nil, "", syscall.ENOTDIR
	}
	return n, filepath.Base(name), nil
}

func (n *node) change(c entryChange) {
	apply(n.entries, c)
	n.unsynced = append(n.unsynced, c)
}

// fsys is the disk in the hands of one process.
type fsys struct {
	d       *Disk
	process int
}

func (f fsys) OpenFile(name string, flag int) (audit.File, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.process != d.process {
		return nil, ErrStopped
	}
	n, err := d.find(name)
	switch {
	case err == nil && n.dir:
		return nil, syscall.EISDIR
	case err == nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case err == nil:
		if flag&os.O_TRUNC != 0 && len(n.data) > 0 {
			if err := d.begin(f.process, Truncate, name); err != nil {
				return nil, err
			}
			d.write(n, change{0, nil})
		}
	case errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0:
		dir, base, err := d.parent(name)
		if err != nil {
			return nil, err
		}
		if err := d.begin(f.process, Create, name); err != nil {
			return nil, err
		}
		n = &node{}
		dir.change(entryChange{base: n})
	default:
		return nil, err
	}
	return &file{d, f.process, n, name}, nil
}

func (d *Disk) write(n *node, c change) {
	d.used -= int64(len(n.data))
	n.data = put(n.data, c)
	d.used += int64(len(n.data))
	n.pending = append(n.pending, c)
}

func (f fsys) MkdirAll(name string) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.root
	for _, part := range split(name) {
		child := n.entries[part]
		if child == nil {
			if err := d.begin(f.process, Mkdir, name); err != nil {
				return err
			}
			child = newDir()
			n.change(entryChange{part: child})
		}
		if !child.dir {
			return syscall.ENOTDIR
		}
		n = child
	}
	return nil
}

func (f fsys) Rename(from, to string) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if filepath.Dir(from) != filepath.Dir(to) {
		return errors.New("powerloss: a rename between directories is not modelled")
	}
	dir, base, err := d.parent(from)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if err := d.begin(f.process, Rename, to); err != nil {
		return err
	}
	if old := dir.entries[filepath.Base(to)]; old != nil {
		d.used -= int64(len(old.data))
	}
	dir.change(entryChange{base: nil, filepath.Base(to): n})
	return nil
}

func (f fsys) Remove(name string) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.parent(name)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if n.dir && len(n.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	if err := d.begin(f.process, Remove, name); err != nil {
		return err
	}
	d.used -= int64(len(n.data))
	dir.change(entryChange{base: nil})
	return nil
}

func (f fsys) ReadDir(name string) ([]audit.FileInfo, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.process != d.process {
		return nil, ErrStopped
	}
	n, err := d.find(name)
	if err != nil {
		return nil, err
	}
	var out []audit.FileInfo
	for base, child := range n.entries {
		if !child.dir {
			out = append(out, audit.FileInfo{Name: base, Size: int64(len(child.data))})
		}
	}
	slices.SortFunc(out, func(a, b audit.FileInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (f fsys) SyncDir(name string) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return err
	}
	if err := d.begin(f.process, SyncDir, name); err != nil {
		return err
	}
	if d.ignored(SyncDir, name) {
		return nil
	}
	for _, c := range n.unsynced {
		apply(n.kept, c)
	}
	n.unsynced = nil
	return nil
}

func (f fsys) Free(string) (int64, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.capacity-d.used, 0), nil
}

func (f fsys) Lock(name string) (io.Closer, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.process != d.process {
		return nil, ErrStopped
	}
	if d.locks[name] {
		return nil, fault.New(fault.Conflict, "the file is locked")
	}
	d.locks[name] = true
	return lock{d, f.process, name}, nil
}

type lock struct {
	d       *Disk
	process int
	name    string
}

func (l lock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if l.process == l.d.process {
		delete(l.d.locks, l.name)
	}
	return nil
}

// file is an open file.
type file struct {
	d       *Disk
	process int
	n       *node
	name    string
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.process != f.d.process {
		return 0, ErrStopped
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.process, Write, f.name); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	grow := max(off+int64(len(p))-int64(len(f.n.data)), 0)
	if room := d.capacity - d.used; grow > room {
		if n := int64(len(p)) - (grow - max(room, 0)); n > 0 {
			d.write(f.n, change{off, slices.Clone(p[:n])})
			return int(n), syscall.ENOSPC
		}
		return 0, syscall.ENOSPC
	}
	d.write(f.n, change{off, slices.Clone(p)})
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.process, Truncate, f.name); err != nil {
		return err
	}
	d.write(f.n, change{size, nil})
	return nil
}

func (f *file) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.process != f.d.process {
		return 0, ErrStopped
	}
	return int64(len(f.n.data)), nil
}

func (f *file) Sync() error {
	d := f.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(f.process, Sync, f.name); err != nil {
		if !errors.Is(err, ErrStopped) {
			f.n.pending = nil // the pages are clean now, and were never written
		}
		return err
	}
	if d.ignored(Sync, f.name) {
		return nil
	}
	for _, c := range f.n.pending {
		f.n.durable = put(f.n.durable, c)
	}
	f.n.pending = nil
	return nil
}

func (f *file) Close() error { return nil }
