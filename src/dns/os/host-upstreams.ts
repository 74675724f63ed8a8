import { isOwnAddress } from '../own-addresses.ts'
import { contentOf } from './file-object.ts'
import { parseResolvConf, type ResolvConf } from './resolv-conf.ts'
import type { HostUpstream } from './system-dns.ts'

/** Where systemd-resolved lists the resolvers behind its stub. */
export const resolvedUpstreams = '/run/systemd/resolve/resolv.conf'
const resolvedStubs = ['127.0.0.53', '127.0.0.54']

/** The host's own resolvers and search domains; without a file there are none. Behind a stub that may come to ask us is looked. */
export async function readUpstreams(
  resolvConfPath: string,
  behindStub = resolvedUpstreams,
): Promise<{ readonly upstreams: readonly HostUpstream[]; readonly searchDomains: readonly string[] }> {
  const conf = await readConf(resolvConfPath)
  const behind = namesOnlyStub(conf) ? (await readConf(behindStub)).nameservers : []
  const upstreams = upstreamsOf(behind.length > 0 ? behind : conf.nameservers)
  return { upstreams, searchDomains: conf.searchDomains }
}

/** True when a resolver file sends everything to systemd-resolved's stub. */
export function namesOnlyStub({ nameservers }: ResolvConf): boolean {
  return nameservers.length > 0 && nameservers.every(isStub)
}

/** True for an address of systemd-resolved's stub. */
export function isStub(address: string): boolean {
  return resolvedStubs.includes(address)
}

/** Nameservers of a file as resolvers, ours not among them. */
export function upstreamsOf(addresses: readonly string[]): readonly HostUpstream[] {
  return addresses.filter((address) => !isOwnAddress(address)).map((address) => ({ address, port: 53 }))
}

/** Reads a resolver file; one that is not there says nothing. */
export async function readConf(path: string): Promise<ResolvConf> {
  return parseResolvConf((await contentOf(path))?.toString('utf8') ?? '')
}

/** Passes a list of resolvers on when it differs from the last one; no list at all is no news. */
export function whenChanged(
  first: readonly HostUpstream[],
  tell: (upstreams: readonly HostUpstream[]) => void = () => {},
): (upstreams: readonly HostUpstream[]) => void {
  let last = JSON.stringify(first)
  return (upstreams) => {
    const text = JSON.stringify(upstreams)
    if (upstreams.length === 0 || text === last) return
    last = text
    tell(upstreams)
  }
}
