package authz

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/ledger"
	"bulwark.example/internal/relation"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile("testdata/"+file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: %s", file, diff)
	}
}

// What a person reads, and what a machine does.
func TestTrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	var drawn strings.Builder
	var spelled []*Trace
	for _, q := range []string{
		"document:deep#can_view@user:alice",
		"document:memo#can_view@user:frank",
		"document:news#can_view@user:anyone",
		"document:roadmap#can_view@folder:plans#owner",
		"document:memo#can_view@team:core#member",
		"document:absent#can_view@document:absent#editor",
		"document:deep#can_edit@user:dave",
		"document:memo#can_view@user:dave",
		"document:absent#can_view@user:dave",
	} {
		d, err := w.ask(t, q)
		if err != nil {
			t.Fatal(err)
		}
		if d.Trace.Allowed != d.Allowed || d.Trace.Revision != d.Revision.Rev || d.Trace.Model != d.Model || d.Trace.Store != w.store {
			t.Errorf("%s: the trace is of another decision: %+v", q, d)
		}
		d.Trace.Store = "STORE"
		fmt.Fprintf(&drawn, "%s\n", d.Trace)
		spelled = append(spelled, d.Trace)
	}
	golden(t, "trace.golden", drawn.String())
	b, err := json.MarshalIndent(spelled, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "trace.json.golden", string(b)+"\n")
	var back []*Trace
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spelled, back); diff != "" {
		t.Errorf("JSON loses something: %s", diff)
	}
	if d, _ := w.Check(context.Background(), Query{Store: w.store, Object: "document:deep", Relation: "can_view", Subject: "user:alice"}); d.Trace != nil {
		t.Error("a trace that nobody asked for")
	}
}

// In JSON a tuple's end is a time and its context an object, as in the APIs, and
// neither loses anything.
func TestTraceOfGuardedTuple(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t, "model\n  schema 1.1\ntype user\ntype doc\n  relations\n    define viewer: [user with paid]\ncondition paid(plan: string, due: int) {\n  plan == \"<&>\" && due == 0\n}\n")
	stored := tuple("doc:a#viewer@user:a")
	stored.Condition, stored.Context = "paid", `{"plan":"\u003c\u0026\u003e"}`
	stored.Expires = time.Date(2100, 2, 3, 4, 5, 6, 7, time.UTC).UnixNano()
	if _, err := w.Write(ctx, ledger.Change{Store: w.store}, "", Write{Writes: []relation.Tuple{stored}}); err != nil {
		t.Fatal(err)
	}
	q := Query{Store: w.store, Object: "doc:a", Relation: "viewer", Subject: "user:a", Explain: true}
	q.Context = map[string]any{"due": 0.0}
	d, err := w.Check(ctx, q)
	if err != nil || !d.Allowed || d.Trace.Path[0].Tuple.Tuple != stored {
		t.Fatalf("%+v, %v", d, err)
	}
	b, err := json.MarshalIndent(d.Trace.Path, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "trace_guarded.json.golden", string(b)+"\n")
	var back []Grant
	if err := json.Unmarshal(b, &back); err != nil || len(back) != 1 || back[0].Tuple.Tuple != stored {
		t.Errorf("JSON loses something: %+v, %v", back, err)
	}
	for _, bad := range []string{`{"expires":4102444800}`, `{"expires":"tomorrow"}`, `{"context":`, `[]`} {
		if err := json.Unmarshal([]byte(bad), new(tracedTuple)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// A deny among thousands of groups gives a trace of bounded size that says so,
// and that names nobody but the subject of the question.
func TestTraceIsBounded(t *testing.T) {
	t.Parallel()
	var list []string
	for i := range 1000 {
		list = append(list, fmt.Sprintf("document:x#viewer@team:%d#member", i), fmt.Sprintf("team:%d#member@user:secret-%d", i, i))
	}
	w := newWorld(t, docs, list...)
	d, err := w.ask(t, "document:x#can_view@user:dave")
	if err != nil || d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	text := d.Trace.String()
	if d.Trace.Omitted < 500 || strings.Count(text, "\n") > 3*maxNotes || !strings.Contains(text, "more tries are not shown") {
		t.Errorf("%d omitted, %d lines", d.Trace.Omitted, strings.Count(text, "\n"))
	}
	if strings.Contains(text, "secret") {
		t.Error("the trace names other people")
	}
}
