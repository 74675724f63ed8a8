import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { runCommandLine } from '../../src/commands/main.ts'
import { SilentPeer } from '../../src/daemon/rpc-client.ts'
import { fakeContext, runFake as run, upView } from './fake-context.ts'

let dir = ''
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-commands-'))
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(dir, { recursive: true, force: true })
})

const refusedView = {
  ...upView,
  state: 'refused' as const,
  error: { code: 'IDENTITY' as const, message: 'the root was dropped', next: 'join again' },
}

describe('connect', () => {
  test('passes the service URLs verbatim and the defaults', async () => {
    const { exitCode, call } = await run(['connect', 'kernel://a/nsm-1?color=red,b@other.org'])
    expect(exitCode).toBe(0)
    expect(call('connect')).toMatchObject({
      services: ['kernel://a/nsm-1?color=red', 'b@other.org'],
      dnsMode: 'fanout',
      dns: 'auto',
      timeoutMs: 60_000,
      labels: {},
    })
    expect(call('open')).toEqual({ start: true })
  })

  test('reads every flag', async () => {
    const flags = [
      '--label',
      'color=red',
      '--label',
      'size=big',
      '--interface',
      'nsm7',
      '--mtu',
      '1300',
      '--dns',
      'off',
    ]
    const more = ['--dns-mode', 'exclusive', '--timeout', '1m30s', '--name', 'lap', '--manager', 'tcp://192.0.2.1:5001']
    const prefixes = [
      '--allow-prefix',
      '192.0.2.0/24',
      '--exclude-prefix',
      '10.0.0.0/8',
      '--exclude-prefix',
      'fd00::/8',
    ]
    const { call } = await run(['up', ...flags, ...more, ...prefixes, '--allow-domain', 'corp.example', 'a'])
    expect(call('connect')).toMatchObject({
      services: ['a'],
      labels: { color: 'red', size: 'big' },
      interfaceName: 'nsm7',
      mtuBytes: 1300,
      dns: 'off',
      dnsMode: 'exclusive',
      timeoutMs: 90_000,
      name: 'lap',
      manager: 'tcp://192.0.2.1:5001',
      allowPrefixes: ['192.0.2.0/24'],
      excludePrefixes: ['10.0.0.0/8', 'fd00::/8'],
      allowDomains: ['corp.example'],
    })
  })

  test('reads the variables of cmd-nsc, and a flag wins over them', async () => {
    const environment = {
      NSM_NETWORK_SERVICES: 'kernel://a/nsm-1,kernel://b',
      NSM_CONNECT_TO: 'tcp://192.0.2.9:5001',
      NSM_REQUEST_TIMEOUT: '15s',
    }
    vi.stubEnv('NSM_LABELS', 'app:nsc,tier:1')
    vi.stubEnv('NSM_NAME', 'nsc')
    const fromEnvironment = await run(['connect'], { environment })
    expect(fromEnvironment.call('connect')).toMatchObject({
      services: ['kernel://a/nsm-1', 'kernel://b'],
      manager: 'tcp://192.0.2.9:5001',
      timeoutMs: 15_000,
      labels: { app: 'nsc', tier: '1' },
      name: 'nsc',
    })
    const flags = ['--name', 'mine', '--timeout', '2s', '--label', 'x=y', '--manager', 'tcp://192.0.2.1:1']
    const fromFlags = await run(['connect', 'c', ...flags], { environment })
    expect(fromFlags.call('connect')).toMatchObject({
      services: ['c'],
      manager: 'tcp://192.0.2.1:1',
      timeoutMs: 2_000,
      labels: { x: 'y' },
      name: 'mine',
    })
  })

  test('hands over where the SPIFFE agent listens and which of its identities is wanted', async () => {
    const environment = { SPIFFE_ENDPOINT_SOCKET: 'unix:///agent.sock' }
    const { call } = await run(['connect', 'a', '--spiffe-hint', 'blue', '--spiffe-id', 'spiffe://a/b'], {
      environment,
    })
    expect(call('connect')).toMatchObject({
      ...{ workloadSocket: 'unix:///agent.sock', workloadFirst: true },
      ...{ workloadHint: 'blue', workloadId: 'spiffe://a/b' },
    })
  })

  test.each([
    ['1000', 1_000],
    ['0', undefined],
    ['', undefined],
    ['-1', undefined],
    ['1e3', undefined],
    [undefined, undefined],
  ])('says who is behind sudo: SUDO_UID=%s', async (uid, expected) => {
    const { call } = await run(['connect', 'a'], { environment: uid === undefined ? {} : { SUDO_UID: uid } })
    expect(Reflect.get(Object(call('connect')), 'applicationUid')).toBe(expected)
  })

  test('takes the join string out of a file with lines for people, from standard input and from the environment', async () => {
    const joinString = 'nsm://192.0.2.1:5001/?td=a.internal&pin=sha256-x&jt=secret'
    const text = `# on another machine\n${joinString}\n`
    await writeFile(join(dir, 'join.txt'), text)
    const fromFile = await run(['connect', 'a', '--join', join(dir, 'join.txt')])
    const fromInput = await run(['connect', 'a', '--join', '-'], { input: text })
    const fromEnvironment = await run(['connect', 'a'], { environment: { NSM_JOIN_STRING: joinString } })
    for (const { call } of [fromFile, fromInput, fromEnvironment]) expect(call('connect')).toMatchObject({ joinString })
  })

  test('never prints the join string, whatever goes wrong', async () => {
    await writeFile(join(dir, 'join.txt'), 'nsm://192.0.2.1:5001/?jt=secret')
    const failure = new NsmError('IDENTITY', 'the join string was used already', 'nsm invite')
    for (const mode of [[], ['--json'], ['--verbose']]) {
      const { out, err } = await run(['connect', 'a', '--join', join(dir, 'join.txt'), ...mode], { failure })
      expect(out + err).not.toContain('secret')
    }
  })

  test('reads an SVID from a folder or from three files, as text', async () => {
    await Promise.all(['svid.0.pem', 'svid.0.key', 'bundle.0.pem'].map((name) => writeFile(join(dir, name), name)))
    const fromDir = await run(['connect', 'a', '--svid-dir', dir])
    const files = [
      '--svid',
      join(dir, 'svid.0.pem'),
      '--key',
      join(dir, 'svid.0.key'),
      '--bundle',
      join(dir, 'bundle.0.pem'),
    ]
    const fromFiles = await run(['connect', 'a', ...files])
    for (const { call } of [fromDir, fromFiles]) {
      expect(call('connect')).toMatchObject({
        svidFiles: {
          ...{ svidPem: 'svid.0.pem', keyPem: 'svid.0.key', bundlePem: 'bundle.0.pem' },
          paths: {
            svidPath: join(dir, 'svid.0.pem'),
            keyPath: join(dir, 'svid.0.key'),
            bundlePath: join(dir, 'bundle.0.pem'),
          },
        },
      })
    }
  })

  test.each([
    [['connect'], 'no network service was named'],
    [['connect', 'a', '--timeout', 'soon'], '"soon" is not a duration'],
    [['connect', 'a', '--label', '=x'], '"=x" is not a label'],
    [['connect', 'a', '--dns-mode', 'loud'], '"loud" is not a DNS mode'],
    [['connect', 'a', '--dns', 'print'], 'Expected --dns=print to be one of: auto, off'],
    [['connect', 'a', '--mtu', 'big'], 'Expected an integer'],
    [['connect', 'a', '--mtu', '1279'], 'an MTU of 1279 bytes'],
    [['connect', 'a', '--mtu', '9001'], 'an MTU of 9001 bytes'],
    [['serve', '--service', 'a b'], 'cannot name a network service'],
    [['serve', '--dns-domain', 'a..b'], "cannot be the domain of the members' names"],
    [['serve', '--prefix', '127.0.0.0/8'], 'which no member can use'],
    [['serve', '--relay', 'spiffe://a/*'], 'cannot name a relay'],
    [['connect', 'a', '--spiffe-id', 'spiffe://a/b'], 'nothing says where the SPIFFE agent listens'],
    [['connect', 'a', '--join', '/nowhere/join.txt'], '/nowhere/join.txt cannot be read'],
    [['connect', 'a', '--join', '-'], 'standard input holds no join string'],
    [['connect', 'a', '--svid', '/dev/null'], '--key is missing'],
    [['connect', 'a', '--svid-dir', '/nowhere'], '/nowhere holds none of'],
  ])('%j is a USAGE error that says: %s', async (argv, message) => {
    const { exitCode, err, recorded } = await run(argv)
    expect(exitCode).toBe(2)
    expect(err).toContain(message)
    expect(recorded.calls).toEqual([])
  })

  test('shows phases on standard error and the connection on standard output', async () => {
    const { out, err } = await run(['connect', 'my-networkservice-1'])
    expect(err).toBe('  identity   120ms  spiffe://x/laptop')
    expect(out).toContain('my-networkservice-1  up  10.64.0.2/32  nsm-1  laptop-1.my-networkservice-1.nsm.internal')
    expect(out).toContain('# usable after 312ms: identity 120ms')
  })

  test('--json prints the result as it is, and nothing else', async () => {
    const { out, err } = await run(['connect', 'my-networkservice-1', '--json'])
    expect(JSON.parse(out)).toMatchObject({ apiVersion: 'nsm/connect/v1', connections: [upView], totalMs: 312 })
    expect(err).toBe('')
  })
})

