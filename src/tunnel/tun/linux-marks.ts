import type { IpFamily } from '../../base/ip.ts'
import { errno } from '../sys/errno.ts'
import { askKernel, attribute, changeRequest, joinBytes, number32 } from '../sys/netlink.ts'
import { systemFamily } from '../sys/socket-numbers.ts'
import { defaultTableNumber, tableNumber } from './host-network.ts'
import { RTM_DELRULE, RTM_NEWRULE } from './linux-table.ts'

/* A tunnel whose packets have a mark of the user's keeps out of tunnels as well [security E5]: a rule right before those of our
 * tables leads them to one right behind. Rules of others, in front and behind, are asked as ever. */

/** Leads packets with this mark past our tables, or ends that; gives 0 or an error number. Tunnels may share a mark. */
export function passTables(mark: number, add: boolean): number {
  const before = holders.get(mark) ?? 0
  holders.set(mark, before + (add ? 1 : -1))
  if (before !== (add ? 0 : 1)) return 0
  if (!add) holders.delete(mark)
  const number = Math.max(...families.map((family) => changePass(family, mark, add)))
  if (add && number !== 0) passTables(mark, false)
  return number
}

/** Removes all such rules of a family, as after a kill. */
export function dropMarkRules(family: IpFamily): void {
  while (askForRule(jump(family, undefined), false) === 0);
  askForRule(landing(family), false)
}

function changePass(family: IpFamily, mark: number, add: boolean): number {
  const landed = add ? askForRule(landing(family), true) : 0
  const number = isDone(landed, add) ? askForRule(jump(family, mark), add) : landed
  if (!add && holders.size === 0) askForRule(landing(family), false)
  return isDone(number, add) ? 0 : number
}

function jump(family: IpFamily, mark: number | undefined): Uint8Array {
  const goto = attribute(FRA_GOTO, number32(defaultTableNumber + 1))
  const marked = mark === undefined ? [] : [attribute(FRA_FWMARK, number32(mark))]
  return joinBytes(head(family, FR_ACT_GOTO), attribute(FRA_PRIORITY, number32(tableNumber - 1)), goto, ...marked)
}

/** A rule that does nothing. */
function landing(family: IpFamily): Uint8Array {
  return joinBytes(head(family, FR_ACT_NOP), attribute(FRA_PRIORITY, number32(defaultTableNumber + 1)))
}

function head(family: IpFamily, action: number): Uint8Array {
  return Uint8Array.of(systemFamily(family), 0, 0, 0, 0, 0, 0, action, 0, 0, 0, 0)
}

function askForRule(body: Uint8Array, add: boolean): number {
  return askKernel(changeRequest({ add: RTM_NEWRULE, remove: RTM_DELRULE }, add, body)).error
}

function isDone(number: number, add: boolean): boolean {
  return number === 0 || number === errno.EAFNOSUPPORT || number === (add ? errno.EEXIST : errno.ENOENT)
}

const families = [4, 6] as const
/** How many tunnels of this process have a mark. */
const holders = new Map<number, number>()
/** [Linux include/uapi/linux/fib_rules.h] */
const FR_ACT_GOTO = 2
const FR_ACT_NOP = 3
const FRA_GOTO = 4
const FRA_PRIORITY = 6
const FRA_FWMARK = 10
