import { execFile, spawn } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nsmProgram } from '../../scripts/nsm-program.ts'
import { answeredPings, inside, makeNamespaces, ownName, pings, removeNamespaces, whyNot } from './tunnel-network.ts'
import { Files, hasWg, keyPair, WireguardPeer, type WireguardProgram, wireguardPrograms } from './wireguard-peers.ts'

/* `nsm tunnel up` against each userspace WireGuard of somebody else: what the kernel's selftest netns.sh asks of two devices,
 * as a table. Both sides are steered by wg(8); a third namespace holds strangers and bad paths. */

const reason = whyNot() ?? (hasWg ? undefined : 'needs wg')
const [ours, theirs, third, bridge] = [ownName('nsmh-ia'), ownName('nsmh-ib'), ownName('nsmh-ic'), ownName('nsmh-ibr')]
const [name, peerName] = [ownName('nsmhw'), ownName('nsmhp')]
const port = 51_820
const run = promisify(execFile)

/** How a case begins. */
interface Start {
  /** Who knows where the other is: who begins. */
  readonly from?: 'us' | 'them' | 'both'
  readonly psk?: string
  readonly theirPsk?: string
  readonly ipv6?: boolean
  /** Where both send to, in place of each other. */
  readonly via?: string
}

/** Both ends of one tunnel, and all a case needs to change and to see. */
class Lab {
  readonly us = keyPair()
  readonly them = keyPair()
  readonly files = new Files()
  readonly #program: WireguardProgram
  #peer: WireguardPeer | undefined

  constructor(program: WireguardProgram) {
    this.#program = program
  }

  async open(): Promise<void> {
    const file = `[Interface]\nPrivateKey = ${this.us.privateKey}\nAddress = 10.97.0.1/32, fd97::1/128\nListenPort = ${port}\n[Peer]\nPublicKey = ${this.them.publicKey}\nAllowedIPs = 10.97.0.0/24, fd97::/64`
    await this.nsm('tunnel', 'up', this.files.write(`${name}.conf`, file))
  }

  /** Their program anew, and their peer on our side: no session is left. Some of the programs do not bear every change. */
  async fresh({ from = 'both', psk, theirPsk = psk, ipv6 = false, via }: Start = {}): Promise<void> {
    await this.#peer?.stop()
    this.#peer = new WireguardPeer(this.#program, { namespace: theirs, interfaceName: peerName })
    const at = (host: number) => via ?? (ipv6 ? `[fd99::${host}]:${port}` : `192.0.2.${host}:${port}`)
    const lines = [
      `[Interface]\nPrivateKey = ${this.them.privateKey}\nListenPort = ${port}\n[Peer]\nPublicKey = ${this.us.publicKey}`,
      'AllowedIPs = 10.97.0.1/32, fd97::1/128',
      ...(theirPsk === undefined ? [] : [`PresharedKey = ${theirPsk}`]),
      ...(from === 'us' ? [] : [`Endpoint = ${at(1)}`]),
    ]
    const addresses = ['10.97.0.2/32', 'fd97::2/128']
    await this.#peer.start(this.files.write('peer.conf', lines.join('\n')), addresses, ['10.97.0.0/24', 'fd97::/64'])
    await this.wg('set', name, 'listen-port', `${port}`)
    await this.wg('set', name, 'peer', this.them.publicKey, 'remove')
    const shared = psk === undefined ? [] : ['preshared-key', this.files.write('psk', psk)]
    const usTo = ['allowed-ips', '10.97.0.0/24,fd97::/64', ...shared, ...(from === 'them' ? [] : ['endpoint', at(2)])]
    await this.wg('set', name, 'peer', this.them.publicKey, ...usTo)
  }

  wg(...args: readonly string[]): Promise<string> {
    return inside(ours, 'wg', ...args)
  }

  peerWg(...args: readonly string[]): Promise<string> {
    return inside(theirs, 'timeout', '60', 'wg', ...args)
  }

