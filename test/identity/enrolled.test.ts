import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import type { Authority } from '../../src/identity/ca.ts'
import { verifyCsr } from '../../src/identity/csr.ts'
import { type Exchange, enrol, openEnrolled, openEphemeral } from '../../src/identity/enrolled.ts'
import { renewAtMs, retryDelayMs } from '../../src/identity/renewal.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { authorityOf, reasonOf, rejectionOf, temporaryDir } from './fixtures.ts'

const startMs = Date.UTC(2026, 10, 21, 12)
const hourMs = 3_600_000
const spiffeId = 'spiffe://a.example/client/alice'
const serverUrl = 'tcp://192.0.2.1:5001'

interface Bench {
  readonly clock: FakeClock
  readonly authority: Authority
  readonly statePath: string
  readonly issue: Exchange
}

function bench(): Bench {
  const clock = createFakeClock(startMs)
  const authority = authorityOf('a.example', clock)
  const issue: Exchange = async (csr) => authority.issueForKey({ ...verifyCsr(csr), spiffeId, ttlMs: hourMs })
  return { clock, authority, statePath: join(temporaryDir(), 'state', 'identity.json'), issue }
}

async function enrolled(at: Bench, renew: Exchange = at.issue) {
  await enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange: at.issue })
  return reopened(at, renew)
}

async function reopened({ statePath, clock }: Bench, renew: Exchange) {
  const source = await openEnrolled({ statePath, clock, log: silentLog, renew, jitter: () => 0.5 })
  if (!source) throw new NsmError('BUG', 'nothing stored', '')
  onTestFinished(() => source.close())
  return source
}

describe('enrolment', () => {
  test('stores key, chain, bundles and server so that only the owner reads them', async () => {
    const at = bench()
    const source = await enrolled(at)
    const { svid, bundles } = source.current()
    expect([svid.spiffeId, source.serverUrl]).toEqual([spiffeId, serverUrl])
    expect(bundles).toEqual(new Map([['a.example', [Buffer.from(at.authority.rootDer)]]]))
    expect(statSync(at.statePath).mode & 0o777).toBe(0o600)
    expect(statSync(join(at.statePath, '..')).mode & 0o777).toBe(0o700)
  })

  test('is nothing on a machine that never enrolled', async () => {
    const { statePath, clock, issue } = bench()
    expect(await openEnrolled({ statePath, clock, log: silentLog, renew: issue })).toBe(undefined)
  })

  test('sends a request and never the key', async () => {
    const at = bench()
    const sent: Uint8Array[] = []
    const exchange: Exchange = (csr, signal) => {
      sent.push(csr)
      return at.issue(csr, signal)
    }
    const { svid } = await enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange })
    const secret = Buffer.from(svid.privateKey.export({ format: 'jwk' }).d ?? '', 'base64url')
    expect([sent.length, Buffer.concat(sent).includes(secret)]).toEqual([1, false])
  })

  test.each([
    ['a chain for another key', async (at: Bench) => (await other(at)).chain, 'KEY_MISMATCH'],
    ['no chain', async () => [], 'SVID_NO_ID'],
    ['another authority', async () => authorityChain(), 'SVID_UNTRUSTED'],
  ])('refuses an answer with %s and stores nothing', async (_name, chainOf, reason) => {
    const at = bench()
    const exchange: Exchange = async (csr, signal) => ({ ...(await at.issue(csr, signal)), chain: await chainOf(at) })
    expect(await rejectionOf(enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange }))).toBe(reason)
    expect(await openEnrolled({ statePath: at.statePath, clock: at.clock, log: silentLog, renew: at.issue })).toBe(
      undefined,
    )
  })

  test('refuses an answer that says another ID than its certificate', async () => {
    const at = bench()
    const exchange: Exchange = async (csr, signal) => ({ ...(await at.issue(csr, signal)), spiffeId: `${spiffeId}x` })
    expect(await rejectionOf(enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange }))).toBe(
      'SVID_UNEXPECTED',
    )
  })

  test('holds the server to the domain and the pin of the join string', async () => {
    const { statePath, clock, issue, authority } = bench()
    const settings = { statePath, serverUrl, clock, exchange: issue }
    const pin = authority.rootSpkiPin
    const stranger = authorityOf('a.example', clock).rootSpkiPin
    expect(await rejectionOf(enrol({ ...settings, expect: { trustDomain: 'b.example', pin } }))).toBe('PIN_MISMATCH')
    expect(await rejectionOf(enrol({ ...settings, expect: { trustDomain: 'a.example', pin: stranger } }))).toBe(
      'PIN_MISMATCH',
    )
    expect(await rejectionOf(enrol({ ...settings, expect: { trustDomain: 'a.example', pin } }))).toBe('nothing')
  })

  test('in memory is renewed at half life as well, and writes no file', async () => {
    const { statePath, clock, issue, authority } = bench()
    const wanted = { trustDomain: 'a.example', pin: authority.rootSpkiPin }
    const settings = { serverUrl, clock, log: silentLog, exchange: issue, renew: issue, jitter: () => 0.5 }
    const source = await openEphemeral({ ...settings, expect: wanted })
    onTestFinished(() => source.close())
    const first = source.current().svid
    await clock.advance(hourMs / 2)
    await expect.poll(() => source.current().svid.notAfterMs).toBeGreaterThan(first.notAfterMs)
    expect(source.current().svid.spiffeId).toBe(spiffeId)
    expect(existsSync(join(statePath, '..'))).toBe(false)
    const stranger = { ...wanted, trustDomain: 'b.example' }
    expect(await rejectionOf(openEphemeral({ ...settings, expect: stranger }))).toBe('PIN_MISMATCH')
  })

  test('of a file that others may write is refused, and one that is damaged too', async () => {
    const at = bench()
    await (await enrolled(at)).close()
    const good = readFileSync(at.statePath, 'utf8')
    for (const text of [
      '',
      'null',
      '{}',
      good.slice(0, -20),
      good.replace('"version": 1', '"version": 2'),
      good.replace(/"chain": \[\n\s+"..../, '"chain": ["'),
    ]) {
      writeFileSync(at.statePath, text)
      expect(await rejectionOf(reopened(at, at.issue))).toBe('STATE_INVALID')
    }
    writeFileSync(at.statePath, good)
    chmodSync(at.statePath, 0o622)
    expect(await rejectionOf(reopened(at, at.issue))).toBe('PERMISSION')
  })
})

