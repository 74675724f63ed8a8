import { existsSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { servePath } from '../../src/daemon/paths.ts'
import { type RunningServe, type ServeSettings, startServe } from '../../src/daemon/serve.ts'
import { isWildcard, parseListen, reachableAddress, splitAdvertise } from '../../src/daemon/serve-address.ts'
import { inviteFromRunning } from '../../src/daemon/serve-admin.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'

let dir: string
const running: RunningServe[] = []
const { signal } = new AbortController()

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-serve-'))
})

afterEach(async () => {
  for (const serve of running.splice(0)) await serve.stop()
  await rm(dir, { recursive: true, force: true })
})

function settingsOf(name = 'one', more: Partial<ServeSettings> = {}): ServeSettings {
  return {
    service: 'blue',
    prefixes: ['10.64.0.0/16'],
    dnsDomain: 'blue.nsm.internal',
    listen: '127.0.0.1:0',
    wireguardPort: 0,
    stateDir: join(dir, name),
    runtimeDir: join(dir, name, 'run'),
    ...more,
  }
}

async function serve(settings = settingsOf()): Promise<RunningServe> {
  const started = await startServe(settings, silentLog, signal)
  running.push(started)
  return started
}

function sessionsOf(machine: string): Sessions {
  const settings = {
    stateDir: join(dir, machine),
    runtimeDir: join(dir, machine, 'run'),
    logLevel: 'info' as const,
    resolvConf: join(dir, 'resolv.conf'),
  }
  return new Sessions({ settings, clock: systemClock, log: silentLog })
}

describe('startServe', () => {
  test('gives a join string that makes an identity, and a registry that knows the service', async () => {
    const { joinString, info } = await serve()
    expect(parseJoinString(joinString)).toMatchObject({ address: '127.0.0.1', trustDomain: info.trustDomain })
    const sessions = sessionsOf('laptop')
    const session = await sessions.open({ joinString: `# comment\n${joinString}\n` }, signal)
    expect(session.source.current().svid.spiffeId).toMatch(`spiffe://${info.trustDomain}/member/`)
    const endpoints = await session.registry.findEndpoints({ networkServiceNames: ['blue'] }, signal)
    expect(endpoints.map(({ name }) => name)).toEqual(['blue-vl3'])
    await sessions.close()
  })

  test('later sessions of the same machine need no join string, also after a restart of both', async () => {
    const first = await serve()
    const before = sessionsOf('laptop')
    const { spiffeId } = (await before.open({ joinString: first.joinString }, signal)).source.current().svid
    await before.close()
    const { port } = parseJoinString(first.joinString)
    await first.stop()
    const second = await serve(settingsOf('one', { listen: `127.0.0.1:${port}` }))
    expect(second.info.trustDomain).toBe(first.info.trustDomain)
    const after = sessionsOf('laptop')
    const session = await after.open({}, signal)
    expect(session.source.current().svid.spiffeId).toBe(spiffeId)
    expect((await session.registry.findServices({}, signal)).length).toBe(1)
    await after.close()
  })

  test('a token is good for one machine; the same machine keeps what it got', async () => {
    const { joinString } = await serve()
    const first = sessionsOf('laptop')
    await first.open({ joinString }, signal)
    await first.close()
    const again = sessionsOf('laptop')
    await again.open({ joinString }, signal)
    await again.close()
    const other = sessionsOf('other')
    await expect(other.open({ joinString }, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
    await other.close()
  })

  test('invites through its socket, with an ID of its own or a given one', async () => {
    const settings = settingsOf()
    const { info } = await serve(settings)
    const made = await inviteFromRunning(settings, { ttlMs: 60_000 })
    expect(made.spiffeId).toMatch(/\/member\/[0-9a-f]{16}$/)
    const given = await inviteFromRunning(settings, { id: '/laptop/alice', ttlMs: 60_000 })
    expect(given.spiffeId).toBe(`spiffe://${info.trustDomain}/laptop/alice`)
    for (const id of ['/server', 'spiffe://other.example/a', '/a b']) {
      await expect(inviteFromRunning(settings, { id, ttlMs: 60_000 })).rejects.toMatchObject({ code: 'USAGE' })
    }
    const open = inviteFromRunning(settings, { open: true, ttlMs: 60_000 })
    await expect(open).rejects.toMatchObject({ code: 'USAGE', message: expect.stringContaining('no issuer') })
    await expect(inviteFromRunning(settings, { ttlMs: 0 })).rejects.toMatchObject({ code: 'USAGE' })
    expect(statSync(servePath(settings)).isSocket()).toBe(true)
  })

  test('a second server on the same state is a CONFLICT, and the first goes on', async () => {
    const settings = settingsOf()
    await serve(settings)
    await expect(startServe(settings, silentLog)).rejects.toMatchObject({ code: 'CONFLICT' })
    expect((await inviteFromRunning(settings, { ttlMs: 60_000 })).apiVersion).toBe('nsm/invite/v1')
  })

  test('a taken TCP port is a CONFLICT and leaves nothing open', async () => {
    const { info } = await serve()
    const second = settingsOf('two', { listen: `127.0.0.1:${info.port}` })
    await expect(startServe(second, silentLog)).rejects.toMatchObject({ code: 'CONFLICT' })
    expect(existsSync(servePath(second))).toBe(false)
    await serve(settingsOf('two'))
  })

  test('nobody to invite from is UNREACHABLE', async () => {
    await expect(inviteFromRunning(settingsOf('none'), { ttlMs: 1_000 })).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

describe('addresses of a server', () => {
  test.each([
    ['0.0.0.0:5001', '0.0.0.0', 5_001],
    ['[::]:5001', '::', 5_001],
    ['127.0.0.1:0', '127.0.0.1', 0],
  ])('parseListen %s', (text, address, port) => {
    expect(parseListen(text)).toEqual({ address, port })
    expect(isWildcard(address)).toBe(address !== '127.0.0.1')
  })

  test.each(['', '5001', ':5001', 'host:5001', '1.2.3.4', '1.2.3.4:65536', '::1:5001'])(
    'parseListen refuses %j',
    (text) => {
      expect(() => parseListen(text)).toThrow(/cannot|is not an address/)
    },
  )

  test.each([
    ['192.0.2.1', { host: '192.0.2.1', ip: '192.0.2.1', port: undefined }],
    ['192.0.2.1:7000', { host: '192.0.2.1', ip: '192.0.2.1', port: 7_000 }],
    ['vpn.example', { host: 'vpn.example', ip: undefined, port: undefined }],
    ['[fd00::1]:7000', { host: 'fd00::1', ip: 'fd00::1', port: 7_000 }],
    ['fd00::1', { host: 'fd00::1', ip: 'fd00::1', port: undefined }],
  ])('splitAdvertise %s', (text, parts) => {
    expect(splitAdvertise(text)).toEqual(parts)
    expect(reachableAddress({ advertise: text, listen: '0.0.0.0:1' })).toBe(parts.host)
  })

  test('without --advertise the listening address counts, or the first of the machine', () => {
    expect(reachableAddress({ listen: '192.0.2.9:1' })).toBe('192.0.2.9')
    expect(reachableAddress({ listen: '0.0.0.0:1' })).toMatch(/^[0-9a-f.:]+$/)
  })
})
