package lab

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// wrap adds what was being done to an error, and nothing to no error.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

// newReader returns nil, which is /dev/null for a command, for no input.
func newReader(s string) io.Reader {
	if s == "" {
		return nil
	}
	return strings.NewReader(s)
}

// tail returns at most the last max bytes of a file, and why not if it can't.
func tail(path string, max int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > max {
		_, _ = f.Seek(-max, io.SeekEnd) // a regular file
	}
	b, err := io.ReadAll(io.LimitReader(f, max))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
