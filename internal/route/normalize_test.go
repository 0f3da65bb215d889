package route

import (
	"strings"
	"testing"
	"unicode/utf8"

	"bulwark.example/internal/fault"
)

// The table of research/gateway.md section 3, items 1 to 5, 7 and 8, with what
// we decided for each.
func TestNormalize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ raw, want string }{
		{"/", "/"},
		{"/documents/roadmap", "/documents/roadmap"},
		{"/documents/", "/documents/"}, // a path of its own
		{"/a.b/..c/.d/e../...", "/a.b/..c/.d/e../..."},
		{"/%41dmin", "/Admin"}, // unreserved: the same path by RFC 3986 6.2.2.2
		{"/%61dmin%2dx%5fy%7ez", "/admin-x_y~z"},
		{"/a%c3%a9", "/a%C3%A9"},
		{"/a%3ab", "/a%3Ab"}, // reserved: not the same path, kept
		{"/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="},
		{"/a%20b%22%3c%23%3f%5b", "/a%20b%22%3C%23%3F%5B"},
		{"/a%3bb", "/a%3Bb"},
		{"/" + strings.Repeat("a", MaxPath-1), "/" + strings.Repeat("a", MaxPath-1)},
	} {
		got, err := Normalize(c.raw)
		if err != nil || got != c.want {
			t.Errorf("Normalize(%q) = %q, %v; want %q", c.raw, got, err, c.want)
		}
	}
}

func TestNormalizeRefuses(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]error{
		// 1: dot segments
		"/public/../admin": errSegment, "/..": errSegment, "/../": errSegment, "/a/..": errSegment,
		// 2: encoded
		"/public/%2e%2e/admin": errEncoded, "/public/..%2fadmin": errEncoded, "/a%2Fb": errEncoded,
		"/a%5cb": errEncoded, "/a%5C..%5Cb": errEncoded, "/a%252e": errEncoded, "/a%25": errEncoded,
		"/.%2e/admin": errEncoded, "/a%2Ehtml": errEncoded,
		"/a%c0%afb": errUTF8, "/a%e0%80%afb": errUTF8, "/a%ff": errUTF8, "/a%c0%ae%c0%ae": errUTF8, "/a%ed%a0%80": errUTF8,
		// 3: empty and single-dot segments
		"//admin": errSegment, "/a//b": errSegment, "/a//": errSegment, "//": errSegment,
		"/./admin": errSegment, "/.": errSegment, "/a/.": errSegment, "/a/./": errSegment,
		// 4: path parameters
		"/..;/admin": errParameter, "/public/..;a=b/admin": errParameter, "/.;/admin": errParameter, "/;/admin": errParameter,
		"/admin;x=1": errParameter, "/..%3b/admin": errSegment, "/.%3Bx/admin": errSegment, "/%3b/admin": errSegment,
		// 5: fragments
		"/admin#": errFragment, "/public#/../admin": errFragment, "/#": errFragment,
		// 8: no leading slash
		"": errRelative, "admin": errRelative, "*": errRelative, "http://a/admin": errRelative, "%2fadmin": errRelative,
		// control bytes and what RFC 3986 keeps out of a path
		"/a%00": errControl, "/a%0a": errControl, "/a%0D%0Ab": errControl, "/a%7f": errControl, "/a%c2%85": errControl, "/a%1f": errControl,
		"/a\x00": errCharacter, "/a\nb": errCharacter, "/a\tb": errCharacter, "/a b": errCharacter, "/a\x7f": errCharacter,
		`/a\b`: errCharacter, `\a`: errRelative, `/..\admin`: errCharacter,
		"/\u00e9": errCharacter, "/\xff": errCharacter, "/a?b": errCharacter, "/<a>": errCharacter, "/{a}": errCharacter,
		"/a|b": errCharacter, "/[a]": errCharacter, "/a^": errCharacter, "/`": errCharacter, `/"`: errCharacter,
		// escapes
		"/%": errEscape, "/a%4": errEscape, "/a%zz": errEscape, "/a%%41": errEscape, "/a%u002e": errEscape, "/%4g": errEscape,
		"/" + strings.Repeat("a", MaxPath): errLong,
	} {
		if got, err := Normalize(raw); err != want || got != "" {
			t.Errorf("Normalize(%q) = %q, %v; want the error %v", raw, got, err, want)
		}
		if fault.KindOf(want) != fault.Invalid {
			t.Errorf("%v has kind %v", want, fault.KindOf(want))
		}
	}
}

func TestNormalizeDoesNotAllocate(t *testing.T) {
	// not parallel: testing.AllocsPerRun counts the whole process.
	if n := testing.AllocsPerRun(100, func() { _, _ = Normalize("/documents/roadmap/versions/12") }); n != 0 {
		t.Errorf("%v allocations for a path without escapes", n)
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/", "/documents/roadmap", "/%41%c3%a9", "/a%3bb", "/..%3b/", "/%2e%2e/", "//", "/a;b", "/a%252e", "/a%C0%AF", "/.", "/a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := Normalize(raw)
		if err != nil {
			return
		}
		again, err := Normalize(path)
		if err != nil || again != path {
			t.Fatalf("%q becomes %q and then %q, %v", raw, path, again, err)
		}
		plain := decode(path)
		if !utf8.ValidString(plain) || strings.ContainsAny(plain, "%\\\x00\r\n\x7f") {
			t.Fatalf("%q decodes to %q", path, plain)
		}
		if strings.Count(plain, "/") != strings.Count(path, "/") {
			t.Fatalf("%q hides a slash", path)
		}
		for i, s := range strings.Split(plain[1:], "/") {
			s, _, _ = strings.Cut(s, ";")
			last := i == strings.Count(plain, "/")-1
			if s == "." || s == ".." || s == "" && !last {
				t.Fatalf("%q has the segment %q", path, s)
			}
		}
		for i := range len(path) {
			if path[i] <= ' ' || path[i] >= 0x7f || strings.IndexByte(`;#?"<>\^{|}`+"`", path[i]) >= 0 {
				t.Fatalf("%q holds %q", path, path[i])
			}
		}
	})
}
