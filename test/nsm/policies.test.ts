import { describe, expect, test } from 'vitest'
import { signToken } from '../../src/identity/token.ts'
import {
  failedClientPolicy,
  failedMonitorPolicy,
  failedRegistryPolicy,
  failedServerPolicy,
} from '../../src/nsm/policies.ts'
import { TestMesh } from './mesh.ts'

const mesh = new TestMesh()
const nowMs = Date.now()
const client = mesh.issue('/client').svid
const manager = mesh.issue('/manager').svid
const stranger = mesh.issue('/client').svid
const idOf = (path: string) => `spiffe://test.internal${path}`
const token = (svid = client, audience = idOf('/manager'), expiresMs = nowMs + 60_000) =>
  signToken({ svid, audience, expiresMs })
const unsigned = (claims: object, header: object = { alg: 'none' }) =>
  [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
const claims = { sub: idOf('/client'), aud: [idOf('/manager')], exp: Math.floor(nowMs / 1000) + 60 }
const own = token(manager, idOf('/client'))
const leaf = client.chain[0] ?? new Uint8Array()

describe('failedServerPolicy', () => {
  const check = (sent: string, peerId = idOf('/client')) =>
    failedServerPolicy({ segments: [{ token: sent }, { token: own }], index: 1, peerCertificate: leaf, peerId, nowMs })

  test('lets an honest caller pass', () => {
    expect(check(token())).toBeUndefined()
  })

  test.each([
    ['no token', '', 'tokens_valid'],
    ['not a JWT', 'a.b', 'tokens_valid'],
    ['claims that are no object', `e30.${Buffer.from('[]').toString('base64url')}.e30`, 'tokens_valid'],
    ['an expired token', token(client, idOf('/manager'), nowMs - 1_000), 'tokens_expired'],
    ['a token for somebody else', token(client, idOf('/other')), 'tokens_chained'],
    ['an empty audience', `${unsigned({ ...claims, aud: [] })}.`, 'tokens_chained'],
    ['an audience that is a text', `${unsigned({ ...claims, aud: idOf('/manager') })}.`, 'tokens_chained'],
    ['a foreign key with the right name', token(stranger), 'prev_token_signed'],
    ['no algorithm', `${unsigned(claims)}.`, 'prev_token_signed'],
    ['no algorithm and a signature', `${unsigned(claims)}.${token().split('.')[2]}`, 'prev_token_signed'],
    ['HS256', `${unsigned(claims, { alg: 'HS256' })}.${'A'.repeat(43)}`, 'prev_token_signed'],
    ['a changed byte in the claims', token().replace(/\.(.)/, (_, c) => `.${c}A`), 'tokens_valid'],
    ['a cut signature', token().slice(0, -4), 'prev_token_signed'],
  ])('refuses %s', (_what, sent, failed) => {
    expect(check(sent)).toBe(failed)
  })

  test('judges a token that passed before anew: by the time, the next hop, the certificate and the identity of each call', () => {
    const sent = token()
    const passed = {
      segments: [{ token: sent }, { token: own }],
      index: 1,
      peerCertificate: leaf,
      peerId: idOf('/client'),
    }
    const other = token(mesh.issue('/other').svid, idOf('/client'))
    const calls = [
      [{ ...passed, nowMs }, undefined],
      [{ ...passed, nowMs: nowMs + 60_000 }, 'tokens_expired'],
      [{ ...passed, nowMs, segments: [{ token: sent }, { token: other }] }, 'tokens_chained'],
      [{ ...passed, nowMs, peerCertificate: stranger.chain[0] ?? leaf }, 'prev_token_signed'],
      [{ ...passed, nowMs, peerId: idOf('/admin') }, 'sub_is_peer'],
      [{ ...passed, nowMs }, undefined],
    ] as const
    for (const [input, failed] of calls) expect(failedServerPolicy(input)).toBe(failed)
  })

  test('refuses a sub that is not the TLS identity, though the key is', () => {
    const liar = { ...client, spiffeId: idOf('/admin') }
    expect(check(token(liar))).toBe('sub_is_peer')
  })

  test('refuses a server that stands alone on the path', () => {
    const input = { segments: [{ token: own }], index: 0, peerCertificate: leaf, peerId: idOf('/client'), nowMs }
    expect(failedServerPolicy(input)).toBe('prev_token_signed')
  })

  test('does not look behind its own segment', () => {
    const segments = [{ token: token() }, { token: own }, { token: 'old and broken' }]
    expect(
      failedServerPolicy({ segments, index: 1, peerCertificate: leaf, peerId: idOf('/client'), nowMs }),
    ).toBeUndefined()
  })
})

describe('failedClientPolicy', () => {
  const check = (answer: readonly string[]) =>
    failedClientPolicy({
      segments: answer.map((one) => ({ token: one })),
      index: 0,
      peerCertificate: manager.chain[0] ?? new Uint8Array(),
      peerId: idOf('/manager'),
      nowMs,
    })
  const endpoint = mesh.issue('/endpoint').svid
  const onward = token(manager, idOf('/endpoint'))
  const last = token(endpoint, idOf('/manager'))

  test('lets an honest path pass, whose far tokens it cannot verify', () => {
    expect(check([token(), onward, last])).toBeUndefined()
  })
  test.each([
    ['a path without the server', [token()], 'next_token_signed'],
    [
      'a server token of another key',
      [token(), token(mesh.issue('/manager').svid, idOf('/endpoint')), last],
      'next_token_signed',
    ],
    ['a broken chain', [token(), onward, token(mesh.issue('/other').svid)], 'tokens_chained'],
    ['an endpoint without a token', [token(), onward, ''], 'tokens_valid'],
    ['an expired far token', [token(), onward, token(endpoint, idOf('/manager'), nowMs - 5_000)], 'tokens_expired'],
  ])('refuses %s', (_what, answer, failed) => {
    expect(check(answer)).toBe(failed)
  })
})

describe('failedRegistryPolicy', () => {
  test.each([
    ['a free name', undefined, undefined],
    ['its own name', idOf('/client'), undefined],
    ['a name of another', idOf('/other'), 'client_allowed'],
  ])('judges %s', (_what, owner, failed) => {
    expect(failedRegistryPolicy(owner, idOf('/client'))).toBe(failed)
  })
})

describe('failedMonitorPolicy', () => {
  test.each([
    ['connections that nobody holds yet', [], undefined],
    ['its own', [idOf('/client')], undefined],
    ['its own among those of others', [idOf('/other'), idOf('/client')], undefined],
    ['those of others', [idOf('/other')], 'service_connection'],
  ])('judges who names %s', (_what, owners, failed) => {
    expect(failedMonitorPolicy(owners, idOf('/client'))).toBe(failed)
  })
})
