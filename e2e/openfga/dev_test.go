package openfga

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// bulwark answers all tests.
var bulwark *dev

// dev is a running `bulwark dev`, asked as an administrator of acme.
type dev struct {
	API, GRPC, CA string // as in dev.json
	roots         *x509.CertPool
	program, dir  string
	cmd           *exec.Cmd
	output        bytes.Buffer // to be read when it has ended
	ended         chan error

	mu      sync.Mutex
	bearer  string
	fetched time.Time
}

// at is the dev of a folder of the tests' own.
func at(dir string) *dev {
	return &dev{program: filepath.Join(dir, "bulwark"), dir: filepath.Join(dir, "data"), ended: make(chan error, 1)}
}

// start builds the binary and runs it on free ports, until it is ready.
func (d *dev) start() error {
	build := exec.Command("go", "build", "-o", d.program, "./cmd/bulwark")
	build.Dir, build.Stderr = filepath.Join("..", ".."), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("cannot build bulwark: %w", err)
	}
	d.cmd = exec.Command(d.program, "dev", "--data", d.dir,
		"--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ops", "127.0.0.1:0")
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func() { d.ended <- d.cmd.Wait() }()
	if err := d.await(time.Minute, d.ready); err != nil {
		return errors.Join(err, d.stop())
	}
	return nil
}

// await asks ok until it is, or the process has ended.
func (d *dev) await(patience time.Duration, ok func() bool) error {
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-d.ended:
			d.ended <- err
			return fmt.Errorf("bulwark dev ended: %w", err)
		case <-deadline:
			return fmt.Errorf("bulwark dev was not ready within %v", patience)
		case <-tick.C:
		}
	}
	return nil
}

// ready reports whether dev.json is there, which dev writes when all ports
// answer, and a token can be had.
func (d *dev) ready() bool {
	b, err := os.ReadFile(filepath.Join(d.dir, "dev.json"))
	if err != nil || json.Unmarshal(b, d) != nil {
		return false
	}
	pem, err := os.ReadFile(d.CA)
	if err != nil {
		return false
	}
	d.roots = x509.NewCertPool()
	if !d.roots.AppendCertsFromPEM(pem) {
		return false
	}
	_, err = d.token(context.Background())
	return err == nil
}

// stop asks it to end, and tells what it said where it did not end well.
func (d *dev) stop() error {
	_ = d.cmd.Process.Signal(os.Interrupt) // it may have ended
	select {
	case err := <-d.ended:
		if err != nil {
			return fmt.Errorf("bulwark dev: %w\n%s", err, d.output.String())
		}
		return nil
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		return fmt.Errorf("bulwark dev did not stop within 20 s: %w", <-d.ended)
	}
}

// token returns a token for OpenFGA's API that lives at least two minutes more:
// all tests of a run may take longer than the five of one token.
func (d *dev) token(ctx context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bearer != "" && time.Since(d.fetched) < 3*time.Minute {
		return d.bearer, nil
	}
	now := time.Now()
	token, err := d.fetch(ctx, "authz")
	if err != nil {
		return "", err
	}
	d.bearer, d.fetched = token, now
	return token, nil
}

// fetch returns a new token for the audience.
func (d *dev) fetch(ctx context.Context, audience string) (string, error) {
	out, err := exec.CommandContext(ctx, d.program, "token", "--as", "admin@acme", "--audience", audience, "--data", d.dir).Output()
	if err != nil {
		return "", fmt.Errorf("bulwark token: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// connect opens a connection to the gRPC port.
func (d *dev) connect(t *testing.T) *grpc.ClientConn {
	t.Helper()
	local := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: d.roots})
	conn, err := grpc.NewClient(d.GRPC, grpc.WithTransportCredentials(local), grpc.WithPerRPCCredentials(perCall{d}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// perCall puts a living token on every call.
type perCall struct{ *dev }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (p perCall) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := p.token(ctx)
	return map[string]string{"authorization": "Bearer " + token}, err
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (perCall) RequireTransportSecurity() bool { return true }
