import { type Prefix, parseAddress, parsePrefix, prefixContains } from '../base/ip.ts'
import { isLoopbackOrLinkLocal } from './address-kind.ts'
import { addressFromReverseName, isReverseKey, keyFromText } from './name.ts'

/**
 * How a scope's own servers and the host's share a name. fanout: all are asked, first positive wins; prefer-service: all are
 * asked, the owner's answer wins; exclusive: only the owners are asked.
 */
export type ScopeMode = 'fanout' | 'prefer-service' | 'exclusive'

/** Which names a scope covers: a domain suffix in text, or an IP prefix in text for the reverse names of its addresses. */
export interface ScopeEntry<Route> {
  readonly suffix: string
  readonly route: Route
}

/** Finds the scope of a name: whole labels, longest suffix, ASCII case aside; reverse names by the address they stand for. */
export class ScopeTable<Route> {
  readonly #routes = new Map<string, Route>()
  /** Which key lengths exist, so that most suffixes of a name are never looked up. */
  readonly #lengths = new Uint8Array(256)
  readonly #prefixes: readonly { readonly prefix: Prefix; readonly route: Route }[]

  /** Throws `USAGE` for a suffix that is neither a domain name nor an IP prefix. */
  constructor(entries: readonly ScopeEntry<Route>[]) {
    for (const { suffix, route } of entries.filter((entry) => !isPrefix(entry.suffix))) {
      const key = keyFromText(suffix)
      this.#routes.set(key, route)
      this.#lengths[key.length] = 1
    }
    this.#prefixes = entries
      .filter((entry) => isPrefix(entry.suffix))
      .map(({ suffix, route }) => ({ prefix: parsePrefix(suffix), route }))
      .sort((a, b) => b.prefix.length - a.prefix.length)
  }

  /** The number of scopes. */
  get size(): number {
    return this.#routes.size + this.#prefixes.length
  }

  /** The route of the longest scope that covers the name; undefined when none does. */
  find(nameKey: string): Route | undefined {
    if (this.#prefixes.length > 0 && isReverseKey(nameKey)) {
      const route = this.#findReverse(nameKey)
      if (route !== undefined) return route
    }
    if (this.#routes.size === 0) return undefined
    for (let at = 0; at < nameKey.length; at += nameKey.charCodeAt(at) + 1) {
      if (this.#lengths[nameKey.length - at] !== 1) continue
      const route = this.#routes.get(at === 0 ? nameKey : nameKey.slice(at))
      if (route !== undefined) return route
    }
    return undefined
  }

  #findReverse(nameKey: string): Route | undefined {
    const text = addressFromReverseName(nameKey)
    if (text === undefined || isLoopbackOrLinkLocal(text)) return undefined
    const address = parseAddress(text)
    return this.#prefixes.find(({ prefix }) => prefixContains(prefix, address))?.route
  }
}

/** True for a scope that covers reverse names: its text is an IP prefix. */
export function isPrefix(suffix: string): boolean {
  return suffix.includes('/')
}