describe('disconnect', () => {
  test('without an argument and with --all leaves everything', async () => {
    for (const argv of [['disconnect'], ['down', '--all', 'a']]) {
      const { exitCode, call, out } = await run(argv)
      expect(exitCode).toBe(0)
      expect(call('disconnect')).toEqual({ services: [], force: false })
      expect(call('open')).toEqual({ start: false })
      expect(out).toBe('my-networkservice-1  disconnected')
    }
  })

  test('of something absent is no failure', async () => {
    const { exitCode, out } = await run(['disconnect', 'a', '--force'], { connections: [] })
    expect(exitCode).toBe(0)
    expect(out).toBe('# nothing was connected')
  })

  test('without a background process repairs what a killed one left', async () => {
    const { exitCode, call, recorded, out } = await run(['disconnect', '--json'], { daemonRuns: false })
    expect(exitCode).toBe(0)
    expect(recorded.calls.map(({ name }) => name)).toEqual(['open', 'repair'])
    expect(call('open')).toEqual({ start: false })
    expect(JSON.parse(out)).toEqual({ apiVersion: 'nsm/disconnect/v1', disconnected: [] })
  })
})

describe('a background process that hangs', () => {
  const failure = new SilentPeer('UNREACHABLE', 'the background process does not answer', 'kill it')
  test.each(['disconnect', 'cleanup', 'status', 'dns status', 'tunnel status', 'tunnel down wg0'])(
    'is not taken for none: %s',
    async (line) => {
      const { exitCode, err, recorded } = await run(line.split(' '), { failure })
      expect([exitCode, err]).toEqual([7, expect.stringContaining('does not answer')])
      expect(recorded.calls.map(({ name }) => name)).not.toContain('repair')
    },
  )
})