  async nsm(...args: readonly string[]): Promise<string> {
    const dirs = { NSM_STATE_DIR: join(this.files.dir, 'state'), NSM_RUNTIME_DIR: join(this.files.dir, 'run') }
    const { stdout } = await run('ip', ['netns', 'exec', ours, nsmProgram, ...args], {
      env: { ...process.env, ...dirs },
    })
    return stdout
  }

  async counters(): Promise<Readonly<Record<string, number>>> {
    const { tunnels } = JSON.parse(await this.nsm('tunnel', 'status', '--json'))
    return tunnels[0].counters
  }

  /** Pings from one side; gives the numbers of those that were answered, the first three of them. */
  pings(from: 'us' | 'them', to: string, ...more: readonly string[]): Promise<readonly number[]> {
    return pings(from === 'us' ? ours : theirs, to, ...more)
  }

  /** Many pings in a short time. */
  manyPings(from: 'us' | 'them', to: string, count: number): Promise<readonly number[]> {
    return answeredPings(from === 'us' ? ours : theirs, { to, count, everySeconds: 0.01 })
  }

  /** Three pings from one side that nobody should answer; gives what ping says. */
  ping(from: 'us' | 'them', to: string, ...more: readonly string[]): Promise<string> {
    const options = ['-c', '3', '-i', '0.1', '-W', '1', ...more, to]
    return inside(from === 'us' ? ours : theirs, 'ping', ...options).catch((error) => String(error.stdout))
  }

