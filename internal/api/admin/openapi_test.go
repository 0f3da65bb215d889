package admin_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/release"
)

// TestOpenAPI holds docs/spec/admin-openapi.yaml to the table and to the wire's
// types: neither may say more than the other.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../../docs/spec/admin-openapi.yaml")
	must(t, err)
	type operation struct {
		OperationID string           `yaml:"operationId"`
		Relation    string           `yaml:"x-bulwark-relation"`
		Effect      string           `yaml:"x-bulwark-effect"`
		Platform    bool             `yaml:"x-bulwark-platform"`
		Security    *[]any           `yaml:"security"`
		Responses   map[string]any   `yaml:"responses"`
		RequestBody map[string]any   `yaml:"requestBody"`
		Parameters  []map[string]any `yaml:"parameters"`
	}
	var doc struct {
		OpenAPI    string                          `yaml:"openapi"`
		Paths      map[string]map[string]yaml.Node `yaml:"paths"`
		Components map[string]map[string]yaml.Node `yaml:"components"`
	}
	must(t, yaml.Unmarshal(raw, &doc))
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi is %q", doc.OpenAPI)
	}
	described := map[string]operation{}
	for path, methods := range doc.Paths {
		for method, node := range methods {
			if method == "parameters" {
				continue
			}
			var op operation
			must(t, node.Decode(&op))
			described[strings.ToUpper(method)+" "+path] = op
		}
	}
	for _, rt := range admin.Table() {
		name := rt.Method + " " + admin.Base + rt.Pattern
		op, ok := described[name]
		delete(described, name)
		if !ok {
			t.Errorf("%s is not described", name)
			continue
		}
		open := op.Security != nil && len(*op.Security) == 0
		if op.OperationID != rt.Action || op.Relation != rt.Relation || op.Effect != rt.Effect || op.Platform != rt.Platform || open != (rt.Effect == "opens") {
			t.Errorf("%s is described as %+v, the table says %+v", name, op, rt)
		}
		if op.Responses["default"] == nil || len(op.Responses) != 2 {
			t.Errorf("%s: responses %v", name, op.Responses)
		}
	}
	for name := range described {
		t.Errorf("%s is described and not served", name)
	}
	// Every reference leads somewhere.
	for _, m := range regexp.MustCompile(`#/components/(\w+)/(\w+)`).FindAllStringSubmatch(string(raw), -1) {
		if _, ok := doc.Components[m[1]][m[2]]; !ok {
			t.Errorf("%s leads nowhere", m[0])
		}
	}
	schemas(t, doc.Components["schemas"])
}

// schemas compares the members of the described schemas with the wire's.
func schemas(t *testing.T, described map[string]yaml.Node) {
	t.Helper()
	for _, v := range []any{
		admin.Self{}, admin.Tenant{}, admin.Graph{}, admin.NewTenant{}, admin.NewInvite{}, admin.Invite{}, admin.Enrol{}, admin.Enrolled{},
		admin.NewUser{}, admin.User{}, admin.Role{}, admin.NewService{}, admin.Service{}, admin.NewKey{}, admin.Key{}, admin.Grant{},
		admin.NewInstallation{}, admin.Installation{}, admin.NewConnection{}, admin.Connection{}, admin.Model{}, admin.ReleaseDraft{}, admin.Application{}, admin.NewRelease{}, admin.Release{}, release.Mark{},
		admin.Activation{}, admin.NewRehearsal{}, admin.Finding{}, admin.Planned{}, admin.Policies{}, authz.PolicyFile{}, authz.Claims{},
		admin.TupleChange{}, admin.TuplesChanged{}, admin.Restored{}, admin.Question{}, admin.Explained{}, admin.NewRevocation{}, admin.Event{},
		admin.EventRevision{}, admin.Checkpoint{}, admin.Tuple{},
		admin.ObjectRoles{}, admin.ObjectRole{}, admin.NewObjectRole{}, authz.Exclusive{}, admin.Assignment{}, admin.OwnPolicies{},
	} {
		typ := reflect.TypeOf(v)
		node, ok := described[typ.Name()]
		if !ok {
			t.Errorf("%s is not described", typ.Name())
			continue
		}
		delete(described, typ.Name())
		var schema struct {
			Properties map[string]any `yaml:"properties"`
			Required   []string       `yaml:"required"`
		}
		must(t, node.Decode(&schema))
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if schema.Properties[name] == nil {
				t.Errorf("%s.%s is not described", typ.Name(), name)
			}
			delete(schema.Properties, name)
			schema.Required = slices.DeleteFunc(schema.Required, func(s string) bool { return s == name })
		}
		if len(schema.Properties)+len(schema.Required) > 0 {
			t.Errorf("%s describes more than there is: %v %v", typ.Name(), schema.Properties, schema.Required)
		}
	}
	for name := range described {
		if !strings.HasSuffix(name, "Page") && name != "Problem" {
			t.Errorf("%s is described and not sent", name)
		}
	}
}
