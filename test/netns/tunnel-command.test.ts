import { execFile } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { inside, makeNamespaces, ownName, pings, removeNamespaces, whyNot } from './tunnel-network.ts'
import { Files, hasWg, keyPair, nsmIn, WireguardPeer, wireguardGo } from './wireguard-peers.ts'

/* `nsm tunnel up` in one namespace, wireguard-go in another; wg(8) on both. */

const reason = whyNot() ?? (hasWg ? undefined : 'needs wg') ?? (wireguardGo.path ? undefined : 'needs wireguard-go')
const [ours, theirs, bridge] = [ownName('nsmtc-a'), ownName('nsmtc-b'), ownName('nsmtc-br')]
const [name, peerName] = [ownName('nsmhwg'), ownName('nsmhgo')]
const [us, them] = [keyPair(), keyPair()]
const run = promisify(execFile)

/** Memory that a process holds [proc(5)]. */
function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}

describe.skipIf(reason)(`nsm tunnel${reason ? `: skipped, ${reason}` : ''}`, () => {
  const files = new Files()
  let peer: WireguardPeer

  const nsm = (...args: readonly string[]) => nsmIn(ours, files.dir, ...args)
  const wg = (...args: readonly string[]) => inside(ours, 'wg', ...args)
  const wgFile = (lines: { readonly device?: string; readonly peer?: string }) =>
    `[Interface]\nPrivateKey = ${us.privateKey}\n${lines.device ?? ''}\n[Peer]\nPublicKey = ${them.publicKey}\n${lines.peer ?? ''}\n`
  const config = wgFile({
    device: 'Address = 10.97.0.1/32, fd97::1/128\nListenPort = 51820',
    peer: 'AllowedIPs = 10.97.0.0/24, fd97::/64\nEndpoint = 192.0.2.2:51820\nPersistentKeepalive = 25',
  })

  beforeAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    await makeNamespaces([ours, theirs], bridge)
    files.write('resolv.conf', 'nameserver 192.0.2.9\n')
    peer = new WireguardPeer(wireguardGo, { namespace: theirs, interfaceName: peerName })
    const peerConfig = `[Interface]\nPrivateKey = ${them.privateKey}\nListenPort = 51820\n[Peer]\nPublicKey = ${us.publicKey}\nAllowedIPs = 10.97.0.1/32, fd97::1/128\n`
    await peer.start(files.write('peer.conf', peerConfig), ['10.97.0.2/24', 'fd97::2/64', '198.51.100.7/32'], [])
  })

  afterAll(async () => {
    await nsm('tunnel', 'down', name)
    await nsm('disconnect')
    await peer?.stop()
    await removeNamespaces([ours, theirs, bridge])
    files.remove()
  })

  test('up opens it as the file says: packets of both families, addresses, routes', async () => {
    const up = await nsm('tunnel', 'up', files.write(`${name}.conf`, config))
    expect(up).toMatchObject({ code: 0, err: '' })
    expect(up.out).toContain(`${name}  up  10.97.0.1/32,fd97::1/128  udp 51820  mtu 1420`)
    expect(await pings(ours, '10.97.0.2')).toEqual([1, 2, 3])
    expect(await pings(ours, 'fd97::2')).toEqual([1, 2, 3])
    const link = await inside(ours, 'ip', '-o', 'link', 'show', name)
    expect(link).toContain('mtu 1420')
    const routes = await inside(ours, 'ip', '-4', 'route', 'show', 'table', '28275')
    expect(routes).toContain(`10.97.0.0/24 dev ${name}`)
    expect(routes).toContain('unreachable 10.97.0.0/24')
  })

  test('status and --json tell of its peers', async () => {
    const text = await nsm('tunnel', 'status')
    expect(text.out).toContain(`peer ${them.publicKey} at 192.0.2.2:51820, handshake`)
    const json = JSON.parse((await nsm('tunnel', 'status', '--json')).out)
    expect(json.tunnels[0]).toMatchObject({ interfaceName: name, state: 'up', publicKey: us.publicKey })
    expect(json.tunnels[0].peers[0].receivedBytes).toBeGreaterThan(0)
    expect(JSON.stringify(json)).not.toContain(us.privateKey)
  })

  test('a second up of the name is CONFLICT', async () => {
    const again = await nsm('tunnel', 'up', join(files.dir, `${name}.conf`))
    expect(again).toMatchObject({ code: 8, err: expect.stringContaining(`the tunnel ${name} is up already`) })
  })

  test('wg show tells what it tells of a kernel interface', async () => {
    const shown = await wg('show', name)
    for (const line of [
      `interface: ${name}`,
      `public key: ${us.publicKey}`,
      'listening port: 51820',
      `peer: ${them.publicKey}`,
      'endpoint: 192.0.2.2:51820',
      'allowed ips: 10.97.0.0/24, fd97::/64',
      'persistent keepalive: every 25 seconds',
    ])
      expect(shown).toContain(line)
    expect(shown).toMatch(/latest handshake: .*(second|Now)/)
    expect(shown).toMatch(/transfer: \d.* received, \d.* sent/)
    expect(await wg('show', 'interfaces')).toContain(name)
    expect(statSync(`/var/run/wireguard/${name}.sock`).mode & 0o777).toBe(0o600)
  })

  test('wg showconf gives a file that wg syncconf takes, and packets go on', async () => {
    const shown = await wg('showconf', name)
    expect(shown).toContain(`PrivateKey = ${us.privateKey}`)
    expect(shown).toContain('ListenPort = 51820')
    const before = await wg('show', name, 'latest-handshakes')
    await wg('syncconf', name, files.write('sync.conf', shown))
    expect(await wg('show', name, 'latest-handshakes')).toBe(before)
    expect(await wg('showconf', name)).toBe(shown)
    expect(await pings(ours, '10.97.0.2')).toEqual([1, 2, 3])
  })

  test('wg set adds, changes and removes peers', async () => {
    const other = keyPair().publicKey
    await wg('set', name, 'peer', other, 'allowed-ips', '10.98.0.0/16,fd98::/64', 'endpoint', '[fd99::2]:4500')
    expect(await wg('show', name, 'endpoints')).toContain(`${other}\t[fd99::2]:4500`)
    await wg('set', name, 'peer', other, 'allowed-ips', '10.98.1.0/24', 'persistent-keepalive', '7')
    expect(await wg('show', name, 'allowed-ips')).toContain(`${other}\t10.98.1.0/24`)
    expect(await wg('show', name, 'persistent-keepalive')).toContain(`${other}\t7`)
    await wg('set', name, 'peer', other, 'remove')
    expect(await wg('show', name, 'peers')).toBe(`${them.publicKey}\n`)
  })

  test('wg set of a preshared key on both sides keeps packets going, and wg says it', async () => {
    const shared = files.write('psk', keyPair().privateKey)
    await wg('set', name, 'peer', them.publicKey, 'preshared-key', shared)
    await peer.wg('set', peerName, 'peer', us.publicKey, 'preshared-key', shared)
    expect(await wg('show', name, 'preshared-keys')).not.toContain('(none)')
    await expect
      .poll(() => inside(ours, 'ping', '-c', '1', '-W', '1', '10.97.0.2').catch(String))
      .toContain(' 0% packet loss')
  })

  test('wg set of another UDP port and another key takes effect at once', async () => {
    await wg('set', name, 'listen-port', '51899')
    expect(await inside(ours, 'ss', '-Hlun')).toContain(':51899')
    expect(await inside(ours, 'ss', '-Hlun')).not.toContain(':51820')
    expect(await pings(ours, '10.97.0.2')).toEqual([1, 2, 3])
    expect(await peer.wg('show', peerName, 'endpoints')).toContain('192.0.2.1:51899')
    const fresh = keyPair()
    await wg('set', name, 'private-key', files.write('key', fresh.privateKey))
    await peer.wg('set', peerName, 'peer', us.publicKey, 'remove')
    const peerArgs = ['peer', fresh.publicKey, 'allowed-ips', '10.97.0.1/32,fd97::1/128']
    await peer.wg('set', peerName, ...peerArgs, 'preshared-key', join(files.dir, 'psk'))
    expect(await pings(ours, '10.97.0.2')).toEqual([1, 2, 3])
    expect(await wg('show', name, 'public-key')).toBe(`${fresh.publicKey}\n`)
  })

  test('wg set of a port that is taken fails with its reason and changes nothing', async () => {
    const script = `require('dgram').createSocket('udp6').bind(51898, () => console.log('bound'))`
    const before = await wg('showconf', name)
    const taken = run('ip', ['netns', 'exec', ours, process.execPath, '-e', script])
    await expect.poll(() => inside(ours, 'ss', '-Hlun')).toContain(':51898')
    const set = wg('set', name, 'listen-port', '51898', 'fwmark', '7')
    await expect(set).rejects.toMatchObject({ stderr: expect.stringContaining('Address already in use') })
    taken.child.kill()
    await taken.catch(() => {})
    expect(await wg('showconf', name)).toBe(before)
  })

  test('another user may not open the control socket', async () => {
    const asNobody = inside(ours, 'setpriv', '--reuid', '65534', '--clear-groups', 'wg', 'show', name)
    await expect(asNobody).rejects.toMatchObject({ stderr: expect.stringContaining('ermission denied') })
  })

  test('100,000 datagrams of a stranger, random and nearly right, get no byte back and keep no memory', async () => {
    const stranger = join(import.meta.dirname, 'wireguard-stranger.ts')
    const flood = (count: number) =>
      inside(theirs, process.execPath, stranger, 'garbage', '192.0.2.1', '51899', `${count}`)
    const drops = async () => {
      const { counters } = JSON.parse((await nsm('tunnel', 'status', '--json')).out).tunnels[0]
      const names = ['malformed', 'badMac', 'unknownIndex', 'unauthentic', 'replayed']
      return names.reduce((sum, one) => sum + counters[one], 0)
    }
    await flood(5_000)
    const { pid } = JSON.parse((await nsm('version', '--json')).out).daemon
    const before = { bytes: residentBytes(pid), drops: await drops() }
    // What a busy machine does not take in time is lost before it reaches us.
    do expect(JSON.parse(await flood(100_000))).toEqual({ sent: 100_000, received: 0 })
    while ((await drops()) - before.drops < 50_000)
    await expect.poll(() => residentBytes(pid) - before.bytes).toBeLessThan(8 * 1024 * 1024)
    expect(await pings(ours, '10.97.0.2')).toEqual([1, 2, 3])
  })

  test('down takes everything back, and is no failure when nothing is up', async () => {
    expect((await nsm('tunnel', 'down', name)).out).toBe(`${name}  ended\n`)
    expect(await inside(ours, 'ip', '-o', 'link')).not.toContain(name)
    expect(existsSync(`/var/run/wireguard/${name}.sock`)).toBe(false)
    for (const family of ['-4', '-6']) {
      expect(await inside(ours, 'ip', family, 'rule')).not.toContain('28275')
      expect(await inside(ours, 'ip', family, 'route', 'show', 'table', 'all')).not.toMatch(/10\.97|fd97|28275/)
    }
    expect(await nsm('tunnel', 'down', join(files.dir, `${name}.conf`))).toMatchObject({ code: 0 })
  })

  test('a default route takes everything but the networks of this machine, and goes without a trace', async () => {
    const rules = await inside(ours, 'ip', 'rule')
    const fullFile = wgFile({
      device: 'Address = 10.97.0.1/32',
      peer: 'AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.2:51820',
    })
    await peer.wg('set', peerName, 'peer', us.publicKey, 'allowed-ips', '10.97.0.1/32', 'preshared-key', '/dev/null')
    expect(await nsm('tunnel', 'up', files.write(`${name}.conf`, fullFile))).toMatchObject({ code: 0, err: '' })
    expect(await inside(ours, 'ip', 'route', 'get', '198.51.100.7')).toContain(`dev ${name}`)
    expect(await inside(ours, 'ip', 'route', 'get', '192.0.2.2')).toContain('dev eth0')
    expect(await pings(ours, '198.51.100.7')).toEqual([1, 2, 3])
    await nsm('tunnel', 'down', name)
    expect(await inside(ours, 'ip', 'rule')).toBe(rules)
  })

  test('a background process that is killed leaves neither rule nor route of a default route, nor its control socket', async () => {
    const rules = await inside(ours, 'ip', 'rule')
    expect(await nsm('tunnel', 'up', join(files.dir, `${name}.conf`))).toMatchObject({ code: 0 })
    expect(await inside(ours, 'ip', 'rule')).toContain('suppress_prefixlength 0')
    process.kill(JSON.parse((await nsm('version', '--json')).out).daemon.pid, 'SIGKILL')
    await expect.poll(() => inside(ours, 'ip', 'rule')).toBe(rules)
    expect(await inside(ours, 'ip', 'route', 'show', 'table', 'all')).not.toContain('28277')
    await expect.poll(() => existsSync(`/var/run/wireguard/${name}.sock`)).toBe(false)
    expect(await nsm('tunnel', 'down', name)).toMatchObject({ code: 0 })
  })

  test('a tunnel whose interface is deleted is failed, says so, and its prefixes lead nowhere else', async () => {
    await nsm('tunnel', 'up', files.write(`${name}.conf`, config))
    await inside(ours, 'ip', 'route', 'add', 'default', 'via', '192.0.2.2')
    await inside(ours, 'ip', 'link', 'del', name)
    await expect.poll(async () => (await nsm('tunnel', 'status')).out).toContain('LOST')
    await expect(inside(ours, 'ip', 'route', 'get', '10.97.0.2')).rejects.toMatchObject({
      stderr: expect.stringContaining('No route to host'),
    })
    expect((await nsm('tunnel', 'down', name)).code).toBe(0)
    await inside(ours, 'ip', 'route', 'del', 'default')
  })

  test.each([
    ['a command', wgFile({ device: 'PostUp = touch /ran' }), 2, ':3: PostUp is a command'],
    [
      "a prefix of this machine's network",
      wgFile({ peer: 'AllowedIPs = 192.0.0.0/16' }),
      8,
      'overlaps 192.0.2.0/24 on eth0',
    ],
    ['a peer that is the device itself', wgFile({}).replace(them.publicKey, us.publicKey), 2, 'no peer can have'],
    ['an endpoint without an address', wgFile({ peer: 'Endpoint = nowhere.invalid:1' }), 7, 'nowhere.invalid'],
  ])('a file with %s is refused, and nothing is left', async (_what, text, code, words) => {
    const up = await nsm('tunnel', 'up', files.write(`${name}.conf`, text))
    expect(up).toMatchObject({ code, err: expect.stringContaining(words) })
    expect(await inside(ours, 'ip', '-o', 'link')).not.toContain(name)
    expect(await inside(ours, 'ip', 'rule')).not.toContain('28275')
  })
})
