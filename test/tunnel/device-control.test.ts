import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { type ControlledTunnel, DeviceControl } from '../../src/tunnel/device-control.ts'
import { keyToBase64, keyToHex } from '../../src/tunnel/key-text.ts'
import { errno, systemError } from '../../src/tunnel/sys/errno.ts'
import type { TunnelPeerStats } from '../../src/tunnel/tunnel-stats.ts'
import type { DeviceSettings } from '../../src/tunnel/uapi-set.ts'
import { generatePrivateKey, type PeerSettings, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'

const ownKey = generatePrivateKey()
const [alice, bob] = [generatePrivateKey(), generatePrivateKey()].map(publicKeyOf) as [Uint8Array, Uint8Array]
const publicKeyLine = (key: Uint8Array) => `public_key=${keyToHex(key)}`
const peerOf = (publicKey: Uint8Array, subnet: number): PeerSettings => ({
  publicKey,
  keepaliveSeconds: 0,
  endpoint: { address: '192.0.2.1', port: 51_820 },
  allowedPrefixes: [`10.0.${subnet}.0/24`],
})

/** A tunnel that writes down what it is told. */
class TunnelDouble implements ControlledTunnel {
  readonly did: string[] = []
  readonly endpoints: PeerSettings['endpoint'][] = []
  listenPort = 40_000
  peerStats: TunnelPeerStats[] = []
  failure: NsmError | undefined

  async setPeer({ publicKey, allowedPrefixes, endpoint }: PeerSettings) {
    if (this.failure) throw this.failure
    this.endpoints.push(endpoint)
    this.did.push(`set ${nameOf(publicKey)} ${allowedPrefixes.join(',')}`)
  }

  async removePeer(publicKey: Uint8Array) {
    this.did.push(`remove ${nameOf(publicKey)}`)
  }

  async restart({ listenPort }: Pick<DeviceSettings, 'listenPort'>) {
    if (listenPort === 1) throw systemError('port 1', errno.EADDRINUSE)
    this.did.push(`restart ${listenPort}`)
    this.listenPort = listenPort || 41_000
  }

  async setMark(fwmark: number) {
    if (fwmark === 1) throw systemError('mark 1', errno.EPERM)
    this.did.push(`mark ${fwmark}`)
  }

  async stats() {
    return { peers: this.peerStats, counters: {} }
  }
}

const nameOf = (key: Uint8Array) => (keyToHex(key) === keyToHex(alice) ? 'alice' : 'bob')

function control(settings: Partial<DeviceSettings> = {}) {
  const tunnel = new TunnelDouble()
  const whole = { privateKey: ownKey, listenPort: 0, fwmark: 0, peers: [peerOf(alice, 1), peerOf(bob, 2)], ...settings }
  return { tunnel, device: new DeviceControl(tunnel, whole, { wallMs: () => 1_700_000_000_250 }) }
}

describe('DeviceControl', () => {
  test('answers with settings, the open port, and how each peer is', async () => {
    const { tunnel, device } = control()
    tunnel.peerStats = [
      {
        publicKey: keyToBase64(bob),
        lastHandshakeAgeMs: 1_000,
        rttMs: 1,
        receivedBytes: 7,
        sentBytes: 8,
        spoofed: 0,
        endpoint: { address: 'fd00::1', port: 9 },
      },
    ]
    const zeros = '0'.repeat(64)
    expect(await device.get()).toEqual([
      `private_key=${keyToHex(ownKey)}`,
      'listen_port=40000',
      publicKeyLine(alice),
      `preshared_key=${zeros}`,
      'protocol_version=1',
      'endpoint=192.0.2.1:51820',
      'last_handshake_time_sec=0',
      'last_handshake_time_nsec=0',
      'tx_bytes=0',
      'rx_bytes=0',
      'persistent_keepalive_interval=0',
      'allowed_ip=10.0.1.0/24',
      publicKeyLine(bob),
      `preshared_key=${zeros}`,
      'protocol_version=1',
      'endpoint=[fd00::1]:9',
      'last_handshake_time_sec=1699999999',
      'last_handshake_time_nsec=250000000',
      'tx_bytes=8',
      'rx_bytes=7',
      'persistent_keepalive_interval=0',
      'allowed_ip=10.0.2.0/24',
    ])
  })

  test('tells one handshake as the same moment, whatever the ticks make of its age', async () => {
    const { tunnel, device } = control({ peers: [peerOf(bob, 2)] })
    const at = async (lastHandshakeAgeMs: number | undefined) => {
      const traffic = { rttMs: undefined, receivedBytes: 0, sentBytes: 0, spoofed: 0, endpoint: undefined }
      tunnel.peerStats = [{ publicKey: keyToBase64(bob), lastHandshakeAgeMs, ...traffic }]
      return (await device.get()).find((line) => line.startsWith('last_handshake_time_sec='))?.split('=')[1]
    }
    expect([await at(undefined), await at(5_000), await at(5_260), await at(4_740)]).toEqual([
      '0',
      ...Array.from({ length: 3 }, () => '1699999995'),
    ])
    expect(await at(100)).toBe('1700000000')
  })

  test('tells the tunnel the difference only', async () => {
    const { tunnel, device } = control()
    expect(await device.set([publicKeyLine(bob), 'allowed_ip=10.0.3.0/24'])).toBe(0)
    expect(await device.set([publicKeyLine(bob), 'allowed_ip=10.0.3.0/24'])).toBe(0)
    expect(await device.set(['listen_port=0', `private_key=${keyToHex(ownKey)}`])).toBe(0)
    expect(tunnel.did).toEqual(['set bob 10.0.2.0/24,10.0.3.0/24'])
  })

  test('moves a prefix from one peer to the other', async () => {
    const { tunnel, device } = control()
    await device.set([publicKeyLine(bob), 'allowed_ip=10.0.1.0/24'])
    expect(tunnel.did).toEqual(['set alice ', 'set bob 10.0.2.0/24,10.0.1.0/24'])
  })

  test('makes a peer anew when its preshared key changes', async () => {
    const { tunnel, device } = control()
    await device.set([publicKeyLine(alice), `preshared_key=${keyToHex(bob)}`])
    expect(tunnel.did).toEqual(['remove alice', 'set alice 10.0.1.0/24'])
  })

  test('removes peers', async () => {
    const { tunnel, device } = control()
    await device.set([publicKeyLine(alice), 'remove=true'])
    await device.set(['replace_peers=true'])
    expect(tunnel.did).toEqual(['remove alice', 'remove bob'])
    expect(device.settings.peers).toEqual([])
  })

  test('starts anew for another key or port, with all peers', async () => {
    const { tunnel, device } = control()
    await device.set(['listen_port=4500'])
    await device.set([`private_key=${keyToHex(generatePrivateKey())}`])
    const all = ['set alice 10.0.1.0/24', 'set bob 10.0.2.0/24']
    expect(tunnel.did).toEqual(['restart 4500', ...all, 'restart 4500', ...all])
    expect(device.settings.listenPort).toBe(4_500)
  })

  test('marks packets anew and tells the mark', async () => {
    const { tunnel, device } = control({ peers: [] })
    expect(await device.set(['fwmark=4294967295'])).toBe(0)
    expect(await device.get()).toEqual([`private_key=${keyToHex(ownKey)}`, 'listen_port=40000', 'fwmark=4294967295'])
    expect(await device.set(['fwmark=4294967295'])).toBe(0)
    expect(await device.set(['fwmark=0'])).toBe(0)
    expect(await device.get()).toHaveLength(2)
    expect(tunnel.did).toEqual(['mark 4294967295', 'mark 0'])
  })

  test('a mark that the system refuses is EPERM, one beside a taken port is as before, and nothing has changed', async () => {
    const { tunnel, device } = control()
    expect(await device.set(['fwmark=1', 'listen_port=4500', 'replace_peers=true'])).toBe(errno.EPERM)
    expect(tunnel.did).toEqual([])
    expect(await device.set(['fwmark=7', 'listen_port=1'])).toBe(errno.EADDRINUSE)
    expect(tunnel.did).toEqual(['mark 7', 'mark 0'])
    expect(device.settings).toMatchObject({ fwmark: 0, listenPort: 40_000, peers: [{}, {}] })
  })

  test('leaves a peer that moved where it is heard, until a request names another place', async () => {
    const { tunnel, device } = control({ peers: [peerOf(alice, 1)] })
    const moved = { address: '198.51.100.1', port: 7 }
    const stats = { lastHandshakeAgeMs: 1, rttMs: 1, receivedBytes: 0, sentBytes: 0, spoofed: 0 }
    tunnel.peerStats = [{ publicKey: keyToBase64(alice), ...stats, endpoint: moved }]
    await device.set(['listen_port=4500'])
    expect(tunnel.endpoints).toEqual([moved])
    await device.set([publicKeyLine(alice), 'endpoint=192.0.2.1:51820'])
    expect(tunnel.endpoints).toEqual([moved, { address: '192.0.2.1', port: 51_820 }])
  })

  test('pulls back a peer that moved when a request names the place it was opened with', async () => {
    const { tunnel, device } = control({ peers: [peerOf(alice, 1)] })
    const stats = { lastHandshakeAgeMs: 1, rttMs: 1, receivedBytes: 0, sentBytes: 0, spoofed: 0 }
    const endpoint = { address: '198.51.100.1', port: 7 }
    tunnel.peerStats = [{ publicKey: keyToBase64(alice), ...stats, endpoint }]
    await device.set([publicKeyLine(alice), 'endpoint=198.51.100.1:7'])
    expect(tunnel.endpoints).toEqual([])
    await device.set([publicKeyLine(alice), 'endpoint=192.0.2.1:51820'])
    expect(tunnel.endpoints).toEqual([{ address: '192.0.2.1', port: 51_820 }])
  })

  test('without a private key, peers are on paper until there is one', async () => {
    const { tunnel, device } = control()
    await device.set([`private_key=${'0'.repeat(64)}`])
    expect(tunnel.did).toEqual(['restart 0'])
    expect((await device.get())[0]).toBe('listen_port=41000')
    await device.set([publicKeyLine(alice), 'allowed_ip=10.0.9.0/24'])
    await device.set([`private_key=${keyToHex(ownKey)}`])
    expect(tunnel.did.slice(1)).toEqual(['restart 0', 'set alice 10.0.1.0/24,10.0.9.0/24', 'set bob 10.0.2.0/24'])
  })

  test("passes over a peer with the device's own key", async () => {
    const { tunnel, device } = control()
    expect(await device.set([publicKeyLine(publicKeyOf(ownKey)), 'allowed_ip=10.0.9.0/24'])).toBe(0)
    expect(tunnel.did).toEqual([])
    expect(device.settings.peers).toHaveLength(2)
  })

  test('a taken port is EADDRINUSE, and nothing has changed', async () => {
    const { tunnel, device } = control()
    expect(await device.set(['listen_port=1'])).toBe(errno.EADDRINUSE)
    expect(tunnel.did).toEqual([])
    expect(device.settings).toMatchObject({ listenPort: 40_000, peers: [{ publicKey: alice }, { publicKey: bob }] })
  })

  test.each([
    ['USAGE', errno.EINVAL],
    ['REFUSED', errno.ENOSPC],
    ['CONFLICT', errno.ENOSPC],
    ['PERMISSION', errno.EACCES],
    ['LOST', errno.EIO],
  ] as const)('a peer that the engine refuses with %s is left out', async (code, number) => {
    const { tunnel, device } = control({ peers: [peerOf(alice, 1)] })
    tunnel.failure = new NsmError(code, 'no', 'x')
    expect(await device.set([publicKeyLine(bob), 'allowed_ip=10.0.2.0/24'])).toBe(number)
    expect(device.settings.peers).toMatchObject([{ publicKey: alice }])
  })

  test('requests at the same time are done one after the other', async () => {
    const { device } = control({ peers: [] })
    const lines = (subnet: number) => [publicKeyLine(alice), `allowed_ip=10.0.${subnet}.0/24`]
    expect(await Promise.all([1, 2, 3].map((subnet) => device.set(lines(subnet))))).toEqual([0, 0, 0])
    expect(device.settings.peers[0]?.allowedPrefixes).toEqual(['10.0.1.0/24', '10.0.2.0/24', '10.0.3.0/24'])
  })
})
