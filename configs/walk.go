package configs

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds the work on one file: aliases of aliases can make a few
// lines stand for billions of values.
const maxNodes = 100_000

// maxAlias is how deep merge keys may nest; a map may even merge itself.
const maxAlias = 16

// A walker follows the YAML tree and the raw structs side by side. It
// reports every syntax error with its line, notes the line of every key, and
// gives the values, defaults filled in, as a tree for viper.
type walker struct {
	r    *reporter
	left int // nodes that may still be visited
}

// entry is a key of a map with its value.
type entry struct{ key, value *yaml.Node }

// value checks node n against a field of type t. Not ok means that an error
// was reported and there is no value.
func (w *walker) value(n *yaml.Node, t reflect.Type, tag reflect.StructTag, path string) (any, bool) {
	n = resolve(n)
	if w.left--; w.left <= 0 {
		if w.left == 0 {
			w.r.on(max(n.Line, 1), "", "more than %d values; use fewer aliases", maxNodes)
		}
		return nil, false
	}
	if isNull(n) {
		w.r.at(path, "has no value; give one or remove the key")
		return nil, false
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == timingType && n.Kind == yaml.ScalarNode:
		return w.timing(n, path)
	case isScalar(t):
		return w.scalar(n, t, tag, path)
	case t.Kind() == reflect.Slice:
		return w.list(n, t.Elem(), tag, path)
	}
	return w.structure(n, t, path)
}

// structure checks a map; n is nil for one that the file does not have and
// that consists of defaults.
func (w *walker) structure(n *yaml.Node, t reflect.Type, path string) (map[string]any, bool) {
	if n != nil && n.Kind != yaml.MappingNode {
		w.r.at(path, "expected a map with the keys %s, found %s", strings.Join(keys(t), ", "), describe(n))
		return nil, false
	}
	out, seen := map[string]any{}, map[string]bool{}
	for _, e := range w.entries(n, path) {
		key, sub := e.key.Value, join(path, e.key.Value)
		f, ok := field(t, key)
		if !ok {
			w.unknown(e.key, t, path)
			continue
		}
		seen[key] = true
		w.r.saw(sub, e.key.Line)
		if v, ok := w.value(e.value, f.Type, f.Tag, sub); ok {
			out[key] = v
		}
	}
	for f := range t.Fields() {
		if key := keyOf(f); !seen[key] {
			w.missing(out, f, join(path, key))
		}
	}
	return out, true
}

// missing fills in what the file does not have.
func (w *walker) missing(out map[string]any, f reflect.StructField, path string) {
	def, hasDefault := f.Tag.Lookup("default")
	switch {
	case f.Type == timingType:
		out[keyOf(f)] = maps.Clone(timings[def])
	case hasDefault:
		out[keyOf(f)] = def
	case f.Tag.Get("need") != "":
		w.r.at(path, "is missing; give %s", f.Tag.Get("need"))
	case f.Type.Kind() == reflect.Struct:
		out[keyOf(f)], _ = w.structure(nil, f.Type, path)
	}
}

// list checks every item. A bad item keeps its place if it is a map, so that
// the indices of the others stay true.
func (w *walker) list(n *yaml.Node, elem reflect.Type, tag reflect.StructTag, path string) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		w.r.at(path, "expected a list, found %s%s", describe(n), listHint(n))
		return nil, false
	}
	if need := tag.Get("need"); need != "" && len(n.Content) == 0 {
		w.r.at(path, "is empty; give %s", need)
	}
	out := []any{}
	for i, item := range n.Content {
		sub := fmt.Sprintf("%s[%d]", path, i)
		w.r.saw(sub, item.Line)
		v, ok := w.value(item, elem, "", sub)
		switch {
		case ok:
			out = append(out, v)
		case !isScalar(elem):
			out = append(out, map[string]any{})
		}
	}
	return out, true
}

// listHint is for a single value that stands without its brackets.
func listHint(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && plainKey.MatchString(n.Value) {
		return fmt.Sprintf("; write [%s]", n.Value)
	}
	return ""
}

