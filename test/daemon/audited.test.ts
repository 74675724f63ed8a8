import { createPublicKey } from 'node:crypto'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { auditedLogin } from '../../src/daemon/audited-login.ts'
import { startRpcServer } from '../../src/daemon/rpc-server.ts'
import { createAuthority } from '../../src/identity/ca.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { refusal } from '../../src/identity/refusal.ts'
import { startRenewal } from '../../src/identity/renewal.ts'
import type { Svid } from '../../src/identity/source.ts'
import { stateFromIssued } from '../../src/identity/svid.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { scratchDir } from '../support/scratch.ts'

function recorder() {
  const events: AuditEvent[] = []
  return { events, audit: { record: (event: AuditEvent) => void events.push(event) } }
}

describe('a login', () => {
  test('is on record with who it made', async () => {
    const { events, audit } = recorder()
    const made = await auditedLogin(
      { audit, trustDomain: 'a.example' },
      async () => 'spiffe://a.example/anna',
      (id) => id,
    )
    expect(made).toBe('spiffe://a.example/anna')
    expect(events).toEqual([{ event: 'login.ok', id: made, trustDomain: 'a.example' }])
  })

  test.each([
    [refusal('PIN_MISMATCH', 'another root'), 'PIN_MISMATCH'],
    [new NsmError('REFUSED', 'used already (TOKEN_REUSED)', 'ask'), 'TOKEN_REUSED'],
    [new NsmError('UNREACHABLE', 'no answer', 'wait'), 'UNREACHABLE'],
    [new TypeError('x'), 'BUG'],
  ])('that fails is on record with its reason: %s', async (error, reason) => {
    const { events, audit } = recorder()
    const failing = auditedLogin({ audit, trustDomain: 'a.example' }, () => Promise.reject(error), String)
    await expect(failing).rejects.toBe(error)
    expect(events).toEqual([{ event: 'login.fail', trustDomain: 'a.example', reason }])
  })
})

describe('the renewal of an identity', () => {
  const start = (renew: (svid: Svid) => Promise<Svid>) => {
    const clock = createFakeClock()
    const authority = createAuthority({ trustDomain: 'a.example', clock })
    const issue = () => {
      const key = generateKey()
      const wanted = { publicKey: createPublicKey(key), spiffeId: 'spiffe://a.example/anna', ttlMs: 3_600_000 }
      return stateFromIssued(authority.issueForKey(wanted), key, clock.wallMs()).svid
    }
    const { events, audit } = recorder()
    const parts = { svid: issue(), clock, log: silentLog, audit, jitter: () => 0.5 }
    const renewal = startRenewal({ ...parts, renew: async () => renew(issue()) })
    onTestFinished(() => renewal.close())
    return { clock, events }
  }
  const id = 'spiffe://a.example/anna'

  test('is on record each time', async () => {
    const { clock, events } = start(async (svid) => svid)
    await clock.advance(3_600_000)
    const expires = expect.stringMatching(/Z$/)
    expect(events).toEqual([
      { event: 'svid.rotated', id, expires },
      { event: 'svid.rotated', id, expires },
    ])
  })

  test('that fails is news when a third of the life is left, and its end is', async () => {
    const { clock, events } = start(() => Promise.reject(new NsmError('UNREACHABLE', 'away', 'wait')))
    await clock.advance(2_300_000)
    expect(events).toEqual([])
    await clock.advance(1_400_000)
    expect(events[0]).toEqual({ event: 'svid.expiring', id, reason: 'UNREACHABLE' })
    expect(events.at(-1)).toEqual({ event: 'svid.expired', id })
  })
})

test('a call of another user at the socket is on record with the user and what was wanted', async () => {
  const { events, audit } = recorder()
  const path = join(await scratchDir(), 'nsm.sock')
  const credentialsOf = () => ({ pid: 1, uid: 65_534, gid: 65_534 })
  const methods = { connect: async () => ({}) }
  const parts = { path, methods, guarded: ['connect'], clock: systemClock, log: silentLog, audit, credentialsOf }
  const server = await startRpcServer(parts)
  onTestFinished(() => server.close())
  const socket = connect(path)
  socket.write('{"id":1,"method":"connect","params":{"joinString":"nsm://x?jt=canary"}}\n')
  await new Promise((resolve) => socket.once('data', resolve))
  socket.destroy()
  expect(events).toEqual([{ event: 'socket.deny', uid: 65_534, method: 'connect' }])
})
