package openfga_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"bulwark.example/internal/api/openfga"
	"bulwark.example/internal/audit"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guardtest"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/principal"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/store"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/tenant"
)

// world is a node with the API for a door, over HTTP and over gRPC.
type world struct {
	*guardtest.World
	api  *openfga.API
	door guardtest.Door
	grpc fga.OpenFGAServiceClient
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: guardtest.New(t)}
	w.api = openfga.New(openfga.Config{
		Guard: w.Guard, Directory: w.Directory, Authz: w.Authz, Archive: w.Store.Archive(),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: w.Now,
	})
	w.Store.Subscribe(func(b store.Batch) {
		w.api.Changed(b.Store)
		for _, e := range b.Entries {
			w.api.Changed(relation.StoreID(e.Key))
		}
	})
	w.door = w.Serve(w.api)
	t.Cleanup(w.api.Drain) // or the door would wait for what watches
	w.dial()
	return w
}

// dial serves gRPC over TLS 1.3 on loopback.
func (w *world) dial() {
	w.T.Helper()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: w.door.TLS.Certificates})))
	w.api.Register(server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.Must(err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends with Stop
	roots := x509.NewCertPool()
	roots.AddCert(w.door.Certificate())
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "example.com"})))
	w.Must(err)
	w.T.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-served
	})
	w.grpc = fga.NewOpenFGAServiceClient(conn)
}

// as is a context for gRPC with somebody's token for authz, and further pairs.
func (w *world) as(who string, pairs ...string) context.Context {
	w.T.Helper()
	pairs = append(pairs, "authorization", "Bearer "+w.Token(who, "authz"))
	return metadata.AppendToOutgoingContext(context.Background(), pairs...)
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

// free makes a free store of acme with the model, empty for none.
func (w *world) free(model string) relation.StoreID {
	w.T.Helper()
	s, err := w.grpc.CreateStore(w.as("access_manager@acme"), &fga.CreateStoreRequest{Name: "a free store"})
	w.Must(err)
	if model != "" {
		w.publish(s.GetId(), model)
	}
	return relation.StoreID(s.GetId())
}

// publish writes a model, as its id.
func (w *world) publish(store, model string) string {
	w.T.Helper()
	m := parse(w.T, model)
	out, err := w.grpc.WriteAuthorizationModel(w.as("policy_author@acme"), &fga.WriteAuthorizationModelRequest{
		StoreId: store, SchemaVersion: m.GetSchemaVersion(), TypeDefinitions: m.GetTypeDefinitions(), Conditions: m.GetConditions(),
	})
	w.Must(err)
	return out.GetAuthorizationModelId()
}

// put writes tuples: object, relation, user; and so on.
func (w *world) put(store relation.StoreID, parts ...string) {
	w.T.Helper()
	q := &fga.WriteRequest{StoreId: string(store), Writes: &fga.WriteRequestWrites{}}
	for i := 0; i < len(parts); i += 3 {
		q.Writes.TupleKeys = append(q.Writes.TupleKeys, &fga.TupleKey{Object: parts[i], Relation: parts[i+1], User: parts[i+2]})
	}
	_, err := w.grpc.Write(w.as("access_manager@acme"), q)
	w.Must(err)
}

// actor is a service that may act for the people of acme at the check API.
type actor struct {
	w       *world
	service *directory.Service
	key     jose.PrivateKey
}

func (w *world) actor(scopes ...string) *actor {
	w.T.Helper()
	ctx, by := context.Background(), ledger.Event{Subject: "system"}
	s, err := w.Directory.CreateService(ctx, by, tenant.Platform, "notes")
	w.Must(err)
	_, err = w.Directory.Install(ctx, by, w.Acme.Tenant, s.ID, scopes, time.Time{})
	w.Must(err)
	w.Must(w.Directory.GrantAudience(ctx, by, tenant.Platform, s.ID, "authz", scopes, false))
	key, err := jose.GenerateES256()
	w.Must(err)
	public, err := key.Public().MarshalJSON()
	w.Must(err)
	w.Must(w.Directory.AddClientKey(ctx, by, tenant.Platform, principal.Subject{Kind: principal.Service, ID: s.ID}, key.KID(), public, time.Time{}))
	w.Advance(2 * time.Second) // assertions of the second of the start are refused
	w.Directory.Confirm()
	return &actor{w, s, key}
}

// derived is a context with a token that the service got to act for the access
// manager, who gave it the scopes.
func (a *actor) derived(had ...string) context.Context {
	w := a.w
	w.T.Helper()
	ctx, now := context.Background(), w.Now().Unix()
	assertion, err := jose.Sign(a.key, "JWT", map[string]any{
		"iss": a.service.ID, "sub": a.service.ID, "aud": guardtest.Issuer, "iat": now, "exp": now + 60, "jti": tenant.RandomID(),
	})
	w.Must(err)
	c, err := w.Issuer.AuthenticateClient(ctx, sts.ClientAuth{AssertionType: sts.ClientAssertionType, Assertion: assertion})
	w.Must(err)
	subject, err := w.Issuer.Mint(ctx, sts.MintRequest{
		Tenant: w.Acme.Tenant, Subject: w.Person("access_manager@acme"), Audience: w.Directory.ServiceAudience(a.service.ID), Scopes: had,
	})
	w.Must(err)
	token, err := w.Issuer.Exchange(ctx, c, sts.ExchangeRequest{SubjectToken: subject.Value, SubjectTokenType: sts.TypeAccessToken, Audience: []string{"authz"}})
	w.Must(err)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token.Value)
}

func filterMutation(w *world, action string) audit.Filter {
	return audit.Filter{Action: action, Class: ledger.Mutation, Tenant: w.Acme.Tenant.String()}
}
