package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/secret"
)

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func reads(t *testing.T, what string, got secret.Bytes, err error, want string) {
	t.Helper()
	if err != nil || string(got.Reveal()) != want {
		t.Errorf("%s: %q, %v; want %q", what, got.Reveal(), err, want)
	}
}

func TestReadPassphrase(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxPassphrase)
	for in, want := range map[string]string{
		"p": "p", "p\n": "p", "p\n\n": "p\n", " p ": " p ", "p\r\n": "p\r", "\np": "\np", "p\x00q\n": "p\x00q", long: long, long + "\n": long,
	} {
		got, err := readPassphrase(strings.NewReader(in))
		reads(t, in[:min(len(in), 8)], got, err, want)
	}
	for in, kind := range map[string]fault.Kind{
		"": fault.Invalid, "\n": fault.Invalid, long + "x": fault.TooLarge, long + "x\n": fault.TooLarge, long + "\n\n": fault.TooLarge, long + long: fault.TooLarge,
	} {
		got, err := readPassphrase(strings.NewReader(in))
		wantKind(t, in[:min(len(in), 8)], err, kind)
		if got.Len() != 0 || strings.Contains(err.Error(), "xxx") {
			t.Errorf("the passphrase came with the error %v", err)
		}
	}
}

func TestPassphraseFromFD(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = w.WriteString("correct ")
		_, _ = w.WriteString("horse\n") // the end of the pipe ends it, not a read
		_ = w.Close()
	}()
	fd, err := syscall.Dup(int(r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := PassphraseFromFD(fd)
	reads(t, "a pipe", got, err, "correct horse")
	for what, bad := range map[string]int{"not open": 1 << 20, "negative": -1} {
		if _, err := PassphraseFromFD(bad); err == nil {
			t.Errorf("%s: read", what)
		}
	}
}

func TestPassphraseFromCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "root"), "correct horse\n", 0o400)
	mkdir(t, dir, "sub")
	write(t, filepath.Join(dir, "sub", "root"), "x", 0o400)
	got, err := passphraseFromCredentials(dir, "root")
	reads(t, "a credential", got, err, "correct horse")
	for name, kind := range map[string]fault.Kind{
		"absent": fault.NotFound, "": fault.Invalid, ".": fault.Invalid, "..": fault.Invalid, "sub/root": fault.Invalid,
		"../root": fault.Invalid, "/etc/hostname": fault.Invalid, "root/": fault.Invalid, "sub": fault.Unavailable,
	} {
		_, err := passphraseFromCredentials(dir, name)
		wantKind(t, name, err, kind)
	}
	for _, dir := range []string{"", "relative"} {
		_, err := passphraseFromCredentials(dir, "root")
		wantKind(t, "directory "+dir, err, fault.NotFound)
	}
}

// Not parallel: it changes the environment of the process.
func TestPassphraseFromSystemdCredential(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bulwark-root"), "correct horse", 0o400)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	got, err := PassphraseFromSystemdCredential("bulwark-root")
	reads(t, "by the environment", got, err, "correct horse")
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err = PassphraseFromSystemdCredential("bulwark-root")
	wantKind(t, "without systemd", err, fault.NotFound)
}

