import { expect, onTestFinished, test } from 'vitest'
import { toNsmError } from '../../src/base/errors.ts'
import { openJoinTokens } from '../../src/nsm/join-tokens.ts'

const hourMs = 3_600_000
const startMs = Date.UTC(2026, 10, 21, 12)
const spiffeId = 'spiffe://test.internal/member/anna'
const [key, otherKey] = [Uint8Array.of(1), Uint8Array.of(2)]

function tokens() {
  const opened = openJoinTokens(':memory:')
  onTestFinished(() => opened.close())
  const redeem = (token: string, nowMs: number, publicKey = key) => {
    try {
      return opened.redeem(token, { publicKey, nowMs })
    } catch (error) {
      return toNsmError(error).message.replace(/.*\((\w+)\)$/, '$1')
    }
  }
  return { redeem, create: (expiresMs: number) => opened.create({ spiffeId, expiresMs }) }
}

test('a token gives its ID to one key, as often as that asks before it expires', () => {
  const { create, redeem } = tokens()
  const token = create(startMs + hourMs)
  expect([redeem(token, startMs), redeem(token, startMs + hourMs - 1)]).toEqual([spiffeId, spiffeId])
  expect([redeem(token, startMs, otherKey), redeem(token, startMs + hourMs)]).toEqual(['TOKEN_REUSED', 'TOKEN_EXPIRED'])
  expect(redeem('x', startMs)).toBe('TOKEN_UNKNOWN')
})

test('a token is told apart from a made-up one for a day after its end, and forgotten an hour later', () => {
  const { create, redeem } = tokens()
  const token = create(startMs)
  const fresh = create(startMs + 100 * hourMs)
  const lateMs = startMs + 24 * hourMs
  expect(redeem(token, lateMs)).toBe('TOKEN_EXPIRED')
  expect(redeem(token, lateMs + hourMs)).toBe('TOKEN_UNKNOWN')
  expect(redeem(fresh, lateMs + hourMs)).toBe(spiffeId)
})
