import { refusal } from './refusal.ts'

/** A SPIFFE ID in its two parts; `path` is empty or starts with a slash. */
export interface SpiffeId {
  readonly trustDomain: string
  readonly path: string
}

/** Parses a SPIFFE ID without normalising anything; throws `IDENTITY` (`ID_INVALID`) [SPIFFE ID 2]. */
export function parseSpiffeId(text: string): SpiffeId {
  const found = text.length <= idMaxBytes ? idPattern.exec(text) : null
  if (!found) throw refusal('ID_INVALID', `${shown(text)} is not a SPIFFE ID`, { next: idNext })
  const [, trustDomain = '', path = ''] = found
  return { trustDomain, path }
}

/** True when the text is a trust domain's name [SPIFFE ID 2.1]. */
export function isTrustDomain(text: string): boolean {
  return trustDomainPattern.test(text)
}

/** [SPIFFE ID 2.3] every implementation takes 2048 bytes and makes no longer ones. */
const idMaxBytes = 2048
const trustDomainPattern = /^[a-z0-9._-]{1,255}$/
/** No nested repetition: the cost is linear in the length. */
const idPattern = /^spiffe:\/\/([a-z0-9._-]{1,255})((?:\/(?!\.{1,2}(?:\/|$))[a-zA-Z0-9._-]+)*)$/
const idNext = 'write it like spiffe://example.org/client/alice'

/** Ours: what a peer sent is shown in one line of at most 80 characters. */
function shown(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text)
}
