import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildGoPeers } from '../interop/go-peers.ts'
import { MeshRig, whyNotHere } from './mesh-rig.ts'

const peers = await buildGoPeers()
const why = whyNotHere() ?? (peers.path === undefined ? peers.why : undefined)
/** Of the only machine. */
const address = '192.0.2.1'

/* A laptop without a manager, a domain of NSM's programs, and a name server that knows where its border is. */
describe.skipIf(why !== undefined)(`nsm connect service@domain in a namespace${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let domain: ChildProcess
  let socket: string
  let untouched: string

  beforeAll(async () => {
    rig = await MeshRig.open('nsmx', ['a'])
    await writeFile(`/etc/netns/${rig.prefix}-a/resolv.conf`, `nameserver ${address}\noptions timeout:15\n`)
    const program = resolve(import.meta.dirname, 'domain-program.ts')
    const args = ['netns', 'exec', `${rig.prefix}-a`, process.execPath, program, peers.path ?? '', address]
    const child = spawn('ip', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    domain = child
    const [line] = await once(child.stdout.setEncoding('utf8'), 'data')
    socket = JSON.parse(String(line)).socket
    untouched = await rig.fingerprint('a')
  })
  afterAll(async () => {
    const gone = once(domain, 'exit')
    domain.kill('SIGTERM')
    await gone
    await rig.close()
  })

  const connect = (...args: string[]) =>
    rig.nsm('a', 'connect', ...args, '--spiffe-socket', socket, '--name', 'laptop', '--timeout', '60s', '--json')

  test('two services of the domain are usable at once, each under its full name', async () => {
    const { code, out, err } = await connect('icmp@far.test', 'kernel://vl3@far.test/nsm-vl3')
    expect(code, out + err).toBe(0)
    const { connections } = JSON.parse(out)
    expect(connections.map(({ service }: { service: string }) => service)).toEqual(['icmp@far.test', 'vl3@far.test'])
    expect(connections[1].interfaceName).toBe('nsm-vl3')
  })

  test('packets reach the endpoints of the domain', async () => {
    for (const gateway of ['172.16.1.0', '10.77.0.0']) expect(await rig.pings('a', gateway)).toBe(true)
  })

  test('the own name comes from the vL3 of the domain, by the system’s way to resolve names', async () => {
    const name = async () => (await rig.inside('a', 'getent', ['hosts', 'laptop.vl3'])).out
    await expect.poll(name).toMatch(/^10\.77\.0\.\d+\s+laptop\.vl3/)
  })

  test('another domain is found beside them, though the resolver is ours meanwhile', async () => {
    const { code, out } = await connect('icmp@nowhere.test')
    expect([code, JSON.parse(out).error.code]).toEqual([6, 'NOT_FOUND'])
    expect(JSON.parse(out).error.message).toContain('registry.nsm-system.nowhere.test has no SRV record')
  })

  test('a manager that nobody has is given up after NSM_DIAL_TIMEOUT, though the deadline is 60 s', async () => {
    const unblock = await rig.block('a', 'tcp dport 5999 drop')
    process.env['NSM_DIAL_TIMEOUT'] = '200ms'
    const { code, out } = await connect('absent', '--manager', `tcp://${address}:5999`).finally(() => {
      delete process.env['NSM_DIAL_TIMEOUT']
    })
    await unblock()
    expect([code, JSON.parse(out).error.message]).toEqual([
      7,
      `tcp://${address}:5999 cannot be reached: no answer within 200 ms`,
    ])
  })

  test('leaving puts the machine back', async () => {
    expect((await rig.nsm('a', 'disconnect', 'icmp@far.test', 'vl3@far.test')).code).toBe(0)
    expect(await rig.fingerprint('a')).toBe(untouched)
  })
})
