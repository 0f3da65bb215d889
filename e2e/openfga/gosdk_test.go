package openfga

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/openfga/go-sdk"
	"github.com/openfga/go-sdk/client"
	"github.com/openfga/go-sdk/credentials"
)

// goClient is OpenFGA's Go SDK as its users set it up, with a URL and a token.
// Its process trusts the local CA by SSL_CERT_FILE: the SDK sends no token
// through an HTTP client that it is given.
func goClient(t *testing.T, token string) *client.OpenFgaClient {
	t.Helper()
	return must(client.NewSdkClient(&client.ClientConfiguration{
		ApiUrl: bulwark.API,
		Credentials: &credentials.Credentials{
			Method: credentials.CredentialsMethodApiToken,
			Config: &credentials.Config{ApiToken: token},
		},
	}))(t)
}

// goStore makes a store with testdata's model and tuples, as the other SDK's
// round trip does.
func goStore(t *testing.T) *client.OpenFgaClient {
	t.Helper()
	c, ctx := goClient(t, must(bulwark.token(t.Context()))(t)), t.Context()
	created := must(c.CreateStore(ctx).Body(client.ClientCreateStoreRequest{Name: "round-trip-go"}).Execute())(t)
	if err := c.SetStoreId(created.Id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = c.DeleteStore(context.Background()).Execute() // the test may have deleted it
	})
	written := must(c.WriteAuthorizationModel(ctx).Body(goModel(t)).Execute())(t)
	if err := c.SetAuthorizationModelId(written.AuthorizationModelId); err != nil {
		t.Fatal(err)
	}
	must(c.Write(ctx).Body(client.ClientWriteRequest{Writes: []client.ClientTupleKey{
		{User: "user:anne", Relation: "member", Object: "group:eng"},
		{User: "group:eng#member", Relation: "viewer", Object: "folder:plans"},
		{User: "folder:plans", Relation: "parent", Object: "document:roadmap"},
		{User: "user:bob", Relation: "editor", Object: "document:roadmap"},
		{User: "user:*", Relation: "viewer", Object: "document:public"},
		{User: "user:carl", Relation: "viewer", Object: "document:roadmap", Condition: &sdk.RelationshipCondition{
			Name: "in_region", Context: &map[string]any{"allowed": "eu"}}},
	}}).Execute())(t)
	return c
}

// goModel is testdata's model, as the SDK's users read theirs.
func goModel(t *testing.T) (model client.ClientWriteAuthorizationModelRequest) {
	t.Helper()
	if err := json.Unmarshal(must(os.ReadFile("testdata/model.json"))(t), &model); err != nil {
		t.Fatal(err)
	}
	return model
}

// must gives the value of a call that has to succeed.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func equal(t *testing.T, what string, want, got any, how ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, how...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// An answer spells members out that a question leaves away.
var absentIsEmpty = cmp.Options{
	cmp.Comparer(func(a, b *string) bool {
		return a == b || (a == nil || *a == "") && (b == nil || *b == "") || a != nil && b != nil && *a == *b
	}),
	cmp.Comparer(func(a, b *[]sdk.ConditionParamTypeRef) bool {
		return (a == nil || len(*a) == 0) && (b == nil || len(*b) == 0)
	}),
}