func TestPassphraseFromFile(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	data, etc := mkdir(t, top, "data"), mkdir(t, top, "etc")
	good := write(t, filepath.Join(etc, "pass"), "correct horse\n", 0o400)
	link := func(target, name string) string {
		t.Helper()
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for what, path := range map[string]string{
		"outside":        good,
		"mode 0600":      write(t, filepath.Join(etc, "pass2"), "correct horse", 0o600),
		"link outside":   link(good, filepath.Join(etc, "link")),
		"link from data": link(good, filepath.Join(data, "link-out")), // the file itself is outside
		"a like name":    write(t, filepath.Join(mkdir(t, top, "data2"), "pass"), "correct horse", 0o400),
	} {
		got, err := PassphraseFromFile(path, data)
		reads(t, what, got, err, "correct horse")
	}
	got, err := PassphraseFromFile(good, filepath.Join(top, "absent"))
	reads(t, "no data directory yet", got, err, "correct horse")

	inside := write(t, filepath.Join(mkdir(t, data, "dev"), "pass"), "canary", 0o400)
	hard := filepath.Join(etc, "hard")
	if err := os.Link(write(t, filepath.Join(data, "pass"), "canary", 0o400), hard); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(etc, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	toData, toDev := link(data, filepath.Join(etc, "to-data")), link(filepath.Join(data, "dev"), filepath.Join(etc, "to-dev"))
	for what, c := range map[string]struct {
		path, data string
		kind       fault.Kind
	}{
		"directly inside":           {filepath.Join(data, "pass"), data, fault.Denied},
		"deeper inside":             {inside, data, fault.Denied},
		"by ..":                     {etc + "/../data/dev/pass", data, fault.Denied},
		"by a link to the file":     {link(inside, filepath.Join(etc, "link-in")), data, fault.Denied},
		"by a link to a link":       {link(filepath.Join(etc, "link-in"), filepath.Join(etc, "link-in2")), data, fault.Denied},
		"by a link to the dir":      {filepath.Join(toData, "dev", "pass"), data, fault.Denied},
		"by a link and ..":          {toDev + "/../dev/pass", data, fault.Denied},
		"by a hard link":            {hard, data, fault.Denied},
		"data by a link":            {inside, toData, fault.Denied},
		"data with a slash":         {inside, data + "//./", fault.Denied},
		"data is the root":          {good, "/", fault.Denied},
		"data is the parent":        {good, top, fault.Denied},
		"group may read":            {write(t, filepath.Join(etc, "g"), "canary", 0o440), data, fault.Denied},
		"others may read":           {write(t, filepath.Join(etc, "o"), "canary", 0o404), data, fault.Denied},
		"group may write":           {write(t, filepath.Join(etc, "w"), "canary", 0o620), data, fault.Denied},
		"a link to a readable file": {link(filepath.Join(etc, "g"), filepath.Join(etc, "link-g")), data, fault.Denied},
		"absent":                    {filepath.Join(etc, "absent"), data, fault.NotFound},
		"a dangling link":           {link(filepath.Join(etc, "absent"), filepath.Join(etc, "dangling")), data, fault.NotFound},
		"a directory":               {etc, data, fault.Unavailable},
		"a FIFO without a writer":   {fifo, data, fault.Unavailable},
		"no name":                   {"", data, fault.Invalid},
		"no data directory":         {good, "", fault.Invalid},
		"empty":                     {write(t, filepath.Join(etc, "empty"), "\n", 0o400), data, fault.Invalid},
	} {
		got, err := PassphraseFromFile(c.path, c.data)
		wantKind(t, what, err, c.kind)
		if got.Len() != 0 || (err != nil && strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: the passphrase came with %v", what, err)
		}
	}
	_, err = passphraseFromFile(good, data, os.Geteuid()+1)
	wantKind(t, "another user's file", err, fault.Denied)
}

// The name is resolved after the file was opened: both must be one file.
func TestAFileThatIsReplacedWhileItIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opened, err := os.Stat(write(t, filepath.Join(dir, "opened"), "x", 0o400))
	if err != nil {
		t.Fatal(err)
	}
	now := write(t, filepath.Join(dir, "now"), "x", 0o400)
	if _, err := within(now, opened, filepath.Join(mkdir(t, dir, "data"))); err == nil {
		t.Error("a file was judged by the name of another")
	}
}

// Not parallel: it changes the working directory of the process.
func TestPassphraseFromRelativeFile(t *testing.T) {
	top := t.TempDir()
	data, etc := mkdir(t, top, "data"), mkdir(t, top, "etc")
	write(t, filepath.Join(etc, "pass"), "correct horse", 0o400)
	write(t, filepath.Join(mkdir(t, data, "dev"), "pass"), "canary", 0o400)
	if err := os.Symlink(filepath.Join(data, "dev"), filepath.Join(etc, "dev")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(etc)
	got, err := PassphraseFromFile("pass", "../data")
	reads(t, "a relative name", got, err, "correct horse")
	// "far/../pass" is beside what far leads to, not beside far.
	write(t, filepath.Join(mkdir(t, top, "far", "away"), "..", "pass"), "battery staple", 0o400)
	if err := os.Symlink(filepath.Join(top, "far", "away"), filepath.Join(etc, "far")); err != nil {
		t.Fatal(err)
	}
	got, err = PassphraseFromFile("far/../pass", "../data")
	reads(t, "a relative name over a link", got, err, "battery staple")
	for _, path := range []string{"dev/pass", "dev/../dev/pass", "../data/dev/pass"} {
		_, err := PassphraseFromFile(path, "../data")
		wantKind(t, path, err, fault.Denied)
	}
}
