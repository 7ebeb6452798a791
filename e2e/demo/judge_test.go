package demo

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

var (
	client = netip.MustParseAddrPort("10.9.0.10:40000")
	other  = netip.MustParseAddrPort("10.9.0.10:40001")
)

// good is what an act leaves when all is well.
func good() *evidence {
	return &evidence{
		size: 1000, struck: time.Now(), struckAt: 400, local: client, primary: "s1", now: "s2",
		result: rig.Result{Bytes: 1000, SHA256: "aa", Want: "aa", FirstDiff: -1,
			Longest: rig.Gap{Offset: 400, Length: 12 * time.Millisecond}},
		wire: []lab.Segment{
			{Src: client, Dst: vip, Flags: lab.SYN}, {Src: client, Dst: vip, Flags: lab.SYN}, // sent again
			{Src: vip, Dst: client, Flags: lab.SYN | lab.ACK},
		},
	}
}

func TestJudgeGood(t *testing.T) {
	for _, c := range judge(good()) {
		if !c.ok || c.text == "" {
			t.Errorf("%+v", c)
		}
	}
	if text := judge(good())[1].text; !strings.Contains(text, "12 ms") {
		t.Errorf("the wait is not in %q", text)
	}
}

// TestJudgeBad spoils one fact after another; exactly one check must fail and
// say what it was about.
func TestJudgeBad(t *testing.T) {
	segment := func(src, dst netip.AddrPort, flags lab.TCPFlags) func(*evidence) {
		return func(e *evidence) { e.wire = append(e.wire, lab.Segment{Src: src, Dst: dst, Flags: flags}) }
	}
	for _, tt := range []struct {
		name  string
		spoil func(*evidence)
		says  string
	}{
		{"a wrong byte", func(e *evidence) { e.result.FirstDiff = 500 }, "exactly the 1000 bytes"},
		{"an error", func(e *evidence) { e.result.Err = errors.New("byte 500") }, "byte 500"},
		{"another hash", func(e *evidence) { e.result.SHA256 = "ab" }, "SHA-256 ab"},
		{"bytes missing", func(e *evidence) { e.result.Bytes = 999 }, "exactly the 1000 bytes"},
		{"struck before", func(e *evidence) { e.struckAt = 0 }, "mid-stream"},
		{"struck after", func(e *evidence) { e.struckAt = 1000 }, "mid-stream"},
		{"a second connection", segment(other, vip, lab.SYN), "2 ports"},
		{"no connection seen", func(e *evidence) { e.wire = nil }, "0 ports"},
		{"another connection", func(e *evidence) { e.local = other }, "1 ports"},
		{"a reset to the client", segment(vip, client, lab.RST), "[rst]"},
		{"a reset by the client", segment(client, vip, lab.RST|lab.ACK), "[rst|ack]"},
		{"a FIN", segment(vip, client, lab.FIN|lab.ACK), "[fin|ack]"},
		{"frames lost", func(e *evidence) { e.wireErr = lab.ErrFramesLost }, "lost frames"},
		{"no second answer", func(e *evidence) { e.again = errors.New("no answer") }, "no answer"},
		{"the same primary", func(e *evidence) { e.now = "s1" }, `it has "s1", before "s1"`},
		{"no primary", func(e *evidence) { e.now, e.nowErr = "", errors.New("there is none") }, "there is none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := good()
			tt.spoil(e)
			failed := 0
			for _, c := range judge(e) {
				if c.ok {
					continue
				}
				failed++
				if all := c.text + strings.Join(c.details, " "); !strings.Contains(all, tt.says) {
					t.Errorf("%q does not say %q", all, tt.says)
				}
			}
			if failed != 1 {
				t.Errorf("%d checks failed", failed)
			}
		})
	}
}
