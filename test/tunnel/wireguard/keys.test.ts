import { expect, test } from 'vitest'
import { generatePrivateKey, publicKeyOf } from '../../../src/tunnel/wireguard/engine.ts'
import { readSockaddr, writeSockaddr } from '../../../src/tunnel/wireguard/sockaddr.ts'
import { createNode, join } from './wire.ts'

test.each([
  [
    'Alice',
    '77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a',
    '8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a',
  ],
  [
    'Bob',
    '5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb',
    'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f',
  ],
])('publicKeyOf gives the published key of %s [RFC 7748 6.1]', (_, privateKey, publicKey) => {
  expect(Buffer.from(publicKeyOf(Buffer.from(privateKey, 'hex'))).toString('hex')).toBe(publicKey)
})

test('generatePrivateKey gives clamped keys that differ', () => {
  const keys = Array.from({ length: 50 }, generatePrivateKey)
  expect(new Set(keys.map((key) => Buffer.from(key).toString('hex'))).size).toBe(50)
  expect(keys.every((key) => ((key[0] ?? 1) & 7) === 0 && (key[31] ?? 0) >> 6 === 1)).toBe(true)
})

test('engine finds a peer by its public key', () => {
  const [a, b] = [createNode('member', '192.0.2.1'), createNode('member', '192.0.2.2')]
  expect(a.engine.peerOf(b.publicKey)).toBeUndefined()
  const peer = join(a, { publicKey: b.publicKey })
  expect(a.engine.peerOf(b.publicKey)).toBe(peer)
})

test('publicKeyOf refuses keys that are not 32 bytes', () => {
  expect(() => publicKeyOf(new Uint8Array(31))).toThrow('32 bytes, not 31')
})

test.each([
  ['10.1.2.3', 51_820, 16],
  ['2001:db8::1', 1, 28],
  ['::', 65_535, 28],
])('sockaddr of %s port %i has the Linux length and reads back', (address, port, bytes) => {
  const raw = new Uint8Array(32)
  writeSockaddr(raw, { address, port })
  expect(raw[0]).toBe(bytes)
  expect(readSockaddr(raw)).toEqual({ address, port })
})

test('readSockaddr knows no other length', () => {
  expect(readSockaddr(new Uint8Array(32))).toBeUndefined()
})
