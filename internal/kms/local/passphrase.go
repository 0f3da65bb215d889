package local

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
)

// MaxPassphrase is the longest passphrase in bytes, without its newline.
const MaxPassphrase = 4096

// PassphraseFromFD reads the passphrase from an inherited file descriptor to
// its end and closes it. One newline at the end is not part of it.
//
// Errors: [fault.Invalid] for an empty passphrase, [fault.TooLarge] for one
// over [MaxPassphrase], [fault.Unavailable] when the descriptor cannot be read.
func PassphraseFromFD(fd int) (secret.Bytes, error) {
	if fd < 0 {
		return secret.Bytes{}, fault.New(fault.Invalid, "a file descriptor is not negative")
	}
	f := os.NewFile(uintptr(fd), "passphrase")
	if f == nil {
		return secret.Bytes{}, fault.New(fault.Unavailable, "the file descriptor of the passphrase is not open")
	}
	defer f.Close()
	return readPassphrase(f)
}

// PassphraseFromSystemdCredential reads the credential of that name, as given
// by LoadCredential= or LoadCredentialEncrypted= (systemd.exec(5)), from the
// directory that $CREDENTIALS_DIRECTORY names.
//
// Errors: [fault.Invalid] for a name that is a path, [fault.NotFound] when
// systemd passed no credentials or none of this name, else as [PassphraseFromFD].
func PassphraseFromSystemdCredential(name string) (secret.Bytes, error) {
	return passphraseFromCredentials(os.Getenv("CREDENTIALS_DIRECTORY"), name)
}

func passphraseFromCredentials(dir, name string) (secret.Bytes, error) {
	if name == "" || name == "." || name == ".." || name != filepath.Base(name) {
		return secret.Bytes{}, fault.New(fault.Invalid, "a credential's name is not a path")
	}
	if !filepath.IsAbs(dir) {
		return secret.Bytes{}, fault.New(fault.NotFound, "systemd passed no credentials; see LoadCredential= in systemd.exec(5)")
	}
	f, err := openRegular(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return secret.Bytes{}, fault.New(fault.NotFound, "systemd passed no credential of this name")
	} else if err != nil {
		return secret.Bytes{}, fault.Wrap(fault.Unavailable, "the credential cannot be read", err)
	}
	defer f.Close()
	return readPassphrase(f)
}

// PassphraseFromFile reads the passphrase from a file that must be kept apart
// from what it protects. It refuses, with kind [fault.Denied]:
//
//   - a file inside of dataDir, however it is named: symbolic links are
//     resolved, directories compared by identity and not by name, and a file
//     with more than one hard link has names that nobody can list;
//   - a file that group or others can read or change;
//   - a file that belongs to another user than the process.
//
// A root that lies beside the data is in every backup of the data. Further
// errors: [fault.NotFound], else as [PassphraseFromFD].
func PassphraseFromFile(path, dataDir string) (secret.Bytes, error) {
	return passphraseFromFile(path, dataDir, os.Geteuid())
}

func passphraseFromFile(path, dataDir string, euid int) (secret.Bytes, error) {
	if path == "" || dataDir == "" {
		return secret.Bytes{}, fault.New(fault.Invalid, "the passphrase file or the data directory has no name")
	}
	f, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return secret.Bytes{}, fault.New(fault.NotFound, "there is no such passphrase file")
	} else if err != nil {
		return secret.Bytes{}, fault.Wrap(fault.Unavailable, "the passphrase file cannot be read", err)
	}
	defer f.Close()
	// Everything is judged on the open file: a name can change its meaning
	// between a check and a use.
	info, err := f.Stat()
	if err != nil {
		return secret.Bytes{}, fault.Wrap(fault.Unavailable, "the passphrase file cannot be read", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return secret.Bytes{}, fault.New(fault.Unsupported, "this system does not tell who owns the passphrase file; pass it by file descriptor")
	case info.Mode().Perm()&0o077 != 0:
		return secret.Bytes{}, fault.New(fault.Denied, "the passphrase file is open to group or others; chmod it to 0400")
	case int(stat.Uid) != euid:
		return secret.Bytes{}, fault.New(fault.Denied, "the passphrase file belongs to another user")
	case stat.Nlink != 1:
		return secret.Bytes{}, fault.New(fault.Denied, "the passphrase file has further hard links; keep one name only")
	}
	inside, err := within(path, info, dataDir)
	if err != nil {
		return secret.Bytes{}, fault.Wrap(fault.Denied, "it cannot be made sure that the passphrase file is outside of the data directory", err)
	}
	if inside {
		return secret.Bytes{}, fault.New(fault.Denied, "the passphrase file is in the data directory that it protects; keep it elsewhere")
	}
	return readPassphrase(f)
}

// within reports whether the open file, which path led to, is in dir or below.
func within(path string, file fs.FileInfo, dir string) (bool, error) {
	data, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // nothing is inside of what does not exist
	} else if err != nil {
		return false, err
	}
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return false, err
		}
		// Not filepath.Join: it would cut "link/.." before the link is resolved.
		path = wd + string(filepath.Separator) + path
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	if now, err := os.Lstat(resolved); err != nil {
		return false, err
	} else if !os.SameFile(now, file) {
		return false, errors.New("the file was replaced while it was read")
	}
	for parent := filepath.Dir(resolved); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return false, err
		}
		if os.SameFile(info, data) {
			return true, nil
		}
		if parent == filepath.Dir(parent) {
			return false, nil
		}
	}
}

// openRegular does not wait for the writer of a FIFO.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func readPassphrase(r io.Reader) (secret.Bytes, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxPassphrase+2))
	if err != nil {
		clear(b)
		return secret.Bytes{}, fault.Wrap(fault.Unavailable, "the passphrase cannot be read", err)
	}
	trimmed := bytes.TrimSuffix(b, []byte("\n"))
	switch {
	case len(trimmed) == 0:
		return secret.Bytes{}, fault.New(fault.Invalid, "the passphrase is empty")
	case len(trimmed) > MaxPassphrase:
		clear(b)
		return secret.Bytes{}, fault.New(fault.TooLarge, "the passphrase is over 4096 bytes")
	}
	return secret.New(trimmed), nil
}
