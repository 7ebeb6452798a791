package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// closing are ways to end, or not to go on.
var closing = []misdeed{
	{name: "closes early", who: either, says: "@VICTIM cut fin OFFSET" + aStream, gets: wholeStream, drops: []string{"closed-early"}},
	{name: "resets", who: either, says: "@VICTIM cut rst OFFSET" + aStream, gets: wholeStream, drops: []string{"closed-early"}},
	{name: "answers, then hangs", who: either, says: "@VICTIM cut hang OFFSET" + aStream, gets: wholeStream, drops: []string{"lag"}},
	{name: "never answers", who: either, says: "@VICTIM silent" + aStream, gets: wholeStream, drops: []string{"lag"}},
	{name: "reads, never answers", who: either, says: "@VICTIM silent\nrecv 3000000", up: 3000000, gets: hashed, drops: []string{"lag"}},
	{name: "stops reading", who: either, says: "@VICTIM end hang\nrecv 20000000", up: 20000000, gets: hashed, drops: []string{"lag"}},
	{name: "both close alike", says: "cut fin 700000" + aStream, gets: beginning(700000), over: "fin"},
	{name: "both reset alike", says: "cut rst 700000" + aStream, gets: beginning(700000), over: "rst"},
	{name: "idle time-outs apart", who: either, says: "@VICTIM idle 500ms\n@OTHER idle 1500ms\nsay hi", gets: word("hi"), over: "fin"},
}

// slow are ways to be slower than the other server, and yet alive.
var slow = []misdeed{
	{name: "reads slowly", who: either, says: "@VICTIM rate 1500000\nrecv 3000000", up: 3000000, gets: hashed},
	{name: "slower by 1", who: either, says: "@VICTIM rate 1048576" + aStream, gets: wholeStream},
	{name: "slower by 10", who: either, says: "@VICTIM rate 400000\nsend 1048576 0.25s 1", gets: wholeStream},
	{name: "slower by 1000", who: either, says: "@VICTIM rate 4000\nsend 12000 3ms 1", gets: beginning(12000)},
	{name: "thinks for a second", who: either, says: "@VICTIM wait 1s\nsay hi", gets: word("hi")},
}

// dying are ends of a whole process, with its queues full and empty, and a
// program that is stopped.
var dying = []misdeed{
	{name: "killed, queues full, download", who: either, says: "send 60000000 0s 1", gets: beginning(60000000),
		at: 1 << 20, stall: true, strike: kill9, drops: []string{"closed-early", "dead"}},
	{name: "killed, queues full, upload", who: either, says: "wait 3s\nrecv 30000000", up: 30000000, gets: hashed,
		at: 1 << 20, stall: true, strike: kill9, drops: []string{"closed-early", "dead"}},
	{name: "killed, queues empty", who: either, says: "say hi", gets: word("hi\nagain"),
		at: 3, strike: kill9, then: "say again", drops: []string{"closed-early", "dead"}},
	{name: "stopped, download", who: either, says: "send 2000000 2s 1", gets: beginning(2000000),
		at: 1 << 20, strike: stopped, drops: []string{"lag"}},
	{name: "stopped, upload", who: either, says: "rate 10000000\nrecv 20000000", up: 20000000, gets: hashed,
		at: 1 << 20, strike: stopped, drops: []string{"lag"}},
}

func kill9(p *play) error   { return p.own[p.victim].KillGroup9() }
func stopped(p *play) error { return p.own[p.victim].SignalGroup(unix.SIGSTOP) }

// TestServersMisbehave has a server fail in every way that a program can. The
// client gets every byte right, and who fails is given up, and nobody else.
func TestServersMisbehave(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	perform(t, append(append(plays(r, closing, false), plays(r, slow, true)...), plays(r, dying, false)...))
}

// edits are the ways for one byte to be wrong.
var edits = []string{"flip", "add", "drop"}

// bothEnds is what a client gets when only lengths count: the primary's answer,
// and where that is shorter, then the rest of the backup's.
func bothEnds(edit string) func(*play) io.Reader {
	return func(p *play) io.Reader {
		mine, _ := io.ReadAll(p.answerOf(p.primary, edit)) // neither fails
		theirs, _ := io.ReadAll(p.answerOf(other(p.primary), edit))
		if len(mine) < len(theirs) {
			mine = append(mine, theirs[len(mine):]...)
		}
		return strings.NewReader(string(mine))
	}
}

