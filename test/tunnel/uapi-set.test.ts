import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keyToHex } from '../../src/tunnel/key-text.ts'
import { errno } from '../../src/tunnel/sys/errno.ts'
import { applySet, type DeviceSettings } from '../../src/tunnel/uapi-set.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'

const [privateKey, alice, bob, shared] = [1, 2, 3, 4].map(() => generatePrivateKey())
const hex = (key: Uint8Array | undefined) => keyToHex(key ?? new Uint8Array())
const nothing: DeviceSettings = { privateKey, listenPort: 0, fwmark: 0, peers: [] }
const zeros = '0'.repeat(64)

/** Both peers as they are at first. */
const both: DeviceSettings = {
  privateKey,
  listenPort: 51_820,
  fwmark: 0,
  peers: [alice, bob].map((publicKey = new Uint8Array(), i) => ({
    publicKey,
    keepaliveSeconds: 25,
    endpoint: { address: '192.0.2.1', port: 1_000 + i },
    allowedPrefixes: [`10.0.${i}.0/24`, `fd0${i}::/64`],
  })),
}

function settingsAfter(before: DeviceSettings, ...lines: string[]): DeviceSettings {
  const result = applySet(lines, before)
  if (typeof result === 'number') throw new Error(`errno ${result}`)
  return result
}

