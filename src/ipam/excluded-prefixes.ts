import { familyBits, lastAddress, type Prefix, prefixCovers, prefixesOverlap } from '../base/ip.ts'

/** The fewest prefixes that hold exactly the same addresses: sorted, without duplicates, neighbours joined. */
export function mergePrefixes(prefixes: readonly Prefix[]): readonly Prefix[] {
  const merged: Prefix[] = []
  for (const prefix of prefixes.toSorted(comparePrefixes)) {
    const previous = merged.at(-1)
    if (previous && prefixCovers(previous, prefix)) continue
    merged.push(prefix)
    joinNeighbours(merged)
  }
  return merged
}

/** Two prefixes of different lists that share an address, the first pair in the order of `ours`; or undefined. */
export function findOverlap(
  ours: readonly Prefix[],
  theirs: readonly Prefix[],
): { readonly ours: Prefix; readonly theirs: Prefix } | undefined {
  for (const prefix of ours) {
    const other = theirs.find((candidate) => prefixesOverlap(prefix, candidate))
    if (other) return { ours: prefix, theirs: other }
  }
  return undefined
}

/** The one of `prefixes` that leaves no address of `whole`, after joining neighbours; undefined when some are left. */
export function findCover(prefixes: readonly Prefix[], whole: Prefix): Prefix | undefined {
  return mergePrefixes(prefixes).find((prefix) => prefixCovers(prefix, whole))
}

/** Order of prefixes: family, then address, then the wider one first. */
export function comparePrefixes(a: Prefix, b: Prefix): number {
  if (a.family !== b.family) return a.family - b.family
  if (a.bits !== b.bits) return a.bits < b.bits ? -1 : 1
  return a.length - b.length
}

/** Joins the last two prefixes while they are the two halves of one. */
function joinNeighbours(merged: Prefix[]): void {
  for (let whole = joined(merged.at(-2), merged.at(-1)); whole; whole = joined(merged.at(-2), merged.at(-1))) {
    merged.splice(-2, 2, whole)
  }
}

function joined(low: Prefix | undefined, high: Prefix | undefined): Prefix | undefined {
  if (!low || !high || low.family !== high.family || low.length !== high.length || low.length === 0) return undefined
  const whole: Prefix = { family: low.family, bits: low.bits, length: low.length - 1 }
  const isLowerHalf = ((low.bits >> BigInt(familyBits[low.family] - low.length)) & 1n) === 0n
  return isLowerHalf && lastAddress(whole).bits === lastAddress(high).bits ? whole : undefined
}
