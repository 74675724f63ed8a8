// Peers are real Network Service Mesh programs, wired from NSM's own Go SDK with the options of the released commands.
// One binary, one role per process: nsm-peers ROLE [flags]. A server prints "ready" on its standard output once it can
// be used; the client prints its connection as one line of JSON. Everything else goes to standard error.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/log/logruslogger"
)

// role declares its flags and returns what to run once they are parsed.
type role func(flags *flag.FlagSet) func(*process) error

var roles = map[string]role{
	"workloadapi":        workloadAPIRole,
	"registry":           registryRole,
	"nsmgr":              nsmgrRole,
	"forwarder":          forwarderRole,
	"nsmgr-proxy":        nsmgrProxyRole,
	"registry-proxy-dns": registryProxyRole,
	"icmp":               icmpRole,
	"vl3":                vl3Role,
	"ipam":               ipamRole,
	"client":             clientRole,
	"find":               findRole,
	"load":               loadRole,
	"record":             recordRole,
}

func main() {
	name := ""
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	declare, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "usage: nsm-peers %s [flags]\n", strings.Join(roleNames(), "|"))
		os.Exit(2)
	}
	if err := run(name, declare); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

func roleNames() []string {
	names := make([]string, 0, len(roles))
	for name := range roles {
		names = append(names, name)
	}
	return names
}

func run(name string, declare role) error {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	p := &process{role: name}
	level := flags.String("log", "warn", "log level; from info on the SDK traces its chains")
	flags.DurationVar(&p.tokenLifetime, "token-lifetime", 10*time.Minute, "life of a hop token")
	start := declare(flags)
	_ = flags.Parse(os.Args[2:])

	parsed, err := logrus.ParseLevel(*level)
	if err != nil {
		return err
	}
	logrus.SetLevel(parsed)
	logrus.SetOutput(os.Stderr)
	log.EnableTracing(true)

	signalled, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	ctx, orphaned := context.WithCancel(signalled)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		orphaned()
	}()
	fields := map[string]interface{}{"role": name}
	p.ctx = log.WithLog(ctx, logruslogger.New(ctx, fields))
	p.untilExit = log.WithLog(context.Background(), logruslogger.New(ctx, fields))
	if name != "workloadapi" {
		if err := p.fetchIdentity(); err != nil {
			return err
		}
		defer func() { _ = p.source.Close() }()
	}
	return start(p)
}

func ready() { fmt.Println("ready") }
