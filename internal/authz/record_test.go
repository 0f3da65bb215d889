package authz

import (
	"encoding/json"
	"os"
	"testing"

	"bulwark.example/internal/relation"
)

// recorder writes the generated cases with the reference's answers to a file, for
// bench/ to put to a running OpenFGA. BULWARK_TEST_RECORD names the file; nil
// without. The graphs then hold what OpenFGA takes: no expiry, no tuple that
// the model does not allow, and none that says of a userset that it is in itself.
type recorder struct{ enc *json.Encoder }

// recordedGraph is one line of the file.
type recordedGraph struct {
	Model  string           `json:"model"`
	Tuples []relation.Tuple `json:"tuples"`
	Cases  []recordedCase   `json:"cases"`
}

type recordedCase struct {
	Question   relation.Tuple   `json:"question"`
	Contextual []relation.Tuple `json:"contextual"`
	Context    map[string]any   `json:"context"`
	Check      string           `json:"check"`     // allow, deny or error
	Undefined  bool             `json:"undefined"` // a deny that depends on its own negation
	Circles    []string         `json:"circles"`   // objects on which what is subtracted leads to itself
	Objects    []string         `json:"objects"`   // "error" alone: no answer
	Users      []string         `json:"users"`
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	path := os.Getenv("BULWARK_TEST_RECORD")
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return &recorder{json.NewEncoder(f)}
}

// takes reports whether OpenFGA would hold the tuple.
func (r *recorder) takes(g *refGraph, t relation.Tuple) bool {
	return r == nil || t.Expires == 0 && g.valid(t) && t.Subject != t.Object+"#"+t.Relation
}
