package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/curve25519"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/heal"
)

// Of one call; the released client's 15 s are too few for a busy machine.
const callTimeout = 60 * time.Second

// clientRole makes one connection with the SDK's whole client chain: refresh, heal and the client's policies. It prints
// the connection, then "ready", and closes it when the process is told to end.
func clientRole(flags *flag.FlagSet) func(*process) error {
	var target urlFlag
	labels := labelsFlag{}
	flags.Var(&target, "to", "manager or endpoint, tcp://host:port")
	flags.Var(labels, "labels", "of the client")
	service := flags.String("service", "icmp", "")
	endpoint := flags.String("endpoint", "", "endpoint name; needed for a direct call")
	name := flags.String("name", "go-client", "on the path, and label podName")
	ask := flags.String("ask", "", "DNS name to ask through the tunnel; with it the tunnel is opened and pinged")
	others := flags.String("reach", "", "addresses of other clients to reach through the tunnel, comma list")
	port := flags.Int("wireguard-port", defaultWireGuardPort, "UDP")
	timeout := flags.Duration("call-timeout", callTimeout, "of a request; what is left of it is taken off the lease")
	trace := flags.Bool("trace", true, "false: the client's policy never sees the server's certificate")
	return func(p *process) error {
		if *trace {
			traceSilently()
		}
		chain := client.NewClient(p.untilExit, client.WithName(*name), client.WithClientURL(target.URL),
			client.WithDialOptions(p.dialOptions()...), client.WithDialTimeout(callTimeout),
			client.WithAuthorizeClient(authorize.NewClient()), client.WithHealClient(heal.NewClient(p.untilExit)))
		ctx, cancel := context.WithTimeout(p.ctx, *timeout)
		defer cancel()
		private, preference, err := preferWireGuard(*port)
		if err != nil {
			return err
		}
		labels["podName"] = *name
		connection, err := chain.Request(ctx, &networkservice.NetworkServiceRequest{
			Connection: &networkservice.Connection{
				Id: *name + "-0", NetworkService: *service, NetworkServiceEndpointName: *endpoint, Payload: payload.IP,
				Labels: labels, Context: &networkservice.ConnectionContext{DnsContext: &networkservice.DNSContext{}},
			},
			MechanismPreferences: []*networkservice.Mechanism{preference},
		})
		if err != nil {
			return err
		}
		if err := printMessage(connection); err != nil {
			return err
		}
		if *ask != "" {
			if err := useTunnel(p.ctx, connection, private, inTunnel{*ask, *others}); err != nil {
				return err
			}
		}
		ready()
		<-p.ctx.Done()
		leaving, left := context.WithTimeout(p.untilExit, callTimeout)
		defer left()
		_, err = chain.Close(leaving, connection)
		return err
	}
}

// traceSilently lets the SDK's tracing run: below info it drops the call options, and a client's policy never sees the
// server's certificate.
func traceSilently() {
	if logrus.GetLevel() < logrus.InfoLevel {
		logrus.SetLevel(logrus.InfoLevel)
		logrus.SetOutput(io.Discard)
	}
}

func preferWireGuard(port int) (private [keyBytes]byte, preference *networkservice.Mechanism, err error) {
	if _, err := rand.Read(private[:]); err != nil {
		return private, nil, err
	}
	var public [keyBytes]byte
	curve25519.ScalarBaseMult(&public, &private)
	return private, &networkservice.Mechanism{Cls: cls.REMOTE, Type: wireguard.MECHANISM, Parameters: map[string]string{
		wireguard.SrcIP: "127.0.0.1", wireguard.SrcPort: fmt.Sprint(port),
		wireguard.SrcPublicKey: base64.StdEncoding.EncodeToString(public[:]), wireguard.MTU: fmt.Sprint(mtuBytes),
	}}, nil
}

// printMessage writes one line of JSON with the names of the definitions.
func printMessage(message proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	fmt.Println(string(text))
	return err
}

// findRole prints every endpoint of a service, one line of JSON each.
func findRole(flags *flag.FlagSet) func(*process) error {
	var target urlFlag
	flags.Var(&target, "registry", "tcp://host:port")
	service := flags.String("service", "", "")
	return func(p *process) error {
		connection, err := p.dial(target.URL)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(p.ctx, callTimeout)
		defer cancel()
		query := &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{*service}}
		found, err := registryapi.NewNetworkServiceEndpointRegistryClient(connection).
			Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: query})
		if err != nil {
			return err
		}
		for {
			answer, err := found.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := printMessage(answer.GetNetworkServiceEndpoint()); err != nil {
				return err
			}
		}
	}
}
