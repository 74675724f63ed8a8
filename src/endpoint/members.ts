/** Where WireGuard datagrams of a member come from. */
export interface UnderlayAddress {
  readonly address: string
  readonly port: number
}

/** One live member: who, by which connection, with which WireGuard key, at which addresses. */
export interface Member {
  readonly spiffeId: string
  /** Whom the relay `spiffeId` asks for; only its word, so it tells the relay's workloads apart and grants nothing. */
  readonly origin?: string | undefined
  /** The client's own id of the connection (first segment); with the SPIFFE ID it survives restarts of the client. */
  readonly connectionId: string
  /** The endpoint's id of the connection (own segment). */
  readonly segmentId: string
  /** WireGuard public key, base64. */
  readonly publicKey: string
  /** `address/32` and `address/128`: exactly what the member may send from [security V1]. */
  readonly addresses: readonly string[]
  /** First label of the DNS name, unique among the members of other identities. */
  readonly label: string | undefined
  /** Wall milliseconds. */
  readonly expiresMs: number
  readonly underlay: UnderlayAddress | undefined
  /** Largest packet inside its tunnel, as it said itself. */
  readonly mtuBytes?: number | undefined
}

/** One text for an identity and its connection id; both may hold any character. */
export function memberKey({ spiffeId, connectionId }: Pick<Member, 'spiffeId' | 'connectionId'>): string {
  return `${spiffeId.length} ${spiffeId} ${connectionId}`
}

/** The live members of one vL3; knows them by connection, by key, by name and by address. */
export class Members {
  readonly #byConnection = new Map<string, Member>()
  readonly #bySegment = new Map<string, Member>()
  readonly #byKey = new Map<string, Member>()
  readonly #byLabel = new Map<string, Set<Member>>()
  readonly #byAddress = new Map<string, Member>()
  readonly #counts = new Map<string, number>()
  readonly #reserved: ReadonlySet<string>

  /** Labels in `reserved` are given to nobody. */
  constructor(reserved: readonly string[] = []) {
    this.#reserved = new Set(reserved)
  }

  /** Adds a member, or replaces the one with the same identity and connection id. */
  put(member: Member): void {
    const before = this.find(member.spiffeId, member.connectionId)
    if (before) this.remove(before)
    this.#byConnection.set(memberKey(member), member)
    this.#count(member, 1)
    this.#bySegment.set(member.segmentId, member)
    this.#byKey.set(member.publicKey, member)
    for (const address of member.addresses) this.#byAddress.set(bare(address), member)
    if (member.label === undefined) return
    const named = this.#byLabel.get(member.label) ?? new Set()
    this.#byLabel.set(member.label, named.add(member))
  }

  /** Removes exactly this member; one that was replaced is left alone. */
  remove(member: Member): void {
    const key = memberKey(member)
    if (this.#byConnection.get(key) !== member) return
    this.#byConnection.delete(key)
    this.#count(member, -1)
    this.#bySegment.delete(member.segmentId)
    this.#byKey.delete(member.publicKey)
    for (const address of member.addresses) this.#byAddress.delete(bare(address))
    if (member.label === undefined) return
    const named = this.#byLabel.get(member.label)
    named?.delete(member)
    if (named?.size === 0) this.#byLabel.delete(member.label)
  }

  /** The member of an identity and its connection id. */
  find(spiffeId: string, connectionId: string): Member | undefined {
    return this.#byConnection.get(memberKey({ spiffeId, connectionId }))
  }

  /** The member behind the endpoint's own connection id. */
  bySegment(segmentId: string): Member | undefined {
    return this.#bySegment.get(segmentId)
  }

  /** The member with this WireGuard public key (base64). */
  byKey(publicKey: string): Member | undefined {
    return this.#byKey.get(publicKey)
  }

  /** Live connections of one identity; of a relay, those it asked for in the name of `origin`. */
  countOf(spiffeId: string, origin?: string): number {
    return this.#counts.get(askerKey({ spiffeId, origin })) ?? 0
  }

  #count(member: Member, change: number): void {
    const key = askerKey(member)
    const count = (this.#counts.get(key) ?? 0) + change
    if (count === 0) this.#counts.delete(key)
    else this.#counts.set(key, count)
  }

  /** All live members, in the order of their arrival. */
  all(): readonly Member[] {
    return [...this.#byConnection.values()]
  }

  /** Addresses, without length, that a label stands for; undefined when nobody has it. */
  addressesOf(label: string): readonly string[] | undefined {
    const named = this.#byLabel.get(label)
    return named && [...named].flatMap((member) => member.addresses.map(bare))
  }

  /** The label of the member that has this address. */
  labelOf(address: string): string | undefined {
    return this.#byAddress.get(address)?.label
  }

  /**
   * The label a member gets for the name it asked for: the name belongs to the first live SPIFFE ID that has it,
   * another ID gets `<name>-2`, `-3` and so on; what a member has already it keeps.
   */
  labelFor(wanted: string | undefined, spiffeId: string, current: Member | undefined): string | undefined {
    const label = toLabel(wanted ?? '')
    if (label === undefined) return undefined
    if (current?.label !== undefined && isVariant(current.label, label)) return current.label
    for (let number = 1; ; number++) {
      const candidate = number === 1 ? label : numbered(label, number)
      if (this.#reserved.has(candidate)) continue
      const holders = [...(this.#byLabel.get(candidate) ?? [])].filter((holder) => holder !== current)
      if (holders.every((holder) => holder.spiffeId === spiffeId)) return candidate
    }
  }
}

/** [RFC 1035 2.3.4] Protocol limit of one label. */
const labelMaxBytes = 63

/**
 * One valid lower-case host name label [RFC 1123 2.1] out of any text: the part before the first dot, other characters
 * as `-`; undefined when nothing is left.
 */
export function toLabel(text: string): string | undefined {
  const [first = ''] = text.slice(0, nameMaxCharacters).split('.')
  const replaced = first.toLowerCase().replace(/[^a-z0-9-]+/g, '-')
  const label = replaced.slice(0, labelMaxBytes).replace(/^-+|-+$/g, '')
  return label === '' ? undefined : label
}

/** Ours: a longer name cannot change its first label after the replacement, so the rest is not looked at. */
const nameMaxCharacters = 1_024

function numbered(label: string, number: number): string {
  const suffix = `-${number}`
  return `${label.slice(0, labelMaxBytes - suffix.length).replace(/-$/, '')}${suffix}`
}

function isVariant(candidate: string, label: string): boolean {
  const number = Number(/-(\d{1,9})$/.exec(candidate)?.[1] ?? 1)
  return candidate === label || (number > 1 && candidate === numbered(label, number))
}

function askerKey({ spiffeId, origin }: Pick<Member, 'spiffeId' | 'origin'>): string {
  return memberKey({ spiffeId, connectionId: origin === undefined || origin === spiffeId ? '' : origin })
}

function bare(address: string): string {
  return address.slice(0, address.indexOf('/'))
}
