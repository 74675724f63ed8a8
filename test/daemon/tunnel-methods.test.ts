import { beforeEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { createLog } from '../../src/base/log.ts'
import type { AttachedNames } from '../../src/connection/names.ts'
import { createTunnelApi } from '../../src/daemon/tunnel-methods.ts'
import type { TunnelMachine, TunnelParts } from '../../src/daemon/tunnel-open.ts'
import { keyToBase64 } from '../../src/tunnel/key-text.ts'
import type { RestartableTunnel, TunnelConfig } from '../../src/tunnel/tunnels.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/keys.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const own = keyToBase64(generatePrivateKey())
const peerKey = keyToBase64(publicKeyOf(generatePrivateKey()))
const file = (device: string, peer: string) =>
  `[Interface]\nPrivateKey=${own}\n${device}\n[Peer]\nPublicKey=${peerKey}\n${peer}`
const plain = file('Address=10.9.0.1/24', 'AllowedIPs=10.9.0.0/24\nEndpoint=192.0.2.1:51820')
const forever = new AbortController().signal

/** What was done to the machine, in order; a step of this name fails. */
let did: string[] = []
let failing = ''
let opened: TunnelConfig | undefined
let attached: AttachedNames | undefined
let counts: number[] = []
let fail: (error: NsmError) => void = () => {}

const step = (name: string) => {
  if (name === failing) throw new NsmError('CONFLICT', `${name} is taken`, 'x')
  did.push(name)
}

const machine: TunnelMachine = {
  async openRestartableTunnel(config) {
    step('tunnel')
    opened = config
    const failed = new Promise<NsmError>((resolve) => {
      fail = resolve
    })
    const tunnel: RestartableTunnel = {
      interfaceName: config.interfaceName,
      listenPort: config.listenPort || 40_000,
      failed,
      setPeer: async () => {},
      removePeer: async () => {},
      handshake: async () => {},
      setMark: async () => {},
      restart: async () => {},
      setMtu: async () => {},
      stats: async () => ({ peers: [], counters: { spoofed: 2 } }),
      heard: () => 0,
      close: async () => step('tunnel closed'),
    }
    return tunnel
  },
  async configureInterface({ addresses, routes }) {
    step(`configure ${addresses.join()} ${routes.join()}`)
    return async () => step('unconfigured')
  },
  openFence: async () => ({
    set: async ({ prefixes }) => step(`guard ${prefixes.join()}`),
    close: async () => step('guards removed'),
  }),
  async openUapi(name) {
    step('control')
    return { path: `/sockets/${name}`, close: async () => step('control closed') }
  },
  routeTo: async (address) =>
    address.endsWith('.9') ? undefined : { interfaceName: 'eth0', sourceAddress: '192.0.2.7', mtuBytes: 1_400 },
  lookUp: async (name, family) => {
    if (name === 'vpn.example' && family === 4) return ['198.51.100.9', '198.51.100.1']
    throw new NsmError('NOT_FOUND', 'no such name', 'x')
  },
}

function api() {
  const parts: TunnelParts = {
    machine,
    names: {
      attach: async (owner, names) => {
        step(`attach ${owner}`)
        attached = names
      },
      detach: async (owner) => step(`detach ${owner}`),
    },
    journal: { add: async (name) => step(`journal ${name}`), remove: async (name) => step(`forget ${name}`) },
    clock: createFakeClock(0),
    log: createLog({ level: 'error', format: 'text', write: () => {}, wallMs: () => 0 }),
  }
  return createTunnelApi({ ...parts, onCount: (count) => counts.push(count) })
}

const up = (tunnels: ReturnType<typeof api>, text = plain) =>
  tunnels.tunnelUp({ interfaceName: 'wg0', fileName: 'wg0.conf', text }, forever)

beforeEach(() => {
  did = []
  counts = []
  failing = ''
  attached = undefined
})

describe('createTunnelApi', () => {
  test('opens a tunnel step by step and takes every step back in reverse', async () => {
    const tunnels = api()
    const { tunnel } = await up(tunnels)
    expect(tunnel).toMatchObject({
      interfaceName: 'wg0',
      state: 'up',
      listenPort: 40_000,
      mtuBytes: 1_340,
      routes: ['10.9.0.0/24'],
      controlSocket: '/sockets/wg0',
      counters: { spoofed: 2 },
      peers: [{ publicKey: peerKey, endpoint: '192.0.2.1:51820', receivedBytes: 0 }],
    })
    expect(JSON.stringify(tunnel)).not.toContain(own)
    expect(await tunnels.tunnelDown({ interfaceNames: ['wg0', 'wg1'] })).toMatchObject({ ended: ['wg0'] })
    expect(did).toEqual([
      'journal wg0',
      'tunnel',
      'guard 10.9.0.0/24',
      'configure 10.9.0.1/24 10.9.0.0/24',
      'control',
      'control closed',
      'unconfigured',
      'guards removed',
      'tunnel closed',
      'forget wg0',
    ])
    expect(counts.at(0)).toBe(1)
    expect(counts.at(-1)).toBe(0)
  })

  test.each(['tunnel', 'guard 10.9.0.0/24', 'configure 10.9.0.1/24 10.9.0.0/24', 'control'])(
    'when the step %s fails, everything before it is taken back and the name is free',
    async (name) => {
      const tunnels = api()
      failing = name
      await expect(up(tunnels)).rejects.toMatchObject({ code: 'CONFLICT' })
      expect(did.at(-1)).toBe('forget wg0')
      expect(did.includes('tunnel')).toBe(did.includes('tunnel closed'))
      expect(counts.at(-1)).toBe(0)
      failing = ''
      expect((await up(tunnels)).tunnel.state).toBe('up')
    },
  )

  test('a second up of a name is CONFLICT, and of two at once one wins', async () => {
    const tunnels = api()
    const both = await Promise.allSettled([up(tunnels), up(tunnels)])
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    await expect(up(tunnels)).rejects.toMatchObject({ code: 'CONFLICT', next: expect.stringContaining('tunnel down') })
    expect((await tunnels.tunnelStatus()).tunnels).toHaveLength(1)
  })

  test('a file that cannot be read opens nothing', async () => {
    const tunnels = api()
    await expect(up(tunnels, 'nonsense')).rejects.toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining('wg0.conf:1'),
    })
    expect([...did, ...counts]).toEqual([])
  })

  test('a name of a peer becomes the first address that has a way', async () => {
    await up(api(), file('', 'Endpoint=vpn.example:7'))
    expect(opened?.peers[0]?.endpoint).toEqual({ address: '198.51.100.1', port: 7 })
    await expect(up(api(), file('', 'Endpoint=other.example:7'))).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  test.each([
    ['the way to the peers', '', 'Endpoint=192.0.2.1:7', 1_340],
    ['IPv6, which takes 20 bytes more', '', 'Endpoint=[fd00::1]:7', 1_320],
    ["WireGuard's usual limit without a peer to go to", '', '', 1_420],
    ['the file', 'MTU=1400', 'Endpoint=192.0.2.1:7', 1_400],
  ])('the MTU is that of %s', async (_what, device, peer, mtuBytes) => {
    await up(api(), file(device, peer))
    expect(opened?.mtuBytes).toBe(mtuBytes)
  })

  test('Table = off makes no route and no guard', async () => {
    await up(api(), file('Address=10.9.0.1/24\nTable=off', 'AllowedIPs=10.9.0.0/24'))
    expect(did).toContain('guard ')
    expect(did).toContain('configure 10.9.0.1/24 ')
  })

  test("names of the file's domains go to its servers, from the tunnel's own address, and only those", async () => {
    const tunnels = api()
    await up(tunnels, file('Address=10.9.0.1/24\nDNS=10.9.0.53, fd00::53, corp.example', ''))
    const upstreams = [
      { address: '10.9.0.53', port: 53, localAddress: '10.9.0.1' },
      { address: 'fd00::53', port: 53 },
    ]
    expect(attached).toEqual({
      scopes: [{ suffix: 'corp.example', mode: 'fanout', upstreams }],
      searchDomains: ['corp.example'],
      interfaceName: 'wg0',
    })
    await tunnels.tunnelDown({ interfaceNames: ['wg0'] })
    expect(did).toContain('detach tunnel wg0')
  })

  test('a tunnel that fails is shown with its error, without a socket, until it is ended', async () => {
    const tunnels = api()
    await up(tunnels)
    fail(new NsmError('LOST', 'the network interface was removed', 'again'))
    await Promise.resolve()
    const { tunnels: views } = await tunnels.tunnelStatus()
    expect(views).toMatchObject([{ state: 'failed', error: { code: 'LOST' }, counters: {} }])
    expect(did).toContain('control closed')
    expect(did).not.toContain('guards removed')
    await tunnels.tunnelDown({ interfaceNames: ['wg0'] })
    expect(did).toContain('guards removed')
  })

  test('close ends every tunnel, also one that is being opened', async () => {
    const tunnels = api()
    await up(tunnels)
    await tunnels.close()
    expect(did.at(-1)).toBe('forget wg0')
    await expect(up(tunnels)).rejects.toMatchObject({ code: 'LOST' })
    expect((await tunnels.tunnelStatus()).tunnels).toEqual([])
  })
})
