package sts

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestReplays(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	r := newReplays(8)
	end := now.Add(time.Minute)
	if r.remember("a", "1", now, end) != fresh || r.remember("a", "1", now, end) != replayed {
		t.Error("a replay was not found")
	}
	// The two parts cannot be shifted into each other.
	if r.remember("a1", "", now, end) != fresh || r.remember("b", "1", now, end) != fresh {
		t.Error("another client's jti was taken for a replay")
	}
	// One client fills its share and no more; the others go on.
	if r.remember("a", "2", now, end) != fresh || r.remember("a", "3", now, end) != full || r.remember("c", "3", now, end) != fresh {
		t.Error("one client can fill the memory")
	}
	for n := range 20 {
		r.remember(fmt.Sprintf("client %d", n), "x", now, end)
	}
	if len(r.used) != 8 {
		t.Errorf("%d remembered, at most 8", len(r.used))
	}
	if r.remember("a", "1", now, end) != replayed {
		t.Error("a full memory forgot")
	}
	// What has expired makes room again.
	if r.remember("z", "1", end, end.Add(time.Minute)) != fresh || len(r.used) != 1 || len(r.perClient) != 1 {
		t.Errorf("%d remembered, %d clients", len(r.used), len(r.perClient))
	}
	if r.remember("a", "1", end, end.Add(time.Minute)) != fresh {
		t.Error("an expired assertion is remembered for ever")
	}
}

// Of many equal assertions at once exactly one is taken.
func TestReplaysAtOnce(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	r := newReplays(1000)
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if r.remember("a", "1", now, now.Add(time.Minute)) == fresh {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 {
		t.Errorf("%d of 50 were taken", taken.Load())
	}
}

func TestParseScope(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", "a": "a", "a b": "a,b", "b a b": "b,a", "!~#[]": "!~#[]"} {
		if got, ok := parseScope(in); !ok || strings.Join(got, ",") != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{" ", "a ", " a", "a  b", "a\tb", "a\nb", "\"", "\\", "\x7f", "ü", "openid", "a openid", strings.Repeat("a", maxScopeText+1), strings.Repeat("a ", 3) + "\x00"} {
		if got, ok := parseScope(in); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
	var many []string
	for n := range maxScopes + 1 {
		many = append(many, fmt.Sprint(n))
	}
	if _, ok := parseScope(strings.Join(many, " ")); ok {
		t.Error("too many scopes")
	}
}
