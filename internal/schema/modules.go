package schema

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	openfga "github.com/openfga/api/proto/openfga/v1"
	"github.com/openfga/language/pkg/go/transformer"

	"bulwark.example/internal/fault"
)

// module is one file of a model of several.
type module struct {
	name, text string
	number     []int // of each line, in the file
}

// Modules reads a model of several modules and returns it as a source for
// [Parse]. name is the model's fga.mod in dir, which lists the files beside it.
// Errors name the file and, where there is one, the line: kind [fault.Invalid] for
// files that are wrong or not there, [fault.TooLarge] beyond [MaxSource].
func Modules(dir fs.FS, name string) (string, error) {
	raw, err := readFile(dir, name)
	if err != nil {
		return "", err
	}
	mod, err := transformer.TransformModFile(raw)
	if err != nil {
		return "", modFault(name, err)
	}
	var list []module
	size := len(raw)
	for _, file := range mod.Contents.Value {
		file := file.Value
		if slices.ContainsFunc(list, func(m module) bool { return m.name == file }) {
			return "", fault.New(fault.Invalid, name+" lists "+file+" twice")
		}
		raw, err := readFile(dir, path.Join(path.Dir(name), file))
		if err != nil {
			return "", err
		}
		if size += len(raw); size > MaxSource {
			return "", errLarge
		}
		if line := strangeLine(raw); line > 0 {
			return "", inFile(file, errStrange(line))
		}
		text, number := dense(raw)
		list = append(list, module{file, text, number})
	}
	proto, err := join(list, mod.Schema.Value)
	if err != nil {
		return "", err
	}
	return Source(proto)
}

func readFile(dir fs.FS, name string) (string, error) {
	raw, err := fs.ReadFile(dir, name)
	if err != nil {
		if fault.KindOf(err) == fault.Invalid { // whose files these are says why
			return "", err
		}
		return "", fault.Wrap(fault.Invalid, "a file of the model cannot be read: "+name, err)
	}
	if len(raw) > MaxSource {
		return "", errLarge
	}
	return string(raw), nil
}

func inFile(name string, err error) error {
	return fault.Wrap(fault.KindOf(err), name+": "+fault.Public(err), err)
}

// modFault words the first error of an fga.mod.
func modFault(name string, err error) error {
	var one *transformer.ModFileValidationError
	if errors.As(err, &one) {
		return inFile(name, invalid(one.Line+1, "%s", reason(one.Msg)))
	}
	return fault.Wrap(fault.Invalid, name+" is not an fga.mod: "+reason(err.Error()), err)
}

// join calls the language package, which may panic as in transform.
func join(list []module, version string) (proto *openfga.AuthorizationModel, err error) {
	defer func() {
		if r := recover(); r != nil {
			proto, err = nil, fault.Wrap(fault.Invalid, "the modules cannot be read: their syntax is broken", fmt.Errorf("%v", r))
		}
	}()
	var files []transformer.ModuleFile
	for _, m := range list {
		alone, _, err := transformer.TransformModularDSLToProto(m.text)
		if err != nil {
			return nil, inFile(m.name, syntaxFault(err, m.number))
		}
		for _, t := range alone.GetTypeDefinitions() {
			if t.GetMetadata().GetModule() == "" {
				return nil, inFile(m.name, invalid(0, "the file must begin with 'module' and a name"))
			}
		}
		files = append(files, transformer.ModuleFile{Name: m.name, Contents: m.text})
	}
	if proto, err = transformer.TransformModuleFilesToModel(files, version); err != nil {
		return nil, joinFault(list, err)
	}
	return proto, nil
}

// joinFault words the first of the errors between modules.
func joinFault(list []module, err error) error {
	var many *transformer.ModuleValidationMultipleError
	if !errors.As(err, &many) {
		return fault.Wrap(fault.Invalid, "the modules do not fit together: "+reason(err.Error()), err)
	}
	type found struct {
		file, line int
		msg        string
	}
	var all []found
	for _, err := range many.Errors {
		var one *transformer.ModuleTransformationSingleError
		if errors.As(err, &one) {
			file := slices.IndexFunc(list, func(m module) bool { return m.name == one.File })
			all = append(all, found{file, one.Line.Start, one.Msg})
		} else {
			all = append(all, found{-1, 0, err.Error()})
		}
	}
	first := slices.MinFunc(all, func(a, b found) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.msg, b.msg))
	})
	if first.file < 0 {
		return invalid(0, "%s", reason(first.msg))
	}
	m := list[first.file]
	line := 0
	if first.line < len(m.number) {
		line = m.number[first.line]
	}
	return inFile(m.name, invalid(line, "%s", reason(first.msg)))
}
