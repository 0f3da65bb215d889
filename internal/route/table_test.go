package route

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

func compile(t testing.TB, routes ...Route) *Table {
	t.Helper()
	for i := range routes {
		if routes[i].Upstream == "" {
			routes[i].Upstream = "demo"
		}
		if routes[i].Methods == nil {
			routes[i].Methods = []string{"GET"}
		}
	}
	table, err := Compile(routes)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func view(object string) *Requirement {
	return &Requirement{Application: "docs", Relation: "can_view", Object: object, Visible: "can_view"}
}

func demo(t testing.TB) *Table {
	return compile(t,
		Route{ID: "read", Path: "/documents/{id}", Require: view("document:{id}")},
		Route{ID: "write", Path: "/documents/{id}", Methods: []string{"PUT"}, Require: view("document:{id}")},
		Route{ID: "search", Path: "/documents/search"},
		Route{ID: "colon", Path: "/documents/all:export"},
		Route{ID: "deep", Path: "/documents/{id}/versions/{version}", Require: view("version:{id}/{version}")},
		Route{ID: "files", Path: "/files/{rest...}", Methods: []string{"*"}, Require: view("file:{rest}")},
		Route{ID: "list", Path: "/files"},
		Route{ID: "folder", Path: "/folder/"},
		Route{ID: "admin", Path: "/admin", Hosts: []string{"Admin.example", "[::1]"}},
		Route{ID: "adminroot", Path: "/{rest...}", Hosts: []string{"admin.example"}},
		Route{ID: "root", Path: "/"},
	)
}

func TestMatch(t *testing.T) {
	t.Parallel()
	table := demo(t)
	for _, c := range []struct{ host, method, path, route, object string }{
		{"a.example", "GET", "/documents/roadmap", "read", "document:roadmap"},
		{"", "GET", "/documents/roadmap", "read", "document:roadmap"},
		{"a.example:8443", "PUT", "/documents/roadmap", "write", "document:roadmap"},
		{"a", "GET", "/documents/search", "search", ""},
		{"a", "GET", "/documents/%73earch", "search", ""},
		{"a", "GET", "/documents/Search", "read", "document:Search"},
		{"a", "GET", "/documents/a%3Ab", "read", "document:a:b"},
		{"a", "GET", "/documents/%C3%A9", "read", "document:é"},
		{"a", "GET", "/documents/all:export", "colon", ""},
		{"a", "GET", "/documents/search/versions/2", "deep", "version:search/2"},
		{"a", "DELETE", "/files/a/b", "files", "file:a/b"},
		{"a", "GET", "/files/a/b/", "files", ""},
		{"a", "GET", "/files", "list", ""},
		{"a", "GET", "/folder/", "folder", ""},
		{"a", "GET", "/", "root", ""},
		// not an object id: as for an absent object
		{"a", "GET", "/documents/a%20b", "read", ""},
		{"a", "GET", "/documents/a%23member", "read", ""},
		{"a", "GET", "/documents/*", "read", ""},
		{"a", "GET", "/documents/%2A", "read", ""},
		{"a", "GET", "/documents/" + strings.Repeat("x", relation.MaxObject), "read", ""},
		// hosts
		{"admin.example", "GET", "/admin", "admin", ""},
		{"ADMIN.Example:443", "GET", "/admin", "admin", ""},
		{"[::1]:8443", "GET", "/admin", "admin", ""},
		{"[::1]", "GET", "/admin", "admin", ""},
		{"admin.example", "GET", "/else", "adminroot", ""},
		// the more specific path wins over the named host
		{"admin.example", "GET", "/documents/x", "read", "document:x"},
		{"admin.example", "GET", "/", "root", ""},
	} {
		b, outcome := table.Match(c.host, c.method, c.path)
		if outcome != Matched || b.Route.ID != c.route || b.Object != c.object {
			t.Errorf("%s %s%s: %v %+v; want %s %q", c.method, c.host, c.path, outcome, b, c.route, c.object)
			continue
		}
		if want, _ := Normalize(c.path); b.Path != want {
			t.Errorf("%s is forwarded as %s", c.path, b.Path)
		}
	}
	b, _ := table.Match("a", "GET", "/documents/a%3ab/versions/%C3%A9")
	if diff := cmp.Diff([]Var{{"id", "a:b"}, {"version", "é"}}, b.Vars); diff != "" {
		t.Error(diff)
	}
}

func TestNoMatch(t *testing.T) {
	t.Parallel()
	table := demo(t)
	for _, c := range []struct {
		host, method, path string
		want               Outcome
		allow              string
	}{
		{"a", "GET", "/documents", NoRoute, ""},
		{"a", "GET", "/documents/a/versions", NoRoute, ""},
		{"a", "GET", "/documents/a/", NoRoute, ""},
		{"a", "GET", "/folder", NoRoute, ""},
		{"a", "GET", "/admin", NoRoute, ""},
		{"a", "GET", "/ADMIN", NoRoute, ""},
		// host tricks
		{"admin.example.evil", "GET", "/admin", NoRoute, ""},
		{"evil-admin.example", "GET", "/admin", NoRoute, ""},
		{"admin.example.", "GET", "/admin", NoRoute, ""},
		{"x@admin.example", "GET", "/admin", NoRoute, ""},
		{"admin.example:80:443", "GET", "/admin", NoRoute, ""},
		{"admin.example:x", "GET", "/", NoRoute, ""},
		{"a b", "GET", "/", NoRoute, ""},
		{"a/b", "GET", "/", NoRoute, ""},
		{"[::1", "GET", "/", NoRoute, ""},
		{"a..b", "GET", "/", NoRoute, ""},
		// methods
		{"a", "POST", "/documents/roadmap", MethodNotAllowed, "GET, PUT"},
		{"a", "PUT", "/documents/search", MethodNotAllowed, "GET"},
		{"a", "get", "/documents/roadmap", MethodNotAllowed, "GET, PUT"},
		{"a", "HEAD", "/documents/roadmap", MethodNotAllowed, "GET, PUT"},
		{"a", "*", "/files/a", MethodNotAllowed, ""},
		{"a", "TRACE", "/files/a", MethodNotAllowed, ""},
		{"a", "CONNECT", "/files/a", MethodNotAllowed, ""},
		{"a", "get", "/files/a", MethodNotAllowed, ""},
		// paths
		{"a", "GET", "/documents/../admin", BadPath, ""},
		{"a", "GET", "documents", BadPath, ""},
		{"a", "GET", "/documents/all%3Aexport", BadPath, ""}, // the literal all:export for most upstreams
		{"a", "GET", "/files/", BadPath, ""},                 // the route list for some upstreams
		{"admin.example", "GET", "/admin/", BadPath, ""},
		{"admin.example", "GET", "/folder", BadPath, ""},
	} {
		b, outcome := table.Match(c.host, c.method, c.path)
		if outcome != c.want || b.Allow != c.allow || b.Route != nil || (outcome == BadPath) != (b.Refusal != nil) {
			t.Errorf("%s %s%s: %v %+v; want %v %q", c.method, c.host, c.path, outcome, b, c.want, c.allow)
		}
	}
}

// More than a hundred hosts change nothing (CVE-2026-27588 of a peer).
func TestManyHosts(t *testing.T) {
	t.Parallel()
	hosts := []string{"Wanted.example"}
	for i := range 200 {
		hosts = append(hosts, "h"+strings.Repeat("x", i/26)+string(rune('a'+i%26))+".example")
	}
	table := compile(t, Route{ID: "a", Hosts: hosts, Path: "/a"})
	for _, h := range []string{"wanted.example", "WANTED.EXAMPLE"} {
		if _, outcome := table.Match(h, "GET", "/a"); outcome != Matched {
			t.Errorf("%s: %v", h, outcome)
		}
	}
	if _, outcome := table.Match("wanted.example.evil", "GET", "/a"); outcome != NoRoute {
		t.Errorf("a longer host: %v", outcome)
	}
}

func TestMethodsOfOnePattern(t *testing.T) {
	t.Parallel()
	table := compile(t,
		Route{ID: "any", Path: "/a", Methods: []string{"*"}},
		Route{ID: "get", Path: "/a"},
		Route{ID: "host", Path: "/a", Methods: []string{"DELETE"}, Hosts: []string{"h"}},
		Route{ID: "slash", Path: "/b/"},
		Route{ID: "var", Path: "/{x}"},
	)
	for want, r := range map[string][3]string{
		"get": {"h", "GET", "/a"}, "any": {"h", "PATCH", "/a"}, "host": {"h", "DELETE", "/a"}, "slash": {"h", "GET", "/b/"}, "var": {"h", "GET", "/c"},
	} {
		if b, outcome := table.Match(r[0], r[1], r[2]); outcome != Matched || b.Route.ID != want {
			t.Errorf("%v: %v %+v, want %s", r, outcome, b, want)
		}
	}
	if b, outcome := table.Match("x", "DELETE", "/a"); outcome != Matched || b.Route.ID != "any" {
		t.Errorf("another host: %v %+v", outcome, b)
	}
	if _, outcome := table.Match("h", "GET", "/b"); outcome != BadPath {
		t.Errorf("/b beside /b/ and /{x}: %v", outcome)
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	base := Route{ID: "r1", Path: "/a/{id}", Methods: []string{"GET"}, Upstream: "u"}
	with := func(change func(*Route)) []Route { r := base; change(&r); return []Route{r} }
	for _, c := range []struct {
		routes []Route
		want   []string
	}{
		{with(func(r *Route) { r.ID = "" }), []string{"id"}},
		{with(func(r *Route) { r.ID = "a b" }), []string{"id"}},
		{with(func(r *Route) { r.Path = "a" }), []string{"r1", "slash"}},
		{with(func(r *Route) { r.Path = "" }), []string{"r1", "slash"}},
		{with(func(r *Route) { r.Path = "/a//b" }), []string{"r1", "empty"}},
		{with(func(r *Route) { r.Path = "/a/../b" }), []string{"r1", "no request"}},
		{with(func(r *Route) { r.Path = "/a%2fb" }), []string{"r1", "no request"}},
		{with(func(r *Route) { r.Path = "/%41" }), []string{"r1", "no request"}},
		{with(func(r *Route) { r.Path = "/a;b" }), []string{"r1", "no request"}},
		{with(func(r *Route) { r.Path = "/é" }), []string{"r1", "no request"}},
		{with(func(r *Route) { r.Path = "/{a}.json" }), []string{"r1", "whole segment"}},
		{with(func(r *Route) { r.Path = "/x{a}" }), []string{"r1", "no request"}},
		{with(func(r *Route) { r.Path = "/{}" }), []string{"r1", "whole segment"}},
		{with(func(r *Route) { r.Path = "/{A}" }), []string{"r1", "whole segment"}},
		{with(func(r *Route) { r.Path = "/{a" }), []string{"r1", "whole segment"}},
		{with(func(r *Route) { r.Path = "/{a}/{a}" }), []string{"r1", "twice"}},
		{with(func(r *Route) { r.Path = "/{a...}/b" }), []string{"r1", "after"}},
		{with(func(r *Route) { r.Path = "/{a...}/" }), []string{"r1", "after"}},
		{with(func(r *Route) { r.Path = "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}" }), []string{"r1", "8"}},
		{with(func(r *Route) { r.Methods = nil }), []string{"r1", "method"}},
		{with(func(r *Route) { r.Methods = []string{"get"} }), []string{"r1", "upper-case"}},
		{with(func(r *Route) { r.Methods = []string{"GET", "*"} }), []string{"r1", "alone"}},
		{with(func(r *Route) { r.Methods = []string{"CONNECT"} }), []string{"r1", "never"}},
		{with(func(r *Route) { r.Methods = []string{"TRACE"} }), []string{"r1", "never"}},
		{with(func(r *Route) { r.Methods = []string{"GET", "GET"} }), []string{"r1", "twice"}},
		{with(func(r *Route) { r.Hosts = []string{"a", "A"} }), []string{"r1", "twice"}},
		{with(func(r *Route) { r.Hosts = []string{"*.example"} }), []string{"r1", "host"}},
		{with(func(r *Route) { r.Hosts = []string{"a:443"} }), []string{"r1", "host"}},
		{with(func(r *Route) { r.Hosts = []string{""} }), []string{"r1", "host"}},
		{with(func(r *Route) { r.Upstream = "" }), []string{"r1", "upstream"}},
		{with(func(r *Route) { r.Timeout = -1 }), []string{"r1", "timeout"}},
		{with(func(r *Route) { r.MaxBody = -1 }), []string{"r1", "body"}},
		{with(func(r *Route) { r.Require = view("document:{no}") }), []string{"r1", "variable"}},
		{with(func(r *Route) { r.Require = view("{id}:x") }), []string{"r1", "type"}},
		{with(func(r *Route) { r.Require = view("{id}") }), []string{"r1", "type"}},
		{with(func(r *Route) { r.Require = view("doc{id}:a") }), []string{"r1", "type"}},
		{with(func(r *Route) { r.Require = view("document:{id}"); r.Require.Application = "" }), []string{"r1", "application"}},
		{with(func(r *Route) { r.Require = view("") }), []string{"r1", "type:id"}},
		{with(func(r *Route) { r.Require = view("document:*") }), []string{"r1", "type:id"}},
		{with(func(r *Route) { r.Require = view("document:{id") }), []string{"r1", "variable"}},
		{with(func(r *Route) { r.Require = view("document:a}"); r.Require.Relation = "a b" }), []string{"r1", "relation"}},
		{with(func(r *Route) { r.Require = view("document:{id}"); r.Require.Visible = "#" }), []string{"r1", "visible"}},
		{with(func(r *Route) { r.Path = "/{a}/{b}"; r.Require = view("d:{a}{b}") }), []string{"r1", "slash between"}},
		{with(func(r *Route) { r.Path = "/{a}/{b}"; r.Require = view("d:{a}-{b}") }), []string{"r1", "slash between"}},
		{with(func(r *Route) { r.Path = "/{a}/{b...}"; r.Require = view("d:{a}/{b}") }), []string{"r1", "slash between"}},
		{[]Route{base, base}, []string{"r1", "twice"}},
		{[]Route{base, {ID: "r2", Path: "/a/{other}", Methods: []string{"PUT", "GET"}, Upstream: "u"}}, []string{"r1", "r2", "same requests"}},
		{[]Route{
			{ID: "r1", Path: "/a/{x...}", Hosts: []string{"H", "i"}, Methods: []string{"*"}, Upstream: "u"},
			{ID: "r2", Path: "/a/{y...}", Hosts: []string{"h"}, Methods: []string{"*"}, Upstream: "u"},
		}, []string{"r1", "r2", "same requests"}},
	} {
		_, err := Compile(c.routes)
		if err == nil || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", c.routes, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: %q does not say %q", c.routes, err, w)
			}
		}
	}
}