func TestGoSDKQuestions(t *testing.T) {
	t.Parallel()
	c, ctx := goStore(t), t.Context()

	questions := []client.ClientCheckRequest{
		{User: "user:anne", Relation: "viewer", Object: "document:roadmap"},
		{User: "user:anne", Relation: "editor", Object: "document:roadmap"},
		{User: "user:dora", Relation: "viewer", Object: "document:public"},
		{User: "user:carl", Relation: "viewer", Object: "document:roadmap", Context: &map[string]any{"region": "eu"}},
		{User: "user:carl", Relation: "viewer", Object: "document:roadmap", Context: &map[string]any{"region": "us"}},
		{User: "user:dora", Relation: "viewer", Object: "document:roadmap", ContextualTuples: []client.ClientContextualTupleKey{
			{User: "user:dora", Relation: "member", Object: "group:eng"}}},
	}
	want := []bool{true, false, true, true, false, true}
	var one, batch []bool
	for _, q := range questions {
		one = append(one, must(c.Check(ctx).Body(q).Execute())(t).GetAllowed())
	}
	equal(t, "Check", want, one)
	for _, answer := range *must(c.BatchCheck(ctx).Body(questions).Execute())(t) {
		if answer.Error != nil {
			t.Errorf("BatchCheck: %+v: %v", answer.Request, answer.Error)
		}
		batch = append(batch, answer.GetAllowed())
	}
	equal(t, "BatchCheck", want, batch)

	objects := must(c.ListObjects(ctx).Body(client.ClientListObjectsRequest{User: "user:anne", Relation: "viewer", Type: "document"}).Execute())(t).Objects
	slices.Sort(objects)
	equal(t, "ListObjects", []string{"document:public", "document:roadmap"}, objects)

	var users []string
	for _, u := range must(c.ListUsers(ctx).Body(client.ClientListUsersRequest{
		Object: sdk.FgaObject{Type: "document", Id: "roadmap"}, Relation: "viewer",
		UserFilters: []sdk.UserTypeFilter{{Type: "user"}}, Context: &map[string]any{"region": "eu"},
	}).Execute())(t).Users {
		users = append(users, u.Object.Type+":"+u.Object.Id)
	}
	slices.Sort(users)
	equal(t, "ListUsers", []string{"user:anne", "user:bob", "user:carl"}, users)

	relations := must(c.ListRelations(ctx).Body(client.ClientListRelationsRequest{
		User: "user:bob", Object: "document:roadmap", Relations: []string{"editor", "viewer", "parent"}}).Execute())(t).Relations
	equal(t, "ListRelations", []string{"editor", "viewer"}, relations)

	tree := must(c.Expand(ctx).Body(client.ClientExpandRequest{Relation: "viewer", Object: "document:roadmap"}).Execute())(t).Tree
	equal(t, "Expand", `{"root":{"name":"document:roadmap#viewer","union":{"nodes":[`+
		`{"leaf":{"users":{"users":["user:carl"]}},"name":"document:roadmap#viewer"},`+
		`{"leaf":{"computed":{"userset":"document:roadmap#editor"}},"name":"document:roadmap#viewer"},`+
		`{"leaf":{"tupleToUserset":{"computed":[{"userset":"folder:plans#viewer"}],"tupleset":"document:roadmap#parent"}},"name":"document:roadmap#viewer"}`+
		`]}}}`, string(must(json.Marshal(tree))(t)))
}

func TestGoSDKData(t *testing.T) {
	t.Parallel()
	c, ctx := goStore(t), t.Context()
	two := int32(2)

	id := must(c.GetAuthorizationModelId())(t)
	models := must(c.ReadAuthorizationModels(ctx).Execute())(t).AuthorizationModels
	if len(models) != 1 || models[0].Id != id {
		t.Errorf("ReadAuthorizationModels: %+v", models)
	}
	asked := goModel(t)
	equal(t, "the model, read back", asked, client.ClientWriteAuthorizationModelRequest{
		SchemaVersion: models[0].SchemaVersion, TypeDefinitions: models[0].TypeDefinitions, Conditions: models[0].Conditions},
		absentIsEmpty)
	equal(t, "ReadAuthorizationModel", models[0], *must(c.ReadAuthorizationModel(ctx).Execute())(t).AuthorizationModel)
	equal(t, "ReadLatestAuthorizationModel", models[0], *must(c.ReadLatestAuthorizationModel(ctx).Execute())(t).AuthorizationModel)

	must(c.Write(ctx).Body(client.ClientWriteRequest{Deletes: []client.ClientTupleKeyWithoutCondition{
		{User: "user:*", Relation: "viewer", Object: "document:public"}}}).Execute())(t)

	var tuples []string
	for token := ""; ; {
		page := must(c.Read(ctx).Options(client.ClientReadOptions{PageSize: &two, ContinuationToken: &token}).Execute())(t)
		if len(page.Tuples) > 2 {
			t.Errorf("Read: a page of %d", len(page.Tuples))
		}
		for _, tuple := range page.Tuples {
			tuples = append(tuples, tuple.Key.Object+"#"+tuple.Key.Relation+"@"+tuple.Key.User)
		}
		if token = page.ContinuationToken; token == "" {
			break
		}
	}
	slices.Sort(tuples)
	equal(t, "Read", []string{
		"document:roadmap#editor@user:bob", "document:roadmap#parent@folder:plans", "document:roadmap#viewer@user:carl",
		"folder:plans#viewer@group:eng#member", "group:eng#member@user:anne",
	}, tuples)
	document := "document:"
	bob := "user:bob"
	filtered := must(c.Read(ctx).Body(client.ClientReadRequest{User: &bob, Object: &document}).Execute())(t).Tuples
	if len(filtered) != 1 || filtered[0].Key.Relation != "editor" {
		t.Errorf("Read with a filter: %+v", filtered)
	}

	var changes []string
	for token := ""; ; {
		page := must(c.ReadChanges(ctx).Body(client.ClientReadChangesRequest{Type: "document"}).
			Options(client.ClientReadChangesOptions{PageSize: &two, ContinuationToken: &token}).Execute())(t)
		if len(page.Changes) == 0 {
			break
		}
		for _, change := range page.Changes {
			changes = append(changes, string(change.Operation)+" "+change.TupleKey.Object+"#"+change.TupleKey.Relation+"@"+change.TupleKey.User)
		}
		token = page.GetContinuationToken()
	}
	equal(t, "ReadChanges", []string{
		"TUPLE_OPERATION_WRITE document:roadmap#parent@folder:plans", "TUPLE_OPERATION_WRITE document:roadmap#editor@user:bob",
		"TUPLE_OPERATION_WRITE document:public#viewer@user:*", "TUPLE_OPERATION_WRITE document:roadmap#viewer@user:carl",
		"TUPLE_OPERATION_DELETE document:public#viewer@user:*",
	}, changes)

	must(c.WriteAssertions(ctx).Body(client.ClientWriteAssertionsRequest{
		{User: "user:anne", Relation: "viewer", Object: "document:roadmap", Expectation: true},
		{User: "user:anne", Relation: "editor", Object: "document:roadmap"},
	}).Execute())(t)
	equal(t, "ReadAssertions", []sdk.Assertion{
		{TupleKey: sdk.AssertionTupleKey{User: "user:anne", Relation: "viewer", Object: "document:roadmap"}, Expectation: true},
		{TupleKey: sdk.AssertionTupleKey{User: "user:anne", Relation: "editor", Object: "document:roadmap"}},
	}, *must(c.ReadAssertions(ctx).Execute())(t).Assertions)
}

