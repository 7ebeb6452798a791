package testsrv

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"sttcp/e2e/rig/content"
)

// player is one connection of a Script server.
type player struct {
	name string
	r    *bufio.Reader
	c    *net.TCPConn

	// What the lines so far have set.
	rate  int64         // bytes per second, 0 for no limit
	idle  time.Duration // 0 for ever
	cut   cut           // of the next stream
	edits []Edit        // of the next stream
}

// cut ends a stream before its time.
type cut struct {
	how string // "fin", "rst", "hang", or "" for none
	at  int64  // bytes that are sent before
}

// errCut ends a connection as its client has asked for.
var errCut = errors.New("cut short as asked")

// command carries out a line. The connection ends after an error.
type command struct {
	words int // after the name
	do    func(p *player, f []string) error
}

var commands map[string]command

func init() { // a literal would refer to itself
	commands = map[string]command{
		"say":    {1, func(p *player, f []string) error { return p.write(f[0] + "\n") }},
		"put":    {1, func(p *player, f []string) error { return p.write(f[0]) }},
		"send":   {3, (*player).send},
		"text":   {3, (*player).text},
		"recv":   {1, (*player).recv},
		"wait":   {1, (*player).wait},
		"idle":   {1, (*player).setIdle},
		"rate":   {1, (*player).setRate},
		"cut":    {2, (*player).setCut},
		"edit":   {2, (*player).addEdit},
		"silent": {0, (*player).silent},
		"end":    {1, func(p *player, f []string) error { return p.end(f[0]) }},
	}
}

func script(s *Server, r *bufio.Reader, c *net.TCPConn) error {
	p := &player{name: s.spec.Name, r: r, c: c}
	for {
		line, err := p.line()
		if err == nil {
			err = p.do(line)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, errCut), errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return refuse(c, err)
		}
	}
}

// line waits for the next line, no longer than Script's idle allows.
func (p *player) line() (string, error) {
	var until time.Time
	if p.idle > 0 {
		until = time.Now().Add(p.idle)
	}
	if err := p.c.SetReadDeadline(until); err != nil {
		return "", err
	}
	line, err := readLine(p.r)
	return line, errors.Join(err, p.c.SetReadDeadline(time.Time{}))
}

// do carries out a line, if it is for this server.
func (p *player) do(line string) error {
	f := strings.Fields(line)
	if len(f) > 0 && strings.HasPrefix(f[0], "@") {
		if f[0] != "@"+p.name {
			return nil
		}
		f = f[1:]
	}
	if len(f) == 0 {
		return fmt.Errorf("parse %q: no command", line)
	}
	c, ok := commands[f[0]]
	if !ok || len(f)-1 != c.words {
		return fmt.Errorf("parse %q: no such command of %d words", line, len(f))
	}
	return c.do(p, f[1:])
}

func (p *player) write(s string) error {
	_, err := io.WriteString(p.c, s)
	return err
}

func (p *player) send(f []string) error {
	what, over, err := parsePaced(strings.Join(f, " "))
	if err != nil {
		return err
	}
	return p.stream(what.Reader(), what.Size, 1, over)
}

func (p *player) text(f []string) error {
	// The size of a text is not known before it is made.
	n, over, err := parsePaced(strings.Join(f, " "))
	if err != nil {
		return err
	}
	t := Text(int(n.Size), n.Seed, p.name)
	return p.stream(strings.NewReader(t), int64(len(t)), int64(len(t))/max(1, n.Size), over)
}

// stream sends what the lines before have made of a stream, in whole units.
func (p *player) stream(r io.Reader, size, unit int64, over time.Duration) error {
	for _, e := range p.edits {
		r, size = e.Apply(r), size+e.grows()
	}
	if p.rate > 0 {
		over = max(over, time.Duration(float64(size)/float64(p.rate)*float64(time.Second)))
	}
	cut := p.cut
	p.edits, p.cut.how = nil, ""
	if cut.how == "" {
		return sendEvenly(p.c, r, size, size, unit, over)
	}
	if err := sendEvenly(p.c, r, min(cut.at, size), size, unit, over); err != nil {
		return err
	}
	return p.end(cut.how)
}

// end ends the connection, or all that this server has to do with it.
func (p *player) end(how string) error {
	switch how {
	case "fin":
		return errCut
	case "rst":
		return errors.Join(errCut, drained(p.c), p.c.SetLinger(0)) // Close sends RST
	case "hang":
		return p.hang()
	}
	return fmt.Errorf("end with %q: want fin, rst or hang", how)
}

