package lab

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offloadCommands switch one feature each (linux/ethtool.h). With transmit
// checksums the kernel also gives up scatter-gather and TSO.
var offloadCommands = map[uint32]string{
	unix.ETHTOOL_SRXCSUM: "rx checksum", unix.ETHTOOL_STXCSUM: "tx checksum",
	unix.ETHTOOL_STSO: "TSO", unix.ETHTOOL_SGSO: "GSO", unix.ETHTOOL_SGRO: "GRO",
}

// noOffloads switches the offloads of an interface off.
func (h *Host) noOffloads(dev string) error {
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		defer unix.Close(fd)
		var errs []error
		for cmd, what := range offloadCommands {
			errs = append(errs, wrap(ethtoolSet(fd, dev, cmd, 0), "switch %s of %s off", what, dev))
		}
		return errors.Join(errs...)
	})
}

// ethtoolValue is struct ethtool_value, ifreqData struct ifreq with ifr_data.
type ethtoolValue struct{ cmd, data uint32 }
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte // the union is larger than a pointer
}

// ethtoolSet does what `ethtool -K dev FEATURE off` did before netlink: one ioctl
// per feature, which every kernel since 2.6 knows.
func ethtoolSet(fd int, dev string, cmd, value uint32) error {
	v := ethtoolValue{cmd, value}
	req := ifreqData{data: unsafe.Pointer(&v)}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&v)
	if errno != 0 {
		return errno
	}
	return nil
}