describe('status', () => {
  test('without a background process says that nothing is connected and starts none', async () => {
    const { exitCode, out, call } = await run(['status', '--json'], { daemonRuns: false })
    expect(exitCode).toBe(0)
    expect(JSON.parse(out)).toMatchObject({ apiVersion: 'nsm/status/v1', running: false, connections: [] })
    expect(call('open')).toEqual({ start: false })
  })

  test('shows only the named services', async () => {
    const connections = [upView, { ...upView, service: 'other' }]
    const { out } = await run(['status', 'other', '--json'], { connections })
    expect(JSON.parse(out).connections.map((view: { service: string }) => view.service)).toEqual(['other'])
  })

  test.each([
    [['status', '--check', 'ready'], [upView], 0],
    [['status', '--check', 'ready'], [], 3],
    [['status', '--check', 'ready', 'my-networkservice-1'], [upView], 0],
    [['status', '--check', 'ready', 'other'], [upView], 3],
    [['status', '--check', 'ready'], [{ ...upView, state: 'healing' as const }], 3],
    [['status', '--check', 'ready'], [refusedView], 4],
    [['status', '--check', 'ready'], [refusedView, { ...upView, service: 'other' }], 0],
    [['status'], [refusedView], 0],
  ])('%j with %o exits %i', async (argv, connections, exitCode) => {
    expect((await run(argv, { connections })).exitCode).toBe(exitCode)
  })
})

