package openfga

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"unicode"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// The page sizes of OpenFGA's listings.
const (
	defaultPage = 50
	maxPage     = 100
)

// pageSize is that of a request whose rules bound it to [maxPage]; 0 is unset.
func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// tupleOf takes a tuple over. The error has kind [fault.Invalid].
func tupleOf(k *fga.TupleKey) (relation.Tuple, error) {
	t := relation.Tuple{Object: k.GetObject(), Relation: k.GetRelation(), Subject: k.GetUser()}
	c := k.GetCondition()
	if c == nil {
		return t, nil
	}
	t.Condition = c.GetName()
	if len(c.GetContext().GetFields()) == 0 {
		return t, nil
	}
	values, err := contextOf(c.GetContext())
	if err != nil {
		return t, err
	}
	raw, err := json.Marshal(values)
	if err != nil {
		return t, fault.Wrap(fault.Internal, "a context does not encode", err)
	}
	t.Context = string(raw)
	return t, nil
}

func tuplesOf(keys []*fga.TupleKey) ([]relation.Tuple, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	out := make([]relation.Tuple, len(keys))
	for i, k := range keys {
		var err error
		if out[i], err = tupleOf(k); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// contextOf takes a context over. Control characters are refused, as OpenFGA
// does, and numbers that JSON does not have, which would become texts. The error
// has kind [fault.Invalid].
func contextOf(s *structpb.Struct) (map[string]any, error) {
	if len(s.GetFields()) == 0 {
		return nil, nil
	}
	if !cleanStruct(s) {
		return nil, fault.New(fault.Invalid, "the context holds a control character or a number that is not finite")
	}
	return s.AsMap(), nil
}

func cleanStruct(s *structpb.Struct) bool {
	for name, v := range s.GetFields() {
		if strings.ContainsFunc(name, unicode.IsControl) || !cleanValue(v) {
			return false
		}
	}
	return true
}

func cleanValue(v *structpb.Value) bool {
	switch v := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		return !math.IsNaN(v.NumberValue) && !math.IsInf(v.NumberValue, 0)
	case *structpb.Value_StringValue:
		return !strings.ContainsFunc(v.StringValue, unicode.IsControl)
	case *structpb.Value_StructValue:
		return cleanStruct(v.StructValue)
	case *structpb.Value_ListValue:
		for _, item := range v.ListValue.GetValues() {
			if !cleanValue(item) {
				return false
			}
		}
	}
	return true
}

// keyOf gives a tuple out. The error has kind [fault.Integrity].
func keyOf(t relation.Tuple) (*fga.TupleKey, error) {
	k := &fga.TupleKey{Object: t.Object, Relation: t.Relation, User: t.Subject}
	if t.Condition == "" {
		return k, nil
	}
	k.Condition = &fga.RelationshipCondition{Name: t.Condition, Context: &structpb.Struct{}}
	values, err := authz.Context([]byte(t.Context))
	if err == nil {
		k.Condition.Context, err = structpb.NewStruct(values)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Integrity, "a stored tuple cannot be read", err)
	}
	return k, nil
}

func write(ctx context.Context, c *call, q *fga.WriteRequest) (*fga.WriteResponse, error) {
	w, err := changesOf(q)
	if err != nil {
		return nil, err
	}
	rev, err := c.api.Authz.Write(ctx, c.change(c.store.ID), q.GetAuthorizationModelId(), w)
	switch {
	case err == nil:
		c.tell(rev, "")
		return &fga.WriteResponse{}, nil
	case fault.KindOf(err) == fault.Conflict || fault.KindOf(err) == fault.TooLarge:
		return nil, err // codes of their own by their kinds
	case fault.KindOf(err) == fault.Exhausted: // the tenant's quota, or what it cannot be shown that nobody holds
		return nil, as(fga.ErrorCode_exceeded_entity_limit, err)
	}
	if err = c.wrong(err, false); kindCode(err) == fga.ErrorCode_invalid_tuple {
		err = as(fga.ErrorCode_validation_error, err) // the other code is for contextual tuples
	}
	return nil, err
}

