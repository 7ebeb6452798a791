package configs

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var errorLine = regexp.MustCompile(`^fuzz\.yaml:[1-9][0-9]*: [^\n]+$`)

// FuzzLoad wants a configuration that obeys the comments in config.go, or
// errors of one line each with a line of the file; and never a panic.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, group := range [][]badCase{badText, badKeys, badTypes, badValues, badAddresses, badServices, badNodes} {
		for _, tc := range group {
			if len(tc.in) < 4096 {
				f.Add([]byte(tc.in))
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("fuzz.yaml", data, Env{})
		if err == nil {
			sound(t, c)
			return
		}
		checkErrors(t, c, err, strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+1)
	})
}

func checkErrors(t *testing.T, c *Config, err error, lines int) {
	t.Helper()
	var es Errors
	if c != nil || !errors.As(err, &es) || len(es) == 0 {
		t.Fatalf("want only Errors, got %v, %T", c, err)
	}
	for i, e := range es {
		if !errorLine.MatchString(e.Error()) || strings.HasPrefix(e.Msg, "decode:") {
			t.Errorf("bad error %q", e.Error())
		}
		if i > 0 && es[i-1].Line > e.Line {
			t.Errorf("%q comes before %q", es[i-1], e)
		}
		if e.Line > lines {
			t.Errorf("%q: the file has %d lines", e, lines)
		}
	}
}

// sound checks what readers of a Config rely on.
func sound(t *testing.T, c *Config) {
	t.Helper()
	if c.Node.Name == "" || len(c.Hash()) != 64 {
		t.Errorf("name %q, hash %s", c.Node.Name, c.Hash())
	}
	if cl := c.Cluster; cl != nil && (len(cl.Voters) == 0 || cl.Timing.Heartbeat >= cl.Timing.Lease) {
		t.Errorf("cluster %+v", cl)
	}
	for _, v := range c.VirtualIPs {
		for _, a := range v.Addresses {
			if !a.Prefix.IsValid() || a.Interface == "" {
				t.Errorf("address %+v", a)
			}
		}
		for _, s := range v.Services {
			soundService(t, s)
		}
	}
}

func soundService(t *testing.T, s Service) {
	t.Helper()
	switch {
	case len(s.Ports) == 0 || len(s.Servers) == 0,
		s.Legs < 1 || s.Legs > 2 || s.Legs > len(s.Servers),
		s.Stateful && len(s.Servers) != s.Legs,
		s.ListenVIP == s.ListenAddr.IsValid(),
		s.Release == ReleaseBoth && s.Legs == 1,
		s.Buffer < 4<<10 || s.Buffer > 16<<20,
		s.Lag.Suspect <= 0 || s.Lag.Suspect >= s.Lag.Limit,
		s.Health.Interval <= 0 || s.MaxConn < 1:
		t.Errorf("service %+v", s)
	}
	for _, p := range s.Ports {
		if p.First == 0 || p.First > p.Last {
			t.Errorf("ports %v", p)
		}
	}
}
