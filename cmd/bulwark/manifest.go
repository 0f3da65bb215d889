package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/config"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/trial"
)

// manifestName is the file that says what a folder describes.
const manifestName = "bulwark.yaml"

// manifest says what is to be. What it leaves out it leaves alone. Paths are
// below the manifest's folder, see [described]; those of lists may be patterns.
type manifest struct {
	Version      int                            `yaml:"version"`
	Applications map[string]manifestApplication `yaml:"applications"`
	Services     []manifestService              `yaml:"services"`
}

type manifestApplication struct {
	Model    string    `yaml:"model"`    // of the language, its JSON form, or an fga.mod
	Policies *[]string `yaml:"policies"` // Cedar; an empty list means none
	Claims   string    `yaml:"claims"`
	Roles    string    `yaml:"roles"`
	Routes   string    `yaml:"routes"`
	Tests    []string  `yaml:"tests"` // .fga.yaml
}

// manifestService is a service of the platform with the audiences that it may get
// tokens for. A service that no manifest names is left alone.
type manifestService struct {
	Name      string              `yaml:"name"`
	Audiences *[]manifestAudience `yaml:"audiences"` // an empty list means none
}

type manifestAudience struct {
	Audience string   `yaml:"audience"`
	Scopes   []string `yaml:"scopes"`
	Direct   bool     `yaml:"direct"`
}

// described is a folder with a manifest. Nothing outside it is read, whatever its
// files name or link to: a pull request may have written them, and what is read
// is quoted in errors and sent as a proposal.
type described struct {
	dir  string
	root *os.Root
}

// openDescribed opens a folder. Close its root.
func openDescribed(dir string) (*described, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, filepath.Join(dir, manifestName)+" cannot be read", err)
	}
	return &described{dir, root}, nil
}

// read is the folder's [trial.Reader]: paths begin with the folder.
func (d *described) read(path string) ([]byte, error) {
	name, err := filepath.Rel(d.dir, path)
	if err != nil || !filepath.IsLocal(name) {
		return nil, d.leaves(path)
	}
	text, err := d.root.ReadFile(name)
	switch {
	case err == nil:
		return text, nil
	case strings.HasSuffix(err.Error(), "escapes from parent"): // os has no name for this error
		return nil, d.leaves(path)
	}
	return nil, fault.Wrap(fault.Invalid, path+" cannot be read", err)
}

func (d *described) leaves(path string) error {
	return fault.New(fault.Invalid, path+" leaves "+d.dir+"; a folder describes everything by files of its own")
}

// path is that of a file that the manifest names.
func (d *described) path(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", d.leaves(name)
	}
	return filepath.Join(d.dir, name), nil
}

// manifest reads the folder's manifest.
func (d *described) manifest() (*manifest, error) {
	m := new(manifest)
	path := filepath.Join(d.dir, manifestName)
	text, err := d.read(path)
	if err != nil {
		return nil, err
	}
	if err := readStrict(path, text, m, "applications: {app: {model: model.fga}}"); err != nil {
		return nil, err
	}
	switch {
	case m.Version != 1:
		return nil, fault.New(fault.Invalid, path+": version must be 1")
	case len(m.Applications)+len(m.Services) == 0:
		return nil, fault.New(fault.Invalid, path+": it describes nothing; name applications or services")
	}
	seen := map[string]bool{}
	for _, s := range m.Services {
		if s.Name == "" || seen[s.Name] {
			return nil, fault.New(fault.Invalid, path+": every service needs a name of its own")
		}
		seen[s.Name] = true
		if s.Audiences == nil {
			continue
		}
		twice := map[string]bool{}
		for _, a := range *s.Audiences {
			if twice[a.Audience] {
				return nil, fault.New(fault.Invalid, path+": the service "+s.Name+" names the audience "+a.Audience+" twice")
			}
			twice[a.Audience] = true
		}
	}
	return m, nil
}

// readStrict reads the one document of YAML, which JSON is too, of a file.
func readStrict(path string, text []byte, into any, like string) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err := dec.Decode(into)
	if err == nil && dec.Decode(new(any)) != io.EOF {
		err = errors.New("there is more than one document")
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, path+" is not like "+like+": "+strings.Join(strings.Fields(err.Error()), " "), err)
	}
	return nil
}

