// Package guard takes one request from its credential to a verdict.
//
// [Guard.Check] is the only way to an upstream and into the admin API. It is
// six paragraphs; nothing stands between them.
package guard

import (
	"context"
	"encoding/json"

	"bulwark.example/internal/audit"
	"bulwark.example/internal/authn"
	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/ledger"
)

// Check decides about one request. The zero Verdict refuses, and so does every
// error on the way. A refusal of a verified principal is on disk when Check
// returns, or the verdict is that the service is unavailable.
//
// The record of an allowed request is still open: the caller closes it with
// the outcome, or takes its event into the transaction of a mutation. The
// record is nil when the log could not open one.
func (g *Guard) Check(ctx context.Context, req *Request) (Verdict, *audit.Record) {
	// 1. Open the audit record. What cannot be recorded does not happen.
	rec, err := g.cfg.Audit.Begin(g.opening(req))
	if err != nil {
		return Verdict{Enforced: true, Kind: fault.Unavailable, Reason: "audit_unavailable"}, nil
	}

	// 2. From the credential to the principal. Without one the refusal is a
	// reject: aggregated, never waiting, and no unverified claim is recorded.
	p, err := g.cfg.Authn.Authenticate(ctx, authn.Input{Authorization: req.Authorization, Audience: req.Audience})
	if err != nil {
		return g.close(ctx, rec, refusal(err, reasonOf(err)))
	}
	attribute(&rec.Event, p)

	// 3. Bind the tenant: it is the credential's, whatever the request says.
	graph, object, err := g.bind(p.Tenant, req.Require)
	if err != nil {
		return g.close(ctx, rec, refusal(err, "tenant_unbound").of(p))
	}
	rec.Event.Resource = object

	// 4. Decide. Whether the principal may see the object is always asked too,
	// so that the time taken does not tell a hidden object from an absent one.
	last, err := g.lastSeen(ctx, p)
	if err != nil {
		return g.close(ctx, rec, refusal(err, "revision_unavailable").of(p))
	}
	v := g.decide(ctx, graph, object, p.Subject.String(), req, g.verified(p, req)).within(p, req).of(p)

	// 5. Build the identity that the upstream is told.
	if v.Allowed && req.Upstream != "" {
		if v.Identity, err = g.identity(ctx, req, p, &v, object); err != nil {
			return g.close(ctx, rec, refusal(err, "assertion_failed").of(p))
		}
		v.Identity.AtLeast = last
	}

	// 6. Close the record: verdict, enforced or not, reason, revision.
	return g.close(ctx, rec, v)
}

// maxTrace bounds a recorded reason, in bytes.
const maxTrace = 6 << 10

func traceOf(t *authz.Trace) string {
	raw, err := json.Marshal(t)
	if err != nil || len(raw) > maxTrace {
		return "omitted"
	}
	return string(raw)
}

// close writes the verdict into the record. A refusal is appended now; the
// record of an allowed request stays open for its outcome.
func (g *Guard) close(ctx context.Context, rec *audit.Record, v Verdict) (Verdict, *audit.Record) {
	v.Enforced = true // no route can observe yet; the field is for the one that may
	v.DecisionID = rec.Event.ID
	e := &rec.Event
	e.Unenforced, e.Reason = !v.Enforced, v.Reason
	e.Model, e.Revision, e.Status = v.Model, v.Revision, v.Status()
	if v.Trace != nil {
		e.Detail = map[string]string{"trace": traceOf(v.Trace)}
	}
	switch {
	case v.Principal == nil:
		e.Class, e.Decision = ledger.Reject, "deny"
	case v.Allowed:
		e.Class, e.Decision = ledger.Allow, "allow"
		return v, rec
	default:
		e.Class, e.Decision = ledger.Deny, "deny"
	}
	if err := rec.Close(ctx); err != nil {
		return Verdict{Enforced: true, Kind: fault.Unavailable, Reason: "audit_unavailable"}, rec
	}
	return v, rec
}
