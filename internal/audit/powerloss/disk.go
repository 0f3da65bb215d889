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
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"bulwark.example/internal/audit"
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
