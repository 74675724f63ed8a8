// netstack-send opens a WireGuard tunnel with wireguard-go's own userspace TCP/IP stack, sends for some seconds over one
// TCP connection and prints how many bytes, and the processor seconds of this process. Keys are hexadecimal.
// usage: netstack-send PRIVATE PEER ENDPOINT OWN TARGET SECONDS
package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

const (
	mtuBytes   = 1420
	chunkBytes = 256 * 1024
)

func main() {
	if err := send(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func send(args []string) error {
	if len(args) != 6 {
		return fmt.Errorf("six arguments, not %d", len(args))
	}
	seconds, err := strconv.ParseFloat(args[5], 64)
	if err != nil {
		return err
	}
	tun, network, err := netstack.CreateNetTUN([]netip.Addr{netip.MustParseAddr(args[3])}, nil, mtuBytes)
	if err != nil {
		return err
	}
	tunnel := device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	settings := fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\n", args[0], args[1], args[2])
	if err := tunnel.IpcSet(settings); err != nil {
		return err
	}
	if err := tunnel.Up(); err != nil {
		return err
	}
	connection, err := network.DialTCPAddrPort(netip.MustParseAddrPort(args[4]))
	if err != nil {
		return err
	}
	chunk, total := make([]byte, chunkBytes), 0
	for end := time.Now().Add(time.Duration(seconds * float64(time.Second))); time.Now().Before(end); {
		count, err := connection.Write(chunk)
		total += count
		if err != nil {
			return err
		}
	}
	if err := connection.CloseWrite(); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, connection); err != nil {
		return err
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return err
	}
	fmt.Println(total, time.Duration(used.Utime.Nano()+used.Stime.Nano()).Seconds())
	return nil
}
