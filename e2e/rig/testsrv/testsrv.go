// Package testsrv is a server for tests with a few small protocols. They are
// deterministic: two servers that got the same bytes answer with the same
// bytes (but for Who, and Script where it is told to, which are there to be
// different). All are line protocols;
// a line ends with "\n" and has at most MaxLine bytes. A server closes when
// its client has (its half of a half-closed connection last), and when a line
// is wrong, after "error REASON".
package testsrv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
)

// Proto is what a server speaks.
type Proto string

// The protocols.
const (
	// Echo sends every byte back.
	Echo Proto = "echo"
	// Banner speaks first, "220 ready", and answers LINE with "250 LINE".
	Banner Proto = "banner"
	// Count numbers the lines of all connections: LINE is answered with
	// "N LINE". The line "?" is not counted, its answer is "N HASH" with the
	// SHA-256 of all lines so far, in their order, each with its "\n".
	Count Proto = "count"
	// Paced answers "BYTES DURATION SEED" with the content of that size and
	// seed, evenly spread over at least the duration (as in "1.5s").
	Paced Proto = "paced"
	// Sink answers "BYTES", followed by so many bytes, with their SHA-256;
	// after "-" the bytes go up to the client's FIN.
	Sink Proto = "sink"
	// Who answers "LINE" with "NAME LINE", and so differs between servers.
	Who Proto = "who"
	// End ends the connection: "fin BYTES" with a FIN after the content of
	// that size and seed 0, "rst BYTES" with a reset after it.
	End Proto = "end"
	// Script does what the lines say, one after the other, well or ill. A line
	// that begins with "@NAME " is for the server of that name only; so two
	// servers that got the same bytes can be made to differ. Every command
	// ends at a space or the line's end:
	//
	//	say WORD                  answers WORD and a newline
	//	put WORD                  answers WORD alone
	//	send BYTES DURATION SEED  answers as Paced does
	//	text LINES DURATION SEED  answers Text, as evenly
	//	recv BYTES                reads so many, answers their SHA-256
	//	wait DURATION             neither reads nor writes so long
	//	idle DURATION             from now on closes when no line comes so long
	//	rate BYTES                from now on sends, and reads in recv, no
	//	                          more per second
	//	edit HOW OFFSET           makes one byte of the next stream wrong: see Edit
	//	cut fin|rst|hang OFFSET   ends the next stream there, as end does
	//	end fin|rst|hang          closes, resets, or does nothing any more
	//	silent                    reads on and never answers any more
	Script Proto = "script"
	// Urgent answers each urgent byte C, that came at offset N, with "N " and C
	// as urgent data, and the client's FIN with "end N".
	Urgent Proto = "urgent"
	// HTTP serves the files below Root, each connection with up to Rate
	// bytes per second.
	HTTP Proto = "http"
)

// MaxLine is the longest line of a protocol, in bytes.
const MaxLine = 4096

// Spec says what a server does.
type Spec struct {
	Proto Proto
	// Port is listened on with IPv4 and IPv6, on all addresses.
	Port uint16
	// Name is what Who answers with, and what Script answers to.
	Name string
	// Root is the directory of HTTP.
	Root string
	// Rate limits HTTP, in bytes per second per connection; 0 is no limit.
	Rate int64
	// Record is a directory for what each connection brings: see Records.
	// Empty: nothing is recorded. HTTP and Urgent do not record.
	Record string
}

// Server is a running server.
type Server struct {
	spec    Spec
	counter counter
	conns   sync.WaitGroup
}

// handler serves one connection. When it returns, the connection is closed.
type handler func(*Server, *bufio.Reader, *net.TCPConn) error

var handlers = map[Proto]handler{
	Echo: echo, Banner: banner, Count: count, Paced: paced, Sink: sink, Who: who, End: end, Urgent: urgent, Script: script,
}

// Run listens as spec says and serves until ctx ends.
func Run(ctx context.Context, spec Spec) error {
	if spec.Port == 0 {
		return errors.New("serve: no port")
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", fmt.Sprintf(":%d", spec.Port))
	if err != nil {
		return fmt.Errorf("serve %s: %w", spec.Proto, err)
	}
	return Serve(ctx, ln, spec)
}

// Serve serves connections of the listener until ctx ends, and closes it.
// Connections that are open then are closed, and waited for.
func Serve(ctx context.Context, ln net.Listener, spec Spec) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	if spec.Proto == HTTP {
		return serveHTTP(ctx, ln, spec)
	}
	h := handlers[spec.Proto]
	if h == nil {
		return fmt.Errorf("serve: no protocol %q", spec.Proto)
	}
	s := &Server{spec: spec}
	defer s.conns.Wait()
	for number := 1; ; number++ {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve %s: %w", spec.Proto, err)
		}
		s.conns.Go(func() { s.serveConn(ctx, h, number, c.(*net.TCPConn)) })
	}
}

func (s *Server) serveConn(ctx context.Context, h handler, number int, c *net.TCPConn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	log := slog.With("proto", s.spec.Proto, "peer", c.RemoteAddr())
	log.Info("accepted")
	err := s.handle(h, number, c)
	if err != nil && ctx.Err() == nil {
		log.Warn("ended", "error", err)
		return
	}
	log.Info("ended")
}

// eachLine calls answer for every line, until the client's FIN. What answer
// returns is sent, with a "\n".
func eachLine(r *bufio.Reader, c *net.TCPConn, answer func(line string) (string, error)) error {
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refuse(c, err)
		}
		reply, err := answer(line)
		if err != nil {
			return refuse(c, err)
		}
		if _, err := io.WriteString(c, reply+"\n"); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// readLine returns io.EOF only for an end between two lines.
func readLine(r *bufio.Reader) (string, error) {
	b, err := r.ReadSlice('\n')
	switch {
	case err == nil:
		return strings.TrimSuffix(string(b), "\n"), nil
	case errors.Is(err, io.EOF) && len(b) == 0:
		return "", io.EOF
	case errors.Is(err, io.EOF):
		return "", fmt.Errorf("read line: end within %q", b)
	}
	return "", fmt.Errorf("read line: %w", err)
}

// refuse tells the client what was wrong, if it still listens.
func refuse(c *net.TCPConn, err error) error {
	_, _ = fmt.Fprintf(c, "error %v\n", err) // the connection ends either way
	return err
}
