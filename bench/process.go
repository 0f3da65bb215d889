package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"
)

// measuredRow is a line of a Go benchmark.
type measuredRow struct {
	name   string
	values map[string]float64 // by unit
}

// benchmark runs benchmarks of a package of the root module.
func benchmark(ctx context.Context, pkg, pattern, length string) ([]measuredRow, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", length, "-timeout", "30m", pkg)
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", pkg, err, out)
	}
	var rows []measuredRow
	in := bufio.NewScanner(bytes.NewReader(out))
	for in.Scan() {
		fields := strings.Fields(in.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		_, name, _ := strings.Cut(fields[0], "/")
		if at := strings.LastIndexByte(name, '-'); at > 0 { // GOMAXPROCS
			name = name[:at]
		}
		r := measuredRow{name, map[string]float64{}}
		for i := 2; i+1 < len(fields); i += 2 {
			if r.values[fields[i+1]], err = strconv.ParseFloat(fields[i], 64); err != nil {
				return nil, err
			}
		}
		rows = append(rows, r)
	}
	return rows, in.Err()
}

// inProcess are the engine's own numbers: string arguments, ids of 36 bytes.
func (d *decisions) inProcess(ctx context.Context) error {
	length := "3s"
	if d.quick {
		length = "500ms"
	}
	rows, err := benchmark(ctx, "./internal/authz", "^BenchmarkDecisions$", length)
	if err != nil {
		return err
	}
	fmt.Printf("\nChecks in process, string arguments, ids of 36 bytes; a warm group set and no writer where the name does not say otherwise; load %s\n", loadAverage())
	tw := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "\tCPU ns\twall ns\tallocations")
	var small, large measuredRow
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%.0f\t%.0f\t%.0f\n", r.name, r.values["cpu-ns/op"], r.values["ns/op"], r.values["allocs/op"])
		if kind, _, _ := strings.Cut(r.name, "/"); kind == "mix" {
			if small.name == "" {
				small = r
			}
			large = r
		}
	}
	_ = tw.Flush() // the terminal may be gone
	cpu := large.values["cpu-ns/op"]
	d.bar("Check in process, "+large.name+" tuples", cpu/1000, " µs", cpu <= 1000, "at most 1")
	d.bar("its allocations", large.values["allocs/op"], "", large.values["allocs/op"] == 0, "none")
	growth := cpu / small.values["cpu-ns/op"]
	d.bar("growth of a Check, "+small.name+" to "+large.name+" tuples", growth, "x", growth <= 2, "at most 2")
	if rows, err = benchmark(ctx, "./internal/policy", "^BenchmarkDecide$", length); err != nil {
		return err
	}
	fmt.Printf("\nGuard policies, 1,000 in force; load %s\n", loadAverage())
	for _, r := range rows {
		var candidates int
		if _, err := fmt.Sscanf(r.name, "candidates=%d", &candidates); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		got, most := r.values["cpu-ns/op"]/1000, 1+float64(candidates)
		d.bar(fmt.Sprintf("guard policies, %d candidates", candidates), got, " µs", got <= most, fmt.Sprintf("at most %.0f", most))
	}
	return nil
}
