import { createSocket, type Socket } from 'node:dgram'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createLog, silentLog } from '../../src/base/log.ts'
import { type Fence, openFence, removeLeftGuards } from '../../src/tunnel/tun/fence.ts'
import { configureInterface } from '../../src/tunnel/tun/host.ts'
import { openTun } from '../../src/tunnel/tun/linux.ts'
import { LinuxTunDevice } from '../../src/tunnel/tun/linux-device.ts'
import { testMemory } from '../tunnel/contracts.ts'
import { udpPacket } from '../tunnel/wireguard/packets.ts'
import {
  enterNamespace,
  inside,
  makeNamespaces,
  ownName,
  pings,
  removeNamespaces,
  sh,
  whyNot,
} from './tunnel-network.ts'

/* The fence around a connection: packets out of the tunnel and packets from the neighbour, each to each address. */

const reason = whyNot()
const [here, neighbour, bridge] = [ownName('nsmf-here'), ownName('nsmf-next'), ownName('nsmf-fbr')]
const blue = {
  interfaceName: 'nsm0',
  addresses: ['10.64.0.2/32', 'fd64::2/128'],
  prefixes: ['10.64.0.0/16', 'fd64::/64'],
}
const settings = { interfaceName: 'nsm0', addresses: blue.addresses, routes: blue.prefixes, mtuBytes: 1_420 }

