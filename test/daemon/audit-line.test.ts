import { createHash, generateKeyPairSync, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { readJsonObject } from '../../src/base/json.ts'
import { auditLine, chainStart, placeAfter, readPlace } from '../../src/daemon/audit-line.ts'

const at = { ...chainStart, wallMs: 0 }
const lineOf = (event: AuditEvent) => auditLine(event, at)
const fieldsOf = (event: AuditEvent) => readJsonObject(lineOf(event))

describe('a line of the audit log', () => {
  test('has the time, its place and the hash of the line before', () => {
    const line = lineOf({ event: 'conn.up', id: 'spiffe://a/b', service: 'blue' })
    expect(line).toBe(
      `{"ts":"1970-01-01T00:00:00.000Z","seq":1,"event":"conn.up","id":"spiffe://a/b","service":"blue","prev":"${'0'.repeat(64)}"}`,
    )
    expect(placeAfter(line, 1)).toEqual({ seq: 2, prev: createHash('sha256').update(line).digest('hex') })
    expect(readPlace(line)).toEqual(chainStart)
  })

  test('keeps its own fields whatever others are called', () => {
    const line = lineOf({ event: 'conn.up', ts: 'x', seq: 7, prev: 'y' })
    expect(readJsonObject(line)).toMatchObject({ event: 'conn.up', seq: 1, prev: '0'.repeat(64) })
    expect(line).not.toContain('"x"')
  })

  test('holds a WireGuard public key under its own name and under no other', () => {
    const publicKey = randomBytes(32).toString('base64')
    expect(fieldsOf({ event: 'conn.up', publicKey })).toMatchObject({ publicKey })
    expect(fieldsOf({ event: 'conn.up', publicKey: `${publicKey} x` })).toMatchObject({ publicKey: '[secret]' })
    expect(fieldsOf({ event: 'conn.up', other: publicKey })).toMatchObject({ other: '[secret]' })
    expect(lineOf({ event: 'conn.up', privateKey: publicKey })).not.toContain(publicKey)
  })

  test('lets nobody hide a SPIFFE ID behind a path that looks like a secret', () => {
    const id = `spiffe://b.example/eyJa.eyJb.${'c'.repeat(20)}`
    expect(fieldsOf({ event: 'peer.reject', id })).toMatchObject({ id })
  })

  test.each([
    ['a text of ASCII', 'a'.repeat(300), 256],
    ['a text of three bytes a character', '\u20ac'.repeat(200), 255],
    ['a text of four bytes a character', '\u{1f600}'.repeat(200), 256],
  ])('cuts %s at 256 bytes and at no half character', (_what, text, bytes) => {
    const id = String(fieldsOf({ event: 'peer.reject', id: text })?.['id'])
    expect(id.endsWith('...')).toBe(true)
    expect(Buffer.byteLength(id) - 3).toBe(bytes)
    expect(id).not.toContain('\ufffd')
  })

  test.each(['', '{', '[]', 'null', '{"seq":1}', '{"seq":1.5,"prev":""}', `{"seq":"1","prev":"${'0'.repeat(64)}"}`])(
    'is not read out of %j',
    (text) => expect(readPlace(text)).toBeUndefined(),
  )
})

describe('5,000 random events with secrets in them', () => {
  const token = (part: string) => `${Buffer.from(`{"alg":"${part}"}`).toString('base64url')}.${part}aaaa.${part}bbbb`
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const pem = privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()
  const canary = fc.string({ unit: fc.constantFrom(...'abcdefghjkmnpqrstuvwxyz234567'), minLength: 12, maxLength: 24 })
  const secret = canary.chain((part) =>
    fc
      .constantFrom(
        token(part),
        pem.replace('PRIVATE KEY-----', `PRIVATE KEY-----\n${part}`),
        createHash('sha256').update(part).digest('base64'),
        `nsm://192.0.2.1:5001/?td=a&jt=${part}`,
        `Authorization: Bearer ${part}`,
        `{"refresh_token":"${part}"}`,
        `grant_type=x&client_secret=${part}`,
        `key: ${createHash('sha256').update(part).digest('hex')}`,
        `user_code=${part}`,
      )
      .map((text) => ({ text, part })),
  )
  const around = fc.string({ maxLength: 40, unit: 'binary' })
  const field = fc.constantFrom('id', 'service', 'reason', 'connection', 'address', 'grant', 'publicKey', 'detail')

  test('leave none of the secrets in the line, and the line is one line of JSON', () => {
    fc.assert(
      fc.property(secret, around, around, field, ({ text, part }, before, after, name) => {
        const line = lineOf({ event: 'exchange.deny', [name]: `${before} ${text} ${after}` })
        expect(line).not.toContain(part)
        expect(line).not.toContain(text)
        expect(line).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
        expect(readPlace(line)).toEqual(chainStart)
      }),
      { numRuns: 5_000 },
    )
  })

  test.each(['joinToken', 'idToken', 'privateKey', 'password', 'csr', 'authorization', 'secret', 'svid'])(
    'never show a field called %s',
    (name) => {
      expect(lineOf({ event: 'login.ok', [name]: 'canary' })).not.toContain('canary')
    },
  )
})