describe('enrolled identity', () => {
  test('is renewed at half life with a new key, tells its listeners, and survives a restart', async () => {
    const at = bench()
    const source = await enrolled(at)
    const first = source.current().svid
    const seen: string[] = []
    source.onChange(({ svid }) => void seen.push(svid.spiffeId))
    await at.clock.advance(renewAtMs(first, 0.5) - startMs - 1)
    expect(source.current().svid).toBe(first)
    await at.clock.advance(1)
    await expect.poll(() => source.current().svid === first).toBe(false)
    const second = source.current().svid
    expect(second.privateKey.equals(first.privateKey)).toBe(false)
    expect(second.notAfterMs).toBeGreaterThan(first.notAfterMs)
    expect(seen).toEqual([spiffeId])
    await source.close()
    const again = await reopened(at, at.issue)
    expect(again.current().svid.privateKey.equals(second.privateKey)).toBe(true)
  })

  test('keeps the old SVID and tries again with growing pauses while renewal fails', async () => {
    const at = bench()
    const triedMs: number[] = []
    const failing: Exchange = async () => {
      triedMs.push(at.clock.wallMs())
      throw new NsmError('UNREACHABLE', 'server is away', '')
    }
    const source = await enrolled(at, failing)
    const first = source.current().svid
    await at.clock.advance(renewAtMs(first, 0.5) - startMs + 4 * 60_000)
    const pauses = triedMs.slice(1).map((ms, i) => ms - (triedMs[i] ?? 0))
    expect(pauses.slice(0, 8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((failures) => retryDelayMs(failures, 0.5)))
    expect(source.current().svid).toBe(first)
  })

  test('takes up renewal when the server is back', async () => {
    const at = bench()
    let isAway = true
    const source = await enrolled(at, async (csr, signal) => {
      if (isAway) throw new NsmError('UNREACHABLE', 'server is away', '')
      return at.issue(csr, signal)
    })
    const first = source.current().svid
    await at.clock.advance(renewAtMs(first, 0.5) - startMs + 60_000)
    isAway = false
    await at.clock.advance(60_000)
    await expect.poll(() => source.current().svid === first).toBe(false)
  })

  test('that expires is refused with the way to a new one, and nothing more is asked of the server', async () => {
    const at = bench()
    let calls = 0
    const source = await enrolled(at, async () => {
      calls++
      throw new NsmError('UNREACHABLE', 'server is away', '')
    })
    await at.clock.advance(hourMs)
    const callsAtEnd = calls
    expect(() => source.current()).toThrowError(
      expect.objectContaining({ code: 'IDENTITY', next: expect.stringMatching(/nsm invite.*nsm connect --join/) }),
    )
    await at.clock.advance(hourMs)
    expect(calls).toBe(callsAtEnd)
    expect(at.clock.waiting).toBe(0)
    await source.close()
    const again = await reopened(at, at.issue)
    expect(reasonOf(() => again.current())).toBe('SVID_EXPIRED')
  })

  test('that outlives its SVID is asked for on and on, until nothing speaks for it any more', async () => {
    const at = bench()
    let isAway = true
    let outlives = true
    let calls = 0
    const renew: Exchange = async (csr, signal) => {
      calls++
      if (isAway) throw new NsmError('UNREACHABLE', 'the issuer is away', '')
      return at.issue(csr, signal)
    }
    await enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange: at.issue })
    const source = await openEnrolled({
      ...{ statePath: at.statePath, clock: at.clock, log: silentLog, renew, jitter: () => 0.5 },
      outlives: async () => outlives,
    })
    onTestFinished(() => source?.close())
    await at.clock.advance(3 * hourMs)
    expect(reasonOf(() => source?.current())).toBe('SVID_EXPIRED')
    isAway = false
    await at.clock.advance(60_000)
    await expect.poll(() => source?.current().svid.spiffeId).toBe(spiffeId)
    // Half an hour until the first attempt, then one each 45 s at this jitter.
    expect(calls).toBeLessThan(220)
    isAway = true
    outlives = false
    await at.clock.advance(3 * hourMs)
    const callsAtEnd = calls
    await at.clock.advance(hourMs)
    expect([calls, at.clock.waiting]).toEqual([callsAtEnd, 0])
  })

  test('whose authority ends it at a fixed time is not asked for without a pause before that', async () => {
    const at = bench()
    const endMs = startMs + 2 * hourMs
    const askedMs: number[] = []
    const renew: Exchange = async (csr) => {
      const nowMs = at.clock.wallMs()
      askedMs.push(nowMs)
      if (nowMs >= endMs) throw new NsmError('IDENTITY', 'the session is over (SESSION_ENDED)', '')
      return at.authority.issueForKey({ ...verifyCsr(csr), spiffeId, ttlMs: Math.min(hourMs, endMs - nowMs) })
    }
    const settings = { serverUrl, clock: at.clock, log: silentLog, exchange: at.issue, renew, jitter: () => 0.5 }
    const source = await openEphemeral(settings)
    onTestFinished(() => source.close())
    for (let minute = 0; minute < 119; minute++) await at.clock.advance(60_000)
    expect(source.current().svid.notAfterMs).toBe(endMs)
    for (let second = 0; second < 60; second++) await at.clock.advance(1_000)
    const pauses = askedMs.slice(1).map((ms, index) => ms - (askedMs[index] ?? 0))
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(1_000)
    expect(askedMs.length).toBeLessThan(30)
  })

  test('is renewed when the machine slept past half life, at the next look at the wall clock', async () => {
    const at = bench()
    let sleptMs = 0
    const clock = { ...at.clock, wallMs: () => at.clock.wallMs() + sleptMs, after: at.clock.after }
    await enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange: at.issue })
    const source = await openEnrolled({
      statePath: at.statePath,
      clock,
      log: silentLog,
      renew: at.issue,
      jitter: () => 0.5,
    })
    onTestFinished(() => source?.close())
    const first = source?.current().svid
    sleptMs = 45 * 60_000
    await at.clock.advance(30_000)
    await expect.poll(() => source?.current().svid === first).toBe(false)
  })

  test('refuses a renewal under another ID', async () => {
    const at = bench()
    const source = await enrolled(at, async (csr) =>
      at.authority.issueForKey({ ...verifyCsr(csr), spiffeId: `${spiffeId}2`, ttlMs: hourMs }),
    )
    const first = source.current().svid
    await at.clock.advance(40 * 60_000)
    expect(source.current().svid).toBe(first)
  })

  test('stores new bundles, and refuses some without its own domain', async () => {
    const at = bench()
    const source = await enrolled(at)
    const federated = authorityOf('b.example', at.clock)
    await source.updateBundles(new Map([...at.authority.bundles, ...federated.bundles]))
    expect([...source.current().bundles.keys()]).toEqual(['a.example', 'b.example'])
    expect(await rejectionOf(source.updateBundles(federated.bundles))).toBe('SVID_UNKNOWN_DOMAIN')
    await source.close()
    expect([...(await reopened(at, at.issue)).current().bundles.keys()]).toEqual(['a.example', 'b.example'])
  })

  test('asks its server by the pin of the newest root, and knows the pins of all that it believes', async () => {
    const at = bench()
    const pinned = `nsm://192.0.2.1:5001/?td=a.example&pin=${at.authority.rootSpkiPin}`
    await enrol({ statePath: at.statePath, serverUrl: pinned, clock: at.clock, exchange: at.issue })
    const source = await reopened(at, at.issue)
    const old = at.authority.rootSpkiPin
    await at.authority.rotation.begin(0)
    await source.updateBundles(at.authority.bundles)
    expect(source.serverUrl).toBe(pinned)
    await at.clock.advance(1)
    await expect.poll(() => at.authority.rotation.view().phase).toBe('issuing')
    await source.updateBundles(at.authority.bundles)
    const fresh = at.authority.rootSpkiPin
    expect(source.serverUrl).toBe(pinned.replace(old, fresh))
    expect([old, fresh, 'sha256-x'].map((pin) => source.isPinned(pin))).toEqual([true, true, false])
    await at.clock.advance(300_000)
    await at.authority.rotation.finish()
    await source.updateBundles(at.authority.bundles)
    expect([old, fresh].map((pin) => source.isPinned(pin))).toEqual([false, true])
    await source.close()
    expect((await reopened(at, at.issue)).serverUrl).toBe(pinned.replace(old, fresh))
  })

  test('says to join again when its root was dropped before it renewed, and takes a token of the new root', async () => {
    const at = bench()
    const source = await enrolled(at, async () => {
      throw new NsmError('UNREACHABLE', 'the server is away', '')
    })
    const join = (token?: string) => ({ pin: at.authority.rootSpkiPin, ...(token === undefined ? {} : { token }) })
    expect([source.isFrom(join()), source.isFrom(join('t'))]).toEqual([true, true])
    await at.authority.rotation.begin(0)
    await at.clock.advance(1)
    await expect.poll(() => at.authority.rotation.view().phase).toBe('issuing')
    await source.updateBundles(at.authority.bundles)
    expect(source.current().svid.spiffeId).toBe(spiffeId)
    expect([source.isFrom(join()), source.isFrom(join('t'))]).toEqual([true, false])
    await at.clock.advance(300_000)
    await at.authority.rotation.finish()
    await source.updateBundles(at.authority.bundles)
    expect(await rejectionOf(Promise.resolve().then(() => source.current()))).toBe('SVID_UNTRUSTED')
    await source.close()
    const again = await reopened(at, at.issue)
    expect(() => again.current()).toThrow('was dropped before this machine renewed')
    expect(again.isFrom(join('t'))).toBe(false)
  })

  test('renews within half a minute when its root is not the one that signs', async () => {
    const at = bench()
    const source = await enrolled(at)
    const { svid } = source.current()
    await at.authority.rotation.begin(0)
    await source.updateBundles(at.authority.bundles)
    await at.clock.advance(30_000)
    expect(source.current().svid).toBe(svid)
    await source.updateBundles(at.authority.bundles)
    await at.clock.advance(30_000)
    await expect.poll(() => source.current().svid === svid).toBe(false)
    expect(source.current().svid.chain).toHaveLength(3)
  })

  test('is renewed once more when the authority got a new root while a renewal was under way', async () => {
    const at = bench()
    const { promise: asked, resolve: isAsked } = Promise.withResolvers<void>()
    const { promise: held, resolve: letAnswer } = Promise.withResolvers<void>()
    let calls = 0
    const source = await enrolled(at, async (csr, signal) => {
      calls++
      if (calls > 1) return at.issue(csr, signal)
      const issued = await at.issue(csr, signal)
      isAsked()
      await held
      return issued
    })
    await at.clock.advance(31 * 60_000)
    await asked
    await at.authority.rotation.begin(0)
    await at.clock.advance(1)
    await expect.poll(() => at.authority.rotation.view().phase).toBe('issuing')
    await source.updateBundles(at.authority.bundles)
    const first = source.current().svid
    letAnswer()
    await expect.poll(() => source.current().svid === first).toBe(false)
    await at.clock.advance(30_000)
    await expect.poll(() => [calls, source.current().svid.chain.length]).toEqual([2, 3])
  })

  test('is asked for again when nobody can tell whether something outlives it', async () => {
    const at = bench()
    let isReadable = true
    let calls = 0
    await enrol({ statePath: at.statePath, serverUrl, clock: at.clock, exchange: at.issue })
    const source = await openEnrolled({
      ...{ statePath: at.statePath, clock: at.clock, log: silentLog, jitter: () => 0.5 },
      renew: async (csr, signal) => {
        if (++calls < 200) throw new NsmError('UNREACHABLE', 'the issuer is away', '')
        return at.issue(csr, signal)
      },
      outlives: async () => {
        if (isReadable) return true
        throw new NsmError('PERMISSION', 'the record may be written by others', '')
      },
    })
    onTestFinished(() => source?.close())
    await at.clock.advance(61 * 60_000)
    isReadable = false
    const callsBefore = calls
    await at.clock.advance(5 * 60_000)
    expect(calls).toBe(callsBefore)
    isReadable = true
    calls = 200
    await at.clock.advance(60_000)
    await expect.poll(() => source?.current().svid.spiffeId).toBe(spiffeId)
  })

  test('ends a renewal under way when it is closed, and leaves no timer', async () => {
    const at = bench()
    const ended: boolean[] = []
    const source = await enrolled(
      at,
      (_csr, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            ended.push(true)
            reject(signal.reason)
          })
        }),
    )
    await at.clock.advance(40 * 60_000)
    await source.close()
    expect([ended, at.clock.waiting]).toEqual([[true], 0])
  })
})

describe('renewal times', () => {
  test.each([
    [0, 45],
    [0.5, 50],
    [1, 55],
  ])('with jitter %d are at %d percent of life', (jitter, percent) => {
    expect(renewAtMs({ notBeforeMs: 0, notAfterMs: 100 }, jitter)).toBeCloseTo(percent)
  })

  test('after failures double up to a minute', () => {
    expect([1, 2, 3, 6, 7, 8, 50].map((failures) => retryDelayMs(failures, 1))).toEqual([
      1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000,
    ])
    expect(retryDelayMs(1, 0)).toBe(500)
  })
})

/** A chain of the right authority for somebody else's key. */
async function other(at: Bench) {
  return enrol({ statePath: join(temporaryDir(), 'x', 'y'), serverUrl, clock: at.clock, exchange: at.issue }).then(
    ({ svid }) => svid,
  )
}

async function authorityChain(): Promise<readonly Uint8Array[]> {
  const stranger = bench()
  return (await other(stranger)).chain
}
