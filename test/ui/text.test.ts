import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseDurationMs } from '../../src/base/duration.ts'
import { NsmError } from '../../src/base/errors.ts'
import { byteText } from '../../src/ui/byte-text.ts'
import { columns } from '../../src/ui/columns.ts'
import { connectText } from '../../src/ui/connect-text.ts'
import { durationText } from '../../src/ui/duration.ts'
import { errorJson, errorText } from '../../src/ui/error-text.ts'
import { parseLabels } from '../../src/ui/labels.ts'
import { listText } from '../../src/ui/list-text.ts'
import { progressLines } from '../../src/ui/progress-text.ts'
import { momentText, statusText } from '../../src/ui/status-text.ts'
import { upView } from '../commands/fake-context.ts'

const nowMs = Date.UTC(2026, 0, 1, 12, 1, 0)
const status = { apiVersion: 'nsm/status/v1', running: true, connections: [upView], warnings: [] } as const

describe('parseDurationMs', () => {
  test.each([
    ['60s', 60_000],
    ['1m30s', 90_000],
    ['500ms', 500],
    ['1.5h', 5_400_000],
    ['24h', 86_400_000],
  ])('%s is %i ms', (text, durationMs) => expect(parseDurationMs(text)).toBe(durationMs))

  test.each(['', '60', 's', '-1s', '1 s', '0s', '1x', '25h', '1s!', 'NaNs', '1e3s'])(
    '"%s" is a USAGE error',
    (text) => {
      expect(() => parseDurationMs(text)).toThrowError(expect.objectContaining({ code: 'USAGE' }))
    },
  )

  test('never throws anything but USAGE and never gives a length outside its bounds', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          const parsedMs = parseDurationMs(text)
          expect(parsedMs).toBeGreaterThan(0)
          expect(parsedMs).toBeLessThanOrEqual(86_400_000)
        } catch (error) {
          expect(error).toBeInstanceOf(NsmError)
        }
      }),
    )
  })
})

describe('durationText', () => {
  test.each([
    [0, '0ms'],
    [42.4, '42ms'],
    [1_300, '1.3s'],
    [42_000, '42s'],
    [192_000, '3m12s'],
    [7_500_000, '2h5m'],
    [273_600_000, '3d4h'],
  ])('%d ms is %s', (durationMs, text) => expect(durationText(durationMs)).toBe(text))
})

describe('byteText', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1536, '1.5 KiB'],
    [12 * 1024 ** 2, '12.0 MiB'],
    [5 * 1024 ** 5, '5120.0 TiB'],
  ])('%d bytes are %s', (bytes, text) => expect(byteText(bytes)).toBe(text))
})

describe('parseLabels', () => {
  test('takes key=value and cmd-nsc key:value, and keeps everything after the first sign', () => {
    expect(parseLabels(['a=b', 'c:d', 'e=f=g'])).toEqual({ a: 'b', c: 'd', e: 'f=g' })
  })

  test.each(['', '=x', 'novalue', ' =x'])('"%s" is a USAGE error', (text) => {
    expect(() => parseLabels([text])).toThrowError(expect.objectContaining({ code: 'USAGE' }))
  })
})

describe('columns', () => {
  test('lines cells up and leaves nothing behind the last', () => {
    expect(
      columns([
        ['a', 'long', 'x'],
        ['longer', 'b', 'y'],
      ]),
    ).toEqual(['a       long  x', 'longer  b     y'])
  })
})

