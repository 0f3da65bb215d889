// Package openfga is OpenFGA's API, over HTTP with JSON as well as over gRPC.
//
// Both doors serve one implementation: a handler takes OpenFGA's request message
// and gives its answer. JSON is read into the same messages, without a hop to
// ourselves. Paths, bodies, error codes and pages are OpenFGA's, so that its
// clients work unchanged. Stricter than OpenFGA are: unknown members of a body
// and unknown parameters are refused, never ignored. Wider is Read, which takes
// any filter, also a user alone.
//
// A caller sees its tenant's default stores, whose models are the operator's:
// WriteAuthorizationModel makes a proposal there, which answers who names its
// id. Beside them are the tenant's free stores, made and deleted here, in each
// of which the newest model is in force. Any other store, a system store and
// another tenant's alike, is not listed and answers exactly like one that does
// not exist, and asking for it is recorded as a refusal. Whatever the request
// says, the tenant is the credential's.
//
// A service needs a token for the audience "authz" to ask questions and to find
// the store that it asks in; people need can_check in their tenant too. The
// other relations are needed by both: see the table of operations.
//
// Beyond OpenFGA there are headers, under the same names in lower case as gRPC
// metadata: [RevisionHeader], [AtLeastHeader], [PageSizeHeader] and what belongs
// to pages of lists; and GET /stores/{store_id}/watch, a stream of changes.
package openfga

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/guard"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/web"
)

// The headers beyond OpenFGA's. gRPC metadata has the names in lower case.
const (
	RevisionHeader   = "Bulwark-Revision"    // of an answer: the consistency token
	AtLeastHeader    = "Bulwark-At-Least"    // of a request: a consistency token that the answer must not be older than
	PageSizeHeader   = "Bulwark-Page-Size"   // of a request for a list: without it the list comes whole
	CursorHeader     = "Bulwark-Cursor"      // of a request for a list: the Next-Cursor of the page before
	NextCursorHeader = "Bulwark-Next-Cursor" // of a list: there is another page
	TruncatedHeader  = "Bulwark-Truncated"   // of a list: "true" if the work for it met its bound
)

// modelHeader is OpenFGA's: the id of the model that answered.
const modelHeader = "Openfga-Authorization-Model-Id"

// Config names what the API works with. All fields are needed.
type Config struct {
	Guard     *guard.Guard
	Directory *directory.Directory
	Authz     *authz.Engine
	Archive   authz.Archive
	Logger    *slog.Logger
	Now       func() time.Time
	Proposals int // versions of a model that a tenant may propose; 0: [DefaultProposals]
}

// API serves both doors. It is safe for concurrent use.
type API struct {
	Config
	audience string
	mux      *web.Mux
	streams  *web.Mux
	watches  watches
}

// The operations, by what they need and how they are recorded.
const (
	people     = true // only people need the relation
	everybody  = false
	aboutStore = false
	aboutAll   = true
)

