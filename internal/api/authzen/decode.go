package authzen

import (
	"math"
	"strconv"
	"strings"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// members are those of a JSON object. Ones that nobody asks for are ignored, as
// the contract demands; null is no value of the others: whether it overrides a
// default would be a guess.
type members map[string]any

// object returns a member that is an object, nil if there is none.
func (m members) object(name string) (members, error) {
	v, ok := m[name]
	if !ok {
		return nil, nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, invalid(name + " must be an object")
	}
	return o, nil
}

// text returns a member that is a string, empty if there is none.
func (m members) text(name string) (string, error) {
	v, ok := m[name]
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", invalid(name + " must be a string")
	}
	return s, nil
}

// entity is a subject, a resource or, with its name for the id, an action.
type entity struct {
	kind       string // "subject": begins the names of its properties
	typ, id    string // empty: missing
	properties members
}

// entity reads one in its form. The id of one that is searched for is ignored,
// whatever it is.
func (m members) entity(kind string, searched bool) (*entity, error) {
	o, err := m.object(kind)
	if o == nil || err != nil {
		return nil, err
	}
	e := &entity{kind: kind}
	if kind == "action" {
		e.id, err = o.text("name")
	} else if e.typ, err = o.text("type"); err == nil && !searched {
		e.id, err = o.text("id")
	}
	if err == nil {
		e.properties, err = o.object("properties")
	}
	if err != nil {
		return nil, invalid(kind + "." + fault.Public(err))
	}
	return e, nil
}

// question is one as it was read. What was not sent is nil.
type question struct {
	subject, resource, action *entity
	context                   members
}

// question reads the form of one, without what is searched for by its type.
func (m members) question(searched string) (q question, err error) {
	if q.subject, err = m.entity("subject", searched == "subject"); err != nil {
		return q, err
	}
	if q.resource, err = m.entity("resource", searched == "resource"); err != nil {
		return q, err
	}
	if searched != "action" { // there it is no member of the request
		if q.action, err = m.entity("action", false); err != nil {
			return q, err
		}
	}
	q.context, err = m.object("context")
	return q, err
}

// or takes over from the defaults what q does not have, each as a whole.
func (q question) or(defaults question) question {
	if q.subject == nil {
		q.subject = defaults.subject
	}
	if q.resource == nil {
		q.resource = defaults.resource
	}
	if q.action == nil {
		q.action = defaults.action
	}
	if q.context == nil {
		q.context = defaults.context
	}
	return q
}

// wellFormed checks what is there of defaults, used or not.
func (q question) wellFormed() error {
	for _, c := range []struct {
		e     *entity
		named func(*entity) (string, error)
	}{{q.subject, subjectOf}, {q.resource, resourceOf}, {q.action, actionOf}} {
		if c.e != nil {
			if _, err := c.named(c.e); err != nil {
				return err
			}
		}
	}
	return nil
}

func subjectOf(e *entity) (string, error) { return named(e, "subject", relation.ValidSubject) }

func resourceOf(e *entity) (string, error) { return named(e, "resource", relation.ValidObject) }

// named returns "type:id" of an entity, empty with an error.
func named(e *entity, kind string, valid func(string) bool) (string, error) {
	typ, err := typeOf(e, kind)
	if err != nil {
		return "", err
	}
	if e.id == "" {
		return "", invalid(kind + ".id is missing")
	}
	name := typ + ":" + e.id
	if !valid(name) {
		return "", invalid(kind + ".id cannot be that of a " + kind + " here: it is too long, or holds white space or a character that has a meaning in tuples")
	}
	return name, nil
}

// typeOf is of an entity that may lack its id. A colon in a type would give two
// entities one name.
func typeOf(e *entity, kind string) (string, error) {
	switch {
	case e == nil:
		return "", invalid(kind + " is missing")
	case e.typ == "":
		return "", invalid(kind + ".type is missing")
	case strings.Contains(e.typ, ":") || !relation.ValidObject(e.typ+":x"):
		return "", invalid(kind + ".type cannot be that of a " + kind + " here")
	}
	return e.typ, nil
}

