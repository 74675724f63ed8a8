import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, chown, copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { buildGoApps } from '../interop/go-peers.ts'
import { eventually, MeshRig, nameOf, service, whyNotHere } from './mesh-rig.ts'

/* Two members of a service whose applications speak mutual TLS to each other through the tunnel, each with the identity
 * that it gets from nsm on its own machine. Those in Go know go-spiffe and nothing of nsm. */

const apps = whyNotHere() ? { path: undefined, why: whyNotHere() } : await buildGoApps()
const title = `applications of two members${apps.path === undefined ? `: skipped, ${apps.why}` : ''}`
const nobody = 65_534

describe.skipIf(apps.path === undefined)(title, () => {
  /** Where every user may run it. */
  let program: string
  let rig: MeshRig
  /** Where another user may look for the socket; by machine. */
  let dir: string
  const ids = new Map<string, string>()
  const running: ChildProcess[] = []

  const environment = (machine: string) => {
    return { NSM_STATE_DIR: join(rig.dir, machine), NSM_RUNTIME_DIR: join(dir, machine) }
  }
  const nsm = (machine: string, args: readonly string[], more: Record<string, string> = {}) =>
    rig.inside(machine, nsmProgram, args, { ...environment(machine), ...more })
  const connect = async (machine: string, more: Record<string, string> = {}) => {
    const args = ['connect', service, '--name', machine, '--json', '--timeout', '60s']
    const { code, out, err } = await nsm(machine, [...args, '--join', join(rig.dir, `join-${machine}`)], more)
    expect(code, out + err).toBe(0)
    const { spiffeSocket } = JSON.parse(out)
    expect(spiffeSocket).toBe(`unix://${join(dir, machine, 'workload.sock')}`)
    ids.set(machine, JSON.parse((await nsm(machine, ['whoami', '--json'])).out).spiffeId)
  }
  const socketOf = (machine: string) => ({ SPIFFE_ENDPOINT_SOCKET: `unix://${join(dir, machine, 'workload.sock')}` })
  const idOf = (machine: string) => ids.get(machine) ?? ''

  /** Runs an application to its end. */
  const app = (machine: string, ...args: string[]) => rig.inside(machine, program, args, socketOf(machine))
  /** Starts one and waits until it says that it can be used. */
  const serve = async (machine: string, command: string, args: readonly string[]) => {
    const child = spawn('ip', ['netns', 'exec', `${rig.prefix}-${machine}`, command, ...args], {
      env: { ...process.env, ...socketOf(machine) },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    running.push(child)
    const [line] = await once(createInterface({ input: child.stdout }), 'line')
    expect(line).toBe('ready')
    return child
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmf5-app', ['s', 'a', 'b', 'c'])
    dir = await mkdtemp(join(tmpdir(), 'nsmf5-run-'))
    await chmod(dir, 0o755)
    program = join(dir, 'app')
    await copyFile(apps.path ?? '', program)
    await rig.serve()
    for (const machine of ['a', 'b']) {
      await rig.invite(`join-${machine}`)
      await connect(machine)
    }
  })

  afterAll(async () => {
    for (const child of running) child.kill('SIGKILL')
    await rig.close()
    await rm(dir, { recursive: true, force: true })
  })

  test.each([
    ['a', 'b'],
    ['b', 'a'],
  ])('of %s serve those of %s through the tunnel, and each knows who the other is', async (server, client) => {
    const child = await serve(server, program, ['server', '-address', ':8443', '-peer', idOf(client)])
    const met = await app(client, 'client', '-address', `${nameOf(server)}:8443`, '-peer', idOf(server))
    expect(JSON.parse(met.out || met.err)).toEqual({ met: idOf(server), called: idOf(client) })
    child.kill()
    await once(child, 'exit')
  })

  test('refuse each other where another identity was expected', async () => {
    await serve('a', program, ['server', '-address', ':8444', '-peer', idOf('b')])
    const other = await app('b', 'client', '-address', `${nameOf('a')}:8444`, '-peer', idOf('b'))
    expect(other).toMatchObject({ code: 1, err: expect.stringContaining('unexpected ID') })
    const self = await app('a', 'client', '-address', `${nameOf('a')}:8444`, '-peer', idOf('a'))
    expect(self.code, 'the server expects b').toBe(1)
  })

  test('in Node serve HTTPS to those in Go', async () => {
    const source = join(import.meta.dirname, '../support/https-application.ts')
    await serve('a', process.execPath, [source, '8445'])
    const met = await app('b', 'https', '-address', `https://${nameOf('a')}:8445/`, '-peer', idOf('a'))
    expect(JSON.parse(met.out || met.err)).toEqual({ called: idOf('b') })
  })

  test('see where their socket is in `nsm status`, and nothing that it has no need of', async () => {
    const { out } = await nsm('a', ['status'])
    expect(out).toContain(`# applications: SPIFFE_ENDPOINT_SOCKET=unix://${join(dir, 'a', 'workload.sock')}\n`)
    const watched = JSON.parse((await app('a', 'fetch')).out)
    expect(watched.ids).toEqual([idOf('a')])
  })

  test('get tokens that say who they are, and check them', async () => {
    const { out, err } = await app('a', 'jwt', '-audience', 'web')
    const id = idOf('a')
    expect(JSON.parse(out || err)).toEqual({ fetched: id, validated: id, verified: id, followed: id })
  })

  test('hear at once of a root that the server makes', async () => {
    const child = spawn('ip', ['netns', 'exec', `${rig.prefix}-a`, program, 'watch', '-count', '2'], {
      env: { ...process.env, ...socketOf('a') },
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    running.push(child)
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const next = async () => JSON.parse((await lines.next()).value ?? '')
    expect(await next()).toMatchObject({ ids: [idOf('a')], roots: 1 })
    expect((await rig.nsm('s', 'ca', 'rotate')).code).toBe(0)
    expect(await next()).toMatchObject({ ids: [idOf('a')], roots: 2 })
  })

  const asNobody = (machine: string) => {
    const user = ['--reuid', `${nobody}`, '--regid', `${nobody}`, '--clear-groups']
    return rig.inside(machine, 'setpriv', [...user, program, 'fetch'], socketOf(machine))
  }

  test('of another user get nothing, until that user connects with sudo', async () => {
    expect(await asNobody('b')).toMatchObject({ code: 1, out: '' })
    await connect('b', { SUDO_UID: `${nobody}` })
    const { out, err } = await asNobody('b')
    expect(out, err).not.toBe('')
    expect(JSON.parse(out).ids).toEqual([idOf('b')])
  })

  test('of a user who is not root but may make interfaces get it, and those of other users do not', async ({
    skip,
  }) => {
    const own = { uid: 4_242, home: join(dir, 'own') }
    await mkdir(own.home)
    await chown(own.home, own.uid, own.uid)
    const as = (
      uid: number,
      more: readonly string[],
      environment: Record<string, string>,
      command: readonly string[],
    ) => {
      const user = ['--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups', ...more]
      return rig.inside('c', 'setpriv', [...user, ...command], environment)
    }
    const { code } = await as(own.uid, [], {}, [nsmProgram, 'version'])
    if (code !== 0) skip('this checkout is not for every user to run')
    const capable = ['--inh-caps', '+net_admin', '--ambient-caps', '+net_admin']
    const home = { NSM_STATE_DIR: join(own.home, 'state'), NSM_RUNTIME_DIR: join(own.home, 'run'), HOME: own.home }
    const invitation = await rig.invite('join-c')
    await chmod(invitation, 0o644)
    await chmod(rig.dir, 0o755)
    const connected = await as(own.uid, capable, home, [
      ...[
        nsmProgram,
        'connect',
        service,
        '--name',
        'c',
        '--json',
        '--timeout',
        '20s',
        '--dns',
        'off',
        '--join',
        invitation,
      ],
    ])
    expect(connected.code, connected.out + connected.err).toBe(0)
    const socket = { SPIFFE_ENDPOINT_SOCKET: JSON.parse(connected.out).spiffeSocket }
    expect(JSON.parse((await as(own.uid, [], socket, [program, 'fetch'])).out).ids).toHaveLength(1)
    expect(await as(nobody, [], socket, [program, 'fetch'])).toMatchObject({ code: 1, out: '' })
    expect((await as(own.uid, capable, home, [nsmProgram, 'disconnect'])).code).toBe(0)
    expect(await as(own.uid, [], socket, [program, 'fetch'])).toMatchObject({ code: 1, out: '' })
  })

  test('lose it with the last connection, and get it back with the next', async () => {
    expect((await nsm('b', ['disconnect'])).code).toBe(0)
    expect((await rig.inside('b', 'test', ['-e', join(dir, 'b', 'workload.sock')])).code).toBe(1)
    await connect('b')
    expect(JSON.parse((await app('b', 'fetch')).out).ids).toEqual([idOf('b')])
  })

  test('find the socket of a killed background process gone, and get it back with the next', async () => {
    await rig.signalDaemon('b', 'SIGKILL')
    const socket = join(dir, 'b', 'workload.sock')
    await eventually(async () => (await rig.inside('b', 'test', ['-e', socket])).code === 1)
    await connect('b')
    expect(JSON.parse((await app('b', 'fetch')).out).ids).toEqual([idOf('b')])
  })
})
