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

// Archives wait on the server's disk: a tenant moves few at a time, and a slow one
// does not hold up others.
func TestTransfersAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	ended := make(chan error, 2)
	var bodies []*io.PipeWriter
	for range 2 {
		read, write := io.Pipe()
		bodies = append(bodies, write)
		go func() {
			_, err := w.as("access_manager@acme").Restore(ctx, read, admin.RestoreInto{})
			ended <- err
		}()
		if _, err := write.Write([]byte("x")); err != nil { // it is being sent
			t.Fatal(err)
		}
	}
	backup := func(of string) error {
		id, err := w.Directory.DefaultGraph(w.TenantOf("auditor@"+of), "docs")
		must(t, err)
		body, err := w.as("auditor@"+of).Backup(ctx, string(id))
		if err == nil {
			must(t, body.Close())
		}
		return err
	}
	for { // the server takes the two up a moment later
		if err := backup("acme"); err != nil {
			wantKind(t, err, fault.Exhausted)
			break
		}
	}
	must(t, backup("globex"))
	for _, b := range bodies {
		must(t, b.Close())
		wantKind(t, <-ended, fault.Invalid) // one letter is no archive
	}
	must(t, backup("acme"))
}
