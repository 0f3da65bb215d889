package route

import (
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// A pattern is a parsed Route.Path. Kinds of segment order specificity: the
// smaller byte is the more specific one.
const (
	kindLiteral = '1'
	kindVar     = '2'
	kindRest    = '3'
	kindSlash   = '0' // the path ends with a slash
)

type segment struct {
	kind byte
	text string // the literal, or the variable's name
}

func parsePattern(r *Route) ([]segment, error) {
	bad := func(reason string) ([]segment, error) {
		return nil, fault.New(fault.Invalid, "route "+r.ID+": the path "+quote(r.Path)+" "+reason)
	}
	if r.Path == "" || r.Path[0] != '/' {
		return bad("must begin with a slash")
	}
	var out []segment
	vars := map[string]bool{}
	parts := strings.Split(r.Path[1:], "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if part == "" {
			if !last {
				return bad("holds an empty segment")
			}
			out = append(out, segment{kindSlash, ""})
			continue
		}
		name, isVar := strings.CutPrefix(part, "{")
		if !isVar {
			if canonical, err := Normalize("/" + part); err != nil || canonical != "/"+part {
				return bad("holds the segment " + quote(part) + ", which no request can have")
			}
			out = append(out, segment{kindLiteral, part})
			continue
		}
		name, closed := strings.CutSuffix(name, "}")
		name, rest := strings.CutSuffix(name, "...")
		switch {
		case !closed || !validVar(name):
			return bad("holds " + quote(part) + "; a variable is a whole segment, {name} or {name...}")
		case vars[name]:
			return bad("names the variable " + quote(name) + " twice")
		case rest && !last:
			return bad("has something after {" + name + "...}")
		}
		vars[name] = true
		if len(vars) > MaxVars {
			return bad("has more than 8 variables")
		}
		kind := byte(kindVar)
		if rest {
			kind = kindRest
		}
		out = append(out, segment{kind, name})
	}
	return out, nil
}

func validVar(s string) bool {
	for i := range len(s) {
		if (s[i] < 'a' || s[i] > 'z') && s[i] != '_' && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// A part of an object template is text, or a variable by its position.
type part struct {
	text string
	at   int // -1 for text
}

// parseObject reads "document:{id}". Two variables must have a slash between
// them, which no variable's value can hold: else two paths would make one object.
func parseObject(r *Route, segments []segment) ([]part, error) {
	bad := func(reason string) ([]part, error) {
		return nil, fault.New(fault.Invalid, "route "+r.ID+": the object "+quote(r.Require.Object)+" "+reason)
	}
	position, rest := map[string]int{}, map[string]bool{}
	for _, s := range segments {
		if s.kind == kindVar || s.kind == kindRest {
			position[s.text] = len(position)
			rest[s.text] = s.kind == kindRest
		}
	}
	var parts []part
	example, vars, anyRest := "", 0, false
	for template := r.Require.Object; template != ""; {
		text, after, isVar := strings.Cut(template, "{")
		if text != "" {
			parts = append(parts, part{text, -1})
			example += text
		}
		if !isVar {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		at, known := position[name]
		if !closed || !known {
			return bad("names a variable that the path does not have")
		}
		if typ, _, ok := relation.SplitObject(example); !ok || !relation.ValidRelation(typ) {
			return bad("must begin with a type: the request may not choose it")
		}
		vars, anyRest = vars+1, anyRest || rest[name]
		if vars > 1 && (anyRest || !strings.Contains(text, "/")) {
			return bad("has two variables without a slash between them")
		}
		parts = append(parts, part{"", at})
		example += "x"
		template = tail
	}
	if !relation.ValidObject(example) {
		return bad("must be type:id")
	}
	return parts, nil
}

// object fills the template; the empty string when the values make no object.
func object(parts []part, vars []Var) string {
	var out string
	switch {
	case len(parts) == 2 && parts[0].at < 0 && parts[1].at >= 0: // "type:{id}"
		out = parts[0].text + vars[parts[1].at].Value
	default:
		var b strings.Builder
		for _, p := range parts {
			if p.at < 0 {
				b.WriteString(p.text)
			} else {
				b.WriteString(vars[p.at].Value)
			}
		}
		out = b.String()
	}
	for _, p := range parts {
		if p.at < 0 {
			continue
		}
		// An empty value names nothing, "a/" may be "a" to the upstream: no part of
		// an object comes from such a value.
		if v := vars[p.at].Value; v == "" || v[len(v)-1] == '/' {
			return ""
		}
	}
	if !relation.ValidObject(out) {
		return ""
	}
	return out
}
