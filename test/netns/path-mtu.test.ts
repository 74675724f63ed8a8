import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import { inside, makeNamespaces, ownName, Program, pings, removeNamespaces, sh, whyNot } from './tunnel-network.ts'
import type { ProgramConfig } from './tunnel-program.ts'

/* lan - alice ~ hub ~ bob: alice's link carries 1380 bytes, so her tunnel 1320; lan and bob think of 1500 and 1420. Nobody
 * tells lan what fits: alice's machine drops the ICMP messages that would, as many firewalls do. */

const reason = whyNot()
const [alice, bob, hub, lan, bridge] = [
  ownName('nsma5-a'),
  ownName('nsma5-b'),
  ownName('nsma5-h'),
  ownName('nsma5-l'),
  ownName('nsma5-br'),
]
const keys = [alice, bob, hub].map(() => generatePrivateKey())
const text = (key: Uint8Array | undefined) => Buffer.from(key ?? []).toString('base64')
const publicKeys = keys.map((key) => text(publicKeyOf(key)))
const wireguardPort = 51_820
const underlayBytes = 1_380
const aliceBytes = underlayBytes - 60
const transferBytes = 3_000_000

const prefixesOf = (i: number) => [
  `10.64.0.${i + 2}/32`,
  `fd64::${i + 2}/128`,
  // The network behind alice.
  ...(i === 0 ? ['10.65.0.0/24', 'fd65::/64'] : []),
]
const config = (i: number): Partial<ProgramConfig> => ({
  privateKey: text(keys[i]),
  listenPort: wireguardPort,
  mtuBytes: i === 0 ? aliceBytes : 1_420,
  addresses: prefixesOf(i).slice(0, 2),
  routes: i === 0 ? ['10.64.0.0/16', 'fd64::/64'] : ['10.64.0.0/15', 'fd64::/64', 'fd65::/64'],
  peers: [
    {
      publicKey: publicKeys[2] ?? '',
      keepaliveSeconds: 25,
      endpoint: { address: '192.0.2.3', port: wireguardPort },
      allowedPrefixes: ['10.64.0.0/15', 'fd64::/64', 'fd65::/64'],
    },
  ],
})

