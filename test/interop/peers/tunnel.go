package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
)

// One answer through the tunnel. WireGuard gives up a handshake after 90 s, and a site's link may begin anew meanwhile.
const answerTimeout = 90 * time.Second

// Between two pings that are not answered.
const pingPause = time.Second

// A name server that could not ask others in time says SERVFAIL, and is asked again, as resolvers do.
const (
	lookUps     = 20
	lookUpPause = 250 * time.Millisecond
)

// Longer than a read takes to begin.
const readStart = 10 * time.Millisecond

// Of the echoed text: several packets' worth.
const echoWords = 16384

// inTunnel is what a client does once its tunnel is open.
type inTunnel struct {
	name  string // asked of the name servers
	reach string // comma list of other clients, pinged and sent a text to
}

// useTunnel opens the client's end in userspace, echoes TCP there, pings the endpoint's addresses, asks its name servers
// for a name and reaches other clients. It prints what it got, and leaves the tunnel open until the process ends.
func useTunnel(ctx context.Context, connection *networkservice.Connection, private [keyBytes]byte, wanted inTunnel) error {
	name := wanted.name
	mechanism := wireguard.ToMechanism(connection.GetMechanism())
	if mechanism == nil {
		return errors.New("the connection is not WIREGUARD")
	}
	network, err := openClientTunnel(ctx, connection, mechanism, private)
	if err != nil {
		return err
	}
	for _, prefix := range connection.GetContext().GetIpContext().GetDstIpAddrs() {
		address := netip.MustParsePrefix(prefix).Addr()
		if err := ping(network, address); err != nil {
			return fmt.Errorf("ping %s: %w", address, err)
		}
		fmt.Printf("ping %s\n", address)
	}
	for _, config := range connection.GetContext().GetDnsContext().GetConfigs() {
		for _, server := range config.GetDnsServerIps() {
			if err := lookUp(network, netip.MustParseAddr(server), name); err != nil {
				return fmt.Errorf("ask %s for %s: %w", server, name, err)
			}
		}
	}
	return reach(network, wanted.reach)
}

// reach pings other clients and has a text echoed by each over TCP.
func reach(network *netstack.Net, others string) error {
	for _, other := range strings.FieldsFunc(others, func(r rune) bool { return r == ',' }) {
		address, err := netip.ParseAddr(other)
		if err != nil {
			return err
		}
		if err := ping(network, address); err != nil {
			return fmt.Errorf("ping %s: %w", address, err)
		}
		if err := echo(network, address); err != nil {
			return fmt.Errorf("echo of %s: %w", address, err)
		}
		fmt.Printf("reached %s\n", address)
	}
	return nil
}

func echo(network *netstack.Net, address netip.Addr) error {
	stream, err := network.DialTCPAddrPort(netip.AddrPortFrom(address, echoPort))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	_ = stream.SetDeadline(time.Now().Add(answerTimeout))
	text := bytes.Repeat([]byte("nsm!"), echoWords)
	go func() { _, _ = stream.Write(text) }()
	back := make([]byte, len(text))
	if _, err := io.ReadFull(stream, back); err != nil {
		return err
	}
	if !bytes.Equal(text, back) {
		return errors.New("another text came back")
	}
	return nil
}

func openClientTunnel(
	ctx context.Context, connection *networkservice.Connection, mechanism *wireguard.Mechanism, private [keyBytes]byte,
) (*netstack.Net, error) {
	var own []netip.Addr
	for _, prefix := range connection.GetContext().GetIpContext().GetSrcIpAddrs() {
		own = append(own, netip.MustParsePrefix(prefix).Addr())
	}
	stack, network, err := netstack.CreateNetTUN(own, nil, innerMTUBytes)
	if err != nil {
		return nil, err
	}
	for _, address := range own {
		go echoStreams(network, address)
	}
	key, err := base64.StdEncoding.DecodeString(mechanism.DstPublicKey())
	if err != nil {
		return nil, err
	}
	tunnel := device.NewDevice(stack, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	go func() {
		<-ctx.Done()
		tunnel.Close()
	}()
	target := net.JoinHostPort(mechanism.DstIP().String(), fmt.Sprint(mechanism.DstPort()))
	config := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(private[:]), mechanism.SrcPort(), hex.EncodeToString(key), target)
	if err := tunnel.IpcSet(config); err != nil {
		return nil, err
	}
	return network, tunnel.Up()
}

func ping(network *netstack.Net, address netip.Addr) error {
	kind, echoRequest := "ping4", byte(8)
	if address.Is6() {
		kind, echoRequest = "ping6", 128
	}
	// The stack fills identifier and checksum.
	request := []byte{echoRequest, 0, 0, 0, 0, 1, 0, 1, 'n', 's', 'm', '!'}
	for end := time.Now().Add(answerTimeout); ; {
		if err := pingOnce(network, kind, address, request); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// pingOnce has a socket of its own: the stack wakes a reader only when an answer comes into an empty socket while it
// reads, so one answer that is there before the read hides itself and all that follow. The request leaves during the read.
func pingOnce(network *netstack.Net, kind string, address netip.Addr, request []byte) error {
	socket, err := network.Dial(kind, address.String())
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	sent := make(chan error, 1)
	time.AfterFunc(readStart, func() {
		_, err := socket.Write(request)
		sent <- err
	})
	_ = socket.SetReadDeadline(time.Now().Add(pingPause))
	if _, err = socket.Read(make([]byte, 64)); err != nil {
		return errors.Join(err, <-sent)
	}
	return nil
}

func lookUp(network *netstack.Net, server netip.Addr, name string) error {
	socket, err := network.DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(server, dnsPort))
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	exchange := &dns.Conn{Conn: socket}
	var answer *dns.Msg
	for i := 0; i < lookUps && (answer == nil || answer.Rcode == dns.RcodeServerFailure); i++ {
		time.Sleep(time.Duration(min(i, 1)) * lookUpPause)
		_ = exchange.SetDeadline(time.Now().Add(answerTimeout))
		if err := exchange.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)); err != nil {
			return err
		}
		if answer, err = exchange.ReadMsg(); err != nil {
			return err
		}
	}
	fmt.Printf("dns %s", dns.RcodeToString[answer.Rcode])
	for _, record := range answer.Answer {
		if a, ok := record.(*dns.A); ok {
			fmt.Printf(" %s", a.A)
		}
	}
	fmt.Println()
	return nil
}
