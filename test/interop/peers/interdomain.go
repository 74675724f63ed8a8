package main

import (
	"context"
	"flag"
	"net"
	"time"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgrproxy"
	"github.com/networkservicemesh/sdk/pkg/registry/chains/proxydns"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
)

// The released proxies' time to reach the next hop.
const proxyDialTimeout = 15 * time.Second

// nsmgrProxyRole is the manager at the border of a domain. The file maps internal addresses of nodes to external ones.
func nsmgrProxyRole(flags *flag.FlagSet) func(*process) error {
	var listen, registry, proxyRegistry urlFlag
	flags.Var(&listen, "listen", "tcp://host:port")
	flags.Var(&registry, "registry", "of the own domain, tcp://host:port")
	flags.Var(&proxyRegistry, "registry-proxy", "for names of other domains, tcp://host:port")
	name := flags.String("name", "nsmgr-proxy-1", "")
	addresses := flags.String("map-ip", "map-ip.yaml", "file of lines INTERNAL: EXTERNAL")
	return func(p *process) error {
		server := nsmgrproxy.NewServer(p.ctx, registry.URL, proxyRegistry.URL, p.tokens(),
			nsmgrproxy.WithName(*name),
			nsmgrproxy.WithListenOn(listen.URL),
			nsmgrproxy.WithMapIPFilePath(*addresses),
			nsmgrproxy.WithDialTimeout(proxyDialTimeout),
			nsmgrproxy.WithDialOptions(p.dialOptions()...),
			nsmgrproxy.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(serverPolicies)),
			nsmgrproxy.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(serverPolicies)),
			nsmgrproxy.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(clientPolicies)),
			nsmgrproxy.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(clientPolicies)),
		)
		return p.serveToTheEnd(server.Register, listen.URL)
	}
}

// registryProxyRole finds the registry and the border manager of another domain by DNS.
func registryProxyRole(flags *flag.FlagSet) func(*process) error {
	var listen urlFlag
	flags.Var(&listen, "listen", "tcp://host:port")
	nameServer := flags.String("dns", "", "name server, host:port")
	return func(p *process) error {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, *nameServer)
		}}
		server := proxydns.NewServer(p.ctx, p.tokens(), resolver,
			proxydns.WithDialOptions(p.dialOptions()...),
			proxydns.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(serverPolicies)),
			proxydns.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(serverPolicies)),
			proxydns.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(clientPolicies)),
			proxydns.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(clientPolicies)),
		)
		return p.serveToTheEnd(server.Register, listen.URL)
	}
}
