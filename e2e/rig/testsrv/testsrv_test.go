package testsrv_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server on the loopback for the time of the test.
func serve(t *testing.T, spec testsrv.Spec) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- testsrv.Serve(ctx, ln, spec) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

type client struct {
	*net.TCPConn
	*bufio.Reader
}

func (c client) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// WriteTo and ReadFrom would be ambiguous.
func (c client) WriteTo(w io.Writer) (int64, error)  { return c.Reader.WriteTo(w) }
func (c client) ReadFrom(r io.Reader) (int64, error) { return c.TCPConn.ReadFrom(r) }

func dial(t *testing.T, addr string) client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return client{c.(*net.TCPConn), bufio.NewReader(c)}
}

// ask sends text and wants an answer of exactly want, then FIN if end.
func (c client) ask(t *testing.T, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c.TCPConn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("%q is answered with %q (%v), want %q", text, got[:n], err, want)
	}
}

// wantEnd wants nothing but the server's FIN any more.
func (c client) wantEnd(t *testing.T) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Fatalf("at the end: %q, %v", rest, err)
	}
}

func TestLineProtocols(t *testing.T) {
	empty := fmt.Sprintf("%x\n", sha256.Sum256(nil))
	for _, tt := range []struct {
		spec      testsrv.Spec
		ask, want string
	}{
		{testsrv.Spec{Proto: testsrv.Echo}, "no newline", "no newline"},
		{testsrv.Spec{Proto: testsrv.Banner}, "", "220 ready\n"},
		{testsrv.Spec{Proto: testsrv.Banner}, "EHLO x\nQUIT\n", "220 ready\n250 EHLO x\n250 QUIT\n"},
		{testsrv.Spec{Proto: testsrv.Who, Name: "s1"}, "are you\n", "s1 are you\n"},
		{testsrv.Spec{Proto: testsrv.Count}, "a\n\nb\n", "1 a\n2 \n3 b\n"},
		{testsrv.Spec{Proto: testsrv.Count}, "?\na\n?\n",
			"0 " + testsrv.HashLines() + "\n1 a\n1 " + testsrv.HashLines("a") + "\n"},
		{testsrv.Spec{Proto: testsrv.Sink}, "3\nabc0\n",
			fmt.Sprintf("%x\n", sha256.Sum256([]byte("abc"))) + empty},
	} {
		t.Run(fmt.Sprintf("%s %q", tt.spec.Proto, tt.ask), func(t *testing.T) {
			c := dial(t, serve(t, tt.spec))
			c.ask(t, tt.ask, tt.want)
			c.wantEnd(t)
		})
	}
}

func TestWrongLinesEndTheConnection(t *testing.T) {
	for _, tt := range []struct {
		proto     testsrv.Proto
		ask, want string
	}{
		{testsrv.Sink, "many\n", "error parse size"},
		{testsrv.Sink, "-1\n", "error parse size"},
		{testsrv.Paced, "1 1s\n", "error parse"},
		{testsrv.Paced, "1 1 1\n", "error parse"},
		{testsrv.Paced, "x 1s 1\n", "error parse"},
		{testsrv.End, "maybe 3\n", "error parse"},
		{testsrv.End, "fin\n", "error parse"},
		{testsrv.Count, strings.Repeat("x", testsrv.MaxLine+1), "error read line"},
	} {
		c := dial(t, serve(t, testsrv.Spec{Proto: tt.proto}))
		c.ask(t, tt.ask, tt.want)
		// The server may not have read all: then it closes with a reset.
		_, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s, %q: %v", tt.proto, tt.ask, err)
		}
	}
}

func TestCountIsOfAllConnections(t *testing.T) {
	addr := serve(t, testsrv.Spec{Proto: testsrv.Count})
	a, b := dial(t, addr), dial(t, addr)
	a.ask(t, "x\n", "1 x\n")
	b.ask(t, "y\n", "2 y\n")
	a.ask(t, "?\n", "2 "+testsrv.HashLines("x", "y")+"\n")
}

