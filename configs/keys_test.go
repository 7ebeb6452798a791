package configs

import (
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// samples has a value for every key that explained.yaml does not have there,
// and that is allowed in its place.
var samples = map[string]string{
	"node.name":                          "g9",
	"node.role":                          "witness",
	"node.run_dir":                       "/x",
	"node.state_dir":                     "/x",
	"node.bpf_dir":                       "/x",
	"cluster.gossip":                     "10.9.0.1:1",
	"cluster.link":                       "10.9.0.1:1",
	"cluster.join":                       "[a:1]",
	"cluster.voters":                     "[g1]",
	"cluster.secret_file":                "/x",
	"cluster.timing":                     "{heartbeat: 1ms, lease: 2ms}",
	"cluster.tls.ca":                     "/x",
	"cluster.tls.cert":                   "/x",
	"cluster.tls.key":                    "/x",
	"cluster.fence.command":              "[/x]",
	"cluster.fence.timeout":              "1s",
	"cluster.isolation.neighbours":       "[10.9.0.1]",
	"cluster.isolation.without_majority": "fence",
	"virtual_ips[].name":                 "v9",
	"virtual_ips[].prefer":               "[g2]",
	"virtual_ips[].preempt":              "true",
	"gate":                               "off",
	"admin.listen":                       "x.sock",
	"admin.token_file":                   "/x",
	"admin.metrics":                      "127.0.0.1:1",
	"drain":                              "1s",
	"log.level":                          "debug",
	"log.format":                         "json",

	"virtual_ips[].addresses[].address":   "10.9.0.101",
	"virtual_ips[].addresses[].interface": "x",
}

// serviceSamples is samples within a service.
var serviceSamples = map[string]string{
	"name":              "s9",
	"listen":            "10.8.0.1",
	"ports":             "[9]",
	"servers[].name":    "s9",
	"servers[].address": "10.9.0.19",
	"servers[].port":    "9",
	"legs":              "1",
	"stateful":          "false",
	"rejoin":            "auto",
	"balance":           "source",
	"release":           "primary",
	"compare.mode":      "off",
	"compare.mask":      "[x]",
	"compare.report":    "false",
	"on_divergence":     "reset",
	"source":            "client",
	"proxy_protocol":    "v2",
	"lag.suspect":       "1ms",
	"lag.limit":         "3s",
	"buffer":            "4KiB",
	"fin_delay":         "0s",
	"maxconn":           "1",
	"maxhalfopen":       "1",
	"timeout.connect":   "2s",
	"timeout.idle":      "1h",
	"health.interval":   "1s",
	"health.timeout":    "1s",
	"health.rise":       "9",
	"health.fall":       "9",
	"health.send":       "x",
	"health.expect":     "x",
}

// TestEveryKeyReachesTheConfig changes one key of explained.yaml at a time
// and wants another Config: nobody can add a key and forget to convert it.
// The rules are left out, since many keys depend on each other.
func TestEveryKeyReachesTheConfig(t *testing.T) {
	want := buildExplained(t, "", "")
	for _, k := range schema(rawType, "") {
		if elem := k.f.Type; elem.Kind() == reflect.Pointer || !isScalar(elem) && elem != timingType && !listOfWords(elem) {
			continue
		}
		sample, ok := samples[k.path]
		if rest, isService := strings.CutPrefix(k.path, "virtual_ips[].services[]."); isService {
			sample, ok = serviceSamples[rest]
		}
		if !ok {
			t.Errorf("no sample for %s", k.path)
			continue
		}
		if reflect.DeepEqual(buildExplained(t, k.path, sample), want) {
			t.Errorf("%s: %s changes nothing", k.path, sample)
		}
	}
}

func listOfWords(t reflect.Type) bool { return t.Kind() == reflect.Slice && isScalar(t.Elem()) }

// buildExplained walks and converts explained.yaml with one key changed.
func buildExplained(t *testing.T, path, value string) *Config {
	t.Helper()
	data, err := os.ReadFile("explained.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc, sample yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if path != "" {
		if err := yaml.Unmarshal([]byte(value), &sample); err != nil {
			t.Fatal(err)
		}
		found := map[string]shown{}
		keysOf(&doc, "", found)
		*found[path].value = *sample.Content[0]
	}
	r := newReporter("f.yaml")
	w := walker{r: r, left: maxNodes}
	tree, _ := w.structure(doc.Content[0], rawType, "")
	if err := r.err(); err != nil {
		t.Fatalf("%s: %s: %v", path, value, err)
	}
	c, err := build(tree)
	if err != nil {
		t.Fatalf("%s: %s: %v", path, value, err)
	}
	return c
}

// TestLimits tries each min and max of the raw structs, and one beyond.
func TestLimits(t *testing.T) {
	n := 0
	for _, k := range schema(rawType, "") {
		for tag, step := range map[string]int64{"min": -1, "max": 1} {
			limit, ok := k.f.Tag.Lookup(tag)
			if !ok {
				continue
			}
			n++
			v := number(limit, k.f.Type)
			for at, good := range map[int64]bool{v: true, v - step: true, v + step: false} {
				why := try(at, k.f)
				if (why == "") != good {
					t.Errorf("%s: %s %s: %d gives %q", k.path, tag, limit, at, why)
				}
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d limits found", n)
	}
}

// try checks a number as if it stood in the file.
func try(v int64, f reflect.StructField) string {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v, 10)}
	if f.Type == reflect.TypeFor[duration]() {
		n.Tag, n.Value = "!!str", time.Duration(v).String()
	}
	parsed, why := parseScalar(n, f.Type, f.Tag)
	if why == "" {
		why = outOfRange(parsed, n.Value, f.Type, f.Tag)
	}
	return why
}

// TestWords tries each word of a oneof, in its own and in another case.
func TestWords(t *testing.T) {
	for _, k := range schema(rawType, "") {
		for _, word := range strings.Fields(k.f.Tag.Get("oneof")) {
			for text, good := range map[string]bool{word: true, strings.ToUpper(word): false, word + "s": false, word[1:]: false} {
				n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
				if _, why := parseScalar(n, k.f.Type, k.f.Tag); (why == "") != good {
					t.Errorf("%s: %s gives %q", k.path, text, why)
				}
			}
		}
	}
}

func TestDescribe(t *testing.T) {
	for in, want := range map[string]string{
		"word": `"word"`, `"5"`: `"5"`, "5": "the number 5", "0x1F": "the number 0x1F", "1.5": "the number 1.5",
		".inf": "the number .inf", "true": "the boolean true", "yes": `"yes"`, "~": "nothing", "null": "nothing",
		"[]": "a list", "{}": "a map", "2026-01-02": "the date 2026-01-02", "!x y": `a value with the tag "!x"`,
		"!!binary aGk=": `a value with the tag "!!binary"`, `"a\nb"`: `"a\nb"`,
	} {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(in), &doc); err != nil {
			t.Fatal(err)
		}
		equal(t, in, describe(doc.Content[0]), want)
	}
}

// TestAtOnce loads different files from several goroutines: nothing is shared.
func TestAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("Node-%d", i)
			c, err := Parse("f.yaml", []byte(strings.Replace(base, "g1", name, 1)), Env{})
			if err != nil || c.Node.Name != name {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
}
