package openfga

import (
	"context"
	"errors"
	"net"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/tenant"
)

// service answers as openfga.v1.OpenFGAService. UpdateStore is not offered, as
// in OpenFGA itself.
type service struct {
	fga.UnimplementedOpenFGAServiceServer
	api *API
}

// lowered has our headers as metadata spells them.
var lowered = map[string]string{
	RevisionHeader: "bulwark-revision", modelHeader: "openfga-authorization-model-id",
	NextCursorHeader: "bulwark-next-cursor", TruncatedHeader: "bulwark-truncated",
}

// unary serves an operation over gRPC.
func unary[Q request, R proto.Message](ctx context.Context, a *API, o *operation[Q, R], q Q) (R, error) {
	in := fromGRPC(ctx)
	timed, cancel := bounded(ctx, o.class)
	defer cancel()
	out, more, err := o.serve(timed, a, &in, q)
	_ = grpc.SetHeader(ctx, a.metadata(&in, &more)) // fails only where the peer is gone
	if err != nil {
		return out, a.fail(ctx, &in, err)
	}
	return out, nil
}

func fromGRPC(ctx context.Context) inbound {
	method, _ := grpc.Method(ctx)
	in := inbound{
		id: tenant.RandomID(), method: method,
		authorization: metadata.ValueFromIncomingContext(ctx, "authorization"),
		option:        func(header string) []string { return metadata.ValueFromIncomingContext(ctx, header) }, // in any case
	}
	if p, ok := peer.FromContext(ctx); ok {
		if at, ok := p.Addr.(*net.TCPAddr); ok {
			in.source = at.AddrPort().Addr().Unmap()
		}
	}
	return in
}

// metadata is what an answer tells beside its message.
func (a *API) metadata(in *inbound, out *outbound) metadata.MD {
	md := make(metadata.MD, 4)
	md["bulwark-request-id"] = []string{in.id}
	a.headers(out, func(name, value string) { md[lowered[name]] = []string{value} })
	return md
}

// fail logs what is ours, as package web does, and gives the caller the rest.
func (a *API) fail(ctx context.Context, in *inbound, err error) error {
	switch kind := fault.KindOf(err); {
	case errors.Is(err, context.Canceled): // the client left
	case kind == fault.Internal, kind == fault.Integrity, kind == fault.Unavailable:
		a.Logger.ErrorContext(ctx, "request failed", "request_id", in.id, "method", in.method, "kind", kind.String(), "error", err)
	}
	return statusOf(err)
}

// CreateStore implements fga.OpenFGAServiceServer.
func (s service) CreateStore(ctx context.Context, q *fga.CreateStoreRequest) (*fga.CreateStoreResponse, error) {
	return unary(ctx, s.api, &opCreateStore, q)
}

// ListStores implements fga.OpenFGAServiceServer.
func (s service) ListStores(ctx context.Context, q *fga.ListStoresRequest) (*fga.ListStoresResponse, error) {
	return unary(ctx, s.api, &opListStores, q)
}

// GetStore implements fga.OpenFGAServiceServer.
func (s service) GetStore(ctx context.Context, q *fga.GetStoreRequest) (*fga.GetStoreResponse, error) {
	return unary(ctx, s.api, &opGetStore, q)
}

// DeleteStore implements fga.OpenFGAServiceServer.
func (s service) DeleteStore(ctx context.Context, q *fga.DeleteStoreRequest) (*fga.DeleteStoreResponse, error) {
	return unary(ctx, s.api, &opDeleteStore, q)
}

// Check implements fga.OpenFGAServiceServer.
func (s service) Check(ctx context.Context, q *fga.CheckRequest) (*fga.CheckResponse, error) {
	return unary(ctx, s.api, &opCheck, q)
}

// BatchCheck implements fga.OpenFGAServiceServer.
func (s service) BatchCheck(ctx context.Context, q *fga.BatchCheckRequest) (*fga.BatchCheckResponse, error) {
	return unary(ctx, s.api, &opBatchCheck, q)
}

