import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import { inside, makeNamespaces, ownName, Program, pings, removeNamespaces, whyNot } from './tunnel-network.ts'
import type { ProgramConfig } from './tunnel-program.ts'

/* Two members and a hub, each a process in a network namespace of its own, joined by one bridge. */

const reason = whyNot()
const [alice, bob, hub, bridge] = [ownName('nsmt-a'), ownName('nsmt-b'), ownName('nsmt-h'), ownName('nsmt-br')]
const everybody = [alice, bob, hub]
const keys = everybody.map(() => generatePrivateKey())
const text = (key: Uint8Array | undefined) => Buffer.from(key ?? []).toString('base64')
const publicKeys = keys.map((key) => text(publicKeyOf(key)))
const wireguardPort = 51_820

const hubConfig: Partial<ProgramConfig> = {
  role: 'hub',
  privateKey: text(keys[2]),
  listenPort: wireguardPort,
  gateways: ['10.64.0.1', 'fd64::1'],
  peers: [0, 1].map((i) => ({
    publicKey: publicKeys[i] ?? '',
    keepaliveSeconds: 0,
    allowedPrefixes: [`10.64.0.${i + 2}/32`, `fd64::${i + 2}/128`],
  })),
}

/** Member 0 reaches the hub by IPv4, member 1 by IPv6. */
const memberConfig = (i: number): Partial<ProgramConfig> => ({
  privateKey: text(keys[i]),
  listenPort: wireguardPort,
  addresses: [`10.64.0.${i + 2}/32`, `fd64::${i + 2}/128`],
  routes: ['10.64.0.0/16', 'fd64::/64'],
  peers: [
    {
      publicKey: publicKeys[2] ?? '',
      keepaliveSeconds: 25,
      endpoint: { address: i === 0 ? '192.0.2.3' : 'fd99::3', port: wireguardPort },
      allowedPrefixes: ['10.64.0.0/16', 'fd64::/64', ...(i === 0 ? ['192.0.2.0/24'] : [])],
    },
  ],
})

const programs: Program[] = []
async function startProgram(namespace: string, config: Partial<ProgramConfig>): Promise<Program> {
  const program = new Program(namespace, config)
  programs.push(program)
  const answer = await program.next()
  if (!answer.ready) throw new Error(`${namespace}: ${JSON.stringify(answer)} ${program.log}`)
  return program
}

const sentBytes = async (namespace: string): Promise<number> =>
  JSON.parse(await inside(namespace, 'ip', '-s', '-j', 'link', 'show', 'eth0'))[0].stats64.tx.bytes
const links = (namespace: string) => inside(namespace, 'ip', '-o', 'link')

