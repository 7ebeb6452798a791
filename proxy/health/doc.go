// Package health checks whether servers can serve: a TCP handshake within a
// time-out and, where configured, a question sent and an answer expected.
//
// Checks come round at an interval, and rise or fall of them in a row make a
// verdict. A connection that suspects a server has it probed at once: the
// probe is answered to those who asked, and neither adds to rise nor to fall,
// which are meant to be so many intervals.
//
// # What a check leaves behind
//
// A check that only connects ends with a reset in place of the handshake's
// last ACK, as HAProxy does it: the server's kernel has shown that it accepts
// connections, its program never sees one, logs nothing and forks nothing,
// and no TIME_WAIT is left here, of which four checks a second would keep 240
// per server. A check that has a conversation closes as any client does.
//
// # One's own slowness
//
// A check that failed while this process was stopped or starved says nothing
// about the server: what arrived in time was looked at too late. Such a
// failure does not count, unless the server's kernel has said no (connection
// refused), and not more than three times in a row, lest a busy gateway never
// finds a dead server. A failure of this machine (no descriptors, no ports)
// never counts. A probe so excused is made again for those who wait.
//
// # Concurrency
//
// Every server has a goroutine, which makes all calls that are about it, one
// at a time; calls about different servers are concurrent. What is called must
// not call Close, and holds up that server's checks while it runs. All methods
// are safe for concurrent use. After Close nothing runs and nothing is called.
package health
