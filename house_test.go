// Package bulwark_test holds the rules of the house as tests.
package bulwark_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The bands tell the codebases that we admire from those that sprawled
// (DESIGN section 4).
const (
	maxInterface = 8
	maxStruct    = 30
	maxExported  = 60
	maxFile      = 1000 // lines; about 500 is the aim
	maxFunc      = 100  // lines
)

// trusted lists the files that may call tenant.Trusted, with the reason why
// the string is no raw request value there.
var trusted = map[string]string{
	"internal/directory/records.go": "the changelog of our own store",
	"internal/kms/cache.go":         "the changelog of our own store",
	"internal/store/sqlite/read.go": "rows of our own store",
	"internal/ledger/encode.go":     "an event of our own log or outbox",
	"internal/principal/claims.go":  "a claim of a token that we signed, after its verification",
}

type sourceFile struct {
	path, pkg, text string
	test            bool
	file            *ast.File
	fset            *token.FileSet
}

// eachFile parses every Go file of all modules of the repository.
func eachFile(t *testing.T, do func(sourceFile)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		do(sourceFile{path, short("bulwark.example/" + filepath.Dir(path)), string(text), strings.HasSuffix(path, "_test.go"), file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every package says in one sentence without "and" what it is.
func TestPackageDocs(t *testing.T) {
	t.Parallel()
	docs := map[string]string{}
	eachFile(t, func(f sourceFile) {
		dir := filepath.Dir(f.path)
		if f.test {
			return
		}
		if _, ok := docs[dir]; !ok {
			docs[dir] = ""
		}
		if f.file.Doc != nil {
			docs[dir] = f.file.Doc.Text()
		}
	})
	for dir, doc := range docs {
		first, _, _ := strings.Cut(doc, "\n\n")
		first = strings.Join(strings.Fields(first), " ")
		if i := strings.Index(first, ". "); i >= 0 {
			first = first[:i+1]
		}
		switch {
		case doc == "":
			t.Errorf("%s has no package documentation", dir)
		case regexp.MustCompile(`\band\b`).MatchString(first):
			t.Errorf("%s is described with an \"and\": %q; it may be two packages", dir, first)
		case !strings.HasSuffix(first, ".") && !strings.HasSuffix(first, "?"):
			t.Errorf("%s: the first sentence does not end: %q", dir, first)
		}
	}
}

// Every exported name says what it is; a group of constants or variables may
// say it once, and what an interface of the package says needs no echo.
func TestExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	said := map[string]bool{} // "<folder> <method>"
	eachFile(t, func(f sourceFile) {
		ast.Inspect(f.file, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok {
				for _, m := range i.Methods.List {
					for _, name := range m.Names {
						said[filepath.Dir(f.path)+" "+name.Name] = m.Doc != nil || m.Comment != nil
					}
				}
			}
			return true
		})
	})
	eachFile(t, func(f sourceFile) {
		if f.test || f.pkg == "cmd" {
			return
		}
		need := func(documented bool, names ...*ast.Ident) {
			for _, n := range names {
				if n.IsExported() && !documented {
					t.Errorf("%s: %s is not documented", f.path, n.Name)
				}
			}
		}
		for _, d := range f.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				echo := d.Recv != nil && said[filepath.Dir(f.path)+" "+d.Name.Name]
				need(d.Doc != nil || echo || unexportedReceiver(d), d.Name)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						need(d.Doc != nil || s.Doc != nil, s.Name)
					case *ast.ValueSpec:
						need(d.Doc != nil || s.Doc != nil || s.Comment != nil, s.Names...)
					}
				}
			}
		}
	})
}

// unexportedReceiver reports a method that nobody outside can name, which an
// interface asks for.
func unexportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && !name.IsExported()
}

func TestNoInitNoMocksNoVagueNames(t *testing.T) {
	t.Parallel()
	vague := regexp.MustCompile(`(^|/)(utils?|commons?|helpers?|types|models|misc|mocks?)(/|\.go$|_test\.go$)`)
	eachFile(t, func(f sourceFile) {
		if vague.MatchString(f.path) {
			t.Errorf("%s: the name says nothing; use the domain's word", f.path)
		}
		for _, d := range f.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init(): wiring belongs to serve.go", f.path)
			}
		}
		for _, imp := range f.file.Imports {
			if strings.Contains(imp.Path.Value, "testify") || strings.Contains(imp.Path.Value, "gomock") {
				t.Errorf("%s imports %s: tests use real parts", f.path, imp.Path.Value)
			}
		}
	})
}

