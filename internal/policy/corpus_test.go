package policy

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	exptypes "github.com/cedar-policy/cedar-go/x/exp/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// corpusCases is how many requests the corpus of cedar-go v1.9.0 has; a reader
// that finds fewer tests nothing.
const corpusCases = 62_000

type corpusTest struct {
	Schema, Policies, Entities string
	Requests                   []struct {
		Description                 string
		Principal, Action, Resource cedar.EntityUID
		Context                     cedar.Record
		Decision                    cedar.Decision
		Reason, Errors              []cedar.PolicyID
	}
}

// The integration corpus of Cedar, which cedar-go ships, through our parser's
// bounds, our index and our evaluation: for each request the same decision, the
// same deciding policies, the same errors. On top, the guard's own rule.
func TestCedarCorpus(t *testing.T) {
	t.Parallel()
	files := corpus(t)
	cases := 0
	for name, content := range files {
		if !strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".entities.json") {
			continue
		}
		var tt corpusTest
		if err := json.Unmarshal(content, &tt); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var s schema.Schema
		if err := s.UnmarshalCedar(files[tt.Schema]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		resolved, err := s.Resolve()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var entities exptypes.EntityMap
		if err := entities.UnmarshalJSONWithSchema(files[tt.Entities], resolved); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		set, x := corpusSet(t, name, files[tt.Policies])
		for i, r := range tt.Requests {
			cases++
			c := x.find(question{r.Action, r.Resource.Type})
			decision, diag := evaluate(&c, cedar.EntityMap(entities), cedar.Request{
				Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context,
			})
			var reasons, errors []cedar.PolicyID
			for _, d := range diag.Reasons {
				reasons = append(reasons, d.PolicyID)
			}
			forbids := false
			for _, d := range diag.Errors {
				errors = append(errors, d.PolicyID)
				forbids = forbids || !set.policies[d.PolicyID].permit
			}
			where := fmt.Sprintf("%s request %d %q", name, i, r.Description)
			if decision != r.Decision {
				t.Errorf("%s: decision %v, want %v", where, decision, r.Decision)
			}
			unordered := []cmp.Option{cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b cedar.PolicyID) bool { return a < b })}
			if d := cmp.Diff(r.Reason, reasons, unordered...); d != "" {
				t.Errorf("%s: reasons (-want +got)\n%s", where, d)
			}
			if d := cmp.Diff(r.Errors, errors, unordered...); d != "" {
				t.Errorf("%s: errors (-want +got)\n%s", where, d)
			}
			forbids = forbids || r.Decision == cedar.Deny && len(r.Reason) > 0
			want := Answer{Forbid: forbids, Permit: bool(r.Decision) && !forbids}
			if d := cmp.Diff(want, set.judge(decision, diag), cmpopts.IgnoreFields(Answer{}, "Deciding")); d != "" {
				t.Errorf("%s: as a guard (-want +got)\n%s", where, d)
			}
		}
	}
	t.Logf("%d requests", cases)
	if cases < corpusCases {
		t.Errorf("the corpus has %d requests, want %d or more", cases, corpusCases)
	}
}

// corpusSet compiles policies as Compile does, without a vocabulary of ours.
func corpusSet(t *testing.T, name string, text []byte) (*Set, *index) {
	t.Helper()
	list, err := parse(&Source{Name: name, Text: string(text)})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	set, x := &Set{policies: map[policyID]*entry{}}, newIndex(false)
	for i, p := range list {
		e := &entry{id: policyID(fmt.Sprintf("policy%d", i)), order: i, permit: p.Effect() == cedar.Permit}
		set.policies[e.id] = e
		x.add(e, (*ast.Policy)(p.AST()))
	}
	return set, x
}

// corpus reads the archive out of the module's folder.
func corpus(t *testing.T) map[string][]byte {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "corpus-tests.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}
