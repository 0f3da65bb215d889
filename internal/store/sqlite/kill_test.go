package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulwark.example/internal/relation"
	"bulwark.example/internal/tenant"
)

// childEnv names the store for a child process that writes until it is killed.
const childEnv = "BULWARK_TEST_STORE_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		child(path)
		return
	}
	if told := os.Getenv(stepEnv); told != "" {
		stepChild(told)
		return
	}
	if told := os.Getenv(imageEnv); told != "" {
		imageChild(told)
		return
	}
	os.Exit(m.Run())
}

// child writes users from several goroutines and prints the id of each that
// was acknowledged.
func child(path string) {
	s, err := Open(context.Background(), Config{Path: path, checkpoint: 50})
	if err != nil {
		fmt.Println("open failed:", err)
		os.Exit(1)
	}
	records, err := s.Directory().LoadDirectory(context.Background())
	if err != nil {
		fmt.Println("load failed:", err)
		os.Exit(1)
	}
	var shard relation.StoreID
	for _, r := range records {
		if r.RecordKind() == "graph" {
			shard = relation.StoreID(r.RecordKey())
		}
	}
	out := make(chan string)
	for range 6 {
		go func() {
			for {
				id := tenant.RandomID()
				if err := addUser(s, shard, id); err != nil {
					out <- "write failed: " + err.Error()
				}
				out <- id
			}
		}()
	}
	for line := range out {
		fmt.Println(line) // one write(2) a line: what the parent reads was acknowledged
	}
}

// kills is how often the child is killed; make soak sets more.
func kills() int {
	if n, err := strconv.Atoi(os.Getenv("BULWARK_TEST_KILLS")); err == nil {
		return n
	}
	return 10
}

// What a killed process acknowledged is there, with its event, and nothing is
// there without.
func TestKill(t *testing.T) {
	t.Parallel()
	path := place(t)
	s := open(t, Config{Path: path})
	world(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]bool{}
	began := time.Now()
	for round := range kills() {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(pipe)
		for n := 0; lines.Scan(); n++ {
			id := strings.TrimSpace(lines.Text())
			if !tenant.ValidID(id) {
				t.Errorf("the child says %q", id)
				break
			}
			acked[id] = true
			if n == 20+round*7%50 {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				// What it still printed before it died was acknowledged too.
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
		s := open(t, Config{Path: path})
		have, err := state(s)
		if err != nil {
			t.Fatalf("after kill %d: %v", round+1, err)
		}
		if n := lost(acked, have); n > 0 {
			t.Fatalf("after kill %d: %d of %d acknowledged changes are lost", round+1, n, len(acked))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledged changes survived %d kills in %v", len(acked), kills(), time.Since(began))
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "bulwark.db.lock")); err != nil {
		t.Error(err)
	}
}
