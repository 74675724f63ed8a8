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
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

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
	registerService  bool
}

func declareEndpoint(flags *flag.FlagSet, service, prefixes string) *endpointSettings {
	s := &endpointSettings{labels: labelsFlag{"app": service}}
	flags.Var(&s.listen, "listen", "tcp://host:port")
	flags.Var(&s.register, "register", "manager or registry, tcp://host:port")
	flags.Var(s.labels, "labels", "of the endpoint")
	flags.StringVar(&s.name, "name", service+"-1", "endpoint name")
	flags.StringVar(&s.service, "service", service, "network service")
	flags.StringVar(&s.prefixes, "prefixes", prefixes, "comma list, one pool each")
	flags.BoolVar(&s.registerService, "register-service", true, "register the service too")
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
		mechanism, err := openWireGuard(p.ctx, settings, pointToPointAddresses(pools))
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
	prefixServices := flags.String("ipam", "", "prefix services that give a prefix each, comma list of tcp://host:port")
	flags.BoolVar(&settings.selfConnect, "self-connect", true, "get the DNS address by a connection to itself; needs a manager")
	link := flags.Bool("link", false, "connect to the other endpoints of the service")
	return func(p *process) error {
		if services := listOf(*prefixServices); len(services) > 0 {
			prefixes, err := p.leasePrefixes(services)
			if err != nil {
				return err
			}
			settings.prefixes = strings.Join(prefixes, ",")
		}
		v, err := p.openVL3(settings)
		if err != nil {
			return err
		}
		unlink := func() {}
		defer func() { unlink() }()
		started := func() error {
			address, err := p.resolverAddress(settings, v.addresses[0])
			v.resolver <- address
			if err == nil && *link {
				unlink, err = p.linkOthers(settings, v.clientElements(p.untilExit, address)...)
			}
			return err
		}
		return p.serveEndpoint(settings, started, v.serverElements(p.ctx)...)
	}
}

// vl3Parts is what the server and the client side of a vL3 endpoint share.
type vl3Parts struct {
	pools     []*vl3.IPAM
	prefixes  []*net.IPNet
	addresses []net.IP
	mechanism *wireGuard
	names     *names
	resolver  chan net.IP
}

func (p *process) openVL3(settings *endpointSettings) (*vl3Parts, error) {
	v := &vl3Parts{resolver: make(chan net.IP, 1)}
	for _, prefix := range strings.Split(settings.prefixes, ",") {
		base, network, err := net.ParseCIDR(prefix)
		if err != nil {
			return nil, err
		}
		v.pools = append(v.pools, vl3.NewIPAM(prefix))
		v.prefixes = append(v.prefixes, network)
		v.addresses = append(v.addresses, base)
		if settings.selfConnect {
			v.addresses = append(v.addresses, following(base))
		}
	}
	mechanism, err := openWireGuard(p.ctx, settings, v.addresses)
	if err != nil {
		return nil, err
	}
	v.mechanism, v.names = mechanism, &names{wireGuard: mechanism}
	return v, nil
}

func (v *vl3Parts) serverElements(ctx context.Context) []networkservice.NetworkServiceServer {
	dns := vl3dns.NewServer(ctx, v.resolver,
		vl3dns.WithDomainSchemes(`{{ index .Labels "podName" }}.{{ .NetworkService }}.`),
		vl3dns.WithConfigs(&v.names.configs),
		vl3dns.WithDNSServerHandler(v.names.handler()),
		vl3dns.WithDNSListenAndServeFunc(func(_ context.Context, handler dnsutils.Handler, _ string) {
			v.mechanism.names.Store(&handler)
		}))
	return []networkservice.NetworkServiceServer{
		dns, v.names, vl3mtu.NewServer(), strictvl3ipam.NewServer(ctx, vl3.NewServer, v.pools...), mechanismsOf(v.mechanism),
	}
}

func (v *vl3Parts) clientElements(ctx context.Context, resolver net.IP) []networkservice.NetworkServiceClient {
	elements := []networkservice.NetworkServiceClient{vl3mtu.NewClient()}
	for _, pool := range v.pools {
		elements = append(elements, vl3.NewClient(ctx, pool))
	}
	return append(elements, vl3dns.NewClient(resolver, &v.names.configs), &wireGuardLink{v.mechanism, v.prefixes})
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
	// What is left of it is taken off the lease of the connection to itself: less than the shortest lease there is.
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
	var services registryapi.NetworkServiceRegistryClient
	if settings.registerService {
		services = p.serviceRegistry(register)
	}
	return p.stayRegistered(services, p.endpointRegistry(register),
		registration(settings.name, settings.listen.String(), settings.service, settings.labels), started)
}
