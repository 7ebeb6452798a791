package configs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// maxFile is the largest file that is read, in bytes. A configuration is a
// few kilobytes; whatever is larger is some other file.
const maxFile = 1 << 20

// Env is what validation asks of the host. A nil function is not asked, so
// that a file for another machine can be checked here.
type Env struct {
	InterfaceExists func(name string) bool
	FileReadable    func(path string) error // nil error: it can be read
}

// Host is the Env of this machine.
func Host() Env {
	return Env{
		InterfaceExists: func(name string) bool {
			_, err := net.InterfaceByName(name)
			return err == nil
		},
		FileReadable: func(path string) error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			return f.Close()
		},
	}
}

// Load reads, completes and validates the file at path. The error is an
// Errors with everything that is wrong, a line each.
func Load(path string, env Env) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, Errors{{File: path, Msg: explainRead(err), Err: err}}
	}
	return Parse(path, data, env)
}

// readFile reads no more than it takes to see that a file is too large, so
// that a device by mistake does no harm. Pipes are fine.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// explainRead says what to do about a file that could not be read.
func explainRead(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file; give the path of the configuration with -c FILE"
	case errors.Is(err, syscall.EISDIR):
		return "is a directory; give the path of the file in it"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied; run as root or make the file readable"
	}
	return "cannot be read: " + err.Error()
}

// Parse does the work of Load on the text of a file; name is only for the
// messages. Of the host it asks only what env answers. No two calls share
// anything, so it may be called from any goroutine.
func Parse(name string, data []byte, env Env) (*Config, error) {
	r := newReporter(name)
	root := parseYAML(r, data)
	if root == nil {
		return nil, r.err()
	}
	// The walker finds what is wrong with single words, with their lines. The
	// rules about several keys run even if it found something, but only on
	// what is clean, so that one load tells everything.
	w := walker{r: r, left: maxNodes}
	tree, _ := w.structure(root, rawType, "")
	r.endSyntax()
	c, err := build(tree)
	if err != nil {
		r.at("", "decode: %v", err)
		return nil, r.err()
	}
	check(r, c, env)
	if err := r.err(); err != nil {
		return nil, err
	}
	c.Ineffective = ineffective(r, c)
	c.Warnings = warnings(c)
	return c, nil
}

// build lets viper fill the raw structs. The tree has only known keys, and
// none of its values fails to parse, so an error here is a mistake of ours;
// UnmarshalExact is there to notice a key that walker and structs do not
// agree about. A fresh viper each time keeps nothing from the load before.
func build(tree map[string]any) (*Config, error) {
	v := viper.New()
	if err := v.MergeConfigMap(tree); err != nil {
		return nil, fmt.Errorf("merge keys: %w", err)
	}
	var raw rawConfig
	if err := v.UnmarshalExact(&raw, viper.DecodeHook(mapstructure.TextUnmarshallerHookFunc())); err != nil {
		return nil, fmt.Errorf("fill structs: %w", err)
	}
	return raw.config(), nil
}

// parseYAML gives the map at the top of the only document, or nil after
// reporting why there is none.
func parseYAML(r *reporter, data []byte) *yaml.Node {
	if line, why := notText(data); why != "" {
		r.on(line, "", "%s", why)
		return nil
	}
	doc, more, err := decode(data)
	switch {
	case err != nil:
		r.syntaxError(data, err)
	case more != nil:
		r.on(max(more.Line, 1), "", "a second document starts here; a file holds one, remove the ---")
	default:
		return topMap(r, doc)
	}
	return nil
}

// decode gives the first document, and the second if there is one.
func decode(data []byte) (doc, more *yaml.Node, err error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	doc, more = new(yaml.Node), new(yaml.Node)
	if err = dec.Decode(doc); err == nil {
		err = dec.Decode(more)
	}
	// Only the second Decode can end here, or the first with a zero node.
	if errors.Is(err, io.EOF) {
		return doc, nil, nil
	}
	return doc, more, err
}

// topMap unwraps a document. A file of comments alone is as empty as one of
// no bytes.
func topMap(r *reporter, doc *yaml.Node) *yaml.Node {
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		r.at("", "the file is empty; start from configs/smallest.yaml")
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		r.on(root.Line, "", "expected keys such as node: and virtual_ips: at the top, found %s", describe(root))
		return nil
	}
	return root
}

// notText says on which line and why data cannot be a YAML file.
func notText(data []byte) (line int, why string) {
	if len(data) > maxFile {
		return 1, fmt.Sprintf("larger than %d bytes; this is not a configuration", maxFile)
	}
	line = 1
	for i := 0; i < len(data); {
		c, n := utf8.DecodeRune(data[i:])
		if (c == utf8.RuneError && n == 1) || c < ' ' && !strings.ContainsRune("\t\n\r", c) || c == 0x7f {
			return line, fmt.Sprintf("byte 0x%02x is not text; this is not a YAML file in UTF-8", data[i])
		}
		if c == '\n' {
			line++
		}
		i += n
	}
	return 0, ""
}

var (
	yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)
	aboutTab = regexp.MustCompile(`tab character|cannot start any token`)
)

// syntaxError reports an error of the YAML parser.
func (r *reporter) syntaxError(data []byte, err error) {
	msg := err.Error()
	m := yamlLine.FindStringSubmatch(msg)
	line, _ := strconv.Atoi(m[1])
	if len(data) <= maxSearch && bytes.Count(data, []byte("\n")) < maxSearchLines {
		line = firstBadLine(data)
	}
	why := oneLine(msg[len(m[0]):]) + "); check indentation, colons, quotes and brackets"
	if bad := tabbed(data); bad > 0 && aboutTab.MatchString(why) {
		line, why = bad, "tab); indent with spaces"
	}
	r.on(max(line, 1), "", "not valid YAML (%s", why)
}

// The largest text that firstBadLine takes, in bytes and lines; it parses once
// for each line, at worst for about a second.
const (
	maxSearch      = 64 << 10
	maxSearchLines = 1000
)

// firstBadLine finds the line that the parser stumbles over, where the
// parser itself often names the start of the block, or nothing: the one after
// the longest run of lines that is valid by itself.
func firstBadLine(data []byte) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	for n := len(lines) - 1; n > 0; n-- {
		if _, _, err := decode(bytes.Join(lines[:n], nil)); err == nil {
			return min(n+1, lastLine(lines))
		}
	}
	return 1 // not one line is valid
}

// lastLine is the last line with something on it; what is missing at the end
// of the file is reported there.
func lastLine(lines [][]byte) int {
	for n := len(lines); n > 0; n-- {
		if len(bytes.TrimSpace(lines[n-1])) > 0 {
			return n
		}
	}
	return 1
}

// tabbed gives the first line that is indented with a tab, or 0.
func tabbed(data []byte) int {
	for i, text := range bytes.Split(data, []byte("\n")) {
		if rest := bytes.TrimLeft(text, " "); len(rest) > 0 && rest[0] == '\t' {
			return i + 1
		}
	}
	return 0
}

// oneLine keeps a message that quotes the file on one line.
func oneLine(s string) string {
	return strings.Join(strings.Fields(s), " ")
}
