import { type ChildProcess, spawn } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openRootlessTunnel, type RootlessTunnel } from '../../src/tunnel/rootless.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import {
  enterNamespace,
  inside,
  makeNamespaces,
  ownName,
  Program,
  pings,
  removeNamespaces,
  whyNot,
} from './tunnel-network.ts'
import type { ProgramConfig } from './tunnel-program.ts'

/* A member with an interface, one without, and the hub, in network namespaces; dig and curl are the real ones. */

const reason = whyNot()
const [alice, carol, hub, bridge] = [ownName('nsma5-ga'), ownName('nsma5-gc'), ownName('nsma5-gh'), ownName('nsma5-gb')]
const keys = [alice, carol, hub].map(() => generatePrivateKey())
const [aliceKey, carolKey, hubKey] = keys.map((key) => publicKeyOf(key))
const text = (key: Uint8Array | undefined) => Buffer.from(key ?? []).toString('base64')
const port = 51_820
const whole = ['10.64.0.0/16', 'fd64::/64']
const many = Array.from({ length: 200 }, (_, i) => `10.64.9.${i}`)

const hubConfig: Partial<ProgramConfig> = {
  role: 'hub',
  privateKey: text(keys[2]),
  listenPort: port,
  gateways: ['10.64.0.1', 'fd64::1'],
  names: { web: ['10.64.0.7'], forty: many.slice(0, 40), many },
  peers: [aliceKey, carolKey].map((key, i) => ({
    publicKey: text(key),
    keepaliveSeconds: 0,
    allowedPrefixes: [`10.64.0.${i + 2}/32`, `fd64::${i + 2}/128`],
  })),
}
const memberConfig: Partial<ProgramConfig> = {
  privateKey: text(keys[0]),
  addresses: ['10.64.0.2/32', 'fd64::2/128'],
  routes: whole,
  peers: [
    { publicKey: text(hubKey), keepaliveSeconds: 25, endpoint: { address: '192.0.2.3', port }, allowedPrefixes: whole },
  ],
}

