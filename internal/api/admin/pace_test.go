package admin_test

import (
	"context"
	"io"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/fault"
)

// An upload has half a minute, and then goes on at 64 KiB a second on average,
// without half a minute of nothing.
func TestPaceOfUploads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after time.Duration
		n     int64
		want  time.Duration
	}{
		{0, 0, 30 * time.Second},
		{10 * time.Second, 0, 30 * time.Second},
		{29 * time.Second, 64 << 10, 31 * time.Second},
		{90 * time.Second, 60 * 64 << 10, 90 * time.Second}, // just on time
		{90 * time.Second, 61 * 64 << 10, 91 * time.Second},
		{time.Second, 1 << 30, 31 * time.Second}, // what was fast may not wait for ever
	} {
		if got := admin.Due(c.after, c.n); got != c.want {
			t.Errorf("%d bytes after %s: until %s, want %s", c.n, c.after, got, c.want)
		}
	}
}

// Two slow uploads are all that a tenant may have under way: one that stands still
// and one that trickles for ever. They give their places back.
func TestSlowUploadsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(admin.NewPaced(w.cfg, 100*time.Millisecond, math.MaxInt64))
	ctx, acme := context.Background(), w.as("access_manager@acme")
	upload := func() (*io.PipeWriter, chan error) {
		read, write := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			_, err := acme.Restore(ctx, read, admin.RestoreInto{})
			_ = read.Close()
			ended <- err
		}()
		return write, ended
	}
	_, stands := upload()
	body, trickles := upload()
	go func() {
		for {
			if _, err := body.Write([]byte("x")); err != nil {
				return // the server has had enough
			}
		}
	}()
	wantKind(t, <-stands, fault.Exhausted)
	if err := <-trickles; fault.KindOf(err) != fault.Exhausted && fault.KindOf(err) != fault.Unavailable { // who sends on may see a connection that ends
		t.Errorf("trickling: %v", err)
	}
	archive, err := w.as("auditor@acme").Backup(ctx, defaultStore(t, w, "auditor@acme"))
	must(t, err)
	must(t, archive.Close())
}

// What is done with an upload that came in time may take longer than an upload may
// stand still.
func TestPaceEndsWithTheUpload(t *testing.T) {
	t.Parallel()
	const grace = 500 * time.Millisecond
	w := newWorld(t)
	ctx := context.Background()
	archive, err := w.as("auditor@acme").Backup(ctx, defaultStore(t, w, "auditor@acme"))
	must(t, err)
	cfg, asked := w.cfg, atomic.Int32{}
	cfg.Now = func() time.Time { // the restore asks for it after the upload
		asked.Add(1)
		<-time.After(2 * grace)
		return w.Now()
	}
	w.serve(admin.NewPaced(cfg, grace, math.MaxInt64))
	if _, err := w.as("access_manager@acme").Restore(ctx, archive, admin.RestoreInto{Name: "again"}); err != nil || asked.Load() == 0 {
		t.Errorf("%v, asked for the time %d times", err, asked.Load())
	}
	must(t, archive.Close())
}

func defaultStore(t *testing.T, w *world, who string) string {
	t.Helper()
	id, err := w.Directory.DefaultGraph(w.TenantOf(who), "docs")
	must(t, err)
	return string(id)
}
