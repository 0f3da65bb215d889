package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	fga "github.com/openfga/api/proto/openfga/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// cases are what TestAgainstReference of internal/authz writes down.
type cases struct {
	Model  string      `json:"model"`
	Tuples []caseTuple `json:"tuples"`
	Cases  []struct {
		Question   caseTuple      `json:"question"`
		Contextual []caseTuple    `json:"contextual"`
		Context    map[string]any `json:"context"`
		Check      string         `json:"check"`
		Undefined  bool           `json:"undefined"`
		Circles    []string       `json:"circles"`
		Objects    []string       `json:"objects"`
		Users      []string       `json:"users"`
	} `json:"cases"`
}

// The cases' one condition is called c; OpenFGA's messages take no name that short.
const conditionName = "positive"

var longerName = strings.NewReplacer(" with c]", " with "+conditionName+"]", " with c,", " with "+conditionName+",", "condition c(", "condition "+conditionName+"(")

var reason = regexp.MustCompile(`[^:]*$`)

type caseTuple struct {
	Object    string `json:"object"`
	Relation  string `json:"relation"`
	User      string `json:"user"`
	Condition string `json:"condition"`
	Context   string `json:"context"`
}

func (t caseTuple) key() (*fga.TupleKey, error) {
	k := &fga.TupleKey{Object: t.Object, Relation: t.Relation, User: t.User}
	if t.Condition == "" {
		return k, nil
	}
	k.Condition = &fga.RelationshipCondition{Name: conditionName}
	if t.Context != "" {
		k.Condition.Context = &structpb.Struct{}
		return k, k.Condition.Context.UnmarshalJSON([]byte(t.Context))
	}
	return k, nil
}

func keysOf(list []caseTuple) (out []*fga.TupleKey, err error) {
	for _, t := range list {
		k, err := t.key()
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// comparison counts how both sides answer beside the reference.
type comparison struct {
	mu                 sync.Mutex
	questions, answers int
	wanted             int            // questions
	ours, theirs       []string       // differences
	excluded           map[string]int // differences of OpenFGA that docs/spec/decisions.md names
}

// random puts random questions about random models to both sides.
func (d *decisions) random(ctx context.Context) error {
	n := 5000
	if d.quick {
		n = 500
		d.unasked = append(d.unasked, "-quick: 500 random cases and not 5,000")
	}
	path := d.path("cases")
	gen := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^TestAgainstReference$", "./internal/authz")
	gen.Dir = ".."
	gen.Env = append(os.Environ(), "BULWARK_TEST_RECORD="+path, "BULWARK_TEST_CASES="+strconv.Itoa(2*n)) // OpenFGA refuses some of the models
	if out, err := gen.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c := &comparison{excluded: map[string]int{}, wanted: n}
	graphs := make(chan cases)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for g := range graphs {
				if errs[i] == nil && ctx.Err() == nil {
					errs[i] = c.graph(ctx, d, g)
				}
			}
		})
	}
	in := bufio.NewScanner(bytes.NewReader(text))
	in.Buffer(nil, 16<<20)
	sent := 0
	for in.Scan() {
		var g cases
		if err := json.Unmarshal(in.Bytes(), &g); err != nil {
			return err
		}
		g.Model = longerName.Replace(g.Model)
		graphs <- g
		if sent++; sent%50 == 0 {
			fmt.Fprintf(os.Stderr, "random: %d graphs\n", sent)
		}
	}
	close(graphs)
	wg.Wait()
	if err := errors.Join(append(errs, in.Err(), ctx.Err())...); err != nil {
		return err
	}
	fmt.Printf("\nRandom models, tuples, contextual tuples and questions, both servers beside the reference: %d cases (Check, ListObjects, ListUsers, Expand each), %d answers of each side\n", c.questions, c.answers)
	fmt.Printf("  bulwark differs in %d, openfga in %d beside those excluded:\n", len(c.ours), len(c.theirs))
	for _, name := range slices.Sorted(maps.Keys(c.excluded)) {
		fmt.Printf("  excluded: %s: %d\n", name, c.excluded[name])
	}
	for _, list := range [][]string{c.ours, c.theirs} {
		for _, text := range list[:min(len(list), 2000)] {
			fmt.Println("  " + text)
		}
	}
	if len(c.ours) > 0 {
		return errors.New("bulwark differs from the reference")
	}
	if len(c.theirs) > 0 {
		d.missed = append(d.missed, "no difference to OpenFGA")
	}
	return nil
}

