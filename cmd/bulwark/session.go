package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"bulwark.example/internal/api/admin"
	"bulwark.example/internal/api/oidc"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// session is who a command speaks as, and to whom: a running dev, found by its
// data folder, or an enrolled profile.
type session struct {
	data, as, profile string
	json              bool
}

// sessionFlags adds the flags that every client command has.
func (s *session) flags(f *flag.FlagSet, as string) {
	f.StringVar(&s.data, "data", defaultData, "data folder of a running `bulwark dev`")
	f.StringVar(&s.as, "as", as, "in dev: who asks, as user@tenant")
	f.StringVar(&s.profile, "profile", os.Getenv("BULWARK_PROFILE"), "enrolled profile; empty: dev if it runs, else \"default\"")
	f.BoolVar(&s.json, "json", false, "print JSON")
}

// profile is what enrolment leaves on a person's machine: ~/.config/bulwark/NAME.json, mode 0600.
type profile struct {
	API    string          `json:"api"`
	Issuer string          `json:"issuer"`
	CA     string          `json:"ca,omitempty"` // PEM
	Tenant string          `json:"tenant"`
	User   string          `json:"user"`
	Key    json.RawMessage `json:"key"` // private JWK
}

func profilePath(name string) (string, error) {
	if !validProfile(name) {
		return "", usageError("a profile's name has 1 to 63 characters of a-z 0-9 . _ -")
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "this user has no configuration folder; set HOME or XDG_CONFIG_HOME", err)
	}
	return filepath.Join(dir, "bulwark", name+".json"), nil
}

func validProfile(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == "" && name[0] != '.'
}

func readProfile(name string) (*profile, error) {
	path, err := profilePath(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Invalid, "no `bulwark dev` runs here and there is no profile "+name+"; enrol with `bulwark enrol CODE --api URL`, or name dev's folder with --data")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the profile cannot be read: "+path, err)
	}
	var p profile
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fault.Wrap(fault.Integrity, "the profile is damaged: "+path, err)
	}
	return &p, nil
}

func (p *profile) write(name string) (string, error) {
	path, err := profilePath(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fault.Wrap(fault.Unavailable, "the configuration folder cannot be made", err)
	}
	if _, err := os.Stat(path); err == nil {
		return "", fault.New(fault.Conflict, "the profile "+name+" exists; choose another with --profile")
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return "", fault.Wrap(fault.Internal, "the profile does not encode", err)
	}
	return path, writeDurable(path, append(b, '\n'))
}

// remote is one server with a way to get tokens for it.
type remote struct {
	api   string
	http  *outgoing.Client
	token func(ctx context.Context, audience string) (string, error)
}

// open finds the server: the named profile, else a running dev, else the
// default profile.
func (s *session) open() (*remote, error) {
	if s.profile == "" {
		if state, err := readState(s.data); err == nil {
			return s.openDev(state)
		} else if s.data != defaultData {
			return nil, err
		}
		s.profile = "default"
	}
	p, err := readProfile(s.profile)
	if err != nil {
		return nil, err
	}
	client, err := dial(p.API, []byte(p.CA))
	if err != nil {
		return nil, err
	}
	return &remote{api: p.API, http: client, token: func(ctx context.Context, audience string) (string, error) {
		return p.newToken(ctx, client, audience)
	}}, nil
}

func (s *session) openDev(state *devState) (*remote, error) {
	ca, err := os.ReadFile(state.CA)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "dev's certificate authority cannot be read", err)
	}
	client, err := dial(state.API, ca)
	if err != nil {
		return nil, err
	}
	return &remote{api: state.API, http: client, token: func(ctx context.Context, audience string) (string, error) {
		return askSocket(ctx, s.data, socketRequest{As: s.as, Audience: audience})
	}}, nil
}

// dial makes a client that reaches the one server that the person named.
func dial(api string, ca []byte) (*outgoing.Client, error) {
	u, err := url.Parse(api)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, usageError("the API's address must be https://host:port")
	}
	cfg := outgoing.Config{Allow: []string{u.Hostname()}, Timeout: 30 * time.Second}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		cfg.Allow = []string{netip.PrefixFrom(a, a.BitLen()).String()}
	}
	if len(ca) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(ca) {
			return nil, usageError("the CA file holds no PEM certificate")
		}
	}
	return outgoing.Operator(cfg)
}

// client returns the admin API's client.
func (s *session) client() (*admin.Client, error) {
	r, err := s.open()
	if err != nil {
		return nil, err
	}
	return admin.NewClient(admin.ClientConfig{
		URL: r.api, HTTP: r.http,
		Token: func(ctx context.Context) (string, error) { return r.token(ctx, "admin") },
	}), nil
}

// newToken signs an assertion with the profile's key and gets a token for it
// (RFC 7523 section 2.1).
func (p *profile) newToken(ctx context.Context, client *outgoing.Client, audience string) (string, error) {
	key, err := jose.ParsePrivateKey(secret.New(p.Key))
	if err != nil {
		return "", err
	}
	assertion, err := signAssertion(key, "user:"+p.User, p.Issuer, time.Now())
	if err != nil {
		return "", err
	}
	return requestToken(ctx, client, p.API, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}, "audience": {audience},
	})
}

// signAssertion makes a client's or person's assertion about itself (RFC 7523 section 3).
func signAssertion(key jose.PrivateKey, id, issuer string, now time.Time) (string, error) {
	return jose.Sign(key, "JWT", map[string]any{
		"iss": id, "sub": id, "aud": issuer, "jti": tenant.RandomID(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
}

// discoverIssuer asks the server what it calls itself.
func discoverIssuer(ctx context.Context, client *outgoing.Client, api string) (string, error) {
	b, err := client.Get(ctx, api+oidc.PathDiscovery, 1<<20)
	if err != nil {
		return "", err
	}
	var meta struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(b, &meta); err != nil || meta.Issuer == "" {
		return "", fault.Wrap(fault.Unavailable, "the server does not say who it is", err)
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
		return "", fault.New(fault.Denied, "the token was refused: "+out.Error+": "+out.Description)
	case out.Token == "":
		return "", fault.New(fault.Unavailable, "the token service answered without a token")
	}
	return out.Token, nil
}

// show prints v as JSON, or lets human print it.
func (s *session) show(w io.Writer, v any, human func(io.Writer)) error {
	if s.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	human(w)
	return nil
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
