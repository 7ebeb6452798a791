package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client uses the admin interface of a node.
type Client struct {
	http  http.Client
	host  string // of the URLs
	where string // for messages
	token string
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 16 << 20

// patience is how long an answer may take. An order waits for connections to
// come to rest, not for their end.
const patience = 30 * time.Second

// Dial gives a client of the node at addr: the path of a Unix socket, or
// host:port, where token is shown. Nothing is connected before the first
// request; the error of a request whose node could not be reached wraps that
// of the system (fs.ErrNotExist, ECONNREFUSED). Close ends it.
func Dial(addr, token string) *Client {
	network, host := "unix", "sttcp"
	if isTCP(addr) {
		network, host = "tcp", addr
	}
	var d net.Dialer
	c := &Client{host: host, where: addr, token: token}
	c.http.Timeout = patience
	// No proxy from the environment: this never leaves the operator's network.
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, addr)
		},
		DisableCompression: true,
	}
	return c
}

// isTCP tells host:port from a path.
func isTCP(addr string) bool {
	_, _, err := net.SplitHostPort(addr)
	return err == nil && !strings.Contains(addr, "/")
}

// Close closes the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the state of the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	err := c.do(ctx, "GET", "/v1/status", nil, &st)
	return st, err
}

// Servers asks for the servers of all services.
func (c *Client) Servers(ctx context.Context) ([]ServerStatus, error) {
	var out Servers
	err := c.do(ctx, "GET", "/v1/servers", nil, &out)
	return out.Servers, err
}

// Connections asks for the open connections.
func (c *Client) Connections(ctx context.Context) (Connections, error) {
	var out Connections
	err := c.do(ctx, "GET", "/v1/connections", nil, &out)
	return out, err
}

// Server gives an order about a server and returns what became of it. An order
// that is refused is an *Error.
func (c *Client) Server(ctx context.Context, o ServerOrder) ([]ServerStatus, error) {
	var out Servers
	err := c.do(ctx, "POST", "/v1/server", o, &out)
	return out.Servers, err
}

// Service gives an order about a service. One that is refused is an *Error.
func (c *Client) Service(ctx context.Context, o ServiceOrder) error {
	return c.do(ctx, "POST", "/v1/service", o, nil)
}

// do sends in as JSON, if there is any, and fills out.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	req, err := c.request(ctx, method, path, in)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.where, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.where, cause(err))
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode != http.StatusOK {
		return failure(resp, body)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("read answer of %s: %w", c.where, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.host+path, body)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// cause takes away the URL, which is made up for a Unix socket.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// failure reads the error of an answer. Whatever else answers there is named
// by its HTTP status.
func failure(resp *http.Response, body io.Reader) error {
	e := &Error{Status: resp.StatusCode}
	if err := json.NewDecoder(body).Decode(e); err != nil || e.Message == "" {
		e.Message = "the answer was " + resp.Status
	}
	return e
}
