package audit_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"bulwark.example/internal/audit"
)

// The disk that forgets stands in front of [audit.OS], so it cannot tell
// whether that passes a sync on. The null device can: it refuses to be synced,
// and who does not ask it is not refused.
func TestOSSyncs(t *testing.T) {
	t.Parallel()
	disk := audit.OS()
	f, err := disk.OpenFile(os.DevNull, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("fdatasync of the null device: %v", err)
	}
	if err := disk.SyncDir(os.DevNull); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("fsync of the null device: %v", err)
	}
	// Where they can succeed, they do.
	dir := t.TempDir()
	g, err := disk.OpenFile(dir+"/f", os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := errors.Join(g.Sync(), disk.SyncDir(dir)); err != nil {
		t.Error(err)
	}
}
