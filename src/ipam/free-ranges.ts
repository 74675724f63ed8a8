import { lastAddress, type Prefix } from '../base/ip.ts'

/** Addresses from `first` to `last`, both included, as numbers of one family. */
export interface Range {
  readonly first: bigint
  readonly last: bigint
}

/** The addresses of a prefix. */
export function rangeOf(prefix: Prefix): Range {
  return { first: prefix.bits, last: lastAddress(prefix).bits }
}

/**
 * A set of free addresses kept as sorted, disjoint, never touching ranges: a /64 with a thousand members costs at most
 * a thousand entries, whatever its size. Finding the range of an address is a binary search.
 */
export class FreeRanges {
  readonly #ranges: Range[]

  constructor(whole: Range) {
    this.#ranges = [whole]
  }

  /** Takes the range out of the set; false, and nothing changed, unless all of it is free. */
  take(range: Range): boolean {
    const at = this.#lastStartingAtOrBefore(range.first)
    const found = this.#ranges[at]
    if (!found || found.last < range.last) return false
    const rest: Range[] = []
    if (found.first < range.first) rest.push({ first: found.first, last: range.first - 1n })
    if (found.last > range.last) rest.push({ first: range.last + 1n, last: found.last })
    this.#ranges.splice(at, 1, ...rest)
    return true
  }

  /** Puts a range back; what was free already stays free. */
  give(range: Range): void {
    let from = this.#lastStartingAtOrBefore(range.first)
    if (from < 0 || (this.#ranges[from]?.last ?? 0n) + 1n < range.first) from++
    let { first, last } = range
    let until = from
    for (let next = this.#ranges[until]; next && next.first <= last + 1n; next = this.#ranges[++until]) {
      if (next.first < first) first = next.first
      if (next.last > last) last = next.last
    }
    this.#ranges.splice(from, until - from, { first, last })
  }

  /**
   * The lowest free block of `size` addresses, aligned to its size, that touches no range of `excluded`.
   *
   * @param size      a power of two
   * @param excluded  sorted and disjoint
   */
  lowest(size: bigint, excluded: readonly Range[]): bigint | undefined {
    for (const range of this.#ranges) {
      const found = lowestInside(range, size, excluded)
      if (found !== undefined) return found
    }
    return undefined
  }

  /** The index of the last range that starts at or before the address; -1 when there is none. */
  #lastStartingAtOrBefore(address: bigint): number {
    let low = 0
    let high = this.#ranges.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#ranges[middle]?.first ?? 0n) <= address) low = middle + 1
      else high = middle
    }
    return low - 1
  }
}

function lowestInside(range: Range, size: bigint, excluded: readonly Range[]): bigint | undefined {
  let candidate = alignUp(range.first, size)
  for (const { first, last } of excluded) {
    if (last < candidate) continue
    if (first > candidate + size - 1n) break
    candidate = alignUp(last + 1n, size)
  }
  return candidate + size - 1n <= range.last ? candidate : undefined
}

function alignUp(address: bigint, size: bigint): bigint {
  return ((address + size - 1n) / size) * size
}
