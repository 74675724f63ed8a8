package main

import (
	"flag"
	"fmt"
	"net/url"

	"google.golang.org/grpc"

	"github.com/networkservicemesh/api/pkg/api/ipam"

	"github.com/networkservicemesh/sdk/pkg/ipam/vl3ipam"
)

// ipamRole gives each vL3 endpoint a part of one prefix, as cmd-ipam-vl3 does.
func ipamRole(flags *flag.FlagSet) func(*process) error {
	var listen urlFlag
	flags.Var(&listen, "listen", "tcp://host:port")
	prefix := flags.String("prefix", "10.64.0.0/16", "of the whole network")
	length := flags.Uint("length", 24, "of each part")
	return func(p *process) error {
		prefixes := vl3ipam.NewIPAMServer(*prefix, uint8(*length))
		register := func(server *grpc.Server) { ipam.RegisterIPAMServer(server, prefixes) }
		if err := p.serve(register, listen.URL); err != nil {
			return err
		}
		ready()
		<-p.ctx.Done()
		return nil
	}
}

func (p *process) leasePrefixes(services []string) (prefixes []string, err error) {
	for _, text := range services {
		service, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		prefix, err := p.leasePrefix(service)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// leasePrefix asks a prefix service for a part. It is held for as long as the stream is open: until the process ends.
func (p *process) leasePrefix(service *url.URL) (string, error) {
	connection, err := p.dial(service)
	if err != nil {
		return "", err
	}
	stream, err := ipam.NewIPAMClient(connection).ManagePrefixes(p.ctx)
	if err != nil {
		return "", fmt.Errorf("prefix service: %w", err)
	}
	if err := stream.Send(&ipam.PrefixRequest{Type: ipam.Type_ALLOCATE}); err != nil {
		return "", fmt.Errorf("ask for a prefix: %w", err)
	}
	given, err := stream.Recv()
	if err != nil {
		return "", fmt.Errorf("get a prefix: %w", err)
	}
	return given.GetPrefix(), nil
}
