package openfga_test

import (
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	fga "github.com/openfga/api/proto/openfga/v1"

	"bulwark.example/internal/guardtest"
)

// cpu is what this process took so far, the client's part included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs do from 16 goroutines and reports the processor time of a call.
func measure(b *testing.B, each int, do func(n int) error) {
	b.Helper()
	b.SetParallelism(8)
	b.ResetTimer()
	began := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for n := 0; pb.Next(); n++ {
			if err := do(n); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(b.N)/float64(each), "cpu-µs/answer")
}

// BenchmarkCheck asks over both doors with TLS, a token and the audit log. Its
// figures hold server and client.
func BenchmarkCheck(b *testing.B) {
	w := newWorld(b)
	store := w.graph("acme")
	w.put(store, "folder:plans", "viewer", "user:anne", "document:roadmap", "parent", "folder:plans")
	question := func(n int) *fga.CheckRequest {
		return &fga.CheckRequest{StoreId: string(store), TupleKey: &fga.CheckRequestTupleKey{
			User: []string{"user:anne", "user:bob"}[n%2], Relation: "viewer", Object: "document:roadmap",
		}}
	}
	b.Run("grpc", func(b *testing.B) {
		ctx := w.as("caller@acme")
		measure(b, 1, func(n int) error {
			_, err := w.grpc.Check(ctx, question(n))
			return err
		})
	})
	b.Run("grpc-batch-20", func(b *testing.B) {
		ctx := w.as("caller@acme")
		measure(b, 20, func(int) error {
			q := &fga.BatchCheckRequest{StoreId: string(store)}
			for n := range 20 {
				q.Checks = append(q.Checks, &fga.BatchCheckItem{TupleKey: question(n).GetTupleKey(), CorrelationId: strconv.Itoa(n)})
			}
			_, err := w.grpc.BatchCheck(ctx, q)
			return err
		})
	})
	b.Run("json", func(b *testing.B) {
		w.door.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64 // else connections are made anew
		header := guardtest.Bearer(w.Token("caller@acme", "authz"))
		body := `{"tuple_key":` + tuple("user:anne", "viewer", "document:roadmap") + `}`
		measure(b, 1, func(int) error {
			if r := w.send("POST", "/stores/"+string(store)+"/check", body, header); r.Status != http.StatusOK {
				b.Error(r.Status, r.Body)
			}
			return nil
		})
	})
}
