import { describe, expect, test } from 'vitest'
import { createInviter, type Invitation } from '../../src/daemon/inviter.ts'
import { createAuthority } from '../../src/identity/ca.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const minuteMs = 60_000
const dayMs = 86_400_000

function start() {
  const clock = createFakeClock()
  const authority = createAuthority({ trustDomain: 'mesh.internal', clock })
  const made: { spiffeId: string; expiresMs: number }[] = []
  const tokens = {
    create(wanted: { readonly spiffeId: string; readonly expiresMs: number }) {
      made.push(wanted)
      return `token-${made.length}-${'x'.repeat(32)}`
    },
  }
  let reachedAt = { address: '192.0.2.1', port: 5_001 }
  const inviter = createInviter({ authority, tokens, reachedAt: () => reachedAt, clock })
  const move = (address: string) => {
    reachedAt = { address, port: 5_001 }
  }
  return {
    ...{ clock, authority, made, move },
    invite: (change: Partial<Invitation> = {}) => inviter.invite({ ttlMs: minuteMs, ...change }),
  }
}

describe('an invitation', () => {
  test('names server, domain and root key, and carries a token of its own', () => {
    const { invite, authority, clock, made } = start()
    const { joinString, expiresMs, spiffeId } = invite()
    const parsed = parseJoinString(joinString)
    expect(parsed).toMatchObject({
      address: '192.0.2.1',
      port: 5_001,
      trustDomain: 'mesh.internal',
      pin: authority.rootSpkiPin,
    })
    expect(expiresMs).toBe(clock.wallMs() + minuteMs)
    expect(made).toEqual([{ spiffeId, expiresMs }])
    expect(parseJoinString(invite().joinString).token).not.toBe(parsed.token)
  })

  test('names the server as it is reached at that moment', () => {
    const { invite, move } = start()
    move('198.51.100.7')
    expect(parseJoinString(invite().joinString).address).toBe('198.51.100.7')
  })

  test('makes up an ID that nobody has', () => {
    const { invite } = start()
    const ids = Array.from({ length: 20 }, () => invite().spiffeId)
    for (const id of ids) expect(id).toMatch(/^spiffe:\/\/mesh\.internal\/member\/[0-9a-f]{16}$/)
    expect(new Set(ids).size).toBe(20)
  })

  test.each([
    ['/laptop/alice', 'spiffe://mesh.internal/laptop/alice'],
    ['laptop', 'spiffe://mesh.internal/laptop'],
    ['spiffe://mesh.internal/a.b_c-d', 'spiffe://mesh.internal/a.b_c-d'],
    ['/sites', 'spiffe://mesh.internal/sites'],
  ])('takes %s as an ID', (id, spiffeId) => {
    expect(start().invite({ id }).spiffeId).toBe(spiffeId)
  })

  test.each([
    '',
    '/',
    '/server',
    '/site',
    '/site/west',
    'spiffe://other.internal/a',
    'spiffe://mesh.internal',
    '/a b',
    '/a//b',
    '/../a',
    '/ä',
  ])('does not let a member be %j', (id) => {
    const { invite, made } = start()
    expect(() => invite({ id })).toThrow(expect.objectContaining({ code: 'USAGE' }))
    expect(made).toEqual([])
  })

  test.each([
    ['berlin-2', 'spiffe://mesh.internal/site/berlin-2'],
    ['spiffe://mesh.internal/site/west', 'spiffe://mesh.internal/site/west'],
    ['x'.repeat(32), `spiffe://mesh.internal/site/${'x'.repeat(32)}`],
  ])('of a site takes the name %s', (id, spiffeId) => {
    expect(start().invite({ id, endpoint: true }).spiffeId).toBe(spiffeId)
  })

  test.each(['', 'West', 'a.b', '-a', 'a-', 'a/b', 'x'.repeat(33), '/server'])(
    'of a site refuses the name %j',
    (id) => {
      expect(() => start().invite({ id, endpoint: true })).toThrow(expect.objectContaining({ code: 'USAGE' }))
    },
  )

  test.each([0, -1, Number.NaN, dayMs + 1, Number.POSITIVE_INFINITY])('of %d ms is none', (ttlMs) => {
    expect(() => start().invite({ ttlMs })).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })

  test('lives a day at the most', () => {
    expect(() => start().invite({ ttlMs: dayMs })).not.toThrow()
  })
})
