package spicedb_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/spicedb"
)

// everything that can be said in both languages.
const everything = `use expiration

/** user is a person */
definition user {}

definition acme/group {
	relation member: user | acme/group#member | user:*
}

caveat on_tuesday(day string, limit list<int>, more map<string>) {
	day == "tuesday  // {" && size(limit) > 0
}

definition folder {
	relation parent: folder
	relation viewer: user | user with on_tuesday
	permission view = viewer + parent->view
}

definition document {
	relation parent: folder | folder with on_tuesday
	relation owner: user
	relation writer: user | acme/group#member with on_tuesday | user with expiration | user with on_tuesday and expiration
	relation banned: acme/group#... | user
	relation ending: user with expiration | user with on_tuesday
	// comment
	permission edit = owner + writer
	permission view: user = (edit + parent->view + parent.any(viewer)) - banned
	permission both = edit & view
	permission odd = owner - (banned & writer) - edit
	permission mixed = owner + writer & banned
}
`

const translated = `model
  schema 1.1

type user

type acme/group
  relations
    define member: [user, acme/group#member, user:*]

type folder
  relations
    define parent: [folder]
    define viewer: [user, user with on_tuesday]
    define view: viewer or view from parent

type document
  relations
    define parent: [folder, folder with on_tuesday]
    define owner: [user]
    define writer: [user, acme/group#member with on_tuesday, user with on_tuesday]
    define banned: [acme/group, user]
    define ending: [user, user with on_tuesday]
    define edit: owner or writer
    define view: (edit or view from parent or viewer from parent) but not banned
    define both: edit and view
    define odd: (owner but not (banned and writer)) but not edit
    define mixed: (owner or writer) and banned

condition on_tuesday(day: string, limit: list<int>, more: map<string>) {
  day == "tuesday  // {" && size(limit) > 0
}
`

