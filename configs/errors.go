package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a configuration file. It prints as
// one line, FILE:LINE: KEY: what is wrong, what to do.
type Error struct {
	File string
	Line int    // from 1; 0 when the file could not be read at all
	Key  string // such as virtual_ips[0].services[1].ports[0]; "" for the file
	Msg  string
	Err  error // the cause, if the operating system gave one; may be nil
}

// Error gives the one line that the operator sees.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Unwrap gives the cause, so that errors.Is(err, fs.ErrNotExist) works.
func (e *Error) Unwrap() error { return e.Err }

// Errors is everything that is wrong with a file, in the order of its lines.
type Errors []*Error

// Error gives one line for each error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single errors to errors.Is and errors.As.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// reporter collects errors and knows the line of every key of the file.
type reporter struct {
	file  string
	lines map[string]int // key path -> line; only what the file itself sets
	order []string       // the same paths in the order of the file
	errs  Errors
	dirty map[string]bool // nil until endSyntax
}

func newReporter(file string) *reporter {
	return &reporter{file: file, lines: map[string]int{"": 1}}
}

// saw notes that the file sets key path on a line.
func (r *reporter) saw(path string, line int) {
	r.lines[path] = line
	r.order = append(r.order, path)
}

// set reports whether the file itself gives a value for the key.
func (r *reporter) set(path string) bool {
	_, ok := r.lines[path]
	return ok
}

// at adds an error about a key. A key that the file does not have is
// reported on the line of what it belongs to.
func (r *reporter) at(path, format string, args ...any) {
	r.on(r.line(path), path, format, args...)
}

// on adds an error about a key on a line of its own.
func (r *reporter) on(line int, path, format string, args ...any) {
	r.errs = append(r.errs, &Error{
		File: r.file, Line: line, Key: path, Msg: fmt.Sprintf(format, args...),
	})
}

func (r *reporter) line(path string) int {
	for {
		if line, ok := r.lines[path]; ok {
			return line
		}
		path = parent(path)
	}
}

// endSyntax marks every key at or above an error as dirty.
func (r *reporter) endSyntax() {
	r.dirty = map[string]bool{}
	for _, e := range r.errs {
		for path := e.Key; !r.dirty[path]; path = parent(path) {
			r.dirty[path] = true
		}
	}
}

// clean reports that no syntax error lies at or below any of the paths. A
// rule that asks this first does not blame the operator for the consequences
// of a mistake that is reported already.
func (r *reporter) clean(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool { return r.dirty[p] })
}

// parent cuts the last key or index off a path; the file's is "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// err gives all that was found in the order of the lines, or nil.
func (r *reporter) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	return r.errs
}
