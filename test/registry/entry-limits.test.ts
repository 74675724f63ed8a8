import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { checkEndpointSize, checkServiceSize } from '../../src/registry/entry-limits.ts'

const endpoint = (change: MessageInitShape<typeof NetworkServiceEndpointSchema> = {}) =>
  create(NetworkServiceEndpointSchema, { name: 'a', networkServiceNames: ['blue'], url: 'tcp://10.0.0.1:1', ...change })
const service = (change: MessageInitShape<typeof NetworkServiceSchema> = {}) =>
  create(NetworkServiceSchema, { name: 'blue', ...change })
const labelsOf = (count: number, length = 1) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`l${i}`, 'x'.repeat(length)]))
const refusal = (text: string) => expect.objectContaining({ code: 'REFUSED', message: expect.stringContaining(text) })

describe('checkEndpointSize', () => {
  test.each<[string, MessageInitShape<typeof NetworkServiceEndpointSchema>]>([
    ['a name of 253 bytes', { name: 'x'.repeat(253) }],
    ['64 services', { networkServiceNames: Array.from({ length: 64 }, (_, i) => `s${i}`) }],
    ['a URL of 512 bytes', { url: 'x'.repeat(512) }],
    [
      '128 labels over two services',
      { networkServiceLabels: { a: { labels: labelsOf(64) }, b: { labels: labelsOf(64) } } },
    ],
  ])('lets pass %s', (_what, change) => {
    expect(() => checkEndpointSize(endpoint(change))).not.toThrow()
  })

  test.each<[string, MessageInitShape<typeof NetworkServiceEndpointSchema>, string]>([
    ['a name of 254 bytes', { name: 'x'.repeat(254) }, '254 bytes of a name'],
    ['a name of 127 letters of two bytes', { name: 'ä'.repeat(127) }, '254 bytes of a name'],
    ['a service name of 254 bytes', { networkServiceNames: ['x'.repeat(254)] }, '254 bytes of a name'],
    ['65 services', { networkServiceNames: Array.from({ length: 65 }, (_, i) => `s${i}`) }, '65 service names'],
    [
      '65 services that have labels',
      { networkServiceLabels: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`s${i}`, {}])) },
      '65 labelled services',
    ],
    ['a URL of 513 bytes', { url: 'x'.repeat(513) }, '513 bytes of a url'],
    [
      '129 labels over two services',
      { networkServiceLabels: { a: { labels: labelsOf(65) }, b: { labels: labelsOf(64) } } },
      '129 labels',
    ],
    ['few labels that are long', { networkServiceLabels: { a: { labels: labelsOf(4, 5_000) } } }, 'bytes of an entry'],
  ])('refuses %s, and names the limit', (_what, change, text) => {
    expect(() => checkEndpointSize(endpoint(change))).toThrow(refusal(text))
  })
})

describe('checkServiceSize', () => {
  test('bounds the name and the whole', () => {
    const routes = (count: number) =>
      Array.from({ length: count }, () => ({ destinationSelector: { app: 'x'.repeat(100) } }))
    expect(() => checkServiceSize(service({ name: 'x'.repeat(253), matches: [{ routes: routes(100) }] }))).not.toThrow()
    expect(() => checkServiceSize(service({ name: 'x'.repeat(254) }))).toThrow(refusal('254 bytes of a name'))
    expect(() => checkServiceSize(service({ matches: [{ routes: routes(200) }] }))).toThrow(
      refusal('bytes of an entry'),
    )
  })
})
