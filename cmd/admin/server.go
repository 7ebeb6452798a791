package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// ErrUnknown is what a Backend returns (wrapped, in a sentence for the
// operator) about a server or service that is not configured.
var ErrUnknown = errors.New("not configured")

// Backend is what a node can tell and do. It is called by many goroutines at
// a time. The errors of orders are sentences for the operator and mean that
// nothing was changed.
type Backend interface {
	Status() Status
	Servers() []ServerStatus
	// Connections are up to so many open connections, and how many more
	// there are.
	Connections(most int) Connections
	DrainServer(name string) error
	MaintServer(name string) error
	// ReadyServer brings a server back; with reset, connections that have no
	// leg there are reset.
	ReadyServer(name string, reset bool) error
	// Freeze stops reading from a service's clients, or goes on.
	Freeze(name string, on bool) error
}

// Options say where a Server listens.
type Options struct {
	Network string // unix or tcp, as configs.Config.AdminAddr gives it
	Address string // a path, or host:port
	Token   string // what clients must show; required with tcp, "" for none
	Log     *slog.Logger
}

// Server serves a Backend until Close.
type Server struct {
	// Constant after Serve.
	backend Backend
	token   [sha256.Size]byte
	log     *slog.Logger
	http    *http.Server
	addr    net.Addr
	done    chan struct{} // closed when nobody accepts any more
}

// Limits of what a client may send, in bytes. The longest order has two names
// in it.
const (
	maxBody   = 4 << 10
	maxHeader = 16 << 10
)

// maxConnections is how many connections an answer lists at most.
const maxConnections = 10_000

// Serve begins to serve b. A Unix socket is made with mode 0600, its directory
// with 0700 if it is missing; the socket file of a dead process is replaced.
// ErrInUse means that a living one is there.
func Serve(b Backend, o Options) (*Server, error) {
	if o.Network != "unix" && o.Token == "" {
		return nil, fmt.Errorf("serve admin interface on %s: a token is required; set admin.token_file", o.Address)
	}
	ln, err := listen(o.Network, o.Address)
	if err != nil {
		return nil, fmt.Errorf("serve admin interface: %w", err)
	}
	s := &Server{
		backend: b, token: sha256.Sum256([]byte("Bearer " + o.Token)), log: o.Log,
		addr: ln.Addr(), done: make(chan struct{}),
	}
	// There is no write time-out: an order may wait for connections to come to
	// rest, and who reads slowly holds nothing but its own connection.
	s.http = &http.Server{
		Handler:           s.handler(o.Token != ""),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	go s.accept(ln)
	return s, nil
}

// accept serves until Close. An end of any other kind leaves the node without
// operator, but is no reason to end its connections.
func (s *Server) accept(ln net.Listener) {
	defer close(s.done)
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("admin interface ended", "error", err)
	}
}

// Addr is where the server listens; with host:0 it has the real port.
func (s *Server) Addr() net.Addr { return s.addr }

// Close stops accepting, removes the socket file, and waits for requests under
// way until ctx is done; then they are cut, which is the error.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("close admin interface: %w", err), s.http.Close())
	}
	<-s.done
	return err
}

// handler routes the requests, behind the token if one is needed.
func (s *Server) handler(token bool) http.Handler {
	mux := http.NewServeMux()
	s.route(mux, "GET", "/v1/status", s.status)
	s.route(mux, "GET", "/v1/servers", s.servers)
	s.route(mux, "GET", "/v1/connections", s.connections)
	s.route(mux, "POST", "/v1/server", s.serverOrder)
	s.route(mux, "POST", "/v1/service", s.serviceOrder)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, nil, refuse(http.StatusNotFound, "no %s here; this version has /v1/status, /v1/servers, /v1/connections, /v1/server and /v1/service", r.URL.Path))
	})
	if !token {
		return mux
	}
	return s.guard(mux)
}

// guard lets in only who shows the token. Hashes are compared, so that the
// time says nothing about the token, its length included.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(sum[:], s.token[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			s.answer(w, nil, refuse(http.StatusUnauthorized, "the token is missing or wrong"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// route has do answer requests of one method; other methods are refused.
func (s *Server) route(mux *http.ServeMux, method, path string, do func(*http.Request) (any, error)) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			s.answer(w, nil, refuse(http.StatusMethodNotAllowed, "%s needs %s", path, method))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		out, err := do(r)
		s.answer(w, out, err)
	})
}