describe.skipIf(reason)(`the fence in a namespace${reason ? `: skipped, ${reason}` : ''}`, () => {
  let leave = () => {}
  const closing: (() => void | Promise<void>)[] = []
  const open = async (fenced = blue): Promise<Fence> => {
    const fence = await openFence(silentLog)
    closing.push(() => fence.close())
    await fence.set(fenced)
    return fence
  }
  const tunnel = async () => {
    const tun = openTun('nsm0')
    closing.push(() => tun.close())
    await configureInterface(settings, silentLog)
    return tun
  }
  const ruleset = () => inside(here, 'nft', 'list', 'ruleset')
  const table = async () => (await inside(here, 'ip', 'route', 'show', 'table', '28275')).trim().split('\n')

  beforeAll(async () => {
    await removeNamespaces([here, neighbour, bridge])
    await makeNamespaces([here, neighbour], bridge)
    leave = enterNamespace(here)
  })
  afterEach(async () => {
    for (const close of closing.splice(0).reverse()) await close()
  })
  afterAll(async () => {
    leave()
    await removeNamespaces([here, neighbour, bridge])
  })

  test('E9: out of the tunnel come packets to its own address, and to no other one of this machine', async () => {
    const tun = await tunnel()
    const memory = testMemory()
    const device = new LinuxTunDevice(tun, memory)
    const heard: string[] = []
    for (const address of ['10.64.0.2', '192.0.2.1', '127.0.0.1']) {
      const socket = await listen(address, (text) => heard.push(`${address} ${text}`))
      closing.push(() => void socket.close())
    }
    const arrive = async (text: string) => {
      for (const to of ['192.0.2.1', '127.0.0.1', '10.64.0.2']) {
        const packet = udpPacket({ from: '10.64.0.3', to, toPort: port, payload: Buffer.from(text) })
        const start = memory.u32[memory.deviceReads.offset / 4] ?? 0
        memory.u8.fill(0, start, start + 10)
        memory.u8.set(packet, start + 10)
        memory.u32.set([start, packet.length + 10], memory.deviceWrites.offset / 4)
        device.send(memory.deviceWrites, 1)
      }
      // Packets of one interface keep their order, so the ones before have come or never will.
      await expect.poll(() => heard).toContain(`10.64.0.2 ${text}`)
    }
    await arrive('open')
    expect(heard).toContain('192.0.2.1 open')
    await open()
    await arrive('fenced')
    expect(heard.filter((line) => line.endsWith('fenced'))).toEqual(['10.64.0.2 fenced'])
  })

  test('E9: from the network nobody reaches the address in the tunnel, nor is told where it is', async () => {
    await tunnel()
    await inside(neighbour, 'ip', 'route', 'replace', '10.64.0.2', 'dev', 'eth0')
    await inside(neighbour, 'ip', 'route', 'replace', 'fd64::2', 'via', 'fd99::1', 'dev', 'eth0')
    for (const address of ['10.64.0.2', 'fd64::2']) expect(await pings(neighbour, address)).toEqual([1, 2, 3])
    await open()
    await inside(neighbour, 'ip', 'neigh', 'flush', 'all')
    for (const address of ['10.64.0.2', 'fd64::2'])
      await expect(inside(neighbour, 'ping', '-c', '1', '-W', '1', address)).rejects.toThrow()
    expect(await pings(neighbour, '192.0.2.1')).toEqual([1, 2, 3])
    expect(await inside(neighbour, 'ip', 'neigh', 'show', '10.64.0.2')).not.toContain('lladdr')
  })

  test('E9: the machine itself reaches its address in the tunnel', async () => {
    await tunnel()
    await open()
    expect(await pings(here, '10.64.0.2')).toEqual([1, 2, 3])
  })

  test('E7: a prefix without a tunnel is refused, never sent by another way', async () => {
    await sh('ip', 'route', 'add', 'default', 'via', '192.0.2.2')
    closing.push(() => sh('ip', 'route', 'del', 'default').then(() => {}))
    const tun = await tunnel()
    await open()
    expect(await inside(here, 'ip', 'route', 'get', '10.64.7.7')).toContain('dev nsm0')
    tun.close()
    await expect(inside(here, 'ip', 'route', 'get', '10.64.7.7')).rejects.toThrow('No route to host')
    await expect(inside(here, 'ip', 'route', 'get', 'fd64::7')).rejects.toThrow('No route to host')
    expect(await inside(here, 'ip', 'route', 'get', '203.0.113.1')).toContain('via 192.0.2.2')
  })

  test('moves by its differences: a prefix that stays is guarded throughout', async () => {
    const fence = await open()
    await fence.set({ ...blue, addresses: ['10.64.0.9/32'], prefixes: ['10.64.0.0/16', '10.70.0.0/16'] })
    expect((await table()).map((line) => line.split(' ')[1])).toEqual(['10.64.0.0/16', '10.70.0.0/16'])
    const rules = await ruleset()
    expect(rules).toContain('ip daddr 10.64.0.9 drop')
    expect(rules).not.toContain('10.64.0.2')
    expect(rules).toContain('iifname "nsm0" meta nfproto ipv6 drop')
    await fence.set({ ...blue, addresses: [], prefixes: [] })
    expect([await table(), await ruleset()]).toEqual([[''], ''])
  })

  test('two that share a prefix each guard it to the end', async () => {
    const first = await open()
    const second = await open({ ...blue, interfaceName: 'nsm1', addresses: ['10.64.0.3/32'] })
    await first.close()
    expect(await table()).toEqual([expect.stringContaining('unreachable 10.64.0.0/16')])
    await second.close()
    expect(await table()).toEqual([''])
  })

  test('its end leaves rules, routes and packet filter as they were', async () => {
    const look = () => Promise.all([ruleset(), inside(here, 'ip', 'rule'), inside(here, 'ip', '-6', 'rule'), table()])
    const before = await look()
    const fence = await open()
    expect(await look()).not.toEqual(before)
    await fence.close()
    await fence.close()
    expect(await look()).toEqual(before)
  })

  test('a packet filter of somebody else is left as it is', async () => {
    await sh('nft', 'add table inet mine')
    closing.push(() => sh('nft', 'delete table inet mine').then(() => {}))
    const before = await ruleset()
    const fence = await open()
    await fence.close()
    expect(await ruleset()).toBe(before)
  })

  test('guards of a killed process are removed, those beside a living tunnel stay', async () => {
    await tunnel()
    await open()
    for (const prefix of ['10.71.0.0/16', 'fd71::/64']) {
      await sh('ip', 'route', 'add', 'unreachable', prefix, 'table', '28275', 'metric', '4294967295', 'proto', 'static')
    }
    expect(await removeLeftGuards()).toEqual(['10.71.0.0/16', 'fd71::/64'])
    expect((await table()).length).toBe(2)
    expect(await removeLeftGuards()).toEqual([])
  })

  test('says what it does', async () => {
    const lines: string[] = []
    const write = (line: string) => void lines.push(line.replace(/^.*\[#\]/, '[#]'))
    const fence = await openFence(createLog({ level: 'info', format: 'text', write, wallMs: () => 0 }))
    await fence.set(blue)
    await fence.close()
    expect(lines).toEqual([
      '[#] ip route add unreachable 10.64.0.0/16 table 28275',
      '[#] ip route add unreachable fd64::/64 table 28275',
      '[#] nft: nsm0 and 10.64.0.2/32 fd64::2/128 for each other only',
      '[#] ip route del unreachable 10.64.0.0/16 table 28275',
      '[#] ip route del unreachable fd64::/64 table 28275',
    ])
  })
})

const port = 40_100

function listen(address: string, hear: (text: string) => void): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.on('message', (message) => hear(String(message)))
  return new Promise((resolve) => socket.bind(port, address, () => resolve(socket)))
}
