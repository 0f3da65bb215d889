package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// grpcClient opens the gRPC door and a connection to it. Both end with the test.
func grpcClient(t *testing.T, version uint16, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	t.Helper()
	web := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(web.Close)
	same := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &web.TLS.Certificates[0], nil }
	door := grpcDoor(slog.New(slog.NewTextHandler(t.Output(), nil)), same, register)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- door.serve(l) }()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(
		&tls.Config{RootCAs: roots, ServerName: "example.com", MaxVersion: version})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		if err := door.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// The health protocol answers Check, and keeps nothing open for a stranger.
func TestHealth(t *testing.T) {
	t.Parallel()
	client := grpc_health_v1.NewHealthClient(grpcClient(t, 0, nil))
	res, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", res, err)
	}
	watch, err := client.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a watch is answered with %v", err)
	}
}

// Before TLS 1.3 there is no conversation.
func TestGRPCNeedsTLS13(t *testing.T) {
	t.Parallel()
	client := grpc_health_v1.NewHealthClient(grpcClient(t, tls.VersionTLS12, nil))
	if res, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, %v", res, err)
	}
}

// breaking panics with what must not get into an answer.
type breaking struct {
	fga.UnimplementedOpenFGAServiceServer
}

func (breaking) Check(context.Context, *fga.CheckRequest) (*fga.CheckResponse, error) {
	panic("a secret")
}

func (breaking) StreamedListObjects(*fga.StreamedListObjectsRequest, fga.OpenFGAService_StreamedListObjectsServer) error {
	panic("a secret")
}

func (breaking) Expand(context.Context, *fga.ExpandRequest) (*fga.ExpandResponse, error) {
	return &fga.ExpandResponse{}, nil
}

// A handler that panics costs its own call an answer, and nobody else's.
func TestGRPCPanic(t *testing.T) {
	t.Parallel()
	client := fga.NewOpenFGAServiceClient(grpcClient(t, 0, func(s grpc.ServiceRegistrar) { fga.RegisterOpenFGAServiceServer(s, breaking{}) }))
	for range 3 {
		_, err := client.Check(t.Context(), &fga.CheckRequest{})
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
		stream, err := client.StreamedListObjects(t.Context(), &fga.StreamedListObjectsRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
		if _, err := client.Expand(t.Context(), &fga.ExpandRequest{}); err != nil {
			t.Errorf("the next call: %v", err)
		}
	}
}

// What is over the bounds is refused before a handler sees it.
func TestGRPCBounds(t *testing.T) {
	t.Parallel()
	client := fga.NewOpenFGAServiceClient(grpcClient(t, 0, func(s grpc.ServiceRegistrar) { fga.RegisterOpenFGAServiceServer(s, breaking{}) }))
	_, err := client.Expand(t.Context(), &fga.ExpandRequest{StoreId: strings.Repeat("x", grpcMaxRequest)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request over the limit: %v", err)
	}
	if _, err := client.Expand(t.Context(), &fga.ExpandRequest{StoreId: strings.Repeat("x", grpcMaxRequest-100)}); err != nil {
		t.Errorf("a request within it: %v", err)
	}
}