func (c *comparison) graph(ctx context.Context, d *decisions, g cases) error {
	sides := []struct {
		name         string
		a            *asker
		store, model string
	}{{name: "bulwark", a: d.ours}, {name: "openfga", a: d.peer.plain.asker}}
	c.mu.Lock()
	enough := c.questions >= c.wanted
	c.mu.Unlock()
	if enough {
		return nil
	}
	for i := range sides {
		s := &sides[len(sides)-1-i] // OpenFGA first
		err := patient(func() (err error) { s.store, s.model, err = s.a.store(ctx, "random", g.Model); return err })
		if status.Code(err) == codes.Code(fga.ErrorCode_invalid_authorization_model) && s.name == "openfga" {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.excluded["a model that openfga refuses ("+reason.FindString(err.Error())+")"]++
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", s.name, err, g.Model)
		}
		for part := range slices.Chunk(g.Tuples, 100) {
			keys, err := keysOf(part)
			if err != nil {
				return err
			}
			err = patient(func() error {
				_, err := s.a.api.Write(ctx, &fga.WriteRequest{StoreId: s.store, Writes: &fga.WriteRequestWrites{TupleKeys: keys, OnDuplicate: "ignore"}})
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w\n%s\n%v", s.name, err, g.Model, part)
			}
		}
	}
	for _, q := range g.Cases {
		if q.Check == "invalid" {
			continue
		}
		contextual, err := keysOf(q.Contextual)
		if err != nil {
			return err
		}
		var values *structpb.Struct
		if q.Context != nil {
			if values, err = structpb.NewStruct(q.Context); err != nil {
				return err
			}
		}
		_, userset, _ := strings.Cut(q.Question.User, "#")
		over := slices.ContainsFunc(q.Contextual, func(t caseTuple) bool {
			return slices.ContainsFunc(g.Tuples, func(s caseTuple) bool { return s.Object == t.Object && s.Relation == t.Relation && s.User == t.User })
		})
		var trees [2]*fga.UsersetTree
		for i, s := range sides {
			asks := asking{s.a.api, s.store, s.model, contextual, values}
			for _, form := range []struct{ name, got, want string }{
				{"check", asks.check(ctx, q.Question), q.Check},
				{"objects", asks.objects(ctx, q.Question), fmt.Sprint(q.Objects)},
				{"users", asks.users(ctx, q.Question), fmt.Sprint(q.Users)},
			} {
				if form.want == "[error]" {
					form.want = "error"
				}
				c.judge(s.name, form.name, form.got, form.want, judged{q.Undefined, over, userset, q.Question.Object, q.Circles, func(form, got, want string) bool {
					if form == "check" {
						return asks.objects(ctx, q.Question) == fmt.Sprint(q.Objects)
					}
					return asks.contradicts(ctx, q.Question, form, got, want)
				}}, func() string {
					return fmt.Sprintf("%s, %s of %v, with %v and %v: %s, the reference says %s\n%s%v", s.name, form.name, q.Question, q.Contextual, q.Context, form.got, form.want, g.Model, g.Tuples)
				})
			}
			trees[i] = asks.expand(ctx, q.Question)
		}
		c.trees(g.Model, trees[0], trees[1], func() string {
			return fmt.Sprintf("expand of %v, with %v: bulwark %v, openfga %v\n%s%v", q.Question, q.Contextual, trees[0], trees[1], g.Model, g.Tuples)
		})
		c.mu.Lock()
		c.questions++
		c.mu.Unlock()
	}
	return nil
}

// judge counts a difference. Excluded are, of OpenFGA's, those that
// docs/spec/decisions.md section 6 names.
func (c *comparison) judge(side, form, got, want string, q judged, text func() string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if side == "openfga" {
		c.answers++
	}
	switch {
	case got == want:
	case side == "bulwark":
		c.ours = append(c.ours, text())
	case q.undefined:
		c.excluded["depends on its own negation ("+form+")"]++
	case want == "error":
		c.excluded["a condition that cannot be evaluated: openfga answers all the same ("+form+")"]++
	case got == "error":
		c.excluded["a condition that cannot be evaluated: openfga fails all the same ("+form+")"]++
	case form == "users" && q.userset != "" && q.asked(form, got) == want:
		c.excluded["openfga lists objects where a userset was asked for (users)"]++
	case form == "users" && strings.Contains(want, ":*") && strings.Contains(got, ":*") && only(got, ":*") == only(want, ":*"):
		c.excluded["who stands beside type:* (users)"]++
	case q.over:
		c.excluded["a contextual tuple has the key of a stored one: openfga counts both ("+form+")"]++
	case q.circle(form, got, want):
		c.excluded["what is subtracted leads to itself: openfga denies ("+form+")"]++
	case q.contradicts != nil && q.contradicts(form, q.asked(form, got), want):
		c.excluded["openfga's list and Check contradict each other ("+form+")"]++
	default:
		c.theirs = append(c.theirs, text())
	}
}

// judged is what a difference's name depends on.
type judged struct {
	undefined bool
	over      bool   // a contextual tuple has the key of a stored one
	userset   string // of the users asked for
	object    string
	circles   []string // objects on which what is subtracted leads to itself
	// contradicts reports whether the side itself says what want says: its Check of
	// every name that only one of the lists holds, its list for a Check.
	contradicts func(form, got, want string) bool
}

// asked leaves of a list of users those of the form asked for: OpenFGA may list
// others beside them.
func (q judged) asked(form, list string) string {
	if form == "users" && q.userset != "" {
		return only(list, "#"+q.userset)
	}
	return list
}

// circle reports whether got lacks, of what want has, only what a circle under "but
// not" stands before.
func (q judged) circle(form, got, want string) bool {
	if form == "check" {
		return slices.Contains(q.circles, q.object) && got == "deny"
	}
	fields := func(list string) []string { return strings.Fields(strings.Trim(list, "[]")) }
	lacks := slices.DeleteFunc(fields(want), func(name string) bool { return slices.Contains(fields(got), name) })
	more := slices.ContainsFunc(fields(got), func(name string) bool { return !slices.Contains(fields(want), name) })
	if form == "users" {
		return !more && slices.Contains(q.circles, q.object)
	}
	return !more && !slices.ContainsFunc(lacks, func(name string) bool { return !slices.Contains(q.circles, name) })
}

// only leaves the names that end so.
func only(list, suffix string) string {
	return fmt.Sprint(slices.DeleteFunc(strings.Fields(strings.Trim(list, "[]")), func(name string) bool { return !strings.HasSuffix(name, suffix) }))
}

// trees compares two trees of Expand. OpenFGA names the relation of parents whose
// type does not have it; we leave them out.
func (c *comparison) trees(model string, ours, theirs *fga.UsersetTree, text func() string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers++
	if proto.Equal(ours, theirs) {
		return
	}
	has := map[string]bool{}
	typ := ""
	for line := range strings.Lines(model) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "type "); ok {
			typ = name
		}
		if name, ok := strings.CutPrefix(line, "define "); ok {
			name, _, _ = strings.Cut(name, ":")
			has[typ+"#"+name] = true
		}
	}
	eachLeaf(theirs.GetRoot(), func(l *fga.UsersetTree_Leaf) {
		if parents := l.GetTupleToUserset(); parents != nil {
			parents.Computed = slices.DeleteFunc(parents.Computed, func(at *fga.UsersetTree_Computed) bool {
				object, rel, _ := strings.Cut(at.GetUserset(), "#")
				of, _ := split(object)
				return !has[of+"#"+rel]
			})
		}
	})
	if proto.Equal(ours, theirs) {
		c.excluded["openfga names a relation that the parent's type does not have (expand)"]++
		return
	}
	c.theirs = append(c.theirs, text())
}