// answerOf is what a server answers.
func (p *play) answerOf(server, edit string) io.Reader {
	r := wholeStream(p)
	if server == p.victim {
		r = testsrv.Edit{How: edit, At: p.offset}.Apply(r)
	}
	return r
}

func primarys(edit string) func(*play) io.Reader {
	return func(p *play) io.Reader { return p.answerOf(p.primary, edit) }
}

// upToOffset is what both servers answer alike.
func upToOffset(p *play) io.Reader { return content.Content{Seed: 1, Size: p.offset + 1}.Reader() }

// wrongBytes are one wrong byte under each way to compare.
func wrongBytes() (list []misdeed) {
	for _, edit := range edits {
		says := "@VICTIM edit " + edit + " OFFSET" + aStream
		row := func(how, keys string) misdeed {
			return misdeed{name: edit + " " + how, who: either, keys: keys, says: says, gets: primarys(edit)}
		}
		mute, eject := row("mute", "on_divergence: mute"), row("eject", "on_divergence: eject")
		mute.voice, eject.voice = true, true
		eject.drops, eject.loser = []string{"diverged"}, "BACKUP"
		reset := row("reset", "on_divergence: reset")
		reset.voice, reset.gets, reset.over = true, upToOffset, "rst"
		length := row("length", "compare: {mode: length}")
		length.gets = bothEnds(edit)
		switch edit { // who has less owes
		case "add":
			length.drops, length.loser = []string{"lag"}, "OTHER"
		case "drop":
			length.drops = []string{"lag"}
		}
		off, stays := row("off", "compare: {mode: off}"), row("off stays", "compare: {mode: off}")
		stays.says += "\nwait 3s\nsay bye" // longer than lag.limit
		stays.gets = func(p *play) io.Reader {
			return io.MultiReader(p.answerOf(p.primary, edit), strings.NewReader("bye\n"))
		}
		list = append(list, mute, eject, reset, length, off, stays)
	}
	return list
}

// The text of the masked services: its numbers differ.
const (
	textLines = 12000
	textMask  = `compare: {mode: exact, mask: ['id=\d{8}']}`
)

var aText = fmt.Sprintf("\ntext %d 1s 5", textLines)

// masked are wrong bytes within and without what is masked. A digit that was
// flipped is a digit.
func maskedBytes() []misdeed {
	text := func(p *play) io.Reader {
		r := io.Reader(strings.NewReader(testsrv.Text(textLines, 5, p.primary)))
		for line := range strings.Lines(p.words(p.says)) {
			f := strings.Fields(line)
			if f[0] == "@"+p.primary {
				var e testsrv.Edit
				_, _ = fmt.Sscan(strings.Join(f[2:], " "), &e.How, &e.At) // our own text
				r = e.Apply(r)
			}
		}
		return r
	}
	in, out := maskedOffsets()
	row := func(how, edit string, at int, differs bool) misdeed {
		return misdeed{name: how, who: either, keys: textMask, gets: text, voice: differs,
			says: fmt.Sprintf("@VICTIM edit %s %d", edit, at) + aText}
	}
	return []misdeed{
		{name: "mask half sent", who: either, keys: textMask, gets: halfSent,
			says: "@VICTIM put id=1234\n@VICTIM wait 120ms\n@VICTIM say 5678-end\n@OTHER say id=99999999-end"},
		{name: "text", keys: textMask, gets: text, says: strings.TrimSpace(aText)},
		row("mask flip in", "flip", in, false), row("mask flip out", "flip", out, true),
		row("mask add in", "add", in, true), row("mask add out", "add", out, true),
		row("mask drop in", "drop", in, true), row("mask drop out", "drop", out, true),
		row("mask flip newline", "flip", strings.LastIndexByte(testsrv.Text(textLines, 5, "s1")[:out], '\n'), true),
	}
}

// halfSent is the line that one server sends in two parts, amid what is masked.
func halfSent(p *play) io.Reader {
	if p.victim == p.primary {
		return strings.NewReader("id=12345678-end\n")
	}
	return strings.NewReader("id=99999999-end\n")
}

// maskedOffsets are offsets in the middle of the text that are masked, and
// not.
func maskedOffsets() (in, out int) {
	text := testsrv.Text(textLines, 5, "s1")
	id := strings.Index(text[len(text)/2:], "id=") + len(text)/2
	return id + 3, id + 1
}

// TestServersAnswerWrong has one byte wrong at one server. The client gets one
// server's answer, and what was to be noticed is.
func TestServersAnswerWrong(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	perform(t, append(plays(r, wrongBytes(), true), plays(r, maskedBytes(), true)...))
}
