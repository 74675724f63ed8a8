import { createConnection } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { keyFromBase64, keyToHex } from '../../src/tunnel/key-text.ts'
import { makeNamespaces, ownName, removeNamespaces, whyNot } from './tunnel-network.ts'
import { Files, hasWg, keyPair, nsmIn, WireguardPeer, wireguardGo } from './wireguard-peers.ts'

/* The control socket of `nsm tunnel up` beside the one of wireguard-go: the same requests, the same answers and the same settings
 * afterwards, or the difference and its reason. */

const reason = whyNot() ?? (hasWg ? undefined : 'needs wg') ?? (wireguardGo.path ? undefined : 'needs wireguard-go')
const [ours, theirs, bridge] = [ownName('nsmtu-a'), ownName('nsmtu-b'), ownName('nsmtu-br')]
const [ourName, theirName] = [ownName('nsmtuw'), ownName('nsmtup')]
const hexOf = (text: string) => keyToHex(keyFromBase64(text) ?? new Uint8Array())
const [own, other] = [keyPair(), keyPair()]
const [alice, bob, carol] = [1, 2, 3].map(() => hexOf(keyPair().publicKey)) as [string, string, string]
const [zeros, shared] = ['0'.repeat(64), '5a'.repeat(32)]

/** What both devices have before each request. */
const start = `set=1
private_key=${hexOf(own.privateKey)}
listen_port=51820
fwmark=0
replace_peers=true
public_key=${alice}
endpoint=192.0.2.9:1
replace_allowed_ips=true
allowed_ip=10.1.0.0/16
public_key=${bob}
persistent_keepalive_interval=0
allowed_ip=10.2.0.0/16
allowed_ip=fd02::/64
`

/** All that comes back for one request; undefined when the other side hangs up without an answer. */
function ask(name: string, request: string): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(`/var/run/wireguard/${name}.sock`, () => socket.write(`${request.trimEnd()}\n\n`))
    let answer = ''
    socket.on('data', (data) => {
      answer += String(data)
      if (/(^|\n)errno=-?\d+\n\n$/.test(answer)) socket.end()
    })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ECONNRESET' && error.code !== 'EPIPE') reject(error)
    })
    socket.on('close', () => resolve(answer === '' ? undefined : answer))
  })
}

/** The number of an answer to `set=1`. */
async function errnoOf(name: string, request: string): Promise<number | undefined> {
  const found = /errno=(-?\d+)/.exec((await ask(name, request)) ?? '')?.[1]
  return found === undefined ? undefined : Number(found)
}

/** The settings as lines in an order of their own, without what time and traffic change. */
async function settingsOf(name: string): Promise<string[]> {
  const [device = '', ...peers] = ((await ask(name, 'get=1\n')) ?? '').split(/^(?=public_key=)/m)
  const lines = (part: string) => part.split('\n').filter((line) => line !== '' && !/^(last_|[rt]x_|errno)/.test(line))
  return [...lines(device), ...peers.map((peer) => lines(peer).toSorted().join(' ')).toSorted()]
}

const peer = (key: string, ...lines: string[]) => ['set=1', `public_key=${key}`, ...lines, ''].join('\n')
const device = (...lines: string[]) => ['set=1', ...lines, ''].join('\n')

