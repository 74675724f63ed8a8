package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/golang/protobuf/ptypes/empty"
	"google.golang.org/grpc"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
)

// How long a link may take to make or to close.
const linkTimeout = 60 * time.Second

// linkOthers connects to the endpoints of the service that were there before this one: as NSM's vL3 endpoint does once,
// when it starts. The elements are those of its client. The result closes the links.
func (p *process) linkOthers(settings *endpointSettings, elements ...networkservice.NetworkServiceClient) (func(), error) {
	ctx, cancel := context.WithTimeout(p.ctx, linkTimeout)
	defer cancel()
	others, err := p.earlierEndpoints(ctx, settings)
	if err != nil {
		return nil, err
	}
	links := client.NewClient(p.untilExit, client.WithName(settings.name), client.WithClientURL(settings.register.URL),
		client.WithDialOptions(p.dialOptions()...), client.WithDialTimeout(linkTimeout),
		client.WithAdditionalFunctionality(elements...))
	var made []*networkservice.Connection
	for _, name := range others {
		connection, err := links.Request(ctx, &networkservice.NetworkServiceRequest{Connection: &networkservice.Connection{
			Id: settings.name + "-to-" + name, NetworkService: settings.service, NetworkServiceEndpointName: name,
			Payload: payload.IP, Labels: map[string]string{"podName": settings.name},
			Context: &networkservice.ConnectionContext{},
		}})
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", name, err)
		}
		made = append(made, connection)
	}
	return func() {
		leaving, left := context.WithTimeout(p.untilExit, linkTimeout)
		defer left()
		for _, connection := range made {
			_, _ = links.Close(leaving, connection)
		}
	}, nil
}

func (p *process) earlierEndpoints(ctx context.Context, settings *endpointSettings) ([]string, error) {
	found, err := p.endpointRegistry(settings.register.URL).Find(ctx, &registryapi.NetworkServiceEndpointQuery{
		NetworkServiceEndpoint: &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{settings.service}},
	})
	if err != nil {
		return nil, fmt.Errorf("find the others: %w", err)
	}
	endpoints := registryapi.ReadNetworkServiceEndpointList(found)
	var own time.Time
	for _, endpoint := range endpoints {
		if endpoint.GetName() == settings.name {
			own = endpoint.GetInitialRegistrationTime().AsTime()
		}
	}
	var earlier []string
	for _, endpoint := range endpoints {
		if endpoint.GetName() != settings.name && !endpoint.GetInitialRegistrationTime().AsTime().After(own) {
			earlier = append(earlier, endpoint.GetName())
		}
	}
	return earlier, nil
}

// wireGuardLink is the WIREGUARD element of an endpoint as a client of another one: both sides of its links are on one
// device, with one key.
type wireGuardLink struct {
	*wireGuard
	// What lies behind this endpoint; a route around it is not the other one's alone.
	own []*net.IPNet
}

// Request offers our side and takes the other's as a peer.
func (l *wireGuardLink) Request(
	ctx context.Context, request *networkservice.NetworkServiceRequest, opts ...grpc.CallOption,
) (*networkservice.Connection, error) {
	if len(request.GetMechanismPreferences()) == 0 {
		request.MechanismPreferences = []*networkservice.Mechanism{{
			Cls: cls.REMOTE, Type: wireguard.MECHANISM, Parameters: map[string]string{
				wireguard.SrcIP: l.address.String(), wireguard.SrcPort: fmt.Sprint(l.port),
				wireguard.SrcPublicKey: base64.StdEncoding.EncodeToString(l.public[:]), wireguard.MTU: fmt.Sprint(mtuBytes),
			},
		}}
	}
	connection, err := next.Client(ctx).Request(ctx, request, opts...)
	if err != nil {
		return nil, err
	}
	mechanism := wireguard.ToMechanism(connection.GetMechanism())
	if mechanism == nil {
		return nil, errors.New("the link is not WIREGUARD")
	}
	context := connection.GetContext().GetIpContext()
	other := wireGuardPeer{key: mechanism.DstPublicKey(), allowed: append([]string(nil), context.GetDstIpAddrs()...)}
	other.endpoint = netip.AddrPortFrom(netip.MustParseAddr(mechanism.DstIP().String()), mechanism.DstPort()).String()
	for _, route := range context.GetSrcRoutes() {
		if !l.isOwn(route.GetPrefix()) {
			other.allowed = append(other.allowed, route.GetPrefix())
		}
	}
	return connection, l.putPeer(connection.GetId(), other)
}

func (l *wireGuardLink) isOwn(prefix string) bool {
	_, network, err := net.ParseCIDR(prefix)
	if err != nil {
		return true
	}
	for _, own := range l.own {
		if network.Contains(own.IP) || own.Contains(network.IP) {
			return true
		}
	}
	return false
}

// Close removes the peer.
func (l *wireGuardLink) Close(
	ctx context.Context, connection *networkservice.Connection, opts ...grpc.CallOption,
) (*empty.Empty, error) {
	l.removePeer(connection.GetId())
	return next.Client(ctx).Close(ctx, connection, opts...)
}
