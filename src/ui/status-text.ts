import { printable } from '../base/printable.ts'
import type { ConnectionView, StatusResult } from '../daemon/protocol.ts'
import { byteText } from './byte-text.ts'
import { columns } from './columns.ts'
import { durationText } from './duration.ts'

/** How a moment is shown: relative on a terminal, RFC 3339 otherwise. */
export interface TimeStyle {
  readonly nowMs: number
  readonly relative: boolean
}

/** One line per service in stable columns; health in `#` lines, so that it survives `grep -v '^#'`. */
export function statusText(status: StatusResult, style: TimeStyle): string {
  if (status.connections.length === 0) return ['# no network service is connected', ...notes(status, style)].join('\n')
  return [
    ...connectionLines(status.connections),
    ...status.connections.flatMap((view) => health(view, style)),
    ...notes(status, style),
  ].join('\n')
}

/** The lines of the connections alone: service, state, addresses, interface, own name. */
export function connectionLines(connections: readonly ConnectionView[]): string[] {
  return columns(
    connections.map((view) => [
      view.service,
      view.state,
      view.addresses.join(',') || '-',
      view.interfaceName,
      view.name ?? '-',
    ]),
  )
}

/** What applications need to use the identity of this machine. */
export function spiffeLine(socket: string): string {
  return printable(`# applications: SPIFFE_ENDPOINT_SOCKET=${socket}`)
}

/** A moment as `style` asks: `42s ago`, `in 3m12s` or RFC 3339. */
export function momentText(momentMs: number, style: TimeStyle): string {
  if (!style.relative) return new Date(momentMs).toISOString()
  const distanceMs = momentMs - style.nowMs
  return distanceMs > 0 ? `in ${durationText(distanceMs)}` : `${durationText(-distanceMs)} ago`
}

function health(view: ConnectionView, style: TimeStyle): string[] {
  const handshake =
    view.lastHandshakeAgeMs === undefined
      ? 'no handshake yet'
      : `handshake ${momentText(style.nowMs - view.lastHandshakeAgeMs, style)}`
  const rtt = view.rttMs === undefined ? '' : `, rtt ${view.rttMs.toFixed(1)}ms`
  const traffic = `received ${byteText(view.receivedBytes)}, sent ${byteText(view.sentBytes)}`
  const lines = [
    `# ${view.service}: up since ${momentText(view.sinceMs, style)}, ${handshake}${rtt}, ${traffic}`,
    `# ${view.service}: endpoint ${view.endpoint} at ${view.endpointAddress}, manager ${view.manager}, mtu ${view.mtuBytes}, lease ends ${momentText(view.expiresMs, style)}`,
  ]
  if (view.routes.length > 0) lines.push(`# ${view.service}: routes ${view.routes.join(' ')}`)
  if (view.dnsDomains.length > 0) {
    lines.push(`# ${view.service}: names under ${view.dnsDomains.join(' ')} are asked at ${view.dnsServers.join(' ')}`)
  }
  if (view.error) lines.push(`# ${view.service}: ${view.error.code}: ${view.error.message}; ${view.error.next}`)
  return lines.map(printable)
}

function notes(status: StatusResult, style: TimeStyle): string[] {
  const identity = status.identity
    ? [`# identity ${status.identity.spiffeId}, ends ${momentText(status.identity.notAfterMs, style)}`]
    : []
  const socket = status.spiffeSocket ? [spiffeLine(status.spiffeSocket)] : []
  const dns = status.dns ? [`# DNS listens on ${status.dns.listening}`] : []
  return [...identity, ...socket, ...dns, ...status.warnings.map((warning) => printable(`# warning: ${warning}`))]
}
