// Package openfga holds Bulwark to OpenFGA: its exported suites over our gRPC
// port, its SDKs over our HTTP port, both against the built binary.
package openfga

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// counts says how many tests passed, failed and were skipped; a group of cases
// is one more.
type counts struct{ passed, failed, skipped int }

// suites says what each suite comes to: the numbers of OpenFGA v1.22.1, measured
// with these tests against its own server. No answer of a server decides what a
// suite skips, so fewer cases are as wrong as a failed one.
var suites = map[string]counts{
	"TestCheck":             {passed: 1449, skipped: 90},
	"TestCheckMatrix":       {passed: 2221},
	"TestListObjects":       {passed: 1238, skipped: 92},
	"TestListObjectsMatrix": {passed: 207},
	"TestListUsers":         {passed: 1324, skipped: 95},
}

// given names, in the environment of the process that runs the tests, the
// folder of the dev that answers them.
const given = "BULWARK_SUITES_DIR"

// TestMain starts dev, has a second process run the tests, and counts what it
// prints: a test cannot see which of its subtests were skipped, and a suite that
// skips everything passes.
func TestMain(m *testing.M) {
	if dir := os.Getenv(given); dir != "" {
		if bulwark = at(dir); !bulwark.ready() {
			fmt.Fprintln(os.Stderr, "dev does not answer")
			os.Exit(2)
		}
		os.Exit(m.Run())
	}
	flag.Parse()
	if err := conduct(); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// conduct runs the tests and judges them.
func conduct() (err error) {
	dir, err := os.MkdirTemp("", "bulwark-openfga-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := at(dir)
	if err := d.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()

	cmd := exec.Command(os.Args[0], append(os.Args[1:], "-test.v=true")...)
	cmd.Env, cmd.Stderr = append(os.Environ(), given+"="+dir, "SSL_CERT_FILE="+d.CA), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	got, err := count(out, testing.Verbose())
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return err
	}
	if flag.Lookup("test.run").Value.String()+flag.Lookup("test.skip").Value.String() != "" {
		return nil // somebody looks at a part
	}
	return judge(got)
}

// A verbose run says before each line whose it is, and at the end how it went.
var (
	speaker = regexp.MustCompile(`^=== (?:RUN|PAUSE|CONT|NAME) +(\S+)`)
	verdict = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (([^/ ]+)\S*) \(`)
)

// count reads a verbose run and shows it: all of it, or at the end what the
// failed tests said, and what nobody did.
func count(r io.Reader, all bool) (map[string]counts, error) {
	got, said, failed, now := map[string]counts{}, map[string]string{}, map[string]bool{"": true}, ""
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if all {
			fmt.Print(line)
		}
		if m := verdict.FindStringSubmatch(line); m != nil {
			c := got[m[3]]
			switch m[1] {
			case "PASS":
				c.passed++
			case "FAIL":
				c.failed++
				failed[m[2]] = true
			case "SKIP":
				c.skipped++
			}
			got[m[3]] = c
		} else if m := speaker.FindStringSubmatch(line); m != nil {
			now = m[1]
		} else {
			said[now] += line
		}
		if err == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(said)) {
			if !all && failed[name] {
				fmt.Print(name, "\n", said[name])
			}
		}
		if err == io.EOF {
			err = nil
		}
		return got, err
	}
}

// judge refuses a suite that did not come to what it does with OpenFGA, and
// any other test that did not simply pass.
func judge(got map[string]counts) error {
	var wrong []string
	var sum counts
	for name, c := range got {
		want, suite := suites[name]
		if suite {
			sum = counts{sum.passed + c.passed, sum.failed + c.failed, sum.skipped + c.skipped}
		}
		if suite && c != want || !suite && c.failed+c.skipped > 0 {
			wrong = append(wrong, fmt.Sprintf("%s came to %+v, not to %+v", name, c, want))
		}
	}
	for name := range suites {
		if _, ran := got[name]; !ran {
			wrong = append(wrong, name+" did not run")
		}
	}
	fmt.Printf("OpenFGA's suites: %d passed, %d failed, %d skipped\n", sum.passed, sum.failed, sum.skipped)
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	return nil
}
