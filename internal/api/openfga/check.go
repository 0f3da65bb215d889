package openfga

import (
	"context"
	"encoding/json"
	"strings"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/types/known/structpb"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// MaxBatch is how many questions a batch may ask; OpenFGA's default.
const MaxBatch = 50

// What an event holds of a question beside its own fields, in bytes: an event
// has a size ([ledger.MaxEvent]).
const (
	maxRecorded = 10 << 10 // questions of a batch
	maxTrace    = 6 << 10
	maxGiven    = 3 << 10 // contextual tuples
)

// asked takes over what a question may bring along, and records it. The values
// of a context may say anything about anybody, so only that there is one is kept.
func (c *call) asked(model string, contextual []*fga.TupleKey, values *structpb.Struct) (a authz.Asked, err error) {
	a.Model = model
	if a.Contextual, err = tuplesOf(contextual); err != nil {
		return a, err
	}
	if a.Context, err = contextOf(values); err != nil {
		return a, err
	}
	detail := c.record.Event.Detail
	if len(a.Contextual) > 0 {
		named, left := spelled(a.Contextual)
		if detail["contextual"] = named; left > 0 {
			c.note("contextual_unnamed", left)
		}
	}
	if a.Context != nil {
		detail["context"] = "given"
	}
	return a, nil
}

// spelled names tuples, separated by spaces, which no valid tuple holds, and
// counts those that are over the bound.
func spelled(tuples []relation.Tuple) (named string, left int) {
	var b strings.Builder
	for i, t := range tuples {
		s := t.String()
		if b.Len()+len(s) >= maxGiven {
			return b.String(), len(tuples) - i
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s)
	}
	return b.String(), 0
}

// question begins the record of one.
func (c *call) question(resource, rel, asked string) {
	e := &c.record.Event
	e.Resource, e.Relation = resource, rel
	e.Detail = map[string]string{"store": string(c.store.ID)}
	if asked != "" {
		e.Detail["asked"] = asked
	}
}

func check(ctx context.Context, c *call, q *fga.CheckRequest) (*fga.CheckResponse, error) {
	k := q.GetTupleKey()
	c.question(k.GetObject(), k.GetRelation(), k.GetUser())
	asked, err := c.asked(q.GetAuthorizationModelId(), q.GetContextualTuples().GetTupleKeys(), q.GetContext())
	if err != nil {
		return nil, err
	}
	d, err := c.api.Authz.Check(ctx, authz.Query{
		Store: c.store.ID, Object: k.GetObject(), Relation: k.GetRelation(), Subject: k.GetUser(), Asked: asked, Explain: q.GetTrace(),
	})
	if err != nil {
		return nil, c.wrong(err, false)
	}
	e := &c.record.Event
	e.Decision, e.Reason = "deny", d.Reason
	if d.Allowed {
		e.Decision = "allow"
	}
	c.tell(d.Revision, d.Model)
	out := &fga.CheckResponse{Allowed: d.Allowed}
	if d.Trace != nil {
		raw, err := json.Marshal(d.Trace)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, "a trace does not encode", err)
		}
		out.Resolution = string(raw)
		if e.Detail["trace"] = out.Resolution; len(raw) > maxTrace {
			e.Detail["trace"] = "omitted"
		}
	}
	return out, nil
}

func batchCheck(ctx context.Context, c *call, q *fga.BatchCheckRequest) (*fga.BatchCheckResponse, error) {
	c.question("", "", "")
	b, err := newBatch(c, q.GetChecks())
	if err != nil {
		return nil, err
	}
	queries := make([]authz.Query, 0, len(q.GetChecks()))
	for _, item := range q.GetChecks() {
		k := item.GetTupleKey()
		query := authz.Query{Store: c.store.ID, Object: k.GetObject(), Relation: k.GetRelation(), Subject: k.GetUser()}
		query.Model = q.GetAuthorizationModelId()
		if query.Contextual, err = tuplesOf(item.GetContextualTuples().GetTupleKeys()); err == nil {
			query.Context, err = contextOf(item.GetContext())
		}
		if err != nil {
			b.note(item, authz.Decision{}, err)
			continue
		}
		b.items = append(b.items, item)
		queries = append(queries, query)
	}
	rev, model, err := c.api.Authz.CheckBatch(ctx, c.store.ID, q.GetAuthorizationModelId(), queries, func(i int, d authz.Decision, err error) {
		b.note(b.items[i], d, err)
	})
	if err != nil {
		return nil, c.wrong(err, false)
	}
	c.tell(rev, model)
	b.close()
	return &fga.BatchCheckResponse{Result: b.out}, nil
}

// batch gathers answers, and what a replay needs of them: for each question
// "+" allowed, "-" denied or "!" no answer, then "~" if it brought context or
// tuples along, and the question.
type batch struct {
	*call
	items                   []*fga.BatchCheckItem // those that are asked
	out                     map[string]*fga.BatchCheckSingleResult
	named                   strings.Builder
	allowed, denied, failed int
	unnamed                 int
}

