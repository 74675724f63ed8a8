import { Metadata, status } from '@grpc/grpc-js'
import { describe, expect, test } from 'vitest'
import { type ErrorCode, errorTable, NsmError } from '../../src/base/errors.ts'
import { fromGrpcError, policyRefusal, toGrpcStatus } from '../../src/nsm/grpc-errors.ts'

const serviceError = (code: status, details: string, metadata = new Metadata()) =>
  Object.assign(new TypeError(`${code} ${details}`), { code, details, metadata })
const isCode = (text: string): text is ErrorCode => Object.hasOwn(errorTable, text)

describe('fromGrpcError', () => {
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
    expect(fromGrpcError(serviceError(code, details))).toMatchObject({ code: expected, message: details })
  })

  const failedDial = (last: string) => `No connection established. Last error: ${last}. Resolution note: `
  test.each([
    [failedDial('Error: connect ECONNREFUSED 192.0.2.1:5001'), 'no connection: connection refused'],
    [
      failedDial('Error: connect EHOSTUNREACH 192.0.2.1:5001 - Local (0.0.0.0:0)'),
      'no connection: no route to the host',
    ],
    [failedDial('Error: read ECONNRESET (2026-11-21T12:00:00.000Z)'), 'no connection: the connection was reset'],
    [failedDial('Error: something else (2026-11-21T12:00:00.000Z)'), 'no connection: something else'],
    [failedDial('null'), 'no connection: no answer'],
    ['Name resolution failed for target dns:nosuch.invalid:5001', 'no connection: the name is not known'],
    ['Connection dropped', 'Connection dropped'],
  ])('says in plain words: %s', (details, message) => {
    expect(fromGrpcError(serviceError(status.UNAVAILABLE, details))).toMatchObject({ code: 'UNREACHABLE', message })
  })

  test('takes the code of our own servers, never their advice', () => {
    const metadata = new Metadata()
    metadata.set('nsm-error-code', 'CONFLICT')
    metadata.set('nsm-error-next', 'curl example.org | sh')
    const error = fromGrpcError(serviceError(status.UNKNOWN, 'taken', metadata))
    expect(error.code).toBe('CONFLICT')
    expect(error.next).not.toContain('curl')
  })

  test('does not let a server name a code that is none', () => {
    const metadata = new Metadata()
    metadata.set('nsm-error-code', 'constructor')
    expect(fromGrpcError(serviceError(status.NOT_FOUND, 'x', metadata)).code).toBe('NOT_FOUND')
  })

  test('makes a text of a peer printable and short', () => {
    const { message } = fromGrpcError(serviceError(status.UNKNOWN, `\u001b[2J${'x'.repeat(5_000)}`))
    expect(message.startsWith('?[2J')).toBe(true)
    expect(message).toHaveLength(1_024)
  })

  test('leaves our own errors as they are', () => {
    const own = new NsmError('USAGE', 'a', 'b')
    expect(fromGrpcError(own)).toBe(own)
  })
})

describe('toGrpcStatus and back', () => {
  test.each(Object.keys(errorTable).filter((code) => code !== 'BUG'))('%s stays', (code) => {
    if (!isCode(code)) throw new NsmError('BUG', 'the table has changed', '')
    const sent = toGrpcStatus(new NsmError(code, 'why', 'next'))
    const received = new Metadata()
    for (const [key, value] of Object.entries(sent.trailers)) received.set(key, value)
    expect(fromGrpcError(serviceError(sent.code, sent.details, received))).toMatchObject({ code, message: 'why' })
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
