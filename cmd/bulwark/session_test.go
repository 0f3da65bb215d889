package main

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/outgoing"
)

// startServer serves TLS and returns a client that trusts it alone.
func startServer(t *testing.T, h http.HandlerFunc) (string, *outgoing.Client) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	client, err := dial(srv.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	if err != nil {
		t.Fatal(err)
	}
	return srv.URL, client
}

func TestRequestToken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		status     int
		token      string
		kind       fault.Kind
		text       string
	}{
		{"a token", `{"access_token":"t"}`, 200, "t", 0, ""},
		{"a refusal", `{"error":"invalid_grant","error_description":"the key is revoked"}`, 400, "", fault.Denied, "the token was refused: invalid_grant: the key is revoked"},
		{"a request that says nothing", `{"error":"invalid_request","error_description":"no audience"}`, 400, "", fault.Invalid, "the token was refused: invalid_request: no audience"},
		{"a server that cannot", `{"error":"server_error","error_description":"the log cannot be written"}`, 503, "", fault.Unavailable, "the token was refused: server_error: the log cannot be written"},
		{"something else", `<html>`, 200, "", fault.Unavailable, "the token service's answer is not readable"},
		{"nothing in it", `{}`, 200, "", fault.Unavailable, "the token service answered without a token"},
	} {
		api, client := startServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != oidc.PathToken || r.PostFormValue("audience") != "gateway" {
				t.Errorf("%s: asked %s", c.name, r.URL.Path)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body)) // the client may be gone
		})
		token, err := requestToken(t.Context(), client, api, url.Values{"audience": {"gateway"}})
		if token != c.token || (err == nil) != (c.text == "") || err != nil && (fault.KindOf(err) != c.kind || fault.Public(err) != c.text) {
			t.Errorf("%s: %q, %v", c.name, token, err)
		}
	}
}

func TestDiscoverIssuer(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{`{"issuer":"https://h:8444"}`: "https://h:8444", `{}`: "", `<html>`: ""} {
		api, client := startServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(body)) // the client may be gone
		})
		got, err := discoverIssuer(t.Context(), client, api)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", body, got, err)
		}
		if err != nil && !strings.Contains(fault.Public(err), "there is no Bulwark API at "+api) {
			t.Errorf("%s: %s", body, fault.Public(err))
		}
	}
}

// A client is for the one server that the person named, by its name alone.
func TestDial(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "localhost:8444", "http://localhost:8444", "https://", "https://user:word@h", "https://h/path", "://"} {
		if _, err := dial(bad, nil); err == nil {
			t.Errorf("dial(%q) is taken", bad)
		}
	}
	if _, err := dial("https://h:8444/", []byte("no PEM")); err == nil || !strings.Contains(fault.Public(err), "no PEM certificate") {
		t.Errorf("a CA that is none: %v", err)
	}
	_, client := startServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	other := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := client.Do(req); err == nil {
		_ = res.Body.Close()
		t.Error("the client reaches another host than the one that was named")
	}
}
