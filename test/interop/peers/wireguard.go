package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/golang/protobuf/ptypes/empty"
	"github.com/miekg/dns"
	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"

	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils"
)

const (
	// What NSM's programs use; offered when there is no data plane.
	defaultWireGuardPort = 51820
	echoPort             = 7
	dnsPort              = 53
	// 1500 bytes less WireGuard over IPv4.
	mtuBytes = 1440
	// Of the userspace network stack; low enough for WireGuard over IPv6.
	innerMTUBytes    = 1420
	keepaliveSeconds = 10
	keyBytes         = 32
)

// wireGuard is the WIREGUARD element of an endpoint: it fills the parameters for payload IP only, as the released
// forwarder does. With a port it is a data plane in userspace too: its addresses answer pings, echo TCP and UDP on
// port 7 and DNS on port 53, and clients reach each other.
type wireGuard struct {
	ctx             context.Context
	address         net.IP // where others send to
	port            int
	private, public [keyBytes]byte
	device          *device.Device
	network         *netstack.Net
	names           atomic.Pointer[dnsutils.Handler]

	mu    sync.Mutex
	peers map[string]string // connection id -> public key, hexadecimal
}

func openWireGuard(ctx context.Context, settings *endpointSettings, own []net.IP) (*wireGuard, error) {
	port := settings.wireGuardPort
	w := &wireGuard{ctx: ctx, address: net.ParseIP(settings.listen.Hostname()), port: port, peers: map[string]string{}}
	if _, err := rand.Read(w.private[:]); err != nil {
		return nil, err
	}
	curve25519.ScalarBaseMult(&w.public, &w.private)
	if port == 0 {
		w.port = defaultWireGuardPort
		return w, nil
	}
	var addresses []netip.Addr
	for _, ip := range own {
		address, _ := netip.AddrFromSlice(ip)
		addresses = append(addresses, address.Unmap())
	}
	stack, network, err := netstack.CreateNetTUN(addresses, nil, innerMTUBytes)
	if err != nil {
		return nil, err
	}
	w.network = network
	w.device = device.NewDevice(newHub(stack, addresses), conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	if err := w.device.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(w.private[:]), port)); err != nil {
		return nil, err
	}
	if err := w.device.Up(); err != nil {
		return nil, err
	}
	for _, address := range addresses {
		go w.answerNames(address)
		go w.echoDatagrams(address)
		go echoStreams(w.network, address)
	}
	go func() {
		<-ctx.Done()
		w.device.Close()
	}()
	return w, nil
}

// Request fills our side of the mechanism and, once the other elements have accepted, adds the client as a peer.
func (w *wireGuard) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	mechanism := wireguard.ToMechanism(request.GetConnection().GetMechanism())
	if request.GetConnection().GetPayload() != payload.IP || mechanism == nil {
		return next.Server(ctx).Request(ctx, request)
	}
	mechanism.SetDstPublicKey(base64.StdEncoding.EncodeToString(w.public[:]))
	mechanism.SetDstIP(w.address)
	mechanism.SetDstPort(uint16(w.port))
	if offered := mechanism.MTU(); offered == 0 || offered > mtuBytes {
		mechanism.SetMTU(mtuBytes)
	}
	if c := request.GetConnection().GetContext(); c.GetMTU() == 0 || c.GetMTU() > mechanism.MTU() {
		c.MTU = mechanism.MTU()
	}
	accepted, err := next.Server(ctx).Request(ctx, request)
	if err != nil || w.device == nil {
		return accepted, err
	}
	return accepted, w.setPeer(accepted, mechanism)
}

// Close removes the peer.
func (w *wireGuard) Close(ctx context.Context, connection *networkservice.Connection) (*empty.Empty, error) {
	w.removePeer(connection.GetId())
	return next.Server(ctx).Close(ctx, connection)
}

// setPeer adds a client as a peer with its addresses, and with what lies behind it: that is another endpoint's prefix.
func (w *wireGuard) setPeer(connection *networkservice.Connection, mechanism *wireguard.Mechanism) error {
	context := connection.GetContext().GetIpContext()
	wanted := wireGuardPeer{key: mechanism.SrcPublicKey(), allowed: append([]string(nil), context.GetSrcIpAddrs()...)}
	for _, route := range context.GetDstRoutes() {
		wanted.allowed = append(wanted.allowed, route.GetPrefix())
	}
	if ip := mechanism.SrcIP(); ip != nil && mechanism.SrcPort() != 0 {
		wanted.endpoint = net.JoinHostPort(ip.String(), fmt.Sprint(mechanism.SrcPort()))
	}
	return w.putPeer(connection.GetId(), wanted)
}

// wireGuardPeer is the other end of one connection; the key is base64, the endpoint may be empty.
type wireGuardPeer struct {
	key, endpoint string
	allowed       []string
}

func (w *wireGuard) putPeer(connectionID string, wanted wireGuardPeer) error {
	raw, err := base64.StdEncoding.DecodeString(wanted.key)
	if err != nil || len(raw) != keyBytes {
		return errors.New("the other side's public key is not a WireGuard key")
	}
	key := hex.EncodeToString(raw)
	var config strings.Builder
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.peers[connectionID]; old != "" && old != key {
		fmt.Fprintf(&config, "public_key=%s\nremove=true\n", old)
	}
	w.peers[connectionID] = key
	fmt.Fprintf(&config, "public_key=%s\nreplace_allowed_ips=true\npersistent_keepalive_interval=%d\n", key, keepaliveSeconds)
	if wanted.endpoint != "" {
		fmt.Fprintf(&config, "endpoint=%s\n", wanted.endpoint)
	}
	for _, prefix := range wanted.allowed {
		fmt.Fprintf(&config, "allowed_ip=%s\n", prefix)
	}
	return w.device.IpcSet(config.String())
}

// removePeer removes the peer of a connection, unless another connection has the same one.
func (w *wireGuard) removePeer(connectionID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := w.peers[connectionID]
	delete(w.peers, connectionID)
	for _, other := range w.peers {
		if other == key {
			return
		}
	}
	if key != "" {
		_ = w.device.IpcSet(fmt.Sprintf("public_key=%s\nremove=true\n", key))
	}
}

func (w *wireGuard) answerNames(address netip.Addr) {
	socket, err := w.network.ListenUDPAddrPort(netip.AddrPortFrom(address, dnsPort))
	if err != nil {
		return
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(answer dns.ResponseWriter, query *dns.Msg) {
		if handler := w.names.Load(); handler != nil {
			(*handler).ServeDNS(w.ctx, answer, query)
		}
	})}
	_ = server.ActivateAndServe()
}

func (w *wireGuard) echoDatagrams(address netip.Addr) {
	socket, err := w.network.ListenUDPAddrPort(netip.AddrPortFrom(address, echoPort))
	if err != nil {
		return
	}
	datagram := make([]byte, 65535)
	for {
		n, from, err := socket.ReadFrom(datagram)
		if err != nil {
			return
		}
		_, _ = socket.WriteTo(datagram[:n], from)
	}
}

func echoStreams(network *netstack.Net, address netip.Addr) {
	listener, err := network.ListenTCPAddrPort(netip.AddrPortFrom(address, echoPort))
	if err != nil {
		return
	}
	for {
		stream, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = stream.Close() }()
			_, _ = io.Copy(stream, stream)
		}()
	}
}