describe('statusText', () => {
  test('has one line per service without #, relative times on a terminal', () => {
    const text = statusText(status, { nowMs, relative: true })
    expect(text.split('\n').filter((line) => !line.startsWith('#'))).toEqual([
      'my-networkservice-1  up  10.64.0.2/32  nsm-1  laptop-1.my-networkservice-1.nsm.internal',
    ])
    expect(text).toContain('up since 1m0s ago, handshake 42s ago, rtt 1.3ms, received 1.5 KiB, sent 512 B')
    expect(text).toContain('lease ends in 14m0s')
    expect(text).toContain(
      '# my-networkservice-1: names under my-networkservice-1.nsm.internal are asked at 10.64.0.1:53',
    )
  })

  test('has RFC 3339 times when the output is not a terminal', () => {
    const text = statusText(status, { nowMs, relative: false })
    expect(text).toContain('up since 2026-01-01T12:00:00.000Z, handshake 2026-01-01T12:00:18.000Z')
    expect(text).not.toContain('ago')
  })

  test('says so when nothing is connected, and shows warnings and errors', () => {
    expect(statusText({ ...status, connections: [] }, { nowMs, relative: true })).toBe(
      '# no network service is connected',
    )
    const error = { code: 'LOST', message: 'no handshake', next: 'wait' } as const
    const text = statusText(
      { ...status, connections: [{ ...upView, error }], warnings: ['the clock is off'] },
      { nowMs, relative: true },
    )
    expect(text).toContain('# my-networkservice-1: LOST: no handshake; wait')
    expect(text).toContain('# warning: the clock is off')
  })

  test('says in a line of its own where applications get the identity, with nothing in it that a terminal obeys', () => {
    const spiffeSocket = 'unix:///run/nsm/workload.sock'
    const line = `# applications: SPIFFE_ENDPOINT_SOCKET=${spiffeSocket}`
    expect(statusText({ ...status, spiffeSocket }, { nowMs, relative: true }).split('\n')).toContain(line)
    expect(statusText(status, { nowMs, relative: true })).not.toContain('SPIFFE_ENDPOINT_SOCKET')
    const hostile = statusText({ ...status, spiffeSocket: 'unix:///run/\x1b]0;x\x07' }, { nowMs, relative: true })
    expect(hostile).not.toContain('\x1b')
  })

  test('shows every moment in one of the two styles', () => {
    expect(momentText(nowMs + 5_000, { nowMs, relative: true })).toBe('in 5.0s')
    expect(momentText(nowMs, { nowMs, relative: true })).toBe('0ms ago')
  })
})

describe('the other texts', () => {
  test('connectText says when nothing had to be done', () => {
    const result = {
      apiVersion: 'nsm/connect/v1',
      connections: [upView],
      alreadyUp: true,
      steps: [],
      totalMs: 3,
    } as const
    expect(connectText(result)).toContain('# was connected already')
    const spiffeSocket = 'unix:///run/nsm/workload.sock'
    expect(
      connectText({ ...result, spiffeSocket })
        .split('\n')
        .at(-1),
    ).toBe(`# applications: SPIFFE_ENDPOINT_SOCKET=${spiffeSocket}`)
  })

  test('listText says when nothing is registered', () => {
    expect(listText({ apiVersion: 'nsm/list/v1', services: [] })).toBe('# no network service is registered')
  })

  test('progressLines gives the time a phase took, not the time since the start', () => {
    const line = progressLines(false)
    expect(line({ phase: 'routes', state: 'started', elapsedMs: 100 })).toBeUndefined()
    expect(line({ phase: 'routes', state: 'done', elapsedMs: 112 })).toBe('  routes      12ms')
    expect(progressLines(true)({ phase: 'dns', state: 'started', elapsedMs: 0, service: 'a' })).toBe('  a: dns ...')
  })

  test('errors keep code, message and next step in both forms', () => {
    const error = new NsmError('CONFLICT', 'port 5001 is taken', 'stop the other program')
    expect(errorText(error)).toBe('Error (CONFLICT): port 5001 is taken\nTry this: stop the other program')
    expect(JSON.parse(errorJson(error))).toEqual({ error: error.toData() })
  })
})

describe('text of a peer on the terminal', () => {
  const hostile = 'evil\u001b[2J\n# identity spiffe://made.up/admin'
  const lines = (text: string) => text.split('\n').length

  test('adds no line and no control character to the list of services', () => {
    const endpoints = [{ name: hostile, url: 'tcp://192.0.2.1:1', expiresMs: 0 }]
    const services = [{ name: hostile, payload: hostile, endpoints }]
    const text = listText({ apiVersion: 'nsm/list/v1', services })
    expect(text).not.toMatch(/\p{Cc}/u)
  })

  test('adds no line and no control character to the status', () => {
    const style = { nowMs, relative: true }
    const error = { code: 'LOST', message: hostile, next: hostile } as const
    const view = { ...upView, endpoint: hostile, manager: hostile, dnsDomains: [hostile], routes: [hostile], error }
    const plain = { ...upView, dnsDomains: ['a'], routes: ['b'], error }
    const text = statusText({ ...status, connections: [view], warnings: [hostile] }, style)
    expect(lines(text)).toBe(lines(statusText({ ...status, connections: [plain], warnings: ['w'] }, style)))
    expect(text.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u)
  })

  test('adds no line and no control character to the progress', () => {
    const step = { phase: 'request', state: 'done', elapsedMs: 1, detail: hostile, service: hostile } as const
    expect(progressLines(false)(step)).not.toMatch(/\p{Cc}/u)
  })

  test('keeps the lines of an error and loses its control characters', () => {
    const text = errorText(new NsmError('REFUSED', 'one\n  ^\u001b[2J', 'two'))
    expect(text).toBe('Error (REFUSED): one\n  ^\\x1b[2J\nTry this: two')
  })
})
