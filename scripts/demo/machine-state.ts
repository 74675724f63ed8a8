import { readFile } from 'node:fs/promises'
import type { Machine } from './lab.ts'

/** What a machine's networking looks like: addresses, routes, rules, links and the resolver file, byte for byte. */
export async function machineState(machine: Machine): Promise<Readonly<Record<string, string>>> {
  const ip = async (...args: string[]) => (await machine.run('ip', args)).out
  const [addresses, routes4, routes6, rules, resolvConf] = await Promise.all([
    ip('-json', 'addr'),
    ip('route', 'show', 'table', 'all'),
    ip('-6', 'route', 'show', 'table', 'all'),
    ip('rule'),
    readFile(machine.resolvConf, 'utf8'),
  ])
  return { addresses: settledAddresses(addresses), routes4, routes6, rules, resolvConf }
}

/** The names of the parts that differ. */
export function differences(
  before: Readonly<Record<string, string>>,
  after: Readonly<Record<string, string>>,
): string[] {
  return Object.keys(before).filter((part) => before[part] !== after[part])
}

interface AddressJson {
  readonly ifname: string
  readonly addr_info: readonly { readonly local: string; readonly prefixlen: number }[]
}

/** Interfaces and addresses without what changes by itself: life times and the state of duplicate detection. */
function settledAddresses(json: string): string {
  const links: readonly AddressJson[] = JSON.parse(json)
  return links
    .map((link) => `${link.ifname} ${link.addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`).join(' ')}`)
    .join('\n')
}
