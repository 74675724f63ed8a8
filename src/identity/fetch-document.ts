import { type LookupAddress, lookup } from 'node:dns'
import type { LookupFunction } from 'node:net'
import type { PeerCertificate, SecureContext } from 'node:tls'
import { NsmError } from '../base/errors.ts'
import { parseAddress, parsePrefix, prefixContains, unmappedAddress } from '../base/ip.ts'
import { addressIn, plainUrl } from './plain-url.ts'

/** How a document is fetched. */
export interface FetchSettings {
  /** What to do when it fails. */
  readonly next: string
  readonly signal?: AbortSignal | undefined
  /** Posted; then an answer of any status counts, for an error is one too. */
  readonly form?: Readonly<Record<string, string>> | undefined
  /** Instead of the web's authorities and the host's name. */
  readonly trust?:
    | {
        readonly secureContext: SecureContext
        readonly checkServerIdentity?: (host: string, certificate: PeerCertificate) => Error | undefined
        readonly servername?: string
      }
    | undefined
}

/** Ours: an issuer's documents have some KiB, a bundle some KiB for each root. [security C13] */
const documentMaxBytes = 1_048_576
/** Ours: a caller waits for it. */
const fetchTimeoutMs = 5_000
/** Ours: an issuer may look things up for it, and what it has done is lost with its answer. */
const postTimeoutMs = 10_000

/**
 * Fetches a document by GET, or what a form gives by POST: no redirect is followed, and no name may lead to a link-local address, where clouds keep their
 * metadata. Throws `UNREACHABLE`.
 */
export function fetchDocument(text: string, settings: FetchSettings): Promise<Buffer> {
  const url = new URL(text)
  const { form } = settings
  const body = form && new URLSearchParams(form).toString()
  const late = AbortSignal.timeout(form ? postTimeoutMs : fetchTimeoutMs)
  const signal = settings.signal ? AbortSignal.any([settings.signal, late]) : late
  // Loaded at the first document: a server that fetches none starts without them.
  const { request } = process.getBuiltinModule(url.protocol === 'http:' ? 'node:http' : 'node:https')
  const posted = {
    'content-type': 'application/x-www-form-urlencoded',
    'content-length': Buffer.byteLength(body ?? ''),
  }
  const headers = { accept: 'application/json', ...(form ? posted : {}) }
  const options = {
    method: form ? 'POST' : 'GET',
    signal,
    headers,
    lookup: lookupSafely,
    agent: false,
    ...settings.trust,
  }
  return new Promise((resolve, reject) => {
    const fail = (why: string, cause?: unknown) => reject(unreachable(url.href, why, settings.next, cause))
    const sent = request(url, options, (response) => {
      if (response.statusCode !== 200 && !form) {
        sent.destroy()
        return fail(`it answered with status ${response.statusCode}`)
      }
      const parts: Buffer[] = []
      let size = 0
      response.on('data', (part: Buffer) => {
        parts.push(part)
        size += part.length
        if (size > documentMaxBytes) sent.destroy(unreachable(url.href, 'the answer is too long', settings.next))
      })
      response.once('end', () => resolve(Buffer.concat(parts)))
      response.once('error', (error) => fail(error.message, error))
    })
    sent.once('error', (error) => {
      if (error instanceof NsmError && error.code === 'IDENTITY') return reject(error)
      fail(late.aborted ? 'no answer in time' : error.message, error)
    })
    sent.end(body)
  })
}

/** True for the text of an https URL without user that does not itself name a link-local address. */
export function isSafeUrl(text: string): boolean {
  const url = plainUrl(text)
  if (url?.protocol !== 'https:') return false
  const address = addressIn(url)
  return address === undefined || !isLinkLocal(address)
}

/** [RFC 3927] [RFC 4291 2.5.6] Also where IPv4 stands inside IPv6, and where a cloud's metadata are at an address of their own. */
export function isLinkLocal(address: string): boolean {
  const plain = unmappedAddress(parseAddress(address.replace(/^\[|\]$/g, '').replace(/%.*$/, '')))
  return linkLocal.some((prefix) => prefixContains(prefix, plain))
}

/** IPv4's, the same behind NAT64 [RFC 6052 2.1], IPv6's, and the metadata service of EC2 over IPv6. */
const linkLocal = ['169.254.0.0/16', '64:ff9b::a9fe:0/112', 'fe80::/10', 'fd00:ec2::254/128'].map(parsePrefix)

/** The addresses that are checked are those that are dialled, so an answer that changes in between gains nothing. */
const lookupSafely: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, found: LookupAddress[]) => {
    const bad = found?.find(({ address }) => isLinkLocal(address))
    const next = 'check the name in the DNS'
    const failed = error ?? (bad ? unreachable(hostname, 'its name leads to a link-local address', next) : null)
    const [first] = found ?? []
    if (failed || !first) return callback(failed, '', 0)
    if (options.all) callback(null, found)
    else callback(null, first.address, first.family)
  })
}

function unreachable(where: string, why: string, next: string, cause?: unknown): NsmError {
  return new NsmError('UNREACHABLE', `${where}: ${why}`, next, { cause })
}
