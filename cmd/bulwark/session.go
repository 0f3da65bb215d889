package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/outgoing"
)

// session is who a command speaks as, and to whom: a running dev, found by its
// data folder, or an enrolled profile.
type session struct {
	data, as, profile string

	patience time.Duration // how long an answer may take to begin; zero: [patience]
}

// patience is how long a command waits for an answer to begin.
const patience = 30 * time.Second

// flags adds the flags that every client command has.
func (s *session) flags(f *flag.FlagSet, as string) {
	f.StringVar(&s.data, "data", defaultData, "data folder of a running bulwark dev")
	f.StringVar(&s.as, "as", as, "in dev: who asks, as user@tenant")
	f.StringVar(&s.profile, "profile", os.Getenv("BULWARK_PROFILE"), "who asks: an enrolled profile; without it, dev if it runs, else the profile default")
}

// remote is one server with a way to get tokens for it.
type remote struct {
	api, issuer string
	http        *outgoing.Client
	token       func(ctx context.Context, audience string) (string, error)
	dev         *devState // nil when it is not a dev
}

// open finds the server: the named profile, else a running dev, else the
// default profile.
func (s *session) open() (*remote, error) {
	if s.profile != "" {
		return openProfile(s.profile, s.patience)
	}
	state, err := readState(s.data)
	if err == nil {
		return s.openDev(state)
	}
	if s.data != defaultData || fault.KindOf(err) == fault.Integrity {
		return nil, err
	}
	r, err := openProfile(defaultProfile, s.patience)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Invalid, "whom to ask? No `bulwark dev` keeps its data in "+defaultData+" here: start one, or name its folder with --data"+
			"; or name a profile with --profile ("+profileNames()+")")
	}
	return r, err
}

func openProfile(name string, wait time.Duration) (*remote, error) {
	p, err := readProfile(name)
	if err != nil {
		return nil, err
	}
	client, err := dialFor(p.API, []byte(p.CA), wait)
	if err != nil {
		return nil, err
	}
	return &remote{api: p.API, issuer: p.Issuer, http: client, token: func(ctx context.Context, audience string) (string, error) {
		return p.newToken(ctx, client, audience)
	}}, nil
}

func (s *session) openDev(state *devState) (*remote, error) {
	ca, err := os.ReadFile(state.CA)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "dev's certificate authority cannot be read", err)
	}
	client, err := dialFor(state.API, ca, s.patience)
	if err != nil {
		return nil, err
	}
	return &remote{api: state.API, issuer: state.Issuer, http: client, dev: state, token: func(ctx context.Context, audience string) (string, error) {
		return askSocket(ctx, s.data, socketRequest{As: s.as, Audience: audience})
	}}, nil
}

// dial makes a client that reaches the one server that the person named.
func dial(api string, ca []byte) (*outgoing.Client, error) { return dialFor(api, ca, 0) }

// dialFor is dial for answers that may take longer to begin.
func dialFor(api string, ca []byte, wait time.Duration) (*outgoing.Client, error) {
	u, err := url.Parse(api)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.TrimSuffix(u.Path, "/") != "" {
		return nil, usageError("the API's address must be https://host:port alone")
	}
	cfg := outgoing.Config{Allow: []string{u.Hostname()}, Timeout: cmp.Or(wait, patience)}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		cfg.Allow = []string{netip.PrefixFrom(a, a.BitLen()).String()}
	}
	if len(ca) > 0 {
		if cfg.RootCAs, err = parsePool(ca, "the CA for "+u.Host); err != nil {
			return nil, err
		}
	}
	return outgoing.Operator(cfg)
}

// reachHint says what to do about a server that was not reached, and nothing
// about other errors. It names the host, never the path or the query.
func reachHint(err error) string {
	var at *url.Error
	if !errors.As(err, &at) {
		return ""
	}
	where := "there"
	if u, err := url.Parse(at.URL); err == nil {
		where = "at " + u.Scheme + "://" + u.Host
	}
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var expired x509.CertificateInvalidError
	var lookup *net.DNSError
	switch {
	case errors.As(err, &authority):
		return "the certificate " + where + " is not signed by a CA that this machine trusts; `bulwark enrol --ca FILE` takes the one of `bulwark init`: tls/ca.pem"
	case errors.As(err, &name), errors.As(err, &expired):
		return "the certificate " + where + " is for another name, or not valid now"
	case errors.As(err, &lookup):
		return "the name of the host " + where + " is not known"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens " + where + "; is the server running?"
	case at.Timeout():
		return "no answer came in time " + where
	}
	return "no connection was made " + where
}

// discoverIssuer asks the server what it calls itself.
func discoverIssuer(ctx context.Context, client *outgoing.Client, api string) (string, error) {
	b, err := client.Get(ctx, api+oidc.PathDiscovery, 1<<20)
	var meta struct {
		Issuer string `json:"issuer"`
	}
	if err == nil {
		err = json.Unmarshal(b, &meta)
	}
	if err != nil || meta.Issuer == "" {
		return "", fault.Wrap(fault.Unavailable, "there is no Bulwark API at "+api+"; its port is 8444 if nothing else was configured", err)
	}
	return meta.Issuer, nil
}

// requestToken posts to the token endpoint and returns the access token.
func requestToken(ctx context.Context, client *outgoing.Client, api string, form url.Values) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, api+oidc.PathToken, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "the API's address is not a URL", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := client.Do(req)
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, "the token service does not answer", err)
	}
	defer func() { _ = res.Body.Close() }() // nothing was written; a failed close loses nothing
	var out struct {
		Token       string `json:"access_token"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	switch {
	case err != nil:
		return "", fault.Wrap(fault.Unavailable, "the token service's answer is not readable", err)
	case out.Error != "":
		return "", fault.New(tokenFault(out.Error), "the token was refused: "+out.Error+": "+out.Description)
	case out.Token == "":
		return "", fault.New(fault.Unavailable, "the token service answered without a token")
	}
	return out.Token, nil
}

// tokenFault tells a refusal from a request that says nothing and from a
// server that cannot (RFC 6749 section 5.2, RFC 8693 section 2.2.2).
func tokenFault(code string) fault.Kind {
	switch code {
	case "invalid_request", "unsupported_grant_type", "invalid_scope":
		return fault.Invalid
	case "server_error", "temporarily_unavailable":
		return fault.Unavailable
	}
	return fault.Denied
}

// table prints items in aligned columns.
func table[T any](w io.Writer, head string, items []T, row func(T) []string) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, strings.ReplaceAll(head, " ", "\t"))
	for _, item := range items {
		fmt.Fprintln(tw, strings.Join(row(item), "\t"))
	}
	_ = tw.Flush() // the terminal may be gone
}

// all reads every page of a list.
func all[T any](get func(admin.Paging) (admin.Page[T], error)) ([]T, error) {
	items := []T{} // prints as [] in JSON
	for p := (admin.Paging{Limit: 1000}); ; {
		page, err := get(p)
		if err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Next == "" {
			return items, nil
		}
		p.Cursor = page.Next
	}
}
