package demo

import (
	"fmt"

	"sttcp/e2e/lab"
)

// check is a statement that is true or not.
type check struct {
	ok      bool
	text    string
	details []string
}

// judge finds out what is true.
func judge(e *evidence) []check {
	return []check{e.bytes(), e.midStream(), e.oneConnection(), e.tookOver()}
}

// bytes is the point of it all.
func (e *evidence) bytes() check {
	r := e.result
	c := check{ok: r.Err == nil && r.Bytes == e.size && r.FirstDiff < 0 && r.SHA256 == r.Want,
		text: fmt.Sprintf("the client got exactly the %d bytes that it should", e.size)}
	c.details = []string{"got      SHA-256 " + r.SHA256, "expected SHA-256 " + r.Want}
	if r.Err != nil {
		c.details = append([]string{r.Err.Error()}, c.details...)
	}
	return c
}

// midStream sees to it that the failure was one.
func (e *evidence) midStream() check {
	return check{ok: e.struckAt > 0 && e.struckAt < e.size,
		text: fmt.Sprintf("%s died in mid-stream, after %s; the client's longest wait of all was %s",
			e.primary, mib(e.struckAt), wait(e.result.Longest))}
}

// oneConnection looks at the client's cable. The connection is still open, so
// that there must be no FIN either.
func (e *evidence) oneConnection() check {
	ports := map[uint16]bool{}
	c := check{text: fmt.Sprintf("one TCP connection, from port %d to the end: no reset, no FIN, still alive", e.local.Port())}
	for _, s := range e.wire {
		if s.Flags&lab.SYN != 0 && s.Dst == vip {
			ports[s.Src.Port()] = true
		}
		if s.Flags&(lab.RST|lab.FIN) != 0 {
			c.details = append(c.details, s.String())
		}
	}
	if len(ports) != 1 || !ports[e.local.Port()] {
		c.details = append(c.details, fmt.Sprintf("connections were opened from %d ports", len(ports)))
	}
	for _, err := range []error{e.wireErr, e.again} {
		if err != nil {
			c.details = append(c.details, err.Error())
		}
	}
	c.ok = len(c.details) == 0
	return c
}

// tookOver asks the gateway.
func (e *evidence) tookOver() check {
	c := check{ok: e.nowErr == nil && e.now != "" && e.now != e.primary,
		text: fmt.Sprintf("the gateway went on with %s", e.now)}
	if !c.ok {
		c.text = fmt.Sprintf("the gateway went on with the other server (it has %q, before %q)", e.now, e.primary)
	}
	if e.nowErr != nil {
		c.details = []string{e.nowErr.Error()}
	}
	return c
}
