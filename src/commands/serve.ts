import { once } from 'node:events'
import * as Flags from '@oclif/core/flags'
import { NsmError } from '../base/errors.ts'
import type { ServeHandle, ServeRequest } from '../ui/command-context.ts'
import { type ServeResult, serveText } from '../ui/join-text.ts'
import { NsmCommand } from '../ui/nsm-command.ts'

/** `nsm serve`: the whole server side in this process, until a signal. */
export class Serve extends NsmCommand {
  static override description =
    'Makes a trust domain, a certificate authority, a registry, a manager and a vL3 endpoint on first use and keeps\n' +
    'them in the state folder. Prints a join string (single use, 15 minutes), then stays in the foreground.'
  static override examples = [
    'nsm serve > join.txt',
    'nsm serve --service blue --prefix 10.70.0.0/16 --prefix fd70::/64',
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
    verbose: Flags.boolean({ default: false, env: 'NSM_VERBOSE', summary: 'log what happens to standard error' }),
  }

  async run(): Promise<void> {
    const { flags } = await this.parse(Serve)
    const { settings, signal } = this.context
    const request = serveRequest(flags, { stateDir: flags.state ?? settings.stateDir, runtimeDir: settings.runtimeDir })
    const log = this.processLog(flags.verbose ? 'debug' : settings.logLevel === 'info' ? 'warn' : settings.logLevel)
    const running = await this.context.startServe(request, log, signal)
    try {
      this.#show(request, running)
      await untilStopped(running, signal)
    } finally {
      await running.stop()
    }
  }

  #show(request: ServeRequest, running: ServeHandle): void {
    const { service, prefixes, dnsDomain, listen, wireguardPort } = request
    const { joinString } = running
    const served: ServeResult = {
      apiVersion: 'nsm/serve/v1',
      service,
      prefixes,
      dnsDomain,
      listen,
      wireguardPort,
      joinString,
    }
    if (this.jsonEnabled()) this.logJson(served)
    else this.log(serveText(served))
  }
}

interface ServeFlags {
  readonly service: string
  readonly prefix?: readonly string[] | string | undefined
  readonly 'dns-domain'?: string | undefined
  readonly listen: string
  readonly 'wireguard-port': number
  readonly advertise?: string | undefined
  readonly 'trust-domain'?: string | undefined
}

function serveRequest(
  flags: ServeFlags,
  dirs: { readonly stateDir: string; readonly runtimeDir: string },
): ServeRequest {
  const prefixes = [flags.prefix ?? []]
    .flat()
    .flatMap((text) => text.split(','))
    .filter((text) => text !== '')
  return {
    ...dirs,
    service: flags.service,
    prefixes: prefixes.length === 0 ? ['10.64.0.0/16'] : prefixes,
    dnsDomain: flags['dns-domain'] ?? `${flags.service}.nsm.internal`,
    listen: flags.listen,
    wireguardPort: flags['wireguard-port'],
    ...(flags.advertise === undefined ? {} : { advertise: flags.advertise }),
    ...(flags['trust-domain'] === undefined ? {} : { trustDomain: flags['trust-domain'] }),
  }
}

/** Waits for the signal; a server that fails by itself ends the command with its error. */
async function untilStopped(running: ServeHandle, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  const ended = await Promise.race([running.failed, once(signal, 'abort')])
  if (ended instanceof NsmError) throw ended
}
