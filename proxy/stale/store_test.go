package stale

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// Children of the tests are this same binary.
func TestMain(m *testing.M) {
	switch role := os.Getenv("STTCP_STALE_CHILD"); role {
	case "":
		os.Exit(m.Run())
	case "marker":
		os.Exit(markForever(os.Args[len(os.Args)-1]))
	default:
		os.Exit(onFullDisk(role, os.Args[len(os.Args)-1]))
	}
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, filepath.Dir(s.path))
}

func mark(t *testing.T, s *Store, service, server, reason string) {
	t.Helper()
	if err := s.Mark(service, server, reason, noon); err != nil {
		t.Fatal(err)
	}
}

func names(s *Store) string {
	var out []string
	for _, e := range s.List() {
		out = append(out, e.Service+"/"+e.Server+":"+e.Reason)
	}
	return strings.Join(out, " ")
}

func TestRoundTrip(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "not", "there", "yet"))
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, ""},
		{func() error { return s.Mark("web", "s2", "lag", noon) }, "web/s2:lag"},
		{func() error { return s.Mark("db", "s9", "refused", noon) }, "db/s9:refused web/s2:lag"},
		{func() error { return s.Mark("web", "s2", "later", noon.Add(1)) }, "db/s9:refused web/s2:lag"},
		{func() error { return s.Clear("web", "s9") }, "db/s9:refused web/s2:lag"},
		{func() error { return s.Clear("db", "s9") }, "web/s2:lag"},
		{func() error { return s.Clear("web", "s2") }, ""},
		{func() error { return s.Mark("web", "S2", "case counts", noon) }, "web/S2:case counts"},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got := names(s); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
		s = reopen(t, s)
		if got := names(s); got != step.want || s.Repaired() {
			t.Errorf("after opening again: %q, want %q; repaired %v", got, step.want, s.Repaired())
		}
	}
}

func TestEntryKeepsAll(t *testing.T) {
	s := open(t, t.TempDir())
	at := time.Now()
	long := strings.Repeat("a", maxReason-1) + "é and so on"
	if err := s.Mark(`we"b`, "s<1>", long+"\xff", at); err != nil {
		t.Fatal(err)
	}
	before := s.List()
	after := reopen(t, s).List()
	if !reflect.DeepEqual(before, after) || !after[0].At.Equal(at) || after[0].Service != `we"b` {
		t.Errorf("%+v, then %+v", before, after)
	}
	if r := after[0].Reason; r != long[:maxReason-1] || !utf8.ValidString(r) {
		t.Errorf("reason %q", r)
	}
}

func TestLocked(t *testing.T) {
	s := open(t, t.TempDir())
	if _, err := Open(filepath.Dir(s.path)); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	s = reopen(t, s)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := s.Mark("web", "s1", "", noon); !errors.Is(err, ErrClosed) {
		t.Errorf("mark when closed: %v", err)
	}
}

// TestUnreadable: a damaged file is an error that says what to do, and is left
// as it is; following the advice works.
func TestUnreadable(t *testing.T) {
	good := open(t, t.TempDir())
	mark(t, good, "web", "s2", "lag")
	whole, err := os.ReadFile(good.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty": {}, "zeros": make([]byte, fileSize), "short": whole[:10],
		"other": []byte(strings.Repeat("not ours ", 20_000)), "slot": make([]byte, slotSize),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, FileName)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir)
		if !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), "mv "+path+" "+path+".damaged") {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(content) {
			t.Errorf("%s: the file was changed, %v", name, err)
		}
		if err := os.Rename(path, path+".damaged"); err != nil {
			t.Fatal(err)
		}
		mark(t, open(t, dir), "web", "s1", "works again")
	}
}

