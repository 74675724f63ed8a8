import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, nameOf, service, tcpThrough, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()

describe.skipIf(why !== undefined)(`nsm connect in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let untouched: string
  let firstJoin: string

  const connect = (machine: string, ...more: string[]) =>
    rig.nsm(machine, 'connect', service, '--name', machine, '--timeout', '60s', '--json', ...more)

  beforeAll(async () => {
    rig = await MeshRig.open('nsmc', ['s', 'a', 'b', 'c'])
    untouched = await rig.fingerprint('a')
    firstJoin = await rig.file('join-a', await rig.serve())
  })

  afterAll(() => rig.close())

  test('a machine without an identity ends with IDENTITY (4)', async () => {
    expect((await connect('a')).code).toBe(4)
  })

  test('two machines join, each with an address of its own and its name', async () => {
    const a = await connect('a', '--join', firstJoin)
    expect(a.code, a.err).toBe(0)
    const b = await connect('b', '--join', await rig.invite('join-b'))
    expect(b.code, b.err).toBe(0)
    const [viewA, viewB] = [JSON.parse(a.out).connections[0], JSON.parse(b.out).connections[0]]
    expect(viewA.addresses).toEqual(['10.64.0.1/32'])
    expect(viewB.addresses).toEqual(['10.64.0.2/32'])
    expect(viewA.name).toBe(nameOf('a'))
    expect(
      JSON.parse(a.out)
        .steps.map(({ phase }: { phase: string }) => phase)
        .toSorted(),
    ).toEqual(['dns', 'identity', 'registry', 'request', 'routes', 'tunnel'])
  })

  test('they reach each other by name: ping and TCP, from their own addresses', async () => {
    expect(await rig.pings('a', nameOf('b'))).toBe(true)
    expect(await tcpThrough(rig, 'a', 'b')).toBe('10.64.0.1')
  })

  test.each(['+notcp', '+tcp'])('the gateway itself answers for their names (%s)', async (how) => {
    const answer = await rig.inside('a', 'dig', ['+short', '+time=60', '+tries=1', how, '@10.64.0.0', nameOf('b')])
    expect(answer).toMatchObject({ code: 0, out: '10.64.0.2\n' })
  })

  test('the first machine’s token is used up for everybody else: IDENTITY (4)', async () => {
    const late = await connect('c', '--join', firstJoin)
    expect([late.code, late.out]).toEqual([4, expect.stringContaining('TOKEN_REUSED')])
  })

  test('a join file with a wrong pin is refused: IDENTITY (4)', async () => {
    const text = await readFile(await rig.invite('join-c'), 'utf8')
    const forged = text.replace(/pin=sha256-./, (found) => (found.endsWith('A') ? 'pin=sha256-B' : 'pin=sha256-A'))
    expect((await connect('c', '--join', await rig.file('forged', forged))).code).toBe(4)
  })

  test('an unknown service is NOT_FOUND (6) and leaves nothing behind', async () => {
    const before = await rig.fingerprint('a')
    const missing = await rig.nsm('a', 'connect', 'no-such-service', '--timeout', '60s')
    expect(missing.code, missing.err).toBe(6)
    expect(await rig.fingerprint('a')).toBe(before)
  })

  test('a repeated connect is done at once and changes nothing', async () => {
    const before = await rig.fingerprint('a')
    const again = await connect('a')
    expect([again.code, JSON.parse(again.out).alreadyUp]).toEqual([0, true])
    expect(await rig.fingerprint('a')).toBe(before)
  })

  test.each([
    ['no join string', 'what is this?', 2],
    [
      'the one of another server',
      'nsm://192.0.2.1:5001/?td=TD&pin=sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&jt=x',
      8,
    ],
  ])('a repeated connect with %s is refused, and the connection stays', async (_, text, code) => {
    const domain = /td=([^&]+)/.exec(await readFile(firstJoin, 'utf8'))?.[1] ?? ''
    const refused = await connect('a', '--join', await rig.file('other', text.replace('TD', domain)))
    expect(refused.code, refused.err).toBe(code)
    expect((await rig.status('a')).connections[0]?.state).toBe('up')
  })

  test('two connects at the same time both succeed with one interface', async () => {
    await rig.nsm('b', 'disconnect')
    const [one, two] = await Promise.all([connect('b'), connect('b')])
    expect([one.code, two.code], one.err + two.err).toEqual([0, 0])
    const { connections } = JSON.parse((await rig.nsm('b', 'status', '--json')).out)
    expect(connections.length).toBe(1)
  })

  test('status shows the path, list the service', async () => {
    const status = JSON.parse((await rig.nsm('a', 'status', '--json')).out)
    expect(status.connections[0]).toMatchObject({ state: 'up', service, endpointAddress: '192.0.2.1:51820' })
    expect(status.dns.scopes.map(({ suffix }: { suffix: string }) => suffix)).toContain(`${service}.nsm.internal`)
    const list = JSON.parse((await rig.nsm('a', 'list', '--json')).out)
    expect(list.services.map(({ name }: { name: string }) => name)).toEqual([service])
  })

  test('a server that is killed and started again gets its members back with the same addresses', async () => {
    await rig.killServe('SIGKILL')
    await rig.serve()
    await eventually(async () => {
      const { connections } = JSON.parse((await rig.nsm('a', 'status', '--json')).out)
      return connections[0].state === 'up' && (await rig.reaches('a', nameOf('b')))
    })
    const { connections } = JSON.parse((await rig.nsm('a', 'status', '--json')).out)
    expect(connections[0].addresses).toEqual(['10.64.0.1/32'])
  })

  test('a killed background process leaves no interface, cleanup puts the resolver back, and the address is taken over', async () => {
    await rig.signalDaemon('a', 'SIGKILL')
    await eventually(async () => (await rig.daemonPid('a')) === undefined)
    const cleanup = await rig.nsm('a', 'cleanup')
    expect(cleanup.code, cleanup.err).toBe(0)
    await expect.poll(() => rig.fingerprint('a')).toBe(untouched)
    const again = await connect('a')
    expect(again.code, again.err).toBe(0)
    expect(JSON.parse(again.out).connections[0].addresses).toEqual(['10.64.0.1/32'])
  })

  test('disconnect puts addresses, routes and the resolver file back byte for byte, and may be repeated', async () => {
    for (const expected of [[service], []]) {
      const left = await rig.nsm('a', 'disconnect', '--json')
      expect([left.code, JSON.parse(left.out).disconnected]).toEqual([0, expected])
    }
    expect(await rig.fingerprint('a')).toBe(untouched)
  })

  test('SIGTERM to the background process undoes everything', async () => {
    expect((await connect('a')).code).toBe(0)
    await rig.signalDaemon('a', 'SIGTERM')
    await eventually(async () => (await rig.daemonPid('a')) === undefined)
    await expect(rig.signalDaemon('a', 'SIGTERM')).rejects.toThrow('no background process runs in a')
    expect(await rig.fingerprint('a')).toBe(untouched)
  })

  test('a manager that is silent is UNREACHABLE (7) within the timeout, and nothing is left behind', async () => {
    await rig.inside('s', 'ip', ['link', 'set', 'eth0', 'down'])
    const silent = await rig.nsm('a', 'connect', service, '--timeout', '3s')
    await rig.inside('s', 'ip', ['link', 'set', 'eth0', 'up'])
    expect(silent.code, silent.err).toBe(7)
    expect(await rig.fingerprint('a')).toBe(untouched)
  })
})
