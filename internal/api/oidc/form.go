package oidc

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"unicode/utf8"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/sts"
	"bulwark.example/internal/web"
)

// form is a request's parameters. Those without a value count as omitted
// (RFC 6749 section 3.2).
type form map[string][]string

func (f form) get(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// bad is a form that is refused before anybody is authenticated.
type bad struct {
	code         sts.Code
	reason, text string
}

// Error returns the public text.
func (b *bad) Error() string { return b.text }

func invalid(reason, text string) error { return &bad{sts.InvalidRequest, reason, text} }

// readForm reads the body of a request strictly. Only what may be repeated is
// (RFC 8693 section 2.1 lets a client name several audiences; sts refuses them
// with the right code). Nothing is read from the URL, where it would reach logs.
func readForm(r *http.Request) (form, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, invalid("form_query", "parameters belong into the body, not into the URL")
	}
	if types := r.Header.Values("Content-Type"); len(types) != 1 || !isForm(types[0]) || len(r.Header.Values("Content-Encoding")) > 0 {
		return nil, invalid("form_type", "the body must be application/x-www-form-urlencoded")
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		var over *http.MaxBytesError
		if errors.As(err, &over) {
			return nil, fault.New(fault.TooLarge, "the body is too large")
		}
		return nil, fault.Wrap(fault.Invalid, "the body did not arrive whole", err)
	}
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, invalid("form_malformed", "the body is not a form")
	}
	f := form{}
	for name, list := range values {
		for _, v := range list {
			if !utf8.ValidString(name) || !utf8.ValidString(v) {
				return nil, invalid("form_malformed", "the body is not a form")
			}
		}
		if len(list) > 1 && name != "audience" && name != "resource" {
			return nil, invalid("form_repeated", "a parameter is repeated")
		}
		if len(list) > 1 || list[0] != "" {
			f[name] = list
		}
	}
	return f, checkMethods(r, f)
}

func isForm(contentType string) bool {
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil || t != "application/x-www-form-urlencoded" {
		return false
	}
	for name, v := range params {
		if name != "charset" || (v != "utf-8" && v != "UTF-8") {
			return false
		}
	}
	return true
}

// checkMethods refuses every way to authenticate but private_key_jwt, and two
// ways at once (RFC 6749 section 2.3).
func checkMethods(r *http.Request, f form) error {
	header := len(web.Authorization(r)) > 0
	secret := len(f["client_secret"]) > 0
	assertion := len(f["client_assertion"]) > 0 || len(f["client_assertion_type"]) > 0
	switch {
	case (header && secret) || (header && assertion) || (secret && assertion):
		return invalid("client_methods", "use one way to authenticate the client")
	case header || secret:
		return &bad{sts.InvalidClient, "client_method", "clients authenticate with private_key_jwt"}
	}
	return nil
}
