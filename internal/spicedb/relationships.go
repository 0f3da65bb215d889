package spicedb

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// maxLine is the longest line of relationships, in bytes: a caveat's context is
// 32 KiB at most.
const maxLine = 64 << 10

// Relationships reads relationships, one a line, as SpiceDB's tools write them:
//
//	resource:id#relation@subject:id
//	resource:id#relation@subject:id#relation[caveat:{"name": "value"}][expiration:2030-01-31T12:00:00Z]
//
// Empty lines and those that begin with // do not count. first is the number of
// the first line, for errors. Each must be one that the schema's model takes, and
// each object, relation and subject stands once. The tuples come in the order of
// their keys.
func (s *Schema) Relationships(in io.Reader, first int) ([]relation.Tuple, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	type read struct {
		relation.Tuple
		line int
	}
	var all []read
	number := first - 1
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "//") {
			continue
		}
		t, err := s.relationship(line)
		if err != nil {
			return nil, fault.Wrap(fault.KindOf(err), fmt.Sprintf("line %d: %s", number, fault.Public(err)), err)
		}
		all = append(all, read{t, number})
	}
	if err := lines.Err(); err != nil {
		return nil, fault.Wrap(fault.Invalid, fmt.Sprintf("line %d cannot be read, or is too long", number+1), err)
	}
	slices.SortStableFunc(all, func(a, b read) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Relation, b.Relation), cmp.Compare(a.Subject, b.Subject))
	})
	out := make([]relation.Tuple, 0, len(all))
	for i, t := range all {
		if i > 0 && t.Key() == all[i-1].Key() {
			if t.Tuple != all[i-1].Tuple {
				return nil, fault.New(fault.Invalid, fmt.Sprintf("line %d says otherwise than line %d under what caveat or until when %s counts", t.line, all[i-1].line, t.String()))
			}
			continue
		}
		out = append(out, t.Tuple)
	}
	return out, nil
}

// relationship reads one line.
func (s *Schema) relationship(line string) (relation.Tuple, error) {
	var t relation.Tuple
	form := fault.New(fault.Invalid, "this is no relationship: resource:id#relation@subject:id, with [caveat] or [expiration:time] behind it if there is one")
	head, tail := line, ""
	if i := strings.IndexByte(line, '['); i >= 0 {
		head, tail = strings.TrimSpace(line[:i]), line[i:]
	}
	object, rest, ok := strings.Cut(head, "#")
	rel, subject, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 {
		return t, form
	}
	t.Object, t.Relation, t.Subject = object, rel, strings.TrimSuffix(subject, "#...")
	for tail != "" {
		value, more, err := bracket(tail)
		if err != nil {
			return t, form
		}
		tail = strings.TrimSpace(more)
		if at, ends := strings.CutPrefix(value, "expiration:"); ends {
			when, err := time.Parse(time.RFC3339, at)
			if err != nil || t.Expires != 0 || when.Year() < 1970 || when.Year() > 2261 {
				return t, fault.New(fault.Invalid, "an expiration is written once, like [expiration:2030-01-31T12:00:00Z]")
			}
			if t.Expires = when.UnixNano(); t.Expires <= 0 {
				t.Expires = 1 // ended long ago; zero would be never
			}
			continue
		}
		if t.Condition != "" {
			return t, form
		}
		name, context, has := strings.Cut(value, ":")
		t.Condition = name
		if has {
			if t.Context, err = normal(context); err != nil {
				return t, err
			}
		}
		if name == "" {
			return t, form
		}
	}
	if _, all, _ := relation.SplitObject(t.Subject); !id(t.Object) || all != "*" && !id(t.Subject) {
		return t, fault.New(fault.Invalid, "an id has letters, digits and / _ | - = + alone")
	}
	if err := t.Validate(); err != nil {
		return t, err
	}
	if err := s.Model.Validate(t); err != nil {
		return t, err
	}
	return t, s.endFits(t)
}

// endFits holds the end of a tuple that the model takes to what the schema says
// of it.
func (s *Schema) endFits(t relation.Tuple) error {
	typ, _, _ := relation.SplitObject(t.Object)
	subject, rel := relation.SplitSubject(t.Subject)
	kind, id, _ := relation.SplitObject(subject)
	switch {
	case rel != "":
		kind += "#" + rel
	case id == "*":
		kind += ":*"
	}
	if t.Condition != "" {
		kind += " with " + t.Condition
	}
	switch may := s.ends[typ+"#"+t.Relation+" "+kind]; {
	case t.Expires != 0 && !may.with:
		return fault.New(fault.Invalid, typ+"#"+t.Relation+" takes no "+kind+" that expires")
	case t.Expires == 0 && !may.without:
		return fault.New(fault.Invalid, typ+"#"+t.Relation+" takes "+kind+" with an expiration alone")
	}
	return nil
}

// MustEnd names the relations with the subjects whose relationships must end in
// SpiceDB, as "type#relation subject": of tuples nothing requires it.
func (s *Schema) MustEnd() []string {
	var all []string
	for kind, may := range s.ends {
		if !may.without {
			all = append(all, kind)
		}
	}
	slices.Sort(all)
	return all
}

// Askable reports why a question is not about what the schema defines: an answer
// to it would say nothing. The error has kind [fault.Invalid].
func (s *Schema) Askable(object, relationName, subject string) error {
	whose, userset := relation.SplitSubject(subject)
	for _, part := range []struct{ object, relation string }{{object, relationName}, {whose, userset}} {
		typ, _, ok := relation.SplitObject(part.object)
		switch {
		case !ok:
			return fault.New(fault.Invalid, "a question is resource:id#permission@subject:id")
		case !s.Model.HasType(typ):
			return fault.New(fault.Invalid, "there is no definition of "+typ)
		case part.relation == "":
			continue
		}
		if _, ok := s.Model.Relation(typ, part.relation); !ok {
			return fault.New(fault.Invalid, typ+" has no relation or permission "+part.relation)
		}
	}
	return nil
}

// id reports whether the id of an object, or of that of a userset, is one of
// SpiceDB's.
func id(subject string) bool {
	object, _ := relation.SplitSubject(subject)
	_, id, _ := relation.SplitObject(object)
	return !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/_|-=+", r)
	})
}

// bracket takes the first [...] off. A bracket may stand in the strings of the
// JSON in it, and in its lists.
func bracket(s string) (value, rest string, err error) {
	depth, text := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				return s[1:i], s[i+1:], nil
			}
		case depth == 0:
			return "", "", fmt.Errorf("something stands between the brackets")
		}
	}
	return "", "", fmt.Errorf("a bracket is not closed")
}

// normal writes a context as tuples have it.
func normal(context string) (string, error) {
	wrong := fault.New(fault.Invalid, "the context of a caveat must be a JSON object")
	var values map[string]any
	dec := json.NewDecoder(bytes.NewReader([]byte(context)))
	if err := dec.Decode(&values); err != nil || values == nil || dec.More() {
		return "", wrong
	}
	if len(values) == 0 {
		return "", nil
	}
	raw, err := json.Marshal(values)
	if err != nil {
		return "", wrong
	}
	return string(raw), nil
}
