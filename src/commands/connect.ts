import * as Args from '@oclif/core/args'
import * as Flags from '@oclif/core/flags'
import { NsmError } from '../base/errors.ts'
import { findIdToken } from '../daemon/oidc-ci-token.ts'
import type { ConnectResult, ProgressStep } from '../daemon/protocol.ts'
import { connectRequest } from '../ui/connect-request.ts'
import { connectText } from '../ui/connect-text.ts'
import { readJoinString, readSvidFiles } from '../ui/credential-files.ts'
import { NsmCommand } from '../ui/nsm-command.ts'
import { progressLines } from '../ui/progress-text.ts'

/** `nsm connect`: joins network services and returns when they are usable. */
export class Connect extends NsmCommand {
  static override description =
    'A service is written as Network Service Mesh writes it: [kernel://]service[@domain][/interface][?label=value].\n' +
    'Without an argument the services of NSM_NETWORK_SERVICES are joined. The connection stays up in the background.\n' +
    'A join string is read from a file, standard input or NSM_JOIN_STRING, never from an argument. Who this machine is:\n' +
    '--join, else --svid, else --spiffe-socket, else what was joined before, else the agent at SPIFFE_ENDPOINT_SOCKET.\n' +
    'A join string without a token names the server only: then an ID token is shown, of --token-file, GitHub Actions,\n' +
    'GitLab (NSM_ID_TOKEN) or the Kubernetes volume at /var/run/secrets/nsm/token, in this order; nothing is stored.\n' +
    'A service of another domain, service@domain, is asked of the manager; without one, of the servers that DNS names:\n' +
    'registry.nsm-system.DOMAIN and nsmgr-proxy.nsm-system.DOMAIN. The variables of cmd-nsc count where no flag is given:\n' +
    'NSM_CONNECT_TO, NSM_DIAL_TIMEOUT, NSM_REQUEST_TIMEOUT, NSM_MAX_TOKEN_LIFETIME, NSM_LABELS, NSM_NAME, NSM_MECHANISM,\n' +
    'NSM_AWARENESS_GROUPS, NSM_LIVENESS_CHECK_ENABLED, _INTERVAL and _TIMEOUT, NSM_LOCAL_DNS_SERVER_ENABLED, NODE_NAME,\n' +
    'POD_NAME, CLUSTER_NAME. docs/interop.md says what each does.'
  static override examples = [
    'nsm connect --join join.txt my-networkservice-1',
    'nsm connect kernel://my-networkservice-1/nsm-1?color=red my-networkservice-2',
    'nsm connect --spiffe-socket unix:///run/spire/agent.sock my-vl3@cluster2.example.org',
  ]
  static override args = {
    service: Args.string({ multiple: true, ignoreStdin: true, description: 'service URLs, apart by spaces or commas' }),
  }
  static override flags = {
    join: Flags.string({
      helpValue: 'FILE',
      env: 'NSM_JOIN',
      summary: 'file with a join string; - reads it from standard input',
    }),
    'token-file': Flags.string({
      helpValue: 'FILE',
      env: 'NSM_ID_TOKEN_FILE',
      summary: 'ID token to show when the join string carries none; - reads it from standard input',
    }),
    manager: Flags.string({ helpValue: 'URL', env: 'NSM_MANAGER', summary: 'manager to ask, tcp://host:port' }),
    'svid-dir': Flags.string({
      helpValue: 'DIR',
      env: 'NSM_SVID_DIR',
      summary: 'folder with the SVID, its key and the trust bundle as PEM',
    }),
    svid: Flags.string({ helpValue: 'FILE', env: 'NSM_SVID', summary: 'SVID as PEM, leaf first' }),
    key: Flags.string({ helpValue: 'FILE', env: 'NSM_SVID_KEY', summary: "the SVID's private key as PEM" }),
    bundle: Flags.string({ helpValue: 'FILE', env: 'NSM_SVID_BUNDLE', summary: 'trust bundle as PEM' }),
    'spiffe-socket': Flags.string({
      helpValue: 'ADDRESS',
      env: 'NSM_SPIFFE_SOCKET',
      summary: 'SPIFFE agent that says who this machine is, unix:///path',
    }),
    'spiffe-hint': Flags.string({
      helpValue: 'HINT',
      env: 'NSM_SPIFFE_HINT',
      summary: "the agent's identity with this hint, its first one when nothing is said",
    }),
    'spiffe-id': Flags.string({
      helpValue: 'ID',
      env: 'NSM_SPIFFE_ID',
      summary: "the agent's identity with this SPIFFE ID",
    }),
    label: Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'KEY=VALUE',
      env: 'NSM_LABELS',
      summary: 'label of the request',
    }),
    interface: Flags.string({
      helpValue: 'NAME',
      env: 'NSM_INTERFACE',
      summary: 'name of the interface, at most 15 bytes',
    }),
    mtu: Flags.integer({ helpValue: 'BYTES', env: 'NSM_MTU', summary: 'largest packet inside the tunnel' }),
    'allow-prefix': Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'CIDR',
      env: 'NSM_ALLOW_PREFIX',
      summary: 'accept this route although it lies outside the bounds',
    }),
    'exclude-prefix': Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'CIDR',
      env: 'NSM_EXCLUDE_PREFIX',
      summary: 'ask for no address inside this prefix',
    }),
    'allow-domain': Flags.string({
      multiple: true,
      multipleNonGreedy: true,
      helpValue: 'DOMAIN',
      env: 'NSM_ALLOW_DOMAIN',
      summary: 'accept this DNS zone from the service beside its own',
    }),
    'dns-mode': Flags.string({
      default: 'fanout',
      helpValue: 'fanout|prefer-service|exclusive',
      env: 'NSM_DNS_MODE',
      summary: 'who is asked for names of the service',
    }),
    dns: Flags.string({
      default: 'auto',
      options: ['auto', 'off'],
      helpValue: 'auto|off',
      env: 'NSM_DNS',
      summary: "whether the system's resolver is pointed to nsm",
    }),
    timeout: Flags.string({
      helpValue: 'DURATION',
      env: 'NSM_TIMEOUT',
      summary: 'give up after this long, 60s when nothing is said',
    }),
    name: Flags.string({
      helpValue: 'NAME',
      env: 'NSM_NAME',
      summary: "this machine's name in the service, its host name when nothing is said",
    }),
    verbose: Flags.boolean({ default: false, env: 'NSM_VERBOSE', summary: 'show when each phase starts, too' }),
  }

  async run(): Promise<ConnectResult> {
    const { args, flags } = await this.parse(Connect)
    const { environment, signal } = this.context
    const request = connectRequest({
      services: args.service ?? [],
      flags: { ...unsetFlags, ...flags },
      secrets: await this.#secrets(flags),
      environment,
    })
    const progress = this.#progress(flags.verbose)
    const result = await this.withDaemon(true, (daemon) => daemon.connect(request, progress, signal))
    this.log(connectText(result))
    return result
  }

  async #secrets(flags: SecretFlags & { readonly verbose: boolean }) {
    const { environment, readInput } = this.context
    const fromEnvironment = environment['NSM_JOIN_STRING']
    const joinString = flags.join === undefined ? fromEnvironment : await readJoinString(flags.join, readInput)
    const svidFiles = await readSvidFiles({
      dir: flags['svid-dir'],
      svid: flags.svid,
      key: flags.key,
      bundle: flags.bundle,
    })
    const found = joinString === undefined ? undefined : await this.#idToken(joinString, flags)
    return {
      ...(joinString === undefined ? {} : { joinString }),
      ...(found ? { idToken: found.idToken } : {}),
      ...(svidFiles ? { svidFiles } : {}),
    }
  }

  async #idToken(joinString: string, flags: SecretFlags & { readonly verbose: boolean }) {
    const { environment, readInput, signal } = this.context
    const tokenFile = flags['token-file']
    if (tokenFile === '-' && flags.join === '-') {
      throw new NsmError('USAGE', 'standard input cannot be both join string and token', 'put one of them into a file')
    }
    const found = await findIdToken(joinString, { environment, tokenFile, readInput, signal })
    if (found && flags.verbose) this.context.writeError(`ID token of ${found.from}`)
    return found
  }

  #progress(verbose: boolean): (step: ProgressStep) => void {
    if (this.jsonEnabled() && !verbose) return () => {}
    const lineOf = progressLines(verbose)
    return (step) => {
      const line = lineOf(step)
      if (line !== undefined) this.context.writeError(line)
    }
  }
}

interface SecretFlags {
  readonly join?: string | undefined
  readonly 'token-file'?: string | undefined
  readonly 'svid-dir'?: string | undefined
  readonly svid?: string | undefined
  readonly key?: string | undefined
  readonly bundle?: string | undefined
}

/** oclif leaves flags that were not given out of its answer. */
const unsetFlags = {
  manager: undefined,
  label: undefined,
  interface: undefined,
  mtu: undefined,
  'allow-prefix': undefined,
  'exclude-prefix': undefined,
  'allow-domain': undefined,
  timeout: undefined,
  name: undefined,
}
