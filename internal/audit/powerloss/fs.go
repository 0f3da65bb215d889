package powerloss

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/fault"
)

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
