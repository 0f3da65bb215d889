package trial

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
)

const model = "model\n  schema 1.1\ntype user\ntype document\n  relations\n    define viewer: [user]\n"

func many(prefix string, n int) []string { return strings.Fields(strings.Repeat(prefix+" ", n)) }

// What a proposal asks is bounded: it runs on the server, and again at each look
// at the release.
func TestQuestionsAreBounded(t *testing.T) {
	t.Parallel()
	ask := func(users, objects int) *File {
		return &File{Model: model, Tests: []Test{{Name: "x", Check: []Check{{
			Users: many("user:u", users), Objects: many("document:d", objects), Assertions: map[string]bool{"viewer": false},
		}}}}}
	}
	if _, err := ask(1000, 101).Run(context.Background()); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("101,000 questions: %v", err)
	}
	out, err := ask(10, 10).Run(context.Background())
	if n, failed := out.Count(); err != nil || n != 100 || failed != 0 {
		t.Errorf("%d assertions, %d failed, %v", n, failed, err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ask(10, 10).Run(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}

// What is written before anything is asked is bounded like it: each test with
// tuples of its own has them beside all of the file's.
func TestTuplesAreBounded(t *testing.T) {
	t.Parallel()
	file := func(tuples, tests int, own ...Tuple) *File {
		f := &File{Model: model}
		for i := range tuples {
			f.Tuples = append(f.Tuples, Tuple{User: "user:a", Relation: "viewer", Object: "document:" + strconv.Itoa(i)})
		}
		for range tests {
			f.Tests = append(f.Tests, Test{Name: "x", Tuples: own, Check: []Check{{User: "user:a", Object: "document:0", Assertions: map[string]bool{"viewer": true}}}})
		}
		return f
	}
	own := Tuple{User: "user:b", Relation: "viewer", Object: "document:0"}
	if _, err := file(500, 500, own).Run(context.Background()); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("250,000 tuples: %v", err)
	}
	out, err := file(500, 500).Run(context.Background()) // those that nobody changes are written once
	if n, failed := out.Count(); err != nil || n != 500 || failed != 0 {
		t.Errorf("%d assertions, %d failed, %v", n, failed, err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := file(1, 0).Run(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
}

// The version decides, with its policies, and not the file's own model.
func TestRunWith(t *testing.T) {
	t.Parallel()
	f := &File{Name: "f", Model: "type ?", Tests: []Test{{
		Name: "x", Tuples: []Tuple{{User: "user:a", Relation: "viewer", Object: "document:d"}},
		Check: []Check{{User: "user:a", Object: "document:d", Assertions: map[string]bool{"viewer": true}}},
	}}}
	forbid := []authz.PolicyFile{{Name: "a.cedar", Text: `forbid (principal, action == Action::"viewer", resource is document);`}}
	for want, d := range map[int]authz.Draft{0: {Model: model}, 1: {Model: model, Policies: forbid}} {
		out, err := f.RunWith(context.Background(), d)
		if n, failed := out.Count(); err != nil || n != 1 || failed != want {
			t.Errorf("%d assertions, %d failed, want %d: %v", n, failed, want, err)
		}
	}
	if _, err := f.Run(context.Background()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("the file's own model: %v", err)
	}
}
