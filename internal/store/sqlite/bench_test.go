package sqlite

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// BenchmarkMutate is one small change with its event, from callers that wait
// for each other's disk: commits/op says how well they share it.
func BenchmarkMutate(b *testing.B) {
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			s := open(b, Config{Path: place(b)})
			shard := world(b, s)
			before := s.Counters()
			b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := addUser(s, shard, tenant.RandomID()); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(s.Counters().Commits-before.Commits)/float64(b.N), "commits/op")
		})
	}
}

// fill writes n tuples of a store in transactions of a thousand.
func fill(tb testing.TB, s *Store, shard relation.StoreID, n int) {
	tb.Helper()
	var batch []relation.Tuple
	for i := range n {
		batch = append(batch, relation.Tuple{Object: fmt.Sprintf("document:%07d", i/5), Relation: "viewer", Subject: fmt.Sprintf("user:%06d-%d", i%20011, i%5)})
		if len(batch) == 1000 || i == n-1 {
			ev := ledger.Event{Class: ledger.Mutation, Tenant: tenant.Platform, Action: "tuple.write"}
			if _, err := s.Tuples().WriteTuples(context.Background(), ledger.Change{Store: shard, Event: ev}, authz.Write{Writes: batch}); err != nil {
				tb.Fatal(err)
			}
			batch = batch[:0]
		}
	}
}

// BenchmarkLoadGraph loads a store of a hundred thousand tuples.
func BenchmarkLoadGraph(b *testing.B) {
	s := open(b, Config{Path: place(b)})
	shard := world(b, s)
	const n = 100_000
	fill(b, s, shard, n)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		count := 0
		_, err := s.Tuples().LoadGraph(context.Background(), shard, func(relation.Tuple) error { count++; return nil })
		if err != nil || count != n {
			b.Fatal(count, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/tuple")
}
