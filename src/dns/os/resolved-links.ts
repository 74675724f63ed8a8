import { NsmError } from '../../base/errors.ts'
import { targetText } from '../upstream-socket.ts'
import type { LinksJournal } from './journal.ts'
import { zonesOfSuffix } from './reverse-zones.ts'
import type { Run } from './run-program.ts'
import type { HostUpstream, RestoreResult, SystemLink } from './system-dns.ts'

/**
 * Tells systemd-resolved that the names of a link are asked at our listener; all other names stay where they were. The server
 * is set last: until then the link's names are asked as before. Throws `PERMISSION`, or `CONFLICT` when it refuses.
 */
export async function setLink(link: SystemLink, listener: HostUpstream, run: Run): Promise<void> {
  const { interfaceName: name } = link
  const off = ['default-route', 'llmnr', 'mdns', 'dnssec', 'dnsovertls'].map((verb) => [verb, name, 'no'])
  const told = [...off, ['domain', name, ...domainsOf(link)]].map((args) => call(args, run))
  // All have ended before one that failed is told of: what is undone then is not set again.
  await Promise.allSettled(told)
  await Promise.all(told)
  await call(['dns', name, targetText(listener)], run)
}

/** Forgets what resolved was told of a link, unless somebody else has given it another server since. */
export async function revertLink(name: string, server: string, run: Run): Promise<RestoreResult> {
  const { ok, stdout } = await run('resolvectl', ['dns', name])
  const servers = stdout.replace(/^[^:]*:/, '').trim()
  if (!ok) return 'nothing'
  if (servers !== '' && servers !== server) return 'left'
  await call(['revert', name], run)
  return 'restored'
}

/** True for an interface that resolved knows. */
export async function isThere(name: string, run: Run): Promise<boolean> {
  return (await run('resolvectl', ['dns', name])).ok
}

/** Forgets cached answers that were found the old way. */
export async function flushResolved(run: Run): Promise<void> {
  await run('resolvectl', ['flush-caches'])
}

/** Takes the links of a journal back; what went with its interface needs nothing. */
export async function restoreLinks({ interfaceNames, server }: LinksJournal, run: Run): Promise<RestoreResult> {
  const results: RestoreResult[] = []
  for (const name of interfaceNames) results.push(await revertLink(name, server, run))
  if (results.includes('restored')) await flushResolved(run)
  return results.find((result) => result === 'left') ?? results.find((result) => result === 'restored') ?? 'nothing'
}

/** A domain without a mark also completes short names; one with `~` only says who is asked. */
function domainsOf({ searchDomains, suffixes }: SystemLink): readonly string[] {
  const search = searchDomains.map(plain)
  const routed = suffixes.flatMap(zonesOfSuffix).map(plain)
  return [...new Set([...search, ...routed.filter((zone) => !search.includes(zone)).map((zone) => `~${zone}`)])]
}

function plain(zone: string): string {
  return zone === '' || zone === '.' ? '.' : zone.replace(/\.$/, '')
}

async function call(args: readonly string[], run: Run): Promise<void> {
  const { ok, stderr } = await run('resolvectl', args)
  if (ok) return
  const code = /access denied|authentication|permi/i.test(stderr) ? 'PERMISSION' : 'CONFLICT'
  throw new NsmError(code, `resolvectl ${args[0]}: ${stderr.trim()}`, 'run it as root, or connect with --dns off')
}