func eachLeaf(n *fga.UsersetTree_Node, do func(*fga.UsersetTree_Leaf)) {
	if n == nil {
		return
	}
	if l := n.GetLeaf(); l != nil {
		do(l)
	}
	for _, list := range [][]*fga.UsersetTree_Node{n.GetUnion().GetNodes(), n.GetIntersection().GetNodes(), {n.GetDifference().GetBase(), n.GetDifference().GetSubtract()}} {
		for _, child := range list {
			eachLeaf(child, do)
		}
	}
}

// asking is one case's context on one side.
type asking struct {
	api          fga.OpenFGAServiceClient
	store, model string
	contextual   []*fga.TupleKey
	values       *structpb.Struct
}

// patient asks again when OpenFGA's three seconds were over, which says more about
// the machine than about the answer.
func patient(do func() error) (err error) {
	for range 20 {
		if err = do(); err == nil || status.Code(err) != codes.Code(fga.InternalErrorCode_deadline_exceeded) && status.Code(err) != codes.DeadlineExceeded {
			return err
		}
	}
	return err
}

func (a asking) tuples() *fga.ContextualTupleKeys {
	if len(a.contextual) == 0 {
		return nil
	}
	return &fga.ContextualTupleKeys{TupleKeys: a.contextual}
}

func (a asking) check(ctx context.Context, q caseTuple) string {
	var res *fga.CheckResponse
	err := patient(func() (err error) {
		res, err = a.api.Check(ctx, &fga.CheckRequest{StoreId: a.store, AuthorizationModelId: a.model, ContextualTuples: a.tuples(), Context: a.values,
			TupleKey: &fga.CheckRequestTupleKey{Object: q.Object, Relation: q.Relation, User: q.User}})
		return err
	})
	switch {
	case err != nil:
		return "error"
	case res.GetAllowed():
		return "allow"
	}
	return "deny"
}

