package main

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/edwarnicke/genericsync"
	"github.com/golang/protobuf/ptypes/empty"
	"github.com/miekg/dns"

	"github.com/networkservicemesh/api/pkg/api/networkservice"

	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/tools/clienturlctx"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils"
	dnschain "github.com/networkservicemesh/sdk/pkg/tools/dnsutils/chain"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/dnsconfigs"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/memory"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/noloop"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils/norecursion"
)

// One question to another endpoint.
const fanoutTimeout = time.Second

// names is the DNS side of a vL3 endpoint: the handlers of vl3dns in their order, but the last one. NSM's fan-out asks
// the other endpoints through sockets of the host; here they are behind a network stack in this process.
type names struct {
	wireGuard *wireGuard
	// What vl3dns learns of other endpoints.
	configs genericsync.Map[string, []*networkservice.DNSConfig]
	records genericsync.Map[string, []net.IP]
}

func (n *names) handler() dnsutils.Handler {
	return dnschain.NewDNSHandler(
		dnsconfigs.NewDNSHandler(&n.configs),
		noloop.NewDNSHandler(),
		norecursion.NewDNSHandler(),
		memory.NewDNSHandler(&n.records),
		n,
	)
}

// Request keeps the client's name, as vl3dns does for its own handlers.
func (n *names) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	accepted, err := next.Server(ctx).Request(ctx, request)
	if err != nil {
		return nil, err
	}
	var addresses []net.IP
	for _, prefix := range accepted.GetContext().GetIpContext().GetSrcIPNets() {
		addresses = append(addresses, prefix.IP)
	}
	n.records.Store(nameOf(accepted), addresses)
	return accepted, nil
}

// Close forgets the name.
func (n *names) Close(ctx context.Context, connection *networkservice.Connection) (*empty.Empty, error) {
	n.records.Delete(nameOf(connection))
	return next.Server(ctx).Close(ctx, connection)
}

func nameOf(connection *networkservice.Connection) string {
	return connection.GetLabels()["podName"] + "." + connection.GetNetworkService() + "."
}

// ServeDNS asks all other endpoints; the first positive answer counts, and nothing else is an answer.
func (n *names) ServeDNS(ctx context.Context, answer dns.ResponseWriter, query *dns.Msg) {
	servers := clienturlctx.ClientURLs(ctx)
	answers := make(chan *dns.Msg, len(servers))
	for i := range servers {
		go func() { answers <- n.ask(&servers[i], query.Copy()) }()
	}
	for range servers {
		if got := <-answers; got != nil && got.Rcode == dns.RcodeSuccess {
			_ = answer.WriteMsg(got)
			return
		}
	}
	dns.HandleFailed(answer, query)
}

func (n *names) ask(server *url.URL, query *dns.Msg) *dns.Msg {
	address, err := netip.ParseAddr(server.Host)
	if err != nil {
		return nil
	}
	socket, err := n.wireGuard.network.DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(address, dnsPort))
	if err != nil {
		return nil
	}
	defer func() { _ = socket.Close() }()
	exchange := &dns.Conn{Conn: socket}
	_ = exchange.SetDeadline(time.Now().Add(fanoutTimeout))
	if exchange.WriteMsg(query) != nil {
		return nil
	}
	got, err := exchange.ReadMsg()
	if err != nil {
		return nil
	}
	return got
}