// releases reads what every application's entry names.
func (d *described) releases(m *manifest, note string) (map[string]admin.NewRelease, error) {
	all := map[string]admin.NewRelease{}
	for _, name := range slices.Sorted(maps.Keys(m.Applications)) {
		in, err := d.release(m.Applications[name], note)
		if err != nil {
			return nil, err
		}
		all[name] = in
	}
	return all, nil
}

// release reads what the application's entry names.
func (d *described) release(a manifestApplication, note string) (in admin.NewRelease, err error) {
	in.Note = note
	if a.Model != "" {
		path, err := d.path(a.Model)
		if err != nil {
			return in, err
		}
		source, err := trial.Reader(d.read).Model(path)
		if err != nil {
			return in, err
		}
		in.Model = &source
	}
	if a.Policies != nil {
		paths, err := d.matches(*a.Policies)
		if err != nil {
			return in, err
		}
		files := []authz.PolicyFile{}
		for _, path := range paths {
			text, err := d.read(path)
			if err != nil {
				return in, err
			}
			files = append(files, authz.PolicyFile{Name: filepath.Base(path), Text: string(text)})
		}
		in.Policies = &files
	}
	for _, f := range []struct {
		name string
		take func(path string, text []byte) error
	}{
		{a.Claims, func(path string, text []byte) error {
			in.Claims = new(authz.Claims)
			return readStrict(path, text, in.Claims, "context: {ticket: string}")
		}},
		{a.Roles, func(path string, text []byte) error {
			in.Roles = new(authz.Roles)
			return readAsJSON(path, text, in.Roles, "roles: [{name: maintainer, type: repository, relations: [maintainer]}]")
		}},
		{a.Routes, func(path string, text []byte) (err error) {
			in.Routes, err = readRoutes(path, text)
			return err
		}},
	} {
		if f.name == "" {
			continue
		}
		path, err := d.path(f.name)
		if err != nil {
			return in, err
		}
		text, err := d.read(path)
		if err != nil {
			return in, err
		}
		if err := f.take(path, text); err != nil {
			return in, err
		}
	}
	paths, err := d.matches(a.Tests)
	if err != nil {
		return in, err
	}
	for _, path := range paths {
		f, err := trial.Reader(d.read).Tests(path)
		if err != nil {
			return in, err
		}
		if f.Name == "" {
			f.Name = filepath.Base(path)
		}
		in.Tests = append(in.Tests, *f)
	}
	return in, nil
}

// matches resolves patterns to files, each once, in the order of the patterns and
// then of names. A pattern without a file is a mistake.
func (d *described) matches(patterns []string) ([]string, error) {
	var all []string
	for _, p := range patterns {
		if _, err := d.path(p); err != nil {
			return nil, err
		}
		found, err := fs.Glob(d.root.FS(), filepath.ToSlash(filepath.Clean(p)))
		if err == nil && !strings.ContainsAny(p, `*?[\`) {
			found = []string{p} // reading it says more than that it is not there
		}
		if err != nil || len(found) == 0 {
			return nil, fault.Wrap(fault.Invalid, fmt.Sprintf("there is no file %s below %s", p, d.dir), err)
		}
		slices.Sort(found)
		for _, name := range found {
			if path := filepath.Join(d.dir, name); !slices.Contains(all, path) {
				all = append(all, path)
			}
		}
	}
	return all, nil
}

// readAsJSON reads YAML by a type's JSON names.
func readAsJSON(path string, text []byte, into any, like string) error {
	var loose any
	if err := readStrict(path, text, &loose, like); err != nil {
		return err
	}
	raw, err := json.Marshal(loose)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		err = dec.Decode(into)
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, path+" is not like "+like+": "+err.Error(), err)
	}
	return nil
}

// readRoutes reads a list of routes as the configuration has it.
func readRoutes(path string, text []byte) (*json.RawMessage, error) {
	if _, err := config.ParseRoutes(text); err != nil {
		return nil, fault.Wrap(fault.Invalid, path+": "+fault.Public(err), err)
	}
	var list []any
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&list); err != nil || list == nil {
		return nil, fault.Wrap(fault.Invalid, path+" holds no routes; an empty list, [], means none", err)
	}
	if dec.Decode(new(any)) != io.EOF {
		return nil, fault.New(fault.Invalid, path+": there is more than one document")
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "routes do not encode", err)
	}
	msg := json.RawMessage(raw)
	return &msg, nil
}