func TestRootModuleHasNoReplace(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^\s*replace\b`).Match(b) {
		t.Error("go.mod has a replace: it would break `go install …@version`")
	}
	if bytes.Contains(b, []byte("bulwark.example/sdk")) {
		t.Error("the root requires the sdk: every release would need two tags")
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	exported := map[string]int{}
	eachFile(t, func(f sourceFile) {
		lines := f.fset.File(f.file.Pos()).LineCount()
		if lines > maxFile {
			t.Errorf("%s has %d lines (at most %d)", f.path, lines, maxFile)
		}
		if f.test {
			return
		}
		for _, d := range f.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if n := f.fset.Position(d.End()).Line - f.fset.Position(d.Pos()).Line + 1; n > maxFunc {
					t.Errorf("%s: %s has %d lines (at most %d)", f.path, d.Name.Name, n, maxFunc)
				}
				if d.Recv == nil && d.Name.IsExported() {
					exported[filepath.Dir(f.path)]++
				}
			case *ast.GenDecl:
				exported[filepath.Dir(f.path)] += checkSpecs(t, f, d)
			}
		}
	})
	for dir, n := range exported {
		most := maxExported
		if dir == "internal/authz" {
			most = 90 // docs/design/0008
		}
		if n > most {
			t.Errorf("%s exports %d names (at most %d)", dir, n, most)
		}
	}
}

// checkSpecs holds types to their bands and counts exported names.
func checkSpecs(t *testing.T, f sourceFile, d *ast.GenDecl) (exported int) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.ValueSpec:
			for _, n := range s.Names {
				if n.IsExported() {
					exported++
				}
			}
		case *ast.TypeSpec:
			if s.Name.IsExported() {
				exported++
			}
			switch typ := s.Type.(type) {
			case *ast.InterfaceType:
				if n := typ.Methods.NumFields(); n > maxInterface {
					t.Errorf("%s: interface %s has %d methods (at most %d)", f.path, s.Name.Name, n, maxInterface)
				}
			case *ast.StructType:
				if n := typ.Fields.NumFields(); n > maxStruct {
					t.Errorf("%s: struct %s has %d fields (at most %d)", f.path, s.Name.Name, n, maxStruct)
				}
			}
		}
	}
	return exported
}

// A tenant id comes from a verified credential or from our own store, nowhere else.
func TestWhoMayMakeATenantID(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	eachFile(t, func(f sourceFile) {
		if f.test || f.pkg == "tenant" {
			return
		}
		if strings.Contains(f.text, "tenant.Trusted(") {
			used[f.path] = true
			if trusted[f.path] == "" {
				t.Errorf("%s calls tenant.Trusted and is not listed with a reason", f.path)
			}
		}
		if strings.Contains(f.text, "tenant.ID{") && !strings.Contains(f.text, "tenant.ID{}") {
			t.Errorf("%s fills a tenant.ID by hand", f.path)
		}
	})
	for path := range trusted {
		if !used[path] {
			t.Errorf("%s is listed and does not call tenant.Trusted", path)
		}
	}
}

// Engines take the time from Config.Now, so that tests own the clock; the
// vocabulary does no I/O at all.
func TestFloorsAreQuiet(t *testing.T) {
	t.Parallel()
	floor0 := strings.Fields("tenant principal fault secret relation envelope jose ledger archive")
	floor1 := strings.Fields("schema condition policy route authn authz directory kms sts audit guard evidence spicedb")
	eachFile(t, func(f sourceFile) {
		if f.test {
			return
		}
		root, _, _ := strings.Cut(f.pkg, "/")
		if slices.Contains(floor0, f.pkg) {
			for _, imp := range f.file.Imports {
				switch path := strings.Trim(imp.Path.Value, `"`); path {
				case "os", "net", "net/http", "log", "io/fs", "os/exec":
					t.Errorf("%s imports %s: floor 0 is pure", f.path, path)
				case "log/slog":
					if f.pkg != "secret" { // which must say how it logs: not at all
						t.Errorf("%s imports %s: floor 0 is pure", f.path, path)
					}
				}
			}
			ast.Inspect(f.file, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); ok {
					t.Errorf("%s starts a goroutine: floor 0 is pure", f.path)
				}
				return true
			})
		}
		if (slices.Contains(floor0, f.pkg) || slices.Contains(floor1, root)) && regexp.MustCompile(`\btime\.(Now|Since|Until)\(`).MatchString(f.text) {
			t.Errorf("%s reads the clock: take it from Config.Now", f.path)
		}
		if slices.Contains(floor1, root) {
			for _, imp := range f.file.Imports {
				if p := strings.Trim(imp.Path.Value, `"`); p == "net/http" || p == "database/sql" {
					t.Errorf("%s imports %s: engines know neither servers nor SQL", f.path, p)
				}
			}
		}
	})
}

// A test that is skipped, or that waits for a while, proves nothing.
func TestTestsCanFail(t *testing.T) {
	t.Parallel()
	eachFile(t, func(f sourceFile) {
		if !f.test || f.path == "house_test.go" {
			return
		}
		if regexp.MustCompile(`\bt\.Skip`).MatchString(f.text) {
			t.Errorf("%s skips: install what is missing, or fail with one clear line", f.path)
		}
		if strings.Contains(f.text, "time.Sleep(") {
			t.Errorf("%s sleeps: wait for a condition", f.path)
		}
		for _, d := range f.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || fn.Name.Name == "TestMain" || fn.Recv != nil {
				continue
			}
			text := f.text[f.fset.Position(fn.Pos()).Offset:f.fset.Position(fn.End()).Offset]
			said := regexp.MustCompile(`(?i)not parallel`).MatchString(text + fn.Doc.Text())
			if !strings.Contains(text, "t.Parallel()") && !said {
				t.Errorf("%s: %s is not parallel and does not say why (\"not parallel: …\")", f.path, fn.Name.Name)
			}
		}
	})
}

// Words that promise work, paths of somebody's machine, keys.
func TestNothingUnfinishedOrPrivate(t *testing.T) {
	t.Parallel()
	bad := regexp.MustCompile(`TO` + `DO|FIX` + `ME|X` + `XX\b|not impl` + `emented|/wo` + `rk/|/ro` + `ot/|BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}`)
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && (d.Name() == ".git" || d.Name() == ".bulwark" || d.Name() == "node_modules" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			return err
		}
		switch filepath.Ext(path) {
		case ".go", ".md", ".sql", ".yaml", ".yml", ".txtar", ".mod", ".fga", ".json", "":
		default:
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if m := bad.Find(b); m != nil && filepath.Base(path) != "LICENSE" {
			t.Errorf("%s contains %q", path, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