// newBatch holds the items to what their proto file does not say. Answers and
// record get their memory at once: piece by piece it was a quarter of a batch.
func newBatch(c *call, items []*fga.BatchCheckItem) (*batch, error) {
	if len(items) > MaxBatch {
		return nil, fault.New(fault.Invalid, "batchCheck received more checks than the maximum allowed, 50")
	}
	b := &batch{call: c, items: make([]*fga.BatchCheckItem, 0, len(items)), out: make(map[string]*fga.BatchCheckSingleResult, len(items))}
	results := make([]fga.BatchCheckSingleResult, len(items))
	size := 0
	for i, item := range items {
		id, k := item.GetCorrelationId(), item.GetTupleKey()
		if b.out[id] != nil {
			return nil, fault.New(fault.Invalid, "received duplicate correlation id: "+id)
		}
		b.out[id] = &results[i]
		size += len(k.GetObject()) + len(k.GetRelation()) + len(k.GetUser()) + 5
	}
	b.named.Grow(min(size, maxRecorded))
	return b, nil
}

// The two answers without an error are the same in all batches, and are only read.
var (
	allowed = &fga.BatchCheckSingleResult_Allowed{Allowed: true}
	denied  = &fga.BatchCheckSingleResult_Allowed{Allowed: false}
)

func (b *batch) note(item *fga.BatchCheckItem, d authz.Decision, err error) {
	var sign byte
	result := b.out[item.GetCorrelationId()]
	switch {
	case err != nil:
		sign, b.failed = '!', b.failed+1
		result.CheckResult = &fga.BatchCheckSingleResult_Error{Error: b.itemError(err)}
	case d.Allowed:
		sign, b.allowed = '+', b.allowed+1
		result.CheckResult = allowed
	default:
		sign, b.denied = '-', b.denied+1
		result.CheckResult = denied
	}
	k := item.GetTupleKey()
	if b.named.Len()+len(k.GetObject())+len(k.GetRelation())+len(k.GetUser())+5 > maxRecorded {
		b.unnamed++
		return
	}
	if b.named.Len() > 0 {
		b.named.WriteByte(' ')
	}
	b.named.WriteByte(sign)
	if item.GetContext() != nil || len(item.GetContextualTuples().GetTupleKeys()) > 0 {
		b.named.WriteByte('~')
	}
	b.named.WriteString(k.GetObject())
	b.named.WriteByte('#')
	b.named.WriteString(k.GetRelation())
	b.named.WriteByte('@')
	b.named.WriteString(k.GetUser())
}

// itemError is the error of one question.
func (b *batch) itemError(err error) *fga.CheckError {
	err = b.wrong(err, false)
	out := &fga.CheckError{Message: fault.Public(err)}
	if _, code := codesOf(err); code >= 4000 {
		out.Code = &fga.CheckError_InternalError{InternalError: fga.InternalErrorCode(code)}
	} else {
		out.Code = &fga.CheckError_InputError{InputError: fga.ErrorCode(code)}
	}
	return out
}

func (b *batch) close() {
	e := &b.record.Event
	e.Decision, e.Reason = "", "batch"
	e.Detail["batch"] = b.named.String()
	b.call.note("allowed", b.allowed)
	b.call.note("denied", b.denied)
	b.call.note("failed", b.failed)
	if b.unnamed > 0 {
		b.call.note("unnamed", b.unnamed)
	}
}

// The questions that programs ask most are held to their proto file's rules by
// hand: its regular expressions cost more than the answer. What these functions
// do not accept is asked of Validate, which also words the error.

func validCheck(q *fga.CheckRequest) bool {
	return tenant.ValidID(q.GetStoreId()) && validModel(q.GetAuthorizationModelId()) && validKey(q.GetTupleKey()) &&
		q.GetContextualTuples() == nil && validPreference(q.GetConsistency())
}

func validBatch(q *fga.BatchCheckRequest) bool {
	for _, item := range q.GetChecks() {
		if !validKey(item.GetTupleKey()) || item.GetContextualTuples() != nil || !validCorrelation(item.GetCorrelationId()) {
			return false
		}
	}
	return len(q.GetChecks()) > 0 && tenant.ValidID(q.GetStoreId()) && validModel(q.GetAuthorizationModelId()) && validPreference(q.GetConsistency())
}

func validModel(id string) bool { return id == "" || tenant.ValidID(id) }

func validPreference(p fga.ConsistencyPreference) bool {
	switch p {
	case fga.ConsistencyPreference_UNSPECIFIED, fga.ConsistencyPreference_MINIMIZE_LATENCY, fga.ConsistencyPreference_HIGHER_CONSISTENCY:
		return true
	}
	return false
}

func validKey(k *fga.CheckRequestTupleKey) bool {
	return k != nil && printable(k.GetUser(), 2, 512) && printable(k.GetObject(), 2, 256) &&
		printable(k.GetRelation(), 1, 50) && !strings.ContainsAny(k.GetRelation(), ":#@")
}

// printable reports whether s is least to most ASCII characters without white
// space or control characters.
func printable(s string, least, most int) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func validCorrelation(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 36
}
