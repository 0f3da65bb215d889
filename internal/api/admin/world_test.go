package admin_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/guardtest"
)

// world is the admin API over real engines on a real store, behind real TLS.
type world struct {
	*guardtest.World
	guardtest.Door
	cfg admin.Config
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: guardtest.New(t)}
	w.cfg = admin.Config{
		Guard: w.Guard, Directory: w.Directory, Authz: w.Authz, Copies: w.Store.Copies(), Keys: w.Keyring, Audit: w.Audit, AuditDir: w.AuditDir, LogKey: w.LogKey,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: w.Now,
	}
	w.serve(admin.New(w.cfg))
	return w
}

// serve opens a door for the handler; later requests go there.
func (w *world) serve(h http.Handler) { w.Door = w.Serve(h) }

// as returns a client of the person.
func (w *world) as(who string) *admin.Client {
	return admin.NewClient(admin.ClientConfig{URL: w.URL, HTTP: w.Client(), Token: func(context.Context) (string, error) {
		return w.Token(who, "admin"), nil
	}})
}