// TestRepair: one damaged slot, or a file that lost its second half, loses
// nothing, and both slots are whole again afterwards.
func TestRepair(t *testing.T) {
	for name, damage := range map[string]func(f *os.File) error{
		"slot 0": func(f *os.File) error { _, err := f.WriteAt(make([]byte, 100), 0); return err },
		"slot 1": func(f *os.File) error { _, err := f.WriteAt(make([]byte, 100), slotSize); return err },
		"half":   func(f *os.File) error { return f.Truncate(slotSize) },
	} {
		s := open(t, t.TempDir())
		mark(t, s, "web", "s1", "lag")
		mark(t, s, "web", "s2", "lag")
		if err := damage(s.file.(diskFile).File); err != nil {
			t.Fatal(err)
		}
		s = reopen(t, s)
		if got := names(s); got != "web/s1:lag web/s2:lag" || !s.Repaired() {
			t.Errorf("%s: %q, repaired %v", name, got, s.Repaired())
		}
		if s = reopen(t, s); s.Repaired() {
			t.Errorf("%s: repaired twice", name)
		}
	}
}

// TestFailedWrite: what was not written is not believed, and is made sure of
// later, also by a call that changes nothing.
func TestFailedWrite(t *testing.T) {
	s := open(t, t.TempDir())
	mark(t, s, "web", "s1", "lag")
	good := s.file
	readOnly, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	s.file = diskFile{readOnly}
	if s.Mark("web", "s2", "lag", noon) == nil || s.Clear("web", "s1") == nil || s.Mark("web", "s1", "", noon) == nil {
		t.Error("writes that fail were taken for good")
	}
	if got := names(s); got != "web/s1:lag" {
		t.Errorf("state is %q", got)
	}
	s.file = good
	seq := s.st.seq
	if err := s.Clear("web", "s7"); err != nil || s.st.seq != seq+1 || s.unsure {
		t.Errorf("clear: %v, sequence %d, was %d", err, s.st.seq, seq)
	}
	if got := names(reopen(t, s)); got != "web/s1:lag" {
		t.Errorf("state is %q", got)
	}
}

func TestTooMany(t *testing.T) {
	s := open(t, t.TempDir())
	var err error
	n := 0
	for ; err == nil && n < 5000; n++ {
		err = s.Mark("web", fmt.Sprintf("s%05d", n), strings.Repeat("x", maxReason), noon)
	}
	if !errors.Is(err, ErrTooMany) {
		t.Fatal(err)
	}
	if err := s.Clear("web", "s00000"); err != nil {
		t.Error(err)
	}
	if s = reopen(t, s); len(s.List()) != n-2 {
		t.Errorf("%d entries, want %d", len(s.List()), n-2)
	}
}

func TestConcurrent(t *testing.T) {
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 10 {
				name := fmt.Sprintf("s%d-%d", g, i)
				if err := s.Mark("web", name, "lag", noon); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if err := s.Clear("web", name); err != nil {
						t.Error(err)
					}
				}
				s.List()
			}
		})
	}
	wg.Wait()
	before := names(s)
	if got := names(reopen(t, s)); got != before || len(strings.Fields(got)) != 40 {
		t.Errorf("%q, then %q", before, got)
	}
}

// TestKilled kills a process that marks one server after another: whatever it
// was told is recorded is found afterwards.
func TestKilled(t *testing.T) {
	for round := range 8 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], dir)
		cmd.Env = append(os.Environ(), "STTCP_STALE_CHILD=marker")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := ""
		for in, n := bufio.NewScanner(out), 0; in.Scan(); n++ {
			if last = in.Text(); n == 3+7*round {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if got := names(open(t, dir)); !strings.Contains(got, last+":") {
			t.Errorf("%s was recorded and is lost: %q", last, got)
		}
	}
}

// markForever is the child of TestKilled.
func markForever(dir string) int {
	s, err := Open(dir)
	for i := 0; err == nil; i++ {
		name := fmt.Sprintf("s%04d", i)
		if i > 20 {
			err = s.Clear("web", fmt.Sprintf("s%04d", i-20))
		}
		if err == nil {
			err = s.Mark("web", name, "lag", time.Now())
		}
		fmt.Println("web/" + name)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