describe.skipIf(reason)(
  `the gateway over TCP, and a member without a device${reason ? `: skipped, ${reason}` : ''}`,
  () => {
    const programs: Program[] = []
    let rootless: RootlessTunnel
    let echo: ChildProcess | undefined

    beforeAll(async () => {
      await removeNamespaces([alice, carol, hub, bridge])
      await makeNamespaces([alice, carol, hub], bridge)
      for (const [namespace, config] of [
        [hub, hubConfig],
        [alice, memberConfig],
      ] as const) {
        const program = new Program(namespace, config)
        programs.push(program)
        expect(await program.next(), program.log).toHaveProperty('ready')
      }
      expect(await programs[1]?.ask(`handshake ${text(hubKey)}`)).toHaveProperty('done')
      const leave = enterNamespace(carol)
      try {
        rootless = await openRootlessTunnel({
          ...{ privateKey: keys[1] ?? new Uint8Array(), listenPort: 0, mtuBytes: 1_420 },
          addresses: ['10.64.0.3', 'fd64::3'],
          peers: [
            {
              ...{ publicKey: hubKey ?? new Uint8Array(), keepaliveSeconds: 25, allowedPrefixes: whole },
              endpoint: { address: '192.0.2.3', port },
            },
          ],
        })
      } finally {
        leave()
      }
      if (hubKey) await rootless.handshake(hubKey, AbortSignal.timeout(120_000))
      echo = spawn('ip', ['netns', 'exec', alice, process.execPath, '-e', echoScript])
    })

    afterAll(async () => {
      echo?.kill('SIGKILL')
      await rootless?.close()
      for (const program of programs) await program.kill()
      await removeNamespaces([alice, carol, hub, bridge])
    })

    const dig = (...more: readonly string[]) => inside(alice, 'dig', '+short', '+tries=1', '+time=60', ...more)

    test.each([
      ['UDP, IPv4', '10.64.0.1', '+notcp', 'web', 1],
      ['TCP, IPv4', '10.64.0.1', '+tcp', 'web', 1],
      ['TCP, IPv6', 'fd64::1', '+tcp', 'web', 1],
      ['TCP, more than 512 bytes', '10.64.0.1', '+tcp', 'forty', 40],
      ['TCP, more than the MTU', '10.64.0.1', '+tcp', 'many', 200],
      ['TCP, more than the MTU, IPv6', 'fd64::1', '+tcp', 'many', 200],
      ['UDP, cut, and again by TCP', '10.64.0.1', '+notcp', 'many', 200],
    ])('dig gets its answer (%s)', async (_name, gateway, how, name, count) => {
      const lines = (await dig(how, `@${gateway}`, `${name}.blue.nsm.internal`)).trim().split('\n')
      expect(lines.filter((line) => line.startsWith('10.64.'))).toHaveLength(count)
    })

    test('many questions over one connection are answered', async () => {
      const names = Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? 'web' : 'forty')).map(
        (name) => `${name}.blue.nsm.internal`,
      )
      const lines = (await dig('+tcp', '+keepopen', '@10.64.0.1', ...names)).trim().split('\n')
      expect(lines).toHaveLength(30 * 41)
    })

    test('a member that opens connections and says nothing does not keep the other from its answers', async () => {
      const script = `const n=require('net');let open=0;for(let i=0;i<400;i++){const c=n.connect(53,'10.64.0.1');c.on('connect',()=>open++).on('error',()=>{})}
      setTimeout(()=>{console.log(open);process.exit()},1500)`
      const flood = inside(alice, process.execPath, '-e', script)
      const answers = Array.from({ length: 20 }, () => askWithout())
      expect(await Promise.all(answers)).toEqual(Array(20).fill(1))
      expect(Number(await flood)).toBeLessThanOrEqual(16)
      const limited = async () => (await programs[0]?.ask('stats'))?.stats?.counters['connectionsLimited']
      await expect.poll(limited).toBeGreaterThan(0)
    })

    /** Asks the gateway for `web` by TCP, without a device; gives the number of answers. */
    async function askWithout(): Promise<number> {
      const stream = await rootless.net.connect({ address: '10.64.0.1', port: 53 })
      stream.on('error', () => {})
      const name = Buffer.from('\u0003web\u0004blue\u0003nsm\u0008internal\0', 'latin1')
      const message = Buffer.concat([
        Buffer.from([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        name,
        Buffer.from([0, 1, 0, 1]),
      ])
      stream.end(Buffer.concat([Buffer.from([0, message.length]), message]))
      const chunks: Buffer[] = []
      for await (const chunk of stream) chunks.push(chunk)
      return Buffer.concat(chunks).readUInt16BE(2 + 6)
    }

    test.each([
      ['IPv4', '10.64.0.2'],
      ['IPv6', 'fd64::2'],
    ])('a member without a device talks TCP, UDP and ping to one with a device (%s)', async (_family, address) => {
      await expect.poll(() => inside(alice, 'ss', '-lnu')).toContain(':7002')
      expect(await rootless.net.ping(address, AbortSignal.timeout(120_000))).toBeGreaterThan(0)

      const stream = await rootless.net.connect({ address, port: 7_002 })
      const sent = Buffer.from(Uint8Array.from({ length: 2_000_000 }, (_, i) => (i * 7) & 0xff))
      const chunks: Buffer[] = []
      stream.on('data', (chunk) => chunks.push(chunk))
      stream.end(sent)
      await new Promise((resolve, reject) => stream.once('end', resolve).once('error', reject))
      expect(Buffer.concat(chunks).equals(sent)).toBe(true)

      // The larger ones go in parts, and the kernel's answers come in parts.
      for (const payload of ['hello', sent.toString('hex', 0, 1_500), sent.toString('hex', 0, 32_000)]) {
        const answer = Promise.withResolvers<Uint8Array>()
        const udp = await rootless.net.openUdp(0, answer.resolve)
        udp.send(Buffer.from(payload), { address, port: 7_002 })
        expect(Buffer.from(await answer.promise).toString()).toBe(payload)
        udp.close()
      }
    })

    test.each([
      ['IPv4', '10.64.0.3', 'http://10.64.0.3:8080/'],
      ['IPv6', 'fd64::3', 'http://[fd64::3]:8080/'],
    ])('a member with a device reaches a server of one without, and pings it (%s)', async (_family, address, url) => {
      // In parts, both the question and the answer.
      expect(await inside(alice, 'ping', '-c', '1', '-w', '120', '-s', '9000', address)).toContain(' 1 received')
      const body = 'x'.repeat(300_000)
      const listener = await rootless.net.listen(8_080, (stream) => {
        stream.on('error', () => {})
        stream.once('data', () => stream.end(`HTTP/1.0 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`))
      })
      expect(await inside(alice, 'curl', '-s', '--max-time', '120', url)).toBe(body)
      expect(await pings(alice, address)).toEqual([1, 2, 3])
      listener.close()
      await expect.poll(() => inside(alice, 'curl', '-s', '--max-time', '2', url).catch(({ code }) => code)).toBe(7)
    })
  },
)

/** Sends back what comes, by TCP and UDP. */
const echoScript = `require('net').createServer({allowHalfOpen:true},(c)=>c.pipe(c)).listen(7002,'::',()=>{
  const s=require('dgram').createSocket('udp6');s.on('message',(m,r)=>s.send(m,r.port,r.address)).bind(7002)})`
