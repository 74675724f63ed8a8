import type { Log } from '../../base/log.ts'
import { readJournal, removeJournal } from './journal.ts'
import { restoreResolvFile } from './resolv-file.ts'
import { restoreRecord } from './resolvconf-record.ts'
import { restoreLinks } from './resolved-links.ts'
import { type Run, runProgram } from './run-program.ts'
import { waitForPrograms } from './running-programs.ts'
import type { RestoreResult } from './system-dns.ts'

/** Takes back what the journal tells of, of this process or of one that died; 'left' when somebody else has changed it since. */
export async function repairOnLinux(
  settings: { readonly journalPath: string; readonly log: Log },
  run: Run = runProgram,
): Promise<RestoreResult> {
  const { journalPath, log } = settings
  const journal = await readJournal(journalPath)
  if (journal === undefined) return 'nothing'
  if (journal === 'broken') {
    log.warn('the journal of the system resolver cannot be read and is dropped', { path: journalPath })
    await removeJournal(journalPath)
    return 'left'
  }
  if (journal.method !== 'file' && journal.pid !== process.pid) await waitForPrograms(journal.pid)
  const restore = () => {
    if (journal.method === 'file') return restoreResolvFile(journal, log)
    return journal.method === 'resolved' ? restoreLinks(journal, run) : restoreRecord(journal, run)
  }
  const result = await restore()
  await removeJournal(journalPath)
  if (result === 'restored') log.info('[#] system resolver put back', { method: journal.method })
  return result
}
