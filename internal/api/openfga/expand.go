package openfga

import (
	"context"

	fga "github.com/openfga/api/proto/openfga/v1"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/schema"
)

func expand(ctx context.Context, c *call, q *fga.ExpandRequest) (*fga.ExpandResponse, error) {
	k := q.GetTupleKey()
	if k.GetObject() == "" || k.GetRelation() == "" {
		return nil, errExpand
	}
	c.question(k.GetObject(), k.GetRelation(), "")
	asked, err := c.asked(q.GetAuthorizationModelId(), q.GetContextualTuples().GetTupleKeys(), nil)
	if err != nil {
		return nil, err
	}
	x, err := c.api.Authz.Expand(ctx, authz.ExpandQuery{Store: c.store.ID, Object: k.GetObject(), Relation: k.GetRelation(), Asked: asked})
	if err != nil {
		return nil, c.wrong(err, false)
	}
	c.tell(x.Revision, x.Model)
	c.record.Event.Decision, c.record.Event.Reason = "", "expand"
	return &fga.ExpandResponse{Tree: &fga.UsersetTree{Root: node(&x.Root)}}, nil
}

// node spells a node of the tree as OpenFGA does.
func node(x *authz.Expanded) *fga.UsersetTree_Node {
	out := &fga.UsersetTree_Node{Name: x.Name}
	switch x.Op {
	case schema.Direct:
		out.Value = leaf(&fga.UsersetTree_Leaf{Value: &fga.UsersetTree_Leaf_Users{Users: &fga.UsersetTree_Users{Users: x.Users}}})
	case schema.Computed:
		out.Value = leaf(&fga.UsersetTree_Leaf{Value: &fga.UsersetTree_Leaf_Computed{Computed: computed(x.Computed)[0]}})
	case schema.FromTuple:
		out.Value = leaf(&fga.UsersetTree_Leaf{Value: &fga.UsersetTree_Leaf_TupleToUserset{
			TupleToUserset: &fga.UsersetTree_TupleToUserset{Tupleset: x.Tupleset, Computed: computed(x.Computed)},
		}})
	case schema.Union:
		out.Value = &fga.UsersetTree_Node_Union{Union: nodes(x.Operands)}
	case schema.All:
		out.Value = &fga.UsersetTree_Node_Intersection{Intersection: nodes(x.Operands)}
	case schema.Except:
		out.Value = &fga.UsersetTree_Node_Difference{
			Difference: &fga.UsersetTree_Difference{Base: node(&x.Operands[0]), Subtract: node(&x.Operands[1])},
		}
	}
	return out
}

func leaf(l *fga.UsersetTree_Leaf) *fga.UsersetTree_Node_Leaf {
	return &fga.UsersetTree_Node_Leaf{Leaf: l}
}

func nodes(of []authz.Expanded) *fga.UsersetTree_Nodes {
	out := &fga.UsersetTree_Nodes{Nodes: make([]*fga.UsersetTree_Node, len(of))}
	for i := range of {
		out.Nodes[i] = node(&of[i])
	}
	return out
}

func computed(usersets []string) []*fga.UsersetTree_Computed {
	out := make([]*fga.UsersetTree_Computed, len(usersets))
	for i, u := range usersets {
		out[i] = &fga.UsersetTree_Computed{Userset: u}
	}
	return out
}
