package bulwark_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// floors orders the house (docs/architecture.md). A package imports only from
// floors below its own, and within its floor only what neighbours allows.
const floors = `
0: tenant principal fault secret relation envelope jose ledger archive
1: schema condition policy route authn authz directory kms kms/local sts audit audit/powerloss guard evidence trial release spicedb
2: store store/sqlite store/sqlite/powervfs store/postgres store/blob store/storetest isolation outgoing transfer
3: guardtest web api/oidc api/openfga api/authzen api/awskms api/extauthz api/admin gateway console
4: config cmd
`

// neighbours lists who may import whom on the same floor: "a < b" lets b import a.
const neighbours = `
fault < secret tenant relation envelope jose principal ledger archive
secret < envelope jose
tenant < principal ledger envelope
jose < principal          # one reader of the claims of our own tokens
relation < ledger archive

schema condition policy < authz
schema authz < trial
authz trial < release
schema < spicedb
directory < authn         # authn asks for connections and revocations in the directory's words (docs/design/0001)
directory kms < sts
kms < kms/local
route authn authz policy sts audit directory < guard   # policy: what the guard verified is said in its words
audit < audit/powerloss   # test support: a disk that forgets what was not synced

store < store/sqlite store/storetest
web < api/oidc api/openfga api/authzen api/awskms api/extauthz api/admin gateway console
config < cmd
`

// fences name the only packages that may import something directly.
var fences = []struct{ pkg, only, why string }{
	{"github.com/go-jose/", "jose api/oidc", "one place decides which algorithms exist"},
	{"github.com/luikyv/go-oidc", "api/oidc", "the protocol engine must stay replaceable"},
	{"github.com/openfga/", "schema api/openfga", "the language's syntax tree must not become ours"},
	{"cel.dev/", "condition", "conditions are bounded in one place"},
	{"github.com/google/cel-go", "condition", "conditions are bounded in one place"},
	{"github.com/cedar-policy/", "policy", "policies are evaluated in one place"},
	{"github.com/authzed/", "spicedb", "SpiceDB's language is read in one place, by its own parser alone"},
	{"google.golang.org/grpc", "api/openfga api/extauthz cmd", "gRPC is a door, not a habit"},
	{"github.com/jackc/pgx", "store/postgres isolation", "SQL lives in the stores"},
	{"modernc.org/", "store/sqlite store/sqlite/powervfs", "SQL lives in the stores"},
	{"database/sql", "store/sqlite store/postgres isolation", "SQL lives in the stores"},
	{"filippo.io/age", "kms/local", "the sealed root file has one reader"},
	{"bulwark.example/internal/store/", "cmd store/storetest guardtest", "engines declare what they need; only the wiring knows a store"},
	{"testing", "store/storetest guardtest", "product code does not test"},
	{"unsafe", "store/sqlite/powervfs", "nothing else needs it"},
}

type listed struct {
	ImportPath string
	Imports    []string
	Dir        string
}

// house lists the packages of the root module by their short names.
func house(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Dir", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]listed{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs[short(p.ImportPath)] = p
	}
	return pkgs
}

func short(path string) string {
	path = strings.TrimPrefix(path, "bulwark.example/")
	if strings.HasPrefix(path, "cmd/") {
		return "cmd"
	}
	return strings.TrimPrefix(path, "internal/")
}

func TestImportsGoDownOnly(t *testing.T) {
	t.Parallel()
	floor := map[string]int{}
	for line := range strings.Lines(strings.TrimSpace(floors)) {
		n, names, _ := strings.Cut(strings.TrimSpace(line), ":")
		for _, name := range strings.Fields(names) {
			floor[name] = int(n[0] - '0')
		}
	}
	allowed := map[string]bool{}
	for line := range strings.Lines(neighbours) {
		line, _, _ = strings.Cut(line, "#")
		below, above, ok := strings.Cut(line, "<")
		if !ok {
			continue
		}
		for _, b := range strings.Fields(below) {
			for _, a := range strings.Fields(above) {
				allowed[a+" "+b] = true
			}
		}
	}
	for name, p := range house(t) {
		if name == "bulwark.example" {
			continue // this folder: the tests of the house itself
		}
		mine, ok := floor[name]
		if !ok {
			t.Errorf("%s is on no floor: the house has no room for it (DESIGN section 4)", name)
			continue
		}
		for _, path := range p.Imports {
			if strings.HasPrefix(path, "bulwark.example/sdk") {
				t.Errorf("%s imports the sdk: users must not inherit our requirements, nor we theirs", name)
			}
			if !strings.HasPrefix(path, "bulwark.example/internal/") {
				continue
			}
			other := short(path)
			theirs := floor[other]
			switch {
			case theirs > mine:
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down only", name, mine, other, theirs)
			case theirs == mine && !allowed[name+" "+other]:
				t.Errorf("%s imports its neighbour %s: not in the lattice above", name, other)
			}
		}
	}
}

func TestFences(t *testing.T) {
	t.Parallel()
	for name, p := range house(t) {
		for _, f := range fences {
			if slices.Contains(strings.Fields(f.only), name) {
				continue
			}
			for _, path := range p.Imports {
				exact := !strings.ContainsAny(f.pkg, "/.") || f.pkg == "database/sql"
				if path == f.pkg || (!exact && strings.HasPrefix(path, f.pkg)) {
					t.Errorf("%s imports %s, which only %s may: %s", name, path, f.only, f.why)
				}
			}
		}
	}
}

// Only two places may open connections, each with its own defence.
func TestOnlyTwoPlacesDial(t *testing.T) {
	t.Parallel()
	dialing := []string{"http.Client{", "http.DefaultClient", "http.DefaultTransport", "http.Get(", "http.Post(", "http.Head(",
		"net.Dial", "net.Dialer{", "tls.Dial", "tls.Dialer{", "http.Transport{"}
	eachFile(t, func(f sourceFile) {
		if !strings.HasPrefix(f.path, "internal/") && !strings.HasPrefix(f.path, "cmd/") {
			return // other modules are other programs
		}
		if f.test || f.pkg == "outgoing" || f.pkg == "gateway" || filepath.Base(f.path) == "socket.go" && f.pkg == "cmd" {
			return // cmd's socket.go speaks to dev's Unix socket, which is no network
		}
		for _, d := range dialing {
			if strings.Contains(f.text, d) {
				t.Errorf("%s has %s: connections are opened in outgoing and by the gateway alone", f.path, d)
			}
		}
	})
}