  /** Starts one of the scripts beside this file in the third namespace; ends with the test. */
  start(script: string, ...args: readonly string[]) {
    const path = join(import.meta.dirname, script)
    return spawn('ip', ['netns', 'exec', third, process.execPath, path, ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
  }

  async close(): Promise<void> {
    await this.nsm('tunnel', 'down', name)
    await this.#peer?.stop()
    this.files.remove()
  }
}

const whole = [1, 2, 3]
const nothing = ' 100% packet loss'

async function bothWays(lab: Lab): Promise<void> {
  for (const to of ['10.97.0.2', 'fd97::2']) expect(await lab.pings('us', to)).toEqual(whole)
  for (const to of ['10.97.0.1', 'fd97::1']) expect(await lab.pings('them', to)).toEqual(whole)
}

type Case = readonly [name: string, check: (lab: Lab) => Promise<void>]

const handshakes: readonly Case[] = (['us', 'them'] as const).flatMap((from) =>
  [false, true].flatMap((ipv6) =>
    [undefined, keyPair().privateKey].map((psk): Case => {
      const how = `${from === 'us' ? 'our' : 'their'} handshake over IPv${ipv6 ? 6 : 4}${psk ? ' with a preshared key' : ''}`
      return [
        `${how} carries both families`,
        async (lab) => {
          await lab.fresh({ from, ipv6, ...(psk ? { psk } : {}) })
          expect(await lab.pings(from, from === 'us' ? '10.97.0.2' : '10.97.0.1')).toEqual(whole)
          await bothWays(lab)
        },
      ]
    }),
  ),
)

const portCase = 'their new UDP port is followed, also when ours changes then'
/** [gotatun-cli 0.9] It ends now and then when its port is changed. */
const passedOver: Readonly<Record<string, readonly string[]>> = { 'gotatun-cli': [portCase] }

const cases: readonly Case[] = [
  ...handshakes,
  [
    'preshared keys that differ carry nothing, and the right one does',
    async (lab) => {
      await lab.fresh({ psk: keyPair().privateKey, theirPsk: keyPair().privateKey })
      expect(await lab.ping('us', '10.97.0.2')).toContain(nothing)
      await lab.fresh()
      await bothWays(lab)
    },
  ],
  [
    portCase,
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      await lab.peerWg('set', peerName, 'listen-port', '40001')
      expect(await lab.pings('them', '10.97.0.1')).toEqual(whole)
      expect(await lab.wg('show', name, 'endpoints')).toContain('192.0.2.2:40001')
      await lab.wg('set', name, 'listen-port', '40002')
      expect(await lab.pings('us', '10.97.0.2')).toEqual(whole)
    },
  ],
  [
    'our new UDP port is followed',
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      await lab.wg('set', name, 'listen-port', '40002')
      expect(await lab.pings('us', '10.97.0.2')).toEqual(whole)
      expect(await lab.peerWg('show', peerName, 'endpoints')).toContain('192.0.2.1:40002')
    },
  ],
  [
    'a new address of ours is followed by them in the same session',
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      const before = await lab.wg('show', name, 'latest-handshakes')
      const leaveFrom = (address: string) =>
        inside(ours, 'ip', 'route', 'replace', '192.0.2.0/24', 'dev', 'eth0', 'src', address)
      await inside(ours, 'ip', 'address', 'add', '192.0.2.101/32', 'dev', 'eth0')
      try {
        await leaveFrom('192.0.2.101')
        expect(await lab.pings('us', '10.97.0.2')).toEqual(whole)
        expect(await lab.peerWg('show', peerName, 'endpoints')).toContain('192.0.2.101:')
        expect(await lab.wg('show', name, 'latest-handshakes')).toBe(before)
      } finally {
        await leaveFrom('192.0.2.1')
        await inside(ours, 'ip', 'address', 'del', '192.0.2.101/32', 'dev', 'eth0')
      }
      expect(await lab.pings('us', '10.97.0.2')).toEqual(whole)
    },
  ],
  [
    'packets larger than the MTU are cut and arrive',
    async (lab) => {
      await lab.fresh({ from: 'us' })
      await bothWays(lab)
      for (const to of ['10.97.0.2', 'fd97::2']) expect(await lab.pings('us', to, '-s', '8000')).toEqual(whole)
      for (const to of ['10.97.0.1', 'fd97::1']) expect(await lab.pings('them', to, '-s', '8000')).toEqual(whole)
    },
  ],
  [
    'a packet that may not be cut and is too large is answered with the MTU',
    async (lab) => {
      await lab.fresh()
      const full = ['-M', 'do', '-s', `${1_420 - 28}`]
      expect(await lab.pings('us', '10.97.0.2', ...full)).toEqual(whole)
      const tooBig = await inside(ours, 'ping', '-c', '1', '-M', 'do', '-s', '1400', '10.97.0.2').catch(
        (error) => error,
      )
      expect(String(tooBig.stderr)).toMatch(/[Mm]essage too long.*1420/)
    },
  ],
  [
    'a source outside its prefixes is dropped and counted; inside them it passes',
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      const before = await lab.counters()
      await inside(theirs, 'ip', 'address', 'add', '10.98.0.2/32', 'dev', peerName)
      expect(await lab.ping('them', '10.97.0.1', '-I', '10.98.0.2')).toContain(nothing)
      const spoofed = async () => ((await lab.counters())['spoofed'] ?? 0) - (before['spoofed'] ?? 0)
      await expect.poll(spoofed).toBe(3)
      await lab.wg('set', name, 'peer', lab.them.publicKey, 'allowed-ips', '10.97.0.0/24,fd97::/64,10.98.0.2/32')
      await inside(ours, 'ip', 'route', 'add', '10.98.0.2/32', 'dev', name)
      expect(await lab.pings('them', '10.97.0.1', '-I', '10.98.0.2')).toEqual(whole)
      await inside(ours, 'ip', 'route', 'del', '10.98.0.2/32', 'dev', name)
      await inside(theirs, 'ip', 'address', 'del', '10.98.0.2/32', 'dev', peerName)
    },
  ],
  [
    'a prefix that is taken away stops packets at once, both ways',
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      await lab.wg('set', name, 'peer', lab.them.publicKey, 'allowed-ips', 'fd97::/64')
      expect(await lab.ping('us', '10.97.0.2')).toContain(nothing)
      expect(await lab.pings('us', 'fd97::2')).toEqual(whole)
    },
  ],
  [
    'the longest prefix has the packets: a more exact one of another peer takes them away',
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      const other = keyPair().publicKey
      await lab.wg('set', name, 'peer', other, 'allowed-ips', '10.97.0.2/32')
      expect(await lab.ping('us', '10.97.0.2')).toContain(nothing)
      await lab.wg('set', name, 'peer', other, 'remove')
      expect(await lab.pings('us', '10.97.0.2')).toEqual(whole)
    },
  ],
  [
    'a keepalive keeps the way to us open without any packet of ours',
    async (lab) => {
      await lab.fresh({ from: 'us' })
      await lab.wg('set', name, 'peer', lab.them.publicKey, 'persistent-keepalive', '1')
      await expect.poll(() => lab.peerWg('show', peerName, 'endpoints')).toContain('192.0.2.1')
      expect(await lab.pings('them', '10.97.0.1')).toEqual(whole)
    },
  ],
  [
    'without a private key nothing passes, and with it again all does',
    async (lab) => {
      await lab.fresh()
      await bothWays(lab)
      await lab.wg('set', name, 'private-key', '/dev/null')
      expect(await lab.wg('show', name, 'public-key')).toBe('(none)\n')
      expect(await lab.ping('us', '10.97.0.2')).toContain(nothing)
      await lab.wg('set', name, 'private-key', lab.files.write('key', lab.us.privateKey))
      await bothWays(lab)
    },
  ],
  [
    'a path that repeats and reorders loses no packet and delivers none twice',
    async (lab) => {
      const relay = lab.start('wireguard-relay.ts', '4000', `192.0.2.1:${port}`, `192.0.2.2:${port}`)
      try {
        await new Promise((settle) => relay.stdout.once('data', settle))
        await lab.fresh({ via: '192.0.2.3:4000' })
        const before = await lab.counters()
        for (const [from, to] of [
          ['us', '10.97.0.2'],
          ['them', '10.97.0.1'],
        ] as const) {
          const answered = await lab.manyPings(from, to, 210)
          // Of the last ones, some come behind their successors.
          const all = Array.from({ length: 200 }, (_, i) => i + 1)
          expect(answered.filter((number) => number <= all.length)).toEqual(all)
        }
        const after = await lab.counters()
        expect((after['replayed'] ?? 0) - (before['replayed'] ?? 0)).toBeGreaterThan(200)
      } finally {
        relay.kill('SIGKILL')
      }
    },
  ],
  [
    'while strangers flood us with initiations, they get in by a cookie',
    async (lab) => {
      await lab.fresh({ from: 'them' })
      const flood = lab.start('wireguard-stranger.ts', 'initiations', '192.0.2.1', `${port}`, '0', lab.us.publicKey)
      try {
        await expect.poll(async () => (await lab.counters())['cookiesSent']).toBeGreaterThan(10)
        expect(await lab.pings('them', '10.97.0.1')).not.toEqual([])
      } finally {
        flood.kill('SIGKILL')
      }
      expect(await lab.pings('them', '10.97.0.1')).toEqual(whole)
    },
  ],
  [
    'while strangers flood them with initiations, we get in',
    async (lab) => {
      await lab.fresh({ from: 'us' })
      const flood = lab.start('wireguard-stranger.ts', 'initiations', '192.0.2.2', `${port}`, '0', lab.them.publicKey)
      try {
        await new Promise((settle) => flood.stdout.once('data', settle))
        expect(await lab.pings('us', '10.97.0.2')).not.toEqual([])
      } finally {
        flood.kill('SIGKILL')
      }
    },
  ],
]

describe.skipIf(reason)(`WireGuard of others${reason ? `: skipped, ${reason}` : ''}`, () => {
  beforeAll(async () => {
    await removeNamespaces([ours, theirs, third, bridge])
    await makeNamespaces([ours, theirs, third], bridge)
  })
  afterAll(() => removeNamespaces([ours, theirs, third, bridge]))

  for (const program of wireguardPrograms) {
    const why = program.path ? '' : `: skipped, ${program.name} is not here (npm run bench -- tunnel builds it)`
    describe.skipIf(!program.path)(`${program.name}${why}`, () => {
      let lab: Lab
      beforeAll(async () => {
        lab = new Lab(program)
        await lab.open()
      })
      afterAll(() => lab?.close())

      for (const [title, check] of cases) {
        const isOut = passedOver[program.name]?.includes(title) ?? false
        test.skipIf(isOut)(`${title}${isOut ? ': skipped, it ends when its port is changed' : ''}`, () => check(lab))
      }
    })
  }
})
