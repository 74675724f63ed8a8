import { describe, expect, test } from 'vitest'
import type { PolicyTestResult } from '../../src/daemon/policy-protocol.ts'
import { runFake as run } from './fake-context.ts'

const id = 'spiffe://acme.example/ci/7'
const asked = ['policy', 'test', '--id', id, '--action', 'request', '--service', 'red']
const answer = { apiVersion: 'nsm/policy-test/v1', id, action: 'request', service: 'red', path: '/p.yaml' } as const

describe('policy test', () => {
  const cases: [string, Omit<PolicyTestResult, keyof typeof answer>, number, string][] = [
    ['a grant', { isGranted: true, grant: 'ci-red', line: 4 }, 0, 'granted by ci-red, /p.yaml line 4'],
    ['a server', { isGranted: true }, 0, 'granted: a server of this network'],
    ['a denial', { isGranted: false, reason: 'DENIED', line: 9 }, 5, 'refused: DENIED, /p.yaml line 9'],
    ['no grant', { isGranted: false, reason: 'NOT_GRANTED' }, 5, 'refused: NOT_GRANTED, nothing in /p.yaml grants it'],
  ]
  test.each(cases)('shows %s and its line, and ends with the code of the decision', async (_what, said, code, text) => {
    const policyTest = { ...answer, ...said }
    const shown = await run(asked, { policyTest })
    expect([shown.exitCode, shown.out]).toEqual([code, text])
    const json = await run([...asked, '--json'], { policyTest })
    expect([json.exitCode, JSON.parse(json.out)]).toEqual([code, policyTest])
  })

  test('asks the running server, or a file', async () => {
    expect((await run(asked)).call('testPolicy')).toEqual({ id, action: 'request', service: 'red' })
    expect((await run([...asked, '--policy', 'p.yaml'])).call('testPolicy')).toMatchObject({ path: 'p.yaml' })
    expect((await run(asked.slice(0, -2))).call('testPolicy')).toEqual({ id, action: 'request' })
  })

  test.each([[['policy', 'test']], [['policy', 'test', '--id', id]], [['policy', 'test', '--action', 'find']]])(
    'refuses %j, which asks nothing',
    async (argv) => expect((await run(argv)).exitCode).toBe(2),
  )
})

describe('serve', () => {
  test.each([
    ['a policy', ['--policy', 'policy.yaml'], 1],
    ['a file of issuers', ['--issuers', 'issuers.yaml'], 1],
    ['neither', [], 0],
  ])('with %s takes SIGHUP as the order to read again: %j', async (_what, flags, hangups) => {
    let reloads = 0
    const handle = { joinString: 'nsm://x', failed: new Promise<never>(() => {}), stop: async () => {} }
    const serve = { ...handle, reload: async () => void reloads++ }
    const { recorded } = await run(['serve', ...flags], { serve, signal: AbortSignal.abort() })
    for (const hangup of recorded.hangups) hangup()
    expect([recorded.hangups.length, reloads]).toEqual([hangups, hangups])
  })

  test('passes the path of a policy on', async () => {
    const { call } = await run(['serve', '--policy', '/etc/policy.yaml'], { signal: AbortSignal.abort() })
    expect(call('serve')).toMatchObject({ policyPath: '/etc/policy.yaml' })
  })
})

describe('policy check', () => {
  test('counts what a file says', async () => {
    const { exitCode, out, call } = await run(['policy', 'check', 'p.yaml'])
    expect([exitCode, out, call('checkPolicy')]).toEqual([0, '/p.yaml: domains 1, grants 2, denies 3', 'p.yaml'])
  })

  test('of a server whose file is not in force ends with NOT_READY (3) and says why', async () => {
    const error = '/p.yaml line 3: admission lacks default'
    const { exitCode, out } = await run(['policy', 'check'], { policyCheck: { error } })
    expect([exitCode, out]).toEqual([3, expect.stringContaining(`not in force: ${error}`)])
  })
})
