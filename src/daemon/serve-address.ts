import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { NsmError } from '../base/errors.ts'

/** Where clients reach this server; known once it listens. */
export type ReachedAt = () => { readonly address: string; readonly port: number }

/** Reads `host:port` or `[host]:port`; throws `USAGE`. */
export function parseListen(text: string): { readonly address: string; readonly port: number } {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text.trim())
  const address = found?.[1] ?? found?.[2]
  const port = Number(found?.[3])
  if (address !== undefined && isIP(address) !== 0 && port <= 65_535) return { address, port }
  throw new NsmError('USAGE', `"${text}" is not an address to listen on`, 'write it like 0.0.0.0:5001 or [::]:5001')
}

/** Host, its text as an IP address when it is one, and port of `--advertise`; throws `USAGE`. */
export function splitAdvertise(
  text: string | undefined,
): { readonly host: string; readonly ip: string | undefined; readonly port: number | undefined } | undefined {
  if (text === undefined) return undefined
  if (isIP(text) !== 0) return { host: text, ip: text, port: undefined }
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+))(?::(\d{1,5}))?$/.exec(text)
  const host = found?.[1] ?? found?.[2]
  const port = found?.[3] === undefined ? undefined : Number(found[3])
  if (host === undefined || (port !== undefined && (port < 1 || port > 65_535))) {
    throw new NsmError(
      'USAGE',
      `"${text}" cannot be advertised`,
      'write an address or a host name, with :port if it differs',
    )
  }
  return { host, ip: isIP(host) === 0 ? undefined : host, port }
}

/** True for the address that means all of them. */
export function isWildcard(address: string): boolean {
  return address === '0.0.0.0' || address === '::'
}

/** The address in join strings: the advertised one, the one listened on, the first global one, else loopback. */
export function reachableAddress(settings: { readonly advertise?: string; readonly listen: string }): string {
  const advertised = splitAdvertise(settings.advertise)
  if (advertised) return advertised.host
  const { address } = parseListen(settings.listen)
  return isWildcard(address) ? firstGlobalAddress() : address
}

function firstGlobalAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((found) => found ?? [])
  const outside = all.filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
  const chosen = outside.find(({ family }) => family === 'IPv4') ?? outside[0]
  return chosen?.address ?? '127.0.0.1'
}
