package configs

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// key is one key of the raw structs.
type key struct {
	path string // indices left out, such as virtual_ips[].name
	f    reflect.StructField
}

// schema lists every key below a raw struct.
func schema(t reflect.Type, path string) (out []key) {
	for f := range t.Fields() {
		k := key{join(path, keyOf(f)), f}
		out = append(out, k)
		elem, sub := f.Type, k.path
		switch elem.Kind() {
		case reflect.Slice:
			elem, sub = elem.Elem(), sub+"[]"
		case reflect.Pointer:
			elem = elem.Elem()
		}
		if !isScalar(elem) && elem != timingType {
			out = append(out, schema(elem, sub)...)
		}
	}
	return out
}

// shown is a key of a YAML file with what stands behind it.
type shown struct {
	value   *yaml.Node
	comment string
}

// keysOf lists every key of a YAML tree; the first of several wins.
func keysOf(n *yaml.Node, path string, out map[string]shown) {
	switch n.Kind {
	case yaml.DocumentNode:
		keysOf(n.Content[0], path, out)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			keysOf(item, path+"[]", out)
		}
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			sub := join(path, k.Value)
			if _, dup := out[sub]; !dup {
				out[sub] = shown{v, k.LineComment + k.HeadComment + v.LineComment}
			}
			keysOf(v, sub, out)
		}
	}
}

func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		c, err := Load(file, Env{})
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if file != "explained.yaml" && len(c.Ineffective) > 0 {
			t.Errorf("%s sets %v, which has no effect", file, c.Ineffective)
		}
	}
}

// TestExplained wants every key in explained.yaml, with a comment, and says
// of each mark in a comment whether it is true.
func TestExplained(t *testing.T) {
	data, err := os.ReadFile("explained.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]shown{}
	keysOf(&doc, "", found)
	for _, k := range schema(rawType, "") {
		got, ok := found[k.path]
		if !ok {
			t.Errorf("%s is not explained", k.path)
			continue
		}
		if mark := markOf(k.f); mark != "" && !strings.Contains(got.comment, mark) {
			t.Errorf("%s: want %s in its comment %q", k.path, mark, got.comment)
		}
		if def, ok := k.f.Tag.Lookup("default"); ok && got.value.Value != def {
			t.Errorf("%s: %q is marked as the default, which is %q", k.path, got.value.Value, def)
		}
	}
	for _, word := range []string{"heartbeat: 200ms", "lease: 1s"} {
		if !strings.Contains(found["cluster.timing"].comment, word) {
			t.Errorf("cluster.timing does not explain %s", word)
		}
	}
}

// markOf says how explained.yaml must mark a key.
func markOf(f reflect.StructField) string {
	_, hasDefault := f.Tag.Lookup("default")
	switch {
	case hasDefault:
		return "(default)"
	case f.Tag.Get("need") != "":
		return "(required)"
	case f.Type.Kind() == reflect.Struct || f.Type.Kind() == reflect.Pointer:
		return ""
	}
	return "(none)"
}

// TestTags parses every default and limit of the raw structs as if it stood
// in a file.
func TestTags(t *testing.T) {
	for _, k := range schema(rawType, "") {
		f := k.f
		for _, tag := range []string{"default", "min", "max"} {
			text, ok := f.Tag.Lookup(tag)
			if !ok || f.Type == timingType {
				continue
			}
			n := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
			if f.Type.Kind() == reflect.String || asScalar(f.Type) != nil {
				n.Tag = "!!str"
			}
			if v, why := parseScalar(n, f.Type, f.Tag); why != "" {
				t.Errorf("%s: %s %q: %s", k.path, tag, text, why)
			} else if why := outOfRange(v, text, f.Type, f.Tag); why != "" {
				t.Errorf("%s: %s %q: %s", k.path, tag, text, why)
			}
		}
		if keyOf(f) == "" || keyOf(f) != strings.ToLower(keyOf(f)) {
			t.Errorf("%s: keys are in lower case, viper makes them so", k.path)
		}
	}
}
