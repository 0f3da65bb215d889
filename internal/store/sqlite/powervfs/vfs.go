package powervfs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// The types of the C functions that are wrapped, in the driver's translation.
type (
	openFunc     = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32
	removeFunc   = func(tls *libc.TLS, vfs, name uintptr, sync int32) int32
	closeFunc    = func(tls *libc.TLS, file uintptr) int32
	writeFunc    = func(tls *libc.TLS, file, data uintptr, n int32, at int64) int32
	truncateFunc = func(tls *libc.TLS, file uintptr, size int64) int32
	syncFunc     = func(tls *libc.TLS, file uintptr, flags int32) int32
)

// New returns a disk and registers it with SQLite as the VFS of the given
// name, which must be a fresh one. Close ends it.
func New(name string) (*Disk, error) {
	tls := libc.NewTLS()
	defer tls.Close()
	base := sqlite3.Xsqlite3_vfs_find(tls, 0)
	if base == 0 {
		return nil, errors.New("powervfs: SQLite has no default VFS")
	}
	cname, err := libc.CString(name)
	if err != nil {
		return nil, err
	}
	if sqlite3.Xsqlite3_vfs_find(tls, cname) != 0 {
		libc.Xfree(tls, cname)
		return nil, fmt.Errorf("powervfs: the VFS %q is registered already", name)
	}
	d := &Disk{files: map[string]*file{}}
	w := &wrapper{disk: d, base: base, open: map[uintptr]*opened{}, tables: map[uintptr]uintptr{}}
	vfs := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})))
	v, b := (*sqlite3.Tsqlite3_vfs)(at(vfs)), (*sqlite3.Tsqlite3_vfs)(at(base))
	*v = *b
	v.FpNext, v.FzName = 0, cname
	v.FxOpen = address(d, openFunc(w.xOpen))
	v.FxDelete = address(d, removeFunc(w.xDelete))
	if rc := sqlite3.Xsqlite3_vfs_register(tls, vfs, 0); rc != sqlite3.SQLITE_OK {
		return nil, fmt.Errorf("powervfs: SQLite refuses the VFS: code %d", rc)
	}
	d.undo = func() {
		tls := libc.NewTLS()
		defer tls.Close()
		sqlite3.Xsqlite3_vfs_unregister(tls, vfs)
		for _, table := range w.tables {
			libc.Xfree(tls, table)
		}
		libc.Xfree(tls, vfs)
		libc.Xfree(tls, cname)
	}
	return d, nil
}

// Close unregisters the VFS. Every database on it must be closed before.
func (d *Disk) Close() { d.undo() }

