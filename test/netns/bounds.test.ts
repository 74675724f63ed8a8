import { spawn } from 'node:child_process'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { eventually, MeshRig, nameOf, service, whyNotHere } from './mesh-rig.ts'

const why = whyNotHere()

/* What an endpoint and a network may do to a member, row by row [security 5], on real packets.
 * s: the server        a: the member        x: somebody else on the same network */

describe.skipIf(why !== undefined)(`the bounds of a member, in namespaces${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let device = ''

  const on = (machine: string, line: string) => rig.inside(machine, line.split(' ')[0] ?? '', line.split(' ').slice(1))
  const view = async () => (await rig.status('a')).connections[0]
  const becomes = (state: string) => eventually(async () => (await view())?.state === state)
  const pings = () => rig.pings('a', '10.64.0.0')
  const wayTo = async (address: string) => (await on('a', `ip route get ${address}`)).out
  /** Inner packets that left by the network instead of the tunnel since the capture began. */
  const leaked = async () => /packets (\d+)/.exec((await on('a', 'nft list table inet capture')).out)?.[1]

  beforeAll(async () => {
    rig = await MeshRig.open('nsmfb', ['s', 'a', 'x'])
    const join = await rig.file('join-a', await rig.serve())
    const connected = await rig.nsm('a', 'connect', service, '--name', 'a', '--timeout', '60s', '--join', join)
    expect(connected.code, connected.err).toBe(0)
    device = (await view())?.interfaceName ?? ''
    await on('a', 'nft add table inet capture')
    await on('a', 'nft add chain inet capture out { type filter hook postrouting priority 0; }')
    await on('a', 'nft add rule inet capture out oifname eth0 ip daddr 10.64.0.0/16 counter')
  })

  afterEach(async () => {
    await becomes('up')
    expect(await leaked()).toBe('0')
  })
  afterAll(() => rig.close())

  test('E5: its own packets that are led into the tunnel by hand do not go round in it', async () => {
    const sent = async () => Number((await on('a', `cat /sys/class/net/${device}/statistics/tx_bytes`)).out)
    const before = await sent()
    await on('a', `ip route add 192.0.2.1 dev ${device}`)
    await becomes('healing')
    expect((await sent()) - before).toBeLessThan(65_536)
    expect((await view())?.error?.code).toMatch(/LOST|UNREACHABLE/)
    await on('a', `ip route del 192.0.2.1 dev ${device}`)
  })

  test('E6: a route that a rogue DHCP server gives takes no packet out of the tunnel, and is said', async () => {
    for (const prefix of ['10.64.0.0/16', '10.64.0.0/24', '10.64.0.0/32']) {
      expect((await on('a', `ip route add ${prefix} via 192.0.2.3`)).code).toBe(0)
    }
    expect(await wayTo('10.64.0.0')).toContain(`dev ${device}`)
    expect(await pings()).toBe(true)
    await eventually(async () => (await view())?.error?.code === 'CONFLICT')
    expect(await view()).toMatchObject({ state: 'up', error: { message: expect.stringMatching(/on eth0/) } })
    for (const prefix of ['10.64.0.0/16', '10.64.0.0/24', '10.64.0.0/32']) await on('a', `ip route del ${prefix}`)
    await eventually(async () => (await view())?.error === undefined)
  })

  test('E6: a network that the machine joins comes first; the service is back when it is left', async () => {
    await on('a', 'ip addr add 10.64.200.5/24 dev eth0')
    const error = { code: 'CONFLICT', message: expect.stringContaining('10.64.200.0/24') }
    await expect.poll(view).toMatchObject({ state: 'healing', error })
    expect(await wayTo('10.64.200.9')).toContain('dev eth0')
    await on('a', 'ip addr del 10.64.200.5/24 dev eth0')
    await becomes('up')
    expect(await pings()).toBe(true)
    expect((await on('a', `getent ahostsv4 ${nameOf('a')}`)).out).toContain('10.64.0.1')
  })

  test('E7: while there is no tunnel, packets to the service are refused and none leaves in clear', async () => {
    await on('a', 'ip route add default via 192.0.2.3')
    const unblock = await rig.block('s', 'tcp dport 5001 drop')
    await on('a', `ip link del ${device}`)
    await becomes('healing')
    const refused = await on('a', 'ping -c 1 -W 1 10.64.0.9')
    expect([refused.code, refused.err + refused.out]).toEqual([
      expect.any(Number),
      expect.stringMatching(/No route|unreachable/i),
    ])
    expect(await wayTo('203.0.113.1')).toContain('via 192.0.2.3')
    await unblock()
    await becomes('up')
    await on('a', 'ip route del default')
    expect(await pings()).toBe(true)
  })

  test('E8: a name in the zone of the service has no IPv6 address from anybody else', async () => {
    await on('x', 'ip addr add 192.0.2.254/24 dev eth0')
    const liar = spawn('ip', ['netns', 'exec', `${rig.prefix}-x`, process.execPath, '-e', lyingResolver])
    const ask = async (machine: string, name: string) => {
      const script = `require('node:dns').resolve6('${name}', (e, found) => console.log(e ? e.code : String(found)))`
      return (await rig.inside(machine, process.execPath, ['-e', script])).out.trim()
    }
    await eventually(async () => (await ask('a', 'elsewhere.example')) === '2001:db8::66')
    expect((await rig.nsm('a', 'connect', service, '--dns-mode', 'exclusive', '--timeout', '60s')).code).toBe(0)
    expect(await ask('a', nameOf('a'))).toMatch(/ENODATA|ENOTFOUND/)
    expect(await ask('a', 'elsewhere.example')).toBe('2001:db8::66')
    expect((await on('x', 'ip addr del 192.0.2.254/24 dev eth0')).code).toBe(0)
    liar.kill('SIGKILL')
  })

  test('E8: IPv6 of the machine is as it was', async () => {
    const found = await Promise.all(['rule', 'route show table 28275'].map((what) => on('a', `ip -6 ${what}`)))
    expect(found.map(({ out }) => out).join('')).not.toContain('28275')
  })

  test('E9: the neighbour reaches the machine, and not its address in the tunnel', async () => {
    await on('x', 'ip route add 10.64.0.1 via 192.0.2.2')
    expect(await rig.pings('x', '192.0.2.2')).toBe(true)
    expect(await rig.reaches('x', '10.64.0.1')).toBe(false)
    expect(await pings()).toBe(true)
  })

  test('E10: no machine was made a router', async () => {
    const { out } = await on('a', 'sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding')
    expect(out.split('\n').filter((line) => line !== '')).toEqual(['0', '0'])
  })
})

describe.skipIf(why !== undefined)(`what a member leaves behind${why ? `: skipped, ${why}` : ''}`, () => {
  let rig: MeshRig
  let untouched = ''

  beforeAll(async () => {
    rig = await MeshRig.open('nsmfl', ['s', 'a'])
    untouched = await rig.fingerprint('a')
    const join = await rig.file('join-a', await rig.serve())
    const connected = await rig.nsm('a', 'connect', service, '--name', 'a', '--timeout', '60s', '--join', join)
    expect(connected.code, connected.err).toBe(0)
  })
  afterAll(() => rig.close())

  test('M16: a killed background process is cleaned up after at once, by nobody’s command', async () => {
    await rig.signalDaemon('a', 'SIGKILL')
    await eventually(async () => (await rig.fingerprint('a')) === untouched)
  })

  test('M16: leaving puts everything back', async () => {
    expect((await rig.nsm('a', 'connect', service, '--name', 'a', '--timeout', '60s')).code).toBe(0)
    expect(await rig.fingerprint('a')).not.toBe(untouched)
    expect((await rig.nsm('a', 'disconnect')).code).toBe(0)
    expect(await rig.fingerprint('a')).toBe(untouched)
  })
})

/** Answers every question for an IPv6 address with one. */
const lyingResolver = `const socket = require('node:dgram').createSocket('udp4')
  socket.on('message', (asked, from) => {
    const end = asked.indexOf(0, 12) + 5
    const answer = Buffer.concat([asked.subarray(0, end), Buffer.from('c00c001c00010000003c0010', 'hex'),
      Buffer.from('20010db8000000000000000000000066', 'hex')])
    answer.writeUInt16BE(0x8180, 2)
    answer.writeUInt16BE(asked.readUInt16BE(end - 4) === 28 ? 1 : 0, 6)
    answer.writeUInt16BE(0, 10)
    const isSix = asked.readUInt16BE(end - 4) === 28
    socket.send(isSix ? answer : answer.subarray(0, end), from.port, from.address)
  })
  socket.bind(53, '192.0.2.254')`
