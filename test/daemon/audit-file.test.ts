import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { type AuditFileSettings, openAuditFile } from '../../src/daemon/audit-file.ts'
import { lastEvents } from '../../src/daemon/audit-read.ts'
import { verifyAudit } from '../../src/daemon/audit-verify.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { scratchDir } from '../support/scratch.ts'

const programs = resolve(import.meta.dirname, '../support')

async function logPath(): Promise<string> {
  return join(await scratchDir(), 'audit.jsonl')
}

const up = (number: number): AuditEvent => ({ event: 'conn.up', id: `spiffe://a.example/${number}` })

/** Writes the events of one run of the program. */
async function run(path: string, events: readonly AuditEvent[], more: Partial<AuditFileSettings> = {}) {
  const audit = openAuditFile({ path, clock: systemClock, log: silentLog, ...more })
  for (const event of events) audit.record(event)
  await audit.close()
}

const ups = (count: number, from = 1) => Array.from({ length: count }, (_, i) => up(from + i))
const linesOf = (path: string) => readFileSync(path, 'utf8').trimEnd().split('\n')
const reasonsOf = async (path: string) =>
  (await lastEvents([path], 10_000)).flatMap(({ event, reason }) => (event === 'state.repaired' ? [reason] : []))

describe('the audit log', () => {
  test('is one chain over all runs, for our user alone', async () => {
    const path = await logPath()
    await run(path, ups(3))
    await run(path, ups(2, 4))
    expect(await verifyAudit(path)).toMatchObject({ lines: 5, firstSeq: 1, lastSeq: 5, repairs: 0 })
    expect((await verifyAudit(path)).problem).toBeUndefined()
    for (const file of [path, `${path}.head`]) expect(statSync(file).mode & 0o777).toBe(0o600)
    expect((await lastEvents([path], 2)).map(({ id }) => id)).toEqual(['spiffe://a.example/4', 'spiffe://a.example/5'])
  })

  test('keeps nobody waiting, and writes what came in a tenth of a second at once', async () => {
    const path = await logPath()
    const clock = createFakeClock()
    const audit = openAuditFile({ path, clock, log: silentLog })
    for (const event of ups(50)) expect(audit.record(event)).toBeUndefined()
    await audit.close()
    expect(linesOf(path)).toHaveLength(50)
    expect(clock.waiting).toBe(0)
    audit.record(up(51))
    expect(linesOf(path)).toHaveLength(50)
  })

  test('counts what it leaves out', async () => {
    const path = await logPath()
    await run(path, new Array(30).fill(up(1)))
    expect(await lastEvents([path], 100)).toHaveLength(11)
    expect((await lastEvents([path], 1))[0]).toMatchObject({
      event: 'conn.up',
      id: 'spiffe://a.example/1',
      suppressed: 20,
    })
  })

  test('sets full files aside, goes on in the next one and forgets the oldest', async () => {
    const path = await logPath()
    for (let i = 0; i < 8; i++) await run(path, ups(10, i * 10), { maxBytes: 1_000, keep: 3 })
    expect(readdirSync(join(path, '..')).toSorted()).toEqual([
      'audit.jsonl',
      'audit.jsonl.60',
      'audit.jsonl.70',
      'audit.jsonl.80',
      'audit.jsonl.head',
    ])
    const verdict = await verifyAudit(path)
    expect(verdict).toMatchObject({ lines: 30, firstSeq: 51, lastSeq: 80 })
    expect(verdict.problem).toBeUndefined()
    await run(path, ups(1))
    expect(await verifyAudit(path)).toMatchObject({ lines: 31, lastSeq: 81, repairs: 0 })
  })

  test('repairs a line that a crash left half done, and says so', async () => {
    const path = await logPath()
    await run(path, ups(3))
    appendFileSync(path, '{"ts":"2026-')
    expect((await verifyAudit(path)).problem).toBeUndefined()
    await run(path, ups(1, 4))
    expect(await reasonsOf(path)).toEqual(['TORN_LINE'])
    expect(await verifyAudit(path)).toMatchObject({ lines: 5, repairs: 1 })
    expect((await verifyAudit(path)).problem).toBeUndefined()
  })

  test('holds every event of any runs, with lines left half done between them, in files of any size', async () => {
    const runs = fc.array(fc.record({ count: fc.nat(12), torn: fc.boolean() }), { minLength: 1, maxLength: 6 })
    await fc.assert(
      fc.asyncProperty(runs, fc.integer({ min: 200, max: 4_000 }), async (all, maxBytes) => {
        const path = await logPath()
        let written = 0
        for (const { count, torn } of all) {
          await run(path, ups(count, written + 1), { maxBytes, keep: 100 })
          written += count
          if (torn) appendFileSync(path, '{"ts":"20')
        }
        await run(path, [])
        const verdict = await verifyAudit(path)
        const repaired = await reasonsOf(path)
        expect([verdict.problem, verdict.lines]).toEqual([undefined, written + repaired.length])
        expect(repaired).toEqual(all.filter(({ torn }) => torn).map(() => 'TORN_LINE'))
      }),
      { numRuns: 25 },
    )
  })

  test('goes on by itself with what comes at the moment when a disk is writable again', async () => {
    const path = join(await scratchDir(), 'not-there-yet', 'audit.jsonl')
    const clock = createFakeClock()
    const { promise: again, resolve: isAgain } = Promise.withResolvers<void>()
    const log = {
      ...silentLog,
      info() {
        audit.record(up(2))
        isAgain()
      },
    }
    const { promise: failed, resolve: hasFailed } = Promise.withResolvers<void>()
    const audit = openAuditFile({ path, clock, log: { ...log, error: () => hasFailed() } })
    audit.record(up(1))
    await failed
    mkdirSync(join(path, '..'))
    await clock.advance(5_000)
    await again
    const lines = async () => {
      await clock.advance(100)
      return linesOf(path).length
    }
    await expect.poll(lines).toBe(2)
    await audit.close()
  })

  test('does not follow a link in its place', async () => {
    const path = await logPath()
    const foreign = `${path}.foreign`
    writeFileSync(foreign, 'a\n')
    symlinkSync(foreign, path)
    await run(path, ups(3))
    expect(readFileSync(foreign, 'utf8')).toBe('a\n')
  })

  test.each([1, 2, 3, 4, 5, 6])('is whole after a kill at any moment, try %i', async (round) => {
    const path = await logPath()
    const child = spawn(process.execPath, [join(programs, 'audit-program.ts'), path], { stdio: 'ignore' })
    const ended = once(child, 'exit')
    const sizeOf = () => {
      try {
        return linesOf(path).length + readdirSync(join(path, '..')).length * 100
      } catch {
        return 0
      }
    }
    await expect.poll(sizeOf, { interval: 7 }).toBeGreaterThan(round * 150)
    child.kill('SIGKILL')
    await ended
    expect((await verifyAudit(path)).problem).toBeUndefined()
    await run(path, ups(1))
    const verdict = await verifyAudit(path)
    expect(verdict.problem).toBeUndefined()
    const numbers = (await lastEvents([path], 1_000_000)).flatMap(({ event, id }) =>
      event === 'conn.up' ? [Number(String(id).split('/').at(-1))] : [],
    )
    expect(numbers.slice(0, -1)).toEqual(numbers.slice(0, -1).map((_, i) => i + 1))
  })

  const canMount = spawnSync('unshare', ['-rm', 'true']).status === 0
  test.skipIf(!canMount)('on a full disk stops nobody, and says how much was lost (needs unshare -rm)', async () => {
    const dir = await scratchDir()
    const program = join(programs, 'audit-full-program.ts')
    const answer: unknown = JSON.parse(
      execFileSync('unshare', ['-rm', process.execPath, program, dir], { encoding: 'utf8', timeout: 150_000 }),
    )
    expect(answer).toMatchObject({ whileFull: 'whole', problem: 'whole', others: 1, exists: true })
    expect(answer).toMatchObject({
      told: expect.toSatisfy((told: number) => told >= 2_000),
      all: 12_400,
      count: 12_400,
    })
  })
})