func kindCode(err error) fga.ErrorCode {
	_, code := codesOf(err)
	return fga.ErrorCode(code)
}

// changesOf takes a write over, by the rules of OpenFGA that need no model.
func changesOf(q *fga.WriteRequest) (authz.Write, error) {
	writes, deletes := q.GetWrites().GetTupleKeys(), q.GetDeletes().GetTupleKeys()
	switch n := len(writes) + len(deletes); {
	case n == 0:
		return authz.Write{}, errNoInput
	case n > authz.MaxWrite:
		return authz.Write{}, fault.New(fault.TooLarge, "The number of write operations exceeds the allowed limit of 100")
	}
	w := authz.Write{Deletes: make([]relation.Tuple, len(deletes))}
	var err error
	if w.IgnoreDuplicate, err = ignored("on_duplicate", q.GetWrites().GetOnDuplicate()); err != nil {
		return authz.Write{}, err
	}
	if w.IgnoreMissing, err = ignored("on_missing", q.GetDeletes().GetOnMissing()); err != nil {
		return authz.Write{}, err
	}
	if w.Writes, err = tuplesOf(writes); err != nil {
		return authz.Write{}, err
	}
	seen := make(map[relation.Tuple]bool, len(writes)+len(deletes))
	for i, k := range deletes {
		w.Deletes[i] = relation.Tuple{Object: k.GetObject(), Relation: k.GetRelation(), Subject: k.GetUser()}
		if seen[w.Deletes[i]] {
			return authz.Write{}, twice(w.Deletes[i])
		}
		seen[w.Deletes[i]] = true
	}
	for _, t := range w.Writes {
		if t.Subject == t.Object+"#"+t.Relation {
			return authz.Write{}, fault.New(fault.Invalid, "Invalid tuple '"+t.String()+"'. Reason: cannot write a tuple that is implicit")
		}
		if seen[t.Key()] {
			return authz.Write{}, twice(t)
		}
		seen[t.Key()] = true
	}
	return w, nil
}

func twice(t relation.Tuple) error {
	return newCoded(fga.ErrorCode_cannot_allow_duplicate_tuples_in_one_request, fault.Invalid,
		"duplicate tuple in write: user: '"+t.Subject+"', relation: '"+t.Relation+"', object: '"+t.Object+"'")
}

func ignored(name, policy string) (bool, error) {
	switch policy {
	case "", "error":
		return false, nil
	case "ignore":
		return true, nil
	}
	return false, fault.New(fault.Invalid, name+" must be error or ignore")
}

func read(ctx context.Context, c *call, q *fga.ReadRequest) (*fga.ReadResponse, error) {
	k := q.GetTupleKey()
	f := authz.Filter{Object: k.GetObject(), Relation: k.GetRelation(), Subject: k.GetUser()}
	page, err := c.api.Authz.Read(ctx, c.store.ID, f, pageSize(q.GetPageSize().GetValue()), q.GetContinuationToken())
	switch {
	case fault.KindOf(err) == fault.NotFound && err != nil:
		return nil, errNoStore
	case errors.Is(err, authz.ErrCursor):
		return nil, errToken
	case err != nil:
		return nil, err
	}
	out := &fga.ReadResponse{Tuples: make([]*fga.Tuple, len(page.Tuples)), ContinuationToken: page.Next}
	for i, t := range page.Tuples {
		key, err := keyOf(t.Tuple)
		if err != nil {
			return nil, err
		}
		out.Tuples[i] = &fga.Tuple{Key: key}
		if !t.Written.IsZero() {
			out.Tuples[i].Timestamp = timestamppb.New(t.Written)
		}
	}
	c.tell(page.Revision, "")
	return out, nil
}
