package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
)

// One answer through the tunnel, the handshake included.
const answerTimeout = 5 * time.Second

// useTunnel opens the client's end in userspace, pings the endpoint's addresses and asks its name servers for a name. It
// prints what it got, and leaves the tunnel open until the process ends.
func useTunnel(ctx context.Context, connection *networkservice.Connection, private [keyBytes]byte, name string) error {
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
	socket, err := network.Dial(kind, address.String())
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	_ = socket.SetDeadline(time.Now().Add(answerTimeout))
	// The stack fills identifier and checksum.
	if _, err := socket.Write([]byte{echoRequest, 0, 0, 0, 0, 1, 0, 1, 'n', 's', 'm', '!'}); err != nil {
		return err
	}
	_, err = socket.Read(make([]byte, 64))
	return err
}

func lookUp(network *netstack.Net, server netip.Addr, name string) error {
	socket, err := network.DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(server, dnsPort))
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	exchange := &dns.Conn{Conn: socket}
	_ = exchange.SetDeadline(time.Now().Add(answerTimeout))
	if err := exchange.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)); err != nil {
		return err
	}
	answer, err := exchange.ReadMsg()
	if err != nil {
		return err
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
