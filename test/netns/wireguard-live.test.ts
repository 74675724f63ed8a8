import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { inside, makeNamespaces, ownName, pings, removeNamespaces, whyNot } from './tunnel-network.ts'
import { Files, hasWg, keyPair, nsmIn, WireguardPeer, wireguardGo } from './wireguard-peers.ts'

/* What is done to a tunnel while packets flow, by ip(8) and wg(8), against wireguard-go. */

const reason = whyNot() ?? (hasWg ? undefined : 'needs wg') ?? (wireguardGo.path ? undefined : 'needs wireguard-go')
const [ours, theirs, bridge] = [ownName('nsmtl-a'), ownName('nsmtl-b'), ownName('nsmtl-br')]
const [name, peerName] = [ownName('nsmtlw'), ownName('nsmtlp')]
const [us, them] = [keyPair(), keyPair()]
const whole = [1, 2, 3]

describe.skipIf(reason)(`a tunnel that is up${reason ? `: skipped, ${reason}` : ''}`, () => {
  const files = new Files()
  let peer: WireguardPeer
  const nsm = (...args: readonly string[]) => nsmIn(ours, files.dir, ...args)
  const wg = (...args: readonly string[]) => inside(ours, 'wg', ...args)
  const ip = (...args: readonly string[]) => inside(ours, 'ip', ...args)
  const there = (...more: readonly string[]) => pings(ours, '10.97.0.2', ...more)
  const here = () => pings(theirs, '10.97.0.1')
  /** Three pings that nobody should answer. */
  const silence = async () => {
    const lost = inside(ours, 'ping', '-c', '3', '-i', '0.1', '-W', '1', '10.97.0.2')
    await expect(lost).rejects.toMatchObject({ stdout: expect.stringContaining(' 100% packet loss') })
  }

  beforeAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    await makeNamespaces([ours, theirs], bridge)
  })
  beforeEach(async () => {
    peer = new WireguardPeer(wireguardGo, { namespace: theirs, interfaceName: peerName })
    const config = `[Interface]\nPrivateKey = ${them.privateKey}\nListenPort = 51820\n[Peer]\nPublicKey = ${us.publicKey}\nAllowedIPs = 10.97.0.1/32, fd97::1/128\n`
    await peer.start(files.write('peer.conf', config), ['10.97.0.2/24', 'fd97::2/64'], [])
    const file = `[Interface]\nPrivateKey = ${us.privateKey}\nAddress = 10.97.0.1/32, fd97::1/128\nListenPort = 51820\n[Peer]\nPublicKey = ${them.publicKey}\nAllowedIPs = 10.97.0.0/24, fd97::/64\nEndpoint = 192.0.2.2:51820\n`
    expect(await nsm('tunnel', 'up', files.write(`${name}.conf`, file))).toMatchObject({ code: 0 })
    expect(await there()).toEqual(whole)
  })
  afterEach(async () => {
    await nsm('tunnel', 'down', name)
    await peer.stop()
  })
  afterAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    files.remove()
  })

  test('follows the other end while it moves itself, in the same session', async () => {
    const session = await wg('show', name, 'latest-handshakes')
    const ends = [
      [ours, '192.0.2.101', '192.0.2.1'],
      [theirs, '192.0.2.102', '192.0.2.2'],
    ] as const
    const leaveFrom = (namespace: string, address: string) =>
      inside(namespace, 'ip', 'route', 'replace', '192.0.2.0/24', 'dev', 'eth0', 'src', address)
    try {
      for (const [namespace, address] of ends) {
        await inside(namespace, 'ip', 'address', 'add', `${address}/32`, 'dev', 'eth0')
      }
      await Promise.all(ends.map(([namespace, address]) => leaveFrom(namespace, address)))
      expect(await there()).toEqual(whole)
      expect(await wg('show', name, 'endpoints')).toContain('192.0.2.102:51820')
      expect(await peer.wg('show', peerName, 'endpoints')).toContain('192.0.2.101:51820')
      expect(await here()).toEqual(whole)
      expect(await wg('show', name, 'latest-handshakes')).toBe(session)
    } finally {
      for (const [namespace, address, before] of ends) {
        await leaveFrom(namespace, before)
        await inside(namespace, 'ip', 'address', 'del', `${address}/32`, 'dev', 'eth0')
      }
    }
  })

  test('forgets a peer that is removed while its handshake is under way, and meets it anew', async () => {
    const port = '51899'
    await wg('set', name, 'peer', them.publicKey, 'remove')
    const allowed = ['allowed-ips', '10.97.0.0/24']
    await wg('set', name, 'peer', them.publicKey, ...allowed, 'endpoint', `192.0.2.2:${port}`)
    await silence()
    await wg('set', name, 'peer', them.publicKey, 'remove')
    expect(await wg('show', name, 'peers')).toBe('')
    await peer.wg('set', peerName, 'listen-port', port)
    await silence()
    expect(await wg('show', name, 'latest-handshakes')).toBe('')
    await wg('set', name, 'peer', them.publicKey, ...allowed, 'endpoint', `192.0.2.2:${port}`)
    expect(await there()).toEqual(whole)
  })

  test('gives a prefix to the peer that got it last, and back', async () => {
    const other = keyPair().publicKey
    await wg('set', name, 'peer', other, 'allowed-ips', '10.97.0.0/24')
    expect(await wg('show', name, 'allowed-ips')).toContain(`${them.publicKey}\tfd97::/64\n`)
    await silence()
    await wg('set', name, 'peer', them.publicKey, 'allowed-ips', '10.97.0.0/24,fd97::/64')
    expect(await wg('show', name, 'allowed-ips')).toContain(`${other}\t(none)`)
    expect(await there()).toEqual(whole)
  })

  test('sends no keepalive at an interval of 0, and one after the other at 1', async () => {
    const sent = async () => Number((await peer.wg('show', peerName, 'transfer')).split('\t')[1])
    await wg('set', name, 'peer', them.publicKey, 'persistent-keepalive', '1')
    const before = await sent()
    await expect.poll(sent).toBeGreaterThan(before + 2 * 32)
    await wg('set', name, 'peer', them.publicKey, 'persistent-keepalive', '65535')
    expect(await wg('show', name, 'persistent-keepalive')).toContain('65535')
    await wg('set', name, 'peer', them.publicKey, 'persistent-keepalive', 'off')
    expect(await wg('show', name, 'persistent-keepalive')).toContain('off')
    expect(await there()).toEqual(whole)
  })

  test('cuts packets at the MTU that ip(8) sets, smaller and larger', async () => {
    for (const mtu of [1_280, 1_500]) {
      await ip('link', 'set', name, 'mtu', `${mtu}`)
      expect(await there('-s', '8000')).toEqual(whole)
    }
    await ip('link', 'set', name, 'mtu', '1280')
    const tooBig = inside(ours, 'ping', '-c', '1', '-M', 'do', '-s', '1300', '10.97.0.2')
    await expect(tooBig).rejects.toMatchObject({ stderr: expect.stringMatching(/[Mm]essage too long.*1280/) })
    expect(await there('-M', 'do', '-s', `${1_280 - 28}`)).toEqual(whole)
  })

  test('lives on through ip link set down and up; the kernel takes its routes, and nothing leaves until they are back', async () => {
    const session = await wg('show', name, 'latest-handshakes')
    await ip('link', 'set', name, 'down')
    const lost = inside(theirs, 'ping', '-c', '2', '-i', '0.2', '-W', '1', '10.97.0.1')
    await expect(lost).rejects.toMatchObject({ stdout: expect.stringContaining(' 100% packet loss') })
    await ip('link', 'set', name, 'up')
    await expect(ip('route', 'get', '10.97.0.2')).rejects.toMatchObject({ stderr: expect.stringContaining('No route') })
    await ip('route', 'add', '10.97.0.0/24', 'dev', name, 'table', '28275')
    expect(await there()).toEqual(whole)
    expect(await here()).toEqual(whole)
    expect(await wg('show', name, 'latest-handshakes')).toBe(session)
  })
})
