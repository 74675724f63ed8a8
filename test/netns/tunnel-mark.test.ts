import { existsSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { inside, makeNamespaces, ownName, pings, removeNamespaces, whyNot } from './tunnel-network.ts'
import { Files, hasWg, keyPair, nsmIn, WireguardPeer, wireguardGo } from './wireguard-peers.ts'

/* The mark of a plain tunnel's own UDP packets, counted by the packet filter where they leave. */

const reason =
  whyNot() ??
  (hasWg ? undefined : 'needs wg') ??
  (existsSync('/usr/sbin/nft') ? undefined : 'needs nft') ??
  (wireguardGo.path ? undefined : 'needs wireguard-go')
const [ours, theirs, bridge] = [ownName('nsmtm-a'), ownName('nsmtm-b'), ownName('nsmtm-br')]
const [name, peerName] = [ownName('nsmtmw'), ownName('nsmtmp')]
const [us, them] = [keyPair(), keyPair()]
/** The program's own, and one of the user's. */
const [ownMark, mark] = [0x6e73, 0xca6c]
const hex = (value: number) => `0x${value.toString(16)}`

describe.skipIf(reason)(`the mark of a tunnel${reason ? `: skipped, ${reason}` : ''}`, () => {
  const files = new Files()
  let peer: WireguardPeer
  const nsm = (...args: readonly string[]) => nsmIn(ours, files.dir, ...args)
  const wg = (...args: readonly string[]) => inside(ours, 'wg', ...args)
  const rules = async () => (await inside(ours, 'ip', 'rule')) + (await inside(ours, 'ip', '-6', 'rule'))
  const file = (endpoint: string, device = '') =>
    files.write(
      `${name}.conf`,
      `[Interface]\nPrivateKey = ${us.privateKey}\nAddress = 10.97.0.1/32, fd97::1/128\nListenPort = 51820\n${device}\n` +
        `[Peer]\nPublicKey = ${them.publicKey}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = ${endpoint}:51820\n`,
    )

  /** The marks of all UDP packets to the peer that leave while pings go through. */
  async function marksOfPings(to: string): Promise<string[]> {
    const marked = [ownMark, mark, 0].map((one) => `udp dport 51820 meta mark ${one} counter\n`)
    const chain = `chain out { type filter hook output priority 0;\n${marked.join('')}}`
    await inside(ours, 'nft', '-f', files.write('marks.nft', `table inet marks {\n${chain}\n}\n`))
    try {
      expect(await pings(ours, to)).toEqual([1, 2, 3])
      const { nftables } = JSON.parse(await inside(ours, 'nft', '-j', 'list', 'table', 'inet', 'marks'))
      const found = nftables.flatMap(({ rule }: { rule?: { expr: unknown[] } }) => (rule ? [rule.expr] : []))
      return found.flatMap((expr: { match?: { right: number }; counter?: { packets: number } }[]) => {
        const isSeen = expr.some(({ counter }) => (counter?.packets ?? 0) > 0)
        return isSeen ? [hex(expr.findLast(({ match }) => match)?.match?.right ?? -1)] : []
      })
    } finally {
      await inside(ours, 'nft', 'delete', 'table', 'inet', 'marks')
    }
  }

  beforeAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    await makeNamespaces([ours, theirs], bridge)
    files.write('resolv.conf', 'nameserver 192.0.2.9\n')
  })
  /** wireguard-go does not bear a change from one family to the other. */
  beforeEach(async () => {
    peer = new WireguardPeer(wireguardGo, { namespace: theirs, interfaceName: peerName })
    const config = `[Interface]\nPrivateKey = ${them.privateKey}\nListenPort = 51820\n[Peer]\nPublicKey = ${us.publicKey}\nAllowedIPs = 10.97.0.1/32, fd97::1/128\n`
    await peer.start(files.write('peer.conf', config), ['10.97.0.2/24', 'fd97::2/64'], [])
  })
  afterEach(async () => {
    await nsm('tunnel', 'down', name)
    await peer?.stop()
  })
  afterAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    files.remove()
  })

  test.each([
    ['192.0.2.2', '10.97.0.2'],
    ['[fd99::2]', 'fd97::2'],
  ])(
    'FwMark of a file with default routes is on every packet to %s, and rules lead those past the tunnel',
    async (endpoint, inner) => {
      const before = await rules()
      const up = await nsm('tunnel', 'up', file(endpoint, `FwMark = ${hex(mark)}`))
      expect(up).toMatchObject({ code: 0, err: '', out: expect.stringContaining(`fwmark ${hex(mark)}`) })
      expect(await marksOfPings(inner)).toEqual([hex(mark)])
      expect(await wg('show', name, 'fwmark')).toBe(`${hex(mark)}\n`)
      expect(await wg('showconf', name)).toContain(`FwMark = ${hex(mark)}`)
      const status = JSON.parse((await nsm('tunnel', 'status', '--json')).out).tunnels[0]
      expect(status).toMatchObject({ fwmark: mark, counters: { looped: 0 } })
      expect(await rules()).toContain(`28274:\tfrom all fwmark ${hex(mark)} goto 28278`)
      const route = (...more: string[]) => inside(ours, 'ip', 'route', 'get', '203.0.113.1', ...more)
      expect(await route()).toContain(`dev ${name}`)
      await expect(route('mark', `${mark}`)).rejects.toMatchObject({ stderr: expect.stringContaining('unreachable') })
      await nsm('tunnel', 'down', name)
      expect(await rules()).toBe(before)
    },
  )

  test('wg set changes the mark of a tunnel that is up, and off is the program’s own again', async () => {
    await nsm('tunnel', 'up', file('192.0.2.2'))
    const before = await rules()
    expect(await marksOfPings('10.97.0.2')).toEqual([hex(ownMark)])
    expect(await wg('show', name, 'fwmark')).toBe('off\n')
    const session = await wg('show', name, 'latest-handshakes')
    await wg('set', name, 'fwmark', hex(mark))
    expect(await marksOfPings('10.97.0.2')).toEqual([hex(mark)])
    expect(await wg('show', name, 'latest-handshakes')).toBe(session)
    await wg('set', name, 'listen-port', '51830')
    expect(await marksOfPings('10.97.0.2')).toEqual([hex(mark)])
    await wg('set', name, 'fwmark', 'off', 'listen-port', '51820')
    expect(await marksOfPings('10.97.0.2')).toEqual([hex(ownMark)])
    expect(await rules()).toBe(before)
  })

  test('a background process that is killed leaves no rule of a mark', async () => {
    const before = await rules()
    expect(await nsm('tunnel', 'up', file('192.0.2.2', 'FwMark = 7'))).toMatchObject({ code: 0 })
    expect(await rules()).toContain('fwmark 0x7 goto 28278')
    process.kill(JSON.parse((await nsm('version', '--json')).out).daemon.pid, 'SIGKILL')
    await expect.poll(rules).toBe(before)
  })
})
