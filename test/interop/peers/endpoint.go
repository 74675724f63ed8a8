package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"

	"github.com/networkservicemesh/sdk/pkg/ipam/strictvl3ipam"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	kernelmechanism "github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/dnscontext/vl3dns"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/ipcontext/vl3"
	"github.com/networkservicemesh/sdk/pkg/networkservice/connectioncontext/mtu/vl3mtu"
	"github.com/networkservicemesh/sdk/pkg/networkservice/ipam/groupipam"
	"github.com/networkservicemesh/sdk/pkg/tools/dnsutils"
)

// endpointSettings are the flags of both endpoints.
type endpointSettings struct {
	listen, register urlFlag
	labels           labelsFlag
	name, service    string
	prefixes         string
	wireGuardPort    int
	selfConnect      bool
}

func declareEndpoint(flags *flag.FlagSet, service, prefixes string) *endpointSettings {
	s := &endpointSettings{labels: labelsFlag{"app": service}}
	flags.Var(&s.listen, "listen", "tcp://host:port")
	flags.Var(&s.register, "register", "manager or registry, tcp://host:port")
	flags.Var(s.labels, "labels", "of the endpoint")
	flags.StringVar(&s.name, "name", service+"-1", "endpoint name")
	flags.StringVar(&s.service, "service", service, "network service")
	flags.StringVar(&s.prefixes, "prefixes", prefixes, "comma list, one pool each")
	flags.IntVar(&s.wireGuardPort, "wireguard-port", 0, "UDP; 0 fills the parameters only")
	return s
}

// icmpRole gives point to point addresses and answers pings, as NSM's ICMP responder does.
func icmpRole(flags *flag.FlagSet) func(*process) error {
	settings := declareEndpoint(flags, "icmp", "172.16.1.0/24")
	return func(p *process) error {
		var pools [][]*net.IPNet
		for _, prefix := range strings.Split(settings.prefixes, ",") {
			_, pool, err := net.ParseCIDR(prefix)
			if err != nil {
				return err
			}
			pools = append(pools, []*net.IPNet{pool})
		}
		mechanism, err := openWireGuard(p.ctx, settings.wireGuardPort, pointToPointAddresses(pools))
		if err != nil {
			return err
		}
		return p.serveEndpoint(settings, func() error { return nil }, groupipam.NewServer(pools), mechanismsOf(mechanism))
	}
}

// pointToPointAddresses are the first addresses that groupipam gives to the endpoint's side: every second one.
func pointToPointAddresses(pools [][]*net.IPNet) []net.IP {
	const pairs = 8
	var addresses []net.IP
	for _, pool := range pools {
		for i := range pairs {
			address := append(net.IP(nil), pool[0].IP...)
			address[len(address)-1] += byte(2 * i)
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// vl3Role joins its clients in one network and knows their names: elements and order of NSM's vL3 endpoint.
func vl3Role(flags *flag.FlagSet) func(*process) error {
	settings := declareEndpoint(flags, "vl3", "10.77.0.0/24")
	flags.BoolVar(&settings.selfConnect, "self-connect", true, "get the DNS address by a connection to itself; needs a manager")
	return func(p *process) error {
		var pools []*vl3.IPAM
		var addresses []net.IP
		for _, prefix := range strings.Split(settings.prefixes, ",") {
			base, _, err := net.ParseCIDR(prefix)
			if err != nil {
				return err
			}
			pools = append(pools, vl3.NewIPAM(prefix))
			addresses = append(addresses, base)
			if settings.selfConnect {
				addresses = append(addresses, following(base))
			}
		}
		mechanism, err := openWireGuard(p.ctx, settings.wireGuardPort, addresses)
		if err != nil {
			return err
		}
		resolver := make(chan net.IP, 1)
		names := vl3dns.NewServer(p.ctx, resolver,
			vl3dns.WithDomainSchemes(`{{ index .Labels "podName" }}.{{ .NetworkService }}.`),
			vl3dns.WithDNSListenAndServeFunc(func(_ context.Context, handler dnsutils.Handler, _ string) {
				mechanism.names.Store(&handler)
			}))
		findResolver := func() error {
			address, err := p.resolverAddress(settings, addresses[0])
			resolver <- address
			return err
		}
		return p.serveEndpoint(settings, findResolver,
			names, vl3mtu.NewServer(), strictvl3ipam.NewServer(p.ctx, vl3.NewServer, pools...), mechanismsOf(mechanism))
	}
}

func following(address net.IP) net.IP {
	next := append(net.IP(nil), address...)
	next[len(next)-1]++
	return next
}

// resolverAddress is the address of the endpoint's connection to itself, as in NSM; without that the network's base. Such a
// connection needs a manager: called directly, the endpoint would stand at index 0 of the path and refuse itself.
func (p *process) resolverAddress(settings *endpointSettings, base net.IP) (net.IP, error) {
	if !settings.selfConnect {
		return base, nil
	}
	const timeout = 15 * time.Second
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	defer cancel()
	self := client.NewClient(p.ctx, client.WithClientURL(settings.register.URL), client.WithName(settings.name),
		client.WithDialOptions(p.dialOptions()...), client.WithDialTimeout(timeout),
		client.WithAdditionalFunctionality(kernelmechanism.NewClient()))
	connection, err := self.Request(ctx, &networkservice.NetworkServiceRequest{Connection: &networkservice.Connection{
		Id: settings.name + "-kernel", NetworkService: settings.service, NetworkServiceEndpointName: settings.name,
		Payload: payload.IP, Context: &networkservice.ConnectionContext{},
	}})
	if err != nil {
		return nil, fmt.Errorf("connect to itself: %w", err)
	}
	return connection.GetContext().GetIpContext().GetSrcIPNets()[0].IP, nil
}

func mechanismsOf(mechanism *wireGuard) networkservice.NetworkServiceServer {
	return mechanisms.NewServer(map[string]networkservice.NetworkServiceServer{
		kernel.MECHANISM:    kernelmechanism.NewServer(),
		wireguard.MECHANISM: mechanism,
	})
}

// serveEndpoint serves the elements behind NSM's own ones and stays registered; started runs when the endpoint is known.
func (p *process) serveEndpoint(
	settings *endpointSettings, started func() error, elements ...networkservice.NetworkServiceServer,
) error {
	server := endpoint.NewServer(p.ctx, p.tokens(),
		endpoint.WithName(settings.name),
		endpoint.WithAuthorizeServer(authorize.NewServer()),
		endpoint.WithAdditionalFunctionality(elements...))
	if err := p.serve(server.Register, settings.listen.URL); err != nil {
		return err
	}
	register := settings.register.URL
	return p.stayRegistered(p.serviceRegistry(register), p.endpointRegistry(register),
		registration(settings.name, settings.listen.String(), settings.service, settings.labels), started)
}
