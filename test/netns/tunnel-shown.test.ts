import { existsSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keyToBase64 } from '../../src/tunnel/key-text.ts'
import { openShownTunnel } from '../../src/tunnel/shown-tunnel.ts'
import type { Tunnel } from '../../src/tunnel/tunnels.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { enterNamespace, inside, makeNamespaces, ownName, removeNamespaces, whyNot } from './tunnel-network.ts'
import { hasWg } from './wireguard-peers.ts'

/* The tunnel of a connection, as wg(8) sees it; this thread itself is inside a namespace. */

const reason = whyNot() ?? (hasWg ? undefined : 'needs wg')
const [namespace, bridge, name] = [ownName('nsmh-shown'), ownName('nsmh-shbr'), ownName('nsmhs')]
const privateKey = generatePrivateKey()
const peer = {
  publicKey: publicKeyOf(generatePrivateKey()),
  presharedKey: generatePrivateKey(),
  keepaliveSeconds: 25,
  endpoint: { address: '192.0.2.9', port: 51_820 },
  allowedPrefixes: ['10.64.0.0/16'],
}
const peerKey = keyToBase64(peer.publicKey)

describe.skipIf(reason)(`openShownTunnel${reason ? `: skipped, ${reason}` : ''}`, () => {
  let leave = () => {}
  let tunnel: Tunnel
  const wg = (...args: readonly string[]) => inside(namespace, 'wg', ...args)
  const open = (interfaceName: string) =>
    openShownTunnel({ interfaceName, privateKey, listenPort: 0, mtuBytes: 1_420, peers: [peer] })

  beforeAll(async () => {
    await removeNamespaces([namespace, bridge])
    await makeNamespaces([namespace], bridge)
    leave = enterNamespace(namespace)
    tunnel = await open(name)
  })
  afterAll(async () => {
    await tunnel?.close()
    leave()
    await removeNamespaces([namespace, bridge])
  })

  test('wg show tells its key, port and peers', async () => {
    const shown = await wg('show', name)
    expect(shown).toContain(`public key: ${keyToBase64(publicKeyOf(privateKey))}`)
    expect(shown).toContain(`listening port: ${tunnel.listenPort}`)
    expect(shown).toContain(`peer: ${peerKey}\n  preshared key: (hidden)\n  endpoint: 192.0.2.9:51820`)
  })

  test('wg show follows its peers', async () => {
    const { presharedKey: _, ...changed } = { ...peer, allowedPrefixes: ['10.65.0.0/16'] }
    await tunnel.setPeer(changed)
    expect(await wg('show', name, 'allowed-ips')).toBe(`${peerKey}\t10.65.0.0/16\n`)
    expect(await wg('show', name, 'preshared-keys')).toBe(`${peerKey}\t${keyToBase64(peer.presharedKey)}\n`)
    await tunnel.removePeer(peer.publicKey)
    expect(await wg('show', name, 'peers')).toBe('')
    await tunnel.setPeer(peer)
  })

  test('wg set may not change it', async () => {
    const set = wg('set', name, 'peer', peerKey, 'remove')
    await expect(set).rejects.toMatchObject({ stderr: expect.stringContaining('Operation not permitted') })
    expect(await wg('show', name, 'peers')).toBe(`${peerKey}\n`)
  })

  test('another interface of a name that is served works and is not shown', async () => {
    const shown = await wg('show', name)
    await inside(namespace, 'ip', 'link', 'set', name, 'name', `${name}2`)
    const second = await open(name)
    expect((await second.stats()).peers).toHaveLength(1)
    await second.close()
    expect(await wg('show', name)).toBe(shown)
    await inside(namespace, 'ip', 'link', 'set', `${name}2`, 'name', name)
  })

  test('its socket goes with its interface, and with it', async () => {
    const path = `/var/run/wireguard/${name}.sock`
    await inside(namespace, 'ip', 'link', 'del', name)
    await tunnel.failed
    await expect.poll(() => existsSync(path)).toBe(false)
    await tunnel.close()
    tunnel = await open(name)
    expect(existsSync(path)).toBe(true)
    await tunnel.close()
    expect(existsSync(path)).toBe(false)
  })
})
