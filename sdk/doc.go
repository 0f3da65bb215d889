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
// Everything here is safe for concurrent use. The package follows semantic
// versioning from version 1 on; until then a minor version may change it.
package sdk
