import type { Duplex } from 'node:stream'
import type { Clock } from '../base/clock.ts'
import { type IpAddress, parseAddress } from '../base/ip.ts'
import { idleMs, serveStream } from '../dns/tcp-clients.ts'
import { dnsPort } from './gateway-dns.ts'
import type { QueryRate } from './query-rate.ts'
import type { SiteNames } from './site-names.ts'

/** A member's connection. */
export interface GatewayStream extends Duplex {
  readonly remoteAddress: string
  readonly remotePort: number
}

/** What takes connections to a port of the gateways. */
export interface GatewayListener {
  listenTcp(port: number, onConnection: (stream: GatewayStream) => void): Promise<unknown>
}

/** What answers over TCP are made from. */
export interface GatewayTcpParts {
  readonly names: Pick<SiteNames, 'answer'>
  readonly rate: Pick<QueryRate, 'allowsFrom'>
  readonly gateways: readonly IpAddress[]
  readonly clock: Clock
}

/** [RFC 1035 4.2.2] The length in front of a message has 16 bits. */
const messageMaxBytes = 65_535

/**
 * Serves the gateway's names over TCP, as the engine's stack carries it: a member has few connections at once, and one that
 * says nothing is closed. A member that asks too fast is broken off, as its datagrams are lost.
 */
export async function serveGatewayTcp(
  hub: GatewayListener,
  { names, rate, gateways, clock }: GatewayTcpParts,
): Promise<void> {
  await hub.listenTcp(dnsPort, (stream) => {
    const source = parseAddress(stream.remoteAddress)
    const destination = gateways.find(({ family }) => family === source.family) ?? source
    let cancel = () => {}
    const wait = () => {
      cancel()
      cancel = clock.after(idleMs, () => stream.destroy())
    }
    wait()
    stream.on('data', wait)
    stream.once('close', () => cancel())
    serveStream(stream, (message, peer) => {
      if (!rate.allowsFrom(source, clock.monotonicMs())) return void stream.destroy()
      const reply = (answer: Uint8Array) => {
        // Another site may answer when the member has gone.
        if (stream.destroyed) return
        wait()
        peer.send(answer)
      }
      names.answer({ source, destination, message, limitBytes: messageMaxBytes, reply })
    })
  })
}