func TestTranslation(t *testing.T) {
	t.Parallel()
	s, err := spicedb.Parse(everything, 1)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(translated, s.Source); d != "" {
		t.Errorf("the schema is translated otherwise:\n%s", d)
	}
	if d := cmp.Diff([]string{"document#ending user", "document#writer user with on_tuesday"}, s.MustEnd()); d != "" {
		t.Errorf("other relationships must end:\n%s", d)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	const head = "definition user {}\ndefinition group {\n relation member: user\n}\n"
	for name, c := range map[string]struct {
		text string
		kind fault.Kind
		says string
	}{
		"nothing":            {"", fault.Invalid, "defines nothing"},
		"no syntax":          {"definition user {\n", fault.Invalid, "line 8: "},
		"a stranger":         {"definition user {}\n\nmodel x\n", fault.Invalid, "line 10: "},
		"all":                {head + "definition d {\n relation g: group\n permission p = g.all(member)\n}", fault.Unsupported, "line 14: OpenFGA's language cannot say g.all(member)"},
		"nil":                {head + "definition d {\n relation g: user\n permission p = g +\n nil\n}", fault.Unsupported, "line 15: OpenFGA's language has no word for nil"},
		"self":               {"use self\n" + head + "definition d {\n relation g: user\n permission p = g + self\n}", fault.Unsupported, "line 15: OpenFGA's language has no word for self"},
		"a long arrow":       {head + "definition d {\n relation g: group\n permission p = g->member->x\n}", fault.Unsupported, "line 14: an arrow leads"},
		"along a permission": {head + "definition d {\n relation g: group\n permission h = g\n permission p = h->member\n}", fault.Unsupported, "line 15: h is a permission"},
		"along usersets":     {head + "definition d {\n relation g: group#member\n permission p = g->member\n}", fault.Unsupported, "line 14: g takes usersets or everyone (line 13)"},
		"along everyone":     {head + "definition d {\n relation g: group:*\n permission p = g->member\n}", fault.Unsupported, "line 14: g takes usersets or everyone (line 13)"},
		"an arrow to no one": {head + "definition d {\n relation g: user\n permission p = g->member\n}", fault.Invalid, "line 14: nothing that g leads to"},
		"an arrow from none": {head + "definition d {\n permission p = g->member\n}", fault.Invalid, "line 13: d has no relation g"},
		"no relation":        {head + "definition d {\n permission p = x\n}", fault.Invalid, "line 13: d has no relation or permission x"},
		"no type":            {head + "definition d {\n relation g:\n  user | grop\n}", fault.Invalid, "line 14: there is no definition of grop"},
		"no subrelation":     {head + "definition d {\n relation g: group#members\n}", fault.Invalid, "line 13: group has no relation or permission members"},
		"no caveat":          {head + "definition d {\n relation g: user with c\n}", fault.Invalid, "line 13: there is no caveat c"},
		"twice a type":       {head + "definition user {}\n", fault.Invalid, "line 12: there is a definition of user already"},
		"twice a relation":   {head + "definition d {\n relation g: user\n permission g = g\n}", fault.Invalid, "line 14: d has g already"},
		"bytes":              {head + "caveat c(x bytes) {\n true\n}", fault.Unsupported, "line 12: OpenFGA's conditions have no parameters of the type bytes"},
		"lists of lists":     {head + "caveat c(x list<list<int>>) {\n true\n}", fault.Unsupported, "line 12: OpenFGA's conditions have no list of lists"},
		"a bare list":        {head + "caveat c(x list) {\n true\n}", fault.Invalid, "line 12: the type list takes 1 types, not 0"},
		"a long name":        {head + "definition d {\n relation " + strings.Repeat("a", 51) + ": user\n}", fault.Unsupported, "line 13: the name of the relation"},
		"this":               {head + "definition d {\n relation this: user\n}", fault.Unsupported, "line 13: OpenFGA reserves the name this"},
		"a comment within":   {head + "caveat c(x int) {\n x > 1 && // why\n x > 2\n}", fault.Unsupported, "line 12: the caveat c has a comment"},
		"a path of a caveat": {head + "caveat a/c(x int) {\n x > 1\n}", fault.Unsupported, "line 12: a condition of OpenFGA cannot have a /"},
		"deep":               {head + "definition d {\n relation g: user\n permission p = " + strings.Repeat("(", 120) + "g" + strings.Repeat(")", 120) + "\n}", fault.Invalid, "line 14: parentheses stand more than 100 deep"},
		"a circle":           {head + "definition d {\n permission p = q\n permission q = p\n}", fault.Unsupported, "is no model of OpenFGA"},
	} {
		_, err := spicedb.Parse(c.text, 8)
		if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(fault.Public(err), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWords: whatever word of OpenFGA's language a schema has for a name, it is
// translated as a name or refused.
func TestWords(t *testing.T) {
	t.Parallel()
	for _, word := range strings.Fields("model schema type relations define and or but not from with condition module extend contents list map int user") {
		text := fmt.Sprintf("definition %s {\n relation %[1]s: %[1]s\n permission can_%[1]s = %[1]s + %[1]s->%[1]s\n}\ncaveat %[1]s(%[1]s int) {\n %[1]s > 1\n}", word)
		if word == "and" || word == "with" || word == "list" || word == "map" || word == "int" {
			// as a parameter's name these are CEL's or SpiceDB's own
			text = text[:strings.Index(text, "caveat")]
		}
		s, err := spicedb.Parse(text, 1)
		if err != nil {
			if k := fault.KindOf(err); k != fault.Unsupported && k != fault.Invalid {
				t.Errorf("%s: %v", word, err)
			}
			continue
		}
		if _, ok := s.Model.Relation(word, "can_"+word); !ok {
			t.Errorf("%s became something else:\n%s", word, s.Source)
		}
	}
}

func TestRelationships(t *testing.T) {
	t.Parallel()
	s, err := spicedb.Parse(everything, 1)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC).UnixNano()
	got, err := s.Relationships(strings.NewReader(`
		// people
		acme/group:g#member@user:b
		acme/group:g#member@user:*
		acme/group:g#member@acme/group:h|x=/y#member

		document:a#banned@acme/group:g#...
		document:a#writer@user:a[expiration:2030-01-31T12:00:00Z]
		document:a#writer@user:b[on_tuesday:{"day": "]", "limit": [1, [2]]}][expiration:2030-01-31T13:00:00+01:00]
		document:a#writer@acme/group:g#member[on_tuesday]
		document:a#ending@user:c[on_tuesday:{}]
		acme/group:g#member@user:b
	`), 1)
	if err != nil {
		t.Fatal(err)
	}
	want := []relation.Tuple{
		{Object: "acme/group:g", Relation: "member", Subject: "acme/group:h|x=/y#member"},
		{Object: "acme/group:g", Relation: "member", Subject: "user:*"},
		{Object: "acme/group:g", Relation: "member", Subject: "user:b"},
		{Object: "document:a", Relation: "banned", Subject: "acme/group:g"},
		{Object: "document:a", Relation: "ending", Subject: "user:c", Condition: "on_tuesday"},
		{Object: "document:a", Relation: "writer", Subject: "acme/group:g#member", Condition: "on_tuesday"},
		{Object: "document:a", Relation: "writer", Subject: "user:a", Expires: end},
		{Object: "document:a", Relation: "writer", Subject: "user:b", Condition: "on_tuesday", Context: `{"day":"]","limit":[1,[2]]}`, Expires: end},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for line, says := range map[string]string{
		"document:a#owner":                                                      "this is no relationship",
		"document:a@user:a":                                                     "this is no relationship",
		"document:a#owner@user:a[":                                              "this is no relationship",
		"document:a#owner@user:ä":                                               "an id has letters",
		"document:a#writer@user:a[on_tuesday][x]":                               "this is no relationship",
		"document:a#writer@user:a[]":                                            "this is no relationship",
		"document:a#writer@user:a[on_tuesday] x":                                "this is no relationship",
		"document:a#writer@user:a[on_tuesday:[]]":                               "must be a JSON object",
		"document:a#writer@user:a[on_tuesday:{}{}]":                             "must be a JSON object",
		"document:a#owner@user:a[on_tuesday]":                                   "document#owner does not accept user with on_tuesday",
		"document:a#view@user:a":                                                "is computed from other relations",
		"document:a#none@user:a":                                                "has no relation none",
		"paper:a#view@user:a":                                                   "no type paper",
		"document:a#owner@user:*":                                               "does not accept user:*",
		"document:a#owner@user:a[expiration:2030-01-01T]":                       "like [expiration:2030-01-31T12:00:00Z]",
		"document:a#owner@user:a[expiration:9999-01-01T00:00:00Z]":              "like [expiration:2030-01-31T12:00:00Z]",
		"document:a#owner@user:a[expiration:2030-01-31T12:00:00Z]":              "document#owner takes no user that expires",
		"document:a#owner@user:a:*":                                             "an id has letters",
		"document:a#ending@user:a":                                              "document#ending takes user with an expiration alone",
		"document:a#ending@user:a[on_tuesday][expiration:2030-01-31T12:00:00Z]": "takes no user with on_tuesday that expires",
		"document:a#writer@acme/group:g#member[on_tuesday][expiration:2030-01-31T12:00:00Z]": "takes no acme/group#member with on_tuesday that expires",
		"document:a#owner@user:a]":                               "an id has letters",
		"document:*#owner@user:a":                                "an id has letters",
		"document:a#owner@user:a b":                              "an id has letters",
		"document:" + strings.Repeat("a", 300) + "#owner@user:a": "the object must be",
		strings.Repeat("x", 70_000):                              "too long",
		"document:b#writer@user:a\ndocument:b#writer@user:a[expiration:2030-01-31T12:00:00Z]": "line 8 says otherwise than line 7",
	} {
		_, err := s.Relationships(strings.NewReader("\n"+line), 6)
		if err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), says) || !strings.Contains(fault.Public(err), "line ") {
			t.Errorf("%.80s: %v", line, err)
		}
	}
}

// TestAskable: a question is about what the schema defines, or it is a slip.
func TestAskable(t *testing.T) {
	t.Parallel()
	s, err := spicedb.Parse(everything, 1)
	if err != nil {
		t.Fatal(err)
	}
	for question, says := range map[[3]string]string{
		{"document:a", "view", "user:b"}:                  "",
		{"document:a", "view", "acme/group:b#member"}:     "",
		{"document:a", "view", "user:*"}:                  "",
		{"document:a", "veiw", "user:b"}:                  "document has no relation or permission veiw",
		{"documnt:a", "view", "user:b"}:                   "there is no definition of documnt",
		{"document:a", "view", "usr:b"}:                   "there is no definition of usr",
		{"document:a", "view", "acme/group:b#membership"}: "acme/group has no relation or permission membership",
		{"document", "view", "user:b"}:                    "resource:id",
		{"document:a", "view", "user"}:                    "resource:id",
	} {
		err := s.Askable(question[0], question[1], question[2])
		if (err == nil) != (says == "") || err != nil && !strings.Contains(fault.Public(err), says) {
			t.Errorf("%s: %v", question, err)
		}
	}
}

// FuzzParse: no text harms, and what is translated is a model.
func FuzzParse(f *testing.F) {
	f.Add(everything)
	f.Add("definition user {}")
	f.Add("use self\ndefinition a { relation b: a | a:* | a#b with c\n permission d = b->d & (b - self) + nil.all(x) }")
	f.Add("caveat c(x map<any>, y ipaddress) { y.in_cidr('10.0.0.0/8') && {\"a\": 1}.a == 1 }\ndefinition u {}")
	f.Add("definition a/b/c {\r\n relation x: a/b/c#... }")
	f.Add("/* " + "definition é {}")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := spicedb.Parse(text, 1)
		if err != nil {
			var ours *fault.Error
			if k := fault.KindOf(err); !errors.As(err, &ours) || k != fault.Invalid && k != fault.Unsupported && k != fault.TooLarge {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := schema.Parse(s.Source)
		if err != nil || again.ID() != s.Model.ID() {
			t.Fatalf("%v: %s", err, s.Source)
		}
	})
}

// FuzzRelationships: no line harms, and what is taken is a tuple of the model.
func FuzzRelationships(f *testing.F) {
	s, err := spicedb.Parse(everything, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`document:a#writer@user:b[on_tuesday:{"day": "]", "limit": [1]}][expiration:2030-01-31T13:00:00+01:00]`)
	f.Add("acme/group:g#member@acme/group:h#member\nacme/group:g#member@user:*\n// x\n")
	f.Add("document:a#banned@acme/group:g#...[]")
	f.Fuzz(func(t *testing.T, text string) {
		tuples, err := s.Relationships(strings.NewReader(text), 1)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.TooLarge {
				t.Fatal(err)
			}
			return
		}
		for _, x := range tuples {
			if err := errors.Join(x.Validate(), s.Model.Validate(x)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
