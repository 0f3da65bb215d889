package admin_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/trial"
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
		Guard: w.Guard, Directory: w.Directory, Authz: w.Authz, Copies: w.Store.Copies(), Releases: w.Releases, Keys: w.Keyring, Audit: w.Audit, AuditDir: w.AuditDir, LogKey: w.LogKey,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: w.Now,
	}
	w.serve(admin.New(w.cfg))
	return w
}

// serve opens a door for the handler; later requests go there.
func (w *world) serve(h http.Handler) { w.Door = w.Serve(h) }

// holds is a test that every model of these tests passes.
var holds = []trial.File{{Name: "holds", Tests: []trial.Test{{
	Name: "nobody", Check: []trial.Check{{User: "user:x", Object: "document:x", Assertions: map[string]bool{"viewer": false}}},
}}}}

// inForce proposes, approves and activates.
func (w *world) inForce(t testing.TB, in admin.NewRelease) admin.Release {
	t.Helper()
	ctx, author := context.Background(), w.as("policy_author@platform")
	r := got[admin.Release](t)(author.ProposeRelease(ctx, "docs", in))
	got[admin.Release](t)(w.as("approver@platform").ApproveRelease(ctx, "docs", r.ID))
	return got[admin.Release](t)(author.ActivateRelease(ctx, "docs", r.ID, admin.Activation{}))
}

// as returns a client of the person.
func (w *world) as(who string) *admin.Client {
	return admin.NewClient(admin.ClientConfig{URL: w.URL, HTTP: w.Client(), Token: func(context.Context) (string, error) {
		return w.Token(who, "admin"), nil
	}})
}
