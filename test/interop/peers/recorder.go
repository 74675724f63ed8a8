package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// recorder writes what a client sends and receives to standard output, one line of JSON for each event. The bytes are
// those of the wire: each call has a codec of its own, which sees what it encodes and decodes.
type recorder struct {
	mu       sync.Mutex
	out      *json.Encoder
	exchange string
	calls    int
	peers    map[string]bool
}

// recorded is one event: versions (first), call, send, recv, header, end, or peer with its certificate.
type recorded struct {
	Exchange string            `json:"exchange,omitempty"`
	Call     int               `json:"call,omitempty"`
	Event    string            `json:"event"`
	Method   string            `json:"method,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Type     string            `json:"type,omitempty"`
	JSON     json.RawMessage   `json:"json,omitempty"`
	Wire     []byte            `json:"wire,omitempty"`
	Code     *codes.Code       `json:"code,omitempty"`
	Message  string            `json:"message,omitempty"`
	Peer     string            `json:"peer,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
	At       string            `json:"at,omitempty"`
}

// Modules whose versions a recording names.
var namedModules = map[string]string{
	"github.com/networkservicemesh/sdk": "sdk",
	"github.com/networkservicemesh/api": "api",
	"google.golang.org/grpc":            "grpc",
}

func newRecorder() *recorder {
	r := &recorder{out: json.NewEncoder(os.Stdout), peers: map[string]bool{}}
	versions := map[string]string{}
	if build, ok := debug.ReadBuildInfo(); ok {
		versions["go"] = build.GoVersion
		for _, module := range build.Deps {
			if module.Replace != nil {
				module.Version = module.Replace.Version
			}
			if name, wanted := namedModules[module.Path]; wanted {
				versions[name] = module.Version
			}
		}
	}
	r.put(recorded{Event: "versions", Versions: versions, At: time.Now().UTC().Format(time.RFC3339)})
	return r
}

// begin names the exchange that the next calls belong to.
func (r *recorder) begin(exchange string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchange = exchange
}

func (r *recorder) put(event recorded) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(event)
}

func (r *recorder) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(r.unary),
		grpc.WithChainStreamInterceptor(r.stream),
	}
}

// recordedCall is one call, and its codec.
type recordedCall struct {
	recorder *recorder
	exchange string
	number   int
}

func (r *recorder) start(ctx context.Context, method string) *recordedCall {
	r.mu.Lock()
	r.calls++
	call := &recordedCall{recorder: r, exchange: r.exchange, number: r.calls}
	r.mu.Unlock()
	sent, _ := metadata.FromOutgoingContext(ctx)
	call.put(recorded{Event: "call", Method: method, Metadata: firstValues(sent)})
	return call
}

func (c *recordedCall) put(event recorded) {
	event.Exchange, event.Call = c.exchange, c.number
	c.recorder.put(event)
}

func (c *recordedCall) message(event string, value any, wire []byte) {
	message, ok := value.(proto.Message)
	if !ok {
		return
	}
	text, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	c.put(recorded{Event: event, Type: string(message.ProtoReflect().Descriptor().FullName()), JSON: text, Wire: wire})
}

func (c *recordedCall) header(header metadata.MD) {
	if values := firstValues(header); len(values) > 0 {
		c.put(recorded{Event: "header", Metadata: values})
	}
}

func (c *recordedCall) end(err error) {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	end := status.Convert(err)
	code := end.Code()
	c.put(recorded{Event: "end", Code: &code, Message: end.Message()})
}

// peer writes the certificate of a server, once: with it, recorded tokens can be verified.
func (c *recordedCall) peer(server *grpcpeer.Peer) {
	info, ok := server.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 || len(info.State.PeerCertificates[0].URIs) == 0 {
		return
	}
	certificate := info.State.PeerCertificates[0]
	id := certificate.URIs[0].String()
	c.recorder.mu.Lock()
	known := c.recorder.peers[id]
	c.recorder.peers[id] = true
	c.recorder.mu.Unlock()
	if !known {
		c.recorder.put(recorded{Event: "peer", Peer: id, Wire: certificate.Raw})
	}
}

// Name implements encoding.Codec.
func (c *recordedCall) Name() string { return "proto" }

// Marshal implements encoding.Codec.
func (c *recordedCall) Marshal(value any) ([]byte, error) {
	slices, err := encoding.GetCodecV2(c.Name()).Marshal(value)
	if err != nil {
		return nil, err
	}
	wire := slices.Materialize()
	c.message("send", value, wire)
	return wire, nil
}

// Unmarshal implements encoding.Codec.
func (c *recordedCall) Unmarshal(wire []byte, value any) error {
	message, ok := value.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%T is no message", value)
	}
	err := proto.Unmarshal(wire, message)
	c.message("recv", value, wire)
	return err
}

func (r *recorder) unary(
	ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, next grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	call := r.start(ctx, method)
	var header metadata.MD
	var server grpcpeer.Peer
	options = append(options, grpc.ForceCodec(call), grpc.Header(&header), grpc.Peer(&server))
	err := next(ctx, method, request, answer, connection, options...)
	call.peer(&server)
	call.header(header)
	call.end(err)
	return err
}

type recordedStream struct {
	grpc.ClientStream
	call *recordedCall
}

// RecvMsg implements grpc.ClientStream.
func (s *recordedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err != nil {
		s.call.end(err)
	}
	return err
}

func (r *recorder) stream(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string, next grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	call := r.start(ctx, method)
	stream, err := next(ctx, description, connection, method, append(options, grpc.ForceCodec(call))...)
	if err != nil {
		call.end(err)
		return nil, err
	}
	return &recordedStream{stream, call}, nil
}

func firstValues(values metadata.MD) map[string]string {
	first := map[string]string{}
	for key, list := range values {
		if len(list) > 0 && key != "content-type" {
			first[key] = list[0]
		}
	}
	return first
}
