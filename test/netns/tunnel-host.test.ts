import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createLog, silentLog } from '../../src/base/log.ts'
import { libc } from '../../src/tunnel/sys/libc.ts'
import { loadKoffi } from '../../src/tunnel/sys/native.ts'
import {
  configureInterface,
  type HostChanges,
  openHostChanges,
  readHostNetwork,
  removeInterface,
  routeTo,
  updateInterface,
} from '../../src/tunnel/tun/host.ts'
import { openTun } from '../../src/tunnel/tun/linux.ts'
import { LinuxTunDevice } from '../../src/tunnel/tun/linux-device.ts'
import { openTunnel } from '../../src/tunnel/tunnels.ts'
import { openUdp } from '../../src/tunnel/udp-linux.ts'
import { LinuxUdpSocket } from '../../src/tunnel/udp-linux-socket.ts'
import { generatePrivateKey } from '../../src/tunnel/wireguard/engine.ts'
import { send, testMemory, tunContract } from '../tunnel/contracts.ts'
import { internetChecksum, udpPacket } from '../tunnel/wireguard/packets.ts'
import { enterNamespace, inside, makeNamespaces, ownName, removeNamespaces, sh, whyNot } from './tunnel-network.ts'

/* The machine's side of a tunnel; this thread itself is inside a namespace. */

const reason = whyNot()
const [namespace, bridge] = [ownName('nsmt-host'), ownName('nsmt-hostbr')]

