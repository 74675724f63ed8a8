import { once } from 'node:events'
import * as Flags from '@oclif/core/flags'
import { NsmError } from '../base/errors.ts'
import type { ServeSettings } from '../daemon/serve-settings.ts'
import type { ServeHandle } from '../ui/command-context.ts'
import { readJoinString } from '../ui/credential-files.ts'
import { type ServeResult, serveText } from '../ui/join-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { serveRequest } from '../ui/serve-request.ts'

/** `nsm serve`: the whole server side in this process, until a signal. */
export class Serve extends NsmCommand {
  static override description =
    'Makes a trust domain, a certificate authority, a registry, a manager and a vL3 endpoint on first use and keeps\n' +
    'them in the state folder. Prints a join string (single use, 15 minutes), then stays in the foreground.'
  static override examples = [
    'nsm serve > join.txt',
    'nsm serve --service blue --prefix 10.70.0.0/16 --prefix fd70::/64',
    'nsm serve --join site.txt --site berlin',
    'nsm serve --issuer https://token.actions.githubusercontent.com --allow repository_id=5678,environment=production',
  ]
  static override flags = {
    service: Flags.string({
      default: 'my-networkservice-1',
      helpValue: 'NAME',
      env: 'NSM_SERVICE',
      summary: 'name of the network service',
    }),
    prefix: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'CIDR',
      env: 'NSM_PREFIX',
      summary: 'prefix its addresses come from, 10.64.0.0/16 when none is given',
    }),
    'dns-domain': Flags.string({
      helpValue: 'DOMAIN',
      env: 'NSM_DNS_DOMAIN',
      summary: "domain of the members' names, SERVICE.nsm.internal when nothing is said",
    }),
    listen: Flags.string({
      default: '0.0.0.0:5001',
      helpValue: 'HOST:PORT',
      env: 'NSM_LISTEN',
      summary: 'TCP address of gRPC',
    }),
    'wireguard-port': Flags.integer({
      default: 51820,
      min: 0,
      max: 65535,
      helpValue: 'PORT',
      env: 'NSM_WIREGUARD_PORT',
      summary: 'UDP port of WireGuard, 51820 when nothing is said',
    }),
    advertise: Flags.string({
      helpValue: 'HOST',
      env: 'NSM_ADVERTISE',
      summary: 'address clients reach this machine by, its first global address when nothing is said',
    }),
    state: Flags.string({
      helpValue: 'DIR',
      env: 'NSM_STATE_DIR',
      summary: 'folder of keys, leases and registrations',
    }),
    'trust-domain': Flags.string({
      helpValue: 'NAME',
      env: 'NSM_TRUST_DOMAIN',
      summary: 'SPIFFE trust domain, made up on first use',
    }),
    join: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_SERVE_JOIN',
      summary: 'join string of `nsm invite --endpoint`: makes this a further site of that network',
    }),
    site: Flags.string({
      helpValue: 'NAME',
      env: 'NSM_SITE',
      summary: "value of the endpoint's label `site`, the host's name when nothing is said",
    }),
    'site-prefix-length': Flags.integer({
      min: 8,
      max: 30,
      helpValue: 'BITS',
      env: 'NSM_SITE_PREFIX_LENGTH',
      summary: "length of each site's part of an IPv4 prefix, 24 when nothing is said",
    }),
    relay: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'ID',
      env: 'NSM_RELAY',
      summary: 'manager or forwarder that may pass on requests of others: its SPIFFE ID, or spiffe://domain/path/*',
    }),
    issuer: Flags.string({
      helpValue: 'URL',
      env: 'NSM_ISSUER',
      summary: 'OpenID Connect issuer whose ID tokens make members, with --allow',
    }),
    allow: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'CLAIM=VALUE,...',
      env: 'NSM_ALLOW',
      summary: 'claims that such a token must carry, whole and all of them; repeated, one of the lists',
    }),
    issuers: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_ISSUERS',
      summary:
        'YAML or JSON file of issuers and their rules, when one of them is not enough; read again when it changes',
    }),
    'bundle-listen': Flags.string({
      helpValue: 'HOST:PORT',
      env: 'NSM_BUNDLE_LISTEN',
      summary: 'TCP address that gives the trust bundle to other domains by https, with --bundle-cert and --bundle-key',
    }),
    'bundle-cert': Flags.string({
      helpValue: 'FILE',
      env: 'NSM_BUNDLE_CERT',
      summary: 'its certificate of a public authority in PEM, read again when it changes',
    }),
    'bundle-key': Flags.string({
      helpValue: 'FILE',
      env: 'NSM_BUNDLE_KEY',
      summary: 'the key of that certificate in PEM',
    }),
    policy: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_POLICY',
      summary:
        'YAML or JSON file of who may do what, read again when it changes; everybody who joined, when none is given',
    }),
    verbose: Flags.boolean({ default: false, env: 'NSM_VERBOSE', summary: 'log what happens to standard error' }),
  }

  async run(): Promise<void> {
    const { flags } = await this.parse(Serve)
    const { settings, signal } = this.context
    const dirs = { stateDir: flags.state ?? settings.stateDir, runtimeDir: settings.runtimeDir }
    const { readInput } = this.context
    const joinString = flags.join === undefined ? undefined : await readJoinString(flags.join, readInput)
    const request = { ...serveRequest(flags, dirs), ...(joinString === undefined ? {} : { joinString }) }
    const log = this.processLog(flags.verbose ? 'debug' : settings.logLevel === 'info' ? 'warn' : settings.logLevel)
    const running = await this.context.startServe(request, log, signal)
    // Without such a file SIGHUP ends the server, as when its terminal is closed.
    if (flags.policy !== undefined || flags.issuers !== undefined) this.context.onHangup(() => void running.reload())
    try {
      this.#show(request, running)
      await untilStopped(running, signal)
    } finally {
      await running.stop()
    }
  }

  #show(request: ServeSettings, running: ServeHandle): void {
    const { service, prefixes, dnsDomain, listen, wireguardPort } = running.info ?? request
    const { joinString, openJoinString } = running
    const served: ServeResult = {
      apiVersion: 'nsm/serve/v1',
      service,
      prefixes,
      dnsDomain,
      listen,
      wireguardPort,
      joinString,
      ...(openJoinString === undefined ? {} : { openJoinString }),
    }
    if (this.jsonEnabled()) this.logJson(served)
    else this.log(serveText(served))
  }
}

/** Waits for the signal; a server that fails by itself ends the command with its error. */
async function untilStopped(running: ServeHandle, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  const ended = await Promise.race([running.failed, once(signal, 'abort')])
  if (ended instanceof NsmError) throw ended
}
