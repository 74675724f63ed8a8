import { chmod } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, tcpThrough, whyNotHere } from '../netns/mesh-rig.ts'
import { buildGoPeers } from './go-peers.ts'
import { type GoProcess, startGo } from './go-process.ts'

const peers = await buildGoPeers()
const why = whyNotHere() ?? ('why' in peers ? peers.why : undefined)
const service = 'blue'

/* s: `nsm serve`, 10.64.0.0/24      g: a vL3 endpoint of NSM, 10.64.1.0/24, with an identity of `nsm invite --endpoint`
 * a at s, b at g, both the nsm program with an interface of its own */

describe.skipIf(why !== undefined)(`members at nsm serve and at NSM's vL3${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  const running: GoProcess[] = []
  const addresses = new Map<string, string>()

  /** Runs a role on machine `g`, with the identity that `s` gave. */
  const startOnG = async (role: string, flags: Record<string, string | number>) => {
    const path = await rig.file('peers', `#!/bin/sh\nexec ip netns exec ${rig.prefix}-g ${peers.path} "$@"\n`)
    await chmod(path, 0o755)
    const socket = `unix://${join(rig.dir, 'theirs.sock')}`
    running.push(await startGo({ path, role, socket, flags }))
  }

  const connect = async (machine: string, label: string) => {
    const flags = ['--name', machine, '--timeout', '60s', '--json', '--join', await rig.invite(`join-${machine}`)]
    const joined = await rig.nsm(machine, 'connect', `kernel://${service}?${label}`, ...flags)
    expect(joined.code, joined.out + joined.err).toBe(0)
    const [view] = JSON.parse(joined.out).connections
    addresses.set(machine, view.addresses[0].replace('/32', ''))
    return view
  }

  beforeAll(async () => {
    rig = await MeshRig.open('nsmeg', ['s', 'g', 'a', 'b'])
    await rig.serve('--service', service, '--dns-domain', service, '--site', 'east')
    const invited = await rig.nsm('s', 'invite', '--endpoint', '--id', 'theirs')
    expect(invited.code, invited.err).toBe(0)
    const program = resolve(import.meta.dirname, 'enrol-program.ts')
    const joinString = /nsm:\/\/\S+/.exec(invited.out)?.[0] ?? ''
    const file = join(rig.dir, 'theirs.json')
    const enrolled = await rig.inside('g', process.execPath, [program, file, joinString])
    expect(enrolled.code, enrolled.err).toBe(0)
    await startOnG('workloadapi', { dir: rig.dir, enrolled: 'theirs' })
    const url = 'tcp://192.0.2.1:5001'
    const flags = {
      name: 'blue-vl3-theirs',
      service,
      register: url,
      'register-service': 'false',
      ipam: url,
      link: 'true',
    }
    await startOnG('vl3', { ...flags, listen: 'tcp://192.0.2.2:5001', 'wireguard-port': 51_820 })
  })

  afterAll(async () => {
    for (const process of running.reverse()) await process.stop()
    await rig.close()
  })

  test('join, each with an address of its endpoint', async () => {
    expect((await connect('a', 'site=east')).endpoint).toBe('blue-vl3')
    expect((await connect('b', 'app=blue')).endpoint).toBe('blue-vl3-theirs')
    expect(addresses.get('a')).toBe('10.64.0.1')
    expect(addresses.get('b')).toMatch(/^10\.64\.1\./)
  })

  test('ping each other', async () => {
    await eventually(() => rig.reaches('a', addresses.get('b') ?? ''))
    await eventually(() => rig.reaches('b', addresses.get('a') ?? ''))
  })

  test('dial each other over TCP by name, and are seen by their own addresses', async () => {
    for (const [from, to] of [
      ['a', 'b'],
      ['b', 'a'],
    ] as const) {
      expect(await tcpThrough(rig, from, to, `${to}.${service}`)).toBe(addresses.get(from))
    }
  })
})
