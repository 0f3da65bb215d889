package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"bulwark.example/internal/authz"
	"bulwark.example/internal/fault"
	"bulwark.example/internal/relation"
)

// imageEnv names the store for a child process that writes images until it is killed.
const imageEnv = "BULWARK_TEST_IMAGE_CHILD"

const childParts = 6

// imageChild writes image after image, and prints the revision of each that is kept.
func imageChild(told string) {
	path, shard, _ := strings.Cut(told, "\n")
	s, err := Open(context.Background(), Config{Path: path, checkpoint: 50})
	if err != nil {
		fmt.Println("open failed:", err)
		os.Exit(1)
	}
	before, _, err := wholeImage(s, relation.StoreID(shard))
	if err != nil && fault.KindOf(err) != fault.NotFound {
		fmt.Println("load failed:", err)
		os.Exit(1)
	}
	for rev := before + 1; ; rev++ {
		err := s.Images().PutImage(context.Background(), relation.StoreID(shard), rev, func(part func([]byte) error) error {
			for i := range childParts {
				say("part", strconv.Itoa(i))
				if err := part([]byte(fmt.Sprint(rev, strings.Repeat(" ", 20000)))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			fmt.Println("write failed:", err)
			os.Exit(1)
		}
		say("kept", fmt.Sprint(rev))
	}
}

// wholeImage returns the revision of the image, all parts of which must be its own.
func wholeImage(s *Store, shard relation.StoreID) (rev uint64, parts int, err error) {
	_, err = s.Images().LoadImage(context.Background(), shard, func(of uint64, part []byte) error {
		rev = of
		parts++
		if got := strings.TrimSpace(string(part)); got != fmt.Sprint(of) {
			return fault.New(fault.Integrity, "a part of "+got+" in the image of "+fmt.Sprint(of))
		}
		return nil
	}, func(authz.TupleChange) error { return nil })
	return rev, parts, err
}

func (s *Store) number(t *testing.T, query string) (n int) {
	t.Helper()
	if err := s.row(context.Background(), query, nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A process that is killed while it writes an image leaves the one before or that
// one, whole; what it left of another is gone after the next.
func TestKillWhileImaging(t *testing.T) {
	t.Parallel()
	path := place(t)
	s := open(t, Config{Path: path})
	shard := world(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	torn := 0
	for round := range kills() {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), imageEnv+"="+path+"\n"+string(shard))
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kept := uint64(0)
		lines := bufio.NewScanner(pipe)
		for n := 0; lines.Scan(); n++ {
			kind, text, _ := strings.Cut(lines.Text(), "\t")
			switch kind {
			case "part":
			case "kept":
				if kept, err = strconv.ParseUint(text, 10, 64); err != nil {
					t.Error(err)
				}
			default:
				t.Errorf("the child says %q", lines.Text())
			}
			if n == 12+round*5%17 {
				if err := cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
		s := open(t, Config{Path: path})
		rev, parts, err := wholeImage(s, shard)
		if err != nil || rev < kept || parts != childParts {
			t.Fatalf("after kill %d: %d parts of the image of %d, kept was %d: %v", round+1, parts, rev, kept, err)
		}
		if s.number(t, "SELECT count(*) FROM store_image_parts") != childParts {
			torn++
		}
		if round == kills()-1 {
			err := s.Images().PutImage(context.Background(), shard, rev+1, func(part func([]byte) error) error { return part([]byte(fmt.Sprint(rev + 1))) })
			if n := s.number(t, "SELECT count(*) FROM store_image_parts"); err != nil || n != 1 {
				t.Errorf("%d parts are left after the next image: %v", n, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d kills tore an image", torn, kills())
	if torn == 0 {
		t.Error("no kill tore an image")
	}
}

// No transaction holds more of an image than a part, when it is written and when
// it is deleted; and rows that are missing or of another image are found.
func TestImageParts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := open(t, Config{Path: place(t)})
	shard := world(t, s)
	put := func(rev uint64) {
		t.Helper()
		err := s.Images().PutImage(ctx, shard, rev, func(part func([]byte) error) error {
			for range 9 {
				if err := part([]byte(fmt.Sprint(rev))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	before := s.Counters()
	put(0)
	put(1)
	if n := s.Counters().Commits - before.Commits; n < 9+1+9+1+9 { // parts, the row, parts, the row, parts of the first
		t.Errorf("two images of 9 parts came and one went in %d transactions", n)
	}
	if n := s.number(t, "SELECT count(*) FROM store_image_parts"); n != 9 {
		t.Errorf("%d parts are left", n)
	}
	if c := s.Counters(); c.Mutations != before.Mutations {
		t.Error("an image is a mutation")
	}
	for what, damage := range map[string]string{
		"the first part": "DELETE FROM store_image_parts WHERE part = 0",
		"a part":         "DELETE FROM store_image_parts WHERE part = 4",
		"the last part":  "DELETE FROM store_image_parts WHERE part = 8",
		"all parts":      "DELETE FROM store_image_parts",
		"its parts":      "UPDATE store_images SET image = image + 1",
	} {
		if err := s.keep(ctx, func(t *tx) error { _, err := t.exec(damage); return err }); err != nil {
			t.Fatal(err)
		}
		if _, _, err := wholeImage(s, shard); fault.KindOf(err) != fault.Integrity {
			t.Errorf("an image without %s: %v", what, err)
		}
		put(2)
	}
}
