package testsrv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// serveHTTP serves files until ctx ends.
func serveHTTP(ctx context.Context, ln net.Listener, spec Spec) error {
	if spec.Root == "" {
		return errors.New("serve http: no root")
	}
	if spec.Rate > 0 {
		ln = slowListener{ln, spec.Rate}
	}
	srv := &http.Server{Handler: http.FileServer(http.Dir(spec.Root)), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	err := srv.Serve(ln)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve http: %w", err)
}

// slowListener limits what its connections send.
type slowListener struct {
	net.Listener
	rate int64 // bytes per second
}

func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: c, rate: l.rate}, nil
}

// slowConn sends at a rate, in pieces of a few milliseconds. Only the
// goroutine of a handler writes.
type slowConn struct {
	net.Conn
	rate int64
	free time.Time // when the next piece may leave
}

// Write sends everything, and takes as long as that takes.
func (c *slowConn) Write(p []byte) (sent int, err error) {
	piece := int(max(1, c.rate*int64(pace)/int64(time.Second)))
	for len(p) > 0 {
		time.Sleep(time.Until(c.free))
		n, err := c.Conn.Write(p[:min(piece, len(p))])
		sent += n
		if err != nil {
			return sent, err
		}
		c.advance(n)
		p = p[n:]
	}
	return sent, nil
}

// behind is how much of a delay is made up for: what a busy machine causes,
// but not the time between two requests.
const behind = 100 * time.Millisecond

// advance moves free by the time that n bytes take.
func (c *slowConn) advance(n int) {
	if least := time.Now().Add(-behind); c.free.Before(least) {
		c.free = least
	}
	c.free = c.free.Add(time.Duration(n) * time.Second / time.Duration(c.rate))
}