// at is the memory behind an address of the C heap, which Go does not manage.
func at(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// address returns f as a C function pointer: the driver's translation calls
// through the address of a Go closure. The disk keeps the closure alive.
func address[F any](d *Disk, f F) uintptr {
	d.keep = append(d.keep, f)
	return *(*uintptr)(unsafe.Pointer(&f))
}

// function is the way back from a C function pointer.
func function[F any](p uintptr) F { return *(*F)(unsafe.Pointer(&p)) }

// opened is a file that SQLite has open.
type opened struct {
	name    string
	methods *sqlite3.Tsqlite3_io_methods // of the operating system's VFS
	remove  bool                         // at close
}

type wrapper struct {
	disk *Disk
	base uintptr

	mu     sync.Mutex
	open   map[uintptr]*opened // by the address of the sqlite3_file
	tables map[uintptr]uintptr // our method table for each of the base VFS's
}

func (w *wrapper) xOpen(tls *libc.TLS, _, name, file uintptr, flags int32, out uintptr) int32 {
	base := (*sqlite3.Tsqlite3_vfs)(at(w.base))
	var path string
	var content []byte
	exists := false
	if name != 0 {
		path = libc.GoString(name)
		b, err := os.ReadFile(path)
		content, exists = b, err == nil
	}
	rc := function[openFunc](base.FxOpen)(tls, w.base, name, file, flags, out)
	f := (*sqlite3.Tsqlite3_file)(at(file))
	if rc != sqlite3.SQLITE_OK || name == 0 || f.FpMethods == 0 {
		return rc // temporary files have no name and outlive nothing
	}
	const journals = sqlite3.SQLITE_OPEN_MAIN_JOURNAL | sqlite3.SQLITE_OPEN_SUPER_JOURNAL | sqlite3.SQLITE_OPEN_WAL
	w.disk.open(path, content, exists, flags&sqlite3.SQLITE_OPEN_CREATE != 0 && flags&journals != 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[file] = &opened{path, (*sqlite3.Tsqlite3_io_methods)(at(f.FpMethods)), flags&sqlite3.SQLITE_OPEN_DELETEONCLOSE != 0}
	f.FpMethods = w.table(tls, f.FpMethods)
	return rc
}

// table returns the base VFS's methods with ours in their place. Version 2 has
// no memory-mapped reads of the database file; -shm is mapped by the base VFS
// and does not outlive a power cut.
func (w *wrapper) table(tls *libc.TLS, base uintptr) uintptr {
	if t, ok := w.tables[base]; ok {
		return t
	}
	t := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_io_methods{})))
	m := (*sqlite3.Tsqlite3_io_methods)(at(t))
	*m = *(*sqlite3.Tsqlite3_io_methods)(at(base))
	m.FiVersion = min(m.FiVersion, 2)
	m.FxFetch, m.FxUnfetch = 0, 0
	m.FxClose = address(w.disk, closeFunc(w.xClose))
	m.FxWrite = address(w.disk, writeFunc(w.xWrite))
	m.FxTruncate = address(w.disk, truncateFunc(w.xTruncate))
	m.FxSync = address(w.disk, syncFunc(w.xSync))
	w.tables[base] = t
	return t
}

func (w *wrapper) file(p uintptr) *opened {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open[p]
}

func (w *wrapper) xClose(tls *libc.TLS, file uintptr) int32 {
	w.mu.Lock()
	f := w.open[file]
	delete(w.open, file)
	w.mu.Unlock()
	if f.remove {
		w.disk.done(w.disk.removed(f.name, false))
	}
	return function[closeFunc](f.methods.FxClose)(tls, file)
}

func (w *wrapper) xWrite(tls *libc.TLS, file, data uintptr, n int32, offset int64) int32 {
	f := w.file(file)
	if rc := w.disk.begin(Write, f.name); rc != 0 {
		return rc
	}
	rc := function[writeFunc](f.methods.FxWrite)(tls, file, data, n, offset)
	if rc == sqlite3.SQLITE_OK {
		b := make([]byte, n)
		copy(b, unsafe.Slice((*byte)(at(data)), n))
		w.disk.done(w.disk.record(f.name, change{data: b, at: offset}))
	}
	return rc
}

func (w *wrapper) xTruncate(tls *libc.TLS, file uintptr, size int64) int32 {
	f := w.file(file)
	if rc := w.disk.begin(Truncate, f.name); rc != 0 {
		return rc
	}
	rc := function[truncateFunc](f.methods.FxTruncate)(tls, file, size)
	if rc == sqlite3.SQLITE_OK {
		w.disk.done(w.disk.record(f.name, change{at: size, truncate: true}))
	}
	return rc
}

// xSync syncs in the model only: what the machine under the test would survive
// is not the question, and its disk is slow.
func (w *wrapper) xSync(_ *libc.TLS, file uintptr, _ int32) int32 {
	f := w.file(file)
	if rc := w.disk.begin(Sync, f.name); rc != 0 {
		w.disk.done(w.disk.doomed(f.name))
		return rc
	}
	w.disk.done(w.disk.synced(f.name, w.disk.waiting(f.name)))
	return sqlite3.SQLITE_OK
}

func (w *wrapper) xDelete(tls *libc.TLS, _, name uintptr, dirSync int32) int32 {
	path := libc.GoString(name)
	if rc := w.disk.begin(Remove, path); rc != 0 {
		return rc
	}
	base := (*sqlite3.Tsqlite3_vfs)(at(w.base))
	rc := function[removeFunc](base.FxDelete)(tls, w.base, name, dirSync)
	if rc == sqlite3.SQLITE_OK {
		w.disk.done(w.disk.removed(path, dirSync != 0))
	}
	return rc
}
