import { describe, expect, test } from 'vitest'
import { caText } from '../../src/ui/ca-text.ts'
import { runFake as run } from './fake-context.ts'

describe('nsm ca rotate', () => {
  test('begins, and says when which root signs', async () => {
    const { out, call } = await run(['ca', 'rotate'])
    expect(call('rotateRoot')).toEqual({ finish: false })
    expect(out).toContain('signs from 2026-01-01T12:20:00.000Z: sha256-two')
  })

  test('passes the time and prints the roots as JSON', async () => {
    const { out, call } = await run(['ca', 'rotate', '--after', '1m30s', '--json'])
    expect(call('rotateRoot')).toEqual({ finish: false, publishMs: 90_000 })
    expect(JSON.parse(out)).toMatchObject({ phase: 'published', roots: [{ pin: 'sha256-one' }, {}] })
  })

  test('ends the change, and says what old join strings are worth', async () => {
    const { out, call } = await run(['ca', 'rotate', '--finish'])
    expect(call('rotateRoot')).toEqual({ finish: true })
    expect(out).toContain('join strings with another pin are refused')
  })

  test.each([
    ['both', ['--finish', '--after', '1m']],
    ['no time', ['--after', 'soon']],
  ])('refuses %s', async (_what, flags) => {
    const { exitCode, recorded } = await run(['ca', 'rotate', ...flags])
    expect([exitCode, recorded.calls]).toEqual([2, []])
  })
})

test('nsm ca status says what comes next, and how it stands with each domain', async () => {
  const { out } = await run(['ca', 'status'])
  expect(out.split('\n')).toEqual([
    'the new root of x signs: sha256-one',
    'the old one is believed until 2026-01-01T12:20:00.000Z, or until `nsm ca rotate --finish`',
    '--finish is refused until 2026-01-01T12:05:00.000Z, because members renew and hold tokens of it',
    'federates with globex.example  https_spiffe  1 root',
    'federates with initech.example  https_web  0 roots; the last attempt failed: no answer in time',
  ])
})

test.each([
  ['issuing', 0, '--finish is refused until 1970-01-01T00:05:00.000Z, because members renew'],
  ['issuing', 300_000, '--finish is allowed'],
  ['published', 300_000, '--finish is refused until 1970-01-01T00:05:00.000Z: the new root is not known'],
  ['steady', 0, 'has one root'],
] as const)('the text of a root that is %s at %i ms says whether it may be finished', (phase, nowMs, said) => {
  const times = phase === 'steady' ? {} : { nextMs: 0, finishMs: 300_000 }
  const roots = ['one', 'two'].map((pin) => ({ pin, notAfterMs: 0 }))
  expect(caText({ trustDomain: 'x', phase, ...times, roots, domains: [] }, nowMs)).toContain(said)
})

test('nsm ca bundle prints the bundle alone', async () => {
  expect((await run(['ca', 'bundle'])).out).toBe('{"keys":[]}')
  expect(JSON.parse((await run(['ca', 'bundle', '--json'])).out)).toEqual({
    apiVersion: 'nsm/ca-bundle/v1',
    bundle: { keys: [] },
  })
})
