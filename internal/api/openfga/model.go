package openfga

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/directory"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/schema"
	"bulwark.example/internal/tenant"
)

// DefaultProposals is how many versions of an application's model a tenant may
// propose if nothing else is said, and maxProposed bounds the texts of all of
// them, in bytes: every node holds them.
const (
	DefaultProposals = 256
	maxProposed      = 256 << 20
)

// roomFor refuses one more proposal of the tenant. One that is there already is
// not one more.
func (a *API) roomFor(application string, t tenant.ID, source string) error {
	own, size, id := 0, len(source), schema.ID(source)
	for _, m := range a.Authz.Models(application) {
		if m.ID == id {
			return nil
		}
		if m.Proposer == t.String() {
			own++
		}
		if m.Proposer != "" {
			size += len(m.Source)
		}
	}
	if most := cmp.Or(a.Proposals, DefaultProposals); own >= most {
		return fault.New(fault.TooLarge, fmt.Sprintf("your tenant has proposed %d versions of this application's model, as many as it may; ask the operator for more (limits.proposals)", most))
	}
	if size > maxProposed {
		return fault.New(fault.TooLarge, "the proposals of all tenants together are as large as they may be; ask the operator")
	}
	return nil
}

// writeModel puts a free store's newest model in force. For a default store,
// whose models are the operator's, it stores a proposal.
func writeModel(ctx context.Context, c *call, q *fga.WriteAuthorizationModelRequest) (*fga.WriteAuthorizationModelResponse, error) {
	source, err := schema.Source(&fga.AuthorizationModel{
		SchemaVersion: q.GetSchemaVersion(), TypeDefinitions: q.GetTypeDefinitions(), Conditions: q.GetConditions(),
	})
	if err != nil {
		return nil, modelError(err)
	}
	shard, own := c.store.ID, true
	if c.store.Kind == directory.DefaultGraph {
		own = false
		if shard, err = c.api.Directory.SystemGraph(tenant.Platform); err != nil {
			return nil, err
		}
		if err := c.api.roomFor(c.application(), c.tenant, source); err != nil {
			return nil, err
		}
	}
	id, rev, err := c.api.Authz.PublishModel(ctx, c.change(shard), c.application(), source)
	if err != nil {
		return nil, modelError(err)
	}
	c.model = id
	if own { // else the revision is one of the platform's, and says nothing to the caller
		c.tell(rev, id)
	}
	return &fga.WriteAuthorizationModelResponse{AuthorizationModelId: id}, nil
}

func modelError(err error) error {
	switch fault.KindOf(err) {
	case fault.Invalid, fault.Unsupported, fault.Exhausted:
		return as(fga.ErrorCode_invalid_authorization_model, err)
	}
	return err
}

// modelVersion finds one version of the store's model.
func (c *call) modelVersion(ctx context.Context, id string) (authz.ModelRecord, error) {
	list, err := c.modelVersions(ctx)
	if err != nil {
		return authz.ModelRecord{}, err
	}
	if i := slices.IndexFunc(list, func(r authz.ModelRecord) bool { return r.ID == id }); i >= 0 {
		return list[i], nil
	}
	return authz.ModelRecord{}, newCoded(fga.ErrorCode_authorization_model_not_found, fault.Invalid, "Authorization Model '"+id+"' not found")
}

func (c *call) modelVersions(ctx context.Context) ([]authz.ModelRecord, error) {
	list, err := c.api.Authz.StoreModels(ctx, c.store.ID)
	if err != nil && fault.KindOf(err) == fault.NotFound {
		return nil, errNoStore
	}
	return list, err
}

func messageOf(r authz.ModelRecord) (*fga.AuthorizationModel, error) {
	m, err := schema.Proto(r.Source)
	if err != nil {
		return nil, fault.Wrap(fault.Integrity, "a stored model cannot be read", err)
	}
	m = proto.CloneOf(m)
	m.Id = r.ID
	return m, nil
}

func readModel(ctx context.Context, c *call, q *fga.ReadAuthorizationModelRequest) (*fga.ReadAuthorizationModelResponse, error) {
	r, err := c.modelVersion(ctx, q.GetId())
	if err != nil {
		return nil, err
	}
	m, err := messageOf(r)
	if err != nil {
		return nil, err
	}
	return &fga.ReadAuthorizationModelResponse{AuthorizationModel: m}, nil
}

// readModels lists the newest first. Of an application it lists the version in
// force: the others are proposals, perhaps another tenant's, and answer only
// who knows their ids.
func readModels(ctx context.Context, c *call, q *fga.ReadAuthorizationModelsRequest) (*fga.ReadAuthorizationModelsResponse, error) {
	list, err := c.modelVersions(ctx)
	if err != nil {
		return nil, err
	}
	if c.store.Kind == directory.DefaultGraph {
		list = slices.DeleteFunc(list, func(r authz.ModelRecord) bool { return !r.Active })
	}
	slices.Reverse(list)
	if token := q.GetContinuationToken(); token != "" {
		id, err := openToken("m", token)
		i := slices.IndexFunc(list, func(r authz.ModelRecord) bool { return r.ID == id })
		if err != nil || i < 0 {
			return nil, errToken
		}
		list = list[i+1:]
	}
	out := &fga.ReadAuthorizationModelsResponse{}
	if size := pageSize(q.GetPageSize().GetValue()); len(list) > size {
		list = list[:size]
		out.ContinuationToken = spellToken("m", list[size-1].ID)
	}
	for _, r := range list {
		m, err := messageOf(r)
		if err != nil {
			return nil, err
		}
		out.AuthorizationModels = append(out.AuthorizationModels, m)
	}
	return out, nil
}

// A continuation token of a list of ours, format 1: base64url of the kind of
// list, "1", and what the last entry is known by.
func spellToken(kind, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + "1" + last))
}

func openToken(kind, token string) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return "", err
	}
	last, ok := strings.CutPrefix(string(b), kind+"1")
	if !ok {
		return "", errors.New("a token of another list")
	}
	return last, nil
}
