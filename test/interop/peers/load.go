package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"
	registryapi "github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
)

// load is a closed loop of callers with plain stubs, each on its own connection, so that it can be pointed at any server.
type load struct {
	target                      urlFlag
	operation                   string
	service, endpoint, run      string
	callers, fill               int
	warm, window, every         time.Duration
	pids, sockets               string
	members                     []*process
	counting, stopping          atomic.Bool
	errors                      atomic.Int64
	firstError                  atomic.Value
	latencies                   [][]time.Duration
	prepared, finished, started sync.WaitGroup
}

const (
	// Nothing listens there; a server that sends to its clients must not reach anybody.
	discardPort = 9
	// After a failed call; a server that refuses everything is not flooded.
	failurePause = 10 * time.Millisecond
	// Unit of the times in /proc/PID/stat, per second.
	ticksPerSecond = 100
	// A registration that begins at its owner.
	emptyPath = `{"Index":0,"PathSegments":null}`
	pathKey   = "path"
)

// loadRole measures one server for one window and prints a line of JSON: calls, errors, latencies and the CPU time of
// the processes in -pids.
func loadRole(flags *flag.FlagSet) func(*process) error {
	l := &load{}
	flags.Var(&l.target, "to", "server under test, tcp://host:port")
	flags.StringVar(&l.operation, "operation", "find", "find, register, request (Request then Close, Request timed) or refresh")
	flags.StringVar(&l.service, "service", "", "network service")
	flags.StringVar(&l.endpoint, "endpoint", "", "endpoint name; needed for a direct call")
	flags.StringVar(&l.run, "run", "load", "part of the names that this run makes")
	flags.IntVar(&l.callers, "callers", 1, "concurrent callers, one connection each")
	flags.IntVar(&l.fill, "fill", 0, "endpoints of the service to register first")
	flags.DurationVar(&l.warm, "warm", time.Second, "not counted")
	flags.DurationVar(&l.window, "window", 3*time.Second, "counted")
	flags.DurationVar(&l.every, "every", 0, "between two calls of one caller; 0 calls without a pause")
	flags.StringVar(&l.pids, "pids", "", "comma list")
	flags.StringVar(&l.sockets, "sockets", "", "comma list of Workload APIs, whose identities the callers share; each has an address of its own")
	return func(p *process) error {
		if err := l.fillRegistry(p); err != nil {
			return err
		}
		if l.callers == 0 {
			return nil
		}
		if err := l.openMembers(p); err != nil {
			return err
		}
		return l.measure()
	}
}

// openMembers makes a process value for each identity.
func (l *load) openMembers(p *process) error {
	if l.sockets == "" {
		l.members = []*process{p}
		return nil
	}
	for _, socket := range strings.Split(l.sockets, ",") {
		address := workloadapi.WithClientOptions(workloadapi.WithAddr(socket))
		source, err := workloadapi.NewX509Source(p.ctx, address)
		if err != nil {
			return fmt.Errorf("workload API %s: %w", socket, err)
		}
		member := *p
		member.source = source
		l.members = append(l.members, &member)
	}
	return nil
}

func (l *load) measure() error {
	l.latencies = make([][]time.Duration, l.callers)
	l.started.Add(1)
	for i := range l.callers {
		l.prepared.Add(1)
		l.finished.Add(1)
		go l.runCaller(i)
	}
	l.prepared.Wait()
	l.started.Done()
	time.Sleep(l.warm)
	cpu, begun := cpuSeconds(l.pids), time.Now()
	l.counting.Store(true)
	time.Sleep(l.window)
	l.counting.Store(false)
	elapsed := time.Since(begun)
	cpu = cpuSeconds(l.pids) - cpu
	l.stopping.Store(true)
	l.finished.Wait()
	return l.print(elapsed, cpu)
}

