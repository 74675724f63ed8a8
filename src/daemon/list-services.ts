import { timestampMs } from '@bufbuild/protobuf/wkt'
import { bareName, splitDomain } from '../nsm/interdomain.ts'
import type { ListedService, ListRequest, ListResult } from './protocol.ts'
import type { Session } from './session.ts'

/** The services of the session's registry, or of another domain's, whose name fits the pattern, each with its live endpoints. */
export async function listServices(session: Session, request: ListRequest, signal: AbortSignal): Promise<ListResult> {
  const { name: pattern, domain } = splitDomain(request.pattern ?? '*')
  // A name that is only a domain stands for all of that domain.
  const all = domain === undefined || session.domain !== undefined ? {} : { name: `@${domain}` }
  const [services, endpoints] = await Promise.all([
    session.registry.findServices(all, signal),
    session.registry.findEndpoints(all, signal),
  ])
  const fits = patternOf(pattern)
  const listed = services
    .filter(({ name }) => fits(bareName(name)))
    .map(
      ({ name, payload }): ListedService => ({
        name,
        payload,
        endpoints: endpoints
          .filter(({ networkServiceNames }) => networkServiceNames.includes(name))
          .map((endpoint) => ({
            name: endpoint.name,
            url: endpoint.url,
            expiresMs: endpoint.expirationTime ? timestampMs(endpoint.expirationTime) : 0,
          })),
      }),
    )
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
  return { apiVersion: 'nsm/list/v1', services: listed }
}

/** Shell-like: `*` stands for anything; no regular expression is made of a user's text. */
export function patternOf(pattern: string): (text: string) => boolean {
  const parts = pattern.split('*')
  return (text) => {
    const [first = ''] = parts
    if (parts.length === 1) return text === pattern
    const last = parts.at(-1) ?? ''
    if (!text.startsWith(first) || !text.endsWith(last) || text.length < first.length + last.length) return false
    let at = first.length
    for (const part of parts.slice(1, -1)) {
      const found = text.indexOf(part, at)
      if (found < 0 || found + part.length > text.length - last.length) return false
      at = found + part.length
    }
    return true
  }
}
