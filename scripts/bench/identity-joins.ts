import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { sleep, systemClock } from '../../src/base/clock.ts'
import { NsmError, toNsmError } from '../../src/base/errors.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'
import { row, targetRow } from './figures.ts'
import { type JoinedMachine, joinAsMachine } from './identity-machine.ts'
import { processorSeconds, residentMib, withStolen } from './machine.ts'
import type { BenchRow } from './section.ts'

/** The promise: so many machines join in this time, and what each costs the server. */
const joinsCount = 1_000
const joinsMs = 10_000
const joinCpuMs = 6
const joinKib = 150
/** The server's own memory grows by this with its first callers, whoever they are. */
const warmUpCount = 50
/** Join token, pinned root, exchange, then a channel with the new identity and a call on it, which stays. */
export async function measureJoins(): Promise<{
  readonly rows: readonly BenchRow[]
  readonly notes: readonly string[]
}> {
  const dir = await mkdtemp(join(tmpdir(), 'nsm-bench-identity-'))
  const program = join(import.meta.dirname, 'identity-subject.ts')
  const server = spawn(process.execPath, [...nodeFlags, program, dir], { stdio: ['pipe', 'pipe', 'inherit'] })
  const joined: JoinedMachine[] = []
  try {
    await ready(server.stdout)
    const joinStrings = await invitations(join(dir, 'run'), joinsCount + warmUpCount)
    const pid = server.pid ?? 0
    await joinAll(joinStrings.slice(joinsCount), { joined, everyMs: 20, first: joinsCount })
    await sleep(systemClock, 500)
    const before = { mib: residentMib(pid), seconds: processorSeconds([pid]) }
    const { value, stolenShare } = await withStolen(() =>
      joinAll(joinStrings.slice(0, joinsCount), { joined, everyMs: joinsMs / joinsCount, first: 0 }),
    )
    const cpuMs = ((processorSeconds([pid]) - before.seconds) * 1_000) / joinsCount
    const kib = ((residentMib(pid) - before.mib) * 1_024) / joinsCount
    const label = (what: string) => `${joinsCount} clients join in ${joinsMs / 1_000} s: ${what}`
    return {
      rows: [
        row({
          label: label('joined'),
          ...{ ours: joinsCount - value.failures.length, peer: joinsCount, unit: '', limit: 1, betterIs: 'higher' },
        }),
        targetRow({ label: label('server CPU each'), ours: cpuMs, target: joinCpuMs, unit: 'ms' }),
        targetRow({ label: label('server memory each'), ours: kib, target: joinKib, unit: 'KiB' }),
      ],
      notes: [
        `joins: three TLS handshakes each (pin, exchange, session), a join token, one call; the session stays; source addresses 127.1.x.y, so every limit of a plain nsm serve holds`,
        `joins: the last one was done ${((value.elapsedMs - joinsMs) / 1_000).toFixed(1)} s after the ten seconds; ${before.mib.toFixed(0)} MiB before; ${(stolenShare * 100).toFixed(1)} % stolen; client and server share the cores`,
        `joins: turned away and back again ${joined.reduce((sum, { turnedAway }) => sum + turnedAway, 0)} times`,
        ...[...new Set(value.failures)].map((failure) => `joins: failed: ${failure}`),
      ],
    }
  } finally {
    for (const machine of joined) machine.close()
    server.stdin.end()
    await once(server, 'exit')
    await rm(dir, { recursive: true, force: true })
  }
}

/** As bin/nsm starts it. */
const nodeFlags = ['--max-semi-space-size=2', '--v8-pool-size=1']

async function invitations(runtimeDir: string, count: number): Promise<string[]> {
  const made: string[] = []
  for (let i = 0; i < count; i++) {
    made.push((await inviteFromRunning({ runtimeDir }, { id: `bench-${i}`, ttlMs: 900_000 })).joinString)
  }
  return made
}

interface Crowd {
  readonly joined: JoinedMachine[]
  readonly everyMs: number
  /** The number of the first of them: its address. */
  readonly first: number
}

/** They come at even times, whatever becomes of those before. */
async function joinAll(joinStrings: readonly string[], { joined, everyMs, first }: Crowd) {
  const startedMs = performance.now()
  const failures: string[] = []
  const joins = joinStrings.map(async (joinString, i) => {
    await sleep(systemClock, i * everyMs)
    const number = first + i + 1
    // As machines have: the server's limits per address are those of a plain `nsm serve`.
    const address = `127.1.${number >> 8}.${number & 255}`
    const machine = await joinAsMachine(parseJoinString(joinString), address).catch((error: unknown) => {
      failures.push(toNsmError(error).message)
    })
    if (machine) joined.push(machine)
  })
  await Promise.all(joins)
  return { failures, elapsedMs: performance.now() - startedMs }
}

async function ready(output: NodeJS.ReadableStream): Promise<void> {
  for await (const line of createInterface({ input: output })) if (line === 'ready') return
  throw new NsmError('NOT_READY', 'the server ended before it was ready', '')
}
