import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { runCommandLine } from '../../src/commands/main.ts'
import { openAuditFile } from '../../src/daemon/audit-file.ts'
import { auditEventText } from '../../src/ui/audit-text.ts'
import { scratchDir } from '../support/scratch.ts'
import { fakeContext } from './fake-context.ts'

const up: AuditEvent = { event: 'conn.up', id: 'spiffe://a.example/laptop', service: 'blue', address: '10.64.0.2/32' }
const deny: AuditEvent = { event: 'exchange.deny', reason: 'TOKEN_REUSED', address: '192.0.2.9' }

async function write(path: string, events: readonly AuditEvent[]): Promise<void> {
  const audit = openAuditFile({ path, clock: systemClock, log: silentLog })
  for (const event of events) audit.record(event)
  await audit.close()
}

/** A state folder with the log of a server and one of a background process. */
async function stateDir(): Promise<string> {
  const dir = await scratchDir()
  await write(join(dir, 'serve-audit.jsonl'), [deny, up])
  await write(join(dir, 'audit.jsonl'), [{ event: 'login.ok', id: 'spiffe://a.example/laptop' }])
  return dir
}

async function nsm(dir: string, ...args: string[]) {
  const { context, recorded } = fakeContext({})
  const settings = { ...context.settings, stateDir: dir }
  const exitCode = await runCommandLine(['audit', ...args], { ...context, settings })
  return { exitCode, out: recorded.out.join('\n'), err: recorded.err.join('\n') }
}

describe('nsm audit', () => {
  test('shows the events of both logs in their order, one on a line', async () => {
    const { exitCode, out } = await nsm(await stateDir())
    expect(exitCode).toBe(0)
    const lines = out.split('\n')
    expect(lines).toHaveLength(3)
    expect(lines[0]).toMatch(/^\d{4}-\S+Z {2}exchange\.deny {2}- {2}reason="TOKEN_REUSED" {2}address="192\.0\.2\.9"$/)
    expect(lines[1]).toContain('conn.up  spiffe://a.example/laptop  service="blue"')
  })

  test('shows the last ones only when it is told how many', async () => {
    const { out } = await nsm(await stateDir(), '--last', '1', '--json')
    expect(JSON.parse(out)).toMatchObject({ apiVersion: 'nsm/audit/v1', events: [{ event: 'login.ok', seq: 1 }] })
  })

  test('shows nothing where nothing was recorded', async () => {
    expect(await nsm(await scratchDir())).toEqual({ exitCode: 0, out: '', err: '' })
  })

  test('shows and checks a log that is named', async () => {
    const dir = await stateDir()
    const file = join(dir, 'serve-audit.jsonl')
    expect((await nsm('/nowhere', file)).out.split('\n')).toHaveLength(2)
    expect((await nsm('/nowhere', '--verify', file)).out).toMatch(
      /serve-audit\.jsonl {2}whole {2}lines 1 to 2 {2}head [0-9a-f]{64}$/,
    )
    for (const none of [join(dir, 'none.jsonl'), dir]) {
      expect([(await nsm('/nowhere', none)).exitCode, (await nsm('/nowhere', '--verify', none)).exitCode]).toEqual([
        2, 2,
      ])
    }
  })
})