// The maker of a table cannot change it afterwards.
func TestTableIsItsOwn(t *testing.T) {
	t.Parallel()
	routes := []Route{{ID: "a", Path: "/{id}", Methods: []string{"GET"}, Upstream: "u", Require: view("d:{id}")}}
	table := compile(t, routes...)
	routes[0].Upstream, routes[0].Require.Relation = "evil", "evil"
	if b, _ := table.Match("", "GET", "/x"); b.Route.Upstream != "u" || b.Route.Require.Relation != "can_view" {
		t.Errorf("%+v", b.Route)
	}
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"/documents/a", "/documents/a%3Ab/versions/1", "/files/a/b/", "/files/", "/admin/", "/", "/documents/all%3Aexport"} {
		f.Add("admin.example:1", "GET", s)
	}
	table := demo(f)
	f.Fuzz(func(t *testing.T, host, method, path string) {
		b, outcome := table.Match(host, method, path)
		if outcome != Matched {
			if b.Route != nil || b.Object != "" {
				t.Fatalf("%v with %+v", outcome, b)
			}
			return
		}
		if want, err := Normalize(path); err != nil || want != b.Path {
			t.Fatalf("%q is matched as %q, %v", path, b.Path, err)
		}
		if b.Object != "" && !relation.ValidObject(b.Object) {
			t.Fatalf("%q gives the object %q", path, b.Object)
		}
		again, outcome := table.Match(host, method, b.Path)
		if outcome != Matched || cmp.Diff(b, again) != "" {
			t.Fatalf("%q and %q match differently", path, b.Path)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	table := demo(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, outcome := table.Match("localhost:8443", "GET", "/documents/roadmap"); outcome != Matched {
			b.Fatal(outcome)
		}
	}
}
