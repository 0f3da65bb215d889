package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bulwark.example/internal/fault"
	"bulwark.example/internal/jose"
	"bulwark.example/internal/outgoing"
	"bulwark.example/internal/secret"
	"bulwark.example/internal/tenant"
)

// profile is what enrolment leaves on a person's machine: ~/.config/bulwark/NAME.json, mode 0600.
type profile struct {
	API    string          `json:"api"`
	Issuer string          `json:"issuer"`
	CA     string          `json:"ca,omitempty"` // PEM
	Tenant string          `json:"tenant"`
	User   string          `json:"user"`
	Key    json.RawMessage `json:"key"` // private JWK
}

const defaultProfile = "default"

func profilePath(name string) (string, error) {
	if !validProfile(name) {
		return "", usageError("a profile's name has 1 to 63 characters of a-z 0-9 . _ -")
	}
	dir, err := profileDir()
	return filepath.Join(dir, name+".json"), err
}

func profileDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fault.Wrap(fault.Invalid, "this user has no configuration folder; set HOME or XDG_CONFIG_HOME", err)
	}
	return filepath.Join(dir, "bulwark"), nil
}

// profileNames lists what --profile can name, for a message.
func profileNames() string {
	dir, err := profileDir()
	if err != nil {
		return "there is none"
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		return "there is none yet: `bulwark enrol` makes one"
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".json"))
	}
	return "there is " + strings.Join(names, ", ")
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
		return nil, fault.Wrap(fault.Invalid, "there is no profile "+name+" ("+profileNames()+")", err)
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

// unusedProfile returns where the profile will be, and refuses one that is there.
func unusedProfile(name string) (string, error) {
	path, err := profilePath(name)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", fault.New(fault.Conflict, "the profile "+name+" exists; choose another name with --profile, or remove "+path)
	}
	return path, nil
}

func (p *profile) write(name string) (string, error) {
	path, err := unusedProfile(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fault.Wrap(fault.Unavailable, "the configuration folder cannot be made: "+filepath.Dir(path), err)
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return "", fault.Wrap(fault.Internal, "the profile does not encode", err)
	}
	return path, writeDurable(path, append(b, '\n'))
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
