// Package outgoing is the two HTTP clients by which Bulwark calls out.
//
// [Operator] reaches what the operator's configuration lists. [Tenant] follows
// URLs that a tenant chose, such as its issuer's, and so is the door through
// which server-side request forgery would come: it reaches public addresses
// alone. Both check the address that is really dialled, after the name was
// resolved, so that a name that changes its mind between a check and its use
// (DNS rebinding) gains nothing.
//
// Both speak TLS 1.3 or newer, follow no redirect, read no proxy from the
// environment, and bound time and size. Without TLS an operator's client speaks
// to this machine at most, and only where it was told to.
package outgoing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"bulwark.example/internal/fault"
)

// Config is what a client needs. The zero Config is the strictest client.
type Config struct {
	// Allow lists what [Operator] may reach: host names (exact, without port)
	// and CIDR prefixes. [Tenant] ignores it.
	Allow []string

	// AllowLoopback lets [Tenant] reach this machine: for dev and tests alone.
	AllowLoopback bool

	// PlainLoopback lets [Operator] speak http to this machine, if Allow lists it:
	// to a server beside this program, or one at the other end of a tunnel.
	PlainLoopback bool

	RootCAs  *x509.CertPool // nil: the system's
	Timeout  time.Duration  // of the whole exchange, body included; 0: 10 s
	Resolver *net.Resolver  // nil: the system's
}

// DefaultTimeout bounds an exchange when [Config.Timeout] is zero.
const DefaultTimeout = 10 * time.Second

// Client fetches documents. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	plain   *http.Client // without TLS; nil: never
	timeout time.Duration
}

// Operator returns a client that reaches what cfg.Allow lists, by name or by
// address, and nothing when it lists nothing. A listed name may be an internal
// host; link-local addresses, where clouds keep credentials, need their CIDR
// listed. The error has kind [fault.Invalid].
func Operator(cfg Config) (*Client, error) {
	var hosts []string
	var nets []netip.Prefix
	for _, entry := range cfg.Allow {
		if strings.Contains(entry, "/") {
			p, err := netip.ParsePrefix(entry)
			if err != nil || p.Addr().Is4In6() {
				return nil, fault.Wrap(fault.Invalid, "an allowed network must be a CIDR prefix, e.g. 10.1.0.0/16", err)
			}
			nets = append(nets, p.Masked())
			continue
		}
		if entry == "" || strings.ContainsAny(entry, ":@ ") {
			return nil, fault.New(fault.Invalid, "an allowed host must be a bare name, without port")
		}
		hosts = append(hosts, strings.ToLower(entry))
	}
	may := func(host string, addr netip.Addr) bool {
		if slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return true
		}
		return slices.Contains(hosts, strings.ToLower(host)) && !never(addr)
	}
	c := newClient(cfg, may)
	if cfg.PlainLoopback {
		// A client of its own: the address that is dialled must be this machine's,
		// whatever its name resolves to.
		c.plain = newClient(cfg, func(host string, addr netip.Addr) bool { return addr.IsLoopback() && may(host, addr) }).http
	}
	return c, nil
}

// Tenant returns a client for URLs that a tenant chose. It reaches public
// unicast addresses alone; see [Public].
func Tenant(cfg Config) *Client {
	return newClient(cfg, func(_ string, addr netip.Addr) bool {
		return Public(addr) || (cfg.AllowLoopback && addr.IsLoopback() && !addr.Is4In6())
	})
}

func newClient(cfg Config, may func(host string, addr netip.Addr) bool) *Client {
	timeout := cfg.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		d := net.Dialer{Timeout: timeout, Resolver: cfg.Resolver}
		// Control runs after the name was resolved and before the connection
		// is made, once for each address that is tried.
		d.Control = func(_, resolved string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(resolved)
			if err != nil || ap.Addr().Zone() != "" || !may(host, ap.Addr()) {
				return errRefused
			}
			return nil
		}
		return d.DialContext(ctx, network, address)
	}
	transport := &http.Transport{
		Proxy:                  nil, // a proxy from the environment would dial in our place
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout:    timeout,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // a small body must not become a large one
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        5 * time.Second, // fetches are rare; discovery and its JWKS share a connection
	}
	return &Client{http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, timeout: timeout}
}

var errRefused = fault.New(fault.Denied, "the address is not one that may be reached")

// Do sends a request that this program made itself, such as a command's to the
// admin API. The caller bounds its time by the request's context, and what it
// reads of the body. Kinds: those of [Client.Get].
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	client := c.http
	if req.URL.Scheme == "http" && c.plain != nil {
		client = c.plain
	} else if req.URL.Scheme != "https" {
		client = nil
	}
	if client == nil || req.URL.User != nil {
		return nil, fault.New(fault.Invalid, "only an https URL without user can be reached")
	}
	res, err := client.Do(req)
	switch {
	case errors.Is(err, errRefused):
		return nil, fault.Wrap(fault.Denied, "the address is not one that may be reached", err)
	case err != nil:
		return nil, fault.Wrap(fault.Unavailable, "the other side does not answer", err)
	}
	return res, nil
}

// Get fetches an https URL and returns its body. Only the status 200 counts;
// the content type is not trusted and not looked at.
//
// Kinds: Invalid for a URL that is not plain https, Denied for an address that
// may not be reached, TooLarge for a body over max bytes, Unavailable for
// everything that the other side or the network did.
func (c *Client) Get(ctx context.Context, rawURL string, max int64) ([]byte, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, fault.New(fault.Invalid, "only an https URL without user and fragment can be fetched")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the URL cannot be fetched", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "bulwark")
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // nothing was written; a failed close loses nothing
	if res.StatusCode != http.StatusOK {
		return nil, fault.Wrap(fault.Unavailable, "the other side gave no document", errors.New(res.Status))
	}
	if res.ContentLength > max {
		return nil, fault.New(fault.TooLarge, "the document is too large")
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, max+1))
	if err == nil {
		// A server that sees us hang up may still end the body in good form
		// before the connection is gone; what came too late is not taken.
		err = ctx.Err()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the document broke off", err)
	}
	if int64(len(body)) > max {
		return nil, fault.New(fault.TooLarge, "the document is too large")
	}
	return body, nil
}
