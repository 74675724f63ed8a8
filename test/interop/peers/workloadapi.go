package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// clockSkew is how far back a certificate begins.
const clockSkew = time.Minute

// workloadAPIRole is a small Workload API with its own authority in memory: one socket DIR/NAME.sock for each identity
// spiffe://DOMAIN/NAME. A new SVID with a new key goes out at half of the life of the last one.
func workloadAPIRole(flags *flag.FlagSet) func(*process) error {
	dir := flags.String("dir", "", "of the sockets")
	domain := flags.String("domain", "peers.test", "trust domain")
	names := flags.String("names", "", "comma list")
	life := flags.Duration("life", time.Hour, "of an SVID")
	enrolled := flags.String("enrolled", "", "comma list of files DIR/NAME.json, identities that nsm got from its own authority")
	return func(p *process) error {
		authority, err := newAuthority(*domain)
		if err != nil {
			return err
		}
		for _, name := range listOf(*names) {
			api := &workloadAPI{authority: authority, name: name, life: *life}
			if err := serveWorkloadAPI(filepath.Join(*dir, name+".sock"), api); err != nil {
				return err
			}
		}
		for _, name := range listOf(*enrolled) {
			api, err := readEnrolled(filepath.Join(*dir, name+".json"))
			if err != nil {
				return err
			}
			if err := serveWorkloadAPI(filepath.Join(*dir, name+".sock"), api); err != nil {
				return err
			}
		}
		ready()
		<-p.ctx.Done()
		return nil
	}
}

func listOf(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

func serveWorkloadAPI(path string, api workload.SpiffeWorkloadAPIServer) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, api)
	go func() { _ = server.Serve(listener) }()
	return nil
}

type authority struct {
	domain string
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
}

func newAuthority(domain string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	return &authority{domain: domain, root: root, key: key}, err
}

func (a *authority) issue(id *url.URL, life time.Duration) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: now.Add(-clockSkew), NotAfter: now.Add(life), URIs: []*url.URL{id},
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	certificate, err = x509.CreateCertificate(rand.Reader, template, a.root, &private.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(private)
	return certificate, key, err
}

type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authority *authority
	name      string
	life      time.Duration
}

func checkHeader(ctx context.Context) error {
	if values := metadata.ValueFromIncomingContext(ctx, "workload.spiffe.io"); len(values) != 1 || values[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

// FetchX509SVID implements the Workload API.
func (w *workloadAPI) FetchX509SVID(
	_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer,
) error {
	if err := checkHeader(stream.Context()); err != nil {
		return err
	}
	id := &url.URL{Scheme: "spiffe", Host: w.authority.domain, Path: "/" + w.name}
	for {
		certificate, key, err := w.authority.issue(id, w.life)
		if err != nil {
			return err
		}
		svid := &workload.X509SVID{
			SpiffeId: id.String(), X509Svid: certificate, X509SvidKey: key, Bundle: w.authority.root.Raw,
		}
		if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{svid}}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-time.After(w.life / 2):
		}
	}
}
