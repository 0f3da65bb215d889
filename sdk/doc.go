// Package sdk lets a Go service behind Bulwark know who asks.
//
// A service wraps its handlers with [Verifier.Middleware]. What reaches them was
// let through by the gateway, or called with a token for this very service, and
// [FromContext] tells for whom. To call another service on behalf of the one who
// asks, [Client.Exchange] trades what was received for a token that the other
// service alone takes; [Client.Token] is for work of the service's own, and
// [Client.Check] asks whether a subject may do something.
//
//	verifier, err := sdk.NewVerifier(sdk.VerifierConfig{
//		Issuer:   "https://auth.example.com",
//		Audience: "urn:bulwark:prod:svc:01J9…",
//	})
//	http.Handle("GET /documents/{id}", verifier.Middleware(handler))
//
// The tenant comes from the verified token and from nowhere else: take it from
// the [Principal], never from a path, a header or a body.
//
// What came through the gateway was decided there, and [Principal.Decided] tells
// what. What came with a token for this service was not: a handler that serves
// both asks [Client.Check] for what it was not told.
//
// # Revocation
//
// Everything is verified here, offline, with keys that are kept. That knows an
// end that a credential states, and no other: a token for this service goes on
// being taken until its exp, 5 minutes at most, after its root, its session, its
// subject or an actor in its chain was revoked. [VerifierConfig.Introspect] ends
// that: Bulwark is asked about each such token, and an answer is kept for 5
// seconds, so a request that arrives 5 seconds after the revocation is refused.
// Set it wherever callers come past the gateway, unless 5 minutes do not matter.
// It costs one request to Bulwark per token in 5 seconds, and while Bulwark
// cannot be asked, those callers get 503.
//
//	bulwark, err := sdk.NewClient(sdk.ClientConfig{Issuer: issuer, ClientID: id, Key: key})
//	verifier, err := sdk.NewVerifier(sdk.VerifierConfig{Issuer: issuer, Audience: audience, Introspect: bulwark})
//
// It says nothing about assertions. The gateway makes none for a credential that
// was revoked, but one made before is taken until its exp, 60 seconds at most,
// for its one method and path.
//
// # Coming from another check
//
// [Shadow] asks Bulwark beside the check that a service has, answers as that one
// does, and tells where the two disagree: days of it, without a disagreement, are
// what a cut-over needs.
//
// Everything here is safe for concurrent use. The package follows semantic
// versioning from version 1 on; until then a minor version may change it.
package sdk
