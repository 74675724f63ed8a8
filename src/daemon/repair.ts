import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { makePrivateDir, removeUnfinished } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import { clearJournal, readJournal, resolverJournalPath } from '../connection/journal.ts'
import { repairSystemDns } from '../dns/os/open.ts'
import { removeLeftGuards } from '../tunnel/tun/fence.ts'
import { removeLeftSocket } from '../tunnel/uapi-server.ts'
import { takeLock } from './lock.ts'
import { lastDomainPath, lockPath, workloadSocketPath } from './paths.ts'

/** What was put back, in words. */
export interface Repaired {
  readonly repaired: readonly string[]
}

/** Takes back what a killed background process left; does nothing while one runs. */
export async function repairMachine(settings: Settings, log: Log): Promise<Repaired> {
  await makePrivateDir(settings.runtimeDir, process.getuid?.() === 0 ? 0o755 : 0o700)
  const lock = takeLock(lockPath(settings))
  if (!lock) return { repaired: [] }
  try {
    return await repairLeftovers(settings, log)
  } finally {
    lock.release()
  }
}

/**
 * The same for the holder of the lock. Interfaces, their routes and the packet filter went with the process that had them
 * open: an interface of a remembered name belongs to somebody else by now, and only the journal is cleared. The routes that
 * refuse a service's packets did not, nor the sockets that wg(8) asks and files that were not written to their end.
 */
export async function repairLeftovers(settings: Settings, log: Log): Promise<Repaired> {
  await rm(workloadSocketPath(settings), { force: true })
  const interfaceNames = await readJournal(settings.stateDir)
  const guards = interfaceNames.length > 0 ? await removeLeftGuards() : []
  const sockets = await Promise.all(interfaceNames.map((name) => removeLeftSocket(name)))
  if (interfaceNames.length > 0) await clearJournal(settings.stateDir)
  const unfinished = await removeAllUnfinished(settings)
  const resolver = await repairSystemDns({ journalPath: resolverJournalPath(settings.stateDir), log })
  const repaired = [
    ...interfaceNames.map((name) => `interface ${name} forgotten`),
    ...sockets.flatMap((path) => (path === undefined ? [] : [`control socket ${path} removed`])),
    ...unfinished.map((name) => `unfinished ${name} removed`),
    ...guards.map((prefix) => `route unreachable ${prefix} removed`),
    ...(resolver === 'restored' ? ['system resolver restored'] : []),
    ...(resolver === 'left' ? ['system resolver was changed by another program and left alone'] : []),
  ]
  if (repaired.length > 0) log.info('the machine was repaired', { what: repaired.join('; ') })
  return { repaired }
}

/** Of the background process, of identities, and of the authority of a server. */
async function removeAllUnfinished(settings: Settings): Promise<readonly string[]> {
  const dirs = [settings.stateDir, dirname(lastDomainPath(settings)), join(settings.stateDir, 'ca')]
  return (await Promise.all(dirs.map((dir) => removeUnfinished(dir)))).flat()
}
