import { printable } from '../base/printable.ts'
import type { TunnelPeerView, TunnelView } from '../daemon/tunnel-protocol.ts'
import { byteText } from './byte-text.ts'
import { columns } from './columns.ts'
import { momentText, type TimeStyle } from './status-text.ts'

/** One line per tunnel; how its peers are in `#` lines. */
export function tunnelsText(tunnels: readonly TunnelView[], style: TimeStyle): string {
  if (tunnels.length === 0) return '# no tunnel is up'
  const rows = tunnels.map((view) => [
    view.interfaceName,
    view.state,
    view.addresses.join(',') || '-',
    `udp ${view.listenPort}`,
    `mtu ${view.mtuBytes}`,
    ...(view.fwmark === undefined ? [] : [`fwmark 0x${view.fwmark.toString(16)}`]),
  ])
  return [...columns(rows), ...tunnels.flatMap((view) => health(view, style))].join('\n')
}

function health(view: TunnelView, style: TimeStyle): string[] {
  const name = view.interfaceName
  const lines = view.peers.map((peer) => `# ${name}: ${peerText(peer, style)}`)
  if (view.routes.length > 0) lines.push(`# ${name}: routes ${view.routes.join(' ')}`)
  if (view.error) lines.push(`# ${name}: ${view.error.code}: ${view.error.message}; ${view.error.next}`)
  return lines.map(printable)
}

function peerText(peer: TunnelPeerView, style: TimeStyle): string {
  const { lastHandshakeAgeMs: ageMs } = peer
  const handshake = ageMs === undefined ? 'no handshake yet' : `handshake ${momentText(style.nowMs - ageMs, style)}`
  const traffic = `received ${byteText(peer.receivedBytes)}, sent ${byteText(peer.sentBytes)}`
  return `peer ${peer.publicKey} at ${peer.endpoint ?? 'no endpoint yet'}, ${handshake}, ${traffic}`
}
