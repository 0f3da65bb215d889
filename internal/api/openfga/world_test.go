package openfga_test

import (
	"log/slog"
	"net/http"
	"testing"

	"bulwark.example/internal/api/openfga"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/relation"
)

// world is a node with the check API for a door.
type world struct {
	*guardtest.World
	door guardtest.Door
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: guardtest.New(t)}
	w.door = w.Serve(openfga.New(openfga.Config{
		Guard: w.Guard, Directory: w.Directory, Authz: w.Authz, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: w.Now,
	}))
	return w
}

// send makes a request as it is.
func (w *world) send(method, path, body string, header http.Header) guardtest.Reply {
	w.T.Helper()
	return w.door.Send(method, path, body, header)
}

// get asks as somebody, with a token for authz.
func (w *world) get(who, path string) guardtest.Reply {
	w.T.Helper()
	return w.send("GET", path, "", guardtest.Bearer(w.Token(who, "authz")))
}

// ask sends a call about a store as somebody, with a token for authz.
func (w *world) ask(who string, store relation.StoreID, call, body string) guardtest.Reply {
	w.T.Helper()
	return w.send("POST", "/stores/"+string(store)+"/"+call, body, guardtest.Bearer(w.Token(who, "authz")))
}

// graph is the tenant's default store.
func (w *world) graph(tenantName string) relation.StoreID {
	w.T.Helper()
	t, err := w.Directory.ResolveTenant(tenantName)
	w.Must(err)
	id, err := w.Directory.DefaultGraph(t.Tenant, "docs")
	w.Must(err)
	return id
}
