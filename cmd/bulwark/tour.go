package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// printTour says what to try. e2e runs every line that begins with "$" as it
// is printed.
func printTour(w io.Writer, data string, s *devState) {
	exe := quote(os.Args[0])
	flag := ""
	if data != defaultData {
		flag = " --data " + quote(data)
	}
	curl := "curl -sS --cacert " + quote(s.CA)
	as := func(who string) string {
		return `-H "Authorization: Bearer $(` + exe + ` token --as ` + who + flag + `)"`
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Bulwark dev is ready.\n\n  gateway  %s\n  API      %s\n  gRPC     %s\n  ops      %s\n  data     %s\n\n", s.Gateway, s.API, s.GRPC, s.Ops, data)
	step := func(text string, commands ...string) {
		fmt.Fprintf(&b, "%s\n", text)
		for _, c := range commands {
			fmt.Fprintf(&b, "  $ %s\n", c)
		}
		b.WriteByte('\n')
	}
	doc := s.Gateway + "/documents/roadmap"
	step("Alice owns the folder that the roadmap is in. The upstream shows who it was told she is:",
		curl+" "+as("alice@acme")+" "+doc)
	step("Carol may read it, and not write it (403 with a decision id):",
		curl+" "+as("carol@acme")+" -X PUT -d text "+doc)
	step("For Dave it does not exist, nor for Mallory of another tenant: the same answer as for nothing at all:",
		curl+" "+as("dave@acme")+" "+doc, curl+" "+as("mallory@globex")+" "+doc, curl+" "+as("dave@acme")+" "+s.Gateway+"/documents/nothing")
	step("Why? The path of grants, and the branches that were tried:",
		exe+" explain"+flag+" alice can_view document:roadmap", exe+" explain"+flag+" dave can_view document:roadmap")
	step("A tuple changes the next decision:",
		exe+" tuple write"+flag+" document:roadmap viewer user:@dave", curl+" "+as("dave@acme")+" "+doc, exe+" tuple delete"+flag+" document:roadmap viewer user:@dave")
	step("The service notes got an assertion with Alice's request. It exchanges it for a token that billing alone takes:",
		curl+" "+as("alice@acme")+" "+doc+` | sed -n 's/.*"bulwark_assertion": "\(.*\)".*/\1/p' | `+exe+" token exchange"+flag+" --service notes --audience billing --subject-token -")
	step("All of it is in the audit log, which proves itself:",
		exe+" audit query"+flag+" --as admin@acme --limit 5", exe+" audit verify"+flag)
	b.WriteString("Ctrl-C stops it; the data stays.\n")
	_, _ = io.WriteString(w, b.String()) // the terminal may be gone
}

// quote makes a word safe for a POSIX shell.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$`!*?[](){}<>|&;~#") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
