package admin_test

import (
	"context"
	"io"
	"testing"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/fault"
)

// A tenant may read its log several times at once, not without end; others are
// not held up by it.
func TestReadersAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 4)
	for range 4 {
		read, write := io.Pipe()
		go func() {
			err := w.as("auditor@acme").Export(ctx, admin.EventFilter{}, true, write)
			_ = write.Close()
			ended <- err
		}()
		if _, err := read.Read(make([]byte, 1)); err != nil { // it is under way
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, read) }() // until the export ends
	}
	_, err := w.as("auditor@acme").Events(ctx, admin.EventFilter{}, admin.Paging{})
	wantKind(t, err, fault.Exhausted)
	if _, err := w.as("auditor@globex").Events(ctx, admin.EventFilter{}, admin.Paging{}); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	stop()
	for range 4 {
		<-ended
	}
	// The server sees the readers' ends a moment later.
	for {
		_, err := w.as("auditor@acme").Events(context.Background(), admin.EventFilter{}, admin.Paging{})
		if err == nil {
			return
		}
		wantKind(t, err, fault.Exhausted)
	}
}
