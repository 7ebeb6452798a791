package testsrv_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/rig/testsrv"
)

// until waits for a condition.
func until(t *testing.T, what string, cond func() error) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	addr := serve(t, testsrv.Spec{Proto: testsrv.Echo, Record: dir})
	has := func(want ...testsrv.Record) {
		t.Helper()
		until(t, "records", func() error {
			got, err := testsrv.Records(dir)
			same := func(a, b testsrv.Record) bool { return string(a.Bytes) == string(b.Bytes) && a.End == b.End }
			if err == nil && !slices.EqualFunc(got, want, same) {
				err = fmt.Errorf("they are %q", got)
			}
			return err
		})
	}
	has()
	open := dial(t, addr)
	open.ask(t, "open", "open")
	first := testsrv.Record{Bytes: []byte("open")}
	has(first)
	ends := dial(t, addr)
	ends.ask(t, "ends", "ends")
	ends.wantEnd(t)
	second := testsrv.Record{Bytes: []byte("ends"), End: "fin"}
	has(first, second)

	// Reset while the server can't write: its queue is full.
	reset := dial(t, addr)
	long := strings.Repeat("x", 16<<20)
	if err := reset.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(reset.TCPConn, long) // as much as goes
	if err := reset.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	reset.TCPConn.Close()
	until(t, "the reset", func() error {
		got, err := testsrv.Records(dir)
		if err == nil && (len(got) != 3 || got[2].End != "rst" || len(got[2].Bytes) == 0) {
			err = fmt.Errorf("there are %d records", len(got))
		}
		return err
	})
}

func TestUrgent(t *testing.T) {
	c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Urgent}))
	marks, err := testsrv.NewMarks(c.TCPConn)
	if err != nil {
		t.Fatal(err)
	}
	wants := func(want string, urgent bool) {
		t.Helper()
		for want != "" {
			b, marked, err := marks.Read(len(want))
			if err != nil || marked != urgent || !strings.HasPrefix(want, string(b)) {
				t.Fatalf("%q, urgent %v, %v; want %q, %v", b, marked, err, want, urgent)
			}
			want = want[len(b):]
		}
	}
	for i, before := range []string{"", "abc", "d"} {
		if _, err := io.WriteString(c.TCPConn, before); err != nil {
			t.Fatal(err)
		}
		if err := testsrv.SendUrgent(c.TCPConn, '!'); err != nil {
			t.Fatal(err)
		}
		wants(fmt.Sprintf("%d ", []int{0, 4, 6}[i]), false)
		wants("!", true)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wants("end 7\n", false)
	if b, _, err := marks.Read(1); err != io.EOF {
		t.Errorf("after the end: %q, %v", b, err)
	}
}
