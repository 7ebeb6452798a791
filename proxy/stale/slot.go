package stale

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	slotSize   = 64 << 10
	fileSize   = 2 * slotSize
	headerSize = 32
	version    = 1
	blockSize  = 4096 // writes are whole blocks, so that none is read first
)

// magic begins a slot.
var magic = [8]byte{'S', 'T', 'T', 'C', 'P', 's', 't', 'l'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errDamaged = errors.New("damaged")
	errVersion = errors.New("written by another version of sttcp")
)

// state is what one slot holds.
type state struct {
	seq     uint64
	entries []Entry // sorted
}

// encode returns st as a slot begins, filled up to whole blocks. Layout, all
// numbers little-endian:
//
//	0 magic | 8 version | 12 length of payload | 16 sequence | 24 zero | 28 CRC
//	32 payload: the entries as JSON
//
// The CRC-32C covers header (without itself) and payload.
func encode(st state) ([]byte, error) {
	payload, err := json.Marshal(st.entries)
	if err != nil {
		return nil, fmt.Errorf("encode stale servers: %w", err)
	}
	if len(payload) > slotSize-headerSize {
		return nil, fmt.Errorf("encode %d stale servers: %w", len(st.entries), ErrTooMany)
	}
	buf := make([]byte, (headerSize+len(payload)+blockSize-1)/blockSize*blockSize)
	copy(buf, magic[:])
	binary.LittleEndian.PutUint32(buf[8:], version)
	binary.LittleEndian.PutUint32(buf[12:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(buf[16:], st.seq)
	copy(buf[headerSize:], payload)
	binary.LittleEndian.PutUint32(buf[28:], checksum(buf, len(payload)))
	return buf, nil
}

func checksum(slot []byte, length int) uint32 {
	sum := crc32.Checksum(slot[:28], castagnoli)
	return crc32.Update(sum, castagnoli, slot[headerSize:headerSize+length])
}

// content is a slot whose checksum is right.
type content struct {
	seq     uint64
	payload []byte
}

// verify reads a slot. It trusts nothing before the checksum is right.
func verify(slot []byte) (content, error) {
	if len(slot) < headerSize || !bytes.Equal(slot[:8], magic[:]) {
		return content{}, fmt.Errorf("%w: no header", errDamaged)
	}
	length := int64(binary.LittleEndian.Uint32(slot[12:]))
	if length > int64(len(slot)-headerSize) {
		return content{}, fmt.Errorf("%w: length %d", errDamaged, length)
	}
	if got, want := checksum(slot, int(length)), binary.LittleEndian.Uint32(slot[28:]); got != want {
		return content{}, fmt.Errorf("%w: checksum %#x, want %#x", errDamaged, got, want)
	}
	if v := binary.LittleEndian.Uint32(slot[8:]); v != version {
		return content{}, fmt.Errorf("%w: %d, this one reads %d", errVersion, v, version)
	}
	return content{binary.LittleEndian.Uint64(slot[16:]), slot[headerSize : headerSize+length]}, nil
}

// image is both slots as read.
type image [2][]byte

// pick returns what counts, which slot it is in, and whether the other slot
// holds the same. It fails if neither slot can be read, or one was written by
// another version, which may hold more than this one knows of.
func (img image) pick() (c content, slot int, copied bool, err error) {
	var cs [2]content
	var errs [2]error
	for i := range img {
		cs[i], errs[i] = verify(img[i])
		if errors.Is(errs[i], errVersion) {
			return content{}, 0, false, errs[i]
		}
	}
	switch {
	case errs[0] != nil && errs[1] != nil:
		return content{}, 0, false, fmt.Errorf("slot 0: %w; slot 1: %w", errs[0], errs[1])
	case errs[0] != nil:
		return cs[1], 1, false, nil
	case errs[1] != nil:
		return cs[0], 0, false, nil
	case cs[1].seq > cs[0].seq:
		return cs[1], 1, false, nil
	}
	return cs[0], 0, cs[0].seq == cs[1].seq, nil
}

// read is pick and the state that is in there.
func (img image) read() (st state, slot int, copied bool, err error) {
	c, slot, copied, err := img.pick()
	if err != nil {
		return state{}, 0, false, err
	}
	st.seq = c.seq
	if err := json.Unmarshal(c.payload, &st.entries); err != nil {
		return state{}, 0, false, fmt.Errorf("slot %d: %w: %w", slot, errDamaged, err)
	}
	return st, slot, copied, nil
}