describe.skipIf(reason)(`tunnel in network namespaces${reason ? `: skipped, ${reason}` : ''}`, () => {
  let members: Program[] = []
  let middle: Program

  beforeAll(async () => {
    await removeNamespaces([...everybody, bridge])
    await makeNamespaces(everybody, bridge)
    middle = await startProgram(hub, hubConfig)
    members = [await startProgram(alice, memberConfig(0)), await startProgram(bob, memberConfig(1))]
    for (const member of members)
      expect(await member.ask(`handshake ${publicKeys[2]}`)).toMatchObject({ done: 'handshake' })
  })

  afterAll(async () => {
    for (const program of programs) await program.kill()
    await removeNamespaces([...everybody, bridge])
  })

  test.each([
    ['the gateway, IPv4', '10.64.0.1'],
    ['the gateway, IPv6', 'fd64::1'],
    ['the other member, IPv4', '10.64.0.3'],
    ['the other member, IPv6', 'fd64::3'],
  ])('a ping reaches %s', async (_name, to) => {
    expect(await pings(alice, to)).toEqual([1, 2, 3])
  })

  test('a request to a local service of the gateway is answered', async () => {
    const script = `const s=require('dgram').createSocket('udp4');s.on('message',m=>{console.log(String(m));s.close()});s.send('who',53,'10.64.0.1')`
    expect(await inside(alice, process.execPath, '-e', script)).toBe('who\n')
  })

  test.each([
    [49, 64],
    [1_404, 1_408],
    [1_413, 1_420],
    [1_420, 1_420],
  ])('packets of %i bytes are padded to %i: by 16, but not past the MTU of the interface', async (bytes, padded) => {
    const count = 500
    const before = await sentBytes(alice)
    await inside(alice, 'ping', '-q', '-c', `${count}`, '-i', '0.002', '-s', `${bytes - 28}`, '10.64.0.3')
    // Ethernet, IPv4, UDP, WireGuard; the rest is what else the machine says meanwhile.
    const each = async () => ((await sentBytes(alice)) - before) / count - (14 + 20 + 8 + 32)
    await expect.poll(each).toBeGreaterThanOrEqual(padded)
    expect(await each()).toBeLessThan(padded + 3)
  })

  const transfer = async (to: string) => {
    const server = inside(bob, process.execPath, '-e', receiverScript)
    await expect.poll(() => inside(bob, 'ss', '-ltn')).toContain(':7001')
    await inside(alice, process.execPath, '-e', senderScript(to))
    expect(await server).toBe(`${transferBytes} true\n`)
  }

  test.each([
    ['IPv4', '10.64.0.3'],
    ['IPv6', 'fd64::3'],
  ])('a large TCP transfer arrives whole, in runs of many segments (%s)', async (_family, to) => {
    const before = await countersOf(members)
    await transfer(to)
    const after = await countersOf(members)
    const [sender, receiver] = [growth(before[0], after[0]), growth(before[1], after[1])]
    expect(sender('udpSentSegments') / sender('udpSendCalls')).toBeGreaterThanOrEqual(30)
    expect(receiver('udpReceivedSegments') / receiver('udpReceiveCalls')).toBeGreaterThanOrEqual(20)
    expect(receiver('udpReceivedSegments') / receiver('deviceWrites')).toBeGreaterThanOrEqual(20)
  })

  test('addresses and routes of the interface are exactly those asked for', async () => {
    const routes = await inside(alice, 'ip', '-4', 'route', 'show', 'table', '28275', 'dev', 'nsm0')
    expect(routes).toMatch(/^10\.64\.0\.0\/16 proto static scope link metric \d+ *\n$/)
    const shown = await inside(alice, 'ip', '-o', 'address', 'show', 'dev', 'nsm0')
    expect(shown.match(/inet6? \S+/g)).toEqual(['inet 10.64.0.2/32', 'inet6 fd64::2/128'])
    const link = await inside(alice, 'ip', '-d', 'link', 'show', 'nsm0')
    expect(link).toContain('gso_max_segs 44')
    expect(link).toContain('qlen 2000')
  })

  test('E5: a route of the hub into the tunnel makes no loop: the datagrams are dropped and counted', async () => {
    const [before] = await countersOf(members)
    await inside(alice, 'ip', 'route', 'add', '192.0.2.3/32', 'dev', 'nsm0', 'src', '192.0.2.1')
    await inside(alice, 'ping', '-c', '5', '-i', '0.2', '-W', '1', '10.64.0.3').catch(() => '')
    const [after] = await countersOf(members)
    await inside(alice, 'ip', 'route', 'del', '192.0.2.3/32', 'dev', 'nsm0')
    const grown = (name: string) => (after?.[name] ?? 0) - (before?.[name] ?? 0)
    expect(grown('looped')).toBeGreaterThan(0)
    expect(grown('udpSentSegments')).toBeLessThan(20)
    expect(await pings(alice, '10.64.0.3')).toEqual([1, 2, 3])
  })

  test('a second tunnel of the same name is CONFLICT and names it', async () => {
    const second = new Program(alice, { ...memberConfig(0), listenPort: 0 })
    const { failed } = await second.next()
    expect(failed).toMatchObject({ code: 'CONFLICT', message: expect.stringContaining('nsm0') })
    await second.kill()
  })

  test('a tunnel on a taken UDP port is CONFLICT, names the port and leaves no interface', async () => {
    const second = new Program(alice, { ...memberConfig(0), interfaceName: 'nsm1' })
    const { failed } = await second.next()
    expect(failed).toMatchObject({ code: 'CONFLICT', message: expect.stringContaining('51820') })
    expect(await links(alice)).not.toContain('nsm1')
    await second.kill()
  })

  test('a route that another interface has is CONFLICT with both sides, and nothing is left', async () => {
    const taken = { interfaceName: 'nsm1', listenPort: 0, addresses: [], routes: ['192.0.0.0/16'] }
    const second = new Program(alice, { ...memberConfig(0), ...taken })
    const { failed } = await second.next()
    expect(failed).toMatchObject({ code: 'CONFLICT', message: '192.0.0.0/16 via nsm1 overlaps 192.0.2.0/24 on eth0' })
    await second.kill()
    expect(await links(alice)).not.toContain('nsm1')
  })

  test('a member that moved to another port is answered there', async () => {
    await members[1]?.ask('close')
    members[1] = await startProgram(bob, { ...memberConfig(1), listenPort: 40_001 })
    await members[1].ask(`handshake ${publicKeys[2]}`)
    expect(await pings(alice, '10.64.0.3')).toEqual([1, 2, 3])
  })

  test('a member without super-packets and segmentation sends and receives the same bytes', async () => {
    await members[0]?.ask('close')
    members[0] = await startProgram(alice, { ...memberConfig(0), singlePackets: true })
    await members[0].ask(`handshake ${publicKeys[2]}`)
    await transfer('10.64.0.3')
    await transfer('fd64::3')
    const [sender] = await countersOf(members)
    expect(sender).toMatchObject({ deviceWriteErrors: 0, udpSendErrors: 0 })
    expect(sender?.['udpSplits']).toBeGreaterThan(0)
    expect(sender?.['deviceReads']).toBeGreaterThan((2 * transferBytes) / 1_420)
  })

  test('after close, interface and routes are gone', async () => {
    expect(await members[1]?.ask('close')).toMatchObject({ done: 'close' })
    expect(await links(bob)).not.toContain('nsm0')
    expect(await inside(bob, 'ip', 'route')).not.toContain('10.64')
  })

  test('when the interface is deleted, the tunnel fails with LOST', async () => {
    const member = await startProgram(bob, memberConfig(1))
    await inside(bob, 'ip', 'link', 'del', 'nsm0')
    expect((await member.next()).failed).toMatchObject({ code: 'LOST' })
    await member.ask('close')
  })

  test('a process that is killed leaves neither interface nor route', async () => {
    const member = await startProgram(bob, memberConfig(1))
    expect(await links(bob)).toContain('nsm0')
    await member.kill()
    await expect.poll(() => links(bob)).not.toContain('nsm0')
  })

  test('the hub counts no packet it could not read', async () => {
    const { stats } = await middle.ask('stats')
    expect(stats?.counters).toMatchObject({ malformed: 0, badMac: 0, unauthentic: 0, spoofed: 0, udpSendErrors: 0 })
  })
})

const transferBytes = 40_000_000
const receiverScript = `
  let n=0,ok=true;const s=require('net').createServer(c=>{c.on('data',d=>{for(let i=0;i<d.length;i+=997)ok&&=d[i]===((n+i)%251);n+=d.length});
  c.on('end',()=>{console.log(n,ok);c.end();s.close()})}).listen(7001,'::')`
const senderScript = (to: string) => `
  const b=Buffer.alloc(251*40000);for(let i=0;i<b.length;i++)b[i]=i%251;const c=require('net').connect(7001,'${to}');
  let left=${transferBytes};(function more(){while(left>0){const p=b.subarray(0,Math.min(left,b.length));left-=p.length;if(!c.write(p))return c.once('drain',more)}c.end()})();
  c.on('close',()=>{}).resume()`

async function countersOf(members: readonly Program[]): Promise<Readonly<Record<string, number>>[]> {
  const answers = await Promise.all(members.map((member) => member.ask('stats')))
  return answers.map(({ stats }) => stats?.counters ?? {})
}

/** How much a counter grew. */
function growth(before: Readonly<Record<string, number>> = {}, after: Readonly<Record<string, number>> = {}) {
  return (name: string) => (after[name] ?? 0) - (before[name] ?? 0)
}
