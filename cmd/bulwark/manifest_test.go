package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulwark.example/internal/fault"
)

// Nothing outside a described folder is read, whatever in it names the file, and
// no error tells what is there.
func TestDescribedFolderIsNotLeft(t *testing.T) {
	t.Parallel()
	up := t.TempDir()
	dir := filepath.Join(up, "d")
	for name, text := range map[string]string{
		"secret":           "hunter2: [",
		"out/x.cedar":      "hunter2",
		"d/model.fga":      "model\n  schema 1.1\n",
		"d/fga.mod":        "schema: '1.2'\ncontents: [link.fga]\n",
		"d/model.yaml":     "model_file: ../secret\n",
		"d/models.yaml":    "model_file: fga.mod\n",
		"d/tuples.yaml":    "model_file: model.fga\ntuple_files: [../secret]\n",
		"d/csv.yaml":       "model_file: model.fga\ntests: [{name: x, tuple_file: link.csv}]\n",
		"d/tests/sub.yaml": "model_file: ../model.fga\ntests: [{name: x}]\n",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(up, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(up, name), []byte(text), 0o600))
	}
	for name, to := range map[string]string{
		"link.fga": "../secret", "link.csv": filepath.Join(up, "secret"), "linked": "../out", "within.fga": "model.fga",
		manifestName: "../secret",
	} {
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	d, err := openDescribed(dir)
	must(t, err)
	t.Cleanup(func() { must(t, d.root.Close()) })
	list := func(s ...string) *[]string { return &s }
	const leaves = " leaves "
	for what, c := range map[string]struct {
		a    manifestApplication
		want string
	}{
		"model":                     {manifestApplication{Model: "../secret"}, leaves},
		"model of the root":         {manifestApplication{Model: "/etc/passwd"}, leaves},
		"model with a way back":     {manifestApplication{Model: "tests/../../secret"}, leaves},
		"linked model":              {manifestApplication{Model: "link.fga"}, leaves},
		"model of a linked folder":  {manifestApplication{Model: "linked/x.cedar"}, leaves},
		"module":                    {manifestApplication{Model: "fga.mod"}, leaves},
		"claims":                    {manifestApplication{Claims: "../secret"}, leaves},
		"linked claims":             {manifestApplication{Claims: "link.fga"}, leaves},
		"roles":                     {manifestApplication{Roles: "../secret"}, leaves},
		"linked roles":              {manifestApplication{Roles: "link.fga"}, leaves},
		"routes":                    {manifestApplication{Routes: "../secret"}, leaves},
		"linked routes":             {manifestApplication{Routes: "link.fga"}, leaves},
		"policies":                  {manifestApplication{Policies: list("../out/*.cedar")}, leaves},
		"policies of the root":      {manifestApplication{Policies: list("/etc/*")}, leaves},
		"policies of a link":        {manifestApplication{Policies: list("li*.fga")}, leaves},
		"a policy":                  {manifestApplication{Policies: list("linked/x.cedar")}, leaves},
		"policies of linked folder": {manifestApplication{Policies: list("linked/*.cedar")}, "there is no file linked/*.cedar"},
		"tests":                     {manifestApplication{Tests: []string{"../secret"}}, leaves},
		"a test's model":            {manifestApplication{Tests: []string{"model.yaml"}}, leaves},
		"a test's module":           {manifestApplication{Tests: []string{"models.yaml"}}, leaves},
		"a test's tuples":           {manifestApplication{Tests: []string{"tuples.yaml"}}, leaves},
		"a test's table":            {manifestApplication{Tests: []string{"csv.yaml"}}, leaves},
	} {
		_, err := d.release(c.a, "")
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := d.manifest(); fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), leaves) {
		t.Errorf("the manifest: %v", err)
	}
	in, err := d.release(manifestApplication{Model: "within.fga", Policies: &[]string{}, Tests: []string{"tests/*.yaml", "tests/../tests/sub.yaml"}}, "")
	if err != nil || *in.Model == "" || len(in.Tests) != 1 || in.Policies == nil || len(*in.Policies) != 0 {
		t.Errorf("within the folder: %v, %d tests", err, len(in.Tests))
	}
	if in, err = d.release(manifestApplication{}, ""); err != nil || in.Policies != nil {
		t.Errorf("nothing: %v", err)
	}
}
