import type { Log } from '../../base/log.ts'
import { errno, errnoName, systemError } from '../sys/errno.ts'
import { type FilterSocket, openFilter } from '../sys/netfilter.ts'
import type { Fence, Fenced } from './host-network.ts'
import { tableOf } from './host-plan.ts'
import { fenceChanges, unfenceChanges } from './linux-filter.ts'
import { dropMarkRules } from './linux-marks.ts'
import { changeTableRoute, dropUnusedRules, readTables } from './linux-table.ts'

/** Guards in our routing table, and tables of the packet filter that end with this process. */
export class LinuxFence implements Fence {
  readonly #log: Log
  #guards: readonly string[] = []
  #filter: FilterSocket | undefined
  #filtered: Fenced | undefined
  #isClosed = false

  constructor(log: Log) {
    this.#log = log
  }

  async set(fenced: Fenced): Promise<void> {
    if (this.#isClosed) return
    this.#setGuards(fenced.prefixes)
    this.#setFilter(fenced)
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    // The kernel waits 30 ms for tables that it has to remove because their socket is closed.
    if (this.#filtered) this.#filter?.apply(unfenceChanges(this.#filtered))
    this.#filter?.close()
    this.#setGuards([])
  }

  #setGuards(prefixes: readonly string[]): void {
    const wanted = [...new Set(prefixes)]
    for (const prefix of wanted.filter((one) => !this.#guards.includes(one))) {
      this.#guards = [...this.#guards, prefix]
      this.#guard(prefix, true)
    }
    for (const prefix of this.#guards.filter((one) => !wanted.includes(one))) this.#guard(prefix, false)
    this.#guards = wanted
  }

  /** Services that may overlap share a guard: the first one makes it, the last one removes it. */
  #guard(prefix: string, add: boolean): void {
    const before = holders.get(prefix) ?? 0
    holders.set(prefix, before + (add ? 1 : -1))
    if (before !== (add ? 0 : 1)) return
    const command = `ip route ${add ? 'add' : 'del'} unreachable ${prefix} table ${tableOf(prefix)}`
    this.#log.info(`[#] ${command}`)
    const number = changeTableRoute({ prefix, toIndex: 'nowhere' }, add)
    if (number !== 0 && number !== (add ? errno.EEXIST : errno.ESRCH)) throw systemError(command, number)
  }

  #setFilter(fenced: Fenced): void {
    if (sameFilter(this.#filtered, fenced)) return
    const filter = this.#openFilter()
    if (!filter) return
    const before = this.#filtered ? unfenceChanges(this.#filtered) : []
    const after = fenced.addresses.length > 0 ? fenceChanges(fenced) : []
    const number = filter.apply([...before, ...after])
    if (number !== 0) {
      this.#warn(number)
      return
    }
    this.#filtered = after.length > 0 ? fenced : undefined
    if (!this.#filtered) return
    this.#log.info(`[#] nft: ${fenced.interfaceName} and ${fenced.addresses.join(' ')} for each other only`)
  }

  #openFilter(): FilterSocket | undefined {
    if (this.#filter) return this.#filter
    const opened = openFilter()
    if (typeof opened !== 'number') this.#filter = opened
    else this.#warn(-opened)
    return this.#filter
  }

  #warn(number: number): void {
    this.#log.warn('the packet filter is not set: packets from elsewhere may reach the tunnel address', {
      reason: errnoName(number),
    })
  }
}

/** Removes the guards that a killed process left; one beside a living tunnel stays. Gives the prefixes. */
export function removeLeftGuards(): readonly string[] {
  return families.flatMap((family) => {
    const { guards, tunnels } = readTables(family)
    const left = guards.filter((prefix) => !tunnels.includes(prefix))
    for (const prefix of left) changeTableRoute({ prefix, toIndex: 'nowhere' }, false)
    dropUnusedRules(family)
    if (tunnels.length === 0) dropMarkRules(family)
    return left
  })
}

function sameFilter(before: Fenced | undefined, after: Fenced): boolean {
  if (!before) return after.addresses.length === 0
  return before.interfaceName === after.interfaceName && before.addresses.join() === after.addresses.join()
}

const families = [4, 6] as const
/** How many connections of this process guard a prefix. */
const holders = new Map<string, number>()