// A store that is deleted, and a request that is wrong, come as the errors that
// the SDK's users match on.
func TestGoSDKErrors(t *testing.T) {
	t.Parallel()
	c, ctx := goStore(t), t.Context()

	var invalid sdk.FgaApiValidationError
	_, err := c.Check(ctx).Body(client.ClientCheckRequest{User: "user:anne", Relation: "owner", Object: "document:roadmap"}).Execute()
	if !errors.As(err, &invalid) || invalid.ResponseCode() != sdk.ERRORCODE_VALIDATION_ERROR || invalid.ResponseStatusCode() != http.StatusBadRequest {
		t.Errorf("an unknown relation: %v", err)
	}
	_, err = c.Write(ctx).Body(client.ClientWriteRequest{Writes: []client.ClientTupleKey{
		{User: "user:bob", Relation: "editor", Object: "document:roadmap"}}}).Execute()
	if !errors.As(err, &invalid) || invalid.ResponseCode() != sdk.ERRORCODE_WRITE_FAILED_DUE_TO_INVALID_INPUT {
		t.Errorf("a tuple that is there: %v", err)
	}

	store := must(c.GetStore(ctx).Execute())(t)
	equal(t, "GetStore", "round-trip-go", store.Name)
	listed := func() bool {
		for token := ""; ; {
			page := must(c.ListStores(ctx).Options(client.ClientListStoresOptions{ContinuationToken: &token}).Execute())(t)
			if slices.ContainsFunc(page.Stores, func(s sdk.Store) bool { return s.Id == store.Id }) {
				return true
			}
			if token = page.ContinuationToken; token == "" {
				return false
			}
		}
	}
	if !listed() {
		t.Error("ListStores lacks the store")
	}
	must(c.DeleteStore(ctx).Execute())(t)
	if listed() {
		t.Error("ListStores has the deleted store")
	}
	var absent sdk.FgaApiNotFoundError
	if _, err := c.GetStore(ctx).Execute(); !errors.As(err, &absent) || absent.ResponseCode() != sdk.NOTFOUNDERRORCODE_STORE_ID_NOT_FOUND {
		t.Errorf("a deleted store: %v", err)
	}
	if _, err := c.Check(ctx).Body(client.ClientCheckRequest{User: "user:bob", Relation: "editor", Object: "document:roadmap"}).Execute(); !errors.As(err, &absent) {
		t.Errorf("a question to a deleted store: %v", err)
	}
}

// With a token that is none of ours, or is for another audience, there is no
// answer.
func TestGoSDKNeedsAToken(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]string{
		"forged":           "forged",
		"another audience": must(bulwark.fetch(t.Context(), "admin"))(t),
	} {
		var refused sdk.FgaApiAuthenticationError
		if _, err := goClient(t, token).ListStores(t.Context()).Execute(); !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
