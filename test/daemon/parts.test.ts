import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createIdleTimer } from '../../src/daemon/idle-timer.ts'
import { patternOf } from '../../src/daemon/list-services.ts'
import { parseManager } from '../../src/daemon/manager-address.ts'
import type { ConnectRequest, ProgressStep } from '../../src/daemon/protocol.ts'
import { Steps } from '../../src/daemon/steps.ts'
import { serviceNames, wantedServices } from '../../src/daemon/wanted-services.ts'
import { joinLine } from '../../src/identity/join-string.ts'
import { FakeClock } from '../connection/fake-clock.ts'

describe('Steps', () => {
  test('tells each part with the time since the beginning and keeps how long it took', async () => {
    const clock = new FakeClock()
    const told: ProgressStep[] = []
    const steps = new Steps(clock, (step) => told.push(step))
    steps.note({ phase: 'identity', state: 'started' })
    await clock.advance(30)
    steps.note({ phase: 'identity', state: 'done', detail: 'me' })
    steps.note({ phase: 'tunnel', state: 'started', service: 'blue' })
    steps.note({ phase: 'tunnel', state: 'started', service: 'blue' })
    await clock.advance(12)
    steps.note({ phase: 'tunnel', state: 'done', service: 'blue' })
    expect(told.map(({ phase, state, elapsedMs }) => `${phase} ${state} ${elapsedMs}`)).toEqual([
      'identity started 0',
      'identity done 30',
      'tunnel started 30',
      'tunnel done 42',
    ])
    expect(steps.times()).toEqual([
      { phase: 'identity', ms: 30 },
      { phase: 'tunnel', ms: 12 },
    ])
  })

  test('a deadline names the part that is under way and what to do', () => {
    const steps = new Steps(new FakeClock(), () => {})
    steps.note({ phase: 'identity', state: 'started' })
    steps.note({ phase: 'identity', state: 'done' })
    steps.note({ phase: 'tunnel', state: 'started' })
    expect(steps.deadline(20_000)).toMatchObject({ code: 'UNREACHABLE', message: 'tunnel: not done within 20 s' })
    expect(steps.deadline(20_000).next).toContain('UDP')
  })
})

describe('createIdleTimer', () => {
  test('fires after the grace time with all counts at zero, and not when something came', async () => {
    const clock = new FakeClock()
    let idle = 0
    const timer = createIdleTimer({ clock, graceMs: 5_000, onIdle: () => idle++ })
    timer.set('callers', 0)
    await clock.advance(4_999)
    timer.set('connections', 1)
    timer.set('callers', 0)
    await clock.advance(60_000)
    expect(idle).toBe(0)
    timer.set('connections', 0)
    await clock.advance(5_000)
    expect(idle).toBe(1)
  })
})

describe('patternOf', () => {
  test.each([
    ['*', 'anything', true],
    ['blue', 'blue', true],
    ['blue', 'blue2', false],
    ['blue*', 'blue2', true],
    ['*2', 'blue2', true],
    ['b*e*2', 'blue2', true],
    ['b*x*2', 'blue2', false],
    ['ab*ba', 'aba', false],
    ['a*b*b', 'ab', false],
  ])('%s fits %s: %s', (pattern, text, fits) => {
    expect(patternOf(pattern)(text)).toBe(fits)
  })

  test('agrees with a regular expression', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 })
    const words = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 10 })
    fc.assert(
      fc.property(letters, words, (pattern, text) => {
        expect(patternOf(pattern)(text)).toBe(new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(text))
      }),
    )
  })
})

describe('parseManager', () => {
  test.each([
    ['tcp://host:5001', { address: 'host', port: 5_001 }],
    ['192.0.2.1:5001', { address: '192.0.2.1', port: 5_001 }],
    ['tcp://[fd00::1]:5001/', { address: 'fd00::1', port: 5_001 }],
  ])('%s', (text, target) => {
    expect(parseManager(text)).toEqual(target)
  })

  test.each(['', 'host', 'host:0', 'host:65536', 'http://host:1', 'unix:///x', 'a:b:1'])('refuses %j', (text) => {
    expect(() => parseManager(text)).toThrow(/is not the address/)
  })

  test("says why cmd-nsc's default, a socket, is of no use", () => {
    const refusal = { code: 'USAGE', next: expect.stringContaining('TCP address') }
    const text = 'unix:///var/lib/networkservicemesh/nsm.io.sock'
    expect(() => parseManager(text)).toThrowError(expect.objectContaining(refusal))
  })
})

describe('joinLine', () => {
  test('takes the first line that is neither blank nor a comment', () => {
    expect(joinLine('# a\n\n  nsm://x  \nnsm://y\n')).toBe('nsm://x')
    expect(joinLine('# a\n')).toBe('')
  })
})

describe('wantedServices', () => {
  const request: ConnectRequest = {
    services: ['kernel://blue/nsm-1?app=x,green@cluster2'],
    labels: { app: 'y', zone: 'eu' },
    allowPrefixes: [],
    excludePrefixes: [],
    dnsMode: 'fanout',
    dns: 'auto',
    timeoutMs: 1,
    name: 'laptop',
  }

  test('reads NSM’s own lists; labels of the URL win over those of the request', () => {
    expect(wantedServices(request)).toMatchObject([
      { service: 'blue', interfaceName: 'nsm-1', labels: { app: 'x', zone: 'eu' }, name: 'laptop' },
      { service: 'green', domain: 'cluster2', labels: { app: 'y', zone: 'eu' } },
    ])
    expect(serviceNames(request.services)).toEqual(['blue', 'green@cluster2'])
  })

  test('hands on what was asked of liveness and awareness, and nothing that was not', () => {
    const asked = {
      livenessEnabled: true,
      livenessIntervalMs: 200,
      livenessTimeoutMs: 1_000,
      awarenessGroups: [['a', 'b']],
    }
    for (const wanted of wantedServices({ ...request, ...asked })) expect(wanted).toMatchObject(asked)
    for (const wanted of wantedServices(request))
      expect(Object.keys(wanted)).not.toEqual(expect.arrayContaining(['awarenessGroups']))
    const [wanted] = wantedServices({ ...request, livenessEnabled: false })
    expect(wanted).toMatchObject({ livenessEnabled: false })
    expect(wanted).not.toHaveProperty('livenessIntervalMs')
  })

  test.each<[string, Partial<ConnectRequest>]>([
    ['a service that is named twice', { services: ['blue', 'kernel://blue'] }],
    ['one interface name for several services', { interfaceName: 'nsm0' }],
    ['a broken URL', { services: ['blue:80'] }],
    ['a broken URL in an awareness group', { awarenessGroups: [['blue', 'green:80']] }],
  ])('refuses %s', (_, change) => {
    expect(() => wantedServices({ ...request, ...change })).toThrow(/./)
  })
})
