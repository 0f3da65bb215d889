// Package trial answers a model's tests in memory.
//
// The tests are those of OpenFGA's store files
// (https://openfga.dev/docs/modeling/store-file-format): a model, tuples, and what
// the answers about them must be. They are put to the engine that answers online.
package trial

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// File is a file of model tests, as the CLI of OpenFGA reads it
// (https://openfga.dev/docs/modeling/store-file-format): a model, tuples, and what
// the answers about them must be. What it does not know is refused.
type File struct {
	Name       string   `yaml:"name" json:"name,omitempty"`
	Model      string   `yaml:"model" json:"model,omitempty"`
	ModelFile  string   `yaml:"model_file" json:"-"`
	Tuples     []Tuple  `yaml:"tuples" json:"tuples,omitempty"`
	TupleFile  string   `yaml:"tuple_file" json:"-"`
	TupleFiles []string `yaml:"tuple_files" json:"-"`
	Tests      []Test   `yaml:"tests" json:"tests,omitempty"`
}

// Test is one named test of a file.
type Test struct {
	Name        string    `yaml:"name" json:"name,omitempty"`
	Description string    `yaml:"description" json:"description,omitempty"`
	Tuples      []Tuple   `yaml:"tuples" json:"tuples,omitempty"` // beside those of the file
	TupleFile   string    `yaml:"tuple_file" json:"-"`
	TupleFiles  []string  `yaml:"tuple_files" json:"-"`
	Check       []Check   `yaml:"check" json:"check,omitempty"`
	ListObjects []Objects `yaml:"list_objects" json:"list_objects,omitempty"`
	ListUsers   []Users   `yaml:"list_users" json:"list_users,omitempty"`
}

// Tuple is a relation tuple as store files spell it.
type Tuple struct {
	User      string    `yaml:"user" json:"user,omitempty"`
	Relation  string    `yaml:"relation" json:"relation,omitempty"`
	Object    string    `yaml:"object" json:"object,omitempty"`
	Condition Condition `yaml:"condition" json:"condition,omitempty"`
}

// Condition is what a tuple holds under.
type Condition struct {
	Name    string         `yaml:"name" json:"name,omitempty"`
	Context map[string]any `yaml:"context" json:"context,omitempty"`
}

// Check asks of every user about every object.
type Check struct {
	User       string          `yaml:"user" json:"user,omitempty"`
	Users      []string        `yaml:"users" json:"users,omitempty"`
	Object     string          `yaml:"object" json:"object,omitempty"`
	Objects    []string        `yaml:"objects" json:"objects,omitempty"`
	Context    map[string]any  `yaml:"context" json:"context,omitempty"`
	Assertions map[string]bool `yaml:"assertions" json:"assertions,omitempty"`
}

// Objects asks which objects a user has, and must get exactly those, in any order.
type Objects struct {
	User       string              `yaml:"user" json:"user,omitempty"`
	Type       string              `yaml:"type" json:"type,omitempty"`
	Context    map[string]any      `yaml:"context" json:"context,omitempty"`
	Assertions map[string][]string `yaml:"assertions" json:"assertions,omitempty"`
}

// Users asks who has an object, and must get exactly those, in any order.
type Users struct {
	Object     string         `yaml:"object" json:"object,omitempty"`
	UserFilter []UserFilter   `yaml:"user_filter" json:"user_filter,omitempty"`
	Context    map[string]any `yaml:"context" json:"context,omitempty"`
	Assertions map[string]struct {
		Users []string `yaml:"users" json:"users,omitempty"`
	} `yaml:"assertions" json:"assertions,omitempty"`
}

// UserFilter says of which type the users are, or which of its usersets.
type UserFilter struct {
	Type     string `yaml:"type" json:"type,omitempty"`
	Relation string `yaml:"relation" json:"relation,omitempty"`
}

// Reader reads a file by its path; [os.ReadFile] is one. An error of kind
// [fault.Invalid] says itself why not, others are worded here.
type Reader func(path string) ([]byte, error)

// Read reads a file of model tests with all that it names.
func Read(path string) (*File, error) { return Reader(os.ReadFile).Tests(path) }

// ReadModel reads a model: the language's text, its JSON form, or the modules that
// an fga.mod lists.
func ReadModel(path string) (string, error) { return Reader(os.ReadFile).Model(path) }

// Tests is [Read] by the reader.
func (read Reader) Tests(path string) (*File, error) {
	f := new(File)
	if err := read.yaml(path, f); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if (f.Model == "") == (f.ModelFile == "") {
		return nil, fault.New(fault.Invalid, path+": give either model or model_file")
	}
	var err error
	if f.ModelFile != "" {
		if f.Model, err = read.Model(filepath.Join(dir, f.ModelFile)); err != nil {
			return nil, err
		}
	}
	if f.Tuples, err = read.withFiles(dir, f.Tuples, f.TupleFile, f.TupleFiles); err != nil {
		return nil, err
	}
	for i := range f.Tests {
		t := &f.Tests[i]
		if t.Name == "" {
			return nil, fault.New(fault.Invalid, fmt.Sprintf("%s: test %d has no name", path, i+1))
		}
		if t.Tuples, err = read.withFiles(dir, t.Tuples, t.TupleFile, t.TupleFiles); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Model is [ReadModel] by the reader.
func (read Reader) Model(path string) (string, error) {
	if filepath.Ext(path) == ".mod" {
		return schema.Modules(folder{read, filepath.Dir(path)}, filepath.Base(path))
	}
	text, err := read.file("the model", path)
	return string(text), err
}

// folder is a reader's folder. It holds files to read and nothing else.
type folder struct {
	read Reader
	dir  string
}

func (f folder) ReadFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return f.read(filepath.Join(f.dir, filepath.FromSlash(name)))
}

func (folder) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

func (read Reader) file(what, path string) ([]byte, error) {
	text, err := read(path)
	if err != nil && fault.KindOf(err) != fault.Invalid {
		err = fault.Wrap(fault.Invalid, what+" cannot be read: "+path, err)
	}
	return text, err
}

var yamlNoise = regexp.MustCompile(` in type [\w.]+|yaml: |unmarshal errors:|document contains `)

// yaml reads one document, strictly.
func (read Reader) yaml(path string, into any) error {
	text, err := read.file("the file", path)
	if err != nil {
		return err
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
func (read Reader) withFiles(dir string, tuples []Tuple, one string, many []string) ([]Tuple, error) {
	if one != "" {
		many = append([]string{one}, many...)
	}
	for _, name := range many {
		path := filepath.Join(dir, name)
		var more []Tuple
		var err error
		if filepath.Ext(path) == ".csv" {
			more, err = read.csv(path)
		} else {
			err = read.yaml(path, &more) // JSON is YAML, too
		}
		if err != nil {
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

// csv reads tuples with a head line that names the columns.
func (read Reader) csv(path string) ([]Tuple, error) {
	text, err := read.file("the file", path)
	if err != nil {
		return nil, err
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
	var tuples []Tuple
	for n, row := range rows[1:] {
		cell := map[string]string{}
		for i, name := range rows[0] {
			cell[name] = row[i]
		}
		t := Tuple{User: cell["user_type"] + ":" + cell["user_id"], Relation: cell["relation"], Object: cell["object_type"] + ":" + cell["object_id"]}
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
func (t Tuple) tuple() (relation.Tuple, error) {
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