describe('nsm audit --follow', () => {
  test('shows what comes later, also in the files that follow, until a signal', async () => {
    const dir = await scratchDir()
    const path = join(dir, 'audit.jsonl')
    const ups = (from: number) => Array.from({ length: 6 }, (_, i) => ({ ...up, id: `spiffe://a.example/${from + i}` }))
    await write(path, ups(1))
    const stop = new AbortController()
    const { context, recorded } = fakeContext({ signal: stop.signal })
    const settings = { ...context.settings, stateDir: dir }
    const running = runCommandLine(['audit', '--follow'], { ...context, settings })
    await expect.poll(() => recorded.out.length).toBe(1)
    for (const from of [7, 13]) {
      const audit = openAuditFile({ path, clock: systemClock, log: silentLog, maxBytes: 1_000 })
      for (const event of ups(from)) audit.record(event)
      await audit.close()
      await expect.poll(() => recorded.out.join('\n')).toContain(`a.example/${from + 5} `)
    }
    stop.abort()
    expect(await running).toBe(0)
    const ids = recorded.out.join('\n').match(/a\.example\/\d+/g)
    expect(ids).toEqual(Array.from({ length: 18 }, (_, i) => `a.example/${i + 1}`))
  })

  test('is no document: USAGE (2) with --json', async () => {
    expect((await nsm(await stateDir(), '--follow', '--json')).exitCode).toBe(2)
  })
})

describe('nsm audit --verify', () => {
  test('gives the head of each log, which a later check takes as a witness', async () => {
    const dir = await stateDir()
    const { exitCode, out } = await nsm(dir, '--verify', '--json')
    const { logs } = JSON.parse(out)
    expect([exitCode, logs.length]).toEqual([0, 2])
    const file = join(dir, 'serve-audit.jsonl')
    await write(file, [up])
    expect((await nsm(dir, '--verify', '--witness', logs[0].head, file)).exitCode).toBe(0)
    const wrong = await nsm(dir, '--verify', '--witness', '0'.repeat(64), file)
    expect([wrong.exitCode, wrong.err]).toEqual([3, expect.stringContaining('the witness is no line of it')])
  })

  test('says how often the program itself had something to repair', async () => {
    const dir = await stateDir()
    rmSync(join(dir, 'audit.jsonl.head'))
    await write(join(dir, 'audit.jsonl'), [up])
    const { exitCode, out } = await nsm(dir, '--verify')
    expect(exitCode).toBe(0)
    expect(out).toContain('# 1 line says that something was repaired: nsm audit')
  })

  test('ends with 3 and names the first bad line of a log that was changed', async () => {
    const dir = await stateDir()
    rmSync(join(dir, 'serve-audit.jsonl.head'))
    const { exitCode, err, out } = await nsm(dir, '--verify')
    expect([exitCode, out]).toEqual([3, ''])
    expect(err).toContain('serve-audit.jsonl: its head is missing')
    const json = await nsm(dir, '--verify', '--json')
    expect(JSON.parse(json.out)).toMatchObject({ error: { code: 'NOT_READY' } })
  })

  test('has nothing to check where there is no log: USAGE (2)', async () => {
    expect((await nsm(await scratchDir(), '--verify')).exitCode).toBe(2)
  })

  test('is meant by a witness too', async () => {
    const dir = await stateDir()
    expect((await nsm(dir, '--witness', '0'.repeat(64), join(dir, 'audit.jsonl'))).exitCode).toBe(3)
  })

  test.each([
    ['of which log it is is not said', ['--witness', '0'.repeat(64)], /name its FILE/],
    ['it is no hash', ['--witness', 'abc', 'audit.jsonl'], /64 hexadecimal digits/],
  ])('takes a witness for no proof of a change where %s: USAGE (2)', async (_what, args, text) => {
    const { exitCode, err } = await nsm(await stateDir(), ...args)
    expect([exitCode, err]).toEqual([2, expect.stringMatching(text)])
  })
})

describe('the text of an event', () => {
  test('keeps text of others inside its quotes, on one line', () => {
    const text = auditEventText({ ts: 't', seq: 1, event: 'peer.reject', prev: 'x', service: 'a"\nb  reason="ok' })
    expect(text).toBe('t  peer.reject  -  service="a\\"\\nb  reason=\\"ok"')
  })

  test('of a log that somebody changed steers no terminal', () => {
    const hostile = '\u001b[2K\r\u009b1A\u202e\n'
    const text = auditEventText({ ts: hostile, event: hostile, id: hostile, [hostile]: hostile, more: { a: hostile } })
    expect(text).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
  })
})
