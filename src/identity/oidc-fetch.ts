import { type LookupAddress, lookup } from 'node:dns'
import { request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { NsmError } from '../base/errors.ts'

/** Fetches a JSON document. */
export type FetchJson = (url: string) => Promise<unknown>

/** Ours: an issuer's documents have some KiB. [security C13] */
const documentMaxBytes = 1_048_576
/** Ours: a caller waits for it. */
const fetchTimeoutMs = 5_000

/**
 * Fetches a JSON document of an issuer: no redirect is followed, and no name may lead to a link-local address, where clouds
 * keep their metadata. Throws `UNREACHABLE`.
 */
export const fetchIssuerJson: FetchJson = async (url) => {
  const bytes = await fetchBytes(new URL(url), AbortSignal.timeout(fetchTimeoutMs))
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw unreachable(url, 'the answer is not JSON', cause)
  }
}

/** [RFC 3927] [RFC 4291 2.5.6] Also where IPv4 stands inside IPv6. */
export function isLinkLocal(address: string): boolean {
  const plain = address.toLowerCase().replace(/^\[|\]$/g, '')
  return /^(::ffff:)?169\.254\./.test(plain) || /^::ffff:a9fe:/.test(plain) || /^fe[89ab][0-9a-f]:/.test(plain)
}

function fetchBytes(url: URL, signal: AbortSignal): Promise<Buffer> {
  const request = url.protocol === 'http:' ? requestHttp : requestHttps
  return new Promise((resolve, reject) => {
    const fail = (why: string, cause?: unknown) => reject(unreachable(url.href, why, cause))
    const headers = { accept: 'application/json' }
    const sent = request(url, { signal, headers, lookup: lookupSafely, agent: false }, (response) => {
      if (response.statusCode !== 200) {
        sent.destroy()
        return fail(`it answered with status ${response.statusCode}`)
      }
      const parts: Buffer[] = []
      let size = 0
      response.on('data', (part: Buffer) => {
        parts.push(part)
        size += part.length
        if (size > documentMaxBytes) sent.destroy(unreachable(url.href, 'the answer is too long'))
      })
      response.once('end', () => resolve(Buffer.concat(parts)))
      response.once('error', (error) => fail(error.message, error))
    })
    sent.once('error', (error) => fail(signal.aborted ? 'no answer in time' : error.message, error))
    sent.end()
  })
}

/** The addresses that are checked are those that are dialled, so an answer that changes in between gains nothing. */
const lookupSafely: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, found: LookupAddress[]) => {
    const bad = found?.find(({ address }) => isLinkLocal(address))
    const failed = error ?? (bad ? unreachable(hostname, 'its name leads to a link-local address') : null)
    const [first] = found ?? []
    if (failed || !first) return callback(failed, '', 0)
    if (options.all) callback(null, found)
    else callback(null, first.address, first.family)
  })
}

/** The URL of an issuer's endpoint as its own document names it; throws `UNREACHABLE` when it leads to a forbidden place. */
export function checkedEndpoint(text: unknown, issuerUrl: string): string {
  const url = typeof text === 'string' && URL.canParse(text) ? new URL(text) : undefined
  const isOwnOrigin = url?.origin === new URL(issuerUrl).origin
  const isSafe =
    url?.protocol === 'https:' && !(isIP(url.hostname.replace(/^\[|\]$/g, '')) && isLinkLocal(url.hostname))
  if (url && (isOwnOrigin || isSafe)) return url.href
  throw unreachable(issuerUrl, 'its configuration names an endpoint that is no https URL, or none')
}

function unreachable(where: string, why: string, cause?: unknown): NsmError {
  return new NsmError('UNREACHABLE', `${where}: ${why}`, 'check that the server reaches the issuer', { cause })
}
