import { NsmError } from '../base/errors.ts'
import { fetchDocument, isSafeUrl } from './fetch-document.ts'

/** Fetches a JSON document. */
export type FetchJson = (url: string) => Promise<unknown>

const next = 'check that the server reaches the issuer'

/** Fetches a JSON document of an issuer, as `fetchDocument` does. Throws `UNREACHABLE`. */
export const fetchIssuerJson: FetchJson = async (url) => {
  const bytes = await fetchDocument(url, { next })
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw unreachable(url, 'the answer is not JSON', cause)
  }
}

/** The URL of an issuer's endpoint as its own document names it; throws `UNREACHABLE` when it leads to a forbidden place. */
export function checkedEndpoint(text: unknown, issuerUrl: string): string {
  const url = typeof text === 'string' ? URL.parse(text) : undefined
  if (url && (url.origin === new URL(issuerUrl).origin || isSafeUrl(url.href))) return url.href
  throw unreachable(issuerUrl, 'its configuration names an endpoint that is no https URL, or none')
}

function unreachable(where: string, why: string, cause?: unknown): NsmError {
  return new NsmError('UNREACHABLE', `${where}: ${why}`, next, { cause })
}
