package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/edwarnicke/grpcfd"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
)

// What a first registration sends as its path.
const emptyRegistrationPath = `{"Index":0,"PathSegments":null}`

// Longest time for all exchanges, and for one refusal.
const (
	recordTimeout  = 30 * time.Second
	refusalTimeout = 5 * time.Second
)

// recordRole plays the exchanges that the unit tests replay, and prints what goes over the wire.
func recordRole(flags *flag.FlagSet) func(*process) error {
	var registry, manager, direct urlFlag
	flags.Var(&registry, "registry", "tcp://host:port")
	flags.Var(&manager, "manager", "tcp://host:port")
	flags.Var(&direct, "direct", "endpoint direct-1 of the service direct, tcp://host:port")
	return func(p *process) error {
		traceSilently()
		p.recorder = newRecorder()
		ctx, cancel := context.WithTimeout(p.ctx, recordTimeout)
		defer cancel()
		for _, play := range []func(context.Context) error{
			func(ctx context.Context) error { return p.recordRegistry(ctx, registry.URL) },
			func(ctx context.Context) error {
				return p.recordConnection(ctx, "manager", manager.URL, &networkservice.Connection{NetworkService: "vl3"})
			},
			func(ctx context.Context) error {
				wanted := &networkservice.Connection{NetworkService: "direct", NetworkServiceEndpointName: "direct-1"}
				return p.recordConnection(ctx, "direct", direct.URL, wanted)
			},
			func(ctx context.Context) error { return p.recordRequestRefusals(ctx, manager.URL) },
			func(ctx context.Context) error { return p.recordRegistryRefusals(ctx, registry.URL) },
		} {
			if err := play(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// recordRegistry registers a service and an endpoint, refreshes, finds and withdraws them while a watch looks on.
func (p *process) recordRegistry(ctx context.Context, registry *url.URL) error {
	p.recorder.begin("registry")
	services, endpoints := p.serviceRegistry(registry), p.endpointRegistry(registry)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	recordedService := &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"recorded"}}
	watch, err := endpoints.Find(watching, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: recordedService, Watch: true})
	if err != nil {
		return err
	}
	_, err = services.Register(ctx, &registryapi.NetworkService{Name: "recorded", Payload: payload.IP, Matches: []*registryapi.Match{
		{
			SourceSelector: map[string]string{"team": "red"},
			Routes:         []*registryapi.Destination{{DestinationSelector: map[string]string{"app": "red"}}},
			Fallthrough:    true,
		},
		{Routes: []*registryapi.Destination{{DestinationSelector: map[string]string{"app": "blue"}}}},
	}})
	if err != nil {
		return fmt.Errorf("register service: %w", err)
	}
	endpoint := registration("recorded-1", "tcp://127.0.0.1:9", "recorded", map[string]string{"app": "red"})
	for range 2 {
		if endpoint, err = endpoints.Register(ctx, endpoint); err != nil {
			return fmt.Errorf("register endpoint: %w", err)
		}
		if _, err := watch.Recv(); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	if err := findAll(ctx, services, endpoints); err != nil {
		return err
	}
	if _, err := endpoints.Unregister(ctx, endpoint); err != nil {
		return fmt.Errorf("unregister endpoint: %w", err)
	}
	if _, err := watch.Recv(); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return p.withdrawService(ctx, registry)
}

// withdrawService goes without the SDK's chain, which in v1.15.0 tries again until its time is over although it is done.
func (p *process) withdrawService(ctx context.Context, registry *url.URL) error {
	connection, err := p.dial(registry)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	withPath := metadata.AppendToOutgoingContext(ctx, "path", emptyRegistrationPath)
	_, err = registryapi.NewNetworkServiceRegistryClient(connection).Unregister(withPath, &registryapi.NetworkService{Name: "recorded"})
	return err
}

func findAll(
	ctx context.Context, services registryapi.NetworkServiceRegistryClient, endpoints registryapi.NetworkServiceEndpointRegistryClient,
) error {
	labelled := func(value string) *registryapi.NetworkServiceEndpoint {
		return &registryapi.NetworkServiceEndpoint{
			NetworkServiceNames:  []string{"recorded"},
			NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{"recorded": {Labels: map[string]string{"app": value}}},
		}
	}
	for _, wanted := range []*registryapi.NetworkServiceEndpoint{
		{NetworkServiceNames: []string{"recorded"}}, {Name: "recorded-1"}, labelled("red"), labelled("green"),
		{Url: "127.0.0.1:9"}, {NetworkServiceNames: []string{"absent"}},
	} {
		found, err := endpoints.Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: wanted})
		if err == nil {
			err = readAll(func() error { _, err := found.Recv(); return err })
		}
		if err != nil {
			return fmt.Errorf("find endpoints: %w", err)
		}
	}
	found, err := services.Find(ctx, &registryapi.NetworkServiceQuery{NetworkService: &registryapi.NetworkService{Name: "recorded"}})
	if err != nil {
		return fmt.Errorf("find services: %w", err)
	}
	return readAll(func() error { _, err := found.Recv(); return err })
}

