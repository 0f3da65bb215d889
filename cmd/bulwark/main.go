// Command bulwark is the security plane for multi-tenant services.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"bulwark.example/internal/fault"
)

// Exit codes (DESIGN section 5).
const (
	exitOK    = 0 // yes, or done
	exitNo    = 1 // no, or a violation was found
	exitFault = 2 // usage, or something failed
)

// command is one row of the table.
type command struct {
	name    string // "tuple write"
	args    string
	summary string
	run     func(context.Context, *call) error
}

// call is one invocation: what a command reads and where it writes.
type call struct {
	command
	given  []string // the words after the command's name
	json   bool
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// errNo is a command's way to answer no: exit code 1, nothing printed.
var errNo = errors.New("no")

// usageError is answered with exit code 2 and the command's usage line.
type usageError string

func (e usageError) Error() string { return string(e) }

// unanswered is why a yes-or-no question got no answer. Its exit code is never
// that of "no", also where the one who asks was refused.
type unanswered struct{ error }

func (e unanswered) Unwrap() error { return e.error }

func commands() []command {
	return slices.Concat(runCommands(), tokenCommands(), decisionCommands(), policyCommands(), roleCommands(), releaseCommands(), transferCommands(), directoryCommands(), auditCommands())
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	table := commands()
	args, help := wantsHelp(args)
	cmd, rest, ok := find(table, args)
	if !ok {
		return lost(table, args, help, stdout, stderr)
	}
	if help {
		rest = []string{"-h"}
	}
	err := cmd.run(ctx, &call{command: cmd, given: rest, stdin: stdin, stdout: stdout, stderr: stderr})
	return report(stderr, cmd, err)
}

// wantsHelp reads "help ...", and "-h" or "--help" where no command is named
// before it; one that is named reads its own flags.
func wantsHelp(args []string) (rest []string, help bool) {
	switch {
	case len(args) == 0:
		return nil, false
	case args[0] == "help" || isHelp(args[0]):
		return args[1:], true
	case args[0] == "--version" || args[0] == "-version":
		return append([]string{"version"}, args[1:]...), false
	}
	return args, false
}

func isHelp(s string) bool { return s == "-h" || s == "-help" || s == "--help" }

// report says how a command ended and returns the exit code.
func report(stderr io.Writer, cmd command, err error) int {
	var bad usageError
	var question unanswered
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errNo):
		return exitNo
	case errors.As(err, &bad):
		fmt.Fprintf(stderr, "bulwark: %s\nusage: bulwark %s\n", bad, cmd.line())
		return exitFault
	}
	fmt.Fprintf(stderr, "bulwark: %s\n", fault.Public(err))
	kind := fault.KindOf(err)
	if hint := reachHint(err); hint != "" {
		fmt.Fprintf(stderr, "  %s\n", hint)
	} else if kind == fault.Internal {
		fmt.Fprintf(stderr, "  cause: %v\n", err) // the person at the terminal owns the process
	}
	if !errors.As(err, &question) && (kind == fault.Denied || kind == fault.Integrity) {
		return exitNo
	}
	return exitFault
}

// find takes the longest command name that args begin with.
func find(table []command, args []string) (command, []string, bool) {
	for n := min(2, len(args)); n > 0; n-- {
		name := strings.Join(args[:n], " ")
		for _, c := range table {
			if c.name == name {
				return c, args[n:], true
			}
		}
	}
	return command{}, nil, false
}

// lost answers what names no command: everything there is when nothing or only
// help was asked for, a noun's commands when there is such a noun.
func lost(table []command, args []string, help bool, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		if help {
			overview(stdout, table)
			return exitOK
		}
		overview(stderr, table)
		return exitFault
	}
	if len(args) > 1 && isHelp(args[1]) {
		args, help = args[:1], true
	}
	verbs := below(table, args[0])
	switch {
	case len(verbs) > 0 && len(args) == 1 && help:
		rows(stdout, verbs)
		return exitOK
	case len(verbs) > 0 && len(args) == 1:
		fmt.Fprintf(stderr, "bulwark: %s needs one more word:\n", args[0])
		rows(stderr, verbs)
	case len(verbs) > 0:
		fmt.Fprintf(stderr, "bulwark: there is no command %q; there is:\n", strings.Join(args[:2], " "))
		rows(stderr, verbs)
	default:
		fmt.Fprintf(stderr, "bulwark: there is no command %q; `bulwark help` lists them\n", args[0])
	}
	return exitFault
}

