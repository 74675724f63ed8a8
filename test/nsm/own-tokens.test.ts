import { describe, expect, test } from 'vitest'
import type { Svid } from '../../src/identity/source.ts'
import { decodeToken, verifyToken } from '../../src/identity/token.ts'
import { createOwnTokens } from '../../src/nsm/own-tokens.ts'
import { authorityOf, identityOf } from '../identity/fixtures.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const authority = authorityOf('a.example')
const { svid } = identityOf(authority, '/server')
const startMs = Math.floor(svid.notAfterMs / 1000) * 1000 - 10_000_000
const leafOf = (one: Svid) => one.chain[0] ?? new Uint8Array()

/** Own tokens over a clock that a test moves and an SVID that it replaces. */
function open({ endMs, ahead = 0 }: { readonly endMs?: number; readonly ahead?: number } = {}) {
  const clock = createFakeClock(startMs + ahead)
  const own = { svid }
  return {
    clock,
    own,
    tokenFor: createOwnTokens({ svid: () => own.svid, clock, ...(endMs !== undefined && { endMs }) }),
  }
}

describe('own tokens', () => {
  test('are given again for 5 s and then signed anew, each verifying with the certificate', async () => {
    const { clock, tokenFor } = open()
    const first = tokenFor('spiffe://a.example/peer')
    await clock.advance(4_999)
    expect(tokenFor('spiffe://a.example/peer')).toBe(first)
    await clock.advance(1)
    const fresh = tokenFor('spiffe://a.example/peer')
    expect([fresh.expiresMs - first.expiresMs, fresh.token === first.token]).toEqual([5_000, false])
    expect([first, fresh].map(({ token }) => verifyToken(token, leafOf(svid)))).toEqual([true, true])
  })

  test('are for their audience only, however many audiences ask', () => {
    const { tokenFor } = open()
    const audiences = Array.from({ length: 30 }, (_, i) => `spiffe://a.example/${i % 20}`)
    for (const audience of audiences) expect(decodeToken(tokenFor(audience).token).aud).toEqual([audience])
  })

  test('are signed by the new SVID at once when it was renewed', () => {
    const { own, tokenFor } = open()
    const before = tokenFor('spiffe://a.example/peer')
    own.svid = identityOf(authority, '/server').svid
    const after = tokenFor('spiffe://a.example/peer')
    expect([before, after].map(({ token }) => verifyToken(token, leafOf(own.svid)))).toEqual([false, true])
    own.svid = svid
    expect(verifyToken(tokenFor('spiffe://a.example/peer').token, leafOf(svid))).toBe(true)
  })

  test.each([
    ['the given end', { endMs: startMs + 60_000 }, startMs + 60_000],
    ['the end of the SVID', { ahead: 9_700_000 }, startMs + 10_000_000],
    ['ten minutes', {}, startMs + 600_000],
  ])('end with %s when that comes first', (_name, wish, expiresMs) => {
    const given = open(wish).tokenFor('spiffe://a.example/peer')
    expect([given.expiresMs, decodeToken(given.token).expMs]).toEqual([expiresMs, expiresMs])
  })

  test('are signed anew when the clock was set back: nobody gets one that ends too late', async () => {
    const { clock, tokenFor } = open()
    const early = tokenFor('spiffe://a.example/peer')
    await clock.advance(-60_000)
    expect(tokenFor('spiffe://a.example/peer').expiresMs).toBe(early.expiresMs - 60_000)
  })
})
