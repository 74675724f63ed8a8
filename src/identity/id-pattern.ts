import { NsmError } from '../base/errors.ts'
import { isTrustDomain, type SpiffeId } from './spiffe-id.ts'

/** Whom a line of a policy means: one trust domain, and segments of which each is literal or any. */
export interface IdPattern {
  readonly trustDomain: string
  /** `undefined` fits every segment. */
  readonly segments: readonly (string | undefined)[]
  /** True: one or more further segments follow. */
  readonly isOpen: boolean
}

/**
 * Reads `spiffe://domain/path` where a segment `*` is any one and a last `**` one or more; the domain is always literal.
 * Throws `USAGE`.
 */
export function parseIdPattern(text: string): IdPattern {
  const [, trustDomain = '', path = ''] = /^spiffe:\/\/([^/*]+)\/(.+)$/.exec(text) ?? []
  const parts = path.split('/')
  const isOpen = parts.at(-1) === '**'
  const segments = (isOpen ? parts.slice(0, -1) : parts).map((part) => (part === '*' ? undefined : part))
  if (!isTrustDomain(trustDomain) || !segments.every((part) => part === undefined || isSegment(part))) {
    const what = `${JSON.stringify(text.slice(0, 128))} is no SPIFFE ID or pattern of one`
    throw new NsmError('USAGE', what, 'write spiffe://domain/path; "*" is a whole segment, "**" the end')
  }
  return { trustDomain, segments, isOpen }
}

/** [SPIFFE ID 2.2] */
function isSegment(text: string): boolean {
  return /^[A-Za-z0-9._-]+$/.test(text) && text !== '.' && text !== '..'
}

interface Branch {
  readonly named: Map<string, Branch>
  any: Branch | undefined
  /** The lowest order of what ends here. */
  here: number
  /** The lowest order of what takes one or more further segments. */
  below: number
  /** The lowest order of all that is here and further on. */
  lowest: number
}

/** What fits nothing: no order is higher. */
export const noOrder = Number.POSITIVE_INFINITY

/** Patterns as a tree of their segments, each with its order in a file: an ID walks only the branches that fit it. */
export class IdPatternTree {
  readonly #domains = new Map<string, Branch>()

  add({ trustDomain, segments, isOpen }: IdPattern, order: number): void {
    let branch = childOf(this.#domains, trustDomain)
    branch.lowest = Math.min(branch.lowest, order)
    for (const segment of segments) {
      branch = segment === undefined ? anyOf(branch) : childOf(branch.named, segment)
      branch.lowest = Math.min(branch.lowest, order)
    }
    if (isOpen) branch.below = Math.min(branch.below, order)
    else branch.here = Math.min(branch.here, order)
  }

  /** The lowest order of the patterns that fit the ID; `noOrder` when none does. */
  first({ trustDomain, path }: SpiffeId): number {
    const root = this.#domains.get(trustDomain)
    const on = { segments: path.slice(1).split('/'), first: noOrder }
    if (root && path !== '') walk(root, on, 0)
    return on.first
  }
}

interface Walk {
  readonly segments: readonly string[]
  /** The lowest order so far; branches that have no lower one are left out. */
  first: number
}

function walk(branch: Branch, on: Walk, at: number): void {
  if (branch.lowest >= on.first) return
  const segment = on.segments[at]
  on.first = Math.min(on.first, segment === undefined ? branch.here : branch.below)
  if (segment === undefined) return
  const named = branch.named.get(segment)
  if (named) walk(named, on, at + 1)
  if (branch.any) walk(branch.any, on, at + 1)
}

function childOf(branches: Map<string, Branch>, key: string): Branch {
  const found = branches.get(key) ?? newBranch()
  branches.set(key, found)
  return found
}

function anyOf(branch: Branch): Branch {
  const any = branch.any ?? newBranch()
  branch.any = any
  return any
}

function newBranch(): Branch {
  return { named: new Map(), any: undefined, here: noOrder, below: noOrder, lowest: noOrder }
}
