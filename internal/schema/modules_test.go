package schema

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"bulwark.example/internal/fault"
)

const (
	mod = "schema: '1.2'\ncontents:\n  - core.fga\n  - wiki/pages.fga\n"

	core = `module core
type user

# Everyone belongs to one.
type organization
  relations
    define member: [user]
    define admin: [user with at_work]

condition at_work(hour: int) {
  hour > 8
}
`
	pages = `module wiki

extend type organization
  relations
    define can_create_page: member

type page
  relations
    define organization: [organization]
    define owner: [user]
    define editor: owner or admin from organization
`
)

func modules(edit ...string) fstest.MapFS {
	all := strings.NewReplacer(edit...)
	fsys := fstest.MapFS{}
	for name, text := range map[string]string{"fga.mod": mod, "core.fga": core, "wiki/pages.fga": pages} {
		fsys["model/"+name] = &fstest.MapFile{Data: []byte(all.Replace(text))}
	}
	return fsys
}

// A model of modules is one model: types of one file are extended in another.
func TestModules(t *testing.T) {
	t.Parallel()
	source, err := Modules(modules(), "model/fga.mod")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.Types(), []string{"user", "organization", "page"}) || len(m.Conditions()) != 1 {
		t.Errorf("types %v, conditions %v", m.Types(), m.Conditions())
	}
	for _, r := range []name{{"organization", "can_create_page"}, {"organization", "member"}, {"page", "editor"}} {
		if _, ok := m.Relation(r.typ, r.relation); !ok {
			t.Errorf("%v is not there", r)
		}
	}
	for range 20 {
		if again, err := Modules(modules(), "model/fga.mod"); err != nil || again != source {
			t.Fatalf("read again it is another model: %v", err)
		}
	}
}

func TestModulesRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit []string
		want string
	}{
		"a missing file":              {[]string{"core.fga", "none.fga"}, "a file of the model cannot be read: model/none.fga"},
		"a way out":                   {[]string{"- core.fga", "- ../core.fga"}, "model/fga.mod: line 3: invalid contents item"},
		"another schema":              {[]string{"1.2", "1.1"}, "model/fga.mod: line 1: unsupported schema version"},
		"no YAML":                     {[]string{"contents:", "\tcontents:"}, "model/fga.mod is not an fga.mod"},
		"a file twice":                {[]string{"wiki/pages.fga", "core.fga"}, "model/fga.mod lists core.fga twice"},
		"syntax":                      {[]string{"define admin: [", "define admin [["}, "core.fga: line 8: "},
		"a file that is no module":    {[]string{"module core", "model\n  schema 1.1"}, "core.fga: the file must begin with 'module' and a name"},
		"a type twice":                {[]string{"extend type organization", "type organization"}, "wiki/pages.fga: line 3: duplicate type definition organization"},
		"an extension of nothing":     {[]string{"extend type organization", "extend type planet"}, "wiki/pages.fga: line 3: extended type planet does not exist"},
		"a relation twice":            {[]string{"can_create_page: member", "member: [user]"}, "wiki/pages.fga: line 5: relation member already exists"},
		"a control character":         {[]string{"# Everyone", "# Every\x01one"}, "core.fga: line 4: the text must be UTF-8"},
		"a model that does not stand": {[]string{"admin from organization", "boss from organization"}, "boss"},
	} {
		source, err := Modules(modules(c.edit...), "model/fga.mod")
		if err == nil {
			_, err = Parse(source)
		}
		if err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	big := modules()
	big["model/core.fga"].Data = append(big["model/core.fga"].Data, strings.Repeat("# long\n", MaxSource/7)...)
	if _, err := Modules(big, "model/fga.mod"); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("too much text: %v", err)
	}
}
