package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
// below the manifest's folder; those of lists may be patterns.
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

// readManifest reads a folder's manifest.
func readManifest(dir string) (*manifest, error) {
	m := new(manifest)
	path := filepath.Join(dir, manifestName)
	if err := readStrict(path, m, "applications: {app: {model: model.fga}}"); err != nil {
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

// readStrict reads one document of YAML, which JSON is too.
func readStrict(path string, into any, like string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fault.Wrap(fault.Invalid, path+" cannot be read", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	err = dec.Decode(into)
	if err == nil && dec.Decode(new(any)) != io.EOF {
		err = errors.New("there is more than one document")
	}
	if err != nil {
		return fault.Wrap(fault.Invalid, path+" is not like "+like+": "+strings.Join(strings.Fields(err.Error()), " "), err)
	}
	return nil
}

// release reads what the application's entry names.
func (a *manifestApplication) release(dir, note string) (in admin.NewRelease, err error) {
	in.Note = note
	if a.Model != "" {
		source, err := trial.ReadModel(filepath.Join(dir, a.Model))
		if err != nil {
			return in, err
		}
		in.Model = &source
	}
	if a.Policies != nil {
		paths, err := matches(dir, *a.Policies)
		if err != nil {
			return in, err
		}
		files := []authz.PolicyFile{}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				return in, fault.Wrap(fault.Invalid, path+" cannot be read", err)
			}
			files = append(files, authz.PolicyFile{Name: filepath.Base(path), Text: string(text)})
		}
		in.Policies = &files
	}
	if a.Claims != "" {
		in.Claims = new(authz.Claims)
		if err := readStrict(filepath.Join(dir, a.Claims), in.Claims, "context: {ticket: string}"); err != nil {
			return in, err
		}
	}
	if a.Roles != "" {
		in.Roles = new(authz.Roles)
		if err := readAsJSON(filepath.Join(dir, a.Roles), in.Roles, "roles: [{name: maintainer, type: repository, relations: [maintainer]}]"); err != nil {
			return in, err
		}
	}
	if a.Routes != "" {
		if in.Routes, err = readRoutes(filepath.Join(dir, a.Routes)); err != nil {
			return in, err
		}
	}
	paths, err := matches(dir, a.Tests)
	if err != nil {
		return in, err
	}
	for _, path := range paths {
		f, err := trial.Read(path)
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
func matches(dir string, patterns []string) ([]string, error) {
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil || len(found) == 0 {
			return nil, fault.Wrap(fault.Invalid, fmt.Sprintf("there is no file %s below %s", p, dir), err)
		}
		slices.Sort(found)
		for _, path := range found {
			if !slices.Contains(all, path) {
				all = append(all, path)
			}
		}
	}
	return all, nil
}

// readAsJSON reads YAML by a type's JSON names.
func readAsJSON(path string, into any, like string) error {
	var loose any
	if err := readStrict(path, &loose, like); err != nil {
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
func readRoutes(path string) (*json.RawMessage, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, path+" cannot be read", err)
	}
	if _, err = config.ParseRoutes(text); err != nil {
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