/** What a hand does to a log, and what `nsm audit --verify` and the next start say. */
describe('a changed audit log', () => {
  const changeLine = (path: string, index: number, change: (line: string) => string[]) => {
    const lines = linesOf(path)
    writeFileSync(path, `${lines.flatMap((line, i) => (i === index ? change(line) : [line])).join('\n')}\n`)
  }
  const cases: readonly [string, (path: string) => void, RegExp, number][] = [
    [
      'a changed line',
      (path) => changeLine(path, 4, (line) => [line.replace('a.example/5', 'a.example/9')]),
      /not follow/,
      6,
    ],
    ['a removed line', (path) => changeLine(path, 4, () => []), /lines 5 to 5 are missing/, 5],
    ['a doubled line', (path) => changeLine(path, 4, (line) => [line, line]), /its number is 5, and 6 is due/, 6],
    ['swapped lines', (path) => changeLine(path, 4, (line) => [linesOf(path)[5] ?? '', line]), /missing/, 5],
    ['a line of something else', (path) => changeLine(path, 4, () => ['hello']), /no line of an audit log/, 5],
    [
      'a changed last line',
      (path) => changeLine(path, 9, (line) => [line.replace('conn.up', 'conn.xx')]),
      /the head/,
      10,
    ],
    ['a space at the end of a line', (path) => changeLine(path, 4, (line) => [`${line} `]), /not follow/, 6],
    [
      'a cut end',
      (path) => changeLine(path, 9, () => []),
      /end is cut off: it has lines up to 9, and there were 10/,
      0,
    ],
    ['nothing left', (path) => truncateSync(path), /end is cut off/, 0],
    ['a cut beginning', (path) => changeLine(path, 0, () => []), /beginning is cut off: lines 1 to 1/, 1],
    ['a removed head', (path) => rmSync(`${path}.head`), /its head is missing/, 0],
    ['a head of zeros', (path) => writeFileSync(`${path}.head`, '\0'.repeat(384)), /its head is missing/, 0],
  ]

  test.each(cases)('with %s is found out, and the line is named', async (_what, change, why, line) => {
    const path = await logPath()
    await run(path, ups(10))
    change(path)
    expect((await verifyAudit(path)).problem).toMatchObject({ file: path, line, why: expect.stringMatching(why) })
  })

  test.each([
    ['a cut end', (path: string) => changeLine(path, 9, () => []), 'LINES_MISSING'],
    [
      'a changed last line',
      (path: string) => changeLine(path, 9, (line) => [line.replace('conn.up', 'x')]),
      'LINES_CHANGED',
    ],
    ['no line', (path: string) => truncateSync(path), 'LINES_MISSING'],
    ['no file', (path: string) => rmSync(path), 'LINES_MISSING'],
  ])('with %s goes on and stays broken for ever', async (_what, change, reason) => {
    const path = await logPath()
    await run(path, ups(10))
    change(path)
    await run(path, ups(2, 11))
    expect(await reasonsOf(path)).toEqual([reason])
    expect((await verifyAudit(path)).problem).toBeDefined()
  })

  test('without its head goes on, and says that its end may be cut', async () => {
    const path = await logPath()
    await run(path, ups(10))
    rmSync(`${path}.head`)
    await run(path, ups(2, 11))
    expect(await reasonsOf(path)).toEqual(['HEAD_MISSING'])
    expect(await verifyAudit(path)).toMatchObject({ lines: 13, repairs: 1 })
  })

  test('that was written anew as a whole is found out by a head that was noted elsewhere', async () => {
    const path = await logPath()
    await run(path, ups(10))
    const { head } = await verifyAudit(path)
    await run(path, ups(5, 11))
    expect((await verifyAudit(path, head)).problem).toBeUndefined()
    rmSync(path)
    rmSync(`${path}.head`)
    await run(path, ups(15, 2))
    expect((await verifyAudit(path)).problem).toBeUndefined()
    expect((await verifyAudit(path, head)).problem).toMatchObject({ why: 'the witness is no line of it' })
  })

  test('in any one byte, or with one more or less anywhere, is found out', async () => {
    const path = await logPath()
    await run(path, [
      ...ups(6),
      { event: 'peer.reject', id: 'spiffe://\u00fc.example/\u{1f600}', reason: 'x' },
      ...ups(5, 7),
    ])
    const whole = readFileSync(path)
    const change = fc.record({
      at: fc.nat(whole.length - 1),
      byte: fc.nat(255),
      how: fc.constantFrom('set', 'add', 'cut'),
    })
    await fc.assert(
      fc.asyncProperty(change, async ({ at, byte, how }) => {
        const added = how === 'cut' ? [] : [byte]
        const rest = whole.subarray(how === 'add' ? at : at + 1)
        const changed = Buffer.concat([whole.subarray(0, at), Buffer.from(added), rest])
        fc.pre(!changed.equals(whole))
        writeFileSync(path, changed)
        expect((await verifyAudit(path)).problem).toBeDefined()
      }),
      { numRuns: 400 },
    )
  })

  test('in a file that was set aside is found out', async () => {
    const path = await logPath()
    for (let i = 0; i < 4; i++) await run(path, ups(10, i * 10), { maxBytes: 1_000 })
    changeLine(`${path}.20`, 3, (line) => [line.replace('conn.up', 'conn.xx')])
    expect((await verifyAudit(path)).problem).toMatchObject({ file: `${path}.20`, line: 5 })
    rmSync(`${path}.20`)
    expect((await verifyAudit(path)).problem).toMatchObject({
      file: `${path}.30`,
      line: 1,
      why: expect.stringMatching(/11 to 20/),
    })
  })

  test('that does not exist cannot be checked', async () => {
    await expect(verifyAudit(await logPath())).rejects.toMatchObject({ code: 'USAGE' })
  })
})