func actionOf(e *entity) (string, error) {
	switch {
	case e == nil:
		return "", invalid("action is missing")
	case e.id == "":
		return "", invalid("action.name is missing")
	case !relation.ValidRelation(e.id):
		return "", invalid("action.name cannot be that of an action here")
	}
	return e.id, nil
}

// attributes are the values for conditions, nil for none.
func (q question) attributes() (map[string]any, error) {
	n := len(q.context)
	parts := []*entity{q.subject, q.resource, q.action}
	for _, e := range parts {
		if e != nil {
			n += len(e.properties)
		}
	}
	switch {
	case n == 0:
		return nil, nil
	case n > MaxAttributes:
		return nil, invalid("the context and the properties have more than " + strconv.Itoa(MaxAttributes) + " members")
	case n == len(q.context):
		return q.context, nil
	}
	out := make(map[string]any, n)
	for name, v := range q.context {
		out[name] = v
	}
	for _, e := range parts {
		if e == nil {
			continue
		}
		for name, v := range e.properties {
			name = e.kind + "_" + name
			if _, taken := out[name]; taken {
				return nil, invalid("a member of the context has the name that a property of the " + e.kind + " gets: " + e.kind + "_...")
			}
			out[name] = v
		}
	}
	return out, nil
}

// The semantics of evaluations.
const (
	executeAll  = "execute_all"
	stopAtDeny  = "deny_on_first_deny"
	stopAtAllow = "permit_on_first_permit"
)

// boxcar is a request for evaluations.
type boxcar struct {
	defaults  question
	items     []question // with the defaults; empty: the defaults are the one question
	semantics string
}

func (m members) boxcar() (b boxcar, err error) {
	if b.defaults, err = m.question(""); err != nil {
		return b, err
	}
	options, err := m.object("options")
	if err != nil {
		return b, err
	}
	b.semantics = executeAll
	if v, ok := options["evaluations_semantic"]; ok {
		b.semantics, _ = v.(string)
		if b.semantics != executeAll && b.semantics != stopAtDeny && b.semantics != stopAtAllow {
			return b, invalid("options.evaluations_semantic must be " + executeAll + ", " + stopAtDeny + " or " + stopAtAllow)
		}
	}
	v, ok := m["evaluations"]
	if !ok {
		return b, nil
	}
	list, ok := v.([]any)
	switch {
	case !ok:
		return b, invalid("evaluations must be an array")
	case len(list) > MaxEvaluations:
		return b, invalid("evaluations has more than " + strconv.Itoa(MaxEvaluations) + " members")
	case len(list) == 0:
		return b, nil
	}
	for i, v := range list {
		o, ok := v.(map[string]any)
		if !ok {
			return b, invalid("evaluations[" + strconv.Itoa(i) + "] must be an object")
		}
		q, err := members(o).question("")
		if err != nil {
			return b, invalid("evaluations[" + strconv.Itoa(i) + "]." + fault.Public(err))
		}
		b.items = append(b.items, q.or(b.defaults))
	}
	return b, b.defaults.wellFormed()
}

// turn is the page that a search asks for.
type turn struct {
	token string
	limit int // -1: none was named
}

func (m members) turn() (t turn, err error) {
	t.limit = -1
	page, err := m.object("page")
	if page == nil || err != nil {
		return t, err
	}
	if t.token, err = page.text("token"); err != nil {
		return t, invalid("page." + fault.Public(err))
	}
	if _, err := page.object("properties"); err != nil { // there are none of ours
		return t, invalid("page." + fault.Public(err))
	}
	if v, ok := page["limit"]; ok {
		n, ok := v.(float64)
		if !ok || n < 0 || n != math.Trunc(n) {
			return t, invalid("page.limit must be a non-negative integer")
		}
		t.limit = int(min(n, MaxPage)) // "the maximum number": fewer is right
	}
	return t, nil
}