describe.skipIf(reason)(`a path whose underlay carries less${reason ? `: skipped, ${reason}` : ''}`, () => {
  const programs: Program[] = []
  const start = async (namespace: string, settings: Partial<ProgramConfig>) => {
    const program = new Program(namespace, settings)
    programs.push(program)
    expect(await program.next(), program.log).toHaveProperty('ready')
    return program
  }

  beforeAll(async () => {
    await removeNamespaces([alice, bob, hub, lan, bridge])
    await makeNamespaces([alice, bob, hub], bridge)
    await inside(alice, 'ip', 'link', 'set', 'eth0', 'mtu', String(underlayBytes))
    await inside(bridge, 'ip', 'link', 'set', 'port0', 'mtu', String(underlayBytes))
    await joinLan()
    await start(hub, {
      role: 'hub',
      privateKey: text(keys[2]),
      listenPort: wireguardPort,
      gateways: ['10.64.0.1', 'fd64::1'],
      peers: [0, 1].map((i) => ({
        publicKey: publicKeys[i] ?? '',
        keepaliveSeconds: 0,
        mtuBytes: i === 0 ? aliceBytes : 1_420,
        allowedPrefixes: prefixesOf(i),
      })),
    })
    const members = [await start(alice, config(0)), await start(bob, config(1))]
    for (const member of members) expect(await member.ask(`handshake ${publicKeys[2]}`)).toHaveProperty('done')
  })

  afterAll(async () => {
    for (const program of programs) await program.kill()
    await removeNamespaces([alice, bob, hub, lan, bridge])
  })

  async function joinLan() {
    await sh('ip', 'netns', 'add', lan)
    await sh('ip', 'link', 'add', 'eth0', 'netns', lan, 'type', 'veth', 'peer', 'name', 'lan0', 'netns', alice)
    for (const [namespace, link, n] of [
      [lan, 'eth0', 2],
      [alice, 'lan0', 1],
    ] as const) {
      await inside(namespace, 'ip', 'address', 'add', `10.65.0.${n}/24`, 'dev', link)
      await inside(namespace, 'ip', 'address', 'add', `fd65::${n}/64`, 'dev', link, 'nodad')
      await inside(namespace, 'ip', 'link', 'set', link, 'up')
    }
    await inside(lan, 'ip', 'route', 'add', 'default', 'via', '10.65.0.1')
    await inside(lan, 'ip', '-6', 'route', 'add', 'default', 'via', 'fd65::1')
    const forward = ['net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1']
    for (const setting of forward) await inside(alice, 'sysctl', '-qw', setting)
    const drop = `table inet silent { chain out { type filter hook output priority 0;
      icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }`
    await inside(alice, 'sh', '-c', `echo '${drop}' | nft -f -`)
  }

  test.each([
    ['IPv4', '10.64.0.3', 28],
    ['IPv6', 'fd64::3', 48],
  ])('packets of the MTU that lan and bob believe in do not come through (%s)', async (_family, to, headers) => {
    const size = (bytes: number) => ['-M', 'do', '-s', String(bytes - headers)]
    expect(await pings(lan, to, ...size(aliceBytes))).toEqual([1, 2, 3])
    const lost = inside(lan, 'ping', '-c', '2', '-i', '0.2', '-W', '1', ...size(1_420), to)
    await expect(lost).rejects.toMatchObject({ stdout: expect.stringContaining(' 100% packet loss') })
  })

  test.each([
    ['IPv4', 'lan to bob', lan, bob, '10.64.0.3'],
    ['IPv6', 'lan to bob', lan, bob, 'fd64::3'],
    ['IPv4', 'bob to lan', bob, lan, '10.65.0.2'],
    ['IPv6', 'bob to lan', bob, lan, 'fd65::2'],
  ])('but TCP flows (%s, %s), because its segments fit', async (_family, _way, from, to, address) => {
    const received = inside(to, 'timeout', '150', process.execPath, '-e', receiver)
    await expect.poll(() => inside(to, 'ss', '-ltn')).toContain(':7001')
    const sent = await inside(from, 'timeout', '150', process.execPath, '-e', sender(address))
    expect(await received).toBe(`${transferBytes}\n`)
    expect(sent).toBe(`${aliceBytes - (address.includes(':') ? 60 : 40) - timestampBytes}\n`)
  })

  test.each([
    ['IPv4', '10.65.0.2'],
    ['IPv6', 'fd65::2'],
  ])('a datagram of bob that goes in parts comes through: he makes smaller ones (%s)', async (_family, to) => {
    const received = inside(lan, 'timeout', '150', process.execPath, '-e', datagramReceiver)
    const sent = inside(bob, process.execPath, '-e', datagramSender(to))
    expect(await received).toBe('3000\n')
    await sent
  })

  test.each([
    ['IPv4', '10.64.0.2', 28],
    ['IPv6', 'fd64::2', 48],
  ])('bob is told by the gateway what fits to alice (%s)', async (_family, to, headers) => {
    const ping = await inside(
      bob,
      'ping',
      '-c',
      '3',
      '-i',
      '0.2',
      '-W',
      '60',
      '-M',
      'do',
      '-s',
      String(1_400 - headers),
      to,
    ).catch((error) => String(error.stdout))
    expect(ping).toMatch(/100% packet loss/)
    expect(ping).toMatch(/(mtu ?= ?1320)/i)
    expect(await inside(bob, 'ip', 'route', 'get', to)).toContain('mtu 1320')
  })
})

/** Of the option in each segment. */
const timestampBytes = 12
const receiver = `let n=0;require('net').createServer((c)=>c.on('data',(d)=>{n+=d.length}).on('end',()=>{console.log(n);process.exit()})).listen(7001,'::')`
const sender = (
  to: string,
) => `const c=require('net').connect(7001,'${to}',()=>{c.write(Buffer.alloc(${transferBytes}),()=>{
  const all=require('child_process').execFileSync('ss',['-tin','dport','=',':7001'],{encoding:'utf8'});
  console.log(/ mss:(\\d+)/.exec(all)?.[1]);c.end()})})`
const datagramReceiver = `const s=require('dgram').createSocket('udp6').on('message',(m,from)=>{
  console.log(m.length);s.send('got it',from.port,from.address,()=>process.exit())}).bind(7002,'::')`
/** The first one is lost, and its sender told so. Ends with the first answer. */
const datagramSender = (to: string) => `const s=require('dgram').createSocket('${to.includes(':') ? 'udp6' : 'udp4'}');
  s.on('error',()=>{}).on('message',()=>process.exit()).connect(7002,'${to}',()=>setInterval(()=>s.send(Buffer.alloc(3000)),100))`
