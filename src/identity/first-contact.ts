import { connect } from 'node:tls'
import { type Clock, systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { readCertificate } from './certificate.ts'
import { spkiPin } from './keys.ts'
import { refusal } from './refusal.ts'
import type { TrustBundles } from './source.ts'
import { chainOf } from './tls-material.ts'
import { verifyPeer } from './verify.ts'

/** Where to dial and the root to accept, from a join string. */
export interface FirstContact {
  readonly address: string
  readonly port: number
  readonly trustDomain: string
  readonly pin: string
  readonly clock?: Clock
}

/**
 * Fetches the root that a pin names from the server itself. Nothing is sent but the handshake; the result is believed
 * because its hash is the pin and because the server's own SVID ends in it. A channel made from the result verifies
 * as usual, so whoever answers the next dial must hold a key below this root.
 * Throws `UNREACHABLE`, or `IDENTITY` (`PIN_MISMATCH` and the reasons of `verifyPeer`).
 */
export async function fetchPinnedBundles(contact: FirstContact, signal: AbortSignal): Promise<TrustBundles> {
  const chain = await fetchChain(contact, signal)
  const root = chain.find((der) => spkiPin(readCertificate(der).spki) === contact.pin)
  if (!root) {
    throw refusal(
      'PIN_MISMATCH',
      `the server at ${contact.address}:${contact.port} does not have the pinned root key`,
      {
        next: 'ask for a new join string; if it is a fresh one, somebody else answers at this address',
      },
    )
  }
  const bundles = new Map([[contact.trustDomain, [root]]])
  verifyPeer({ chain, bundles, nowMs: (contact.clock ?? systemClock).wallMs() })
  return bundles
}

/** Ours: TCP and TLS over a slow line; the caller's own deadline is usually shorter. */
const contactTimeoutMs = 10_000

function fetchChain(contact: FirstContact, signal: AbortSignal): Promise<Uint8Array[]> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: contact.address,
      port: contact.port,
      servername: 'registry.nsm.internal',
      ALPNProtocols: ['h2'],
      minVersion: 'TLSv1.3',
      /** The pin is the check, and it comes before anything is believed or sent; the web's authorities have no say. */
      rejectUnauthorized: false,
      ca: [],
    })
    const finish = (end: () => void) => {
      signal.removeEventListener('abort', onAbort)
      socket.destroy()
      end()
    }
    const fail = (why: string, cause?: unknown) => finish(() => reject(unreachable(contact, why, cause)))
    const onAbort = () => fail('the deadline passed', signal.reason)
    socket.setTimeout(contactTimeoutMs, () => fail('no answer'))
    socket.once('error', (error) => fail(error.message, error))
    socket.once('close', () => fail('it closed the connection'))
    socket.once('secureConnect', () => {
      const chain = chainOf(socket.getPeerCertificate(true))
      finish(() => resolve(chain))
    })
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
  })
}

function unreachable(contact: FirstContact, why: string, cause: unknown): NsmError {
  const where = `${contact.address}:${contact.port}`
  return new NsmError('UNREACHABLE', `no TLS connection to ${where}: ${why}`, 'check that the server runs there', {
    cause,
  })
}
