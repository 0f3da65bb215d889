// Command bulwark is the security plane for multi-tenant services.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
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
	name   string
	args   []string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// errNo is a command's way to answer no: exit code 1, nothing printed.
var errNo = errors.New("no")

// usageError is answered with exit code 2 and the command's usage line.
type usageError string

func (e usageError) Error() string { return string(e) }

func commands() []command {
	return slices.Concat(runCommands(), tokenCommands(), decisionCommands(), directoryCommands(), auditCommands())
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process, so that scripts can test it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	table := commands()
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		usage(stdout, table, "")
		return exitOK
	}
	cmd, rest, ok := find(table, args)
	if !ok {
		fmt.Fprintf(stderr, "bulwark: there is no command %q\n\n", strings.Join(args[:min(2, len(args))], " "))
		usage(stderr, table, args[0])
		return exitFault
	}
	err := cmd.run(ctx, &call{name: cmd.name, args: rest, stdin: stdin, stdout: stdout, stderr: stderr})
	var bad usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errNo):
		return exitNo
	case errors.As(err, &bad):
		fmt.Fprintf(stderr, "bulwark: %s\nusage: bulwark %s %s\n", bad, cmd.name, cmd.args)
		return exitFault
	}
	fmt.Fprintf(stderr, "bulwark: %s\n", fault.Public(err))
	if fault.KindOf(err) == fault.Internal {
		fmt.Fprintf(stderr, "  cause: %v\n", err) // the person at the terminal owns the process
	}
	if k := fault.KindOf(err); k == fault.Denied || k == fault.Integrity {
		return exitNo
	}
	return exitFault
}

// find takes the longest command name that args begin with.
func find(table []command, args []string) (command, []string, bool) {
	for n := min(3, len(args)); n > 0; n-- {
		name := strings.Join(args[:n], " ")
		for _, c := range table {
			if c.name == name {
				return c, args[n:], true
			}
		}
	}
	return command{}, nil, false
}

func usage(w io.Writer, table []command, noun string) {
	fmt.Fprint(w, "Bulwark knows, proves and enforces which customer's data every request may touch.\n\nusage: bulwark COMMAND [flags]\n\n")
	for _, c := range table {
		if noun == "" || strings.HasPrefix(c.name, noun) || !slices.ContainsFunc(table, func(c command) bool { return strings.HasPrefix(c.name, noun) }) {
			fmt.Fprintf(w, "  %-22s %s\n", c.name, c.summary)
		}
	}
	fmt.Fprint(w, "\nEvery command takes --json where it prints data, and -h for its flags.\n")
}

// flags returns the flag set of one command, with its usage text.
func (c *call) flags() *flag.FlagSet {
	f := flag.NewFlagSet("bulwark "+c.name, flag.ContinueOnError)
	f.SetOutput(c.stderr)
	return f
}

// parse reads flags that may stand before, between or after the arguments.
func (c *call) parse(f *flag.FlagSet, least, most int) ([]string, error) {
	var plain []string
	rest := c.args
	for {
		if err := f.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usageError(err.Error())
		}
		rest = f.Args()
		if len(rest) == 0 {
			break
		}
		plain, rest = append(plain, rest[0]), rest[1:]
	}
	if len(plain) < least || (most >= 0 && len(plain) > most) {
		return nil, usageError("the number of arguments is wrong")
	}
	return plain, nil
}
