package stale

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// What callers may have to tell apart.
var (
	// ErrUnreadable (Open): the file can't be read, so it is not known which
	// servers are stale. Nothing was changed.
	ErrUnreadable = errors.New("which servers are stale is not known")
	// ErrLocked (Open): another process uses the directory.
	ErrLocked = errors.New("in use by another process")
	// ErrTooMany (Mark): no room for another entry; some hundreds fit.
	ErrTooMany = errors.New("too many stale servers for the file")
	// ErrClosed (Mark, Clear): the store was closed.
	ErrClosed = errors.New("store is closed")
)

// FileName is the name of the file in the state directory.
const FileName = "stale"

// maxReason bounds the text of one entry, in bytes.
const maxReason = 256

// Entry is one stale server.
type Entry struct {
	Service string    `json:"service"`
	Server  string    `json:"server"`
	Reason  string    `json:"reason"` // at most 256 bytes
	At      time.Time `json:"at"`
}

func compare(a, b Entry) int {
	return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Server, b.Server))
}

// Store is the open file.
type Store struct {
	// Constant after Open.
	path     string
	repaired bool
	lock     *os.File // the directory

	// Guarded by mu.
	mu   sync.Mutex
	file device // nil once closed
	st   state  // what is on disk and synced
	slot int    // where
	// unsure is set while a failed write may have left either state on disk;
	// then the next call writes even if nothing changes.
	unsure bool
}

// Open opens the store in dir, which it makes, with a new file in it, if
// there is none. It returns ErrLocked or ErrUnreadable where these are the
// reason. A slot that was torn by a crash is written again.
func Open(dir string) (*Store, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	s := &Store{path: filepath.Join(dir, FileName), lock: lock}
	if err := s.open(); err != nil {
		lock.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) open() error {
	if err := createIfMissing(s.lock, s.path); err != nil {
		return fmt.Errorf("create %s: %w", s.path, err)
	}
	file, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := s.load(file); err != nil {
		file.Close()
		return err
	}
	return nil
}

// Mark records that a server is stale, and returns when that is synced to
// disk. A server that is stale already keeps its first reason and time.
func (s *Store) Mark(service, server, reason string, at time.Time) error {
	e := Entry{service, server, shorten(reason), at.Round(0).UTC()}
	err := s.update(func(entries []Entry) []Entry {
		i, found := slices.BinarySearchFunc(entries, e, compare)
		if found {
			return entries
		}
		return slices.Insert(entries, i, e)
	})
	if err != nil {
		return fmt.Errorf("mark server %s of service %s as stale: %w", server, service, err)
	}
	return nil
}

// Clear records that a server is not stale any more, and returns when that is
// synced. If it fails the server may or may not be stale after a restart.
func (s *Store) Clear(service, server string) error {
	err := s.update(func(entries []Entry) []Entry {
		i, found := slices.BinarySearchFunc(entries, Entry{Service: service, Server: server}, compare)
		if !found {
			return entries
		}
		return slices.Delete(entries, i, i+1)
	})
	if err != nil {
		return fmt.Errorf("clear stale server %s of service %s: %w", server, service, err)
	}
	return nil
}

// List returns what is recorded, sorted by service and server.
func (s *Store) List() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.st.entries)
}

// Repaired reports whether Open found one of the two copies damaged or behind,
// as a crash in the middle of a write leaves it, and wrote it again.
func (s *Store) Repaired() bool { return s.repaired }

// Close lets other processes have the store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.file.Close(), s.lock.Close())
	s.file = nil
	if err != nil {
		return fmt.Errorf("close %s: %w", s.path, err)
	}
	return nil
}

// update makes what change returns (of a copy) the state, on disk first.
func (s *Store) update(change func([]Entry) []Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return ErrClosed
	}
	next := state{s.st.seq + 1, change(slices.Clone(s.st.entries))}
	if len(next.entries) == len(s.st.entries) && !s.unsure {
		return nil
	}
	buf, err := encode(next)
	if err != nil {
		return err
	}
	s.unsure = true
	if err := s.write(1-s.slot, buf); err != nil {
		return err
	}
	if err := s.file.datasync(); err != nil {
		return err
	}
	s.st, s.slot, s.unsure = next, 1-s.slot, false
	// The state is safe without its copy, and the next update overwrites it.
	_ = s.write(1-s.slot, buf)
	return nil
}

func (s *Store) write(slot int, buf []byte) error {
	_, err := s.file.WriteAt(buf, int64(slot)*slotSize)
	return err
}

// load reads the file, and makes both slots hold what counts.
func (s *Store) load(file *os.File) error {
	img, err := readImage(file)
	if err != nil {
		return s.unreadable(err)
	}
	var copied bool
	if s.st, s.slot, copied, err = img.read(); err != nil {
		return s.unreadable(err)
	}
	if err := unix.Fallocate(int(file.Fd()), 0, 0, fileSize); err != nil && !unsupported(err) {
		return fmt.Errorf("reserve the space of %s (it has holes, as a copy may have; free some disk space): %w", s.path, err)
	}
	s.file = diskFile{file}
	if err := s.repair(copied); err != nil {
		return fmt.Errorf("repair %s: %w", s.path, err)
	}
	return nil
}

// repair makes both slots hold what counts. What was read may be from the
// page cache, not synced by whoever wrote it: that comes first, or a power
// loss could find both slots torn.
func (s *Store) repair(copied bool) error {
	if err := s.file.datasync(); err != nil || copied {
		return err
	}
	s.repaired = true
	buf, err := encode(s.st)
	if err != nil {
		return err
	}
	if err := s.write(1-s.slot, buf); err != nil {
		return err
	}
	return s.file.datasync()
}

func (s *Store) unreadable(err error) error {
	return fmt.Errorf("read %s: %w: %w; nothing was changed. Find out which servers have the same data; "+
		"then move the file away (mv %[1]s %[1]s.damaged) and start again, which takes all servers for in sync",
		s.path, ErrUnreadable, err)
}

// shorten cuts a text to what an entry may hold, between characters.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= maxReason {
		return text
	}
	n := maxReason
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
