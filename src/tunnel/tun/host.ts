import { NsmError } from '../../base/errors.ts'
import type { Log } from '../../base/log.ts'
import { type Undo, UndoStack } from '../../base/undo.ts'
import { errno, systemError } from '../sys/errno.ts'
import type { HostChanges, HostNetwork, InterfaceSettings } from './host-network.ts'
import { addedTo, type Change, commandOf, findConflict, inverseOf, planChanges } from './host-plan.ts'
import { loadPlatform } from './open.ts'

export type { HostChanges, HostNetwork, InterfaceSettings, Route } from './host-network.ts'

/** Reads addresses, unicast routes and interface names of this network namespace. */
export async function readHostNetwork(): Promise<HostNetwork> {
  return (await loadPlatform()).readNetwork()
}

/** Listens to changes of what `readHostNetwork` reads. */
export async function openHostChanges(): Promise<HostChanges> {
  return (await loadPlatform()).openHostChanges()
}

/**
 * Brings an interface up with addresses, routes and MTU; the result takes all of it back. Logs the command each change
 * equals. Throws `CONFLICT` naming both sides when an address or prefix is taken, and then has changed nothing.
 */
export async function configureInterface(settings: InterfaceSettings, log: Log): Promise<Undo> {
  const nothing = { ...settings, addresses: [], routes: [], mtuBytes: 0 }
  return apply(nothing, settings, log)
}

/** Moves an interface from one state to another by its differences; on a failure it is as before. */
export async function updateInterface(before: InterfaceSettings, after: InterfaceSettings, log: Log): Promise<void> {
  await apply(before, after, log)
}

/** Removes an interface with its addresses and routes, as after a crash; one that is absent is fine. */
export async function removeInterface(interfaceName: string): Promise<void> {
  const number = (await loadPlatform()).deleteInterface(interfaceName)
  if (number !== 0 && number !== errno.ENODEV) throw systemError(`cannot remove ${interfaceName}`, number)
}

/** The interface, own address and MTU for packets to an address; undefined when there is no way. */
export async function routeTo(
  address: string,
): Promise<{ readonly interfaceName: string; readonly sourceAddress: string; readonly mtuBytes: number } | undefined> {
  return (await loadPlatform()).lookUpRoute(address)
}

async function apply(before: InterfaceSettings, after: InterfaceSettings, log: Log): Promise<Undo> {
  const platform = await loadPlatform()
  const conflict = findConflict(addedTo(before, after), platform.readNetwork())
  if (conflict) throw new NsmError('CONFLICT', conflict, 'leave one of the two networks, or exclude the prefix')
  const undos = new UndoStack(log)
  for (const change of planChanges(before, after)) {
    log.info(`[#] ${commandOf(after.interfaceName, change)}`)
    const number = platform.applyChange(after.interfaceName, change)
    if (number !== 0 && !isDone(change, number)) {
      await undos.run()
      throw systemError(commandOf(after.interfaceName, change), number)
    }
    const inverse = inverseOf(change)
    if (inverse) undos.push(undoBy(after.interfaceName, inverse, log))
  }
  return undos.run
}

function undoBy(interfaceName: string, change: Change, log: Log): Undo {
  return async () => {
    const number = (await loadPlatform()).applyChange(interfaceName, change)
    if (number === errno.ENODEV) return
    log.info(`[#] ${commandOf(interfaceName, change)}`)
    if (number !== 0 && !isDone(change, number)) throw systemError(commandOf(interfaceName, change), number)
  }
}

/** Removing what is gone is done. */
function isDone(change: Change, number: number): boolean {
  return change.kind !== 'link' && !change.add && (number === errno.ESRCH || number === errno.EADDRNOTAVAIL)
}
