package rig

import (
	"strings"
	"testing"

	"sttcp/cmd/admin"
)

func TestPrimaryOf(t *testing.T) {
	server := func(service, name string, primaries int) admin.ServerStatus {
		return admin.ServerStatus{Service: service, Name: name, Primaries: primaries}
	}
	for _, tt := range []struct {
		servers   []admin.ServerStatus
		want, err string
	}{
		{[]admin.ServerStatus{server("web", "s1", 0), server("web", "s2", 3)}, "s2", ""},
		{[]admin.ServerStatus{server("web", "s1", 1), server("redis", "s2", 1)}, "s1", ""},
		{[]admin.ServerStatus{server("web", "s1", 1), server("web", "s2", 1)}, "", "both s1 and s2"},
		{[]admin.ServerStatus{server("web", "s1", 0), server("redis", "s2", 1)}, "", "there is none"},
		{nil, "", "there is none"},
	} {
		got, err := primaryOf(tt.servers, "web")
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%+v: %q, %v", tt.servers, got, err)
		}
	}
}