// hang neither reads nor writes until the connection is closed from outside.
func (p *player) hang() error {
	raw, err := p.c.SyscallConn()
	for err == nil {
		time.Sleep(20 * time.Millisecond)
		err = raw.Control(func(uintptr) {})
	}
	return errCut
}

// silent reads everything and answers nothing.
func (p *player) silent([]string) error {
	_, err := io.Copy(io.Discard, p.r)
	return errors.Join(errCut, err)
}

// recv reads bytes and says their SHA-256.
func (p *player) recv(f []string) error {
	n, err := parseSize(f[0])
	if err != nil {
		return err
	}
	sum, start := sha256.New(), time.Now()
	for done := int64(0); done < n; {
		if p.rate > 0 {
			time.Sleep(time.Duration(float64(done)/float64(p.rate)*float64(time.Second)) - time.Since(start))
		}
		k, err := io.CopyN(sum, p.r, min(4<<10, n-done))
		if done += k; err != nil {
			return err
		}
	}
	return p.write(hex.EncodeToString(sum.Sum(nil)) + "\n")
}

func (p *player) wait(f []string) error {
	d, err := time.ParseDuration(f[0])
	time.Sleep(d)
	return err
}

func (p *player) setIdle(f []string) (err error) {
	p.idle, err = time.ParseDuration(f[0])
	return err
}

// setRate also has the kernel take little from a client that is faster.
func (p *player) setRate(f []string) (err error) {
	if p.rate, err = parseSize(f[0]); err != nil {
		return err
	}
	return p.c.SetReadBuffer(16 << 10)
}

func (p *player) setCut(f []string) (err error) {
	p.cut.how = f[0]
	p.cut.at, err = parseSize(f[1])
	return err
}

func (p *player) addEdit(f []string) error {
	at, err := parseSize(f[1])
	if err != nil {
		return err
	}
	if f[0] != "flip" && f[0] != "add" && f[0] != "drop" {
		return fmt.Errorf("edit with %q: want flip, add or drop", f[0])
	}
	p.edits = append(p.edits, Edit{f[0], at})
	return nil
}

// Edit is one byte of a stream that is not as it should be: its lowest bit is
// flipped ("flip"), a "+" comes before it ("add"), or it is missing ("drop").
type Edit struct {
	How string
	At  int64 // offset in the stream, within it
}

// Apply returns r with the edit made.
func (e Edit) Apply(r io.Reader) io.Reader {
	head := io.LimitReader(r, e.At)
	switch e.How {
	case "flip":
		return io.MultiReader(head, &oneByte{r, func(b byte) []byte { return []byte{b ^ 1} }}, r)
	case "drop":
		return io.MultiReader(head, &oneByte{r, func(byte) []byte { return nil }}, r)
	}
	return io.MultiReader(head, strings.NewReader("+"), r)
}

func (e Edit) grows() int64 { return map[string]int64{"add": 1, "drop": -1}[e.How] }

// oneByte reads one byte of r, or what is to be in its place, and then ends.
type oneByte struct {
	r  io.Reader
	as func(byte) []byte
}

func (o *oneByte) Read(p []byte) (int, error) {
	if o.as == nil {
		return 0, io.EOF
	}
	var b [1]byte
	if _, err := io.ReadFull(o.r, b[:]); err != nil {
		return 0, err
	}
	n := copy(p, o.as(b[0]))
	o.as = nil
	return n, nil
}

// Text is what the server of that name sends for "text LINES ...": its lines
// have an eight-digit number behind "id=", which is its own, and are otherwise
// those of every server.
func Text(lines int, seed uint64, name string) string {
	var b strings.Builder
	for i := range lines {
		id := crc32.ChecksumIEEE([]byte(name + strconv.Itoa(i)))
		fmt.Fprintf(&b, "line %06d of %d id=%08d end\n", i, seed, id%1e8)
	}
	return b.String()
}

// sendEvenly sends the first bytes of a stream so fast that all of its size
// would take that time. It sends whole units, the last may be shorter.
func sendEvenly(w io.Writer, stream io.Reader, first, size, unit int64, over time.Duration) error {
	start := time.Now()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for sent := int64(0); sent < first; {
		due := min(first, allowed(size, time.Since(start), over))
		if due < first {
			due -= due % unit
		}
		if due > sent {
			n, err := io.CopyN(w, stream, due-sent)
			if err != nil {
				return err
			}
			sent += n
		}
		if sent < first {
			<-tick.C
		}
	}
	return nil
}

// sendPaced sends what a clock allows: at each moment the part of the stream
// that is the elapsed part of the time.
func sendPaced(w io.Writer, what content.Content, over time.Duration) error {
	return sendEvenly(w, what.Reader(), what.Size, what.Size, 1, over)
}
