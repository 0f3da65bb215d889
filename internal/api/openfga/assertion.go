package openfga

import (
	"bytes"
	"context"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/schema"
)

// maxAssertions bounds the assertions of a model, in bytes; OpenFGA's.
const maxAssertions = 64_000

// assertionFormat begins stored assertions: the format, then OpenFGA's message
// Assertions in JSON.
const assertionFormat = "1"

func writeAssertions(ctx context.Context, c *call, q *fga.WriteAssertionsRequest) (*fga.WriteAssertionsResponse, error) {
	r, err := c.modelVersion(ctx, q.GetAuthorizationModelId())
	if err != nil {
		return nil, err
	}
	size := 0
	for _, a := range q.GetAssertions() {
		size += proto.Size(a)
	}
	if size > maxAssertions {
		return nil, fault.New(fault.TooLarge, "The number of bytes exceeds the allowed limit of 64000")
	}
	m, err := schema.Parse(r.Source)
	if err != nil {
		return nil, fault.Wrap(fault.Integrity, "a stored model cannot be read", err)
	}
	for _, a := range q.GetAssertions() {
		if err := validAssertion(m, a); err != nil {
			return nil, err
		}
	}
	payload, err := spellAssertions(q.GetAssertions())
	if err != nil {
		return nil, err
	}
	change := c.change(c.store.ID)
	change.Event.Model = r.ID
	rev, err := c.api.Archive.PutAssertions(ctx, change, r.ID, payload)
	if err != nil {
		return nil, err
	}
	c.tell(rev, r.ID)
	return &fga.WriteAssertionsResponse{}, nil
}

// validAssertion holds an assertion to the model as a question is held to it.
func validAssertion(m *schema.Model, a *fga.Assertion) error {
	k := a.GetTupleKey()
	t := relation.Tuple{Object: k.GetObject(), Relation: k.GetRelation(), Subject: k.GetUser()}
	if err := t.Validate(); err != nil {
		return err
	}
	typ, _, _ := relation.SplitObject(t.Object)
	if _, ok := m.Relation(typ, t.Relation); !ok {
		return fault.New(fault.Invalid, "the model has no relation "+typ+"#"+t.Relation)
	}
	object, rel := relation.SplitSubject(t.Subject)
	typ, _, _ = relation.SplitObject(object)
	if _, ok := m.Relation(typ, rel); !m.HasType(typ) || rel != "" && !ok {
		return fault.New(fault.Invalid, "the model has no user of the form of "+t.Subject)
	}
	if _, err := contextOf(a.GetContext()); err != nil {
		return err
	}
	contextual, err := tuplesOf(a.GetContextualTuples())
	if err != nil {
		return err
	}
	for _, t := range contextual {
		if err := t.Validate(); err != nil {
			return err
		}
		if err := m.Validate(t); err != nil {
			return err
		}
	}
	return nil
}

func readAssertions(ctx context.Context, c *call, q *fga.ReadAssertionsRequest) (*fga.ReadAssertionsResponse, error) {
	r, err := c.modelVersion(ctx, q.GetAuthorizationModelId())
	if err != nil {
		return nil, err
	}
	payload, err := c.api.Archive.Assertions(ctx, c.store.ID, r.ID)
	if err != nil {
		return nil, err
	}
	kept, err := openAssertions(payload)
	if err != nil {
		return nil, err
	}
	return &fga.ReadAssertionsResponse{AuthorizationModelId: r.ID, Assertions: kept.GetAssertions()}, nil
}

func spellAssertions(list []*fga.Assertion) ([]byte, error) {
	body, err := spell(&fga.Assertions{Assertions: list})
	return append([]byte(assertionFormat), body...), err
}

// openAssertions reads what [spellAssertions] wrote; nothing stored is no
// assertions.
func openAssertions(payload []byte) (*fga.Assertions, error) {
	kept := new(fga.Assertions)
	if payload == nil {
		return kept, nil
	}
	body, ok := bytes.CutPrefix(payload, []byte(assertionFormat))
	if !ok {
		return nil, fault.New(fault.Integrity, "stored assertions have an unknown format")
	}
	if err := protojson.Unmarshal(body, kept); err != nil {
		return nil, fault.Wrap(fault.Integrity, "stored assertions cannot be read", err)
	}
	return kept, nil
}
