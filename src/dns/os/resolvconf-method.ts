import { NsmError } from '../../base/errors.ts'
import { createTurns } from '../../base/turns.ts'
import { readConf, readUpstreams, upstreamsOf, whenChanged } from './host-upstreams.ts'
import { type RecordJournal, writeJournal, writtenHere } from './journal.ts'
import { checkNoOther } from './other-nsm.ts'
import { repairOnLinux } from './repair.ts'
import { buildResolvConf, type ResolvConf } from './resolv-conf.ts'
import { addRecord, otherNameservers, recordName } from './resolvconf-record.ts'
import type { Run } from './run-program.ts'
import type { SystemDns, SystemDnsSettings } from './system-dns.ts'
import { watchFolder } from './watch.ts'

/** Where the programs keep their records; gone at reboot. */
const recordFolders = { openresolv: '/run/resolvconf/interfaces', resolvconf: '/run/resolvconf/interface' } as const

/** Adds a record of ours to openresolv's or Debian's collection, from which they make the resolver file. */
export async function installRecord(
  settings: SystemDnsSettings,
  method: RecordJournal['method'],
  run: Run,
): Promise<SystemDns> {
  const { resolvConf: path, journalPath, listener, log } = settings
  if (listener.port !== 53) throw new NsmError('USAGE', `${path} cannot name port ${listener.port}`, 'let it be 53')
  const host = await readConf(path)
  await checkNoOther(path, host, listener)
  const previousUpstreams = (await readUpstreams(path)).upstreams
  const journal: RecordJournal = { ...(await writtenHere()), method, path, server: listener.address }
  await writeJournal(journalPath, journal)
  const apply = async (searchDomains: readonly string[]) => {
    await addRecord(journal, recordText(host, { address: listener.address, searchDomains }), run)
    log.info('[#] resolvconf record written', { method, address: listener.address })
  }
  try {
    await apply(settings.searchDomains)
  } catch (error) {
    await repairOnLinux(settings, run)
    throw error
  }
  const turns = createTurns()
  const inTurn = (work: () => Promise<void>) => turns.run(path, work)
  const tell = whenChanged(previousUpstreams, settings.onForeignUpstreams)
  const learn = async () => tell(upstreamsOf(await otherNameservers(run)))
  const watcher = watchFolder(recordFolders[method], (name) => {
    if (name !== null && !isTransient(name)) void inTurn(learn)
  })
  return {
    method,
    previousUpstreams,
    update: (change) => inTurn(() => apply(change.searchDomains)),
    restore: async () => {
      watcher?.close()
      await inTurn(async () => void (await repairOnLinux(settings, run)))
    },
  }
}

/** Our own record, and the file in which Debian's program builds another one. */
function isTransient(name: string): boolean {
  return name.startsWith(recordName) || /_new\.\d+$/.test(name)
}

/** Options are those of all records together, ours need not say them again. */
function recordText(
  host: ResolvConf,
  ours: { readonly address: string; readonly searchDomains: readonly string[] },
): string {
  const lines = buildResolvConf({ ...host, options: [] }, ours).split('\n')
  return lines.filter((line) => !line.startsWith('#')).join('\n')
}
