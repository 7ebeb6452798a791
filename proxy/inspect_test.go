package proxy

import (
	"net"
	"testing"
)

// TestConnections has two clients half way: what is told of each is true.
func TestConnections(t *testing.T) {
	r := newRig(t, nil, func(_ *rig, which int, c *net.TCPConn) {
		if which == 1 { // answers nothing: the backup of one, the primary of the other
			readAll(c)
			return
		}
		echo(nil, which, c)
	})
	first, second := r.dial(), r.dial()
	write(t, first, "hello")
	write(t, second, "hi")
	if err := second.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var list []ConnStatus
	eventually(t, "both connections half way", func() bool {
		list, _ = r.p.Connections(10)
		return len(list) == 2 && list[0].In == 5 && list[1].ClientFIN &&
			list[0].Legs[0].Acked == 5 && list[0].Legs[0].Read+list[0].Legs[1].Read == 5
	})
	c := list[0]
	if c.Service != "svc" || c.Client != first.LocalAddr().String() || c.Out != 0 || c.ClientFIN || c.Blocked || c.Frozen {
		t.Errorf("the first connection: %+v", c)
	}
	if list[1].ID <= c.ID || list[1].In != 2 || list[1].Primary == c.Primary {
		t.Errorf("the second connection: %+v", list[1])
	}
	for _, l := range c.Legs {
		silent := l.Server == "s2"
		if l.Sent != 5 || l.State != "live" || silent != (l.Read == 0) || silent != l.Owes {
			t.Errorf("the first connection's leg: %+v", l)
		}
	}
	if few, more := r.p.Connections(1); len(few) != 1 || more != 1 {
		t.Errorf("of two connections, one at most: %d, and %d more", len(few), more)
	}
}

// readAll reads until the end of the connection.
func readAll(c *net.TCPConn) {
	buf := make([]byte, 1024)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// After the end there is nothing to see, and nobody to wait for.
func TestConnectionsAfterClose(t *testing.T) {
	r := newRig(t, nil, echo)
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	if list, more := r.p.Connections(10); len(list) != 0 || more != 0 {
		t.Errorf("%d connections and %d more after the end", len(list), more)
	}
}