/** Requests that both take, with the same settings afterwards. */
const taken: readonly (readonly [string, ...string[]])[] = [
  ['nothing', device()],
  ['another private key', device(`private_key=${hexOf(other.privateKey)}`)],
  ['a private key of zeros', device(`private_key=${zeros}`)],
  ['a private key in capitals', device(`private_key=${hexOf(other.privateKey).toUpperCase()}`)],
  ['another UDP port', device('listen_port=51999')],
  ['a UDP port with zeros in front', device('listen_port=0051998')],
  ['a mark', device('fwmark=51820')],
  ['the largest mark', device('fwmark=4294967295')],
  ['a mark, and then none', device('fwmark=1'), device('fwmark=0')],
  ['replace_peers', device('replace_peers=true')],
  ['replace_peers and a new one', `${device('replace_peers=true')}public_key=${carol}\n`],
  ['a new peer', peer(carol)],
  ['a peer twice', peer(carol, 'allowed_ip=10.3.0.0/16', `public_key=${carol}`, 'persistent_keepalive_interval=9')],
  ['remove', peer(alice, 'remove=true')],
  ['remove of a stranger', peer(carol, 'remove=true')],
  ['remove, and more about the peer', peer(alice, 'remove=true', 'allowed_ip=10.2.0.0/16', 'endpoint=192.0.2.9:2')],
  ['remove, and the peer again', peer(alice, 'remove=true', `public_key=${alice}`)],
  ['update_only of a known peer', peer(alice, 'update_only=true', 'persistent_keepalive_interval=7')],
  ['update_only of a stranger', peer(carol, 'update_only=true', 'allowed_ip=10.2.0.0/16')],
  ['update_only behind a change', peer(carol, 'allowed_ip=10.3.0.0/16', 'update_only=true')],
  ['a preshared key', peer(alice, `preshared_key=${shared}`)],
  ['a preshared key, and then none', peer(alice, `preshared_key=${shared}`), peer(alice, `preshared_key=${zeros}`)],
  ['an IPv4 endpoint', peer(bob, 'endpoint=192.0.2.7:65535')],
  ['an IPv6 endpoint', peer(bob, 'endpoint=[fd99::7]:1')],
  ['two endpoints', peer(bob, 'endpoint=192.0.2.7:1', 'endpoint=[fd99::7]:2')],
  ['the longest keepalive', peer(bob, 'persistent_keepalive_interval=65535')],
  ['a keepalive, and then none', peer(bob, 'persistent_keepalive_interval=65535', 'persistent_keepalive_interval=0')],
  ['replace_allowed_ips', peer(bob, 'replace_allowed_ips=true')],
  ['replace_allowed_ips and new ones', peer(bob, 'replace_allowed_ips=true', 'allowed_ip=10.9.0.0/24')],
  ['an allowed IP more', peer(bob, 'allowed_ip=10.9.0.0/24')],
  ['an allowed IP that is there', peer(bob, 'allowed_ip=10.2.0.0/16')],
  ['an allowed IP with host bits', peer(bob, 'allowed_ip=10.9.1.2/16', 'allowed_ip=fd09::1/64')],
  ['all addresses', peer(bob, 'allowed_ip=0.0.0.0/0', 'allowed_ip=::/0')],
  ['single addresses', peer(bob, 'allowed_ip=10.9.1.2/32', 'allowed_ip=fd09::1/128')],
  ['an allowed IP of another peer', peer(bob, 'allowed_ip=10.1.0.0/16')],
  ['an allowed IP within another one’s', peer(bob, 'allowed_ip=10.1.1.0/24')],
  ['an allowed IP less', peer(bob, 'allowed_ip=-10.2.0.0/16')],
  ['an allowed IP less that is not there', peer(bob, 'allowed_ip=-10.9.0.0/16')],
  ['an allowed IP less that another peer has', peer(bob, 'allowed_ip=-10.1.0.0/16')],
  ['an allowed IP less with host bits', peer(bob, 'allowed_ip=-10.2.3.4/16')],
  ['a private key with bits that X25519 clears', device(`private_key=${'ff'.repeat(32)}`)],
  ['the only version', peer(alice, 'protocol_version=1')],
  ['a peer with the device’s own key', peer(hexOf(own.publicKey), 'allowed_ip=10.2.0.0/16')],
  ['the own key of a peer', device(`private_key=${hexOf(other.privateKey)}`, `public_key=${hexOf(other.publicKey)}`)],
]