// timing checks a timing that is given by its name. It gives a copy of the
// preset, since viper writes to what it is given.
func (w *walker) timing(n *yaml.Node, path string) (any, bool) {
	preset, ok := timings[n.Value]
	if !ok {
		w.r.at(path, "expected fast, lan, wan or {heartbeat: 200ms, lease: 1s}, found %s", describe(n))
		return nil, false
	}
	return maps.Clone(preset), true
}

// entries gives the keys of a map, its own first, then those that it merges
// (<<) and does not have itself.
func (w *walker) entries(n *yaml.Node, path string) []entry {
	if n == nil {
		return nil
	}
	seen := map[string]*yaml.Node{}
	return w.collect(n, path, seen, 0)
}

// collect is entries for one map at a depth of merging; seen has the keys so
// far. Only within one map (depth 0) is a key that comes twice a mistake: to
// overrule what is merged is the use of merging.
func (w *walker) collect(n *yaml.Node, path string, seen map[string]*yaml.Node, depth int) (out []entry) {
	var merges []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		e := entry{n.Content[i], n.Content[i+1]}
		first := seen[e.key.Value]
		switch {
		case e.key.ShortTag() == "!!merge":
			merges = append(merges, e)
		case e.key.Kind != yaml.ScalarNode:
			w.r.on(e.key.Line, path, "expected a word as key, found %s; quote values that contain { or [", describe(resolve(e.key)))
		case first == nil:
			seen[e.key.Value] = e.key
			out = append(out, e)
		case depth == 0:
			w.r.on(e.key.Line, join(path, show(e.key.Value)), "given twice (first on line %d); keep one", first.Line)
		}
	}
	for _, m := range merges {
		out = append(out, w.merged(m, path, seen, depth+1)...)
	}
	return out
}

// merged gives what one merge key adds: a map or a list of maps.
func (w *walker) merged(m entry, path string, seen map[string]*yaml.Node, depth int) (out []entry) {
	v := resolve(m.value)
	maps := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		maps = v.Content
	}
	for _, n := range maps {
		n = resolve(n)
		if w.left--; n.Kind != yaml.MappingNode || depth > maxAlias || w.left <= 0 {
			w.r.on(m.key.Line, path, "expected << to merge a map that does not contain itself, found %s", describe(n))
			return out
		}
		out = append(out, w.collect(n, path, seen, depth)...)
	}
	return out
}

