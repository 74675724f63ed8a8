import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { keyToBase64 } from '../../src/tunnel/key-text.ts'
import { parseWgQuick } from '../../src/tunnel/wg-quick.ts'
import { generatePrivateKey } from '../../src/tunnel/wireguard/keys.ts'

const key = () => keyToBase64(generatePrivateKey())
const own = key()
const peer = key()
const shared = key()

/** What is thrown for a text. */
function errorOf(text: string): NsmError {
  try {
    parseWgQuick(text, 'wg0.conf')
  } catch (error) {
    if (error instanceof NsmError) return error
    throw error
  }
  throw new Error('it was read')
}

describe('parseWgQuick', () => {
  test('reads every key that it knows, with comments, case and spaces as wg-quick has them', () => {
    const text = `# laptop
      [interface]
      PRIVATEKEY=${own}   # ours
      Address = 10.9.0.2/24, fd09::2/64
      Address = 10.9.1.2
      ListenPort = 51820\r
      MTU = 1380
      DNS = 10.9.0.1, corp.example
      DNS = fd09::1
      Table = off
      FwMark = 0xCA6C
      SaveConfig = false

      [Peer]
      PublicKey = ${peer}
      PresharedKey = ${shared}
      AllowedIPs = 10.9.0.7/24,fd09::/64
      AllowedIPs = 192.0.2.1
      Endpoint = [fd00::1]:51821
      PersistentKeepalive = 25`
    expect(parseWgQuick(text, 'wg0.conf')).toEqual({
      privateKey: Uint8Array.from(Buffer.from(own, 'base64')),
      addresses: ['10.9.0.2/24', 'fd09::2/64', '10.9.1.2/32'],
      listenPort: 51_820,
      fwmark: 51_820,
      mtuBytes: 1_380,
      hasRoutes: false,
      dnsServers: ['10.9.0.1', 'fd09::1'],
      dnsDomains: ['corp.example'],
      peers: [
        {
          publicKey: Uint8Array.from(Buffer.from(peer, 'base64')),
          presharedKey: Uint8Array.from(Buffer.from(shared, 'base64')),
          allowedPrefixes: ['10.9.0.0/24', 'fd09::/64', '192.0.2.1/32'],
          endpoint: { host: 'fd00::1', port: 51_821 },
          keepaliveSeconds: 25,
        },
      ],
    })
  })

  test('needs no more than a private key, and peers no more than a public one', () => {
    const file = parseWgQuick(`[Interface]\nPrivateKey=${own}\n[Peer]\nPublicKey=${peer}\nAllowedIPs=`, 'f')
    expect(file).toMatchObject({
      addresses: [],
      listenPort: 0,
      fwmark: 0,
      mtuBytes: undefined,
      hasRoutes: true,
      dnsServers: [],
    })
    expect(file.peers).toMatchObject([{ keepaliveSeconds: 0, allowedPrefixes: [] }])
    expect(file.peers[0]).not.toHaveProperty('endpoint')
  })

  test.each([
    ['vpn.example.org:51820', { host: 'vpn.example.org', port: 51_820 }],
    ['192.0.2.1:1', { host: '192.0.2.1', port: 1 }],
    ['[2001:db8::1]:65535', { host: '2001:db8::1', port: 65_535 }],
  ])('reads the endpoint %s', (text, endpoint) => {
    const file = parseWgQuick(`[Interface]\nPrivateKey=${own}\n[Peer]\nPublicKey=${peer}\nEndpoint=${text}`, 'f')
    expect(file.peers[0]?.endpoint).toEqual(endpoint)
  })

  test.each([
    ['off', 0],
    ['0', 0],
    ['0x0', 0],
    ['4294967295', 0xffff_ffff],
  ])('reads FwMark = %s as %i', (text, fwmark) => {
    expect(parseWgQuick(`[Interface]\nPrivateKey=${own}\nFwMark=${text}`, 'f')).toMatchObject({ fwmark })
  })

  const interfaceLine = (line: string) => `[Interface]\nPrivateKey = ${own}\n${line}`
  const peerLine = (line: string) => `[Interface]\nPrivateKey = ${own}\n[Peer]\nPublicKey = ${peer}\n${line}`

  test.each([
    ['a key before any section', 'PrivateKey = x', 1, 'stands in no section'],
    ['an unknown section', '[Host]', 1, 'is no section'],
    ['a line that is no pair', interfaceLine('hello'), 3, 'neither a section nor "Key = Value"'],
    ['a key of the other section', interfaceLine('AllowedIPs = 10.0.0.0/8'), 3, '[Interface] has no key AllowedIPs'],
    ['an unknown key', peerLine('Name = x'), 5, '[Peer] has no key Name'],
    ['a key of Object.prototype', interfaceLine('constructor = x'), 3, 'has no key constructor'],
    ['a key that is there twice', interfaceLine('MTU = 1400\nMTU = 1400'), 4, 'MTU is there twice'],
    ['a command', interfaceLine('PostUp = iptables -A INPUT'), 3, 'PostUp is a command, and nsm runs none'],
    ['another command', interfaceLine('PreDown = true'), 3, 'PreDown is a command'],
    ['a number for Table', interfaceLine('Table = 51820'), 3, 'Table is auto or off'],
    ['a mark above 32 bits', interfaceLine('FwMark = 0x100000000'), 3, 'FwMark is off or a number of 32 bits'],
    ['a mark that is no number', interfaceLine('FwMark = ca6c'), 3, 'FwMark is off or a number of 32 bits'],
    ['SaveConfig', interfaceLine('SaveConfig = true'), 3, 'SaveConfig is not supported'],
    ['servers without domains', interfaceLine('DNS = 1.1.1.1'), 3, 'DNS needs servers and the domains'],
    ['domains without servers', interfaceLine('DNS = corp.example'), 3, 'DNS needs servers and the domains'],
    ['a server that is no address', interfaceLine('DNS = 1.1.1, a.example'), 3, 'is not an IP address'],
    ['an MTU below 576', interfaceLine('MTU = 575'), 3, 'MTU is a number from 576 to 9216'],
    ['a port that is too large', interfaceLine('ListenPort = 65536'), 3, 'ListenPort is a number from 0 to 65535'],
    ['an address that is none', interfaceLine('Address = 10.0.0.300/8'), 3, 'is not an IP address'],
    ['a prefix that is none', peerLine('AllowedIPs = 10.0.0.0/33'), 5, 'is not an IP prefix'],
    ['an endpoint without a port', peerLine('Endpoint = 192.0.2.1'), 5, 'Endpoint is HOST:PORT'],
    ['an endpoint with bare IPv6', peerLine('Endpoint = fd00::1:51820'), 5, 'Endpoint is HOST:PORT'],
    ['an endpoint with port 0', peerLine('Endpoint = a.example:0'), 5, 'Endpoint is HOST:PORT'],
    ['a keepalive that is none', peerLine('PersistentKeepalive = often'), 5, 'PersistentKeepalive is a number'],
    ['a peer without a key', interfaceLine('[Peer]'), 3, 'no PublicKey'],
    ['a peer that is there twice', peerLine(`[Peer]\nPublicKey = ${peer}`), 5, 'this peer is there twice'],
  ])('refuses %s and names file and line', (_what, text, line, message) => {
    const error = errorOf(text)
    expect(error).toMatchObject({ code: 'USAGE', message: expect.stringContaining(message) })
    expect(error.message).toMatch(new RegExp(`^wg0\\.conf:${line}: `))
    expect(error.next).not.toBe('')
  })

  test('refuses a file without a private key', () => {
    expect(errorOf('[Interface]\nAddress = 10.0.0.1/8').message).toBe('wg0.conf: [Interface] has no PrivateKey')
  })

  test.each([`${own.slice(1)}`, `${own}=`, `x${own.slice(1, -2)}!=`, `${own.slice(0, -2)}B=`])(
    'refuses the key %j and repeats it nowhere',
    (text) => {
      const error = errorOf(`[Interface]\nPrivateKey = ${text}`)
      expect(error.message).toContain('wg0.conf:2: PrivateKey is not a key of 32 bytes in base64')
      expect(JSON.stringify([error.message, error.next])).not.toContain(text.slice(2, 20))
    },
  )

  test('refuses more peers than an engine holds', () => {
    const peers = Array.from({ length: 4_097 }, () => '[Peer]').join('\n')
    expect(errorOf(`[Interface]\nPrivateKey = ${own}\n${peers}`).message).toContain('more than 4096 peers')
  })

  test('makes control characters of a file harmless in its errors', () => {
    expect(errorOf(`[Interface]\n\u001b[31mKey = 1`).message).toContain('\\x1b[31mKey')
  })

  test('reads or refuses any text with USAGE, and nothing else', () => {
    const word = fc.constantFrom(
      '[Interface]',
      '[Peer]',
      `PrivateKey=${own}`,
      `PublicKey=${peer}`,
      'DNS=',
      'MTU=',
      '=',
      '[',
    )
    const line = fc.oneof(
      word,
      fc.string(),
      fc.tuple(word, fc.string()).map((parts) => parts.join('')),
    )
    fc.assert(
      fc.property(fc.array(line, { maxLength: 12 }), (lines) => {
        try {
          parseWgQuick(lines.join('\n'), 'f')
        } catch (error) {
          expect(error).toMatchObject({ code: 'USAGE', message: expect.stringMatching(/^f(:\d+)?: /) })
        }
      }),
      { numRuns: 2_000 },
    )
  })
})
