package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// eachFile reads every regular file below dir.
func eachFile(t testing.TB, dir string, do func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		do(path, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// treeDigest is one hash over all names and contents, lock files and the
// database's shared memory left out: they hold nothing.
func treeDigest(t testing.TB, dir string) string {
	t.Helper()
	h := sha256.New()
	eachFile(t, dir, func(path string, content []byte) {
		if ext := filepath.Ext(path); ext == ".lock" || filepath.Base(path) == "lock" || filepath.Base(path) == "bulwark.db-shm" {
			return
		}
		sum := sha256.Sum256(content)
		h.Write([]byte(path))
		h.Write(sum[:])
	})
	return hex.EncodeToString(h.Sum(nil))
}

func rawBase64(t testing.TB, s string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// copyTree copies a folder, with the modes of its files, so that a test can
// damage the copy.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return os.Chmod(to+strings.TrimPrefix(path, from), info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}
