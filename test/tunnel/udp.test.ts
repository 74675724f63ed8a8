import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { loadPlatform } from '../../src/tunnel/tun/open.ts'
import { MemoryNetwork } from '../../src/tunnel/udp-memory.ts'
import { receive, type SocketEnd, send, testMemory, udpContract } from './contracts.ts'

const onLinux = process.platform === 'linux'
const skipped = onLinux ? '' : ': skipped, needs Linux'

udpContract('memory', {
  joinsSegments: true,
  close: () => {},
  openPair: () => {
    const network = new MemoryNetwork()
    const end = (port: number): SocketEnd => {
      const memory = testMemory()
      const at = { address: '127.0.0.1', port }
      return { memory, at, socket: network.open(at, memory) }
    }
    return [end(1), end(2)]
  },
})

describe.skipIf(!onLinux)(`on Linux${skipped}`, async () => {
  if (!onLinux) return
  const { LinuxUdpSocket, openUdp } = await loadPlatform()
  const opened: { close(): void }[] = []
  const close = () => {
    for (const socket of opened.splice(0)) socket.close()
  }
  const end = (listen: string, segments = true): SocketEnd => {
    const udp = openUdp({ address: listen, port: 0 })
    opened.push(udp)
    const memory = testMemory()
    const socket = new LinuxUdpSocket({ fd: udp.fd, segments }, memory)
    return { memory, socket, at: { address: '127.0.0.1', port: udp.port } }
  }

  udpContract('Linux, both families in one socket', {
    close,
    joinsSegments: true,
    openPair: () => [end('::'), end('::')],
  })
  udpContract('Linux, IPv4 alone', { close, joinsSegments: true, openPair: () => [end('0.0.0.0'), end('127.0.0.1')] })
  udpContract('Linux, without segmentation', {
    close,
    joinsSegments: false,
    openPair: () => [end('::', false), end('::', false)],
  })

  test('a full batch of messages leaves in one call and arrives in order', () => {
    const [a, b] = [end('::'), end('::')]
    for (let i = 0; i < 40; i++) send(a, b.at, Buffer.from(`message ${i}`))
    const all = [...receive(b), ...receive(b), ...receive(b)].map((m) => m.bytes.toString())
    expect(all).toEqual(Array.from({ length: 40 }, (_, i) => `message ${i}`))
    close()
  })

  const isRoot = process.getuid?.() === 0
  const needsSetpriv = isRoot && !existsSync('/usr/bin/setpriv')
  test.skipIf(needsSetpriv)(
    `a mark without CAP_NET_ADMIN is PERMISSION${needsSetpriv ? ': skipped, needs setpriv' : ''}`,
    () => {
      const module = new URL('../../src/tunnel/udp-linux.ts', import.meta.url)
      const script = `const { openUdp } = await import(${JSON.stringify(module)})
      const udp = openUdp({ address: '::', port: 0 })
      try { udp.setMark(7) } catch ({ code, message, next }) { console.log(JSON.stringify({ code, message, next })) }`
      const node = [process.execPath, '--input-type=module', '-e', script]
      const [command = '', ...args] = isRoot ? ['setpriv', '--bounding-set', '-net_admin,-net_raw', ...node] : node
      expect(JSON.parse(execFileSync(command, args, { encoding: 'utf8' }))).toEqual({
        code: 'PERMISSION',
        message: 'cannot mark packets with 7: EPERM',
        next: 'run it as root or give it CAP_NET_ADMIN',
      })
    },
  )

  test('openUdp on a taken port is CONFLICT and names the port', () => {
    const first = openUdp({ address: '127.0.0.1', port: 0 })
    const second = () => openUdp({ address: '127.0.0.1', port: first.port })
    expect(second).toThrow(
      expect.objectContaining({ code: 'CONFLICT', message: expect.stringContaining(`${first.port}`) }),
    )
    const why = { next: expect.stringContaining('ss -ulpn'), cause: { systemErrno: 98 } }
    expect(second).toThrow(expect.objectContaining(why))
    first.close()
  })

  test('openUdp on an address this machine does not have is USAGE', () => {
    expect(() => openUdp({ address: '203.0.113.77', port: 0 })).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })

  test('a message too large for the path is counted, and the next one is sent', () => {
    const [a, b] = [end('::'), end('::')]
    send(a, b.at, Buffer.alloc(65_520))
    send(a, b.at, Buffer.from('small'))
    expect(a.socket.counters()).toMatchObject({ udpSendErrors: 1, udpSentMessages: 1 })
    expect(receive(b).map((m) => m.bytes.toString())).toEqual(['small'])
    close()
  })
})

describe('loadPlatform', () => {
  test('an operating system without tunnels is USAGE', async () => {
    await expect(loadPlatform('aix')).rejects.toMatchObject({ code: 'USAGE', message: expect.stringContaining('aix') })
  })
})
