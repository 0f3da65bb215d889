package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// storeFile is a file of model tests, as the CLI of OpenFGA reads it
// (https://openfga.dev/docs/modeling/store-file-format): a model, tuples, and what
// the answers about them must be. What it does not know is refused.
type storeFile struct {
	Name       string      `yaml:"name"`
	Model      string      `yaml:"model"`
	ModelFile  string      `yaml:"model_file"`
	Tuples     []fileTuple `yaml:"tuples"`
	TupleFile  string      `yaml:"tuple_file"`
	TupleFiles []string    `yaml:"tuple_files"`
	Tests      []fileTest  `yaml:"tests"`
}

type fileTest struct {
	Name        string        `yaml:"name"`
	Description string        `yaml:"description"`
	Tuples      []fileTuple   `yaml:"tuples"` // beside those of the file
	TupleFile   string        `yaml:"tuple_file"`
	TupleFiles  []string      `yaml:"tuple_files"`
	Check       []checkTest   `yaml:"check"`
	ListObjects []objectsTest `yaml:"list_objects"`
	ListUsers   []usersTest   `yaml:"list_users"`
}

type fileTuple struct {
	User      string        `yaml:"user"`
	Relation  string        `yaml:"relation"`
	Object    string        `yaml:"object"`
	Condition fileCondition `yaml:"condition"`
}

type fileCondition struct {
	Name    string         `yaml:"name"`
	Context map[string]any `yaml:"context"`
}

// checkTest asks of every user about every object.
type checkTest struct {
	User       string          `yaml:"user"`
	Users      []string        `yaml:"users"`
	Object     string          `yaml:"object"`
	Objects    []string        `yaml:"objects"`
	Context    map[string]any  `yaml:"context"`
	Assertions map[string]bool `yaml:"assertions"`
}

type objectsTest struct {
	User       string              `yaml:"user"`
	Type       string              `yaml:"type"`
	Context    map[string]any      `yaml:"context"`
	Assertions map[string][]string `yaml:"assertions"`
}

type usersTest struct {
	Object     string         `yaml:"object"`
	UserFilter []userFilter   `yaml:"user_filter"`
	Context    map[string]any `yaml:"context"`
	Assertions map[string]struct {
		Users []string `yaml:"users"`
	} `yaml:"assertions"`
}

type userFilter struct {
	Type     string `yaml:"type"`
	Relation string `yaml:"relation"`
}

// readStoreFile reads a file of model tests with all that it names.
func readStoreFile(path string) (*storeFile, error) {
	f := new(storeFile)
	if err := readYAML(path, f); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if (f.Model == "") == (f.ModelFile == "") {
		return nil, fault.New(fault.Invalid, path+": give either model or model_file")
	}
	var err error
	if f.ModelFile != "" {
		if f.Model, err = readModel(filepath.Join(dir, f.ModelFile)); err != nil {
			return nil, err
		}
	}
	if f.Tuples, err = withFiles(dir, f.Tuples, f.TupleFile, f.TupleFiles); err != nil {
		return nil, err
	}
	for i := range f.Tests {
		t := &f.Tests[i]
		if t.Name == "" {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("%s: test %d has no name", path, i+1))
		}
		if t.Tuples, err = withFiles(dir, t.Tuples, t.TupleFile, t.TupleFiles); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// readModel reads a model: the language's text, its JSON form, or the modules that
// an fga.mod lists.
func readModel(path string) (string, error) {
	if filepath.Ext(path) == ".mod" {
		return schema.Modules(os.DirFS(filepath.Dir(path)), filepath.Base(path))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "the model cannot be read: "+path, err)
	}
	return string(text), nil
}

var yamlNoise = regexp.MustCompile(` in type [\w.]+|yaml: |unmarshal errors:|document contains `)

// readYAML reads one document, strictly.
func readYAML(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fault.Wrap(fault.Invalid, "the file cannot be read: "+path, err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return fault.New(fault.Invalid, path+": the file is empty")
		}
		return fault.New(fault.Invalid, path+": "+strings.Join(strings.Fields(yamlNoise.ReplaceAllString(err.Error(), "")), " "))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fault.New(fault.Invalid, path+": the file holds more than one document")
	}
	return nil
}

// withFiles adds the tuples of files to those that are there.
func withFiles(dir string, tuples []fileTuple, one string, many []string) ([]fileTuple, error) {
	if one != "" {
		many = append([]string{one}, many...)
	}
	for _, name := range many {
		path := filepath.Join(dir, name)
		var more []fileTuple
		read := func(path string) error { return readYAML(path, &more) } // JSON is YAML, too
		if filepath.Ext(path) == ".csv" {
			read = func(path string) (err error) { more, err = readCSV(path); return err }
		}
		if err := read(path); err != nil {
			return nil, err
		}
		tuples = append(tuples, more...)
	}
	return tuples, nil
}

var (
	csvNeeded  = strings.Fields("user_type user_id relation object_type object_id")
	csvAllowed = append(strings.Fields("user_relation condition_name condition_context"), csvNeeded...)
)

// readCSV reads tuples with a head line that names the columns.
func readCSV(path string) ([]fileTuple, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the file cannot be read: "+path, err)
	}
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fault.Wrap(fault.Invalid, path+": the file is no CSV with a head line", err)
	}
	for _, name := range csvNeeded {
		if !slices.Contains(rows[0], name) {
			return nil, fault.New(fault.Invalid, path+": the column "+name+" is not there")
		}
	}
	for i, name := range rows[0] {
		if !slices.Contains(csvAllowed, name) || slices.Contains(rows[0][:i], name) {
			return nil, fault.New(fault.Invalid, path+": the column "+name+" is not known, or there twice")
		}
	}
	var tuples []fileTuple
	for n, row := range rows[1:] {
		cell := map[string]string{}
		for i, name := range rows[0] {
			cell[name] = row[i]
		}
		t := fileTuple{User: cell["user_type"] + ":" + cell["user_id"], Relation: cell["relation"], Object: cell["object_type"] + ":" + cell["object_id"]}
		if rel := cell["user_relation"]; rel != "" {
			t.User += "#" + rel
		}
		t.Condition.Name = cell["condition_name"]
		if given := cell["condition_context"]; given != "" && json.Unmarshal([]byte(given), &t.Condition.Context) != nil {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("%s: line %d: the condition's context is no JSON object", path, n+2))
		}
		tuples = append(tuples, t)
	}
	return tuples, nil
}

// tuple takes a file's tuple over.
func (t fileTuple) tuple() (relation.Tuple, error) {
	out := relation.Tuple{Object: t.Object, Relation: t.Relation, Subject: t.User, Condition: t.Condition.Name}
	values, err := asJSON(t.Condition.Context)
	if err != nil || len(values) == 0 {
		return out, err
	}
	raw, err := json.Marshal(values)
	out.Context = string(raw)
	return out, err
}

// asJSON turns what YAML has beside JSON, such as times, into what it is on the
// wire.
func asJSON(values map[string]any) (out map[string]any, err error) {
	raw, err := json.Marshal(values)
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "a context has a value that JSON has not", err)
	}
	return out, nil
}
