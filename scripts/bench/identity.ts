import { createPublicKey } from 'node:crypto'
import { systemClock } from '../../src/base/clock.ts'
import { createAuthority } from '../../src/identity/ca.ts'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { decide } from '../../src/identity/policy.ts'
import { parsePolicyFile } from '../../src/identity/policy-file.ts'
import { stateFromIssued } from '../../src/identity/svid.ts'
import { signToken, verifyToken } from '../../src/identity/token.ts'
import { verifyPeer } from '../../src/identity/verify.ts'
import { median, targetRow } from './figures.ts'
import { measureJoins } from './identity-joins.ts'
import { withStolen } from './machine.ts'
import type { BenchRow, BenchSection } from './section.ts'

/** What one such thing may cost at most, in milliseconds of one core. */
interface Case {
  readonly label: string
  readonly limitMs: number
  /** Calls of one run. */
  readonly calls: number
  /** Gives what is measured; what it needs is made before. */
  readonly prepare: () => (call: number) => unknown
}

const clock = systemClock
const trustDomain = 'bench.internal'
const serverId = `spiffe://${trustDomain}/server`
/** Keys and requests that a run goes through, so that no cache of a key helps. */
const keysCount = 64
const grantsCount = 1_000

const cases: readonly Case[] = [
  { label: "verify a peer's SVID chain", limitMs: 0.5, calls: 1_000, prepare: verifying },
  { label: 'issue an SVID for a CSR', limitMs: 1.5, calls: 500, prepare: issuing },
  { label: 'sign and verify a hop token', limitMs: 0.25, calls: 2_000, prepare: tokens },
  { label: `a decision of a policy of ${grantsCount} grants`, limitMs: 0.05, calls: 20_000, prepare: deciding },
]

/** What identity costs: processor time of each step, and a crowd that joins a plain `nsm serve`. */
export async function benchIdentity({
  runs,
  only,
}: {
  readonly runs: number
  readonly only: string
}): Promise<BenchSection> {
  const rows: BenchRow[] = []
  const notes = ['processor time of one thread; leaf, intermediate and root; 64 keys in turn']
  for (const one of cases.filter(({ label }) => label.includes(only))) {
    const { value, stolenShare } = await withStolen(async () => measure(one, runs))
    rows.push(targetRow({ label: one.label, ours: value, target: one.limitMs, unit: 'ms' }))
    if (stolenShare > 0.01) notes.push(`${one.label}: ${(stolenShare * 100).toFixed(0)} % stolen`)
  }
  const joins = 'joins'.includes(only) ? await measureJoins() : { rows: [], notes: [] }
  return {
    name: 'identity',
    rows: [...rows, ...joins.rows],
    versions: { node: process.version, openssl: process.versions.openssl },
    notes: [...notes, ...joins.notes],
  }
}

/** The middle run, in milliseconds a call; one run before does not count. */
function measure({ calls, prepare }: Case, runs: number): number {
  const act = prepare()
  const timesMs = Array.from({ length: runs + 1 }, () => {
    const before = process.cpuUsage()
    for (let call = 0; call < calls; call++) act(call)
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 1_000 / calls
  })
  return median(timesMs.slice(1))
}

function peers() {
  const authority = createAuthority({ trustDomain, clock })
  const states = Array.from({ length: keysCount }, (_, i) => {
    const key = generateKey()
    const spiffeId = `spiffe://${trustDomain}/member/laptop-${i}`
    const issued = authority.issueForKey({ publicKey: createPublicKey(key), spiffeId, ttlMs: 3_600_000 })
    return stateFromIssued(issued, key, clock.wallMs())
  })
  return { authority, states }
}

/** The bytes of a handshake are new each time. */
function verifying() {
  const { authority, states } = peers()
  const { bundles } = authority
  return (call: number) => {
    const chain = states[call % keysCount]?.svid.chain.map((der) => new Uint8Array(der)) ?? []
    return verifyPeer({ chain, bundles, nowMs: clock.wallMs() })
  }
}

function issuing() {
  const { authority } = peers()
  const csrs = Array.from({ length: keysCount }, () => createCsr(generateKey()))
  const spiffeId = `spiffe://${trustDomain}/member/laptop`
  return (call: number) =>
    authority.issueForKey({ ...verifyCsr(csrs[call % keysCount] ?? new Uint8Array()), spiffeId, ttlMs: 3_600_000 })
}

function tokens() {
  const { states } = peers()
  const expiresMs = clock.wallMs() + 600_000
  return (call: number) => {
    const svid = states[call % keysCount]?.svid
    if (svid) verifyToken(signToken({ svid, audience: serverId, expiresMs }), svid.chain[0] ?? new Uint8Array())
  }
}

/** Literal IDs, patterns of one segment and of many; the last grants are asked for, and what nobody has. */
function deciding() {
  const grants = Array.from({ length: grantsCount }, (_, i) => {
    const who = [`/ci/${i}/deploy`, `/ns/${i}/sa/*`, `/team/${i}/**`][i % 3]
    return { name: `g${i}`, who: `spiffe://${trustDomain}${who}`, may: ['find', 'request'], services: [`s${i % 50}`] }
  })
  const domains = [{ td: trustDomain, bundle: 'own' }]
  const { policy } = parsePolicyFile(JSON.stringify({ admission: { default: 'deny', domains, grants } }), 'bench')
  const askers = ['/ci/999/deploy', '/ns/997/sa/web', '/team/998/a/b/c', '/team/998', '/nobody/at/all']
  return (call: number) => {
    const id = `spiffe://${trustDomain}${askers[call % askers.length]}`
    return decide(policy, { id, action: 'request', service: `s${call % 60}` })
  }
}
