import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { createTurns } from '../base/turns.ts'

/** Writes down which interfaces are ours before they exist, so that a killed process can be cleaned up after. */
export interface Journal {
  /** Adds an interface name; resolves when it is on disk. */
  add(interfaceName: string): Promise<void>
  /** Takes it out again; the file goes with the last one. */
  remove(interfaceName: string): Promise<void>
}

/** File of the interface journal in the state directory. */
export function interfaceJournalPath(stateDir: string): string {
  return join(stateDir, 'interfaces.json')
}

/** File of the resolver journal in the state directory; `dns/` writes and reads it. */
export function resolverJournalPath(stateDir: string): string {
  return join(stateDir, 'resolver-journal.json')
}

/** A journal in the state directory. */
export function createJournal(stateDir: string): Journal {
  const path = interfaceJournalPath(stateDir)
  const names = new Set<string>()
  const turns = createTurns()
  const save = () => {
    const text = JSON.stringify([...names])
    return turns.run('', () => (names.size === 0 ? rm(path, { force: true }) : writeFileAtomic(path, `${text}\n`)))
  }
  return {
    add(interfaceName) {
      names.add(interfaceName)
      return save()
    },
    remove(interfaceName) {
      names.delete(interfaceName)
      return save()
    },
  }
}

/** The interface names a process before this one left behind. */
export async function readJournal(stateDir: string): Promise<string[]> {
  const text = await readPrivateFile(interfaceJournalPath(stateDir))
  if (text === undefined) return []
  try {
    const names: unknown = JSON.parse(text)
    return Array.isArray(names) ? names.filter((name) => typeof name === 'string') : []
  } catch {
    return []
  }
}

/** Forgets what a process before this one left behind, after it was repaired. */
export async function clearJournal(stateDir: string): Promise<void> {
  await rm(interfaceJournalPath(stateDir), { force: true })
}