func TestSinkUpToFIN(t *testing.T) {
	c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Sink}))
	up := content.Content{Seed: 5, Size: 3 << 20}
	if _, err := io.Copy(c.TCPConn, io.MultiReader(strings.NewReader("-\n"), up.Reader())); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != up.SHA256()+"\n" {
		t.Errorf("got %q, %v; want %s", got, err, up.SHA256())
	}
}

// TestPaced asks twice on one connection, and wants the bytes right and not
// early; late they may be.
func TestPaced(t *testing.T) {
	c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Paced}))
	for _, what := range []content.Content{{Seed: 1, Size: 300_001}, {Seed: 2, Size: 1}, {Seed: 3}} {
		const over = 150 * time.Millisecond
		check, start := content.NewChecker(what), time.Now()
		fmt.Fprintf(c.TCPConn, "%d %v %d\n", what.Size, over, what.Seed)
		half := what.Size / 2
		copied(t, check, c, half)
		if what.Size > 1 && time.Since(start) < over/3 {
			t.Errorf("half of %d bytes came within %v", what.Size, time.Since(start))
		}
		copied(t, check, c, what.Size-half)
		if what.Size > 0 && time.Since(start) < over {
			t.Errorf("%d bytes came within %v", what.Size, time.Since(start))
		}
		if err := check.Err(); err != nil {
			t.Error(err)
		}
	}
	c.wantEnd(t)
}

func copied(t *testing.T, w io.Writer, r io.Reader, n int64) {
	t.Helper()
	if _, err := io.CopyN(w, r, n); err != nil {
		t.Fatal(err)
	}
}

func TestEnd(t *testing.T) {
	addr := serve(t, testsrv.Spec{Proto: testsrv.End})
	what := content.Content{Size: 100_000}
	for how, want := range map[string]error{"fin": nil, "rst": syscall.ECONNRESET} {
		c, check := dial(t, addr), content.NewChecker(what)
		fmt.Fprintf(c.TCPConn, "%s %d\n", how, what.Size)
		if _, err := io.CopyN(check, c, what.Size); err != nil || check.Err() != nil {
			t.Errorf("%s: %v, %v", how, err, check.Err())
		}
		if _, err := c.ReadByte(); !errors.Is(err, want) && !(want == nil && err == io.EOF) {
			t.Errorf("%s ends with %v", how, err)
		}
	}
}

func TestHTTP(t *testing.T) {
	what := content.Content{Seed: 9, Size: 200_000}
	root := t.TempDir()
	if err := what.WriteFile(filepath.Join(root, "file")); err != nil {
		t.Fatal(err)
	}
	for _, rate := range []int64{0, 1_000_000} {
		addr := serve(t, testsrv.Spec{Proto: testsrv.HTTP, Root: root, Rate: rate})
		start, check := time.Now(), content.NewChecker(what)
		// The body reader of an own transport, so that nothing is left open.
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + addr + "/file")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(check, resp.Body)
		resp.Body.Close()
		if err != nil || check.Err() != nil || resp.Header.Get("Last-Modified") == "" {
			t.Errorf("rate %d: %v, %v, %v", rate, err, check.Err(), resp.Header)
		}
		if took := time.Since(start); rate > 0 && took < 80*time.Millisecond {
			t.Errorf("%d bytes at %d per second took %v", what.Size, rate, took)
		}
	}
}

func TestServeRefuses(t *testing.T) {
	ctx := context.Background()
	for _, spec := range []testsrv.Spec{{Proto: "telnet"}, {Proto: testsrv.HTTP}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := testsrv.Serve(ctx, ln, spec); err == nil {
			t.Errorf("served %+v", spec)
		}
	}
	if err := testsrv.Run(ctx, testsrv.Spec{Proto: testsrv.Echo}); err == nil {
		t.Error("served without a port")
	}
}
