import { create } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MechanismSchema } from '../../src/nsm/generated/connection_pb.js'
import { isWireGuard, parseWireGuard, wireGuardMechanism } from '../../src/nsm/wireguard-mechanism.ts'

const key = new Uint8Array(32).map((_, i) => i)

describe('the WireGuard mechanism', () => {
  test('is written with the names and texts of NSM', () => {
    const written = wireGuardMechanism({ srcIp: '192.0.2.1', srcPort: 51_820, srcPublicKey: key, mtuBytes: 1420 })
    expect(written).toMatchObject({
      cls: 'REMOTE',
      type: 'WIREGUARD',
      parameters: {
        src_ip: '192.0.2.1',
        src_port: '51820',
        src_public_key: Buffer.from(key).toString('base64'),
        MTU: '1420',
      },
    })
    expect(isWireGuard(written)).toBe(true)
  })

  test('keeps parameters it does not know', () => {
    const sent = create(MechanismSchema, {
      cls: 'REMOTE',
      type: 'WIREGUARD',
      parameters: { orig_src_ip: '10.0.0.1', MTU: '1500' },
    })
    expect(wireGuardMechanism({ dstPort: 1, mtuBytes: 1400 }, sent).parameters).toEqual({
      orig_src_ip: '10.0.0.1',
      dst_port: '1',
      MTU: '1400',
    })
  })

  test('comes back as it was written', () => {
    const port = fc.integer({ min: 1, max: 65_535 })
    const bytes = fc.uint8Array({ minLength: 32, maxLength: 32 })
    fc.assert(
      fc.property(fc.ipV4(), fc.ipV6(), port, bytes, (srcIp, dstIp, srcPort, srcPublicKey) => {
        const read = parseWireGuard(wireGuardMechanism({ srcIp, dstIp, srcPort, srcPublicKey }))
        expect(read).toMatchObject({ srcIp, dstIp, srcPort, dstPort: undefined })
        expect([...(read.srcPublicKey ?? [])]).toEqual([...srcPublicKey])
      }),
    )
  })

  test.each([
    ['src_ip', 'localhost'],
    ['dst_ip', '10.0.0.0/8'],
    ['src_port', '0'],
    ['dst_port', '65536'],
    ['src_port', '0x10'],
    ['MTU', '-1'],
    ['src_public_key', 'AAAA'],
    ['dst_public_key', `${Buffer.from(key).toString('base64')}=`],
  ])('refuses %s=%s', (name, value) => {
    const mechanism = create(MechanismSchema, { type: 'WIREGUARD', parameters: { [name]: value } })
    expect(() => parseWireGuard(mechanism)).toThrow(`WireGuard parameter ${name}=`)
  })
})
