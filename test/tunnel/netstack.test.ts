import { getEventListeners, once } from 'node:events'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { TcpStream } from '../../src/tunnel/netstack.ts'
import { openRootlessTunnel, type RootlessTunnel } from '../../src/tunnel/rootless.ts'
import { streamWindowBytes } from '../../src/tunnel/stack-messages.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'

/* Two tunnels without a device, each with its thread and its socket on the loopback. No root. */

const onLinux = process.platform === 'linux'
const addresses = [
  ['10.0.0.1', 'fd00::1'],
  ['10.0.0.2', 'fd00::2'],
] as const
const families = [
  ['IPv4', '10.0.0.2'],
  ['IPv6', 'fd00::2'],
] as const
const never = new AbortController().signal

let alice: RootlessTunnel
let bob: RootlessTunnel

async function openPair(mtuBytes = 1_420): Promise<[RootlessTunnel, RootlessTunnel]> {
  const keys = [generatePrivateKey(), generatePrivateKey()] as const
  const open = (i: 0 | 1) =>
    openRootlessTunnel({ privateKey: keys[i], listenPort: 0, mtuBytes, addresses: addresses[i], peers: [] })
  const pair = [await open(0), await open(1)] as const
  for (const [i, other] of [
    [0, 1],
    [1, 0],
  ] as const) {
    await pair[i].setPeer({
      publicKey: publicKeyOf(keys[other]),
      keepaliveSeconds: 0,
      endpoint: { address: '127.0.0.1', port: pair[other].listenPort },
      allowedPrefixes: addresses[other],
    })
  }
  return [...pair]
}

/** Bytes that tell where they belong. */
function pattern(count: number): Buffer {
  return Buffer.from(Uint8Array.from({ length: count }, (_, i) => (i * 31 + (i >> 8)) & 0xff))
}

/** Unlike an iteration, this leaves the other half of the stream alone. */
async function readAll(stream: TcpStream): Promise<Buffer> {
  const chunks: Buffer[] = []
  stream.on('data', (chunk) => chunks.push(chunk)).resume()
  await once(stream, 'end')
  return Buffer.concat(chunks)
}

async function connected(to: string, port = 80): Promise<[TcpStream, TcpStream]> {
  const accepted = Promise.withResolvers<TcpStream>()
  const listener = await bob.net.listen(port, accepted.resolve)
  const stream = await alice.net.connect({ address: to, port })
  const other = await accepted.promise
  listener.close()
  for (const end of [stream, other]) end.on('error', () => {})
  return [stream, other]
}