// unknown names the key that was probably meant.
func (w *walker) unknown(key *yaml.Node, t reflect.Type, path string) {
	known := keys(t)
	what := "known here: " + strings.Join(known, ", ")
	if near := nearest(key.Value, known); near != "" {
		what = "did you mean " + near + "?"
	}
	w.r.on(key.Line, join(path, show(key.Value)), "unknown key; %s", what)
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// show keeps a key that is not a plain word on one line.
func show(key string) string {
	if plainKey.MatchString(key) {
		return key
	}
	return quote(key)
}

// scalar checks one word.
func (w *walker) scalar(n *yaml.Node, t reflect.Type, tag reflect.StructTag, path string) (any, bool) {
	v, why := parseScalar(n, t, tag)
	if why == "" {
		why = outOfRange(v, n.Value, t, tag)
	}
	if why != "" {
		w.r.at(path, "%s", why)
		return nil, false
	}
	return v, true
}

// parseScalar gives the value for viper or what is wrong with it.
func parseScalar(n *yaml.Node, t reflect.Type, tag reflect.StructTag) (v any, why string) {
	isStr := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str"
	isInt := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int"
	switch s, oneof := asScalar(t), tag.Get("oneof"); {
	case s != nil:
		_, num := s.(numeric)
		if !isStr && (!isInt || !num) {
			return nil, wrong(s.wants(), n) + hintFor(s, n)
		}
		if err := s.UnmarshalText([]byte(n.Value)); err != nil {
			return nil, err.Error()
		}
		return n.Value, ""
	case oneof != "":
		if !isStr || !slices.Contains(strings.Fields(oneof), n.Value) {
			return nil, wrong(strings.ReplaceAll(oneof, " ", " or "), n)
		}
		return n.Value, ""
	case t.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if n.ShortTag() != "!!bool" || err != nil {
			return nil, wrong("true or false", n)
		}
		return b, ""
	case t.Kind() == reflect.Int:
		i, err := strconv.ParseInt(n.Value, 0, 32)
		if !isInt || err != nil {
			return nil, wrong("a whole number", n)
		}
		return int(i), ""
	case !isStr:
		return nil, wrong("a string", n) + quoteHint(n)
	}
	return n.Value, ""
}

// wrong is the message for a node that is not what is wanted.
func wrong(wants string, n *yaml.Node) string {
	return fmt.Sprintf("expected %s, found %s", wants, describe(n))
}

// hintFor says what to write instead, for a value that YAML did not take for
// a string.
func hintFor(s scalar, n *yaml.Node) string {
	if h, ok := s.(hinter); ok && n.Kind == yaml.ScalarNode {
		return h.hint(n.Value)
	}
	if _, ok := s.(*name); ok {
		return quoteHint(n)
	}
	return ""
}

// quoteHint is for words that YAML takes for something else than a string.
func quoteHint(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && plainKey.MatchString(n.Value) {
		return fmt.Sprintf("; quote it: %q", n.Value)
	}
	return ""
}

// outOfRange holds a number against the min and max of its tag.
func outOfRange(v any, written string, t reflect.Type, tag reflect.StructTag) string {
	lo, hi := tag.Get("min"), tag.Get("max")
	switch {
	case (lo == "" || number(v, t) >= number(lo, t)) && (hi == "" || number(v, t) <= number(hi, t)):
		return ""
	case hi == "":
		return fmt.Sprintf("expected at least %s, found %s", lo, written)
	}
	return fmt.Sprintf("expected %s to %s, found %s", lo, hi, written)
}

// number gives a value, or the text of a tag, as a number of type t.
func number(v any, t reflect.Type) int64 {
	s, isText := v.(string)
	p := asScalar(t)
	switch {
	case !isText:
		return reflect.ValueOf(v).Int()
	case p == nil:
		i, _ := strconv.ParseInt(s, 10, 64)
		return i
	}
	_ = p.UnmarshalText([]byte(s)) // was parsed before, or is a tag, which a test reads
	return reflect.ValueOf(p).Elem().Int()
}

// describe says what stands in the file.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a map"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	switch n.ShortTag() {
	case "!!str":
		return quote(n.Value)
	case "!!int", "!!float":
		return "the number " + oneLine(n.Value)
	case "!!bool":
		return "the boolean " + oneLine(n.Value)
	case "!!timestamp":
		return "the date " + oneLine(n.Value)
	}
	return "a value with the tag " + quote(n.Tag)
}

// resolve follows an alias. Errors then show the line of the anchor, which is
// where the text to correct stands.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// isNull reports a key without a value. It is an error everywhere: whether
// `cluster:` with all its keys commented out means a cluster is a guess.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

var timingType = reflect.TypeFor[rawTiming]()

// asScalar gives a new value of type t if it reads itself from a word.
func asScalar(t reflect.Type) scalar {
	s, _ := reflect.New(t).Interface().(scalar)
	return s
}

// isScalar reports whether a field of type t is one word in the file.
func isScalar(t reflect.Type) bool {
	return asScalar(t) != nil || t.Kind() != reflect.Slice && t.Kind() != reflect.Struct
}

// keyOf gives the key of a field.
func keyOf(f reflect.StructField) string { return f.Tag.Get("mapstructure") }

// keys gives the keys of a struct in the order of section 8.
func keys(t reflect.Type) (out []string) {
	for f := range t.Fields() {
		out = append(out, keyOf(f))
	}
	return out
}

// field finds a key exactly as written: unlike viper's, our keys have a case.
func field(t reflect.Type, key string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if keyOf(f) == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// join makes the path of a key as messages show it.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// nearest gives the known word with the fewest edits from s, if it is near
// enough to be meant: at most a third of the letters and one.
func nearest(s string, known []string) string {
	best, least := "", 1+len(s)/3+1
	if len(s) > 40 {
		return ""
	}
	for _, k := range known {
		if d := edits(strings.ToLower(s), k); d < least {
			best, least = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
