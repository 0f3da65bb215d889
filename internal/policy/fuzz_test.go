package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
)

// Whatever the text: an error of the right kind, or a set that answers every
// question without a panic, twice the same, never both ways. The claims are
// whatever JSON can hold.
func FuzzPolicies(f *testing.F) {
	paths, err := filepath.Glob("../../docs/policies/*.cedar")
	if err != nil || len(paths) == 0 {
		f.Fatal(paths, err)
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), `{"region": "eu", "public": true, "submitter": "user:anne"}`)
	}
	for _, a := range atoms {
		f.Add("forbid (principal, action, resource is document) when { "+a+" };", `{"size": 1e300, "labels": ["x", null], "amr": []}`)
	}
	words := vocabulary(f)
	f.Fuzz(func(t *testing.T, text, claims string) {
		s, err := Compile(words, []Source{operator(text), {Name: "t", Text: text, Tenant: true}}, Grant{"document", "can_view"})
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.TooLarge {
				t.Fatalf("kind %v: %v", k, err)
			}
			if s, err = Compile(words, []Source{operator(text)}); err != nil {
				return
			}
		}
		var says map[string]any
		if json.Unmarshal([]byte(claims), &says) != nil {
			says = nil
		}
		for _, typ := range words.Types {
			for _, relation := range typ.Relations {
				for _, known := range []Verified{{}, verified(nil)} {
					r := &Request{Principal: "user:anne", Relation: relation, Resource: typ.Name + ":d", Verified: known, Claimed: Claimed{says, says, says}}
					a, err := s.Decide(r)
					if err != nil && fault.KindOf(err) != fault.Invalid {
						t.Fatal(err)
					}
					if a.Forbid && a.Permit {
						t.Fatalf("both: %+v", a)
					}
					again, _ := s.Decide(r)
					if d := cmp.Diff(a, again); d != "" {
						t.Fatalf("two answers (-first +second)\n%s", d)
					}
				}
			}
		}
	})
}