describe('applySet', () => {
  test('sets a device and a peer whole', () => {
    const set = settingsAfter(
      nothing,
      `private_key=${hex(bob)}`,
      'listen_port=4500',
      'fwmark=51820',
      'replace_peers=true',
      `public_key=${hex(alice)}`,
      `preshared_key=${hex(shared)}`,
      'endpoint=[fd00::1]:51820',
      'persistent_keepalive_interval=15',
      'replace_allowed_ips=true',
      'allowed_ip=10.1.2.3/16',
      'allowed_ip=fd01::/64',
      'protocol_version=1',
    )
    expect(set).toEqual({
      privateKey: bob,
      listenPort: 4_500,
      fwmark: 51_820,
      peers: [
        {
          publicKey: alice,
          presharedKey: shared,
          keepaliveSeconds: 15,
          endpoint: { address: 'fd00::1', port: 51_820 },
          allowedPrefixes: ['10.1.0.0/16', 'fd01::/64'],
        },
      ],
    })
  })

  test('leaves alone what it does not name', () => {
    expect(settingsAfter(both)).toEqual(both)
    const set = settingsAfter(both, `public_key=${hex(bob)}`, 'persistent_keepalive_interval=0')
    expect(set.peers[0]).toEqual(both.peers[0])
    expect(set.peers[1]).toEqual({ ...both.peers[1], keepaliveSeconds: 0 })
  })

  test('adds a prefix, takes one away, and replaces all', () => {
    const peer = `public_key=${hex(alice)}`
    const prefixes = (...lines: string[]) => settingsAfter(both, peer, ...lines).peers[0]?.allowedPrefixes
    expect(prefixes('allowed_ip=10.9.0.0/24')).toEqual(['10.0.0.0/24', 'fd00::/64', '10.9.0.0/24'])
    expect(prefixes('allowed_ip=-10.0.0.0/24')).toEqual(['fd00::/64'])
    expect(prefixes('replace_allowed_ips=true', 'allowed_ip=10.9.0.0/24')).toEqual(['10.9.0.0/24'])
  })

  test('moves a prefix to the peer that got it last', () => {
    const set = settingsAfter(both, `public_key=${hex(bob)}`, 'allowed_ip=10.0.0.0/24')
    expect(set.peers.map(({ allowedPrefixes }) => allowedPrefixes)).toEqual([
      ['fd00::/64'],
      ['10.0.1.0/24', 'fd01::/64', '10.0.0.0/24'],
    ])
  })

  test('removes one peer, or all of them', () => {
    expect(settingsAfter(both, `public_key=${hex(alice)}`, 'remove=true').peers).toEqual([both.peers[1]])
    expect(settingsAfter(both, 'replace_peers=true').peers).toEqual([])
    expect(settingsAfter(both, `public_key=${hex(shared)}`, 'remove=true').peers).toEqual(both.peers)
  })

  test('update_only makes no peer, and what follows it is for nobody', () => {
    const lines = ['update_only=true', 'allowed_ip=10.0.1.0/24', 'persistent_keepalive_interval=1']
    expect(settingsAfter(both, `public_key=${hex(shared)}`, ...lines)).toEqual(both)
    expect(settingsAfter(both, `public_key=${hex(alice)}`, ...lines).peers[0]).toMatchObject({ keepaliveSeconds: 1 })
  })

  test('a private key is told as it is used, and a peer with its public key is passed over', () => {
    const set = settingsAfter(both, `private_key=${'ff'.repeat(32)}`)
    expect(hex(set.privateKey)).toBe(`f8${'ff'.repeat(30)}7f`)
    const twin = generatePrivateKey()
    const peer = [`public_key=${hex(publicKeyOf(twin))}`, 'allowed_ip=10.0.0.0/24']
    const [self, ...others] = settingsAfter(both, ...peer).peers.toReversed()
    expect(self).toMatchObject({ allowedPrefixes: ['10.0.0.0/24'] })
    expect(others).toHaveLength(2)
    expect(settingsAfter(both, `private_key=${hex(twin)}`, ...peer).peers).toEqual(both.peers)
    expect(settingsAfter(settingsAfter(both, ...peer), `private_key=${hex(twin)}`).peers).toHaveLength(2)
  })

  test('a key of zeros is no key', () => {
    expect(settingsAfter(both, `private_key=${zeros}`).privateKey).toBeUndefined()
    const keyed = settingsAfter(both, `public_key=${hex(alice)}`, `preshared_key=${hex(shared)}`)
    expect(keyed.peers[0]).toHaveProperty('presharedKey')
    expect(settingsAfter(keyed, `public_key=${hex(alice)}`, `preshared_key=${zeros}`).peers[0]).not.toHaveProperty(
      'presharedKey',
    )
  })

  test.each([
    ['an unknown key', 'color=red'],
    ['a key of Object.prototype', 'constructor=1'],
    ['a short private key', 'private_key=00'],
    ['a private key that is no hex', `private_key=${'g'.repeat(64)}`],
    ['a port above 65535', 'listen_port=65536'],
    ['a port below 0', 'listen_port=-1'],
    ['a line without a name', '=1'],
    ['a mark above 32 bits', 'fwmark=4294967296'],
    ['a mark that is no decimal number', 'fwmark=0x10'],
    ['no mark', 'fwmark='],
    ['replace_peers=false', 'replace_peers=false'],
    ["a peer's key before a peer", 'allowed_ip=10.0.0.0/8'],
    ['a public key that is none', 'public_key=1'],
  ])('refuses %s with EINVAL', (_what, line) => {
    expect(applySet([line], both)).toBe(errno.EINVAL)
  })

  test.each([
    ['an endpoint without a port', 'endpoint=192.0.2.1'],
    ['an endpoint with port 0', 'endpoint=192.0.2.1:0'],
    ['an endpoint that is a name', 'endpoint=vpn.example.org:1'],
    ['an endpoint that is no address', 'endpoint=[::g]:1'],
    ['a prefix that is none', 'allowed_ip=10.0.0.0/33'],
    ['a device key', 'listen_port=1'],
    ['another protocol', 'protocol_version=2'],
    ['a keepalive that is no number', 'persistent_keepalive_interval=x'],
    ['remove=false', 'remove=false'],
  ])("refuses a peer's line with %s with EINVAL", (_what, line) => {
    expect(applySet([`public_key=${hex(alice)}`, line], both)).toBe(errno.EINVAL)
  })

  test('a line without = is EPROTO', () => {
    expect(applySet(['listen_port=1', 'private_key'], both)).toBe(errno.EPROTO)
  })

  test('what is said of a peer after its removal is for nobody', () => {
    const lines = [`public_key=${hex(alice)}`, 'remove=true', 'allowed_ip=10.0.1.0/24']
    expect(settingsAfter(both, ...lines).peers).toEqual([both.peers[1]])
  })

  test('refuses more peers than an engine holds with ENOSPC', () => {
    const lines = Array.from({ length: 4_097 }, (_, i) => `public_key=${i.toString(16).padStart(64, '0')}`)
    expect(applySet(lines, nothing)).toBe(errno.ENOSPC)
    expect(settingsAfter(nothing, ...lines.slice(1)).peers).toHaveLength(4_096)
  })

  test('answers any lines with settings or a number, and a prefix is never at two peers', () => {
    const name = fc.constantFrom('public_key', 'allowed_ip', 'endpoint', 'remove', 'update_only', 'listen_port', 'x')
    const value = fc.constantFrom(hex(alice), hex(bob), hex(shared), '10.0.0.0/24', '-10.0.0.0/24', 'true', '1', '')
    const line = fc.tuple(name, value).map((parts) => parts.join('='))
    const prefix = fc.constantFrom('allowed_ip=10.0.0.0/24', 'allowed_ip=fd00::/64', `public_key=${hex(alice)}`)
    fc.assert(
      fc.property(fc.array(fc.oneof(line, prefix), { maxLength: 12 }), (lines) => {
        const set = applySet(lines, both)
        const all = typeof set === 'number' ? [] : set.peers.flatMap(({ allowedPrefixes }) => allowedPrefixes)
        expect(new Set(all).size).toBe(all.length)
        if (typeof set === 'number') expect(set).toBe(errno.EINVAL)
      }),
      { numRuns: 2_000 },
    )
  })
})
