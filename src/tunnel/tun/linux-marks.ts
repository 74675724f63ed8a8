import type { IpFamily } from '../../base/ip.ts'
import { errno } from '../sys/errno.ts'
import { askKernel, attribute, joinBytes, NLM_F_CREATE, number32 } from '../sys/netlink.ts'
import { systemFamily } from '../sys/socket-numbers.ts'
import { defaultTableNumber, tableNumber } from './host-network.ts'
import { RTM_DELRULE, RTM_NEWRULE } from './linux-table.ts'

/* A tunnel whose packets have a mark of the user's keeps out of tunnels as well [security E5]: a rule right before those of our
 * tables leads them to one right behind. Rules of others, in front and behind, are asked as ever. Each process has its own
 * two rules per mark, beside the same ones of other processes: the kernel keeps rules that are equal one by one, removes the
 * first of them, and a jump then ends at the next. */

/** Leads packets with this mark past our tables, or ends that; gives 0 or an error number. Tunnels may share a mark. */
export function passTables(mark: number, add: boolean): number {
  const before = holders.get(mark) ?? 0
  holders.set(mark, before + (add ? 1 : -1))
  if (before !== (add ? 0 : 1)) return 0
  const number = add ? lead(mark) : Math.max(...families.map((family) => endLeading(family, mark)))
  if (!add || number !== 0) holders.delete(mark)
  return number
}

/** Removes all such rules of a family, as after a kill. */
export function dropMarkRules(family: IpFamily): void {
  for (const rule of [jump(family, undefined), landing(family)]) while (askForRule(rule, false) === 0);
}

/** Both families or none. */
function lead(mark: number): number {
  for (const [i, family] of families.entries()) {
    const number = leadFamily(family, mark)
    if (isDone(number, true)) continue
    for (const done of families.slice(0, i)) endLeading(done, mark)
    return number
  }
  return 0
}

function leadFamily(family: IpFamily, mark: number): number {
  const landed = askForRule(landing(family), true)
  if (landed !== 0) return landed
  const number = askForRule(jump(family, mark), true)
  if (number !== 0) askForRule(landing(family), false)
  return number
}

function endLeading(family: IpFamily, mark: number): number {
  const numbers = [jump(family, mark), landing(family)].map((rule) => askForRule(rule, false))
  return numbers.find((number) => !isDone(number, false)) ?? 0
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
  // Without NLM_F_EXCL, also beside one that is equal.
  return askKernel({ type: add ? RTM_NEWRULE : RTM_DELRULE, flags: add ? NLM_F_CREATE : 0, body }).error
}

/** A system without IPv6 has nothing to lead. */
function isDone(number: number, add: boolean): boolean {
  return number === 0 || number === errno.EAFNOSUPPORT || (!add && number === errno.ENOENT)
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
