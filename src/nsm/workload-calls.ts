import { connect } from 'node:net'
import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { printable } from '../base/printable.ts'
import { parseEndpointSocket } from '../identity/workload-api.ts'
import type { CallSettings } from './call-settings.ts'
import { Dialer } from './dialer.ts'
import type { CallLine } from './line-calls.ts'
import { status } from './status-code.ts'
import { securityHeader } from './workload-header.ts'

/* Calls of a Workload API; whoever asks knows what a status means. */

/** The agent at a socket as in `SPIFFE_ENDPOINT_SOCKET`, and the end of all calls to it; throws `USAGE` for an address that is none. */
export function createAgentLine(socket: string, clock: Clock): CallLine & { close(): void } {
  const address = parseEndpointSocket(socket)
  const isUnix = 'path' in address
  const dialer = new Dialer({
    ...{ clock, pauseMaxMs, scheme: 'http', authority: 'localhost', connectedEvent: 'connect' },
    open: () => (isUnix ? connect(address.path) : connect(address.port, address.address)),
    metadata: () => ({ [securityHeader]: 'true' }),
  })
  return {
    dialer,
    where: isUnix ? address.path : addressText(address),
    refused: () => undefined,
    onRefused: () => () => {},
    answered() {},
    close: () => dialer.close(),
  }
}

/** Ours: an agent is on this machine, and back at once after its restart. */
const pauseMaxMs = 1_000

/** Settings of a call with one answer. */
export function asking(signal: AbortSignal): CallSettings {
  return { signal, wait: false, timeoutMs: askTimeoutMs }
}

/** Ours: an agent signs a token in milliseconds, its server somewhere else in a second. */
const askTimeoutMs = 10_000

/** The status of a failed call. */
export function codeOf(error: unknown): status {
  return endOf(error)?.code ?? status.UNKNOWN
}

/** What the agent said of a failed call. */
export function detailsOf(error: unknown): string {
  const end = endOf(error)
  return end ? printable(end.details) : 'no answer'
}

function endOf(error: unknown): { readonly code: status; readonly details: string } | undefined {
  const cause = error instanceof NsmError ? error.cause : undefined
  return isStatus(cause) ? cause : undefined
}

function isStatus(value: unknown): value is { readonly code: status; readonly details: string } {
  return typeof value === 'object' && value !== null && 'code' in value && 'details' in value
}