describe('serve', () => {
  test('prints a valid join file, waits for the signal and stops the server', async () => {
    const stop = new AbortController()
    let stopped = 0
    const serve = {
      joinString: 'nsm://192.0.2.1:5001/?jt=x',
      failed: new Promise<never>(() => {}),
      reload: async () => {},
      stop: async () => void stopped++,
    }
    const { context, recorded } = fakeContext({ serve, signal: stop.signal })
    const relays = ['--relay', 'spiffe://a/nsmgr', '--relay', 'spiffe://a/system/*']
    const running = runCommandLine(['serve', '--prefix', '10.70.0.0/16', '--prefix', 'fd70::/64', ...relays], context)
    await expect.poll(() => recorded.out).toHaveLength(1)
    const lines = (recorded.out[0] ?? '').split('\n')
    expect(lines.filter((line) => !line.startsWith('#'))).toEqual(['nsm://192.0.2.1:5001/?jt=x'])
    expect(stopped).toBe(0)
    stop.abort()
    expect(await running).toBe(0)
    expect(stopped).toBe(1)
    expect(recorded.calls[0]?.request).toMatchObject({
      service: 'my-networkservice-1',
      prefixes: ['10.70.0.0/16', 'fd70::/64'],
      dnsDomain: 'my-networkservice-1.nsm.internal',
      listen: '0.0.0.0:5001',
      wireguardPort: 51820,
      relays: ['spiffe://a/nsmgr', 'spiffe://a/system/*'],
    })
  })

  test('that fails by itself ends with its error after one JSON document', async () => {
    const failed = Promise.resolve(new NsmError('LOST', 'the tunnel died', 'start it again'))
    const { exitCode, recorded } = await run(['serve', '--json'], {
      serve: { joinString: 'nsm://x', failed, reload: async () => {}, stop: async () => {} },
    })
    expect(exitCode).toBe(10)
    expect(JSON.parse(recorded.out[0] ?? '')).toMatchObject({ apiVersion: 'nsm/serve/v1', joinString: 'nsm://x' })
  })
})

describe('the other commands', () => {
  test('list passes its pattern and shows one line per service', async () => {
    const { out, call } = await run(['ls', 'my'])
    expect(call('list')).toEqual({ pattern: 'my' })
    expect(out).toBe('my-networkservice-1  IP  1 endpoint  vl3-1')
  })

  test('invite passes id and lifetime and prints a valid join file', async () => {
    const { out, call } = await run(['invite', '--id', 'laptop-7', '--ttl', '1h'])
    expect(call('invite')).toEqual({ id: 'laptop-7', ttlMs: 3_600_000 })
    expect(out.split('\n').filter((line) => !line.startsWith('#'))).toEqual(['nsm://192.0.2.1:5001/?td=x&jt=y'])
  })

  test('invite asks for the join string without a token alone', async () => {
    expect((await run(['invite', '--open'])).call('invite')).toMatchObject({ open: true })
    for (const more of [['--id', 'x'], ['--ttl', '1h'], ['--endpoint']]) {
      expect((await run(['invite', '--open', ...more])).exitCode).toBe(2)
    }
  })

  test('cleanup leaves what runs, then repairs, and says what it did', async () => {
    const { out, recorded } = await run(['cleanup'])
    expect(recorded.calls.map(({ name }) => name)).toEqual(['open', 'disconnect', 'repair'])
    expect(out).toBe('my-networkservice-1  disconnected\ninterface nsm-1 removed')
  })

  test('version names the background process when one runs', async () => {
    expect(JSON.parse((await run(['version', '--json'])).out)).toMatchObject({ daemon: { version: '0.1.0', pid: 7 } })
    expect(JSON.parse((await run(['version', '--json'], { daemonRuns: false })).out)).not.toHaveProperty('daemon')
  })

  test('help lists every command once and help COMMAND shows its flags', async () => {
    const { out } = await run(['help'])
    for (const { id } of commandTable) expect(out.match(new RegExp(`^  ${id} `, 'gm'))).toHaveLength(1)
    expect((await run(['help', 'up'])).out).toContain('--join FILE')
    expect((await run(['help', 'nothing'])).exitCode).toBe(2)
  })
})
