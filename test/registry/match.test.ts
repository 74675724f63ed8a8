import { create, type MessageInitShape } from '@bufbuild/protobuf'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { isSubset, matchesEndpoint, matchesService, selectEndpoints } from '../../src/registry/match.ts'

const service = (init: MessageInitShape<typeof NetworkServiceSchema>) => create(NetworkServiceSchema, init)
const endpoint = (init: MessageInitShape<typeof NetworkServiceEndpointSchema>) =>
  create(NetworkServiceEndpointSchema, init)
const labelled = (name: string, labels: Record<string, string>) =>
  endpoint({ name, networkServiceNames: ['net'], networkServiceLabels: { net: { labels } } })

describe('a service query', () => {
  const held = service({ name: 'net', payload: 'IP', matches: [{ sourceSelector: { a: 'b' } }] })
  test.each([
    ['empty', {}, true],
    ['same name', { name: 'net' }, true],
    ['part of the name', { name: 'ne' }, false],
    ['same payload', { payload: 'IP' }, true],
    ['other payload', { payload: 'ETHERNET' }, false],
    ['equal matches', { matches: [{ sourceSelector: { a: 'b' } }] }, true],
    ['other matches', { matches: [{ sourceSelector: { a: 'c' } }] }, false],
  ])('%s: %#', (_what, query, expected) => {
    expect(matchesService(service(query), held)).toBe(expected)
  })
})

describe('an endpoint query', () => {
  const held = endpoint({
    name: 'nse-1',
    networkServiceNames: ['a', 'b'],
    networkServiceLabels: { a: { labels: { x: '1', y: '2' } } },
    url: 'tcp://10.0.0.1:5001',
    expirationTime: { seconds: 100n, nanos: 5 },
  })
  test.each([
    ['empty', {}, true],
    ['part of the name', { name: 'nse' }, false],
    ['one of its services', { networkServiceNames: ['b'] }, true],
    ['a service it has and one it has not', { networkServiceNames: ['a', 'c'] }, false],
    ['some of its labels', { networkServiceLabels: { a: { labels: { x: '1' } } } }, true],
    ['another value', { networkServiceLabels: { a: { labels: { x: '2' } } } }, false],
    ['labels of another service', { networkServiceLabels: { b: { labels: {} } } }, false],
    ['a part of the url', { url: '10.0.0.1' }, true],
    ['the same second', { expirationTime: { seconds: 100n, nanos: 0 } }, true],
    ['another second', { expirationTime: { seconds: 101n, nanos: 5 } }, false],
  ])('%s: %#', (_what, query, expected) => {
    expect(matchesEndpoint(endpoint(query), held)).toBe(expected)
  })
})

describe('selectEndpoints', () => {
  const red = labelled('red', { colour: 'red' })
  const blue = labelled('blue', { colour: 'blue' })
  const names = (labels: Record<string, string>, matches: MessageInitShape<typeof NetworkServiceSchema>['matches']) =>
    selectEndpoints(labels, service({ name: 'net', matches: matches ?? [] }), [red, blue]).map(({ name }) => name)
  const toRed = [{ destinationSelector: { colour: 'red' } }]
  test.each([
    ['no matches: all', {}, [], ['red', 'blue']],
    [
      'the first fitting match decides',
      { app: 'x' },
      [{ sourceSelector: { app: 'x' }, routes: toRed }, { routes: [{}] }],
      ['red'],
    ],
    [
      'a match that does not fit is skipped',
      {},
      [{ sourceSelector: { app: 'x' }, routes: toRed }, { routes: [{}] }],
      ['red', 'blue'],
    ],
    ['no match fits: none', {}, [{ sourceSelector: { app: 'x' }, routes: toRed }], []],
    ['nothing found: none', {}, [{ routes: [{ destinationSelector: { colour: 'green' } }] }, { routes: [{}] }], []],
    [
      'nothing found with fallthrough: the next',
      {},
      [{ fallthrough: true, routes: [{ destinationSelector: { colour: 'green' } }] }, { routes: toRed }],
      ['red'],
    ],
    ['metadata without routes: all', {}, [{ metadata: { labels: {} } }], ['red', 'blue']],
    ['neither routes nor metadata: none', {}, [{}], []],
    ['two routes that fit: twice', {}, [{ routes: [...toRed, ...toRed] }], ['red', 'red']],
    [
      'a template of the client labels',
      { want: 'blue' },
      [{ routes: [{ destinationSelector: { colour: '{{.want}}' } }] }],
      ['blue'],
    ],
  ])('%s', (_what, labels, matches, expected) => {
    expect(names(labels, matches)).toEqual(expected)
  })
})

describe('isSubset', () => {
  test.each([
    ['fewer given than wanted', { a: '1' }, { a: '1', b: '2' }, {}, false],
    ['nothing wanted', {}, {}, {}, true],
    ['blanks in a template', { a: 'n1' }, { a: '{{ .node }}' }, { node: 'n1' }, true],
    ['index form', { a: 'n1' }, { a: '{{ index . "node" }}' }, { node: 'n1' }, true],
    ['an absent key prints <no value>', { a: '<no value>' }, { a: '{{.node}}' }, {}, true],
    ['a template that does not parse stays as it is', { a: '{{.node' }, { a: '{{.node' }, { node: 'n1' }, true],
    ['an inherited property is not a label', { a: '1' }, { constructor: 'x' }, {}, false],
    ['text around a template', { a: 'x-n1-y' }, { a: 'x-{{.node}}-y' }, { node: 'n1' }, true],
  ])('%s: %#', (_what, given, wanted, values, expected) => {
    expect(isSubset(given, wanted, values)).toBe(expected)
  })

  test('every part of the given labels is a subset', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.string()), fc.func(fc.boolean()), (given, keep) => {
        const part = Object.fromEntries(Object.entries(given).filter(([key]) => keep(key)))
        expect(isSubset(given, part, {})).toBe(true)
      }),
    )
  })
})
