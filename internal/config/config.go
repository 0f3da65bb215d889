// Package config is the operator's file: one strict struct, checked before anything starts.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"bulwark.example/internal/fault"
)

// Version is the form of the file that Parse reads. A later one reads the
// earlier ones too; testdata holds a file of each.
const Version = 1

// Config is everything that `bulwark serve` is told. docs/operate/config.yaml
// documents each key. Paths are relative to the file's own folder.
type Config struct {
	Version     int                 `yaml:"version"`
	Env         string              `yaml:"env"`
	Issuer      string              `yaml:"issuer"`
	Data        string              `yaml:"data"`
	Listen      Listen              `yaml:"listen"`
	TLS         TLS                 `yaml:"tls"`
	Root        Root                `yaml:"root"`
	Application string              `yaml:"application"`
	Upstreams   map[string]Upstream `yaml:"upstreams"`
	Routes      []Route             `yaml:"routes"`
	Audit       Audit               `yaml:"audit"`
	Outgoing    Outgoing            `yaml:"outgoing"`
	Tokens      Tokens              `yaml:"tokens"`
	Limits      Limits              `yaml:"limits"`
}

// Listen holds host:port of each listener. Empty keeps the default on loopback.
type Listen struct {
	Gateway string `yaml:"gateway"`
	API     string `yaml:"api"`
	GRPC    string `yaml:"grpc"`
	Ops     string `yaml:"ops"`
}

// TLS holds the certificate chain and key, PEM files, of each listener.
type TLS struct {
	Gateway KeyPair `yaml:"gateway"`
	API     KeyPair `yaml:"api"` // also gRPC and ops
}

// KeyPair names two PEM files.
type KeyPair struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Root says where the sealed root key is and where its passphrase comes from:
// exactly one of FD, Credential and File.
type Root struct {
	File       string `yaml:"file"`
	FD         int    `yaml:"passphrase_fd"`
	Credential string `yaml:"passphrase_credential"` // systemd LoadCredential= name
	Passphrase string `yaml:"passphrase_file"`       // outside data, readable by the owner alone
}

// Upstream is a service behind the gateway.
type Upstream struct {
	URL        string     `yaml:"url"`
	Service    string     `yaml:"service"` // id or alias of the platform's service: the assertion's audience
	CA         string     `yaml:"ca"`      // PEM file; empty: the system's roots
	ClientCert string     `yaml:"client_cert"`
	ClientKey  string     `yaml:"client_key"`
	Plaintext  *Plaintext `yaml:"plaintext"`
}

// Plaintext excuses an upstream from TLS until a date (DESIGN rule 9).
type Plaintext struct {
	Reason string    `yaml:"reason"`
	Until  time.Time `yaml:"until"`
}

// Route says who may reach what.
type Route struct {
	ID       string   `yaml:"id"`
	Hosts    []string `yaml:"hosts"`
	Methods  []string `yaml:"methods"`
	Path     string   `yaml:"path"`
	Upstream string   `yaml:"upstream"`
	Require  *Require `yaml:"require"`
	Explain  bool     `yaml:"explain"`
	Timeout  Duration `yaml:"timeout"`
	MaxBody  Size     `yaml:"max_body"`
}

// Require is the relation that a route asks for.
type Require struct {
	Relation string `yaml:"relation"`
	Object   string `yaml:"object"`  // "document:{id}"
	Visible  string `yaml:"visible"` // relation that lets a refusal say 403 instead of 404
}

// Audit bounds the log's disk use by class group.
type Audit struct {
	MaxAllow  Size `yaml:"max_allow"`
	MaxReject Size `yaml:"max_reject"`
}

// Outgoing says which hosts Bulwark itself may call for the operator.
type Outgoing struct {
	Allow []string `yaml:"allow"`
	CA    string   `yaml:"ca"`
	// AllowLoopback lets connections fetch keys from this machine. For tests
	// and for an identity provider on the same host.
	AllowLoopback bool `yaml:"allow_loopback"`
}

// Tokens holds the times of signing keys.
type Tokens struct {
	KeyLife    Duration `yaml:"key_life"`
	KeyOverlap Duration `yaml:"key_overlap"`
}

// Limits bounds what decisions cost. Zero is the default.
type Limits struct {
	Memory     Size `yaml:"memory"`      // of stores in memory; without it no bound
	Tuples     int  `yaml:"tuples"`      // of a tenant, in all its stores together
	FreeStores int  `yaml:"free_stores"` // of a tenant
	Proposals  int  `yaml:"proposals"`   // of a tenant: versions of an application's model
}

