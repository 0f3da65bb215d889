package audit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"

	"bulwark.example/internal/fault"
)

// FS is the disk as the log sees it. Every byte goes through it, so that a
// test can forget what was not synced. Names are paths. Errors are those of
// the package os: fs.ErrNotExist, fs.ErrExist, ENOSPC and so on.
type FS interface {
	// OpenFile opens with the flags of the package os; new files have mode 0600.
	OpenFile(name string, flag int) (File, error)
	MkdirAll(dir string) error
	Rename(from, to string) error
	Remove(name string) error
	// ReadDir returns the plain files of a directory, ordered by name.
	ReadDir(dir string) ([]FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(dir string) error
	// Free returns how many bytes can still be written below dir.
	Free(dir string) (int64, error)
	// Lock takes the file as a lock that ends with the process. The error has
	// kind [fault.Conflict] when another process holds it.
	Lock(name string) (io.Closer, error)
}

// File is an open file. Methods may be called from several goroutines.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Size() (int64, error)
	// Sync is fdatasync: contents and length are durable after it, the
	// directory's entry is not.
	Sync() error
}

// FileInfo is one plain file of a directory.
type FileInfo struct {
	Name string
	Size int64
}

// OS returns the disk of the operating system.
func OS() FS { return osFS{} }

type osFS struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f osFile) Sync() error { return fdatasync(f.File) }

func (osFS) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) MkdirAll(dir string) error    { return os.MkdirAll(dir, 0o700) }
func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }

func (osFS) ReadDir(dir string) ([]FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []FileInfo
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // retention removed it meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, FileInfo{e.Name(), info.Size()})
	}
	return out, nil
}

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func (osFS) Free(dir string) (int64, error) { return freeBytes(dir) }

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		_ = f.Close()
		return nil, fault.Wrap(fault.Conflict, "another process has the audit log open", err)
	}
	return held{f}, nil
}

// held is a lock. Closing gives it back at once: the file alone would leave it to
// the last copy of the descriptor, and a process that is being forked at the
// moment has one until it executes.
type held struct{ *os.File }

func (h held) Close() error { return errors.Join(unlock(h.File), h.File.Close()) }

// readFile reads a whole small file, at most limit bytes.
func readFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fault.New(fault.Integrity, "the file "+filepath.Base(name)+" is larger than it can be")
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// writeFile puts a whole file in place of whatever stands there.
func writeFile(fsys FS, name string, data []byte, durable bool) error {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil && durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// replaceFile writes a file so that a reader and a crash see the old one or
// the new one. The rename itself is durable after the directory's SyncDir.
func replaceFile(fsys FS, name string, data []byte, durable bool) error {
	tmp := name + ".tmp"
	if err := writeFile(fsys, tmp, data, durable); err != nil {
		_ = fsys.Remove(tmp)
		return err
	}
	return fsys.Rename(tmp, name)
}

func sortFiles(files []segFile) {
	sort.Slice(files, func(i, k int) bool {
		if files[i].group != files[k].group {
			return files[i].group < files[k].group
		}
		return files[i].first < files[k].first
	})
}