describe.skipIf(!onLinux)(`a tunnel without a device${onLinux ? '' : ': skipped, needs Linux'}`, () => {
  beforeEach(async () => {
    ;[alice, bob] = await openPair()
  })
  afterEach(async () => {
    await alice.close()
    await bob.close()
  })

  describe.each(families)('over %s', (_family, to) => {
    test('carries a connection both ways, and each end knows the other', async () => {
      const [stream, other] = await connected(to, 8_080)
      expect([stream.remoteAddress, stream.remotePort, other.localPort]).toEqual([to, 8_080, 8_080])
      expect(addresses[0]).toContain(other.remoteAddress)
      stream.write('')
      stream.write('ping')
      expect(String((await once(other, 'data'))[0])).toBe('ping')
      other.write('pong')
      expect(String((await once(stream, 'data'))[0])).toBe('pong')
    })

    test('carries a large transfer whole, in both directions at once', async () => {
      const [stream, other] = await connected(to)
      const [there, back] = [pattern(3_000_000), pattern(2_000_001)]
      stream.end(there)
      other.end(back)
      const [arrived, returned] = await Promise.all([readAll(other), readAll(stream)])
      expect(arrived.equals(there)).toBe(true)
      expect(returned.equals(back)).toBe(true)
    })

    test('an end that has said all still hears the other', async () => {
      const [stream, other] = await connected(to)
      stream.end('question')
      expect(String(await readAll(other))).toBe('question')
      other.write('a long ')
      other.end('answer')
      expect(String(await readAll(stream))).toBe('a long answer')
      await Promise.all([stream, other].map((end) => end.closed || once(end, 'close')))
    })

    test('a port that nobody listens to is UNREACHABLE at once', async () => {
      const refused = alice.net.connect({ address: to, port: 81 })
      await expect(refused).rejects.toMatchObject({ code: 'UNREACHABLE', message: `${to} port 81 refuses connections` })
    })

    test('a connection that one end breaks off is LOST for the other', async () => {
      const [stream, other] = await connected(to)
      const lost = once(stream, 'error')
      other.destroy()
      expect((await lost)[0]).toMatchObject({ code: 'LOST', message: expect.stringContaining('broken off') })
    })

    test('datagrams go both ways, and those larger than a packet in parts', async () => {
      const received: string[] = []
      const server = await bob.net.openUdp(53, (payload, from) => {
        received.push(`${payload.length} of ${from.address}`)
        server.send(payload, from)
      })
      const echoed: Uint8Array[] = []
      const client = await alice.net.openUdp(0, (payload) => echoed.push(payload))
      const sizes = [0, 1, 512, 1_372, 1_373, 1_393, 4_096, 65_507]
      for (const size of sizes) {
        client.send(pattern(size), { address: to, port: 53 })
        await expect.poll(() => echoed.at(-1)?.length).toBe(size)
      }
      expect(echoed.map(Buffer.from)).toEqual(sizes.map(pattern))
      expect(received).toEqual(sizes.map((size) => `${size} of ${to.includes(':') ? 'fd00::1' : '10.0.0.1'}`))
      expect(() => client.send(pattern(65_508), { address: to, port: 53 })).toThrow(
        expect.objectContaining({ code: 'USAGE', next: 'send at most 65507' }),
      )
    })

    test('answers pings', async () => {
      expect(await alice.net.ping(to, never)).toBeGreaterThan(0)
      await Promise.all(Array.from({ length: 20 }, () => alice.net.ping(to, never)))
    })
  })

  test('a reader that does not read stops the writer, and what was written arrives when it does', async () => {
    const [stream, other] = await connected('10.0.0.2')
    other.pause()
    const whole = pattern(8_000_000)
    let written = 0
    const step = 65_536
    const write = () => {
      for (; written < whole.length; written += step) {
        if (!stream.write(whole.subarray(written, written + step))) {
          written += step
          return void stream.once('drain', write)
        }
      }
      stream.end()
    }
    write()
    await expect.poll(() => other.readableLength).toBeGreaterThanOrEqual(streamWindowBytes)
    // A writer that is not stopped is done long before.
    for (let i = 0; i < 50; i++) await alice.net.ping('10.0.0.2', never)
    // What both threads, both stacks and both streams hold together.
    expect(written).toBeLessThan(1_500_000)
    expect((await readAll(other)).equals(whole)).toBe(true)
  })

  test('many connections at once each get their own bytes', async () => {
    await bob.net.listen(7, (stream) => void stream.pipe(stream))
    const answers = Array.from({ length: 60 }, async (_, i) => {
      const stream = await alice.net.connect({ address: '10.0.0.2', port: 7 })
      const sent = pattern(10_000 + i)
      stream.end(sent)
      return (await readAll(stream)).equals(sent)
    })
    expect(await Promise.all(answers)).toEqual(Array(60).fill(true))
    // They left nothing behind: as many again.
    for (let i = 0; i < 3; i++) {
      const stream = await alice.net.connect({ address: '10.0.0.2', port: 7 })
      stream.end('x')
      expect(String(await readAll(stream))).toBe('x')
    }
  })

  test('an attempt that is given up ends with the reason, and its socket is free again', async () => {
    const { publicKey } = { publicKey: publicKeyOf(generatePrivateKey()) }
    await alice.setPeer({
      publicKey,
      keepaliveSeconds: 0,
      endpoint: { address: '127.0.0.1', port: 9 },
      allowedPrefixes: ['10.0.0.9'],
    })
    for (let i = 0; i < 200; i++) {
      const attempt = alice.net.connect({ address: '10.0.0.9', port: 80 }, AbortSignal.timeout(5))
      await expect(attempt).rejects.toMatchObject({ name: 'TimeoutError' })
    }
    const [stream] = await connected('10.0.0.2')
    expect(stream.destroyed).toBe(false)
  })

  describe.each([
    ['IPv4', ['fd00::3'], '203.0.113.1'],
    ['IPv6', ['10.0.0.3'], 'fd00::9'],
  ] as const)('without an %s address', (family, own, address) => {
    test('connections, pings and datagrams to one are UNREACHABLE at once', async () => {
      const privateKey = generatePrivateKey()
      const lone = await openRootlessTunnel({ privateKey, listenPort: 0, mtuBytes: 1_420, addresses: own, peers: [] })
      const refusal = {
        code: 'UNREACHABLE',
        message: `${address} cannot be reached: the tunnel has no ${family} address`,
      }
      await expect(lone.net.connect({ address, port: 80 })).rejects.toMatchObject(refusal)
      await expect(lone.net.ping(address, never)).rejects.toMatchObject(refusal)
      const udp = await lone.net.openUdp(0, () => {})
      expect(() => udp.send(new Uint8Array(1), { address, port: 53 })).toThrow(expect.objectContaining(refusal))
      await lone.close()
    })
  })

  test('a connection to an address of many is UNREACHABLE', async () => {
    await expect(alice.net.connect({ address: '224.0.0.1', port: 80 })).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  test('what is no address or no port is USAGE, and the tunnel works on', async () => {
    const usage = { code: 'USAGE' }
    for (const to of [
      { address: '10.0.0.2', port: 0 },
      { address: '10.0.0.2', port: 65_536 },
      { address: '10.0.0.2', port: 1.5 },
      { address: 'bob', port: 80 },
    ]) {
      await expect(alice.net.connect(to)).rejects.toMatchObject(usage)
    }
    await expect(alice.net.listen(-1, () => {})).rejects.toMatchObject(usage)
    await expect(alice.net.openUdp(70_000, () => {})).rejects.toMatchObject(usage)
    await expect(alice.net.ping('bob', never)).rejects.toMatchObject(usage)
    const udp = await alice.net.openUdp(0, () => {})
    expect(() => udp.send(new Uint8Array(1), { address: '', port: 53 })).toThrow(expect.objectContaining(usage))
    expect(await alice.net.ping('fd00:0:0::2', never)).toBeGreaterThan(0)
  })

  test('a flood of datagrams that nobody takes in time is lost, not kept', async () => {
    const received: number[] = []
    await bob.net.openUdp(9, (payload) => received.push(payload.length))
    const client = await alice.net.openUdp(0, () => {})
    for (let i = 0; i < 5_000; i++) client.send(new Uint8Array(1_000), { address: '10.0.0.2', port: 9 })
    await expect.poll(() => received.length).toBeGreaterThan(0)
    // Whatever follows while the flood lasts may be lost with it.
    const last = () => {
      client.send(new Uint8Array(3), { address: '10.0.0.2', port: 9 })
      return received
    }
    await expect.poll(last).toContain(3)
    const ping = () => alice.net.ping('10.0.0.2', AbortSignal.timeout(1_000)).catch(() => 0)
    await expect.poll(ping).toBeGreaterThan(0)
  })

  test('a taken port is CONFLICT, for connections and for datagrams', async () => {
    await bob.net.listen(80, () => {})
    await expect(bob.net.listen(80, () => {})).rejects.toMatchObject({ code: 'CONFLICT' })
    await bob.net.openUdp(80, () => {})
    await expect(bob.net.openUdp(80, () => {})).rejects.toMatchObject({ code: 'CONFLICT' })
  })

  test('a port that is not listened to any more refuses; what is connected stays', async () => {
    const [stream, other] = await connected('10.0.0.2')
    const again = () =>
      alice.net.connect({ address: '10.0.0.2', port: 80 }).then(
        (late) => void late.on('error', () => {}),
        ({ code }) => code,
      )
    await expect.poll(again).toBe('UNREACHABLE')
    stream.write('still here')
    expect(String((await once(other, 'data'))[0])).toBe('still here')
  })

  test('when the tunnel is closed, its streams and sockets end, and no new one opens', async () => {
    const [stream] = await connected('10.0.0.2')
    const ended = once(stream, 'error')
    const waiting = alice.net.ping('10.0.0.77', never)
    const refused = expect(waiting).rejects.toMatchObject({ code: 'NOT_READY' })
    await alice.close()
    expect((await ended)[0]).toMatchObject({ code: 'NOT_READY' })
    await refused
    await expect(alice.net.connect({ address: '10.0.0.2', port: 80 })).rejects.toMatchObject({ code: 'NOT_READY' })
    await expect(alice.net.listen(80, () => {})).rejects.toMatchObject({ code: 'NOT_READY' })
    const { signal } = new AbortController()
    await expect(alice.net.ping('10.0.0.2', signal)).rejects.toMatchObject({ code: 'NOT_READY' })
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  test('a ping that is given up, before or while it waits, ends with the reason and leaves its socket', async () => {
    for (let i = 0; i < 200; i++) {
      const stop = new AbortController()
      const given = alice.net.ping('10.0.0.77', stop.signal)
      stop.abort(new Error(`enough ${i}`))
      await expect(given).rejects.toThrow(`enough ${i}`)
      expect(getEventListeners(stop.signal, 'abort')).toEqual([])
    }
    await expect(alice.net.ping('10.0.0.77', AbortSignal.timeout(50))).rejects.toMatchObject({ name: 'TimeoutError' })
    expect(await alice.net.ping('10.0.0.2', never)).toBeGreaterThan(0)
  })

  test('a port that was taken or an address that is none leaves nothing open', async () => {
    const make = (more: object) =>
      openRootlessTunnel({
        ...{ privateKey: generatePrivateKey(), listenPort: 0, mtuBytes: 1_420, addresses: ['10.0.0.3'], peers: [] },
        ...more,
      })
    await expect(make({ listenPort: alice.listenPort })).rejects.toMatchObject({ code: 'CONFLICT' })
    const { listenPort } = bob
    await bob.close()
    await expect(make({ listenPort, addresses: ['10.0.0.3', 'bob'] })).rejects.toMatchObject({ code: 'USAGE' })
    await expect(make({ listenPort, peers: [{ publicKey: new Uint8Array(3) }] })).rejects.toThrow()
    const again = await make({ listenPort })
    expect(again.listenPort).toBe(listenPort)
    await Promise.all([again.close(), again.close()])
  })
})
