package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"sttcp/e2e/rig"
)

// pipeline writes to Redis in bulk: batches of commands are sent without
// waiting, and every reply is compared with what a model of Redis says.
type pipeline struct {
	name  string // part of all keys, so that several do not meet
	model model  // of all commands that were sent; talk's alone until it has ended
}

// The shape of a pipeline.
const (
	batchKeys   = 8 // per batch so many SET, INCR and RPUSH
	batchWindow = 8 // batches that may be sent ahead of their replies
	batchPace   = 4 * time.Millisecond
)

func startRedis(w *world, host string) (*rig.Server, error) {
	return rig.StartRedis(w.ctx, w.lab, host, 0)
}

func (r *pipeline) serve(w *world, host string) (*rig.Server, error) { return startRedis(w, host) }

func (r *pipeline) port() uint16  { return 6379 }
func (r *pipeline) extra() string { return "" }

// strike is after some dozens of batches.
func (r *pipeline) strike(share float64) int64 { return 20 + int64(share*150) }

func (r *pipeline) talk(c *rig.Conn, p *progress) error {
	r.model = model{}
	sent := make(chan []string, batchWindow) // the replies to expect
	failed := make(chan error, 1)
	go func() {
		defer close(sent)
		failed <- r.send(c, p, sent)
	}()
	err := r.receive(c, p, sent)
	if err != nil {
		c.Close() // ends send
		for range sent {
		}
	}
	if e := <-failed; err == nil {
		err = e
	}
	return err
}

// send sends batches until enough are sent.
func (r *pipeline) send(c *rig.Conn, p *progress, sent chan<- []string) error {
	pace := time.NewTicker(batchPace)
	defer pace.Stop()
	ending := p.ending(50)
	for i := 0; !ending.over(); i++ {
		wire, replies := r.batch(i)
		sent <- replies
		if _, err := c.Write(wire); err != nil {
			return fmt.Errorf("send batch %d: %w", i, err)
		}
		<-pace.C
	}
	return nil
}

// batch is the commands number i, as they are sent, and their replies.
func (r *pipeline) batch(i int) (wire []byte, replies []string) {
	for j := range batchKeys {
		for _, cmd := range [][]string{
			{"SET", fmt.Sprintf("%sset:%d:%d", r.name, i%100, j), fmt.Sprintf("value-%d-%d", i, j)},
			{"INCR", fmt.Sprintf("%scount:%d", r.name, j)},
			{"RPUSH", fmt.Sprintf("%slist:%d", r.name, j), fmt.Sprintf("item-%d-%d", i, j)},
		} {
			wire = rig.AppendRedis(wire, cmd...)
			replies = append(replies, r.model.do(cmd))
		}
	}
	return wire, replies
}

func (r *pipeline) receive(c *rig.Conn, p *progress, sent <-chan []string) error {
	for replies := range sent {
		for i, want := range replies {
			got, err := c.ReadReply()
			if err != nil {
				return fmt.Errorf("reply %d of batch %d: %w", i, p.value(), err)
			}
			if got != want {
				return fmt.Errorf("reply %d of batch %d is %q, want %q", i, p.value(), got, want)
			}
		}
		p.add(1)
	}
	return nil
}

// check wants the survivor to hold exactly what the replies have told: no
// command was lost, none was done twice.
func (r *pipeline) check(w *world, survivor *rig.Server) error {
	return sameData(dump(w, survivor.Host.Name()), r.model.dump())
}

// model is what a Redis holds: strings, and lists as their items.
type model map[string][]string

// do carries out a command and returns its reply.
func (m model) do(cmd []string) string {
	key := cmd[1]
	switch cmd[0] {
	case "SET":
		m[key] = cmd[2:]
		return "OK"
	case "INCR":
		n := 0
		if v := m[key]; v != nil {
			_, _ = fmt.Sscan(v[0], &n) // it is ours
		}
		m[key] = []string{fmt.Sprint(n + 1)}
		return m[key][0]
	case "RPUSH":
		m[key] = append(m[key], cmd[2])
		return fmt.Sprint(len(m[key]))
	}
	return "unknown command " + cmd[0]
}

// dump is all data, as dumpScript writes it.
func (m model) dump() string {
	var lines []string
	for key, items := range m {
		lines = append(lines, key+"="+strings.Join(items, ","))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// dumpScript writes all data of a Redis as sorted lines KEY=ITEM,ITEM.
const dumpScript = `local out = {}
for _, k in ipairs(redis.call('keys', '*')) do
  local v
  if redis.call('type', k).ok == 'list' then v = table.concat(redis.call('lrange', k, 0, -1), ',')
  else v = redis.call('get', k) end
  out[#out+1] = k .. '=' .. v
end
table.sort(out)
return table.concat(out, '\n')`

// dump is all data of the Redis on a host, asked past the gateway.
func dump(w *world, host string) string {
	w.Helper()
	return w.direct(host, "EVAL", dumpScript, "0")
}

// direct asks the Redis on a host from the host itself.
func (w *world) direct(host string, args ...string) string {
	w.Helper()
	c := w.dialFrom(host, "127.0.0.1:6379")
	defer c.Close()
	reply, err := c.Redis(args...)
	w.no(err)
	return reply
}

// sameData compares two dumps and tells the first lines that differ.
func sameData(got, want string) error {
	if got == want {
		return nil
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if a, b := at(g, i), at(w, i); a != b {
			return fmt.Errorf("data differ: %d keys, want %d; the first: %s, want %s", len(g), len(w), short(a), short(b))
		}
	}
	return nil
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "(none)"
}

// short is the two ends of a long string.
func short(s string) string {
	if len(s) > 160 {
		return fmt.Sprintf("%q ... %q (%d bytes)", s[:80], s[len(s)-80:], len(s))
	}
	return fmt.Sprintf("%q", s)
}
