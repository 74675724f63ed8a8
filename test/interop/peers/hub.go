package main

import (
	"net/netip"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
)

// Packets kept for a device that does not read; then packets are dropped, as a network would.
const hubQueuePackets = 1024

// hub is a TUN device in memory. Packets to its own addresses go to a userspace network stack; all others go straight
// back into the WireGuard device, which sends them to the peer that owns the address.
type hub struct {
	stack  tun.Device
	own    map[netip.Addr]bool
	out    chan []byte
	events chan tun.Event
	closed chan struct{}
	once   sync.Once
}

func newHub(stack tun.Device, own []netip.Addr) *hub {
	h := &hub{
		stack: stack, own: map[netip.Addr]bool{}, out: make(chan []byte, hubQueuePackets),
		events: make(chan tun.Event, 1), closed: make(chan struct{}),
	}
	for _, address := range own {
		h.own[address] = true
	}
	h.events <- tun.EventUp
	go h.readStack()
	return h
}

func (h *hub) readStack() {
	packets, sizes := [][]byte{make([]byte, 65535)}, []int{0}
	for {
		count, err := h.stack.Read(packets, sizes, 0)
		if err != nil {
			return
		}
		for i := range count {
			h.push(packets[i][:sizes[i]])
		}
	}
}

func (h *hub) push(packet []byte) {
	select {
	case h.out <- append([]byte(nil), packet...):
	default:
	}
}

// Read implements tun.Device.
func (h *hub) Read(packets [][]byte, sizes []int, offset int) (int, error) {
	select {
	case packet := <-h.out:
		sizes[0] = copy(packets[0][offset:], packet)
		return 1, nil
	case <-h.closed:
		return 0, os.ErrClosed
	}
}

// Write implements tun.Device.
func (h *hub) Write(packets [][]byte, offset int) (int, error) {
	for _, packet := range packets {
		if !h.own[destination(packet[offset:])] {
			h.push(packet[offset:])
		} else if _, err := h.stack.Write([][]byte{packet}, offset); err != nil {
			return 0, err
		}
	}
	return len(packets), nil
}

func destination(packet []byte) netip.Addr {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[16:20]))
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[24:40]))
	default:
		return netip.Addr{}
	}
}

// File implements tun.Device.
func (h *hub) File() *os.File { return nil }

// MTU implements tun.Device.
func (h *hub) MTU() (int, error) { return innerMTUBytes, nil }

// Name implements tun.Device.
func (h *hub) Name() (string, error) { return "hub", nil }

// Events implements tun.Device.
func (h *hub) Events() <-chan tun.Event { return h.events }

// BatchSize implements tun.Device.
func (h *hub) BatchSize() int { return 1 }

// Close implements tun.Device.
func (h *hub) Close() error {
	h.once.Do(func() {
		close(h.closed)
		close(h.events)
		_ = h.stack.Close()
	})
	return nil
}