func readAll(read func() error) error {
	for {
		if err := read(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// recordConnection requests with the SDK's client chain, refreshes and closes, while a monitor looks on.
func (p *process) recordConnection(ctx context.Context, exchange string, target *url.URL, wanted *networkservice.Connection) error {
	p.recorder.begin(exchange)
	const name = "recorder"
	watched, err := p.dial(target)
	if err != nil {
		return err
	}
	defer func() { _ = watched.Close() }()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	selector := &networkservice.MonitorScopeSelector{PathSegments: []*networkservice.PathSegment{{Name: name, Id: name + "-0"}}}
	monitor, err := networkservice.NewMonitorConnectionClient(watched).MonitorConnections(watching, selector)
	if err != nil {
		return err
	}
	see := func() error {
		_, err := monitor.Recv()
		return err
	}
	chain := client.NewClient(ctx, client.WithName(name), client.WithClientURL(target), client.WithoutRefresh(),
		client.WithDialOptions(p.dialOptions()...), client.WithDialTimeout(callTimeout))
	_, preference, err := preferWireGuard(defaultWireGuardPort)
	if err != nil {
		return err
	}
	wanted.Id, wanted.Payload, wanted.Labels = name+"-0", payload.IP, map[string]string{"podName": name}
	wanted.Context = &networkservice.ConnectionContext{DnsContext: &networkservice.DNSContext{}}
	request := &networkservice.NetworkServiceRequest{Connection: wanted, MechanismPreferences: []*networkservice.Mechanism{preference}}
	if err := see(); err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	for range 2 {
		if request.Connection, err = chain.Request(ctx, request); err != nil {
			return fmt.Errorf("%s: request: %w", exchange, err)
		}
		if err := see(); err != nil {
			return fmt.Errorf("%s: monitor: %w", exchange, err)
		}
	}
	if _, err := chain.Close(ctx, request.Connection); err != nil {
		return fmt.Errorf("%s: close: %w", exchange, err)
	}
	return see()
}

// recordRequestRefusals asks a manager for what it refuses.
func (p *process) recordRequestRefusals(ctx context.Context, manager *url.URL) error {
	trusted, anonymous, stop, err := p.dialTwice(manager)
	if err != nil {
		return err
	}
	defer stop()
	refused := func(exchange string, connection *grpc.ClientConn, change func(*networkservice.NetworkServiceRequest)) {
		p.recorder.begin("refused: " + exchange)
		ctx, cancel := context.WithTimeout(ctx, refusalTimeout)
		defer cancel()
		request := plainRequest("refused")
		change(request)
		_, _ = networkservice.NewNetworkServiceClient(connection).Request(ctx, request)
	}
	refused("unknown service", trusted, func(r *networkservice.NetworkServiceRequest) { r.Connection.NetworkService = "nowhere" })
	refused("unknown endpoint", trusted, func(r *networkservice.NetworkServiceRequest) {
		r.Connection.NetworkServiceEndpointName = "nobody"
	})
	refused("another id than its segment", trusted, func(r *networkservice.NetworkServiceRequest) { r.Connection.Id = "another" })
	refused("no path", trusted, func(r *networkservice.NetworkServiceRequest) { r.Connection.Path = nil })
	refused("unknown mechanism", trusted, func(r *networkservice.NetworkServiceRequest) {
		r.MechanismPreferences = []*networkservice.Mechanism{{Cls: cls.REMOTE, Type: "VXLAN"}}
	})
	refused("another payload", trusted, func(r *networkservice.NetworkServiceRequest) { r.Connection.Payload = payload.Ethernet })
	refused("no token", anonymous, func(*networkservice.NetworkServiceRequest) {})
	return nil
}

func plainRequest(name string) *networkservice.NetworkServiceRequest {
	_, preference, _ := preferWireGuard(defaultWireGuardPort)
	return &networkservice.NetworkServiceRequest{
		Connection: &networkservice.Connection{
			Id: name + "-0", NetworkService: "vl3", Payload: payload.IP, Context: &networkservice.ConnectionContext{},
			Path: &networkservice.Path{PathSegments: []*networkservice.PathSegment{{Name: name, Id: name + "-0"}}},
		},
		MechanismPreferences: []*networkservice.Mechanism{preference},
	}
}

// recordRegistryRefusals registers what a registry refuses.
func (p *process) recordRegistryRefusals(ctx context.Context, registry *url.URL) error {
	trusted, anonymous, stop, err := p.dialTwice(registry)
	if err != nil {
		return err
	}
	defer stop()
	withPath := metadata.AppendToOutgoingContext(ctx, "path", emptyRegistrationPath)
	own := registration("refused-1", "tcp://127.0.0.1:9", "recorded", nil)
	foreign := registration("direct-1", "tcp://127.0.0.1:9", "direct", nil)
	for _, try := range []struct {
		exchange   string
		ctx        context.Context
		connection *grpc.ClientConn
		endpoint   *registryapi.NetworkServiceEndpoint
	}{
		{"registration without a token", withPath, anonymous, own},
		{"registration without a path", ctx, trusted, own},
		{"endpoint of another identity", withPath, trusted, foreign},
	} {
		p.recorder.begin("refused: " + try.exchange)
		ctx, cancel := context.WithTimeout(try.ctx, refusalTimeout)
		_, _ = registryapi.NewNetworkServiceEndpointRegistryClient(try.connection).Register(ctx, try.endpoint)
		cancel()
	}
	p.recorder.begin("refused: service of another identity")
	_, _ = registryapi.NewNetworkServiceRegistryClient(trusted).Register(withPath, &registryapi.NetworkService{Name: "direct"})
	return nil
}

// dialTwice dials with tokens and without.
func (p *process) dialTwice(target *url.URL) (trusted, anonymous *grpc.ClientConn, stop func(), err error) {
	if trusted, err = p.dial(target); err != nil {
		return nil, nil, nil, err
	}
	config := tlsconfig.MTLSClientConfig(p.source, p.source, tlsconfig.AuthorizeAny())
	options := append(p.recorder.dialOptions(),
		grpc.WithTransportCredentials(grpcfd.TransportCredentials(credentials.NewTLS(config))))
	if anonymous, err = grpc.NewClient("passthrough:///"+grpcutils.URLToTarget(target), options...); err != nil {
		return nil, nil, nil, err
	}
	return trusted, anonymous, func() { _, _ = trusted.Close(), anonymous.Close() }, nil
}
