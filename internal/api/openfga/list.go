package openfga

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/protobuf/proto"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

func listObjects(ctx context.Context, c *call, q *fga.ListObjectsRequest) (*fga.ListObjectsResponse, error) {
	p, err := c.page(ctx, "objects", q)
	if err != nil {
		return nil, err
	}
	c.question(q.GetType()+":", q.GetRelation(), q.GetUser())
	asked, err := c.asked(q.GetAuthorizationModelId(), q.GetContextualTuples().GetTupleKeys(), q.GetContext())
	if err != nil {
		return nil, err
	}
	list, err := c.api.Authz.ListObjects(ctx, authz.ObjectsQuery{
		Store: c.store.ID, Type: q.GetType(), Relation: q.GetRelation(), Subject: q.GetUser(), Asked: asked, Limit: p.size, After: p.after,
	})
	if err != nil {
		return nil, c.wrong(err, true)
	}
	c.listed(p, list)
	return &fga.ListObjectsResponse{Objects: list.Names}, nil
}

func streamedListObjects(ctx context.Context, c *call, q *fga.StreamedListObjectsRequest) (*fga.ListObjectsResponse, error) {
	return listObjects(ctx, c, &fga.ListObjectsRequest{
		StoreId: q.GetStoreId(), AuthorizationModelId: q.GetAuthorizationModelId(), Type: q.GetType(), Relation: q.GetRelation(),
		User: q.GetUser(), ContextualTuples: q.GetContextualTuples(), Context: q.GetContext(), Consistency: q.GetConsistency(),
	})
}

func listUsers(ctx context.Context, c *call, q *fga.ListUsersRequest) (*fga.ListUsersResponse, error) {
	p, err := c.page(ctx, "users", q)
	if err != nil {
		return nil, err
	}
	form := q.GetUserFilters()[0] // exactly one, by the rules of the request
	object, wanted := q.GetObject().GetType()+":"+q.GetObject().GetId(), form.GetType()+":"
	if form.GetRelation() != "" {
		wanted = form.GetType() + "#" + form.GetRelation()
	}
	c.question(object, q.GetRelation(), wanted)
	asked, err := c.asked(q.GetAuthorizationModelId(), q.GetContextualTuples(), q.GetContext())
	if err != nil {
		return nil, err
	}
	list, err := c.api.Authz.ListUsers(ctx, authz.UsersQuery{
		Store: c.store.ID, Object: object, Relation: q.GetRelation(), Type: form.GetType(), Userset: form.GetRelation(), Asked: asked,
		Limit: p.size, After: p.after,
	})
	if err != nil {
		return nil, c.wrong(err, true)
	}
	c.listed(p, list)
	out := &fga.ListUsersResponse{Users: make([]*fga.User, len(list.Names))}
	for i, name := range list.Names {
		out.Users[i] = userOf(name)
	}
	return out, nil
}

func userOf(subject string) *fga.User {
	object, rel := relation.SplitSubject(subject)
	typ, id, _ := relation.SplitObject(object)
	switch {
	case rel != "":
		return &fga.User{User: &fga.User_Userset{Userset: &fga.UsersetUser{Type: typ, Id: id, Relation: rel}}}
	case id == "*":
		return &fga.User{User: &fga.User_Wildcard{Wildcard: &fga.TypedWildcard{Type: typ}}}
	}
	return &fga.User{User: &fga.User_Object{Object: &fga.Object{Type: typ, Id: id}}}
}

// listed tells and records what a list came to.
func (c *call) listed(p paging, l authz.List) {
	c.tell(l.Revision, l.Model)
	c.truncated = l.Truncated
	e := &c.record.Event
	e.Decision, e.Reason = "", "list"
	c.note("listed", len(l.Names))
	if p.after != "" {
		e.Detail["after"] = p.after
	}
	if l.Next != "" {
		c.next = p.cursor(c.api.Authz.Token(l.Revision), l.Next)
	}
	if l.Truncated {
		e.Detail["truncated"] = "true"
	}
}

// maxListPage is the largest page of a list. Without a page it comes whole.
const maxListPage = 100_000

// paging is what a request for a list says about pages.
type paging struct {
	size     int
	after    string
	question [cursorHash]byte
}

// A list's cursor, format 1: base64url of
//
//	"l" | the question's hash (16) | a revision token (79) | the last name
//
// The hash is the first bytes of SHA-256 over the kind of list, a zero byte and
// the request in protobuf's deterministic form. Nothing relies on the hash: it
// keeps a caller from going on with another question by mistake.
const (
	cursorHash  = 16
	cursorToken = 79
	maxCursor   = 2048
)

// page reads the headers. The revision of a cursor must be here: a page is
// answered at the latest, and may not be older than the one before.
func (c *call) page(ctx context.Context, kind string, q proto.Message) (p paging, err error) {
	size, err := c.option(PageSizeHeader)
	if err != nil {
		return p, err
	}
	cursor, err := c.option(CursorHeader)
	if err != nil || size == "" && cursor == "" {
		return p, err
	}
	if p.size, err = strconv.Atoi(size); err != nil || p.size < 1 || p.size > maxListPage {
		return p, fault.New(fault.Invalid, PageSizeHeader+" must be 1 to 100000")
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(q)
	if err != nil {
		return p, fault.Wrap(fault.Internal, "a request does not encode", err)
	}
	sum := sha256.Sum256(append([]byte(kind+"\x00"), raw...))
	p.question = [cursorHash]byte(sum[:])
	if cursor == "" {
		return p, nil
	}
	rest, ok := opened(cursor, string(p.question[:]))
	if !ok {
		return p, fault.New(fault.Invalid, CursorHeader+" is not one of this list")
	}
	if _, err := c.api.Authz.ParseToken(ctx, c.store.ID, rest[:cursorToken]); err != nil {
		if fault.KindOf(err) == fault.Unavailable {
			return p, err
		}
		return p, fault.Wrap(fault.Invalid, CursorHeader+" is not one of this list, or older than the last restore; begin again without it", err)
	}
	p.after = rest[cursorToken:]
	return p, nil
}

// opened returns what follows the hash in a cursor.
func opened(cursor, question string) (string, bool) {
	if len(cursor) > maxCursor {
		return "", false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return "", false
	}
	rest, ok := strings.CutPrefix(string(b), "l"+question)
	return rest, ok && len(rest) > cursorToken
}

func (p *paging) cursor(token, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte("l" + string(p.question[:]) + token + last))
}
