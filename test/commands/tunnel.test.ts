import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { runCommandLine } from '../../src/commands/main.ts'
import { interfaceNameOf } from '../../src/ui/tunnel-file.ts'
import { tunnelsText } from '../../src/ui/tunnel-text.ts'
import { type FakeOptions, fakeContext } from './fake-context.ts'
import { tunnelView } from './fake-tunnel.ts'

const dir = mkdtempSync(join(tmpdir(), 'nsm-tunnel-'))
const path = join(dir, 'wg7.conf')
writeFileSync(path, 'the text')
afterAll(() => rmSync(dir, { recursive: true, force: true }))

async function run(line: readonly string[], options: FakeOptions = {}) {
  const { context, recorded } = fakeContext(options)
  return { code: await runCommandLine(['tunnel', ...line], context), recorded }
}

describe('nsm tunnel up', () => {
  test('hands over the text of the file, with the name of the interface', async () => {
    const { code, recorded } = await run(['up', path])
    expect(code).toBe(0)
    const request = { interfaceName: 'wg7', fileName: path, text: 'the text' }
    expect(recorded.calls).toEqual([
      { name: 'open', request: { start: true } },
      { name: 'tunnelUp', request },
    ])
    expect(recorded.out.join('\n')).toContain('wg0  up  10.9.0.2/24  udp 51820  mtu 1420')
  })

  test('reads standard input when it has a name for the interface', async () => {
    const { recorded } = await run(['up', '-', '--interface', 'wg1'], { input: 'typed' })
    expect(recorded.calls[1]?.request).toMatchObject({ interfaceName: 'wg1', text: 'typed' })
    const without = await run(['up', '-'], { input: 'typed' })
    expect(without).toMatchObject({ code: 2 })
    expect(without.recorded.err.join()).toContain('--interface')
  })

  test('in the foreground ends the tunnel when a signal comes', async () => {
    const stop = new AbortController()
    const running = run(['up', path, '--foreground'], { signal: stop.signal })
    setImmediate(() => stop.abort())
    const { recorded } = await running
    expect(recorded.calls.map(({ name }) => name)).toEqual(['open', 'tunnelUp', 'open', 'tunnelDown'])
    expect(recorded.calls[3]?.request).toEqual({ interfaceNames: ['wg7'] })
  })

  test.each([
    ['a file that is not there', ['up', join(dir, 'none.conf')], 'cannot be read'],
    ['no file', ['up'], 'Missing 1 required arg'],
    ['a file whose name is no interface', ['up', '/etc/a-name-that-is-too-long.conf'], 'is no interface name'],
  ])('with %s is USAGE and starts nothing', async (_what, line, words) => {
    const { code, recorded } = await run(line)
    expect(code).toBe(2)
    expect(recorded.err.join('\n')).toContain(words)
    expect(recorded.calls).toEqual([])
  })
})

describe('nsm tunnel down', () => {
  test('takes names and files', async () => {
    const { recorded } = await run(['down', 'wg7', '/etc/wireguard/wg8.conf'])
    expect(recorded.calls).toEqual([
      { name: 'open', request: { start: false } },
      { name: 'tunnelDown', request: { interfaceNames: ['wg7', 'wg8'] } },
    ])
    expect(recorded.out).toEqual(['wg7  ended\nwg8  ended'])
  })

  test('repairs the machine when no background process runs, and is no failure', async () => {
    const { code, recorded } = await run(['down', 'wg7'], { daemonRuns: false })
    expect(code).toBe(0)
    expect(recorded.calls.at(-1)?.name).toBe('repair')
    expect(recorded.out).toEqual(['# no such tunnel was up'])
  })
})

describe('nsm tunnel status', () => {
  test('starts no background process', async () => {
    const { code, recorded } = await run(['status'], { daemonRuns: false })
    expect({ code, out: recorded.out }).toEqual({ code: 0, out: ['# no tunnel is up'] })
    expect(recorded.calls).toEqual([{ name: 'open', request: { start: false } }])
  })
})

describe('tunnelsText', () => {
  const style = { nowMs: Date.UTC(2026, 0, 1), relative: true }

  test('tells of each peer, heard or not', () => {
    expect(tunnelsText([tunnelView], style).split('\n')).toEqual([
      'wg0  up  10.9.0.2/24  udp 51820  mtu 1420',
      `# wg0: peer ${tunnelView.peers[0]?.publicKey} at 192.0.2.1:51820, handshake 42s ago, received 1.5 KiB, sent 512 B`,
      `# wg0: peer ${tunnelView.peers[1]?.publicKey} at no endpoint yet, no handshake yet, received 0 B, sent 0 B`,
      '# wg0: routes 10.9.0.0/24',
    ])
  })

  test('tells why a tunnel failed', () => {
    const error = { code: 'LOST', message: 'the interface\u001b[31m was removed', next: 'up again' } as const
    expect(tunnelsText([{ ...tunnelView, state: 'failed', peers: [], routes: [], error }], style).split('\n')).toEqual([
      'wg0  failed  10.9.0.2/24  udp 51820  mtu 1420',
      '# wg0: LOST: the interface\\x1b[31m was removed; up again',
    ])
  })
})

test.each([
  ['wg0', 'wg0'],
  ['./wg0.conf', 'wg0'],
  ['/etc/wireguard/home-lan.conf', 'home-lan'],
])('interfaceNameOf %s is %s', (text, name) => {
  expect(interfaceNameOf(text)).toBe(name)
})
