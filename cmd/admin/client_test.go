package admin

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestClientRoundTrip(t *testing.T) {
	f := newFake()
	c := dial(t, serveUnix(t, f), "")
	ctx := context.Background()
	if got, err := c.Status(ctx); err != nil || !reflect.DeepEqual(got, f.Status()) {
		t.Errorf("status %+v, %v", got, err)
	}
	if got, err := c.Servers(ctx); err != nil || !reflect.DeepEqual(got, f.Servers()) {
		t.Errorf("servers %+v, %v", got, err)
	}
	if got, err := c.Connections(ctx); err != nil || !reflect.DeepEqual(got, f.Connections(maxConnections)) {
		t.Errorf("connections %+v, %v", got, err)
	}
	got, err := c.Server(ctx, ServerOrder{Name: "s2", Op: OpDrain})
	if err != nil || len(got) != 1 || got[0].Name != "s2" || got[0].State != "drain" {
		t.Errorf("drain s2: %+v, %v", got, err)
	}
	if err := c.Service(ctx, ServiceOrder{Name: "web", Op: OpFreeze}); err != nil || !f.frozen {
		t.Errorf("freeze: %v, frozen %t", err, f.frozen)
	}
	_, err = c.Server(ctx, ServerOrder{Name: "s1", Op: OpReady})
	if codeOf(err) != http.StatusConflict || err.Error() != errNotReady.Error() {
		t.Errorf("refused order: %v", err)
	}
}

func TestClientNobodyThere(t *testing.T) {
	for path, want := range map[string]error{
		filepath.Join(t.TempDir(), "none.sock"): fs.ErrNotExist,
		deadSocket(t):                           unix.ECONNREFUSED,
	} {
		_, err := dial(t, path, "").Status(context.Background())
		if !errors.Is(err, want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "http://") {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

// Whatever else answers at the address is named, not trusted.
func TestClientOfAnotherServer(t *testing.T) {
	mode := "page"
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if mode == "page" {
			w.WriteHeader(http.StatusBadGateway)
		}
		_, _ = w.Write([]byte("<html>"))
	}))
	defer web.Close()
	c := dial(t, web.Listener.Addr().String(), "t")
	if _, err := c.Status(context.Background()); codeOf(err) != 502 || err.Error() != "the answer was 502 Bad Gateway" {
		t.Errorf("error page: %v", err)
	}
	mode = "success"
	if _, err := c.Status(context.Background()); err == nil || !strings.Contains(err.Error(), "read answer of 127.0.0.1") {
		t.Errorf("page: %v", err)
	}
}

func TestClientStopsWithContext(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "deaf.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(context.Background())
	over, accepted := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(accepted)
		conn, err := ln.Accept() // and never answers
		cancel()
		<-over
		if err == nil {
			_ = conn.Close()
		}
	}()
	defer func() { close(over); <-accepted }()
	if _, err := dial(t, ln.Addr().String(), "").Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Status: %v", err)
	}
}

func TestIsTCP(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:99": true, "[::1]:99": true, "host:99": true, ":99": true,
		"/run/a.sock": false, "a.sock": false, "./a:1": false, "/run/a:1": false,
	} {
		if got := isTCP(addr); got != want {
			t.Errorf("isTCP(%q) = %t", addr, got)
		}
	}
}
