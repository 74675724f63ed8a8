// Apps is an application as a user of go-spiffe writes one, after its examples: everything it knows of its identity comes
// from the Workload API at SPIFFE_ENDPOINT_SOCKET. One role per process: apps ROLE [flags]. A server prints "ready" once it
// listens, the others print lines of JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// callTimeout is for one whole call, the way to the Workload API included.
const callTimeout = 60 * time.Second

var roles = map[string]func(context.Context, *options) error{
	"server": server, "client": client, "https": https, "fetch": fetch, "watch": watch, "jwt": jwt,
}

type options struct {
	address  string
	peer     string
	audience string
	count    int
}

func main() {
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: apps server|client|https|fetch|watch|jwt [flags]")
		os.Exit(2)
	}
	o := &options{}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.address, "address", "", "to listen at, to dial, or a URL")
	flags.StringVar(&o.peer, "peer", "", "the SPIFFE ID that the other side must have")
	flags.StringVar(&o.audience, "audience", "test", "of a JWT-SVID")
	flags.IntVar(&o.count, "count", 1, "identities to print")
	_ = flags.Parse(os.Args[2:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	orphaned, end := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	if err := roles[os.Args[1]](orphaned, o); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func authorizer(o *options) (tlsconfig.Authorizer, error) {
	id, err := spiffeid.FromString(o.peer)
	return tlsconfig.AuthorizeID(id), err
}

// server says to each caller who it is.
func server(ctx context.Context, o *options) error {
	authorize, err := authorizer(o)
	if err != nil {
		return err
	}
	listener, err := spiffetls.Listen(ctx, "tcp", o.address, authorize)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		<-ctx.Done()
		_ = listener.Close()
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
				return
			}
			if id, err := spiffetls.PeerIDFromConn(conn); err == nil {
				fmt.Fprintf(conn, "%s\n", id)
			}
		}()
	}
}

// client prints whom it met and who the server says it is.
func client(ctx context.Context, o *options) error {
	authorize, err := authorizer(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := spiffetls.Dial(ctx, "tcp", o.address, authorize)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintln(conn, "who am I?")
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	id, err := spiffetls.PeerIDFromConn(conn)
	if err != nil {
		return err
	}
	return show(map[string]string{"met": id.String(), "called": answer[:len(answer)-1]})
}

// https asks a web server, as go-spiffe's spiffe-https example does.
func https(ctx context.Context, o *options) error {
	authorize, err := authorizer(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	transport := &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(source, source, authorize)}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.address, http.NoBody)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return show(map[string]string{"called": string(body)})
}

type watcher struct {
	left int
	done context.CancelFunc
}

// OnX509ContextUpdate prints one state of the identity.
func (w *watcher) OnX509ContextUpdate(state *workloadapi.X509Context) {
	_ = showState(state)
	if w.left--; w.left == 0 {
		w.done()
	}
}

func showState(state *workloadapi.X509Context) error {
	ids, serials, domains, roots := []string{}, []string{}, []string{}, 0
	for _, svid := range state.SVIDs {
		ids = append(ids, svid.ID.String())
		serials = append(serials, svid.Certificates[0].SerialNumber.Text(16))
	}
	for _, bundle := range state.Bundles.Bundles() {
		domains = append(domains, bundle.TrustDomain().Name())
		roots += len(bundle.X509Authorities())
	}
	return show(map[string]any{"ids": ids, "serials": serials, "domains": domains, "roots": roots})
}

// fetch prints the identity, or fails at once.
func fetch(ctx context.Context, _ *options) error {
	state, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	return showState(state)
}

// OnX509ContextWatchError says why there is none.
func (w *watcher) OnX509ContextWatchError(err error) {
	fmt.Fprintf(os.Stderr, "watch: %v\n", err)
}

// watch prints the identity and each that follows.
func watch(ctx context.Context, o *options) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	if err := workloadapi.WatchX509Context(ctx, &watcher{left: o.count, done: done}); ctx.Err() == nil {
		return err
	}
	return nil
}

// jwt fetches a JWT-SVID and has it validated, by who gave it and by the published keys; then the same with a source, which
// follows the keys by itself.
func jwt(ctx context.Context, o *options) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	api, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	token, err := api.FetchJWTSVID(ctx, jwtsvid.Params{Audience: o.audience})
	if err != nil {
		return err
	}
	validated, err := api.ValidateJWTSVID(ctx, token.Marshal(), o.audience)
	if err != nil {
		return err
	}
	bundles, err := api.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	verified, err := jwtsvid.ParseAndValidate(token.Marshal(), bundles, []string{o.audience})
	if err != nil {
		return err
	}
	source, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	another, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: o.audience, ExtraAudiences: []string{"more"}})
	if err != nil {
		return err
	}
	followed, err := jwtsvid.ParseAndValidate(another.Marshal(), source, []string{"more"})
	if err != nil {
		return err
	}
	return show(map[string]string{
		"fetched": token.ID.String(), "validated": validated.ID.String(), "verified": verified.ID.String(), "followed": followed.ID.String(),
	})
}

func show(value any) error {
	return json.NewEncoder(os.Stdout).Encode(value)
}
