package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A log that was set back while the node was away is not gone on with: the store
// has kept a later head of it. A refused start adds nothing to the log, so that
// trying again does not help.
func TestSetBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	startDev(t, dir).stop()
	log, early := filepath.Join(dir, "audit"), filepath.Join(t.TempDir(), "early")
	copyTree(t, log, early)
	d := startDev(t, dir)
	d.cli("tuple", "write", "document:roadmap", "viewer", "user:@dave")
	d.stop()
	if err := os.RemoveAll(log); err != nil {
		t.Fatal(err)
	}
	copyTree(t, early, log)
	for n := range 4 {
		p := start(t, bulwarkPath(), "dev", "--data", dir, "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ops", "127.0.0.1:0")
		select {
		case <-p.done:
		case <-time.After(time.Minute):
			t.Fatalf("start %d with a log that was set back goes on", n)
		}
		if p.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(p.err.String(), "set back") {
			t.Errorf("start %d: %v\n%s", n, p.code, p.err.String())
		}
	}
}