// answer writes out, or err as the JSON that the package comment describes.
func (s *Server) answer(w http.ResponseWriter, out any, err error) {
	code := http.StatusOK
	if err != nil {
		e := asError(err)
		code, out = e.Status, e
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		s.log.Debug("admin answer not delivered", "error", err)
	}
}

// Error is a request that failed, on both ends of the wire.
type Error struct {
	Status  int    `json:"-"` // of HTTP
	Message string `json:"error"`
}

// Error is the sentence for the operator.
func (e *Error) Error() string { return e.Message }

func refuse(status int, format string, args ...any) error {
	return &Error{status, fmt.Sprintf(format, args...)}
}

// asError gives err its HTTP status; what a backend refuses is a conflict with
// the state of things.
func asError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, ErrUnknown):
		return &Error{http.StatusNotFound, err.Error()}
	}
	return &Error{http.StatusConflict, err.Error()}
}

func (s *Server) status(*http.Request) (any, error) {
	st := s.backend.Status()
	st.complete()
	return st, nil
}

func (s *Server) servers(*http.Request) (any, error) {
	return Servers{list(s.backend.Servers())}, nil
}

func (s *Server) connections(*http.Request) (any, error) {
	out := s.backend.Connections(maxConnections)
	out.Connections = list(out.Connections)
	for i := range out.Connections {
		out.Connections[i].Legs = list(out.Connections[i].Legs)
	}
	return out, nil
}

// serverOrder carries out POST /v1/server. The answer is read after the order
// and may already show what has come since.
func (s *Server) serverOrder(r *http.Request) (any, error) {
	var o ServerOrder
	if err := decode(r.Body, &o); err != nil {
		return nil, err
	}
	switch {
	case o.Name == "":
		return nil, refuse(http.StatusBadRequest, "name is missing")
	case o.ResetConnections && o.Op != OpReady:
		return nil, refuse(http.StatusBadRequest, "reset_connections goes with op ready only")
	}
	if err := s.orderServer(o); err != nil {
		return nil, err
	}
	s.log.Info("order carried out", "server", o.Name, "op", o.Op, "reset_connections", o.ResetConnections)
	return Servers{s.named(o.Name)}, nil
}

// orderServer calls the backend; an op of a later version is refused.
func (s *Server) orderServer(o ServerOrder) error {
	switch o.Op {
	case OpDrain:
		return s.backend.DrainServer(o.Name)
	case OpMaint:
		return s.backend.MaintServer(o.Name)
	case OpReady:
		return s.backend.ReadyServer(o.Name, o.ResetConnections)
	}
	return refuse(http.StatusBadRequest, "op %q is none of drain, maint, ready", o.Op)
}

// named are the servers that an order with that name was about.
func (s *Server) named(name string) []ServerStatus {
	out := []ServerStatus{}
	for _, srv := range s.backend.Servers() {
		if name == srv.Name || name == srv.Service+"/"+srv.Name {
			out = append(out, srv)
		}
	}
	return out
}

// serviceOrder carries out POST /v1/service. It answers when the service is at
// rest: with a freeze, when no more bytes of its clients reach a server.
func (s *Server) serviceOrder(r *http.Request) (any, error) {
	var o ServiceOrder
	if err := decode(r.Body, &o); err != nil {
		return nil, err
	}
	switch {
	case o.Name == "":
		return nil, refuse(http.StatusBadRequest, "name is missing")
	case o.Op != OpFreeze && o.Op != OpThaw:
		return nil, refuse(http.StatusBadRequest, "op %q is none of freeze, thaw", o.Op)
	}
	if err := s.backend.Freeze(o.Name, o.Op == OpFreeze); err != nil {
		return nil, err
	}
	s.log.Info("order carried out", "service", o.Name, "op", o.Op)
	return struct{}{}, nil
}

// decode reads the one JSON value of a body. A key that is not known may be an
// order that this version would carry out by half: it is refused.
func decode(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the object")
	}
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return refuse(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", long.Limit)
	}
	return refuse(http.StatusBadRequest, "the body is not the JSON that is expected: %s", strings.TrimPrefix(err.Error(), "json: "))
}
