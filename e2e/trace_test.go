package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The changes of files that a trace shows.
const (
	opCreate = "create"
	opMkdir  = "mkdir"
	opWrite  = "write"
	opSync   = "sync" // fsync or fdatasync, of a file or of a folder
	opName   = "name" // renamed or linked to the path
	opUnlink = "unlink"
)

// op is one system call that succeeded.
type op struct {
	kind string
	path string
	from string // of opName
}

// tracing follows the system calls of a process and all of its threads with
// ptrace(2), as a debugger does. All calls for it come from one thread.
type tracing struct {
	pid     int
	below   string         // changes elsewhere are left out
	entered map[int]sysArg // by thread: the call that it is in
	ops     []op
	status  syscall.WaitStatus
}

type sysArg struct {
	nr   uint64
	args [6]uint64
	op   op
}

// sysInfo is struct ptrace_syscall_info of <linux/ptrace.h>, the same for all
// processors.
type sysInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	_    [2]uint64 // instruction and stack pointer
	data [8]uint64 // entry: number and arguments; exit: result, is-error
}

const (
	sysEntry = 1
	sysExit  = 2
)

// traced runs the binary under a trace until it ends, and returns what it did
// below dir. started is given the process's id, and is closed at the end.
func traced(t *testing.T, dir string, output *os.File, started chan<- int, args ...string) ([]op, error) {
	type result struct {
		ops []op
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		tr := &tracing{below: dir + "/", entered: map[int]sysArg{}}
		err := tr.run(output, started, args)
		done <- result{tr.ops, err}
	}()
	r := <-done
	return r.ops, r.err
}

func (tr *tracing) run(output *os.File, started chan<- int, args []string) error {
	defer close(started)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	tr.pid, err = syscall.ForkExec(args[0], args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{null.Fd(), output.Fd(), output.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return fmt.Errorf("start under a trace: %w", err)
	}
	if _, err := syscall.Wait4(tr.pid, &tr.status, 0, nil); err != nil {
		return err
	}
	err = syscall.PtraceSetOptions(tr.pid, syscall.PTRACE_O_TRACESYSGOOD|syscall.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL)
	if err != nil {
		return err
	}
	started <- tr.pid
	for next, signal := tr.pid, 0; ; {
		if err := syscall.PtraceSyscall(next, signal); err != nil && err != syscall.ESRCH { // it may be gone
			return err
		}
		// The children of other threads belong to other tests.
		for next, err = 0, syscall.EINTR; err == syscall.EINTR; {
			next, err = syscall.Wait4(-1, &tr.status, unix.WALL|unix.WNOTHREAD, nil)
		}
		if err != nil {
			return err
		}
		signal = 0
		switch s := tr.status; {
		case (s.Exited() || s.Signaled()) && next == tr.pid:
			if s.ExitStatus() != 0 {
				return fmt.Errorf("the process ended with %v", s)
			}
			return nil
		case !s.Stopped():
		case s.StopSignal() == syscall.SIGTRAP|0x80:
			tr.call(next)
		case s.StopSignal() == syscall.SIGTRAP || s.StopSignal() == syscall.SIGSTOP: // a new thread
		default:
			signal = int(s.StopSignal())
		}
	}
}

// call is one stop in front of or behind a system call.
func (tr *tracing) call(tid int) {
	var info sysInfo
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return // the thread is gone
	}
	switch info.op {
	case sysEntry:
		in := sysArg{nr: info.data[0], args: [6]uint64(info.data[1:7])}
		in.op = tr.describe(tid, in)
		tr.entered[tid] = in
	case sysExit:
		in := tr.entered[tid]
		delete(tr.entered, tid)
		failed := info.data[1]&0xff != 0
		if !failed && in.op.kind != "" && strings.HasPrefix(in.op.path+"/", tr.below) {
			tr.ops = append(tr.ops, in.op)
		}
	}
}

// describe names what a call is about to do; the zero op is of no interest.
func (tr *tracing) describe(tid int, in sysArg) op {
	switch in.nr {
	case syscall.SYS_WRITE, syscall.SYS_PWRITE64, syscall.SYS_FTRUNCATE:
		return op{kind: opWrite, path: tr.file(in.args[0])}
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		return op{kind: opSync, path: tr.file(in.args[0])}
	case syscall.SYS_OPENAT:
		if in.args[2]&syscall.O_CREAT != 0 {
			if path := tr.text(tid, in.args[1]); !exists(path) {
				return op{kind: opCreate, path: path}
			}
		}
	case syscall.SYS_MKDIRAT:
		return op{kind: opMkdir, path: tr.text(tid, in.args[1])}
	case syscall.SYS_RENAMEAT, unix.SYS_RENAMEAT2, syscall.SYS_LINKAT:
		return op{kind: opName, from: tr.text(tid, in.args[1]), path: tr.text(tid, in.args[3])}
	case syscall.SYS_UNLINKAT:
		return op{kind: opUnlink, path: tr.text(tid, in.args[1])}
	}
	return op{}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// file is the path of an open file.
func (tr *tracing) file(fd uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tr.pid, int32(fd)))
	if err != nil {
		return "" // a number that is not open
	}
	return path
}

// text reads a path out of the process's memory.
func (tr *tracing) text(tid int, at uint64) string {
	b := make([]byte, 4096)
	n, _ := syscall.PtracePeekData(tid, uintptr(at), b) // less at the end of the mapping
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return filepath.Clean(s)
}