var (
	opCreateStore = operation[*fga.CreateStoreRequest, *fga.CreateStoreResponse]{
		rule:    rule{"store.create", "can_manage_stores", everybody, aboutAll, ledger.Mutation},
		pattern: "POST /stores", status: http.StatusCreated, handle: createStore,
	}
	opListStores = operation[*fga.ListStoresRequest, *fga.ListStoresResponse]{
		rule:    rule{"store.list", "can_check", people, aboutAll, ledger.AdminRead},
		pattern: "GET /stores", query: []string{"page_size", "continuation_token", "name"}, handle: listStores,
	}
	opGetStore = operation[*fga.GetStoreRequest, *fga.GetStoreResponse]{
		rule:    rule{"store.get", "can_check", people, aboutStore, ledger.AdminRead},
		pattern: "GET /stores/{store_id}", handle: getStore,
	}
	opDeleteStore = operation[*fga.DeleteStoreRequest, *fga.DeleteStoreResponse]{
		rule:    rule{"store.delete", "can_manage_stores", everybody, aboutStore, ledger.Mutation},
		pattern: "DELETE /stores/{store_id}", status: http.StatusNoContent, handle: deleteStore,
	}
	opCheck = operation[*fga.CheckRequest, *fga.CheckResponse]{
		rule:    rule{"decision.check", "can_check", people, aboutStore, ledger.Check},
		pattern: "POST /stores/{store_id}/check", valid: validCheck, encode: encodeCheck, handle: check,
	}
	opBatchCheck = operation[*fga.BatchCheckRequest, *fga.BatchCheckResponse]{
		rule:    rule{"decision.batch", "can_check", people, aboutStore, ledger.Check},
		pattern: "POST /stores/{store_id}/batch-check", valid: validBatch, handle: batchCheck,
	}
	opListObjects = operation[*fga.ListObjectsRequest, *fga.ListObjectsResponse]{
		rule:    rule{"decision.list_objects", "can_check", people, aboutStore, ledger.Check},
		pattern: "POST /stores/{store_id}/list-objects", handle: listObjects,
	}
	opStreamedListObjects = operation[*fga.StreamedListObjectsRequest, *fga.ListObjectsResponse]{
		rule:    rule{"decision.list_objects", "can_check", people, aboutStore, ledger.Check},
		pattern: "POST /stores/{store_id}/streamed-list-objects", encode: encodeStream, handle: streamedListObjects,
	}
	opListUsers = operation[*fga.ListUsersRequest, *fga.ListUsersResponse]{
		rule:    rule{"decision.list_users", "can_check", people, aboutStore, ledger.Check},
		pattern: "POST /stores/{store_id}/list-users", handle: listUsers,
	}
	opExpand = operation[*fga.ExpandRequest, *fga.ExpandResponse]{
		rule:    rule{"decision.expand", "can_check", people, aboutStore, ledger.Check},
		pattern: "POST /stores/{store_id}/expand", handle: expand,
	}
	opWrite = operation[*fga.WriteRequest, *fga.WriteResponse]{
		rule:    rule{"tuple.write", "can_write_tuples", everybody, aboutStore, ledger.Mutation},
		pattern: "POST /stores/{store_id}/write", handle: write,
	}
	opRead = operation[*fga.ReadRequest, *fga.ReadResponse]{
		rule:    rule{"tuple.read", "can_read_tuples", everybody, aboutStore, ledger.AdminRead},
		pattern: "POST /stores/{store_id}/read", handle: read,
	}
	opReadChanges = operation[*fga.ReadChangesRequest, *fga.ReadChangesResponse]{
		rule:    rule{"tuple.changes", "can_read_tuples", everybody, aboutStore, ledger.AdminRead},
		pattern: "GET /stores/{store_id}/changes", query: []string{"type", "page_size", "continuation_token", "start_time"}, handle: readChanges,
	}
	opWatch = operation[*fga.ReadChangesRequest, *fga.ReadChangesResponse]{
		rule:    rule{"tuple.watch", "can_read_tuples", everybody, aboutStore, ledger.AdminRead},
		pattern: "GET /stores/{store_id}/watch", query: []string{"type", "continuation_token", "start_time"}, handle: readChanges,
	}
	opWriteModel = operation[*fga.WriteAuthorizationModelRequest, *fga.WriteAuthorizationModelResponse]{
		rule:    rule{"model.write", "can_propose_model", everybody, aboutStore, ledger.Mutation},
		pattern: "POST /stores/{store_id}/authorization-models", status: http.StatusCreated, handle: writeModel,
	}
	opReadModel = operation[*fga.ReadAuthorizationModelRequest, *fga.ReadAuthorizationModelResponse]{
		rule:    rule{"model.read", "can_read_model", everybody, aboutStore, ledger.AdminRead},
		pattern: "GET /stores/{store_id}/authorization-models/{id}", handle: readModel,
	}
	opReadModels = operation[*fga.ReadAuthorizationModelsRequest, *fga.ReadAuthorizationModelsResponse]{
		rule:    rule{"model.list", "can_read_model", everybody, aboutStore, ledger.AdminRead},
		pattern: "GET /stores/{store_id}/authorization-models", query: []string{"page_size", "continuation_token"}, handle: readModels,
	}
	opWriteAssertions = operation[*fga.WriteAssertionsRequest, *fga.WriteAssertionsResponse]{
		rule:    rule{"assertion.write", "can_propose_model", everybody, aboutStore, ledger.Mutation},
		pattern: "PUT /stores/{store_id}/assertions/{authorization_model_id}", status: http.StatusNoContent, handle: writeAssertions,
	}
	opReadAssertions = operation[*fga.ReadAssertionsRequest, *fga.ReadAssertionsResponse]{
		rule:    rule{"assertion.read", "can_read_model", everybody, aboutStore, ledger.AdminRead},
		pattern: "GET /stores/{store_id}/assertions/{authorization_model_id}", handle: readAssertions,
	}
)

// New returns the API. The wiring tells [API.Changed] of every committed change.
func New(cfg Config) *API {
	a := &API{Config: cfg, audience: cfg.Directory.Audience("authz")}
	a.watches.init()
	a.mux = web.NewMux(web.Config{Logger: cfg.Logger, Refuse: refuse})
	a.streams = web.NewMux(web.Config{Logger: cfg.Logger, Refuse: refuse, Timeout: maxWatch})
	opCreateStore.mount(a)
	opListStores.mount(a)
	opGetStore.mount(a)
	opDeleteStore.mount(a)
	opCheck.mount(a)
	opBatchCheck.mount(a)
	opListObjects.mount(a)
	opStreamedListObjects.mount(a)
	opListUsers.mount(a)
	opExpand.mount(a)
	opWrite.mount(a)
	opRead.mount(a)
	opReadChanges.mount(a)
	opWriteModel.mount(a)
	opReadModel.mount(a)
	opReadModels.mount(a)
	opWriteAssertions.mount(a)
	opReadAssertions.mount(a)
	a.streams.Handle(opWatch.pattern, a.watch)
	return a
}

// ServeHTTP serves every path below /stores.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/watch") {
		a.streams.ServeHTTP(w, r)
		return
	}
	a.mux.ServeHTTP(w, r)
}

// Register makes the gRPC server answer as openfga.v1.OpenFGAService.
func (a *API) Register(s grpc.ServiceRegistrar) { fga.RegisterOpenFGAServiceServer(s, service{api: a}) }

// Changed wakes who watches the store.
func (a *API) Changed(store relation.StoreID) { a.watches.changed(store) }

// Drain ends every watch, so that a server can shut down. New ones are refused.
func (a *API) Drain() { a.watches.end() }

// bounded ends what a client without a deadline of its own asks for: whatever
// web does for requests over HTTP. A check needs none: its work is bounded.
func bounded(ctx context.Context, class ledger.Class) (context.Context, context.CancelFunc) {
	if class == ledger.Check {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, web.DefaultTimeout)
}
