import { NsmError } from '../../base/errors.ts'
import { captureFile, contentOf, realPathOf, replaceFile } from './file-object.ts'
import type { RecordJournal } from './journal.ts'
import { parseResolvConf } from './resolv-conf.ts'
import type { Run } from './run-program.ts'
import type { RestoreResult } from './system-dns.ts'

/** Debian's program sorts by name and puts `tun*` before every network card [interface-order(5)]. */
export const recordName = 'tun-nsm'

const verbs = {
  // The first and the only one: a second name server would be a leak [resolvconf(8) of openresolv].
  openresolv: { add: ['-m', '0', '-x', '-a', recordName], remove: ['-f', '-d', recordName] },
  // A name server on loopback ends the list [/etc/resolvconf/update.d/libc].
  resolvconf: { add: ['-a', recordName], remove: ['-d', recordName] },
} as const

/** The text goes along as an argument: one that we fed to it would be cut short, and an empty record be made, if we died. */
const withText = 'text=$1; shift; printf "%s\\n" "$text" | resolvconf "$@"'

/**
 * Adds our record or replaces it; throws `CONFLICT` when the file that is made from the records does not name us alone. That
 * counts and not the exit code, which may be that of another program's hook.
 */
export async function addRecord(
  { method, path, server }: Pick<RecordJournal, 'method' | 'path' | 'server'>,
  text: string,
  run: Run,
): Promise<void> {
  const { stderr } = await run('sh', ['-c', withText, 'sh', text, ...verbs[method].add])
  if (namesOnly(await textOf(path), server)) return
  const why = stderr.trim() || `${path} does not name ${server} alone`
  throw new NsmError('CONFLICT', `resolvconf: ${why}`, 'look at its configuration, or connect with --dns off')
}

/** Removes our record. A file that another program wrote since stays as it is, also where resolvconf would write it anew. */
export async function restoreRecord({ method, path, server }: RecordJournal, run: Run): Promise<RestoreResult> {
  const before = await textOf(path)
  const foreign = namesUs(before, server) ? undefined : await captureFile(await realPathOf(path))
  const had = await hasRecord(run)
  const { stderr } = await run('resolvconf', verbs[method].remove)
  if (await hasRecord(run)) throw new NsmError('CONFLICT', `resolvconf: ${stderr.trim()}`, 'nsm cleanup')
  if (foreign && (await textOf(path)) !== before) await replaceFile(await realPathOf(path), foreign)
  if (foreign) return had ? 'left' : 'nothing'
  return 'restored'
}

/** The name servers of all other records, in their order. */
export async function otherNameservers(run: Run): Promise<readonly string[]> {
  const others = (await readRecords(run)).filter((record) => !isOurs(record))
  return [...new Set(others.flatMap((record) => parseResolvConf(record).nameservers))]
}

async function hasRecord(run: Run): Promise<boolean> {
  return (await readRecords(run)).some(isOurs)
}

async function readRecords(run: Run): Promise<readonly string[]> {
  const { stdout } = await run('resolvconf', ['-l'])
  return stdout.split(/^(?=# resolv\.conf from )/m)
}

function isOurs(record: string): boolean {
  return /^# resolv\.conf from (\S+)/.exec(record)?.[1] === recordName
}

function namesOnly(text: string, server: string): boolean {
  return parseResolvConf(text).nameservers.join() === server
}

function namesUs(text: string, server: string): boolean {
  return parseResolvConf(text).nameservers.includes(server)
}

async function textOf(path: string): Promise<string> {
  return (await contentOf(path))?.toString('latin1') ?? ''
}