// contradicts: see judged.
func (a asking) contradicts(ctx context.Context, q caseTuple, form, got, want string) bool {
	if got == "error" || want == "error" {
		return false
	}
	fields := func(list string) []string { return strings.Fields(strings.Trim(list, "[]")) }
	listed, right := fields(got), fields(want)
	for _, name := range append(listed, right...) {
		should := slices.Contains(right, name)
		if slices.Contains(fields(got), name) == should {
			continue
		}
		one := q
		if form == "objects" {
			one.Object = name
		} else {
			one.User = name
		}
		if a.check(ctx, one) != map[bool]string{true: "allow", false: "deny"}[should] {
			return false
		}
	}
	return true
}

func (a asking) objects(ctx context.Context, q caseTuple) string {
	typ, _ := split(q.Object)
	var res *fga.ListObjectsResponse
	err := patient(func() (err error) {
		res, err = a.api.ListObjects(ctx, &fga.ListObjectsRequest{StoreId: a.store, AuthorizationModelId: a.model, ContextualTuples: a.tuples(), Context: a.values,
			Type: typ, Relation: q.Relation, User: q.User})
		return err
	})
	if err != nil {
		return "error"
	}
	return fmt.Sprint(slices.Sorted(slices.Values(res.GetObjects())))
}

func (a asking) users(ctx context.Context, q caseTuple) string {
	typ, id := split(q.Object)
	object, rel, _ := strings.Cut(q.User, "#")
	of, _ := split(object)
	var res *fga.ListUsersResponse
	err := patient(func() (err error) {
		res, err = a.api.ListUsers(ctx, &fga.ListUsersRequest{StoreId: a.store, AuthorizationModelId: a.model, ContextualTuples: a.contextual, Context: a.values,
			Object: &fga.Object{Type: typ, Id: id}, Relation: q.Relation, UserFilters: []*fga.UserTypeFilter{{Type: of, Relation: rel}}})
		return err
	})
	if err != nil {
		return "error"
	}
	var names []string
	for _, u := range res.GetUsers() {
		switch {
		case u.GetWildcard() != nil:
			names = append(names, u.GetWildcard().GetType()+":*")
		case u.GetUserset() != nil:
			names = append(names, u.GetUserset().GetType()+":"+u.GetUserset().GetId()+"#"+u.GetUserset().GetRelation())
		default:
			names = append(names, u.GetObject().GetType()+":"+u.GetObject().GetId())
		}
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

// expand returns the tree with its lists sorted; nil for an error.
func (a asking) expand(ctx context.Context, q caseTuple) *fga.UsersetTree {
	var res *fga.ExpandResponse
	err := patient(func() (err error) {
		res, err = a.api.Expand(ctx, &fga.ExpandRequest{StoreId: a.store, AuthorizationModelId: a.model, ContextualTuples: a.tuples(),
			TupleKey: &fga.ExpandRequestTupleKey{Object: q.Object, Relation: q.Relation}})
		return err
	})
	if err != nil {
		return nil
	}
	tree := proto.Clone(res.GetTree()).(*fga.UsersetTree)
	eachLeaf(tree.GetRoot(), func(l *fga.UsersetTree_Leaf) {
		slices.Sort(l.GetUsers().GetUsers())
		slices.SortFunc(l.GetTupleToUserset().GetComputed(), func(a, b *fga.UsersetTree_Computed) int {
			return cmp.Compare(a.GetUserset(), b.GetUserset())
		})
	})
	return tree
}
