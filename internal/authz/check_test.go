package authz

import (
	"strings"
	"testing"

	"bulwark.example/internal/fault"
)

func cut(s, sep string) (string, string) { a, b, _ := strings.Cut(s, sep); return a, b }

// demo is acme's data: alice owns, bob edits, carol views the folder plans,
// dave has nothing. The document roadmap lies in the folder.
var demo = []string{
	"folder:plans#owner@user:alice",
	"folder:plans#editor@user:bob",
	"folder:plans#viewer@user:carol",
	"document:roadmap#parent@folder:plans",
	"document:memo#viewer@team:core#member",
	"document:memo#editor@team:ops#member",
	"team:core#member@user:eve",
	"team:core#member@team:ops#member",
	"team:ops#member@user:frank",
	"document:news#viewer@user:*",
	"folder:sub#parent@folder:plans",
	"document:deep#parent@folder:sub",
}

func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, docs, demo...)
	for q, want := range map[string]string{
		// inherited
		"document:roadmap#can_view@user:alice": "allow",
		"document:roadmap#can_edit@user:alice": "allow",
		"document:roadmap#can_view@user:bob":   "allow",
		"document:roadmap#can_edit@user:bob":   "allow",
		"document:roadmap#owner@user:bob":      "deny",
		"document:roadmap#can_view@user:carol": "allow",
		"document:roadmap#can_edit@user:carol": "deny",
		"document:roadmap#can_view@user:dave":  "deny",
		"document:deep#can_edit@user:alice":    "allow",
		"document:deep#can_edit@user:carol":    "deny",
		// direct, and nothing that only looks like it
		"folder:plans#owner@user:alice":     "allow",
		"folder:plans#viewer@user:alice":    "allow",
		"folder:plans#owner@user:carol":     "deny",
		"folder:plans#owner@user:Alice":     "deny",
		"folder:plans#owner@service:alice":  "deny",
		"document:plans#owner@user:alice":   "deny",
		"document:absent#can_view@user:bob": "deny",
		"folder:plans#parent@user:alice":    "deny",
		// groups
		"document:memo#can_view@user:eve":   "allow",
		"document:memo#can_view@user:frank": "allow",
		"document:memo#can_edit@user:frank": "allow",
		"document:memo#can_edit@user:eve":   "deny",
		"document:memo#can_view@user:zoe":   "deny",
		// usersets as subject
		"document:memo#viewer@team:core#member":             "allow",
		"document:memo#viewer@team:ops#member":              "allow",
		"document:memo#editor@team:core#member":             "deny",
		"document:memo#viewer@team:absent#member":           "deny",
		"team:core#member@team:core#member":                 "allow",
		"team:absent#member@team:absent#member":             "allow", // OpenFGA: a userset is in itself
		"folder:plans#viewer@folder:plans#owner":            "allow",
		"folder:plans#owner@folder:plans#viewer":            "deny",
		"document:roadmap#can_view@folder:plans#owner":      "allow",
		"document:absent#can_view@document:absent#can_edit": "deny", // can_view does not include can_edit itself
		"document:absent#can_view@document:absent#editor":   "allow",
		// wildcards
		"document:news#can_view@user:anyone":      "allow",
		"document:news#can_view@user:*":           "allow",
		"document:news#can_edit@user:*":           "deny",
		"document:news#can_view@service:robot":    "deny",
		"document:news#can_view@service:*":        "deny",
		"document:news#can_view@team:core#member": "deny",
		"folder:plans#owner@user:*":               "deny",
		"document:memo#viewer@team:core":          "deny",
		// refused questions
		"planet:earth#owner@user:alice":         "invalid",
		"folder:plans#admin@user:alice":         "invalid",
		"folder:plans#owner@alien:x":            "invalid",
		"folder:plans#owner@team:core#boss":     "invalid",
		"folder:plans#owner@":                   "invalid",
		"folder:#owner@user:alice":              "invalid",
		"folder:*#owner@user:alice":             "invalid",
		"folder:plans#@user:alice":              "invalid",
		"folder:plans#owner@user:":              "invalid",
		"folder:plans#owner@user:a b":           "invalid",
		"folder:plans#owner@user:*#member":      "invalid",
		"folder:plans#owner@team:core#":         "invalid",
		"folder:plans#owner@team:core#member#x": "invalid",
		"folder:plans#viewer@folder:plans#":     "invalid",
	} {
		d, err := w.ask(t, q)
		got := "deny"
		switch {
		case err != nil && fault.KindOf(err) == fault.Invalid:
			got = "invalid"
		case err != nil:
			got = err.Error()
		case d.Allowed:
			got = "allow"
		}
		if got != want {
			t.Errorf("%s: %s, want %s\n%s", q, got, want, d.Trace)
		}
		if err != nil && (d.Allowed || d.Trace != nil || d.Model != "") {
			t.Errorf("%s: an error came with the decision %+v", q, d)
		}
	}
}