func (l *load) print(elapsed time.Duration, cpu float64) error {
	all := slices.Concat(l.latencies...)
	slices.Sort(all)
	at := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[int(share*float64(len(all)-1))].Microseconds()) / 1000
	}
	result := map[string]any{
		"calls": len(all), "errors": l.errors.Load(), "seconds": elapsed.Seconds(), "cpuSeconds": cpu,
		"p50Ms": at(.5), "p99Ms": at(.99), "firstError": l.firstError.Load(),
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// runCaller prepares, waits for the others, and calls until the run ends. A call counts that ends inside the window.
func (l *load) runCaller(i int) {
	defer l.finished.Done()
	member := i % len(l.members)
	c := &caller{load: l, p: l.members[member], name: fmt.Sprintf("%s-%d", l.run, i)}
	failed := c.open(member)
	if failed == nil && l.operation == "refresh" {
		_, failed = c.call()
	}
	l.note(failed)
	l.prepared.Done()
	l.started.Wait()
	l.pause(time.Duration(int64(l.every) * int64(i) / int64(l.callers)))
	for failed == nil && !l.stopping.Load() && c.p.ctx.Err() == nil {
		took, err := c.call()
		switch {
		case err != nil:
			l.note(err)
			time.Sleep(failurePause)
		case l.counting.Load():
			l.latencies[i] = append(l.latencies[i], took)
		}
		l.pause(l.every)
	}
	c.leave()
}

// pause ends early with the run.
func (l *load) pause(wanted time.Duration) {
	for end := time.Now().Add(wanted); time.Now().Before(end) && !l.stopping.Load(); {
		time.Sleep(min(100*time.Millisecond, time.Until(end)))
	}
}

func (l *load) note(err error) {
	if err == nil {
		return
	}
	l.errors.Add(1)
	l.firstError.CompareAndSwap(nil, err.Error())
}

// fillRegistry registers the endpoints that the calls shall find. They end by themselves.
func (l *load) fillRegistry(p *process) error {
	if l.fill == 0 {
		return nil
	}
	connection, err := p.dial(l.target.URL)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	client := registryapi.NewNetworkServiceEndpointRegistryClient(connection)
	for i := range l.fill {
		wanted := registration(fmt.Sprintf("%s-%d", l.service, i), "tcp://127.0.0.1:9", l.service, map[string]string{"app": l.service})
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(p.ctx, pathKey, emptyPath), callTimeout)
		_, err := client.Register(ctx, wanted)
		cancel()
		if err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// caller is one member of a load: a connection to the server, and what it holds there.
type caller struct {
	load       *load
	p          *process
	name       string
	link       *grpc.ClientConn
	calls      int
	preference *networkservice.Mechanism
	held       *networkservice.Connection
	registered *registryapi.NetworkServiceEndpoint
	path       string
}

// open dials; with several identities each comes from a loopback address of its own, as machines do.
func (c *caller) open(member int) (err error) {
	if _, c.preference, err = preferWireGuard(discardPort); err != nil {
		return err
	}
	options := c.p.dialOptions()
	if c.load.sockets != "" {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, 0, byte(1+member))}}
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	}
	c.link, err = grpc.NewClient("passthrough:///"+grpcutils.URLToTarget(c.load.target.URL), options...)
	return err
}

func (c *caller) call() (time.Duration, error) {
	ctx, cancel := context.WithTimeout(c.p.ctx, callTimeout)
	defer cancel()
	c.calls++
	switch c.load.operation {
	case "find":
		return c.find(ctx)
	case "register":
		return c.register(ctx)
	case "request", "refresh":
		return c.request(ctx)
	}
	return 0, fmt.Errorf("unknown operation %s", c.load.operation)
}

func (c *caller) find(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	query := &registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{c.load.service}}
	found, err := registryapi.NewNetworkServiceEndpointRegistryClient(c.link).
		Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: query})
	count := 0
	for ; err == nil; count++ {
		_, err = found.Recv()
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	if count-1 != max(1, c.load.fill) {
		return 0, fmt.Errorf("found %d endpoints of %s", count-1, c.load.service)
	}
	return time.Since(begun), nil
}

func (c *caller) register(ctx context.Context) (time.Duration, error) {
	if c.registered == nil {
		c.path = emptyPath
		c.registered = registration(c.name, "tcp://127.0.0.1:9", c.load.service, map[string]string{"app": "load"})
	}
	begun := time.Now()
	var header metadata.MD
	answer, err := registryapi.NewNetworkServiceEndpointRegistryClient(c.link).
		Register(metadata.AppendToOutgoingContext(ctx, pathKey, c.path), c.registered, grpc.Header(&header))
	if err != nil {
		return 0, err
	}
	took := time.Since(begun)
	if paths := header.Get(pathKey); len(paths) > 0 {
		c.path = paths[0]
	}
	c.registered = answer
	c.registered.ExpirationTime = nil
	return took, nil
}

func (c *caller) request(ctx context.Context) (time.Duration, error) {
	client := networkservice.NewNetworkServiceClient(c.link)
	connection := c.held
	if connection == nil {
		id := fmt.Sprintf("%s-%d", c.name, c.calls)
		connection = &networkservice.Connection{
			Id: id, NetworkService: c.load.service, NetworkServiceEndpointName: c.load.endpoint, Payload: payload.IP,
			Labels: map[string]string{"podName": c.name}, Context: &networkservice.ConnectionContext{},
			Path: &networkservice.Path{PathSegments: []*networkservice.PathSegment{{Name: c.name, Id: id}}},
		}
	}
	begun := time.Now()
	accepted, err := client.Request(ctx, &networkservice.NetworkServiceRequest{
		Connection: connection, MechanismPreferences: []*networkservice.Mechanism{c.preference},
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(begun)
	if c.load.operation == "refresh" {
		c.held = accepted
		return took, nil
	}
	_, err = client.Close(ctx, accepted)
	return took, err
}

// leave gives back what the caller holds.
func (c *caller) leave() {
	if c.link == nil {
		return
	}
	defer func() { _ = c.link.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if c.held != nil {
		_, _ = networkservice.NewNetworkServiceClient(c.link).Close(ctx, c.held)
	}
	if c.registered != nil {
		ctx = metadata.AppendToOutgoingContext(ctx, pathKey, c.path)
		_, _ = registryapi.NewNetworkServiceEndpointRegistryClient(c.link).Unregister(ctx, c.registered)
	}
}

// cpuSeconds is what the processes used so far: fields 14 and 15 of their stat.
func cpuSeconds(pids string) (sum float64) {
	for _, pid := range strings.Split(pids, ",") {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		var user, system float64
		_, _ = fmt.Sscan(fields[11], &user)
		_, _ = fmt.Sscan(fields[12], &system)
		sum += (user + system) / ticksPerSecond
	}
	return sum
}
