import { parseDurationMs } from '../base/duration.ts'
import { NsmError } from '../base/errors.ts'
import type { Environment } from '../base/settings.ts'
import type { ConnectRequest } from '../daemon/protocol.ts'
import { parseLabels } from './labels.ts'
import { listOfFlag } from './list-flag.ts'
import { nscVariables, switchOf } from './nsc-variables.ts'

/** The flags of `nsm connect` as they were typed. A list from the environment arrives as one text. */
export interface ConnectFlags {
  readonly manager: string | undefined
  readonly label: readonly string[] | string | undefined
  readonly interface: string | undefined
  readonly mtu: number | undefined
  readonly 'allow-prefix': readonly string[] | string | undefined
  readonly 'exclude-prefix': readonly string[] | string | undefined
  readonly 'allow-domain': readonly string[] | string | undefined
  readonly 'dns-mode': string
  readonly dns: string
  readonly timeout: string | undefined
  readonly name: string | undefined
  readonly 'spiffe-socket'?: string | undefined
  readonly 'spiffe-hint'?: string | undefined
  readonly 'spiffe-id'?: string | undefined
}

/** What was read from files or standard input, never from an argument. */
export interface ConnectSecrets {
  readonly joinString?: string
  readonly idToken?: string
  readonly svidFiles?: NonNullable<ConnectRequest['svidFiles']>
}

/** Ours: connect gives up after this when nothing else is asked. */
const defaultTimeout = '60s'

/**
 * Builds the request to the background process; flag > environment > default. The variables of cmd-nsc are read where
 * the meaning is the same: here those that a flag has too, in nsc-variables.ts the others.
 */
export function connectRequest(input: {
  readonly services: readonly string[]
  readonly flags: ConnectFlags
  readonly secrets: ConnectSecrets
  readonly environment: Environment
}): ConnectRequest {
  const { flags, environment } = input
  const manager = flags.manager ?? (environment['NSM_CONNECT_TO'] || undefined)
  const timeout = flags.timeout ?? (environment['NSM_REQUEST_TIMEOUT'] || defaultTimeout)
  return {
    services: wantedServices(input.services, environment),
    labels: { ...environmentLabels(environment, flags.name), ...parseLabels(listOfFlag(flags.label)) },
    allowPrefixes: listOfFlag(flags['allow-prefix']),
    excludePrefixes: listOfFlag(flags['exclude-prefix']),
    allowDomains: listOfFlag(flags['allow-domain']),
    dnsMode: dnsMode(flags['dns-mode']),
    dns: flags.dns === 'off' || switchOf(environment, 'NSM_LOCAL_DNS_SERVER_ENABLED') === false ? 'off' : 'auto',
    timeoutMs: parseDurationMs(timeout),
    ...input.secrets,
    ...nscVariables(environment),
    ...(manager === undefined ? {} : { manager }),
    ...workloadOf(flags, environment),
    ...sudoUser(environment),
    ...(flags.interface === undefined ? {} : { interfaceName: flags.interface }),
    ...(flags.mtu === undefined ? {} : { mtuBytes: checkedMtu(flags.mtu) }),
    ...(flags.name === undefined ? {} : { name: flags.name }),
  }
}

type Workload = Pick<ConnectRequest, 'workloadSocket' | 'workloadHint' | 'workloadId' | 'workloadFirst'>

/** A flag of the SPIFFE agent, unlike its variable, says that the agent's identity is wanted and no stored one. */
function workloadOf(flags: ConnectFlags, environment: Environment): Workload {
  const { 'spiffe-socket': socket, 'spiffe-hint': hint, 'spiffe-id': id } = flags
  const workloadSocket = socket ?? (environment['SPIFFE_ENDPOINT_SOCKET'] || undefined)
  const isAsked = socket !== undefined || hint !== undefined || id !== undefined
  if (workloadSocket === undefined) return isAsked ? noSocket() : {}
  return {
    workloadSocket,
    ...(hint === undefined ? {} : { workloadHint: hint }),
    ...(id === undefined ? {} : { workloadId: id }),
    ...(isAsked ? { workloadFirst: true } : {}),
  }
}

/** [sudo 8] Says who ran it, root when root did; the background process of root lets the applications of that user in. */
function sudoUser(environment: Environment): Pick<ConnectRequest, 'applicationUid'> {
  const uid = environment['SUDO_UID'] ?? ''
  return /^[1-9]\d{0,9}$/.test(uid) ? { applicationUid: Number(uid) } : {}
}

function noSocket(): never {
  const next = '--spiffe-socket unix:///path/to/agent.sock, or set SPIFFE_ENDPOINT_SOCKET'
  throw new NsmError('USAGE', 'nothing says where the SPIFFE agent listens', next)
}

/** [NSM sdk clientinfo] Labels that say where a client runs; what is not set is left out, and --name says it better. */
function environmentLabels(environment: Environment, name: string | undefined): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(clientInfo).flatMap(([label, variable]) => {
      const value = label === 'podName' && name !== undefined ? undefined : environment[variable]
      return value ? [[label, value]] : []
    }),
  )
}

const clientInfo = { nodeName: 'NODE_NAME', podName: 'POD_NAME', clusterName: 'CLUSTER_NAME' } as const

/** The service URLs of the arguments, or of NSM_NETWORK_SERVICES; several are separated by spaces or commas. */
function wantedServices(services: readonly string[], environment: Environment): readonly string[] {
  const texts = services.length > 0 ? services : [environment['NSM_NETWORK_SERVICES'] ?? '']
  const wanted = texts.flatMap((text) => text.split(/[\s,]+/)).filter((text) => text !== '')
  if (wanted.length > 0) return wanted
  throw new NsmError('USAGE', 'no network service was named', 'nsm connect my-networkservice-1, or nsm list')
}

/** [security E11] IPv6 needs 1280 bytes [RFC 8200 5]; beyond 9000 no path we know carries them. */
const mtuMinBytes = 1_280
const mtuMaxBytes = 9_000

function checkedMtu(mtuBytes: number): number {
  if (mtuBytes >= mtuMinBytes && mtuBytes <= mtuMaxBytes) return mtuBytes
  throw new NsmError('USAGE', `an MTU of ${mtuBytes} bytes is of no use`, `--mtu ${mtuMinBytes} to ${mtuMaxBytes}`)
}

function dnsMode(text: string): ConnectRequest['dnsMode'] {
  if (text === 'fanout' || text === 'prefer-service' || text === 'exclusive') return text
  throw new NsmError('USAGE', `"${text}" is not a DNS mode`, '--dns-mode fanout, prefer-service or exclusive')
}
