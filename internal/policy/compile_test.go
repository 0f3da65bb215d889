package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"bulwark.example/internal/fault"
)

// What modellers get wrong, and the message that helps.
func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	when := func(condition string) string {
		return "\n\nforbid (principal, action == Action::\"can_view\", resource is document)\nwhen { " + condition + " };"
	}
	for name, c := range map[string]struct{ text, reason string }{
		"no Cedar":                  {"forbid", `guard.cedar:1: "cannot be read: exact got`},
		"the line of a fault":       {"forbid (principal, action, resource);\n\npermit (principal, action, resource) when { 1 +\n };", `guard.cedar:4: "cannot be read: `},
		"an unknown function":       {when(`foo("x")`), "`foo` is not a function"},
		"a number too large":        {when(`context.verified.hour == 99999999999999999999`), `guard.cedar:`},
		"an open string":            {"forbid (principal == user::\"x, action, resource);", `guard.cedar:1: "cannot be read: `},
		"not UTF-8":                 {"forbid (principal, action, resource); // \xff", "not UTF-8"},
		"an unknown action":         {`forbid (principal, action == Action::"can_fly", resource);`, `no type has the relation of the action Action::`},
		"an action of another kind": {`forbid (principal, action == user::"can_view", resource);`, `no type has the relation of the action user::`},
		"an unknown action in list": {`forbid (principal, action in [Action::"can_view", Action::"can_fly"], resource);`, "can_fly"},
		"no action":                 {`forbid (principal, action in [], resource);`, "no question has this scope"},
		"an unknown resource type":  {`forbid (principal, action, resource is planet);`, "no question has this scope"},
		"an unknown principal type": {`forbid (principal is planet, action, resource);`, "unrecognized entity type `planet`"},
		"a principal that asks not": {`forbid (principal is folder, action, resource);`, "unable to find an applicable action"},
		"a relation of other types": {`forbid (principal, action == Action::"can_delete", resource is folder);`, "no question has this scope"},
		"a group that is no parent": {`forbid (principal is user in folder::"f", action, resource);`, "unable to find an applicable action"},
		"an unknown verified":       {when(`context.verified.armr.contains("mfa")`), `guard.cedar:3: "unknown attribute context.verified.armr"`},
		"has of the same":           {when(`context.verified has armr && context.verified.armr == 1`), "unknown attribute context.verified.armr"},
		"an unknown claim":          {when(`context.claimed.mood == "good"`), "unknown attribute context.claimed.mood"},
		"an unknown of resource":    {when(`resource.owner == principal`), "unknown attribute resource.owner"},
		"a claim of another type":   {when(`resource.claimed.submitter == "x"`), "attribute `claimed.submitter`"},
		"an unknown of principal":   {when(`principal.name == "x"`), "unknown attribute principal.name"},
		"an attribute of an action": {when(`action.name == "x"`), "unknown attribute action.name"},
		"an entity in a condition":  {when(`principal == planet::"mars"`), "unrecognized entity type `planet`"},
		"an action in a condition":  {when(`action == Action::"can_fly"`), "unrecognized action"},
		"a string for a number":     {when(`context.verified.hour > "9"`), "unexpected type"},
		"a number for a time":       {when(`context.verified.time > 9`), "a datetime is compared with a Long"},
		"a number for a duration":   {when(`context.verified.time.durationSince(context.verified.auth_time) <= 10 * 60`), "a duration is compared with a Long"},
		"a duration for a time":     {when(`resource.claimed.created < duration("1h")`), "a datetime is compared with a duration"},
		"a set for a string":        {when(`context.verified.acr.contains("x")`), "unexpected type"},
		"a set of other things":     {when(`context.verified.amr.contains(1)`), "guard.cedar:3:"},
		"no boolean":                {when(`context.verified.hour`), "expected Bool but saw Long"},
		"unlike kinds":              {when(`context.verified.hour == "nine"`), "guard.cedar:3:"},
		"behind a has":              {when(`!(context.verified has acr) && context.verified.hour > "9"`), "unexpected type"},
		"in an else":                {when(`if context.verified has acr then true else context.verified.hour > "9"`), "unexpected type"},
		"a bad address":             {when(`context.verified.ip.isInRange(ip("10.0.0.0/99"))`), "guard.cedar:3:"},
		"never true":                {when(`resource is folder && context.verified.hour == 1`), "can never apply"},
		"never true, by has":        {when(`resource.claimed has submitter`), "can never apply"},
		"context as a whole":        {when(`context == {}`), "attribute by attribute"},
		"verified as a whole":       {when(`context.verified == context.verified`), "unknown attribute context.verified"},
		"context has":               {when(`context has verified`), "unknown attribute context.verified"},
		"a hidden path":             {when(`(if context.verified.hour == 1 then principal else principal).id == "x"`), "by their full path"},
		"an entity's attribute":     {when(`user::"anne".id == "x"`), "by their full path"},
		"a tag":                     {when(`principal.hasTag("x")`), "by their full path"},
		"relations as a set":        {when(`context.verified.relations.containsAny(["author", "owner"])`), "with the name written out"},
		"relations by a name":       {when(`context.verified.relations.contains(context.claimed.reason)`), "with the name written out"},
		"relations of other types":  {`forbid (principal, action == Action::"can_approve", resource is expense) when { context.verified.relations.contains("author") };`, `has the relation \"author\"`},
		"two of one id":             {`@id("a") forbid (principal, action, resource); @id("a") forbid (principal, action, resource);`, `@id(\"a\") is also in guard.cedar:1`},
		"an empty id":               {`@id("") forbid (principal, action, resource);`, "the @id must be"},
		"an id with a line break":   {`@id("a\nb") forbid (principal, action, resource);`, "the @id must be"},
	} {
		_, err := Compile(vocabulary(t), []Source{operator(c.text)})
		if fault.KindOf(err) != fault.Invalid || err == nil || !strings.Contains(fault.Public(err), c.reason) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
}

