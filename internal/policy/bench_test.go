package policy

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// sink keeps the compiler from dropping what is measured.
var sink Answer

// thousand makes n policies for the question in hand among 1,000 altogether,
// the others for other relations and types.
func thousand(n int) string {
	var b strings.Builder
	for i := range 1000 {
		switch {
		case i >= n && i%2 == 0:
			fmt.Fprintf(&b, "forbid (principal, action == Action::\"can_edit\", resource is folder) when { context.verified.hour == %d };\n", i)
		case i >= n:
			fmt.Fprintf(&b, "permit (principal is user, action in [Action::\"can_approve\", Action::\"can_view\"], resource is document) when { resource.claimed.size < %d };\n", i)
		case i%4 == 0:
			fmt.Fprintf(&b, "forbid (principal is user, action == Action::\"can_delete\", resource) unless { context.verified.amr.contains(\"mfa\") || principal.roles.contains(\"r%d\") };\n", i)
		case i%4 == 1:
			fmt.Fprintf(&b, "forbid (principal, action in [Action::\"can_delete\", Action::\"can_edit\"], resource is document) when { context.verified.hour < %d - 1000 };\n", i)
		case i%4 == 2:
			fmt.Fprintf(&b, "forbid (principal, action == Action::\"can_delete\", resource is document) when { resource.claimed.region == \"r%d\" && !context.verified.ip.isInRange(ip(\"192.0.2.0/24\")) };\n", i)
		case i%4 == 3:
			fmt.Fprintf(&b, "permit (principal == user::\"u%d\", action == Action::\"can_delete\", resource is document) when { resource.claimed.public };\n", i)
		}
	}
	return b.String()
}

func big(t testing.TB, text string) *Set {
	t.Helper()
	var sources []Source
	for len(text) > 0 {
		end := len(text)
		if end > MaxSource {
			end = strings.LastIndexByte(text[:MaxSource], '\n') + 1
		}
		sources = append(sources, Source{Name: fmt.Sprintf("%d.cedar", len(sources)), Text: text[:end]})
		text = text[end:]
	}
	return mustCompile(t, sources...)
}

func askDelete() *Request {
	return &Request{
		Principal: "user:01JDN3W8Z600000000000000J2", Relation: "can_delete", Resource: "document:01JDN3W8Z600000000000000J3",
		Verified: verified(nil),
		Claimed:  Claimed{Resource: map[string]any{"region": "us", "public": false, "size": float64(7)}},
	}
}

// The bar: 1 µs and 1 µs for each candidate, in a set of 1,000 policies.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{0, 1, 4, 10, 100, 1000} {
		b.Run(fmt.Sprintf("candidates=%d", n), func(b *testing.B) {
			s, r := big(b, thousand(n)), askDelete()
			forbids, permits := s.Candidates("document", "can_delete")
			if forbids+permits != n {
				b.Fatalf("%d candidates, want %d", forbids+permits, n)
			}
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				var err error
				if sink, err = s.Decide(r); err != nil || sink.Forbid || sink.Permit {
					b.Fatal(sink, err)
				}
			}
			cpu := float64(processorTime(b)-before) / float64(b.N)
			b.ReportMetric(cpu, "cpu-ns/op")
			b.ReportMetric(100*cpu/float64(1000+1000*n), "%-of-bar")
		})
	}
}

// processorTime is that of the whole process, the collector's too: it holds
// where others use the machine, which time on the wall does not.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// What it costs when policies decide, with the answer that says which.
func BenchmarkForbidden(b *testing.B) {
	s, r := big(b, thousand(10)), askDelete()
	r.Verified.AMR = nil
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if sink, err = s.Decide(r); err != nil || !sink.Forbid {
			b.Fatal(sink, err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	text := thousand(1000)
	for b.Loop() {
		big(b, text)
	}
}
