package authz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// The order of a list is that of its bytes, whatever the names have in common
// and whatever an earlier list has left in the memory.
func TestListOrder(t *testing.T) {
	t.Parallel()
	var w wave
	rapid.Check(t, func(rt *rapid.T) {
		part := rapid.StringMatching(`[a-c\x01\xff-]{0,9}`)
		names := rapid.SliceOfNDistinct(rapid.Custom(func(rt *rapid.T) string {
			return "document:" + rapid.SampledFrom([]string{"", "x", "same-begin-"}).Draw(rt, "begin") + part.Draw(rt, "rest")
		}), 0, 80, rapid.ID[string]).Draw(rt, "names")
		want := slices.Sorted(slices.Values(names))
		if w.sort(names); !slices.Equal(names, want) {
			rt.Fatalf("%q", names)
		}
	})
	var long []string
	for i := range 100_000 {
		long = append(long, fmt.Sprintf("document:%0*d%s", 1+i%7, i*7919%100_003, strings.Repeat("z", i%3)))
	}
	long = slices.Compact(slices.Sorted(slices.Values(long)))
	got := slices.Clone(long)
	slices.Reverse(got)
	w.sort(got)
	if diff := cmp.Diff(long, got); diff != "" {
		t.Error(diff)
	}
}
