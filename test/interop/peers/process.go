package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/edwarnicke/grpcfd"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
	"github.com/networkservicemesh/sdk/pkg/tools/spiffejwt"
	"github.com/networkservicemesh/sdk/pkg/tools/token"
)

// process is what every role gets: its life, its identity and how it dials and serves.
type process struct {
	role          string
	ctx           context.Context // ends with a signal, or when standard input does: then the parent is gone
	untilExit     context.Context // for clients, which close and unregister after ctx has ended
	source        *workloadapi.X509Source
	tokenLifetime time.Duration
	recorder      *recorder // of the role that records; else nil
}

// How long a workload waits for its first identity.
const identityTimeout = 120 * time.Second

// fetchIdentity asks the Workload API that SPIFFE_ENDPOINT_SOCKET names.
func (p *process) fetchIdentity() error {
	ctx, cancel := context.WithTimeout(p.ctx, identityTimeout)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return fmt.Errorf("workload API: %w", err)
	}
	p.source = source
	return nil
}

func (p *process) tokens() token.GeneratorFunc {
	return spiffejwt.TokenGeneratorFunc(p.source, p.tokenLifetime)
}

func (p *process) serverOptions() []grpc.ServerOption {
	config := tlsconfig.MTLSServerConfig(p.source, p.source, tlsconfig.AuthorizeAny())
	config.MinVersion = tls.VersionTLS12
	return []grpc.ServerOption{grpc.Creds(grpcfd.TransportCredentials(credentials.NewTLS(config)))}
}

func (p *process) dialOptions() []grpc.DialOption {
	config := tlsconfig.MTLSClientConfig(p.source, p.source, tlsconfig.AuthorizeAny())
	config.MinVersion = tls.VersionTLS12
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(grpcfd.TransportCredentials(credentials.NewTLS(config))),
		grpc.WithDefaultCallOptions(
			grpc.WaitForReady(true),
			grpc.PerRPCCredentials(token.NewPerRPCCredentials(p.tokens())),
		),
		grpcfd.WithChainStreamInterceptor(),
		grpcfd.WithChainUnaryInterceptor(),
	}
	if p.recorder != nil {
		options = append(options, p.recorder.dialOptions()...)
	}
	return options
}

func (p *process) dial(target *url.URL) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+grpcutils.URLToTarget(target), p.dialOptions()...)
}

func (p *process) serve(register func(*grpc.Server), listen *url.URL) error {
	server := grpc.NewServer(p.serverOptions()...)
	register(server)
	select {
	case err := <-grpcutils.ListenAndServe(p.ctx, listen, server):
		return fmt.Errorf("listen on %s: %w", listen, err)
	default:
		return nil
	}
}

// serveToTheEnd serves, says ready, and waits for the end of the process.
func (p *process) serveToTheEnd(register func(*grpc.Server), listen *url.URL) error {
	if err := p.serve(register, listen); err != nil {
		return err
	}
	ready()
	<-p.ctx.Done()
	return nil
}

// urlFlag is a flag that holds an address such as tcp://127.0.0.1:5001.
type urlFlag struct{ *url.URL }

func (f *urlFlag) String() string {
	if f.URL == nil {
		return ""
	}
	return f.URL.String()
}

// Set implements flag.Value.
func (f *urlFlag) Set(text string) error {
	parsed, err := url.Parse(text)
	f.URL = parsed
	return err
}

// labelsFlag is a flag that holds k=v,k=v.
type labelsFlag map[string]string

func (f labelsFlag) String() string { return fmt.Sprint(map[string]string(f)) }

// Set implements flag.Value.
func (f labelsFlag) Set(text string) error {
	for _, pair := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("%q is not KEY=VALUE", pair)
		}
		f[key] = value
	}
	return nil
}
