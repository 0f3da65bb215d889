package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"bulwark.example/internal/web"
)

// Bounds of the gRPC port. A peer that has shown no credential yet can make us
// hold a request for each of its streams.
const (
	grpcStreams    = 100
	grpcMaxRequest = web.DefaultMaxBody
	grpcMaxHeaders = 32 << 10
	// Windows of a size of our own: to measure one, grpc-go sends a window update
	// and a ping for each message that comes, which is another write, another read
	// and two more threads to wake for each call, a fifth of a Check. A peer can
	// make us hold a connection's window.
	grpcStreamWindow = 256 << 10
	grpcConnWindow   = 1 << 20
)

// grpcDoor serves OpenFGA's API and health on grpc-go's own transport, which
// costs a third of what net/http takes for the same calls. Reflection is off:
// the contracts are public, and what we serve of them needs no telling.
// register is nil for health alone.
func grpcDoor(log *slog.Logger, cert func(*tls.ClientHelloInfo) (*tls.Certificate, error), register func(grpc.ServiceRegistrar)) door {
	r := recovery{log}
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(tls13(cert))),
		grpc.MaxConcurrentStreams(grpcStreams), grpc.MaxRecvMsgSize(grpcMaxRequest), grpc.MaxHeaderListSize(grpcMaxHeaders),
		grpc.StaticStreamWindowSize(grpcStreamWindow), grpc.StaticConnWindowSize(grpcConnWindow),
		grpc.ConnectionTimeout(10*time.Second), grpc.ForceServerCodecV2(newCodec()),
		// A new goroutine for each call grew its stack each time: a twelfth of a Check.
		// A call that finds no worker waiting gets one still, so there are as many as
		// calls are commonly under way, not as many as run at once.
		grpc.NumStreamWorkers(uint32(32*runtime.GOMAXPROCS(0))),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 2 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(r.unary), grpc.StreamInterceptor(r.stream),
	)
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, probe{Server: state})
	if register != nil {
		register(srv)
		state.SetServingStatus("openfga.v1.OpenFGAService", grpc_health_v1.HealthCheckResponse_SERVING)
	}
	return door{
		name:  "grpc",
		serve: srv.Serve,
		shutdown: func(ctx context.Context) error {
			state.Shutdown()
			done := make(chan struct{})
			go func() { srv.GracefulStop(); close(done) }()
			select {
			case <-done:
			case <-ctx.Done():
				srv.Stop()
				<-done
			}
			return nil
		},
	}
}

// recovery turns a panic into the answer for an internal error; the process and
// the connection go on. The log gets the place, never the value, which may hold
// anything at all.
type recovery struct{ log *slog.Logger }

func (r recovery) unary(ctx context.Context, q any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (out any, err error) {
	defer r.recovered(ctx, info.FullMethod, &err)
	return handle(ctx, q)
}

func (r recovery) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer r.recovered(s.Context(), info.FullMethod, &err)
	return handle(srv, s)
}

func (r recovery) recovered(ctx context.Context, method string, err *error) {
	v := recover()
	if v == nil {
		return
	}
	what := fmt.Sprintf("%T", v)
	var known runtime.Error
	if e, ok := v.(error); ok && errors.As(e, &known) {
		what = known.Error()
	}
	r.log.ErrorContext(ctx, "handler panicked", "method", method, "panic", what, "stack", string(debug.Stack()))
	*err = status.Error(codes.Internal, "internal error")
}

// probe answers Check alone: a Watch needs no credential and would stay open,
// and whoever opened many would hold our memory. Clients of the health protocol
// take Unimplemented for "no watching here".
type probe struct{ *health.Server }

// Watch implements grpc_health_v1.HealthServer.
func (probe) Watch(*grpc_health_v1.HealthCheckRequest, grpc_health_v1.Health_WatchServer) error {
	return status.Error(codes.Unimplemented, "watching is not offered; ask with Check")
}