describe.skipIf(reason)(`host network in a namespace${reason ? `: skipped, ${reason}` : ''}`, () => {
  let leave = () => {}
  const tuns: { close(): void }[] = []
  const open = (name: string, superPackets = true) => {
    const tun = openTun(name, { superPackets })
    tuns.push(tun)
    return tun
  }
  const settings = {
    interfaceName: 'nsm0',
    addresses: ['10.64.0.2/32', 'fd64::2/128'],
    routes: ['10.64.0.0/16', 'fd64::/64'],
    mtuBytes: 1_420,
  }

  beforeAll(async () => {
    await removeNamespaces([namespace, bridge])
    await makeNamespaces([namespace], bridge)
    leave = enterNamespace(namespace)
  })
  afterEach(() => {
    for (const tun of tuns.splice(0)) tun.close()
  })
  afterAll(async () => {
    leave()
    await removeNamespaces([namespace, bridge])
  })

  test('readHostNetwork gives interfaces, addresses with host bits, and unicast routes', async () => {
    const network = await readHostNetwork()
    expect(network.interfaceNames).toEqual(expect.arrayContaining(['lo', 'eth0']))
    expect(network.addresses).toContainEqual({ interfaceName: 'eth0', prefix: '192.0.2.1/24' })
    expect(network.addresses).toContainEqual({ interfaceName: 'eth0', prefix: 'fd99::1/64' })
    expect(network.routes).toContainEqual({ interfaceName: 'eth0', prefix: '192.0.2.0/24', gateway: undefined })
    expect(network.routes).toContainEqual({ interfaceName: 'eth0', prefix: 'fd99::/64', gateway: undefined })
  })

  test('a route with a gateway names it', async () => {
    await sh('ip', 'route', 'add', '198.51.100.0/24', 'via', '192.0.2.9')
    const { routes } = await readHostNetwork()
    expect(routes).toContainEqual({ interfaceName: 'eth0', prefix: '198.51.100.0/24', gateway: '192.0.2.9' })
  })

  /** The kernel finishes its own addresses a second after an interface came up. */
  const quiet = (changes: HostChanges) => expect.poll(() => changes.any()).toBe(false)

  test('openHostChanges tells of addresses, routes and interfaces of both families, each time once', async () => {
    const changes = await openHostChanges()
    try {
      await quiet(changes)
      for (const change of [
        'address add 192.0.2.77/32 dev eth0',
        'address del 192.0.2.77/32 dev eth0',
        '-6 address add fd99::77/128 dev eth0 nodad',
        'route add 203.0.113.0/24 dev eth0',
        'route del 203.0.113.0/24',
        '-6 route add fd77::/64 dev eth0',
        'link set lo mtu 65000',
        'link add nsmhc0 type veth peer name nsmhc1',
      ]) {
        await sh('ip', ...change.split(' '))
        expect([change, changes.any()]).toEqual([change, true])
      }
      await sh('ip', 'link', 'del', 'nsmhc0')
      expect(changes.any()).toBe(true)
      await quiet(changes)
    } finally {
      changes.close()
    }
  })

  test('openHostChanges tells also of more changes than the kernel keeps', async () => {
    const changes = await openHostChanges()
    const batch = (verb: string) =>
      Array.from({ length: 4_000 }, (_, i) => `route ${verb} 10.${i >> 8}.${i & 255}.0/24 dev eth0\n`).join('')
    try {
      for (const verb of ['add', 'del']) {
        execFileSync('ip', ['-batch', '-'], { input: batch(verb) })
        expect(changes.any()).toBe(true)
        await quiet(changes)
      }
    } finally {
      changes.close()
    }
  })

  test('configureInterface sets address, route and MTU, says the commands, and its undo takes all back', async () => {
    open('nsm0')
    const lines: string[] = []
    const write = (line: string) => void lines.push(line.replace(/^.*\[#\]/, '[#]'))
    const undo = await configureInterface(
      settings,
      createLog({ level: 'info', format: 'text', write, wallMs: () => 0 }),
    )
    expect(lines).toEqual([
      '[#] ip link set nsm0 up mtu 1420',
      '[#] ip address add 10.64.0.2/32 dev nsm0',
      '[#] ip address add fd64::2/128 dev nsm0',
      '[#] ip route add 10.64.0.0/16 dev nsm0 table 28275',
      '[#] ip route add fd64::/64 dev nsm0 table 28275',
    ])
    expect(await routeTo('10.64.7.7')).toEqual({ interfaceName: 'nsm0', sourceAddress: '10.64.0.2', mtuBytes: 1_420 })
    expect(await routeTo('fd64::7')).toEqual({ interfaceName: 'nsm0', sourceAddress: 'fd64::2', mtuBytes: 1_420 })
    await undo()
    await undo()
    expect(await inside(namespace, 'ip', '-o', 'address', 'show', 'dev', 'nsm0')).toBe('')
    expect(await inside(namespace, 'ip', '-4', 'route', 'show', 'table', 'all', 'dev', 'nsm0')).toBe('')
  })

  test('the undo after the interface is gone is fine', async () => {
    const tun = openTun('nsm0')
    const undo = await configureInterface(settings, silentLog)
    tun.close()
    await undo()
  })

  test('updateInterface applies the differences', async () => {
    open('nsm0')
    await configureInterface(settings, silentLog)
    const after = {
      ...settings,
      addresses: ['10.64.0.9/32'],
      routes: ['10.64.0.0/16', '10.70.0.0/16'],
      mtuBytes: 1_380,
    }
    await updateInterface(settings, after, silentLog)
    expect(await inside(namespace, 'ip', '-o', 'address', 'show', 'dev', 'nsm0')).toMatch(/inet 10\.64\.0\.9\/32/)
    expect(await routeTo('10.70.1.1')).toEqual({ interfaceName: 'nsm0', sourceAddress: '10.64.0.9', mtuBytes: 1_380 })
    expect(await routeTo('fd64::7')).toBeUndefined()
  })

  test('a change the kernel refuses is an error and what was done before it is taken back', async () => {
    open('nsm0')
    const index = /^(\d+):/.exec(await inside(namespace, 'ip', '-o', 'link', 'show', 'dev', 'nsm0'))?.[1] ?? ''
    const taken = ['unreachable', '10.71.0.0/16', 'table', '28275', 'metric', index]
    await sh('ip', 'route', 'add', ...taken)
    const bad = configureInterface({ ...settings, routes: ['10.64.0.0/16', '10.71.0.0/16'] }, silentLog)
    await expect(bad).rejects.toMatchObject({ code: 'CONFLICT', message: expect.stringContaining('10.71.0.0/16') })
    expect(await inside(namespace, 'ip', '-4', 'route', 'show', 'table', 'all', 'dev', 'nsm0')).toBe('')
    await sh('ip', 'route', 'del', ...taken)
  })

  test('removeInterface removes one that is there and accepts one that is not', async () => {
    await sh('ip', 'tuntap', 'add', 'nsm7', 'mode', 'tun')
    await removeInterface('nsm7')
    await removeInterface('nsm7')
    expect((await readHostNetwork()).interfaceNames).not.toContain('nsm7')
  })

  test('routeTo an address with no way is undefined', async () => {
    expect(await routeTo('203.0.113.5')).toBeUndefined()
  })

  test.each(['', 'sixteen-letters-', 'a/b', '..'])('openTun refuses the name "%s" with USAGE', (name) => {
    expect(() => openTun(name)).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })

  test('openTunnel with a bad key leaves neither interface nor port', async () => {
    const config = { interfaceName: 'nsm0', listenPort: 51_999, mtuBytes: 1_420, peers: [] }
    const bad = openTunnel({ ...config, privateKey: new Uint8Array(1) })
    await expect(bad).rejects.toMatchObject({ code: 'USAGE' })
    const good = await openTunnel({ ...config, privateKey: generatePrivateKey() })
    expect(good.listenPort).toBe(51_999)
    await good.close()
    await good.close()
    expect((await readHostNetwork()).interfaceNames).not.toContain('nsm0')
  })

  test('openTunnel with a peer whose prefix is no prefix leaves no interface', async () => {
    const peer = { publicKey: generatePrivateKey(), keepaliveSeconds: 0, allowedPrefixes: ['10.0.0.0/99'] }
    const config = { interfaceName: 'nsm0', listenPort: 0, mtuBytes: 1_420, peers: [peer] }
    await expect(openTunnel({ ...config, privateKey: generatePrivateKey() })).rejects.toMatchObject({ code: 'USAGE' })
    expect((await readHostNetwork()).interfaceNames).not.toContain('nsm0')
  })

  test('a run that is too large for the path leaves as single datagrams', async () => {
    await sh('ip', 'link', 'set', 'eth0', 'mtu', '1300')
    const udp = openUdp({ address: '::', port: 0 })
    tuns.push(udp)
    const memory = testMemory()
    const end = { memory, socket: new LinuxUdpSocket(udp, memory), at: { address: '192.0.2.1', port: udp.port } }
    send(end, { address: '192.0.2.9', port: 9 }, Buffer.alloc(4_000), 1_452)
    expect(end.socket.counters()).toMatchObject({ udpSplits: 1, udpSentSegments: 3, udpSendErrors: 0 })
    await sh('ip', 'link', 'set', 'eth0', 'mtu', '1500')
  })

  test.each([
    ['TCP', 1, { tcp: false, udp: true }],
    ['UDP', 5, { tcp: true, udp: false }],
  ])(
    'a merged %s packet the kernel refuses is counted, and that protocol is not merged any more',
    async (_name, kind, expected) => {
      const tun = open('nsm0')
      await configureInterface(settings, silentLog)
      const memory = testMemory()
      const device = new LinuxTunDevice(tun, memory)
      const { u8, u32, deviceReads, deviceWrites } = memory
      const start = u32[deviceReads.offset / 4] ?? 0
      u8.fill(0, start, start + 10)
      u8[start + 1] = kind
      u8.set(packet(), start + 10)
      u32.set([start, packet().length + 10], deviceWrites.offset / 4)
      device.send(deviceWrites, 1)
      expect(device.counters()).toMatchObject({ deviceWrites: 0, deviceWriteErrors: 1 })
      expect(device.merging).toEqual(expected)
    },
  )

  for (const [name, superPackets] of [
    ['Linux with super-packets', true],
    ['Linux with single packets', false],
  ] as const) {
    tunContract(
      name,
      async () => {
        const tun = open('nsm0', superPackets)
        const memory = testMemory()
        // With IPv6 the kernel sends reports of its own, when it likes.
        writeFileSync('/proc/sys/net/ipv6/conf/nsm0/disable_ipv6', '1')
        const ipv4 = { ...settings, addresses: ['10.64.0.2/32'], routes: ['10.64.0.0/16'] }
        const undo = await configureInterface(ipv4, silentLog)
        const socket = createSocket('udp4')
        tuns.push(socket)
        const got: Buffer[] = []
        socket.on('message', (message) => got.push(message))
        await new Promise<void>((resolve) => socket.bind(40_000, '10.64.0.2', resolve))
        const device = new LinuxTunDevice(tun, memory)
        const drain = () => {
          while (device.receive(memory.deviceReads) > 0);
        }
        drain()
        return {
          device,
          memory,
          inject: injectRaw,
          takeWritten: async () => {
            await expect.poll(() => got.length).toBe(1)
            return got.splice(0).map((message) => (String(message) === 'hi' ? packet() : message))
          },
          remove: () => sh('ip', 'link', 'del', 'nsm0').then(() => {}),
          close: async () => {
            await undo()
          },
        }
      },
      packet,
    )
  }
})

/**
 * The same bytes whoever makes them: a raw socket sends them out, a device gives them to the machine. The kernel would
 * fill in an identification of zero.
 */
function packet(): Buffer {
  const bytes = udpPacket({ from: '10.64.0.3', to: '10.64.0.2', toPort: 40_000, payload: Buffer.from('hi') })
  bytes.writeUInt16BE(0x1234, 4)
  bytes.writeUInt16BE(0, 10)
  bytes.writeUInt16BE(internetChecksum(bytes.subarray(0, 20)), 10)
  return bytes
}

/** Sends the packet out by the interface that leads to 10.64.0.3 [Linux raw(7)]. */
function injectRaw(): void {
  const sendto: (fd: number, data: Buffer, bytes: number, flags: number, to: Buffer, toBytes: number) => number =
    loadKoffi().load(null).func('int64_t sendto(int fd, void *data, size_t n, int flags, void *to, int bytes)')
  const [AF_INET, SOCK_RAW, IPPROTO_RAW] = [2, 3, 255]
  const fd = libc().socket(AF_INET, SOCK_RAW, IPPROTO_RAW)
  const to = Buffer.from([AF_INET, 0, 0, 0, 10, 64, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0])
  const bytes = packet()
  expect(sendto(fd, bytes, bytes.length, 0, to, to.length)).toBe(bytes.length)
  libc().close(fd)
}
