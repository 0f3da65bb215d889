package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSynced looks at the system calls of a first start: what gets its name by
// rename or link was synced before, and its folder behind it, before anything
// else is built on it. The tests of power loss know each sync of the audit log
// and of SQLite by what is lost without it; they stand above the system calls
// and do not see the files that are written once, keys and configuration.
func TestSynced(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	started, ready := make(chan int, 1), make(chan error, 1)
	go func() { ready <- interruptWhenReady(started, output.Name()) }()
	ops, err := traced(t, dir, output, started,
		bulwarkPath(), "dev", "--data", dir, "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ops", "127.0.0.1:0")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Logf("this machine permits no trace, nothing was looked at: %v", err)
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, readFile(t, output.Name()))
	}
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for i, o := range ops {
		switch base := filepath.Base(o.path); {
		case o.kind == opCreate && base == "bulwark.db":
			folderFollows(t, ops[i:], func(o op) bool { return true })
		case o.kind == opName && !ofTheLog(dir, o.path):
			if strings.HasPrefix(base, ".") {
				continue
			}
			named[base] = true
			if err := contentPrecedes(ops[:i], o.from); err != nil {
				t.Errorf("%s: %v", o.path, err)
			}
			// The log's writer and SQLite's work beside who writes a file.
			folderFollows(t, ops[i:], func(o op) bool {
				return !ofTheLog(dir, o.path) && !strings.HasPrefix(filepath.Base(o.path), "bulwark.db")
			})
		}
	}
	for _, must := range []string{"root.sealed", "log.key", "log.vkey", "dev.json", "ca.pem"} {
		if !named[must] {
			t.Errorf("nothing was seen of %s: %v", must, named)
		}
	}
	// The syncs that the models of the disks stand for reach the kernel.
	for _, suffix := range []string{"-durable.seg", "checkpoint.tmp", "bulwark.db-wal", "audit/log", "audit"} {
		if !slices.ContainsFunc(ops, func(o op) bool { return o.kind == opSync && strings.HasSuffix(o.path, suffix) }) {
			t.Errorf("no %s was synced", suffix)
		}
	}
	t.Logf("%d changes, %d files with a name of their own", len(ops), len(named))
}

// interruptWhenReady ends dev with an interrupt once it has printed its last line.
func interruptWhenReady(started <-chan int, output string) error {
	pid, ok := <-started
	if !ok {
		return nil // the trace says why
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C { // as long as the process lives
		b, err := os.ReadFile(output)
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "Ctrl-C") {
			return syscall.Kill(pid, syscall.SIGINT)
		}
		if syscall.Kill(pid, 0) != nil {
			return fmt.Errorf("dev ended before it was ready:\n%s", b)
		}
	}
	return nil
}

// ofTheLog tells what the audit log's writer keeps from what is written beside it.
func ofTheLog(dir, path string) bool {
	return strings.HasPrefix(path, filepath.Join(dir, "audit")+"/") && !strings.HasPrefix(filepath.Base(path), "log.")
}

// contentPrecedes checks that a file was synced after the last write into it.
func contentPrecedes(before []op, path string) error {
	for _, o := range slices.Backward(before) {
		switch {
		case o.path == path && o.kind == opSync:
			return nil
		case o.path == path:
			return fmt.Errorf("%s got its name and was not synced after its last %s", path, o.kind)
		}
	}
	return fmt.Errorf("%s got its name and nobody wrote it", path)
}

// folderFollows checks that the folder of the first path is synced before
// another change that counts.
func folderFollows(t *testing.T, ops []op, counts func(op) bool) {
	t.Helper()
	folder := filepath.Dir(ops[0].path)
	for _, o := range ops[1:] {
		switch {
		case o.kind == opSync && o.path == folder:
			return
		case o.kind != opSync && o.kind != opUnlink && counts(o):
			t.Errorf("%s is there, and its folder was not synced before the %s of %s", ops[0].path, o.kind, o.path)
			return
		}
	}
	t.Errorf("%s is there, and its folder was never synced", ops[0].path)
}