func TestCompileAccepts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "// nothing", " \n\t",
		`forbid (principal == user::"anne", action in Action::"can_view", resource in document::"d");`,
		`forbid (principal is user in user::"anne", action, resource is document in document::"d");`,
		`forbid (principal, action, resource) when { principal in user::"anne" && resource == document::"d" };`,
		`forbid (principal, action, resource) when { action == Action::"can_view" || action in [Action::"can_edit"] };`,
		`forbid (principal, action, resource) unless { context.verified has acr && context.verified.acr like "high*" };`,
		`forbid (principal, action, resource) when { resource is document && resource.claimed.public };`,
		`forbid (principal, action, resource) when { resource has claimed };`[:0],
		`forbid (principal, action, resource) when { resource.claimed has public && resource.claimed.public };`,
		`forbid (principal, action, resource) when { ["a", "b"].contains(context.claimed.reason) && {a: [1]}  == {a: [1]} };`,
		`forbid (principal, action, resource) when { context.verified.amr == ["mfa"] || context.verified.amr.isEmpty() };`,
		`forbid (principal, action, resource) when { context["verified"]["hour"] == 1 };`,
		`@id("a; } \" // b") @note forbid (principal, action, resource); // " ( [ {`,
	} {
		if _, err := Compile(vocabulary(t), []Source{operator(text)}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestVocabularyIsChecked(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]Vocabulary{
		"a type's name":        {Types: []Type{{Name: "a:b"}}},
		"no name":              {Types: []Type{{Name: ""}}},
		"a relation's name":    {Types: []Type{{Name: "a", Relations: []string{"b#c"}}}},
		"one name for two":     {Types: []Type{{Name: "git-repo"}, {Name: "git_repo"}}},
		"the same type twice":  {Types: []Type{{Name: "a"}, {Name: "a"}}},
		"an unknown principal": {Types: []Type{{Name: "a"}}, Principals: []string{"b"}},
		"a kind":               {Claimed: map[string]Kind{"a": 0}},
		"another kind":         {Claimed: map[string]Kind{"a": 99}},
		"a claim's name":       {Types: []Type{{Name: "a", Claimed: map[string]Kind{"": String}}}},
		"a claim with a space": {Claimed: map[string]Kind{"amr contains mfa": Bool}},
	} {
		if _, err := Compile(v, nil); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every name that the relation vocabulary allows can be written in a policy.
func TestTypeNames(t *testing.T) {
	t.Parallel()
	for name, written := range map[string]string{
		"git-repo": "git_repo", "is": "is_", "in": "in_", "if": "if_", "like": "like_", "true": "true_", "Action": "Action_", "__cedar": "__cedar_",
		"3d": "_3d", "a.b": "a_b", "naïve": "na_ve", "String": "String", "Long": "Long", "Bool": "Bool", "Set": "Set", "Record": "Record",
		"Entity": "Entity", "Extension": "Extension", "ipaddr": "ipaddr", "datetime": "datetime", "principal": "principal", "action": "action",
		"resource": "resource", "context": "context", "permit": "permit", "when": "when", "ip": "ip", "type": "type",
	} {
		v := Vocabulary{Types: []Type{{Name: name, Relations: []string{"can-view's \"x\""[:8]}}}}
		text := fmt.Sprintf(`permit (principal == %s::"x:y", action == Action::"can-view", resource is %s) when { resource == %s::"z" };`, written, written, written)
		s, err := Compile(v, []Source{operator(text)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, err := s.Decide(&Request{Principal: name + ":x:y", Relation: "can-view", Resource: name + ":z"})
		if err != nil || !a.Permit {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	deep := func(open, middle, shut string, n int) string {
		return "forbid (principal, action, resource) when { " + strings.Repeat(open, n) + middle + strings.Repeat(shut, n) + " };"
	}
	for name, c := range map[string]struct {
		text   string
		kind   fault.Kind
		reason string
	}{
		"a large file":           {strings.Repeat(" ", MaxSource+1), fault.TooLarge, "64 KiB"},
		"parentheses":            {deep("(", "true", ")", 30_000), fault.Invalid, "nested more than 64"},
		"sets":                   {deep("[", "true", "]", 30_000), fault.Invalid, "nested more than 64"},
		"records":                {deep("{a:", "true", "}", 10_000), fault.Invalid, "nested more than 64"},
		"calls":                  {deep("ip(", `""`, ")", 10_000), fault.Invalid, "nested more than 64"},
		"not":                    {deep("!", "true", "", 60_000), fault.Invalid, "longer than 8 KiB"},
		"fewer":                  {deep("!", "true", "", 8_000), fault.Invalid, "more than 256 levels"},
		"if":                     {deep("if true then true else ", "true", "", 2_500), fault.Invalid, "longer than 8 KiB"},
		"fewer ifs":              {deep("if true then true else ", "true", "", 390), fault.Invalid, "more than 256 levels"},
		"a chain":                {deep("true||", "true", "", 10_000), fault.Invalid, "longer than 8 KiB"},
		"a shorter chain":        {deep("true||", "true", "", 1_300), fault.Invalid, "more than 256 levels"},
		"attributes":             {deep("", "context", ".a", 4_000), fault.Invalid, "more than 8 attributes"},
		"has of a long path":     {deep("", "context has a", " . a", 4_000), fault.Invalid, "more than 8 attributes"},
		"a long string":          {deep("", `"`+strings.Repeat("x", MaxLiteral+1)+`" == ""`, "", 1), fault.Invalid, "a string is longer"},
		"brackets in strings":    {deep("", `"`+strings.Repeat("(", 1000)+`\"(" == context.claimed.reason`, "", 1), 0, ""},
		"brackets in comments":   {"// " + strings.Repeat("(", 1000) + "\nforbid (principal, action, resource);", 0, ""},
		"as deep as may be":      {deep("(", "context.verified.hour == 1", ")", MaxDepth-1), 0, ""},
		"a long list of names":   {"forbid (principal, action, resource) when { [" + strings.Repeat(`"0123456789",`, 1500) + `"a"].contains(context.claimed.reason) };`, 0, ""},
		"too much for the types": {strings.Repeat("forbid (principal, action, resource) when { "+strings.Repeat("context.verified has acr&&", 200)+"context.verified.hour == 1 };\n", 10), fault.TooLarge, "too much to check"},
	} {
		_, err := Compile(vocabulary(t), []Source{operator(c.text)})
		if c.reason == "" && err == nil {
			continue
		}
		if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(fault.Public(err), c.reason) {
			t.Errorf("%s: %v, want %v %q", name, err, c.kind, c.reason)
		}
	}
	one := "forbid (principal, action == Action::\"can_edit\", resource is document) when { context.verified.hour == 1 };\n"
	var sources []Source
	for i := range 20 {
		sources = append(sources, Source{Name: fmt.Sprint(i), Text: strings.Repeat(one, 500)})
	}
	if s, err := Compile(vocabulary(t), sources); err != nil || s.Len() != MaxPolicies {
		t.Fatalf("%d policies: %v", MaxPolicies, err)
	}
	_, err := Compile(vocabulary(t), append(sources, Source{Name: "one more", Text: one}))
	if fault.KindOf(err) != fault.TooLarge || !strings.Contains(err.Error(), "10,000") {
		t.Errorf("one policy more: %v", err)
	}
	sources = nil
	for i := range MaxText/MaxSource + 1 {
		sources = append(sources, Source{Name: fmt.Sprint(i), Text: strings.Repeat(" ", MaxSource)})
	}
	if _, err := Compile(vocabulary(t), sources); fault.KindOf(err) != fault.TooLarge || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("much text: %v", err)
	}
	// Many attributes that unscoped policies read, for many questions.
	var wide Vocabulary
	for i := range 20 {
		typ := Type{Name: fmt.Sprint("t", i)}
		for j := range 50 {
			typ.Relations = append(typ.Relations, fmt.Sprint("can", j))
		}
		wide.Types = append(wide.Types, typ)
	}
	wide.Principals = []string{"t0"}
	var text strings.Builder
	for i := range 600 {
		fmt.Fprintf(&text, "forbid (principal, action, resource) when { principal.roles.contains(%q) };\n", fmt.Sprint(i))
	}
	if _, err := Compile(wide, []Source{operator(text.String())}); fault.KindOf(err) != fault.TooLarge || !strings.Contains(err.Error(), "too many attributes") {
		t.Errorf("many attributes: %v", err)
	}
	for _, name := range []string{"", strings.Repeat("x", 129), "a\nb", "\xff"} {
		if _, err := Compile(vocabulary(t), []Source{{Name: name}}); fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("file %q: %v", name, err)
		}
	}
	if _, err := Compile(vocabulary(t), []Source{{Name: "a"}, {Name: "a"}}); fault.KindOf(err) != fault.Invalid || err == nil {
		t.Errorf("two files of one name: %v", err)
	}
}

// Rewriting knows every kind of expression: none keeps an attribute that is not
// in the context, none a `has` that the type checker could see through.
func TestRewriteReachesEverything(t *testing.T) {
	t.Parallel()
	const x = `(context.verified has acr)`
	for _, expression := range []string{
		x + "||" + x, x + "&&" + x, "!" + x, "if " + x + " then " + x + " else " + x, x + "==" + x, x + "!=" + x, x + "<" + x, x + "<=" + x,
		x + ">" + x, x + ">=" + x, x + "+" + x, x + "-" + x, x + "*" + x, "-" + x, x + " in " + x, x + ` like "a"`, x + " is user",
		x + " is user in " + x, x + ".contains(" + x + ")", x + ".containsAll(" + x + ")", x + ".containsAny(" + x + ")", x + ".isEmpty()",
		x + ".hasTag(" + x + ")", x + ".getTag(" + x + ")", "[" + x + "]", "{a: " + x + "}", x + ".a", x + " has a", "ip(" + x + ")", x + ".isInRange(" + x + ")",
	} {
		list, err := parse(&Source{Name: "x", Text: "forbid (principal, action, resource) when { " + expression + " };"})
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		body := (*ast.Policy)(list[0].AST()).Conditions[0].Body
		count := func(n ast.IsNode) (deep int) {
			ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
				if r, _, ok := attribute(n); ok && strings.HasPrefix(r.path, "context.verified") {
					deep++
					return false
				}
				return true
			})
			return deep
		}
		before := strings.Count(expression, x)
		if count(body) != before {
			t.Errorf("%s: %d attributes found", expression, count(body))
		}
		if left := count(rewrite(body, func(n ast.IsNode) ast.IsNode {
			if r, _, ok := attribute(n); ok && r.path == "context.verified.acr" {
				return ast.True().AsIsNode()
			}
			return nil
		})); left != 0 {
			t.Errorf("%s: rewriting leaves %d", expression, left)
		}
		if d := ast.Equal(ast.NewNode(rewrite(body, func(ast.IsNode) ast.IsNode { return nil })), ast.NewNode(body)); !d {
			t.Errorf("%s: rewriting nothing changes it", expression)
		}
	}
}
