package main

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// enrolledAPI is a Workload API with one identity that somebody else's authority gave; it is not renewed.
type enrolledAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	svid *workload.X509SVID
}

// enrolment is what nsm keeps of an identity that it got for a join string. Certificates are DER.
type enrolment struct {
	Key     string              `json:"key"` // PEM of PKCS #8
	Chain   [][]byte            `json:"chain"`
	Bundles map[string][][]byte `json:"bundles"`
}

func readEnrolled(path string) (*enrolledAPI, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var stored enrolment
	if err := json.Unmarshal(text, &stored); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	block, _ := pem.Decode([]byte(stored.Key))
	if block == nil {
		return nil, errors.New(path + ": the key is not PEM")
	}
	svid := &workload.X509SVID{X509SvidKey: block.Bytes}
	for _, certificate := range stored.Chain {
		svid.X509Svid = append(svid.X509Svid, certificate...)
	}
	parsed, err := x509svid.ParseRaw(svid.X509Svid, block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	svid.SpiffeId = parsed.ID.String()
	for _, root := range stored.Bundles[parsed.ID.TrustDomain().Name()] {
		svid.Bundle = append(svid.Bundle, root...)
	}
	return &enrolledAPI{svid: svid}, nil
}

// FetchX509SVID implements the Workload API.
func (e *enrolledAPI) FetchX509SVID(
	_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer,
) error {
	if err := checkHeader(stream.Context()); err != nil {
		return err
	}
	if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{e.svid}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}