// DefaultTuples is how many tuples a tenant may have if nothing else is said.
const DefaultTuples = 10_000_000

// ParseRoutes reads a list of routes, in YAML or JSON, as the key routes has it.
// The error has kind [fault.Invalid]. Whether upstreams exist is not looked at.
func ParseRoutes(text []byte) ([]Route, error) {
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c.Routes); err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.Wrap(fault.Invalid, "the routes are not like [{id: read, methods: [GET], path: /documents/{id}, upstream: notes}]: "+
			strings.Join(strings.Fields(err.Error()), " "), err)
	}
	if list := c.routeProblems(nil); len(list) > 0 {
		return nil, fault.New(fault.Invalid, strings.Join(list, "; "))
	}
	return c.Routes, nil
}

// Duration reads "30s", "5m" and the like.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: %q is not a duration like 30s or 5m", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// Size reads "512KiB", "1MiB", "10GiB" or a number of bytes.
type Size int64

var sizePattern = regexp.MustCompile(`^([0-9]{1,12})(B|KiB|MiB|GiB)?$`)

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	m := sizePattern.FindStringSubmatch(n.Value)
	if m == nil {
		return fmt.Errorf("line %d: %q is not a size like 512KiB or 1MiB", n.Line, n.Value)
	}
	v, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return fmt.Errorf("line %d: %q is too large", n.Line, n.Value)
	}
	shift := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[m[2]]
	if v > (1<<62)>>shift {
		return fmt.Errorf("line %d: %q is too large", n.Line, n.Value)
	}
	*s = Size(v << shift)
	return nil
}

const maxFile = 4 << 20

// Load reads the file strictly, fills in defaults and checks it. An error has
// kind [fault.Invalid] and names every problem, each with its key or line.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, "the config file cannot be read: "+path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(text) > maxFile {
		return nil, fault.Wrap(fault.Invalid, "the config file cannot be read, or is over 4 MiB: "+path, err)
	}
	return Parse(text, filepath.Dir(path))
}

// Parse reads the text as [Load] does; dir is what relative paths start from.
func Parse(text []byte, dir string) (*Config, error) {
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		return nil, fault.New(fault.Invalid, "config: "+strings.Join(unreadable(err), "\nconfig: "))
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Invalid, "config: the file must hold one document")
	}
	c.complete(dir)
	if problems := c.problems(); len(problems) > 0 {
		return nil, fault.New(fault.Invalid, "config: "+strings.Join(problems, "\nconfig: "))
	}
	return &c, nil
}

var unknownKey = regexp.MustCompile(`field (\S+) not found in type config\.\S+`)

// unreadable says in the file's words what the decoder says in Go's, a line each.
func unreadable(err error) []string {
	var types *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		return []string{"the file is empty"}
	case !errors.As(err, &types):
		return []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	lines := make([]string, len(types.Errors))
	for i, line := range types.Errors {
		lines[i] = unknownKey.ReplaceAllString(line, "there is no key $1 here; docs/operate/config.yaml has all of them")
	}
	return lines
}

// Defaults of Listen, all on loopback (DESIGN section 5).
const (
	DefaultGateway = "127.0.0.1:8443"
	DefaultAPI     = "127.0.0.1:8444"
	DefaultOps     = "127.0.0.1:8445"
	DefaultGRPC    = "127.0.0.1:8446"
)

func (c *Config) complete(dir string) {
	orElse := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	orElse(&c.Listen.Gateway, DefaultGateway)
	orElse(&c.Listen.API, DefaultAPI)
	orElse(&c.Listen.Ops, DefaultOps)
	orElse(&c.Listen.GRPC, DefaultGRPC)
	orElse(&c.Application, "app")
	if c.Data != "" {
		orElse(&c.Root.File, filepath.Join(c.Data, "root.sealed"))
	}
	abs := func(s *string) {
		if *s != "" && !filepath.IsAbs(*s) {
			*s = filepath.Join(dir, *s)
		}
	}
	for _, p := range []*string{&c.Data, &c.TLS.Gateway.Cert, &c.TLS.Gateway.Key, &c.TLS.API.Cert, &c.TLS.API.Key, &c.Root.File, &c.Root.Passphrase, &c.Outgoing.CA} {
		abs(p)
	}
	for name, u := range c.Upstreams {
		abs(&u.CA)
		abs(&u.ClientCert)
		abs(&u.ClientKey)
		c.Upstreams[name] = u
	}
}

var envPattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// problems lists what is wrong, each as "key: what to do".
func (c *Config) problems() (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if c.Version != Version {
		add("version: write `version: %d`, the form of this file that this bulwark reads", Version)
	}
	if !envPattern.MatchString(c.Env) || c.Env == "dev" {
		add("env: name the environment with 1 to 16 of a-z 0-9, e.g. prod; dev is sealed for `bulwark dev`")
	}
	if !httpsURL(c.Issuer) {
		add("issuer: give the https URL at which the API port is reached, without a path, query or slash at the end")
	}
	if c.Data == "" {
		add("data: name the folder that Bulwark keeps its data in")
	}
	for key, addr := range map[string]string{"gateway": c.Listen.Gateway, "api": c.Listen.API, "grpc": c.Listen.GRPC, "ops": c.Listen.Ops} {
		if _, err := netip.ParseAddrPort(addr); err != nil {
			add("listen.%s: %q is not address:port, e.g. 127.0.0.1:8443 or [::]:443", key, addr)
		}
	}
	for key, p := range map[string]KeyPair{"gateway": c.TLS.Gateway, "api": c.TLS.API} {
		if p.Cert == "" || p.Key == "" {
			add("tls.%s: needs cert and key, two PEM files", key)
		}
	}
	sources := 0
	for _, given := range []bool{c.Root.FD != 0, c.Root.Credential != "", c.Root.Passphrase != ""} {
		if given {
			sources++
		}
	}
	if sources != 1 || c.Root.FD < 0 {
		add("root: give exactly one of passphrase_fd (3 or more), passphrase_credential, passphrase_file")
	}
	for key, n := range map[string]int{"tuples": c.Limits.Tuples, "free_stores": c.Limits.FreeStores, "proposals": c.Limits.Proposals} {
		if n < 0 {
			add("limits.%s: %d is not a number from 1; leave the key out for the default", key, n)
		}
	}
	for name, u := range c.Upstreams {
		list = append(list, u.problems(name)...)
	}
	list = append(list, c.routeProblems(c.Upstreams)...)
	slices.Sort(list)
	return list
}

func (u Upstream) problems(name string) (list []string) {
	add := func(format string, args ...any) {
		list = append(list, "upstreams."+name+": "+fmt.Sprintf(format, args...))
	}
	if u.Service == "" {
		add("name the service that it is, by id or alias; the assertion is addressed to it")
	}
	if (u.ClientCert == "") != (u.ClientKey == "") {
		add("client_cert and client_key go together")
	}
	parsed, err := url.Parse(u.URL)
	if err != nil || parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" || (parsed.Path != "" && parsed.Path != "/") {
		add("url must be scheme://host:port alone")
		return list
	}
	switch {
	case parsed.Scheme == "https":
		if u.Plaintext != nil {
			add("plaintext is for http URLs; remove it")
		}
	case parsed.Scheme != "http":
		add("url must be https")
	case u.Plaintext == nil && !loopback(parsed.Hostname()):
		add("http off loopback needs plaintext: {reason, until}, and should be https")
	case u.Plaintext != nil && (u.Plaintext.Reason == "" || u.Plaintext.Until.IsZero()):
		add("plaintext needs a reason and a date until which it is excused")
	}
	return list
}

// routeProblems looks at the routes, which go to one of the upstreams; nil: those
// are not known here.
func (c *Config) routeProblems(upstreams map[string]Upstream) (list []string) {
	seen := map[string]bool{}
	for i, r := range c.Routes {
		name := r.ID
		if name == "" {
			name = "#" + strconv.Itoa(i+1)
		}
		add := func(what string) { list = append(list, "routes."+name+": "+what) }
		if r.ID == "" || seen[r.ID] {
			add("needs an id of its own")
		}
		seen[r.ID] = true
		if _, ok := upstreams[r.Upstream]; !ok && upstreams != nil {
			add("upstream " + strconv.Quote(r.Upstream) + " is not listed under upstreams")
		}
		if r.Require != nil && (r.Require.Relation == "" || r.Require.Object == "") {
			add("require needs a relation and an object, e.g. can_view and document:{id}")
		}
	}
	return list
}

func httpsURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && !strings.HasSuffix(s, "?") && !strings.HasSuffix(s, "#")
}

// loopback is about literal addresses and the reserved name only: what a name
// resolves to is checked when the connection is opened.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