// below returns the commands of a noun.
func below(table []command, noun string) (verbs []command) {
	for _, c := range table {
		if strings.HasPrefix(c.name, noun+" ") {
			verbs = append(verbs, c)
		}
	}
	return verbs
}

func overview(w io.Writer, table []command) {
	fmt.Fprint(w, "Bulwark knows, proves and enforces which customer's data every request may touch.\n\nusage: bulwark COMMAND [flags]\n\n")
	rows(w, table)
	fmt.Fprint(w, "\nEvery command takes --json, and -h for its flags. Exit codes: 0 yes or done, 1 no or\nrefused or a violation, 2 usage or failure.\n")
}

func rows(w io.Writer, table []command) {
	for _, c := range table {
		fmt.Fprintf(w, "  %-22s %s\n", c.name, c.summary)
	}
}

// line is the command as it is typed.
func (c command) line() string { return strings.TrimSpace(c.name+" "+c.args) + " [flags]" }

// flags returns the flag set of one command, with the flag that all have.
func (c *call) flags() *flag.FlagSet {
	f := flag.NewFlagSet(c.name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // what is wrong is said once, by report
	f.BoolVar(&c.json, "json", false, "print JSON")
	return f
}

// keyID matches a key's id (RFC 7638, SHA-256 in base64url) that begins like a
// flag, as one in 64 does; no flag is as long.
var keyID = regexp.MustCompile(`^-[A-Za-z0-9_-]{42}$`)

// parse reads flags that may stand before, between or after the arguments;
// after "--" there are arguments alone. A negative most is no bound.
func (c *call) parse(f *flag.FlagSet, least, most int) ([]string, error) {
	var plain []string
	for rest := c.given; len(rest) > 0; {
		if err := f.Parse(rest); errors.Is(err, flag.ErrHelp) {
			c.help(f)
			return nil, err
		} else if err != nil {
			if word := rest[len(rest)-f.NArg()-1]; keyID.MatchString(word) {
				plain, rest = append(plain, word), f.Args()
				continue
			}
			return nil, usageError(strings.Replace(err.Error(), "flag provided but not defined: -", "there is no flag --", 1))
		}
		left := f.Args()
		if n := len(rest) - len(left); n > 0 && rest[n-1] == "--" {
			plain = append(plain, left...)
			break
		}
		if rest = left; len(rest) > 0 {
			plain, rest = append(plain, rest[0]), rest[1:]
		}
	}
	if len(plain) < least || (most >= 0 && len(plain) > most) {
		return nil, usageError(fmt.Sprintf("%s takes %s, not %d", c.name, arguments(least, most), len(plain)))
	}
	return plain, nil
}

func arguments(least, most int) string {
	switch {
	case most == 0:
		return "flags alone and no arguments"
	case least == 1 && most == 1:
		return "one argument"
	case least == most:
		return fmt.Sprint(least, " arguments")
	case most < 0 && least == 1:
		return "one argument or more"
	case most < 0:
		return fmt.Sprint(least, " arguments or more")
	}
	return fmt.Sprint(least, " to ", most, " arguments")
}

// help says what a command does, with its flags.
func (c *call) help(f *flag.FlagSet) {
	fmt.Fprintf(c.stdout, "usage: bulwark %s\n\n%s\n\n", c.line(), c.summary)
	f.VisitAll(func(one *flag.Flag) {
		kind, text := flag.UnquoteUsage(one)
		name := "--" + one.Name
		if len(one.Name) == 1 {
			name = "-" + one.Name
		}
		name += map[string]string{"int": " N", "string": " VALUE", "value": " VALUE"}[kind] // a bool has none
		if !slices.Contains([]string{"", "0", "0s", "false"}, one.DefValue) {
			text += " (without it: " + one.DefValue + ")"
		}
		fmt.Fprintf(c.stdout, "  %-24s %s\n", name, text)
	})
	if more := below(commands(), c.name); len(more) > 0 {
		fmt.Fprintln(c.stdout)
		rows(c.stdout, more)
	}
}

// show prints v as JSON, or lets human print it.
func (c *call) show(v any, human func(io.Writer)) error {
	if c.json {
		enc := json.NewEncoder(c.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	human(c.stdout)
	return nil
}
