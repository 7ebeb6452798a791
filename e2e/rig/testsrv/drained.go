package testsrv

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// drained waits until the peer's TCP has acknowledged all that was sent: a
// reset throws away what is still in the send queue.
func drained(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("ask send queue: %w", err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		var left int
		var askErr error
		err := raw.Control(func(fd uintptr) { left, askErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		switch {
		case err != nil:
			return fmt.Errorf("ask send queue: %w", err)
		case askErr != nil:
			return fmt.Errorf("ask send queue: %w", askErr)
		case left == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("wait for send queue: %d bytes left", left)
		}
		time.Sleep(time.Millisecond)
	}
}
