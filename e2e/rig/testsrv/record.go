package testsrv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Record is what a server with Spec.Record has got on one connection.
type Record struct {
	Bytes []byte
	// End is how the client ended: "fin", "rst", or "" if it did not, or the
	// server did not live to see it.
	End string
}

// Records reads what the server that was started with this Spec.Record has
// written so far, in the order in which it accepted. It may be asked while the
// server runs and after it was killed.
func Records(dir string) (list []Record, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.in"))
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	for _, name := range names { // sorted, by number
		var r Record
		if r.Bytes, err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		end, err := os.ReadFile(strings.TrimSuffix(name, ".in") + ".end")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read record: %w", err)
		}
		r.End = string(end)
		list = append(list, r)
	}
	return list, nil
}

// recorder writes what is read from a connection to a file, as it is read: a
// server that is killed leaves what it had.
type recorder struct {
	in   io.Reader
	file *os.File
	path string // without the suffix
	fin  bool   // seen
}

func newRecorder(dir string, number int, in io.Reader) (*recorder, error) {
	path := filepath.Join(dir, fmt.Sprintf("%08d", number))
	file, err := os.Create(path + ".in")
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return &recorder{in: in, file: file, path: path}, nil
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	if _, werr := r.file.Write(p[:n]); werr != nil {
		return n, fmt.Errorf("record: %w", werr)
	}
	r.fin = r.fin || errors.Is(err, io.EOF)
	return n, err
}

// end notes how the connection ended, and reads first what is left of one that
// was reset.
func (r *recorder) end(handled error) error {
	end := ""
	switch {
	case errors.Is(handled, syscall.ECONNRESET) || errors.Is(handled, syscall.EPIPE):
		_, _ = io.Copy(io.Discard, r) // up to the same error again, or the end
		end = "rst"
	case r.fin:
		end = "fin"
	}
	tmp := r.path + ".new"
	err := errors.Join(r.file.Close(), os.WriteFile(tmp, []byte(end), 0o644))
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return os.Rename(tmp, r.path+".end")
}

// handle runs the handler of a connection, and records the connection if the
// Spec says so.
func (s *Server) handle(h handler, number int, c *net.TCPConn) error {
	if s.spec.Record == "" {
		return h(s, bufio.NewReaderSize(c, MaxLine), c)
	}
	rec, err := newRecorder(s.spec.Record, number, c)
	if err != nil {
		return err
	}
	err = h(s, bufio.NewReaderSize(rec, MaxLine), c)
	return errors.Join(err, rec.end(err))
}