/** Requests that both refuse with this number, and that change nothing. */
const refused: readonly (readonly [string, string, number])[] = [
  ['a line without =', device('private_key'), -71],
  ['an unknown device key', device('color=red'), -22],
  ['a line that begins with =', device('=1'), -22],
  ['a peer’s key before a peer', device('allowed_ip=10.0.0.0/8'), -22],
  ['a short private key', device('private_key=00'), -22],
  ['a private key that is no hex', device(`private_key=${'g'.repeat(64)}`), -22],
  ['a private key with more behind it', device(`private_key=${hexOf(own.privateKey)}00`), -22],
  ['a UDP port above 65535', device('listen_port=65536'), -22],
  ['a UDP port below 0', device('listen_port=-1'), -22],
  ['no UDP port', device('listen_port='), -22],
  ['a mark above 32 bits', device('fwmark=4294967296'), -22],
  ['a mark in hex', device('fwmark=0x10'), -22],
  ['an empty mark', device('fwmark='), -22],
  ['replace_peers=false', device('replace_peers=false'), -22],
  ['replace_peers=1', device('replace_peers=1'), -22],
  ['a short public key', device('public_key=00'), -22],
  ['a device key behind a peer', peer(alice, 'listen_port=1'), -22],
  ['the version before a peer', device('protocol_version=1'), -22],
  ['a short preshared key', peer(alice, 'preshared_key=00'), -22],
  ['an allowed IP that is nothing', peer(alice, 'allowed_ip=-'), -22],
  ['an unknown peer key', peer(alice, 'color=red'), -22],
  ['another version', peer(alice, 'protocol_version=2'), -22],
  ['remove=false', peer(alice, 'remove=false'), -22],
  ['update_only=false', peer(alice, 'update_only=false'), -22],
  ['replace_allowed_ips=false', peer(alice, 'replace_allowed_ips=false'), -22],
  ['a keepalive above 65535', peer(alice, 'persistent_keepalive_interval=65536'), -22],
  ['a keepalive that is no number', peer(alice, 'persistent_keepalive_interval=off'), -22],
  ['an endpoint without a port', peer(alice, 'endpoint=192.0.2.1'), -22],
  ['an endpoint that is a name', peer(alice, 'endpoint=vpn.example.org:1'), -22],
  ['an endpoint with a port above 65535', peer(alice, 'endpoint=192.0.2.1:65536'), -22],
  ['an IPv6 endpoint without brackets', peer(alice, 'endpoint=fd99::1:1'), -22],
  ['an allowed IP of 33 bits', peer(alice, 'allowed_ip=10.0.0.0/33'), -22],
  ['an allowed IP without a length', peer(alice, 'allowed_ip=10.0.0.1'), -22],
  ['an allowed IP that is a name', peer(alice, 'allowed_ip=a.example/8'), -22],
  ['get with a line', 'get=1\nx=1\n', -22],
]

/** Ours, theirs, and why. */
const different: readonly (readonly [string, string, number, number | undefined])[] = [
  ['UDP port 0 of a peer: nobody can be there', peer(alice, 'endpoint=192.0.2.1:0'), -22, 0],
  ['an endpoint with a zone: peers are known by address and port', peer(alice, 'endpoint=[fe80::1%lo]:1'), -22, 0],
  ['a public key of small order: it never shakes hands', peer(zeros), -22, 0],
  ['a line of 70 KB: theirs reads 64 KiB at most', device(`color=${'x'.repeat(70_000)}`), -22, -5],
  ['an operation that is none: theirs hangs up', 'del=1', -22, undefined],
]

describe.skipIf(reason)(`the control socket${reason ? `: skipped, ${reason}` : ''}`, () => {
  const files = new Files()
  let go: WireguardPeer

  beforeAll(async () => {
    await removeNamespaces([ours, theirs, bridge])
    await makeNamespaces([ours, theirs], bridge)
    const file = files.write(`${ourName}.conf`, `[Interface]\nPrivateKey = ${own.privateKey}\n`)
    expect(await nsmIn(ours, files.dir, 'tunnel', 'up', file)).toMatchObject({ code: 0 })
    go = new WireguardPeer(wireguardGo, { namespace: theirs, interfaceName: theirName })
    await go.start(file, [], [])
  })
  afterAll(async () => {
    await nsmIn(ours, files.dir, 'tunnel', 'down', ourName)
    await go?.stop()
    await removeNamespaces([ours, theirs, bridge])
    files.remove()
  })
  beforeEach(async () => {
    for (const name of [ourName, theirName]) expect(await errnoOf(name, start)).toBe(0)
    expect(await settingsOf(ourName)).toEqual(await settingsOf(theirName))
  })

  test.each(taken)('takes %s as wireguard-go does', async (_what, ...requests) => {
    for (const request of requests) {
      expect([await errnoOf(ourName, request), await errnoOf(theirName, request)]).toEqual([0, 0])
    }
    expect(await settingsOf(ourName)).toEqual(await settingsOf(theirName))
  })

  test.each(refused)('refuses %s as wireguard-go does, and has changed nothing', async (_what, request, number) => {
    const before = await settingsOf(ourName)
    expect([await errnoOf(ourName, request), await errnoOf(theirName, request)]).toEqual([number, number])
    expect(await settingsOf(ourName)).toEqual(before)
  })

  test.each(different)('answers otherwise than wireguard-go to %s', async (_what, request, us, them) => {
    const before = await settingsOf(ourName)
    expect([await errnoOf(ourName, request), await errnoOf(theirName, request)]).toEqual([us, them])
    expect(await settingsOf(ourName)).toEqual(before)
  })
})
