import { isIP } from 'node:net'

/** The URL that a text is; undefined when it is none, or holds a user or a password. */
export function plainUrl(text: string): URL | undefined {
  const url = URL.parse(text)
  return url?.username === '' && url.password === '' ? url : undefined
}

/** The address that a URL has for its host, without brackets; undefined where that is a name. */
export function addressIn({ hostname }: URL): string | undefined {
  const host = hostname.replace(/^\[|\]$/g, '')
  return isIP(host) === 0 ? undefined : host
}
