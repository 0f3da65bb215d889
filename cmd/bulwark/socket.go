package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"bulwark.example/internal/fault"
)

// The token socket is dev's way to hand out tokens: whoever may open a file of
// this user may ask. It exists in dev alone.

type socketRequest struct {
	As       string `json:"as"`
	Audience string `json:"audience"`
}

type socketAnswer struct {
	Token string     `json:"token,omitempty"`
	Error string     `json:"error,omitempty"`
	Kind  fault.Kind `json:"kind,omitempty"`
}

// socketPath is inside the data folder, or, where that path is longer than a
// socket's name may be, in a private folder beside the other temporary files.
func socketPath(data string) string {
	abs, err := filepath.Abs(data)
	if err != nil {
		abs = data
	}
	if path := filepath.Join(abs, "dev", "token.sock"); len(path) < 100 {
		return path
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(os.TempDir(), "bulwark-"+hex.EncodeToString(sum[:8]), "token.sock")
}

// serveSocket answers until ctx ends. mint decides.
func serveSocket(ctx context.Context, data string, mint func(context.Context, socketRequest) (string, error)) (stop func(), err error) {
	path := socketPath(data)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the token socket's folder cannot be made", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Wrap(fault.Unavailable, "an old token socket is in the way: "+path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the token socket cannot be opened", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fault.Wrap(fault.Unavailable, "the token socket cannot be made private", err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go answerSocket(ctx, conn, mint)
		}
	}()
	return func() { _ = l.Close() }, nil
}

func answerSocket(ctx context.Context, conn net.Conn, mint func(context.Context, socketRequest) (string, error)) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a conn of the net package always takes one
	line, err := bufio.NewReaderSize(conn, 4096).ReadSlice('\n')
	if err != nil {
		return
	}
	var req socketRequest
	var ans socketAnswer
	if err := json.Unmarshal(line, &req); err != nil {
		ans.Error, ans.Kind = "the request is not JSON", fault.Invalid
	} else if token, err := mint(ctx, req); err != nil {
		ans.Error, ans.Kind = fault.Public(err), fault.KindOf(err)
	} else {
		ans.Token = token
	}
	_ = json.NewEncoder(conn).Encode(ans) // the asker may be gone
}

// refuseSecondDev refuses to start beside a dev that runs over the same data,
// before anything of the running one is touched. The store's lock would refuse
// later.
func refuseSecondDev(ctx context.Context, data string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socketPath(data))
	if err != nil {
		return nil // nobody answers: none runs, or it was killed
	}
	_ = conn.Close() // nothing was sent
	return fault.New(fault.Conflict, "a `bulwark dev` runs over "+data+" already; end it first, or name another folder with --data")
}

// askSocket gets a token from the dev process over the data folder.
func askSocket(ctx context.Context, data string, req socketRequest) (string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socketPath(data))
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, "no `bulwark dev` is running over "+data+"; start it, or name its folder with --data", err)
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return "", fault.Wrap(fault.Unavailable, "the dev process does not answer", err)
	}
	var ans socketAnswer
	if err := json.NewDecoder(conn).Decode(&ans); err != nil {
		return "", fault.Wrap(fault.Unavailable, "the dev process does not answer", err)
	}
	if ans.Error != "" {
		return "", fault.New(ans.Kind, ans.Error)
	}
	return ans.Token, nil
}
