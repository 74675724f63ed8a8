import { NsmError } from '../base/errors.ts'
import { familyBits, formatPrefix, type Prefix, parsePrefix, prefixCovers, prefixesOverlap } from '../base/ip.ts'
import { mergePrefixes } from '../ipam/excluded-prefixes.ts'
import { FreeRanges, rangeOf } from '../ipam/free-ranges.ts'

/** A part of the service's prefixes that one site holds, or that rests for it. Times are wall milliseconds. */
export interface SitePrefix {
  readonly prefix: Prefix
  /** SPIFFE ID of the site. */
  readonly owner: string
  /** Since when nobody has held it; undefined while it is held. */
  readonly releasedMs: number | undefined
}

/** One wish of a site. */
export interface SitePrefixRequest {
  readonly owner: string
  /** The prefix it had; given again when it is free or its own. */
  readonly wanted?: Prefix
  readonly excluded: readonly Prefix[]
  readonly nowMs: number
}

/** What a plan divides. */
export interface PrefixPlanSettings {
  readonly prefixes: readonly Prefix[]
  /** Length of a site's part of an IPv4 prefix; never shorter than the prefix. */
  readonly siteLength: number
  /** Milliseconds that a released prefix is kept for its last owner. */
  readonly restMs: number
}

/** Ours: parts of one site; a site that leaks them may not take those of all others. */
const prefixesPerSiteMax = 64
/** Ours: a site's part of an IPv4 prefix, as in NSM's CLIENT_PREFIX_LEN [NSM cmd-ipam-vl3]. */
export const defaultSiteLength = 24
/** Ours: an IPv6 prefix is divided into 2^16 parts, as far as that leaves 2^8 addresses in each. */
const siteBits6 = 16
const siteLengthMax6 = 120

/** Divides the prefixes of a service among sites: parts of one length, never two that overlap. */
export class PrefixPlan {
  readonly #settings: PrefixPlanSettings
  readonly #held = new Map<string, SitePrefix>()

  constructor(settings: PrefixPlanSettings, known: readonly SitePrefix[]) {
    this.#settings = settings
    for (const entry of known) if (this.#fits(entry.prefix)) this.#held.set(formatPrefix(entry.prefix), entry)
  }

  /** The prefixes that are divided. */
  get prefixes(): readonly Prefix[] {
    return this.#settings.prefixes
  }

  /** All parts that are held or rest. */
  entries(): readonly SitePrefix[] {
    return [...this.#held.values()]
  }

  /**
   * The wanted part, else one that rests for this owner, else the lowest free one: of the first prefix of which this owner
   * has nothing, so that an endpoint of NSM that asks once for each family gets both, else of the first that has one.
   * Throws `REFUSED` for too many parts of one site.
   */
  allocate(request: SitePrefixRequest): Prefix | 'exhausted' {
    this.#forgetRested(request.nowMs)
    const { owner, wanted } = request
    const kept = wanted && this.#mayKeep(wanted, request) ? wanted : undefined
    const given = kept ?? this.#restingFor(request) ?? this.#lowest(request)
    if (!given) return 'exhausted'
    if (!this.#held.has(formatPrefix(given))) this.#checkCount(owner)
    this.#held.set(formatPrefix(given), { prefix: given, owner, releasedMs: undefined })
    return given
  }

  /** The part rests for its owner; false when it is not this owner's. */
  release(prefix: Prefix, owner: string, nowMs: number): boolean {
    const entry = this.#held.get(formatPrefix(prefix))
    if (entry?.owner !== owner) return false
    this.#held.set(formatPrefix(prefix), { ...entry, releasedMs: nowMs })
    return true
  }

  /** The part is free at once; false when it is not this owner's. */
  free(prefix: Prefix, owner: string): boolean {
    if (this.#held.get(formatPrefix(prefix))?.owner !== owner) return false
    return this.#held.delete(formatPrefix(prefix))
  }

  /** Who holds this very part, or has it resting. */
  ownerOf(prefix: Prefix): string | undefined {
    return this.#held.get(formatPrefix(prefix))?.owner
  }

  #fits(prefix: Prefix): boolean {
    return this.#settings.prefixes.some((whole) => prefixCovers(whole, prefix))
  }

  #mayKeep(wanted: Prefix, { owner, excluded }: SitePrefixRequest): boolean {
    const whole = this.#settings.prefixes.find((prefix) => prefixCovers(prefix, wanted))
    if (!whole) return false
    const isKnown = this.ownerOf(wanted) === owner
    if (!isKnown && wanted.length !== siteLengthOf(whole, this.#settings.siteLength)) return false
    if (excluded.some((other) => prefixesOverlap(other, wanted))) return false
    return this.entries().every((entry) => entry.owner === owner || !prefixesOverlap(entry.prefix, wanted))
  }

  #restingFor({ owner, excluded }: SitePrefixRequest): Prefix | undefined {
    return this.entries().find(
      (entry) =>
        entry.owner === owner &&
        entry.releasedMs !== undefined &&
        !excluded.some((other) => prefixesOverlap(other, entry.prefix)),
    )?.prefix
  }

  #lowest({ owner, excluded }: SitePrefixRequest): Prefix | undefined {
    const own = this.entries().filter((entry) => entry.owner === owner)
    const hasPart = (whole: Prefix) => Number(own.some(({ prefix }) => prefixCovers(whole, prefix)))
    for (const whole of this.#settings.prefixes.toSorted((a, b) => hasPart(a) - hasPart(b))) {
      const { family } = whole
      const length = siteLengthOf(whole, this.#settings.siteLength)
      const free = new FreeRanges(rangeOf(whole))
      for (const { prefix } of this.entries()) if (prefix.family === family) free.take(rangeOf(prefix))
      const barred = mergePrefixes(excluded.filter((other) => other.family === family)).map(rangeOf)
      const bits = free.lowest(1n << BigInt(familyBits[family] - length), barred)
      if (bits !== undefined) return { family, bits, length }
    }
    return undefined
  }

  #forgetRested(nowMs: number): void {
    for (const [key, { releasedMs }] of this.#held) {
      if (releasedMs !== undefined && releasedMs + this.#settings.restMs <= nowMs) this.#held.delete(key)
    }
  }

  #checkCount(owner: string): void {
    if (this.entries().filter((entry) => entry.owner === owner).length < prefixesPerSiteMax) return
    throw new NsmError('REFUSED', `${owner} holds ${prefixesPerSiteMax} prefixes, the most allowed`, 'give some back')
  }
}

/** The length of a site's part of a prefix. */
export function siteLengthOf(whole: Prefix, siteLength: number): number {
  if (whole.family === 4) return Math.max(whole.length, siteLength)
  return Math.max(whole.length, Math.min(whole.length + siteBits6, siteLengthMax6))
}

/** Reads parts as text; throws `USAGE`. */
export function parsePrefixes(texts: readonly string[]): readonly Prefix[] {
  return texts.map(parsePrefix)
}
