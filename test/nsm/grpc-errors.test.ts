import { describe, expect, test } from 'vitest'
import { type ErrorCode, errorTable, NsmError } from '../../src/base/errors.ts'
import { codeTrailer, endOfTrailers } from '../../src/nsm/call-end.ts'
import { fromCallEnd, noConnection, policyRefusal, toGrpcStatus } from '../../src/nsm/grpc-errors.ts'
import { CallHeaders } from '../../src/nsm/grpc-headers.ts'
import { trailersOf } from '../../src/nsm/grpc-status.ts'
import { status } from '../../src/nsm/status-code.ts'

const isCode = (text: string): text is ErrorCode => Object.hasOwn(errorTable, text)

describe('fromCallEnd', () => {
  test.each([
    [status.UNKNOWN, '0. An error during select forwarder --> network service x is not found', 'NOT_FOUND'],
    [status.UNKNOWN, 'network service endpoint candidates not found', 'NOT_FOUND'],
    [status.UNKNOWN, 'network service endpoint nse-1 not found', 'NOT_FOUND'],
    [status.PERMISSION_DENIED, 'no sufficient privileges', 'REFUSED'],
    [status.UNKNOWN, 'cannot support any of the requested mechanism', 'REFUSED'],
    [status.UNKNOWN, 'unsupported mechanism', 'REFUSED'],
    [status.UNKNOWN, 'all forwarders have failed', 'UNREACHABLE'],
    [status.UNKNOWN, 'forwarder f is not available', 'UNREACHABLE'],
    [status.UNKNOWN, 'prefix pool is initializing', 'UNREACHABLE'],
    [status.UNKNOWN, 'no grpc.ClientConnInterface provided', 'REFUSED'],
    [status.UNKNOWN, 'something new', 'REFUSED'],
    [status.RESOURCE_EXHAUSTED, 'address pool 10.0.0.0/30 is exhausted', 'CONFLICT'],
    [status.UNAVAILABLE, 'Connection dropped', 'UNREACHABLE'],
    [status.DEADLINE_EXCEEDED, 'Deadline exceeded', 'UNREACHABLE'],
    [status.UNAUTHENTICATED, 'who are you', 'IDENTITY'],
    [status.UNIMPLEMENTED, 'no such method', 'REFUSED'],
  ])('%i %s: %s', (code, details, expected) => {
    expect(fromCallEnd({ code, details })).toMatchObject({ code: expected, message: details })
  })

  const failed = (code: string, message = '') => Object.assign(new TypeError(message), { code })
  test.each([
    [failed('ECONNREFUSED'), 'connection refused'],
    [failed('EHOSTUNREACH'), 'no route to the host'],
    [failed('ECONNRESET', 'read ECONNRESET'), 'the connection was reset'],
    [failed('ENOTFOUND'), 'the name is not known'],
    [failed('EOTHER', 'something \u001belse'), 'something ?else'],
    [failed('constructor'), 'constructor'],
    [undefined, 'the connection was closed'],
  ])('says in plain words why there is no connection: %s', (error, text) => {
    const end = noConnection(error)
    expect(fromCallEnd(end)).toMatchObject({ code: 'UNREACHABLE', message: `no connection: ${text}`, cause: end })
  })

  test('takes the code of our own servers, never their advice', () => {
    const trailers = ['grpc-status', '2', codeTrailer, 'CONFLICT', 'nsm-error-next', 'curl example.org | sh']
    const error = fromCallEnd(endOfTrailers(new CallHeaders(trailers)))
    expect(error.code).toBe('CONFLICT')
    expect(error.next).not.toContain('curl')
  })

  test('does not let a server name a code that is none', () => {
    expect(fromCallEnd({ code: status.NOT_FOUND, details: 'x', errorCode: 'constructor' }).code).toBe('NOT_FOUND')
  })

  test('makes a text of a peer printable and short', () => {
    const { message } = fromCallEnd({ code: status.UNKNOWN, details: `\u001b[2J${'x'.repeat(5_000)}` })
    expect(message.startsWith('?[2J')).toBe(true)
    expect(message).toHaveLength(1_024)
  })
})

describe('toGrpcStatus and back', () => {
  test.each(Object.keys(errorTable).filter((code) => code !== 'BUG'))('%s stays', (code) => {
    if (!isCode(code)) throw new NsmError('BUG', 'the table has changed', '')
    const sent = toGrpcStatus(new NsmError(code, 'why', 'next'))
    const received = new CallHeaders(Object.entries(trailersOf(sent)).flatMap(([key, value]) => [key, String(value)]))
    expect(fromCallEnd(endOfTrailers(received))).toMatchObject({ code, message: 'why' })
  })

  test('a failed policy is PERMISSION_DENIED in the words of NSM', () => {
    const { code, details } = toGrpcStatus(policyRefusal('tokens_expired'))
    expect(code).toBe(status.PERMISSION_DENIED)
    expect(details).toBe('no sufficient privileges: tokens_expired')
  })

  test('an exhausted pool is RESOURCE_EXHAUSTED, an unknown service NOT_FOUND', () => {
    expect(toGrpcStatus(new NsmError('CONFLICT', 'the pool is exhausted', '')).code).toBe(status.RESOURCE_EXHAUSTED)
    expect(toGrpcStatus(new NsmError('NOT_FOUND', 'network service x is not found', '')).code).toBe(status.NOT_FOUND)
  })

  test('a defect shows nothing of its inside', () => {
    expect(toGrpcStatus(new TypeError('secret'))).toMatchObject({ code: status.INTERNAL, details: 'internal failure' })
  })
})