// ListObjects implements fga.OpenFGAServiceServer.
func (s service) ListObjects(ctx context.Context, q *fga.ListObjectsRequest) (*fga.ListObjectsResponse, error) {
	return unary(ctx, s.api, &opListObjects, q)
}

// StreamedListObjects implements fga.OpenFGAServiceServer.
func (s service) StreamedListObjects(q *fga.StreamedListObjectsRequest, stream fga.OpenFGAService_StreamedListObjectsServer) error {
	in := fromGRPC(stream.Context())
	ctx, cancel := bounded(stream.Context(), opStreamedListObjects.class)
	defer cancel()
	out, more, err := opStreamedListObjects.serve(ctx, s.api, &in, q)
	_ = stream.SetHeader(s.api.metadata(&in, &more))
	if err != nil {
		return s.api.fail(ctx, &in, err)
	}
	for _, object := range out.GetObjects() {
		if err := stream.Send(&fga.StreamedListObjectsResponse{Object: object}); err != nil {
			return err
		}
	}
	return nil
}

// ListUsers implements fga.OpenFGAServiceServer.
func (s service) ListUsers(ctx context.Context, q *fga.ListUsersRequest) (*fga.ListUsersResponse, error) {
	return unary(ctx, s.api, &opListUsers, q)
}

// Expand implements fga.OpenFGAServiceServer.
func (s service) Expand(ctx context.Context, q *fga.ExpandRequest) (*fga.ExpandResponse, error) {
	return unary(ctx, s.api, &opExpand, q)
}

// Write implements fga.OpenFGAServiceServer.
func (s service) Write(ctx context.Context, q *fga.WriteRequest) (*fga.WriteResponse, error) {
	return unary(ctx, s.api, &opWrite, q)
}

// Read implements fga.OpenFGAServiceServer.
func (s service) Read(ctx context.Context, q *fga.ReadRequest) (*fga.ReadResponse, error) {
	return unary(ctx, s.api, &opRead, q)
}

// ReadChanges implements fga.OpenFGAServiceServer.
func (s service) ReadChanges(ctx context.Context, q *fga.ReadChangesRequest) (*fga.ReadChangesResponse, error) {
	return unary(ctx, s.api, &opReadChanges, q)
}

// WriteAuthorizationModel implements fga.OpenFGAServiceServer.
func (s service) WriteAuthorizationModel(ctx context.Context, q *fga.WriteAuthorizationModelRequest) (*fga.WriteAuthorizationModelResponse, error) {
	return unary(ctx, s.api, &opWriteModel, q)
}

// ReadAuthorizationModel implements fga.OpenFGAServiceServer.
func (s service) ReadAuthorizationModel(ctx context.Context, q *fga.ReadAuthorizationModelRequest) (*fga.ReadAuthorizationModelResponse, error) {
	return unary(ctx, s.api, &opReadModel, q)
}

// ReadAuthorizationModels implements fga.OpenFGAServiceServer.
func (s service) ReadAuthorizationModels(ctx context.Context, q *fga.ReadAuthorizationModelsRequest) (*fga.ReadAuthorizationModelsResponse, error) {
	return unary(ctx, s.api, &opReadModels, q)
}

// WriteAssertions implements fga.OpenFGAServiceServer.
func (s service) WriteAssertions(ctx context.Context, q *fga.WriteAssertionsRequest) (*fga.WriteAssertionsResponse, error) {
	return unary(ctx, s.api, &opWriteAssertions, q)
}

// ReadAssertions implements fga.OpenFGAServiceServer.
func (s service) ReadAssertions(ctx context.Context, q *fga.ReadAssertionsRequest) (*fga.ReadAssertionsResponse, error) {
	return unary(ctx, s.api, &opReadAssertions, q)
}
