package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"time"

	"github.com/edwarnicke/genericsync"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgr"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/connect"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/discover"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/roundrobin"
	registryclient "github.com/networkservicemesh/sdk/pkg/registry/chains/client"
	"github.com/networkservicemesh/sdk/pkg/registry/chains/memory"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
	monitorauthorize "github.com/networkservicemesh/sdk/pkg/tools/monitorconnection/authorize"
)

// The policies that the released registries and managers load by default.
var (
	serverPolicies = registryauthorize.WithPolicies(
		"etc/nsm/opa/common/.*.rego", "etc/nsm/opa/registry/.*.rego", "etc/nsm/opa/server/.*.rego")
	clientPolicies = registryauthorize.WithPolicies(
		"etc/nsm/opa/common/.*.rego", "etc/nsm/opa/registry/.*.rego", "etc/nsm/opa/client/.*.rego")
)

// How long a manager or forwarder tries to reach the next hop; the released manager's 750 ms are too few for a busy machine.
const hopDialTimeout = 5 * time.Second

// Longest registration and withdrawal; a workload whose identity has just arrived may have to try again.
const (
	registerTimeout   = 60 * time.Second
	unregisterTimeout = 30 * time.Second
)

func registryRole(flags *flag.FlagSet) func(*process) error {
	var listen, proxy urlFlag
	flags.Var(&listen, "listen", "tcp://host:port")
	flags.Var(&proxy, "proxy", "for names of other domains, tcp://host:port")
	return func(p *process) error {
		server := memory.NewServer(p.ctx, p.tokens(),
			memory.WithProxyRegistryURL(proxy.URL),
			memory.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(serverPolicies)),
			memory.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(serverPolicies)),
			memory.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(clientPolicies)),
			memory.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(clientPolicies)),
			memory.WithDialOptions(p.dialOptions()...),
		)
		return p.serveToTheEnd(server.Register, listen.URL)
	}
}

func nsmgrRole(flags *flag.FlagSet) func(*process) error {
	var listen, registry urlFlag
	flags.Var(&listen, "listen", "tcp://host:port")
	flags.Var(&registry, "registry", "tcp://host:port")
	name := flags.String("name", "nsmgr-1", "")
	return func(p *process) error {
		ids := genericsync.Map[spiffeid.ID, *genericsync.Map[string, struct{}]]{}
		monitor := monitorauthorize.NewMonitorConnectionServer(monitorauthorize.WithSpiffeIDConnectionMap(&ids))
		server := nsmgr.NewServer(p.ctx, p.tokens(),
			nsmgr.WithName(*name),
			nsmgr.WithURL(listen.String()),
			nsmgr.WithRegistry(registry.URL),
			nsmgr.WithDialTimeout(hopDialTimeout),
			nsmgr.WithDialOptions(p.dialOptions()...),
			nsmgr.WithAuthorizeServer(authorize.NewServer(authorize.WithSpiffeIDConnectionMap(&ids))),
			nsmgr.WithAuthorizeMonitorConnectionServer(monitor),
			nsmgr.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(serverPolicies)),
			nsmgr.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(serverPolicies)),
			nsmgr.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(clientPolicies)),
			nsmgr.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(clientPolicies)),
		)
		return p.serveToTheEnd(server.Register, listen.URL)
	}
}

// forwarderRole is a forwarder without a data plane of its own: it selects the endpoint and hands the mechanisms on, so
// a tunnel ends at the endpoint. Paths, tokens, selection and monitoring are the SDK's.
func forwarderRole(flags *flag.FlagSet) func(*process) error {
	var listen, manager urlFlag
	flags.Var(&listen, "listen", "tcp://host:port")
	flags.Var(&manager, "manager", "tcp://host:port")
	name := flags.String("name", "forwarder-1", "")
	return func(p *process) error {
		services, endpoints := p.serviceRegistry(manager.URL), p.endpointRegistry(manager.URL)
		server := endpoint.NewServer(p.ctx, p.tokens(),
			endpoint.WithName(*name),
			endpoint.WithAuthorizeServer(authorize.NewServer()),
			endpoint.WithAdditionalFunctionality(
				discover.NewServer(services, endpoints),
				roundrobin.NewServer(),
				connect.NewServer(client.NewClient(p.ctx,
					client.WithName(*name),
					client.WithoutRefresh(),
					client.WithDialOptions(p.dialOptions()...),
					client.WithDialTimeout(hopDialTimeout),
				)),
			))
		if err := p.serve(server.Register, listen.URL); err != nil {
			return err
		}
		labels := map[string]string{"p2p": "true"}
		return p.stayRegistered(services, endpoints, registration(*name, listen.String(), "forwarder", labels), func() error { return nil })
	}
}

func (p *process) serviceRegistry(registry *url.URL) registryapi.NetworkServiceRegistryClient {
	return registryclient.NewNetworkServiceRegistryClient(p.untilExit,
		registryclient.WithClientURL(registry),
		registryclient.WithDialOptions(p.dialOptions()...),
		registryclient.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(clientPolicies)))
}

func (p *process) endpointRegistry(registry *url.URL) registryapi.NetworkServiceEndpointRegistryClient {
	return registryclient.NewNetworkServiceEndpointRegistryClient(p.untilExit,
		registryclient.WithClientURL(registry),
		registryclient.WithDialOptions(p.dialOptions()...),
		registryclient.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(clientPolicies)))
}

func registration(name, address, service string, labels map[string]string) *registryapi.NetworkServiceEndpoint {
	return &registryapi.NetworkServiceEndpoint{
		Name: name, Url: address, NetworkServiceNames: []string{service},
		NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{service: {Labels: labels}},
	}
}

// stayRegistered registers the service, unless services is nil, and its endpoint, calls then, says ready, and withdraws the endpoint at the end.
func (p *process) stayRegistered(
	services registryapi.NetworkServiceRegistryClient,
	endpoints registryapi.NetworkServiceEndpointRegistryClient,
	wanted *registryapi.NetworkServiceEndpoint,
	then func() error,
) error {
	ctx, cancel := context.WithTimeout(p.ctx, registerTimeout)
	defer cancel()
	service := &registryapi.NetworkService{Name: wanted.NetworkServiceNames[0], Payload: payload.IP}
	if services != nil {
		if _, err := services.Register(ctx, service); err != nil {
			return fmt.Errorf("register service: %w", err)
		}
	}
	registered, err := endpoints.Register(ctx, wanted)
	if err != nil {
		return fmt.Errorf("register endpoint: %w", err)
	}
	if err := then(); err != nil {
		return err
	}
	ready()
	<-p.ctx.Done()
	leaving, left := context.WithTimeout(context.Background(), unregisterTimeout)
	defer left()
	_, err = endpoints.Unregister(leaving, registered)
	return err
}
